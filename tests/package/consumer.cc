// SPDX-License-Identifier: Apache-2.0
// A program outside the tree: one expert, one token, W = [[2, 3], [4, 5]], through the installed headers and library.
#include <qgmm/ops.h>

#include <cstdint>

int main() {
  const int8_t x[2] = {1, -1}, w[4] = {2, 3, 4, 5};
  const int64_t counts[1] = {1};
  int32_t y[2] = {};
  const qgmm::TensorView weight = qgmm::View(w, qgmm::DType::kInt8, {1, 2, 2});
  qgmm::GroupedMatmulArgs args;
  args.x = qgmm::View(x, qgmm::DType::kInt8, {1, 2});
  args.weight = weight;
  args.group_list = qgmm::View(counts, qgmm::DType::kInt64, {1});
  args.group_list_type = 1;
  args.out_dtype = qgmm::DType::kInt32;
  args.y = qgmm::View(y, qgmm::DType::kInt32, {1, 2});
  qgmm::Context context;
  qgmm::GroupedMatmul(args, context);
  return y[0] == -2 && y[1] == -2 ? 0 : 1;
}
