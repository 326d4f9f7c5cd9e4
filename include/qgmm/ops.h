// SPDX-License-Identifier: Apache-2.0
// The operators. m rows (tokens), k inner size, n columns, e experts, h = n / 2, G scales per column; a group is the
// run of rows of one expert, a slice the k / G elements that share one scale. All tensors may have any strides.
// Formulas follow docs/operators.md, which is the contract; every arithmetic sign is one fp32 operation, in that order.
//
// ```cpp
// #include <qgmm/ops.h>
//
// #include <vector>
//
// int main() {
//   using qgmm::View, qgmm::DType;
//   const int64_t m = 3, k = 64, n = 32, e = 2;
//   std::vector<int8_t> x(m * k, 1), w(e * k * n, 2), y(m * n / 2);
//   std::vector<float> w_scale(e * n, 0.01f), x_scale(m, 0.5f), y_scale(m);
//   const std::vector<int64_t> ends = {1, 3};  // row 0 goes to expert 0, rows 1 and 2 to expert 1
//
//   const qgmm::TensorView weight = View(w.data(), DType::kInt8, {e, k, n});
//   const qgmm::TensorView weight_scale = View(w_scale.data(), DType::kFloat32, {e, n});
//   qgmm::SwigluQuantArgs args;
//   args.x = View(x.data(), DType::kInt8, {m, k});
//   args.weight = weight;
//   args.weight_scale = weight_scale;
//   args.x_scale = View(x_scale.data(), DType::kFloat32, {m});
//   args.group_list = View(ends.data(), DType::kInt64, {e});
//   args.y = View(y.data(), DType::kInt8, {m, n / 2});
//   args.y_scale = View(y_scale.data(), DType::kFloat32, {m});
//   qgmm::Context context;
//   qgmm::GroupedMatmulSwigluQuant(args, context);  // all columns of a row are equal here: each becomes 127
//   return y[0] == 127 && y_scale[0] > 0 ? 0 : 1;
// }
// ```
#pragma once

#include <cstdint>
#include <string>

#include "qgmm/context.h"
#include "qgmm/packed_weight.h"
#include "qgmm/types.h"

