// SPDX-License-Identifier: Apache-2.0
// Packing every second column on AVX2 (of gate and up columns that alternate, the ones or the others): lines straight from
// registers.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/isa/avx2_lines-inl.h"
#include "cpu/kernel.h"
#include "cpu/prefetch.h"

namespace qgmm::cpu {
namespace {

/// Every second byte of 63. The one behind the last may be no memory.
inline __m256i LoadSeconds(const uint8_t* p) {
  const __m256i low = _mm256_and_si256(LoadBytes(p), _mm256_set1_epi16(0xFF)), high = _mm256_srli_epi16(LoadBytes(p + 31), 8);
  return _mm256_permute4x64_epi64(_mm256_packus_epi16(low, high), 0xD8);
}

/// Every second word of 15.
inline __m256i LoadSecondWords(const uint8_t* p) {
  const __m256 low = _mm256_castsi256_ps(LoadBytes(p)), high = _mm256_castsi256_ps(LoadBytes(p + 28));
  return _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(low, high, 0xD8)), 0xD8);
}

/// A line of each of two panels, from four rows.
inline void SecondLines(const ExpertsArgs& a, const uint8_t* row, uint8_t* out) {
  __m256i rows[4], unwanted[4] = {};
  for (int r = 0; r < 4; ++r, row += a.k_stride) {
    FetchLine(row + a.ahead);
    rows[r] = LoadSeconds(row);
  }
  EmitTwo<false, false>(rows, out, out + a.panel_stride, unwanted, unwanted + 2);
}

/// A line of each of four panels, from eight rows.
inline void SecondNibbleLines(const ExpertsArgs& a, const uint8_t* row, uint8_t* out) {
  __m256i outer[4], inner[4], unwanted[4] = {};
  for (int r = 0; r < 4; ++r, row += a.k_stride) {
    const uint8_t* const below = row + 4 * a.k_stride;
    FetchLine(row + a.ahead);
    FetchLine(below + a.ahead);
    ZipNibbles(LoadSecondWords(row), LoadSecondWords(below), &outer[r], &inner[r]);
  }
  EmitTwo<true, false>(outer, out, out + 2 * a.panel_stride, unwanted, unwanted + 2);
  EmitTwo<true, false>(inner, out + a.panel_stride, out + 3 * a.panel_stride, unwanted, unwanted + 2);
}

template <bool kNibbles>
inline void Seconds(const ExpertsArgs& args) {
  const ExpertsArgs a = args;  // as far as a compiler knows, bytes that are written may be args
  constexpr int kPanels = kNibbles ? 4 : 2;
  for (int p = 0; p < a.panels; p += kPanels) {
    (kNibbles ? SecondNibbleLines : SecondLines)(a, a.source + p / kPanels * kLineBytes, a.out + p * a.panel_stride);
  }
}

}  // namespace
}  // namespace qgmm::cpu
