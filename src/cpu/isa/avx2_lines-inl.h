// SPDX-License-Identifier: Apache-2.0
// Packing on AVX2: every cache line of the source is read whole, every line of a panel is written whole, and column sums
// are taken from registers on the way.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/kernel.h"
#include "cpu/prefetch.h"

namespace qgmm::cpu {
namespace {

inline __m256i LoadBytes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

/// Half a line to memory, its weights to 16 sums of pairs along k: columns 8 h .. 8 h + 7, two sums each.
template <bool kNibbles, bool kStream>
inline void Emit(__m256i half, uint8_t* out, __m256i* sums) {
  if constexpr (kStream) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(out), half);
  } else {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), half);
  }
  const __m256i ones = _mm256_set1_epi8(1);
  if constexpr (kNibbles) {  // low + high nibble, at most 30; the + 8 of each is taken out at the end
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i both = _mm256_add_epi8(_mm256_and_si256(half, mask), _mm256_and_si256(_mm256_srli_epi16(half, 4), mask));
    *sums = _mm256_add_epi16(*sums, _mm256_maddubs_epi16(both, ones));
  } else {
    *sums = _mm256_add_epi16(*sums, _mm256_maddubs_epi16(ones, half));
  }
}

/// Adds a panel's two registers of sums, over `lines` lines, to its 16 sums.
template <bool kNibbles>
inline void AddSums(const __m256i* pairs, int lines, int32_t* sums) {
  if (sums == nullptr) return;
  const __m256i eights = _mm256_set1_epi32(kNibbles ? 8 * 8 * lines : 0);
  for (int h = 0; h < 2; ++h) {
    const __m256i columns = _mm256_sub_epi32(_mm256_madd_epi16(pairs[h], _mm256_set1_epi16(1)), eights);
    __m256i* to = reinterpret_cast<__m256i*>(sums + 8 * h);
    _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), columns));
  }
}

/// Lines of two panels from four rows of 32 bytes; `first` has the lower 16 columns.
template <bool kNibbles, bool kStream>
inline void EmitTwo(const __m256i* row, uint8_t* first, uint8_t* second, __m256i* first_sums, __m256i* second_sums) {
  const __m256i low01 = _mm256_unpacklo_epi8(row[0], row[1]), high01 = _mm256_unpackhi_epi8(row[0], row[1]);
  const __m256i low23 = _mm256_unpacklo_epi8(row[2], row[3]), high23 = _mm256_unpackhi_epi8(row[2], row[3]);
  const __m256i q0 = _mm256_unpacklo_epi16(low01, low23), q1 = _mm256_unpackhi_epi16(low01, low23);
  const __m256i q2 = _mm256_unpacklo_epi16(high01, high23), q3 = _mm256_unpackhi_epi16(high01, high23);
  Emit<kNibbles, kStream>(_mm256_permute2x128_si256(q0, q1, 0x20), first, first_sums);
  Emit<kNibbles, kStream>(_mm256_permute2x128_si256(q2, q3, 0x20), first + 32, first_sums + 1);
  Emit<kNibbles, kStream>(_mm256_permute2x128_si256(q0, q1, 0x31), second, second_sums);
  Emit<kNibbles, kStream>(_mm256_permute2x128_si256(q2, q3, 0x31), second + 32, second_sums + 1);
}

template <bool kStream>
inline void Rows(const LinesArgs& args) {
  const LinesArgs a = args;  // as far as a compiler knows, bytes that are written may be args
  __m256i sums[8] = {};
  const uint8_t* row = a.source;
  for (int l = 0, at = 0; l < a.lines; ++l, at += kLineBytes, row += 4 * a.stride) {
    if (a.ahead != 0) {
      for (int r = 0; r < 4; ++r) FetchLine(row + r * a.stride + a.ahead);
    }
    for (int h = 0; h < 2; ++h) {
      const uint8_t* part = row + 32 * h;
      const __m256i rows[4] = {LoadBytes(part), LoadBytes(part + a.stride), LoadBytes(part + 2 * a.stride),
                               LoadBytes(part + 3 * a.stride)};
      EmitTwo<false, kStream>(rows, a.out[2 * h] + at, a.out[2 * h + 1] + at, sums + 4 * h, sums + 4 * h + 2);
    }
  }
  for (int p = 0; p < 4; ++p) AddSums<false>(sums + 2 * p, a.lines, a.sums[p]);
}

