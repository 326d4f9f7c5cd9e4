// SPDX-License-Identifier: Apache-2.0
// The specification of the fixed-point product: plain loops in the order of docs/operators.md, section 8.2.
#include "reference_fixed.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "problem.h"

namespace qgmm::reference {
namespace {

/// The mean of the finite |x|: sixteen lanes, lane l adds x[l], x[l + 16], ...; then for d = 8, 4, 2, 1 lane l += lane l + d.
float Mean(const float* x, int64_t count) {
  float lane[16] = {};
  for (int64_t kk = 0; kk < count; ++kk) {
    if (std::isfinite(x[kk])) lane[kk % 16] = lane[kk % 16] + std::fabs(x[kk]);
  }
  for (int d = 8; d > 0; d /= 2) {
    for (int l = 0; l < d; ++l) lane[l] = lane[l] + lane[l + d];
  }
  return lane[0] / static_cast<float>(count);
}

}  // namespace

FixedRow ToFixed(const float* x, int64_t k) {
  FixedRow row;
  for (int64_t first = 0; first < k; first += kFixedSlice) {
    const int64_t count = std::min(kFixedSlice, k - first);
    const float limit = 32 * Mean(x + first, count);
    const auto is_outlier = [&](float v) { return !std::isfinite(v) || std::fabs(v) > limit; };
    float largest = 0;
    for (int64_t kk = first; kk < first + count; ++kk) {
      if (is_outlier(x[kk])) row.outliers.push_back(kk);
      else largest = std::max(largest, std::fabs(x[kk]));
    }
    const int exponent = largest == 0 ? -112 : std::max(std::ilogb(largest), -112);
    const float scale = std::ldexp(1.0f, exponent - 14);
    for (int64_t kk = first; kk < first + count; ++kk) {
      row.x.push_back(is_outlier(x[kk]) ? int16_t{0} : static_cast<int16_t>(std::rint(x[kk] / scale)));
    }
    row.scale.push_back(scale);
  }
  return row;
}

float FixedProduct(const FixedRow& row, const float* x, const std::vector<float>& w) {
  float c = 0;
  for (size_t block = 0; block < row.scale.size(); ++block) {
    const size_t first = block * static_cast<size_t>(kFixedSlice);
    int32_t sum = 0;  // at most 512 * 32752 * 128
    for (size_t kk = first; kk < std::min(first + static_cast<size_t>(kFixedSlice), w.size()); ++kk) {
      sum += row.x[kk] * static_cast<int32_t>(w[kk]);
    }
    c = std::fma(static_cast<float>(sum), row.scale[block], c);
  }
  for (const int64_t kk : row.outliers) c = std::fma(x[kk], w[static_cast<size_t>(kk)], c);
  return c;
}

}  // namespace qgmm::reference
