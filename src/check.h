// SPDX-License-Identifier: Apache-2.0
// Argument structs -> Problem, or InvalidArgument: the only place that throws it.
// Order of checks: types and lists, options, dtypes, ranks, shapes, devices, group_list values; the first failure is
// the one reported, in the name and argument names of the caller's spelling.
#pragma once

#include <string>

#include "problem.h"
#include "qgmm/moe.h"
#include "qgmm/ops.h"

namespace qgmm {

Problem Checked(const SwigluQuantArgs& args);
Problem Checked(const WeightQuantArgs& args);
Problem Checked(const GroupedMatmulArgs& args);

/// pack_weight: weights of any accepted form -> plain Weights (paired = swiglu).
Weights Checked(const PackArgs& args);
void CheckCertify(const PackedWeight& weight, Certification certify, double max_residuals);

/// dynamic_quant, ready to run.
struct DynamicQuantProblem {
  Matrix x;              // [rows, h]; row_stride holds only within the last but one axis, see x_view
  TensorView x_view;     // [..., h]: the leading axes may have any strides
  Columns smooth;        // [g, h]
  std::vector<RowRange> rows;  // rows per smooth row; one range when there is no group_index
  DType dst_type = DType::kInt8;
  int64_t row_count = 0, h = 0;
  void* y = nullptr;     // contiguous
  float* scale = nullptr;
};
DynamicQuantProblem Checked(const DynamicQuantArgs& args);

void CheckFractalNz(const FractalNzArgs& args, bool to_nz);
void CheckFractalNzSizes(const FractalNzArgs& args);  // dtype, k, n and c0 alone

/// A bad environment variable or Context field: `[qgmm] QGMM_MAX_ISA must be what this machine has (scalar, avx2); got avx9`.
[[noreturn]] void RefuseSetting(const std::string& sentence);

}  // namespace qgmm