/// A row of 64 columns and the one four rows below: bytes of even, then of odd columns, zipped. In each half `outer` has the
/// lower 16 of 32 columns, `inner` the upper ones.
inline void ZipNibbles(__m256i row, __m256i below, __m256i* outer, __m256i* inner) {
  const __m256i low_mask = _mm256_set1_epi8(15), eights = _mm256_set1_epi8(static_cast<char>(0x88));
  const __m256i low = _mm256_xor_si256(row, eights), high = _mm256_xor_si256(below, eights);
  const __m256i even = _mm256_or_si256(_mm256_and_si256(low, low_mask),
                                       _mm256_slli_epi16(_mm256_and_si256(high, low_mask), 4));
  const __m256i odd = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(low, 4), low_mask),
                                      _mm256_andnot_si256(low_mask, high));
  *outer = _mm256_unpacklo_epi8(even, odd);
  *inner = _mm256_unpackhi_epi8(even, odd);
}

template <bool kStream>
inline void NibbleRows(const LinesArgs& args) {
  const LinesArgs a = args;  // as far as a compiler knows, bytes that are written may be args
  __m256i sums[8] = {};
  const uint8_t* row = a.source;
  for (int l = 0, at = 0; l < a.lines; ++l, at += kLineBytes, row += 8 * a.stride) {
    if (a.ahead != 0) {
      for (int r = 0; r < 8; ++r) FetchLine(row + r * a.stride + a.ahead);
    }
    __m256i outer[4], inner[4];
    for (int b = 0; b < 4; ++b) {
      ZipNibbles(LoadBytes(row + b * a.stride), LoadBytes(row + (b + 4) * a.stride), &outer[b], &inner[b]);
    }
    EmitTwo<true, kStream>(outer, a.out[0] + at, a.out[2] + at, sums, sums + 4);
    EmitTwo<true, kStream>(inner, a.out[1] + at, a.out[3] + at, sums + 2, sums + 6);
  }
  for (int p = 0; p < 4; ++p) AddSums<true>(sums + 2 * p, a.lines, a.sums[p]);
}

/// 8 x 8 words of four bytes: 8 columns, `stride` apart -> 8 rows, `out_stride` apart.
inline void Transpose8(const uint8_t* column, ptrdiff_t stride, uint8_t* out, ptrdiff_t out_stride) {
  __m256i t[8], u[8];
  for (int i = 0; i < 4; ++i) {
    const __m256i v = LoadBytes(column + 2 * i * stride), w = LoadBytes(column + (2 * i + 1) * stride);
    t[2 * i] = _mm256_unpacklo_epi32(v, w);
    t[2 * i + 1] = _mm256_unpackhi_epi32(v, w);
  }
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      u[4 * i + 2 * j] = _mm256_unpacklo_epi64(t[4 * i + j], t[4 * i + 2 + j]);
      u[4 * i + 2 * j + 1] = _mm256_unpackhi_epi64(t[4 * i + j], t[4 * i + 2 + j]);
    }
  }
  for (int i = 0; i < 4; ++i) {
    auto* low = reinterpret_cast<__m256i*>(out + i * out_stride);
    auto* high = reinterpret_cast<__m256i*>(out + (i + 4) * out_stride);
    _mm256_storeu_si256(low, _mm256_permute2x128_si256(u[i], u[i + 4], 0x20));
    _mm256_storeu_si256(high, _mm256_permute2x128_si256(u[i], u[i + 4], 0x31));
  }
}

