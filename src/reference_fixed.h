// SPDX-License-Identifier: Apache-2.0
// The fixed-point product of operator B as specified in docs/operators.md, section 8.2.
#pragma once

#include <cstdint>
#include <vector>

namespace qgmm::reference {

/// A row of x in fixed point.
struct FixedRow {
  std::vector<int16_t> x;         // X, 0 for outliers
  std::vector<float> scale;       // s of every block of 512 k
  std::vector<int64_t> outliers;  // k, ascending
};
FixedRow ToFixed(const float* x, int64_t k);

/// c = fma(f(sum of X * w), s, c) over the blocks, then c = fma(x, w, c) over the outliers; w holds integers.
float FixedProduct(const FixedRow& row, const float* x, const std::vector<float>& w);

}  // namespace qgmm::reference
