// SPDX-License-Identifier: Apache-2.0
// grouped_matmul_swiglu_quant from torch.
#include <new>
#include <utility>

#include "call.h"
#include "kernels.h"

namespace qgmm::door {
namespace {

// The core's arguments and what they borrow from.
struct Call {
  Views weight, weight_scale, assist;
  SwigluQuantArgs args;
  std::vector<int64_t> y_sizes, scale_sizes;
  ScalarType y_type = ScalarType::Char;

  Call(const Tensor& x, WeightArgument weights, Views weight_scales, const Tensor& x_scale,
       const Tensor& group_list, const MaybeTensor& smooth_scale, Views weight_assist_matrix, const MaybeTensor& bias,
       int64_t dequant_mode, MaybeType quant_dtype, int64_t group_list_type, double swiglu_limit,
       const MaybeInts& tuning_config, int64_t spelling)
      : weight(std::move(weights.plain)), weight_scale(std::move(weight_scales)), assist(std::move(weight_assist_matrix)) {
    args.spelling = SpellingOf(spelling);
    args.x = ViewOf(x);
    args.packed = weights.packed;
    args.weight = weight.list();
    args.weight_scale = weight_scale.list();
    args.x_scale = ViewOf(x_scale);
    args.group_list = ViewOf(group_list);
    args.smooth_scale = ViewOf(smooth_scale);
    args.weight_assist_matrix = assist.list();
    args.bias = ViewOf(bias);
    args.dequant_mode = dequant_mode;
    y_type = quant_dtype.value_or(ScalarType::Char);
    args.quant_dtype = DTypeOf(y_type);
    args.group_list_type = group_list_type;
    args.swiglu_limit = swiglu_limit;
    if (tuning_config) {
      args.tuning_config = tuning_config->data();
      args.tuning_config_size = static_cast<int64_t>(tuning_config->size());
    }
    const int64_t m = SizeIf(args.x, 2, 0);
    const int64_t n = args.packed.given() ? args.packed.n : weight_scale.LastSize();
    y_sizes = {m, n > 0 ? n / 2 : 0};
    scale_sizes = {m};
    args.y = ClaimedView(y_sizes, y_type);
    args.y_scale = ClaimedView(scale_sizes, ScalarType::Float);
  }
  Call(const Call&) = delete;  // args point into it
  Call& operator=(const Call&) = delete;

  Call(const Tensor& x, const Tensors& weights, const Tensors& weight_scales, const Tensor& x_scale,
       const Tensor& group_list, const MaybeTensor& smooth_scale, const MaybeTensors& weight_assist_matrix,
       const MaybeTensor& bias, int64_t dequant_mode, MaybeType quant_dtype, int64_t group_list_type,
       double swiglu_limit, const MaybeInts& tuning_config, const MaybeInts& packed, int64_t spelling)
      : Call(x, WeightOf("grouped_matmul_swiglu_quant", spelling, weights, packed),
             Views(weight_scales), x_scale, group_list, smooth_scale, Views(weight_assist_matrix), bias, dequant_mode,
             quant_dtype, group_list_type, swiglu_limit, tuning_config, spelling) {}
};

std::tuple<Tensor, Tensor> Run(const Tensor& x, Call& call) {
  std::optional<Tensor> y = TryEmpty(x, call.y_sizes, call.y_type);
  std::optional<Tensor> y_scale = TryEmpty(x, call.scale_sizes, ScalarType::Float);
  if (!y || !y_scale) {
    Explain(call.args, ThisThread());  // a wrong argument is the better answer than too little memory
    throw std::bad_alloc();
  }
  call.args.y.data = y->mutable_data_ptr();
  call.args.y_scale.data = y_scale->mutable_data_ptr();
  qgmm::GroupedMatmulSwigluQuant(call.args, ThisThread());
  return {std::move(*y), std::move(*y_scale)};
}

}  // namespace

std::tuple<Tensor, Tensor> GroupedMatmulSwigluQuant(
    const Tensor& x, const Tensors& weight, const Tensors& weight_scale, const Tensor& x_scale,
    const Tensor& group_list, const MaybeTensor& smooth_scale, const MaybeTensors& weight_assist_matrix,
    const MaybeTensor& bias, int64_t dequant_mode, MaybeType quant_dtype, int64_t group_list_type,
    double swiglu_limit, const MaybeInts& tuning_config, const MaybeInts& packed, int64_t spelling) {
  Call call(x, weight, weight_scale, x_scale, group_list, smooth_scale, weight_assist_matrix, bias, dequant_mode,
            quant_dtype, group_list_type, swiglu_limit, tuning_config, packed, spelling);
  return Run(x, call);
}

std::tuple<Tensor, Tensor> PackedSwigluQuant(const Tensor& x, const Tensor& data, const Tensor& weight_scale,
                                             const Tensor& x_scale, const Tensor& group_list, int64_t spelling,
                                             int64_t group_list_type, int64_t dequant_mode,
                                             const MaybeTensor& smooth_scale, const MaybeTensor& weight_assist_matrix,
                                             const MaybeTensor& bias, double swiglu_limit) {
  Call call(x, WeightArgument{PackedIn(data), {}}, Views(weight_scale), x_scale, group_list, smooth_scale,
            Views(weight_assist_matrix), bias, dequant_mode, {}, group_list_type, swiglu_limit, {}, spelling);
  return Run(x, call);
}

std::string ExplainGroupedMatmulSwigluQuant(
    const Tensor& x, const Tensors& weight, const Tensors& weight_scale, const Tensor& x_scale,
    const Tensor& group_list, const MaybeTensor& smooth_scale, const MaybeTensors& weight_assist_matrix,
    const MaybeTensor& bias, int64_t dequant_mode, MaybeType quant_dtype, int64_t group_list_type,
    double swiglu_limit, const MaybeInts& tuning_config, const MaybeInts& packed, int64_t spelling) {
  Call call(x, weight, weight_scale, x_scale, group_list, smooth_scale, weight_assist_matrix, bias, dequant_mode,
            quant_dtype, group_list_type, swiglu_limit, tuning_config, packed, spelling);
  return Explain(call.args, ThisThread());
}

}  // namespace qgmm::door
