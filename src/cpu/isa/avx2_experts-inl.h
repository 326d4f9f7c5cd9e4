// SPDX-License-Identifier: Apache-2.0
// Packing stacks whose experts are neighbours in memory, on AVX2: lines of eight experts at once, in registers.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "cpu/isa/avx2_lines-inl.h"
#include "cpu/isa/avx2_seconds-inl.h"
#include "cpu/kernel.h"
#include "cpu/prefetch.h"

namespace qgmm::cpu {
namespace {

/// Eight bytes of a column in each half: of experts that are neighbours.
inline __m256i LoadTwo(const uint8_t* low, const uint8_t* high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(low))),
                                 _mm_loadl_epi64(reinterpret_cast<const __m128i*>(high)), 1);
}

inline void StoreHalf(uint8_t* out, __m256i half) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), half); }

/// Half a line of each of eight experts from four rows of eight columns: bytes of four k become words, words are transposed
/// within halves of registers, which have columns 0 to 3 and 4 to 7 from the start.
inline void HalfLines(const ExpertsArgs& a, const uint8_t* source, uint8_t* out) {
  const uint8_t* const upper = source + 4 * a.column_stride;
  __m256i words[2][4];  // experts 0 to 3, 4 to 7; of column c and, in the upper half, of column c + 4
  for (int c = 0; c < 4; ++c) {
    __m256i rows[4];
    for (int r = 0; r < 4; ++r) {
      const ptrdiff_t at = r * a.k_stride + c * a.column_stride;
      rows[r] = LoadTwo(source + at, upper + at);
    }
    const __m256i low = _mm256_unpacklo_epi8(rows[0], rows[1]), high = _mm256_unpacklo_epi8(rows[2], rows[3]);
    words[0][c] = _mm256_unpacklo_epi16(low, high);
    words[1][c] = _mm256_unpackhi_epi16(low, high);
  }
  for (int q = 0; q < 2; ++q, out += 4 * a.expert_stride) {
    const __m256i* const w = words[q];
    const __m256i low01 = _mm256_unpacklo_epi32(w[0], w[1]), low23 = _mm256_unpacklo_epi32(w[2], w[3]);
    const __m256i high01 = _mm256_unpackhi_epi32(w[0], w[1]), high23 = _mm256_unpackhi_epi32(w[2], w[3]);
    StoreHalf(out, _mm256_unpacklo_epi64(low01, low23));
    StoreHalf(out + a.expert_stride, _mm256_unpackhi_epi64(low01, low23));
    StoreHalf(out + 2 * a.expert_stride, _mm256_unpacklo_epi64(high01, high23));
    StoreHalf(out + 3 * a.expert_stride, _mm256_unpackhi_epi64(high01, high23));
  }
}

/// The same of nibbles, from eight rows of one word, which is eight columns.
inline void HalfNibbleLines(const ExpertsArgs& a, const uint8_t* source, uint8_t* out) {
  const __m256i low_mask = _mm256_set1_epi8(15), eights = _mm256_set1_epi8(static_cast<char>(0x88));
  __m256i even[4], odd[4];  // columns; of k and k + 4, of eight experts
  for (int r = 0; r < 4; ++r) {
    const __m256i low = _mm256_xor_si256(LoadBytes(source + r * a.k_stride), eights);
    const __m256i high = _mm256_xor_si256(LoadBytes(source + (r + 4) * a.k_stride), eights);
    even[r] = _mm256_or_si256(_mm256_and_si256(low, low_mask), _mm256_slli_epi16(_mm256_and_si256(high, low_mask), 4));
    odd[r] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(low, 4), low_mask), _mm256_andnot_si256(low_mask, high));
  }
  const auto words = [](const __m256i (&k)[4], __m256i (&of)[4]) {  // of experts 0 to 3 and, in the upper half, 4 to 7
    const __m256i low01 = _mm256_unpacklo_epi8(k[0], k[1]), low23 = _mm256_unpacklo_epi8(k[2], k[3]);
    const __m256i high01 = _mm256_unpackhi_epi8(k[0], k[1]), high23 = _mm256_unpackhi_epi8(k[2], k[3]);
    of[0] = _mm256_unpacklo_epi16(low01, low23);
    of[1] = _mm256_unpackhi_epi16(low01, low23);
    of[2] = _mm256_unpacklo_epi16(high01, high23);
    of[3] = _mm256_unpackhi_epi16(high01, high23);
  };
  __m256i evens[4], odds[4];
  words(even, evens);
  words(odd, odds);
  for (int x = 0; x < 4; ++x, out += a.expert_stride) {
    const __m256i columns03 = _mm256_unpacklo_epi32(evens[x], odds[x]), columns47 = _mm256_unpackhi_epi32(evens[x], odds[x]);
    StoreHalf(out, _mm256_permute2x128_si256(columns03, columns47, 0x20));
    StoreHalf(out + 4 * a.expert_stride, _mm256_permute2x128_si256(columns03, columns47, 0x31));
  }
}

/// Panels in the order of memory, all experts of eight columns before the next eight: the last eight experts may be some again.
template <bool kNibbles>
inline void Experts(const ExpertsArgs& args) {
  const ExpertsArgs a = args;  // as far as a compiler knows, bytes that are written may be args
  constexpr int kRows = kNibbles ? 8 : 4, kBytes = kNibbles ? 4 : 1, kStep = kNibbles ? 1 : 8;  // columns or words of half a line
  for (int half = 0; half < 2 * a.panels; ++half) {
    const uint8_t* const source = a.source + half * kStep * a.column_stride;
    uint8_t* const out = a.out + half / 2 * a.panel_stride + half % 2 * (kLineBytes / 2);
    for (int r = 0; r < kRows; ++r) FetchRange(source + r * a.k_stride + a.ahead, kStep * a.column_stride);
    for (int i = 0; i < a.experts; i += kExpertsAtOnce) {
      const int first = std::min(i, a.experts - kExpertsAtOnce);
      (kNibbles ? HalfNibbleLines : HalfLines)(a, source + first * kBytes, out + first * a.expert_stride);
    }
  }
}

constexpr LineMakers kAvx2Lines = {
    StoreOrStream<Rows<false>, Rows<true>>, StoreOrStream<Columns<false>, Columns<true>>,
    StoreOrStream<NibbleRows<false>, NibbleRows<true>>, StoreOrStream<NibbleColumns<false>, NibbleColumns<true>>, FindBrokenAvx2,
    Experts<false>, Experts<true>, Seconds<false>, Seconds<true>, StoreOrStream<LinesOf<false, false>, LinesOf<false, true>>,
    StoreOrStream<LinesOf<true, false>, LinesOf<true, true>>, StreamLines, TransposeNibbles, Drain};

}  // namespace
}  // namespace qgmm::cpu
