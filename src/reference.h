// SPDX-License-Identifier: Apache-2.0
// The specification as code: scalar, single-threaded, formulas in the order of qgmm/ops.h. It judges every kernel.
#pragma once

#include "check.h"
#include "problem.h"

namespace qgmm::reference {

/// Writes every element of y (and y_scale). Shares problem.h, numeric.h and float_mode.h with what it judges, nothing
/// else. Each weight column is gathered once per expert, so a call costs about m * k * n scalar multiply-adds.
void Run(const Problem& problem);

void Run(const DynamicQuantProblem& problem);

/// docs/operators.md, section 2.
float Exp(float t);
float Silu(float v);
float Activate(Activation activation, float z);

/// docs/operators.md, section 1.6: q[0 .. h) (int8, one value per byte also for kInt4; fp8 codes) and the scale.
float QuantizeRow(const float* v, int64_t h, DType dtype, uint8_t* q);

}  // namespace qgmm::reference
