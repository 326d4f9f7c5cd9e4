// SPDX-License-Identifier: Apache-2.0
// dynamic_quant from torch.
#include "call.h"
#include "kernels.h"
#include "qgmm/moe.h"

namespace qgmm::door {

std::tuple<Tensor, Tensor> DynamicQuant(const Tensor& x, const MaybeTensor& smooth_scales,
                                        const MaybeTensor& group_index, int64_t dst_type) {
  DynamicQuantArgs args;
  args.x = ViewOf(x);
  args.smooth_scales = ViewOf(smooth_scales);
  args.group_index = ViewOf(group_index);
  args.dst_type = DTypeOfNumber(dst_type);
  std::vector<int64_t> y_sizes = {0}, scale_sizes = {};
  if (args.x.rank >= 2 && args.x.rank <= TensorView::kMaxRank) {
    y_sizes.assign(args.x.sizes, args.x.sizes + args.x.rank);
    scale_sizes.assign(y_sizes.begin(), y_sizes.end() - 1);
    if (args.dst_type == DType::kInt4) y_sizes.back() /= 8;
  }
  const ScalarType type = args.dst_type == DType::kInt4 ? ScalarType::Int : ScalarTypeOf(args.dst_type);
  Tensor y = Empty(x, y_sizes, type);
  Tensor scale = Empty(x, scale_sizes, ScalarType::Float);
  args.y = ViewOf(y);
  args.scale = ViewOf(scale);
  qgmm::DynamicQuant(args, ThisThread());
  return {y, scale};
}

}  // namespace qgmm::door
