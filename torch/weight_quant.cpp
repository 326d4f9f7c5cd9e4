// SPDX-License-Identifier: Apache-2.0
// weight_quant_grouped_matmul from torch.
#include <utility>

#include "call.h"
#include "kernels.h"

namespace qgmm::door {
namespace {

// The core's arguments and what they borrow from.
struct Call {
  Views weight;
  WeightQuantArgs args;
  std::vector<int64_t> y_sizes;
  ScalarType y_type = ScalarType::Half;

  Call(const Tensor& x, WeightArgument weights, const Tensor& scale, const MaybeTensor& offset,
       const MaybeTensor& bias, const MaybeTensor& group_list, int64_t group_list_type, int64_t act_type,
       int64_t precision, int64_t spelling)
      : weight(std::move(weights.plain)) {
    args.spelling = SpellingOf(spelling);
    args.x = ViewOf(x);
    args.packed = weights.packed;
    args.weight = weight.list();
    args.scale = ViewOf(scale);
    args.offset = ViewOf(offset);
    args.bias = ViewOf(bias);
    args.group_list = ViewOf(group_list);
    args.group_list_type = group_list_type;
    args.act_type = act_type;
    args.precision = static_cast<Precision>(precision);
    const int64_t n = args.packed.given() ? args.packed.n : SizeIf(args.scale, 2, 1);
    y_sizes = {SizeIf(args.x, 2, 0), n > 0 ? n : 0};
    y_type = ScalarTypeOf(args.x.dtype);
    args.y = ClaimedView(y_sizes, y_type);
  }
  Call(const Call&) = delete;  // args point into it
  Call& operator=(const Call&) = delete;

  Call(const Tensor& x, const Tensor& weight_tensor, const Tensor& scale, const MaybeTensor& offset,
       const MaybeTensor& bias, const MaybeTensor& group_list, int64_t group_list_type, int64_t act_type,
       int64_t precision, const MaybeInts& packed, int64_t spelling)
      : Call(x, WeightOf("weight_quant_grouped_matmul", spelling, {weight_tensor}, packed), scale, offset, bias,
             group_list, group_list_type, act_type, precision, spelling) {}
};

}  // namespace

Tensor WeightQuantGroupedMatmul(const Tensor& x, const Tensor& weight, const Tensor& scale, const MaybeTensor& offset,
                                const MaybeTensor& bias, const MaybeTensor& group_list, int64_t group_list_type,
                                int64_t act_type, int64_t precision, const MaybeInts& packed, int64_t spelling) {
  Call call(x, weight, scale, offset, bias, group_list, group_list_type, act_type, precision, packed, spelling);
  return OneResult(x, call, &qgmm::WeightQuantGroupedMatmul);
}

Tensor PackedWeightQuant(const Tensor& x, const Tensor& data, const Tensor& scale, const MaybeTensor& group_list,
                         int64_t spelling, int64_t group_list_type, int64_t act_type, int64_t precision,
                         const MaybeTensor& offset, const MaybeTensor& bias) {
  Call call(x, WeightArgument{PackedIn(data), {}}, scale, offset, bias, group_list, group_list_type, act_type,
            precision, spelling);
  return OneResult(x, call, &qgmm::WeightQuantGroupedMatmul);
}

std::string ExplainWeightQuantGroupedMatmul(const Tensor& x, const Tensor& weight, const Tensor& scale,
                                            const MaybeTensor& offset, const MaybeTensor& bias,
                                            const MaybeTensor& group_list, int64_t group_list_type, int64_t act_type,
                                            int64_t precision, const MaybeInts& packed, int64_t spelling) {
  Call call(x, weight, scale, offset, bias, group_list, group_list_type, act_type, precision, packed, spelling);
  return Explain(call.args, ThisThread());
}

}  // namespace qgmm::door