namespace qgmm {

/// Whose names and habits a call uses in its sentences. The vendor spellings also clamp a group list that ends past m
/// (and tell Context::warn); the native ones refuse it.
enum class Spelling : int {
  kNative = 0,
  kVendorSwigluQuantV1 = 1,     // npu_grouped_matmul_swiglu_quant
  kVendorSwigluQuantV2 = 2,     // npu_grouped_matmul_swiglu_quant_v2
  kVendorWeightQuantGmm = 3,    // npu_weight_quant_gmm
  kVendorWeightQuantGmmV2 = 4,  // npu_weight_quant_gmm_v2
};

/// Operator A: int8 tokens x int8 or int4 experts, dequantised, SwiGLU, requantised per token.
///   a = sum over k of x[i,k] * w[e,k,j]   (exact int32)      t = f(a + bias) * weight_scale[e,j]
///   G > 1: t = fma(f(a_p), weight_scale[e,p,j], t) over the slices p, ascending from t = +0
///   assist: t = t - d[e,j];  t = t + assist[e,j]             d: the t, without bias, of a row whose x are all 8
///   c = t * x_scale[i];  limit;  s[j] = Silu(c[j]) * c[j + h];  s = s * smooth;  y, y_scale = QuantizeRow(s)
/// Rows in no group become zeros. The same bits on every backend, ISA and thread count.
struct SwigluQuantArgs {
  TensorView x;                     // int8 [m, k], 1 <= k <= 131071
  TensorList weight;                // int8 [e, k, n] (or e of [k, n]), or int32 [.., n / 8]: packed int4, low nibble first
  PackedWeight packed;              // instead of weight, made with swiglu = true
  TensorList weight_scale;          // [e, n] or [e, G, n] (or e of [n] / [G, n]): float32, float16, bfloat16; int64
                                    // carrying float32 bits for int4 weights
  TensorView x_scale;               // float32 [m]
  TensorView group_list;            // int64 or int32, 1 to e entries
  TensorView smooth_scale;          // optional float32 [e] or [e, h]
  TensorList weight_assist_matrix;  // optional float32 [e, n] (or e of [n])
  TensorView bias;                  // optional int32 [e, n]; per-channel scales only
  int64_t dequant_mode = 0;         // 0: scales [e, n]; 1: scales [e, G, n]
  DType quant_dtype = DType::kInt8;  // kInt8, kFloat8E4M3, kFloat8E5M2
  int64_t group_list_type = 0;      // 0: cumulative ends, 1: counts
  double swiglu_limit = 0;          // > 0: gate <= L, -L <= up <= L
  const int64_t* tuning_config = nullptr;  // optional hint: [0] = rows per expert to plan for; never changes a bit
  int64_t tuning_config_size = 0;
  Spelling spelling = Spelling::kNative;
  TensorView y;        // out: quant_dtype [m, h]
  TensorView y_scale;  // out: float32 [m]
};
QGMM_EXPORT void GroupedMatmulSwigluQuant(const SwigluQuantArgs& args, Context& context);

/// Which arithmetic operator B may use. kStrict: fp32. kFast: for 16-bit x, int16 with a power of two per row and 512 k,
/// outliers apart, about twice as fast; docs/operators.md, section 8.2, has the formula and its bound. kDefault: that for
/// bfloat16 x, where its error is small beside the rounding of y; strict for the others.
enum class Precision : int { kDefault = 0, kStrict = 1, kFast = 2 };

/// Operator B: 16-bit or fp32 tokens x int8 experts.
///   P = sum over k of f(x[i,k]) * f(w[e,k,j]) in fp32, k ascending, or in fixed point (Precision)
///   X = sum over k of f(x[i,k]) in fp64, rounded once, if offset is given
///   t = offset ? fma(offset[e,j], X, P) : P;   z = bias ? fma(scale[e,j], t, bias[e,j]) : scale[e,j] * t
///   y[i,j] = act(z), narrowed once to x's dtype. Rows in no group become zeros.
struct WeightQuantArgs {
  TensorView x;           // float16, bfloat16 or float32 [m, k]
  TensorList weight;      // one int8 [e, k, n]
  PackedWeight packed;    // instead of weight, made with swiglu = false
  bool weight_is_list = false;  // the caller passed a list: refused by name
  TensorView scale;       // x's dtype or float32 [e, n]
  TensorView offset;      // optional, as scale
  TensorView bias;        // optional: float16, bfloat16 (x's dtype) or float32 [e, n]
  TensorView group_list;  // int64 or int32, 1 to e entries; may be absent if e == 1
  int64_t group_list_type = 0;
  int64_t act_type = 0;   // 0 none, 1 relu, 2 gelu_tanh, 4 fast_gelu, 5 silu
  Precision precision = Precision::kDefault;
  Spelling spelling = Spelling::kNative;
  TensorView y;           // out: x's dtype [m, n]
};
QGMM_EXPORT void WeightQuantGroupedMatmul(const WeightQuantArgs& args, Context& context);

/// The down projection: int8 tokens x int8 or int4 experts, dequantised.
///   t as in operator A;  z = x_scale ? t * x_scale[i] : t;  float bias: z = z + bias[e,j];  y = act(z) narrowed once
///   out kInt32: y = a (+ int32 bias), without scales.  The same bits on every backend, ISA and thread count.
struct GroupedMatmulArgs {
  TensorView x;                     // int8 [m, k]
  TensorList weight;                // as in SwigluQuantArgs
  PackedWeight packed;              // instead of weight, made with swiglu = false
  TensorList weight_scale;          // as in SwigluQuantArgs; absent for kInt32
  TensorView group_list;
  TensorView x_scale;               // optional float32 [m]
  TensorView bias;                  // optional int32 (per-channel scales only), float16, bfloat16 or float32 [e, n]
  TensorList weight_assist_matrix;  // optional float32 [e, n]
  int64_t dequant_mode = 0;
  int64_t group_list_type = 0;
  int64_t act_type = 0;
  DType out_dtype = DType::kBFloat16;  // float16, bfloat16, float32 or int32
  Spelling spelling = Spelling::kNative;
  TensorView y;                     // out: out_dtype [m, n]
};
QGMM_EXPORT void GroupedMatmul(const GroupedMatmulArgs& args, Context& context);

/// What the call would do, as one JSON object, without doing it: operation, sizes, isa, kernels, blocks, tasks,
/// workers, workspace bytes, packing, and notes in words. Checks the arguments as the call does.
QGMM_EXPORT std::string Explain(const SwigluQuantArgs& args, Context& context);
QGMM_EXPORT std::string Explain(const WeightQuantArgs& args, Context& context);
QGMM_EXPORT std::string Explain(const GroupedMatmulArgs& args, Context& context);

/// The machine as qgmm sees it, as one JSON object: version, compiler, isa features found, isa chosen and why, team,
/// workers and why, cache sizes, kernel table rows that can run here.
QGMM_EXPORT std::string MachineReport(Context& context);

QGMM_EXPORT const char* Version();

}  // namespace qgmm