/// A cache line of each column becomes 16 lines in L1; from there they leave whole.
template <bool kStream>
inline void Columns(const LinesArgs& args) {
  const LinesArgs a = args;  // as far as a compiler knows, bytes that are written may be args
  alignas(64) uint8_t lines[kColumnLines * kLineBytes];
  __m256i sums[2] = {};
  for (int l = 0; l < a.lines; l += kColumnLines) {
    const uint8_t* column = a.source + 4 * l;
    for (int half = 0; half < 2; ++half) {
      if (a.ahead != 0) {
        for (int c = 0; c < 8; ++c) FetchLine(column + (8 * half + c) * a.stride + a.ahead);
      }
      for (int part = 0; part < 2; ++part) {
        Transpose8(column + 8 * half * a.stride + 32 * part, a.stride, lines + 8 * part * kLineBytes + 32 * half, kLineBytes);
      }
    }
    for (int i = 0; i < kColumnLines; ++i) {
      for (int h = 0; h < 2; ++h) {
        Emit<false, kStream>(LoadBytes(lines + i * kLineBytes + 32 * h), a.out[0] + (l + i) * kLineBytes + 32 * h, sums + h);
      }
    }
  }
  AddSums<false>(sums, a.lines, a.sums[0]);
}

// Of each run of words. 2048 and 8192 gain half as much (two Zen 4 cores, 1.1 x).
constexpr int kNibblesAhead = 4096;

/// Words of eight columns, consecutive in k: in each 128-bit half, four k of one run of words.
template <bool kStream>
inline void NibbleColumns(const LinesArgs& args) {
  const LinesArgs a = args;  // as far as a compiler knows, bytes that are written may be args
  __m256i sums[2] = {};
  const __m256i low_mask = _mm256_set1_epi8(15), eights = _mm256_set1_epi8(static_cast<char>(0x88));
  const __m256i transpose = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4, 8, 12, 1, 5, 9,
                                             13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (int l = 0; l < a.lines; ++l) {
    if (l % 2 == 0) {
      FetchLine(a.source + 32 * l + kNibblesAhead);
      FetchLine(a.source + a.stride + 32 * l + kNibblesAhead);
    }
    const __m256i first = LoadBytes(a.source + 32 * l), second = LoadBytes(a.source + a.stride + 32 * l);
    const __m256i low = _mm256_xor_si256(_mm256_permute2x128_si256(first, second, 0x20), eights);
    const __m256i high = _mm256_xor_si256(_mm256_permute2x128_si256(first, second, 0x31), eights);
    const __m256i even = _mm256_or_si256(_mm256_and_si256(low, low_mask),
                                         _mm256_slli_epi16(_mm256_and_si256(high, low_mask), 4));
    const __m256i odd = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(low, 4), low_mask),
                                        _mm256_andnot_si256(low_mask, high));
    const __m256i even_columns = _mm256_shuffle_epi8(even, transpose), odd_columns = _mm256_shuffle_epi8(odd, transpose);
    const __m256i columns03 = _mm256_unpacklo_epi32(even_columns, odd_columns);
    const __m256i columns47 = _mm256_unpackhi_epi32(even_columns, odd_columns);
    uint8_t* line = a.out[0] + l * kLineBytes;
    Emit<true, kStream>(_mm256_permute2x128_si256(columns03, columns47, 0x20), line, sums);
    Emit<true, kStream>(_mm256_permute2x128_si256(columns03, columns47, 0x31), line + 32, sums + 1);
  }
  AddSums<true>(sums, a.lines, a.sums[0]);
}

