// SPDX-License-Identifier: Apache-2.0
// Companions: what stands between the grouped products of a Mixture-of-Experts layer.
#pragma once

#include "qgmm/context.h"
#include "qgmm/types.h"

namespace qgmm {

/// Per-token quantisation: v = f(x);  v = v * f(smooth);  y, scale = QuantizeRow(v).
/// The same bits on every backend, ISA and thread count.
struct DynamicQuantArgs {
  TensorView x;              // float16, bfloat16 or float32 [..., h], two dimensions or more (rank <= 8)
  TensorView smooth_scales;  // optional [h], or [g, h] with group_index: x's dtype or float32
  TensorView group_index;    // optional int32 or int64 [g]: cumulative ends, the last is the number of rows
  DType dst_type = DType::kInt8;  // kInt8, kInt4, kFloat8E4M3, kFloat8E5M2
  TensorView y;              // out: dst_type [..., h]; for kInt4 int32 [..., h / 8]; contiguous
  TensorView scale;          // out: float32 [...]; contiguous
};
QGMM_EXPORT void DynamicQuant(const DynamicQuantArgs& args, Context& context);

}  // namespace qgmm
