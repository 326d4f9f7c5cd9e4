// SPDX-License-Identifier: Apache-2.0
// FRACTAL_NZ, the NPU's weight storage (docs/operators.md, section 6): where elements stand.
#pragma once

#include <cstdint>

#include "qgmm/packed_weight.h"
#include "qgmm/types.h"

namespace qgmm {

/// Axis `outer` is cut into blocks of c0 that come first, `inner` into blocks of 16:
/// storage [ceil(outer / c0), ceil(inner / 16), 16, c0]; outer is n and inner k, or the other way round if transposed.
struct FractalNzBlocks {
  static constexpr int64_t kRows = 16;

  int64_t c0, outer_blocks, inner_blocks;
  bool transposed;

  explicit FractalNzBlocks(const FractalNzArgs& args) : c0(args.c0), transposed(args.transposed) {
    if (c0 == 0) c0 = args.dtype == DType::kInt4 ? 64 : Bytes(args.dtype) == 1 ? 32 : 16;
    const int64_t outer = transposed ? args.k : args.n, inner = transposed ? args.n : args.k;
    outer_blocks = (outer + c0 - 1) / c0;
    inner_blocks = (inner + kRows - 1) / kRows;
  }
  int64_t elements() const { return outer_blocks * inner_blocks * kRows * c0; }
};

}  // namespace qgmm