/// FindBroken of lines-inl.h: 16 lanes a register.
template <int kSteps>
inline int FindBrokenOf(const uint8_t* lines, int groups, BrokenLanes* found) {
  const __m256i ones = _mm256_set1_epi8(1), most = _mm256_set1_epi16(256);
  int count = 0;
  for (int g = 0; g < groups; ++g, lines += kSteps * kLineBytes) {
    __m256i above[2];
    for (int h = 0; h < 2; ++h) {
      __m256i magnitudes = _mm256_setzero_si256(), sums = _mm256_setzero_si256();
      for (int s = 0; s < kSteps; ++s) {
        const __m256i w = LoadBytes(lines + s * kLineBytes + 32 * h);
        magnitudes = _mm256_add_epi16(magnitudes, _mm256_maddubs_epi16(_mm256_abs_epi8(w), ones));
        sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(ones, w));
      }
      above[h] = _mm256_cmpgt_epi16(_mm256_add_epi16(magnitudes, _mm256_abs_epi16(sums)), most);
    }
    const __m256i both = _mm256_packs_epi16(above[0], above[1]);  // lanes 0-7, 16-23, 8-15, 24-31
    const int lanes = _mm256_movemask_epi8(_mm256_permute4x64_epi64(both, 0xD8));
    if (lanes != 0) found[count++] = {g, static_cast<uint32_t>(lanes)};
  }
  return count;
}
inline int FindBrokenAvx2(const uint8_t* lines, int groups, int steps, BrokenLanes* found) {
  return steps == 2 ? FindBrokenOf<2>(lines, groups, found) : FindBrokenOf<1>(lines, groups, found);
}

inline void StreamLines(const uint8_t* lines, int64_t count, uint8_t* out, int64_t stride) {
  for (int64_t i = 0; i < count; ++i, lines += kLineBytes, out += stride) {
    for (int half = 0; half < kLineBytes; half += 32) {
      _mm256_stream_si256(reinterpret_cast<__m256i*>(out + half), LoadBytes(lines + half));
    }
  }
}

/// Bytes of even k in the lower half, of odd k in the upper one, each of two n: nibbles of two rows make them, and both halves
/// are transposed at once. FRACTAL_NZ, int4 transposed, two Zen 3 cores: 1.2 to 1.6 x of 32 x 32 by SSE2.
inline void TransposeNibbles(const uint8_t* from, ptrdiff_t stride, uint8_t* to, ptrdiff_t to_stride) {
  const __m256i low_mask = _mm256_set1_epi8(15);
  const __m256i right = _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4), left = _mm256_setr_epi32(4, 4, 4, 4, 0, 0, 0, 0);
  const auto both = [](const uint8_t* row) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row)));
  };
  __m256i rows[16], zipped[16];
  for (int i = 0; i < 16; ++i) {
    const __m256i low = both(from + 2 * i * stride), high = both(from + (2 * i + 1) * stride);
    rows[i] = _mm256_or_si256(_mm256_and_si256(_mm256_srlv_epi32(low, right), low_mask),
                              _mm256_andnot_si256(low_mask, _mm256_sllv_epi32(high, left)));
  }
#pragma GCC unroll 4
  for (int round = 0; round < 4; ++round) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      zipped[2 * i] = _mm256_unpacklo_epi8(rows[i], rows[i + 8]);
      zipped[2 * i + 1] = _mm256_unpackhi_epi8(rows[i], rows[i + 8]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) rows[i] = zipped[i];
  }
  for (int i = 0; i < 16; ++i) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * i * to_stride), _mm256_castsi256_si128(rows[i]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (2 * i + 1) * to_stride), _mm256_extracti128_si256(rows[i], 1));
  }
}

/// Lines as they are.
template <bool kNibbles, bool kStream>
inline void LinesOf(const LinesArgs& args) {
  const LinesArgs a = args;  // as far as a compiler knows, bytes that are written may be args
  __m256i sums[2] = {};
  for (int at = 0; at < a.lines * kLineBytes; at += kLineBytes) {
    for (int h = 0; h < 2; ++h) {
      Emit<kNibbles, kStream>(LoadBytes(a.source + at + 32 * h), a.out[0] + at + 32 * h, sums + h);
    }
  }
  AddSums<kNibbles>(sums, a.lines, a.sums[0]);
}

template <LinesFn kStored, LinesFn kStreamed>
void StoreOrStream(const LinesArgs& a) {
  return a.stream ? kStreamed(a) : kStored(a);
}

void Drain() { _mm_sfence(); }

}  // namespace
}  // namespace qgmm::cpu
