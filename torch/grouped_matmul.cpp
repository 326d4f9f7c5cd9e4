// SPDX-License-Identifier: Apache-2.0
// grouped_matmul (the down projection) from torch.
#include <utility>

#include "call.h"
#include "kernels.h"

namespace qgmm::door {
namespace {

// The core's arguments and what they borrow from.
struct Call {
  Views weight, weight_scale, assist;
  GroupedMatmulArgs args;
  std::vector<int64_t> y_sizes;
  ScalarType y_type = ScalarType::BFloat16;

  Call(const Tensor& x, WeightArgument weights, Views weight_scales, const Tensor& group_list,
       const MaybeTensor& x_scale, const MaybeTensor& bias, Views weight_assist_matrix, int64_t dequant_mode,
       int64_t group_list_type, int64_t act_type, MaybeType out_dtype, int64_t spelling)
      : weight(std::move(weights.plain)), weight_scale(std::move(weight_scales)), assist(std::move(weight_assist_matrix)) {
    args.spelling = SpellingOf(spelling);
    args.x = ViewOf(x);
    args.packed = weights.packed;
    args.weight = weight.list();
    args.weight_scale = weight_scale.list();
    args.group_list = ViewOf(group_list);
    args.x_scale = ViewOf(x_scale);
    args.bias = ViewOf(bias);
    args.weight_assist_matrix = assist.list();
    args.dequant_mode = dequant_mode;
    args.group_list_type = group_list_type;
    args.act_type = act_type;
    y_type = out_dtype.value_or(ScalarType::BFloat16);
    args.out_dtype = DTypeOf(y_type);
    y_sizes = {SizeIf(args.x, 2, 0), ClaimedWidth()};
    args.y = ClaimedView(y_sizes, y_type);
  }
  Call(const Call&) = delete;  // args point into it
  Call& operator=(const Call&) = delete;

  Call(const Tensor& x, const Tensors& weights, const MaybeTensors& weight_scales, const Tensor& group_list,
       const MaybeTensor& x_scale, const MaybeTensor& bias, const MaybeTensors& weight_assist_matrix,
       int64_t dequant_mode, int64_t group_list_type, int64_t act_type, MaybeType out_dtype, const MaybeInts& packed,
       int64_t spelling)
      : Call(x, WeightOf("grouped_matmul", spelling, weights, packed), Views(weight_scales),
             group_list, x_scale, bias, Views(weight_assist_matrix), dequant_mode, group_list_type, act_type, out_dtype,
             spelling) {}

  // The scales know n also where the weights hold eight int4 per element; int32 output comes without scales.
  int64_t ClaimedWidth() const {
    int64_t n = args.packed.given() ? args.packed.n : weight_scale.LastSize();
    if (n == 0 && !args.packed.given() && args.weight.size > 0) {
      const bool int4 = args.weight.data[0].dtype == DType::kInt32;
      n = weight.LastSize();
      if (int4) n = n < (int64_t{1} << 58) ? n * 8 : 0;
    }
    return n > 0 ? n : 0;
  }
};

}  // namespace

Tensor GroupedMatmul(const Tensor& x, const Tensors& weight, const MaybeTensors& weight_scale,
                     const Tensor& group_list, const MaybeTensor& x_scale, const MaybeTensor& bias,
                     const MaybeTensors& weight_assist_matrix, int64_t dequant_mode, int64_t group_list_type,
                     int64_t act_type, MaybeType out_dtype, const MaybeInts& packed, int64_t spelling) {
  Call call(x, weight, weight_scale, group_list, x_scale, bias, weight_assist_matrix, dequant_mode, group_list_type,
            act_type, out_dtype, packed, spelling);
  return OneResult(x, call, &qgmm::GroupedMatmul);
}

Tensor PackedGroupedMatmul(const Tensor& x, const Tensor& data, const Tensor& group_list,
                           const MaybeTensor& weight_scale, const MaybeTensor& x_scale, int64_t group_list_type,
                           int64_t dequant_mode, int64_t act_type, const MaybeTensor& bias,
                           const MaybeTensor& weight_assist_matrix, MaybeType out_dtype) {
  Call call(x, WeightArgument{PackedIn(data), {}}, Views(weight_scale), group_list, x_scale, bias, Views(weight_assist_matrix),
            dequant_mode, group_list_type, act_type, out_dtype, 0);
  return OneResult(x, call, &qgmm::GroupedMatmul);
}

std::string ExplainGroupedMatmul(const Tensor& x, const Tensors& weight, const MaybeTensors& weight_scale,
                                 const Tensor& group_list, const MaybeTensor& x_scale, const MaybeTensor& bias,
                                 const MaybeTensors& weight_assist_matrix, int64_t dequant_mode,
                                 int64_t group_list_type, int64_t act_type, MaybeType out_dtype,
                                 const MaybeInts& packed, int64_t spelling) {
  Call call(x, weight, weight_scale, group_list, x_scale, bias, weight_assist_matrix, dequant_mode, group_list_type,
            act_type, out_dtype, packed, spelling);
  return Explain(call.args, ThisThread());
}

}  // namespace qgmm::door
