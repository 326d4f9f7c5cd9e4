// SPDX-License-Identifier: Apache-2.0
// Problems for plans.
#pragma once

#include <cstdint>
#include <vector>

#include "packed_format.h"
#include "problem.h"

namespace qgmm {

inline constexpr uint8_t kByte[kHeaderBytes] = {};  // a header of zeros: no certificates

/// A problem without tensors: plans never look at values.
struct Draft {
  std::vector<int64_t> counts = {1};
  int64_t k = 64, n = 64, slices = 1, tail = 0;
  Finish finish = Finish::kSwigluQuant;
  Product product = Product::kInt8;
  bool packed = true, assist = false;
  int64_t expected_rows = 0;

  Problem Make() const {
    Problem p;
    p.e = static_cast<int64_t>(counts.size());
    for (int64_t i = 0; i < p.e; ++i) {
      const int64_t count = counts[static_cast<size_t>(i)];
      if (count > 0) p.rows.push_back({i, p.m, p.m + count});
      p.m += count;
    }
    p.m += tail;
    p.k = k, p.n = n, p.slice = k / slices, p.product = product, p.expected_rows = expected_rows;
    if (product == Product::kFixed16) p.slice = kFixedSlice;
    p.w.e = p.e, p.w.k = k, p.w.n = n;
    p.w.dtype = product == Product::kInt4 ? DType::kInt4 : DType::kInt8;
    p.w.paired = finish == Finish::kSwigluQuant;
    if (packed) p.w.packed.data = kByte;
    p.epilogue.finish = finish;
    if (assist) p.epilogue.assist.data = kByte;
    return p;
  }
};

}  // namespace qgmm
