// SPDX-License-Identifier: Apache-2.0
// The CPU wing's door: pack, plan, run.
#pragma once

#include <cstdint>
#include <string>

#include "check.h"
#include "problem.h"
#include "qgmm/context.h"
#include "qgmm/packed_weight.h"

namespace qgmm::cpu {

int64_t PackedBytes(const Weights& weights);
PackedWeight Pack(const Weights& weights, uint8_t* out, Context& context);

void Run(const Problem& problem, Context& context);
void Run(const DynamicQuantProblem& problem, Context& context);
std::string Explain(const Problem& problem, Context& context);  // JSON
std::string MachineReport(Context& context);                    // JSON

}  // namespace qgmm::cpu
