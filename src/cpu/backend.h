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

struct Topology;  // numa.h

/// `residual_capacity`: of certify.h; 0: no certificates.
int64_t PackedBytes(const Weights& weights, int64_t residual_capacity);
PackedWeight Pack(const Weights& weights, int64_t residual_capacity, uint8_t* out, Context& context);
PackedWeight Pack(const Weights& weights, int64_t residual_capacity, uint8_t* out, Context& context,
                  const Topology& topology);
int64_t CertifiedBytes(const PackedWeight& weight, int64_t residual_capacity);
PackedWeight Certify(const PackedWeight& weight, int64_t residual_capacity, uint8_t* out, Context& context);
PackedWeight Certify(const PackedWeight& weight, int64_t residual_capacity, uint8_t* out, Context& context,
                     const Topology& topology);
void Unpack(const PackedWeight& weight, void* plain, Context& context);

/// Places in a panel's residual list: of checked arguments (kYes wants int8). 0: no certificates.
int64_t ResidualCapacity(DType dtype, int64_t k, Certification certify, double max_residuals);

/// Every element, between plain [e, k, n] and the storage, whose padding becomes zero; args are checked.
void ConvertFractalNz(FractalNzArgs args, bool to_nz, Context& context);

void Run(const Problem& problem, Context& context);
void Run(const Problem& problem, Context& context, const Topology& topology);
void Run(const DynamicQuantProblem& problem, Context& context);
std::string Explain(const Problem& problem, Context& context);  // JSON
std::string MachineReport(Context& context);                    // JSON

}  // namespace qgmm::cpu
