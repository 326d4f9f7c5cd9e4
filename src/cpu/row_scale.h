// SPDX-License-Identifier: Apache-2.0
// From the maximum of a row to its scale (docs/operators.md, section 1.6).
#pragma once

#include <cstdint>

#include "numeric.h"

namespace qgmm::cpu {

struct RowScale {
  float scale;
  bool zeros;  // all codes are 0: the scale is 0, Inf or NaN
};

/// `bits`: of the largest |v|, compared as integers. scale = B / max of the code's dtype.
inline RowScale ScaleOf(uint32_t bits, DType code) {
  if (bits > 0x7F800000u) return {FromBits(kNanBits), true};
  float max = 127.0f;
  if (code == DType::kInt4) max = 7.0f;
  if (code == DType::kFloat8E4M3) max = 448.0f;
  if (code == DType::kFloat8E5M2) max = 57344.0f;
  const float scale = FromBits(bits) / max;
  return {scale, bits == 0x7F800000u || scale == 0};
}

}  // namespace qgmm::cpu
