// SPDX-License-Identifier: Apache-2.0
// weight_quant_grouped_matmul from torch.
#include <new>

#include "call.h"
#include "kernels.h"

namespace qgmm::door {
namespace {

// The core's arguments and what they borrow from.
struct Call {
  TensorView weight;
  WeightQuantArgs args;
  std::vector<int64_t> y_sizes;
  ScalarType y_type = ScalarType::Half;

  Call(const Tensor& x, const Tensor& weight_tensor, const Tensor& scale, const MaybeTensor& offset,
       const MaybeTensor& bias, const MaybeTensor& group_list, int64_t group_list_type, int64_t act_type,
       int64_t precision, const MaybeInts& packed, int64_t spelling)
      : weight(ViewOf(weight_tensor)) {
    args.spelling = SpellingOf(spelling);
    args.x = ViewOf(x);
    if (packed) {
      args.packed = PackedOf(CalledName("weight_quant_grouped_matmul", args.spelling), weight_tensor, *packed);
    } else {
      args.weight = TensorList(&weight, 1);
    }
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
};

}  // namespace

Tensor WeightQuantGroupedMatmul(const Tensor& x, const Tensor& weight, const Tensor& scale, const MaybeTensor& offset,
                                const MaybeTensor& bias, const MaybeTensor& group_list, int64_t group_list_type,
                                int64_t act_type, int64_t precision, const MaybeInts& packed, int64_t spelling) {
  Call call(x, weight, scale, offset, bias, group_list, group_list_type, act_type, precision, packed, spelling);
  std::optional<Tensor> y = TryEmpty(x, call.y_sizes, call.y_type);
  if (!y) {
    Explain(call.args, ThisThread());  // a wrong argument is the better answer than too little memory
    throw std::bad_alloc();
  }
  call.args.y = ViewOf(*y);
  qgmm::WeightQuantGroupedMatmul(call.args, ThisThread());
  return *y;
}

std::string ExplainWeightQuantGroupedMatmul(const Tensor& x, const Tensor& weight, const Tensor& scale,
                                            const MaybeTensor& offset, const MaybeTensor& bias,
                                            const MaybeTensor& group_list, int64_t group_list_type, int64_t act_type,
                                            int64_t precision, const MaybeInts& packed, int64_t spelling) {
  Call call(x, weight, scale, offset, bias, group_list, group_list_type, act_type, precision, packed, spelling);
  return Explain(call.args, ThisThread());
}

}  // namespace qgmm::door
