// SPDX-License-Identifier: Apache-2.0
// Tile loops of AVX2. All exact for every input: no vpmaddubsw on int8 (its pair sum saturates: 2 * 255 * 127 > 32767).
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/for_rows-inl.h"
#include "cpu/kernel.h"

namespace qgmm::cpu {
namespace {

constexpr int kRegisters = 16;

inline __m256i Load32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
/// What is read through `p` from now on is read anew: an operand in memory for its user, where the compiler would keep it in
/// a register and put a sum on the stack instead.
inline void ReadAgain(const uint8_t*& p) { asm volatile("" : "+r"(p)); }
inline void Store32(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
inline __m256i Broadcast4(const void* p) {
  int32_t v;
  __builtin_memcpy(&v, p, sizeof(v));
  return _mm256_set1_epi32(v);
}

/// A sum so far, in a register: terms that follow are added to it and not to one another first, each in a register of its own.
inline void SumSoFar(__m256i& sum) { asm("" : "+x"(sum)); }

/// Up to six rows of packed x, reached by two pointers and what an address can add to them: left to itself, the compiler
/// computes the address of every row anew for every line.
template <class T>
struct XRows {
  const T *first, *fourth;
  ptrdiff_t stride;

  explicit XRows(const GemmArgs& a)
      : first(static_cast<const T*>(a.x)), fourth(first + 3 * a.x_stride), stride(a.x_stride) {
    asm("" : "+r"(fourth));  // what it has to do with `first` is hidden
  }
  const T* operator[](int row) const { return row < 3 ? first + row * stride : fourth + (row - 3) * stride; }
  void Advance(int k) {
    first += k;
    fourth += k;
  }
};

/// Fetches what the worker says is read next, in `calls` steps per line. Into L2: fetched into L1, 8 rows 77 instead of 95
/// GMAC/s, one row -9 % (one core of a Zen 4).
struct Ahead {
  const uint8_t* at;
  int step;
  explicit Ahead(const GemmArgs& a, int calls = 1) : at(a.prefetch[0]), step(a.prefetch_step / calls) {}
  void Fetch() {
    _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1);
    at += step;
  }
};

/// The same of both panels of a pair.
struct AheadOfPair {
  Ahead first;
  ptrdiff_t other;
  explicit AheadOfPair(const GemmArgs& a) : first(a), other(a.prefetch[1] - a.prefetch[0]) {}
  void Fetch() {
    _mm_prefetch(reinterpret_cast<const char*>(first.at + other), _MM_HINT_T1);
    first.Fetch();
  }
};

/// What a call with both panels of a pair says of the second one.
inline GemmArgs SecondOf(const GemmArgs& a) {
  GemmArgs second = a;
  second.acc = static_cast<int32_t*>(a.acc) + kPanelColumns;  // fp32 sums are as wide
  second.column_sums[0] = a.column_sums[1];
  return second;
}

/// The accumulators of kRows rows x 16 columns, int32.
template <int kRows>
struct Sums {
  __m256i c[kRows][2];

  void Start(const GemmArgs& a) {
    const int32_t* acc = static_cast<const int32_t*>(a.acc);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        c[i][j] = a.add ? Load32(acc + i * kPairColumns + 8 * j) : _mm256_setzero_si256();
      }
    }
  }
  void Finish(const GemmArgs& a) const {
    int32_t* acc = static_cast<int32_t*>(a.acc);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) Store32(acc + i * kPairColumns + 8 * j, c[i][j]);
    }
  }
};

/// Even bytes (k 0 and 2 of four) and odd bytes (k 1 and 3) of a line's half, as int16: three shifts, where
/// vpmovsxbw would need two loads and leave the four k of a column in two registers' halves.
inline __m256i EvenBytes(__m256i v) { return _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8); }
inline __m256i OddBytes(__m256i v) { return _mm256_srai_epi16(v, 8); }

/// int8 from packed lines. Per line and row 2 broadcasts, 4 vpmaddwd, 4 vpaddd; 6 shifts a line.
template <int kRows>
struct GemmWide {
  static_assert(kRows * 2 + 4 + 2 <= kRegisters);
  static void Run(const GemmArgs& a) {
    Sums<kRows> sums;
    sums.Start(a);
    XRows<int16_t> x(a);
    const uint8_t* w = a.w[0];
    Ahead ahead(a);
    for (int k = 0; k < a.k; k += 4, w += kLineBytes, x.Advance(4)) {
      ahead.Fetch();
      const __m256i v0 = Load32(w), v1 = Load32(w + 32);
      const __m256i even0 = EvenBytes(v0), odd0 = OddBytes(v0), even1 = EvenBytes(v1), odd1 = OddBytes(v1);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const __m256i x02 = Broadcast4(x[i]), x13 = Broadcast4(x[i] + 2);
        sums.c[i][0] = _mm256_add_epi32(sums.c[i][0],
                                        _mm256_add_epi32(_mm256_madd_epi16(even0, x02), _mm256_madd_epi16(odd0, x13)));
        sums.c[i][1] = _mm256_add_epi32(sums.c[i][1],
                                        _mm256_add_epi32(_mm256_madd_epi16(even1, x02), _mm256_madd_epi16(odd1, x13)));
      }
    }
    sums.Finish(a);
  }
};

/// Both panels of a pair together, as one row or two want it that wait for memory: see CertifiedPair.
template <int kRows>
struct GemmWidePair {
  static void Run(const GemmArgs& a) {
    const GemmArgs second = SecondOf(a);
    Sums<kRows> s, t;
    s.Start(a);
    t.Start(second);
    XRows<int16_t> x(a);
    const uint8_t* w = a.w[0];
    const ptrdiff_t other = a.w[1] - a.w[0];
    AheadOfPair ahead(a);
    for (int k = 0; k < a.k; k += 4, w += kLineBytes, x.Advance(4)) {
      ahead.Fetch();
      const auto add = [&](Sums<kRows>& sums, int half, const uint8_t* from) __attribute__((always_inline)) {
        const __m256i v = Load32(from + 32 * half), even = EvenBytes(v), odd = OddBytes(v);
#pragma GCC unroll 2
        for (int i = 0; i < kRows; ++i) {
          const __m256i products = _mm256_add_epi32(_mm256_madd_epi16(even, Broadcast4(x[i])),
                                                    _mm256_madd_epi16(odd, Broadcast4(x[i] + 2)));
          sums.c[i][half] = _mm256_add_epi32(sums.c[i][half], products);
        }
      };
      add(s, 0, w);
      add(s, 1, w);
      add(t, 0, w + other);
      add(t, 1, w + other);
    }
    s.Finish(a);
    t.Finish(second);
  }
};

constexpr int kPrefetchBytes = 4096;  // ahead in a panel that is widened; panels of a task are contiguous

/// A line as two of int16 pairs: [16 columns][k 0, 2], then [16 columns][k 1, 3].
void WidenToShorts(const uint8_t* lines, int line_count, uint8_t* out) {
  for (int l = 0; l < line_count; ++l, lines += kLineBytes, out += 2 * kLineBytes) {
    _mm_prefetch(reinterpret_cast<const char*>(lines) + kPrefetchBytes, _MM_HINT_T0);
    const __m256i v0 = Load32(lines), v1 = Load32(lines + 32);
    Store32(out, EvenBytes(v0));
    Store32(out + 32, EvenBytes(v1));
    Store32(out + 64, OddBytes(v0));
    Store32(out + 96, OddBytes(v1));
  }
}

/// int8 from a widened panel. Per two k: 2 loads, 6 broadcasts, 12 vpmaddwd, 12 vpaddd = 192 multiply-adds.
template <int kRows>
struct GemmShorts {
  static_assert(kRows * 2 + 2 + 1 <= kRegisters);
  static void Run(const GemmArgs& a) {
    Sums<kRows> sums;
    sums.Start(a);
    XRows<int16_t> x(a);
    const uint8_t* w = a.w[0];
    Ahead ahead(a, 2);
    const int steps = (a.k + 3) / 4 * 2;
    for (int q = 0; q < steps; ++q, w += 64, x.Advance(2)) {
      ahead.Fetch();
      const __m256i b0 = Load32(w), b1 = Load32(w + 32);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const __m256i pair = Broadcast4(x[i]);
        sums.c[i][0] = _mm256_add_epi32(sums.c[i][0], _mm256_madd_epi16(pair, b0));
        sums.c[i][1] = _mm256_add_epi32(sums.c[i][1], _mm256_madd_epi16(pair, b1));
      }
    }
    sums.Finish(a);
  }
};

/// Sums of u4 x s8 products in int16, of at most eight steps: 8 * 2 * 15 * 128 = 30720 fits.
template <int kRows>
struct NibblePartials {
  __m256i c[kRows][2];

  void Clear() {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) c[i][0] = c[i][1] = _mm256_setzero_si256();
  }
  void Step(const XRows<int8_t>& x, int k, __m256i b0, __m256i b1) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const __m256i four = Broadcast4(x[i] + k);
      c[i][0] = _mm256_add_epi16(c[i][0], _mm256_maddubs_epi16(b0, four));
      c[i][1] = _mm256_add_epi16(c[i][1], _mm256_maddubs_epi16(b1, four));
      SumSoFar(c[i][0]);
      SumSoFar(c[i][1]);
    }
  }
};

/// What partials are added to, in memory: registers hold the partials and what they are made from, and left to itself the
/// compiler keeps these sums in some and puts partials on the stack, in the loop over lines.
template <int kRows>
struct NibbleSums {
  Sums<kRows> sums;

  /// The + 8 of the stored nibbles is taken out at the start of a slice.
  void Start(const GemmArgs& a, int slice) {
    if (a.add && a.scales == nullptr) return sums.Start(a);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const __m256i start = _mm256_set1_epi32(-8 * a.row_sums[i * a.row_sums_stride + slice]);
      sums.c[i][0] = start;
      sums.c[i][1] = start;
    }
  }
  void Finish(const GemmArgs& a, int slice) const {
    if (a.scales == nullptr) return sums.Finish(a);
    const float* scales = a.scales + slice * kPairColumns;
    float* folded = static_cast<float*>(a.acc);
    const bool first = slice == 0 && !a.add;
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m256 scale = _mm256_loadu_ps(scales + 8 * j);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        float* at = folded + i * kPairColumns + 8 * j;
        const __m256 before = first ? _mm256_setzero_ps() : _mm256_loadu_ps(at);
        _mm256_storeu_ps(at, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums.c[i][j]), scale, before));
      }
    }
  }
  void Add(const NibblePartials<kRows>& partials) {
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      sums.c[i][0] = _mm256_add_epi32(sums.c[i][0], _mm256_madd_epi16(partials.c[i][0], ones));
      sums.c[i][1] = _mm256_add_epi32(sums.c[i][1], _mm256_madd_epi16(partials.c[i][1], ones));
    }
    asm volatile("" : "+m"(sums));
  }
};

/// int4 from packed lines: 8 k a line, two steps each, partials added every four lines. Tried: nibbles split once per panel and
/// read as bytes, 76 against 96 GMAC/s at 64 rows and slices of 128 (Zen 4, GCC 12): twice the bytes from L2.
template <int kRows>
struct GemmInt4 {
  static void Run(const GemmArgs& a) {
    const __m256i low = _mm256_set1_epi8(15);
    XRows<int8_t> x(a);
    const uint8_t* w = a.w[0];
    Ahead ahead(a);
    const int lines = (a.k + 7) / 8, slices = a.scales ? a.slices : 1;
    for (int slice = 0; slice < slices; ++slice) {
      NibbleSums<kRows> s;
      s.Start(a, slice);
      for (int l = 0; l < lines;) {
        const int end = l + 4 < lines ? l + 4 : lines;
        NibblePartials<kRows> partials;
        partials.Clear();
        for (; l < end; ++l, w += kLineBytes, x.Advance(8)) {
          ahead.Fetch();
          const __m256i v0 = Load32(w), v1 = Load32(w + 32);
          partials.Step(x, 0, _mm256_and_si256(v0, low), _mm256_and_si256(v1, low));
          partials.Step(x, 4, _mm256_and_si256(_mm256_srli_epi16(v0, 4), low),
                        _mm256_and_si256(_mm256_srli_epi16(v1, 4), low));
        }
        s.Add(partials);
      }
      s.Finish(a, slice);
    }
  }
};

/// fp32 accumulators; k ascending in one lane, so every ISA gives the same bits.
template <int kRows>
struct FloatSums {
  __m256 c[kRows][2];

  void Start(const GemmArgs& a) {
    const float* acc = static_cast<const float*>(a.acc);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j)
        c[i][j] = a.add ? _mm256_loadu_ps(acc + i * kPairColumns + 8 * j) : _mm256_setzero_ps();
    }
  }
  void Step(const XRows<float>& x, int k, __m256 b0, __m256 b1) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const __m256 v = _mm256_broadcast_ss(x[i] + k);
      c[i][0] = _mm256_fmadd_ps(v, b0, c[i][0]);
      c[i][1] = _mm256_fmadd_ps(v, b1, c[i][1]);
    }
  }
  void Finish(const GemmArgs& a) const {
    float* acc = static_cast<float*>(a.acc);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) _mm256_storeu_ps(acc + i * kPairColumns + 8 * j, c[i][j]);
    }
  }
};

/// Byte kByte of every column's four, as fp32.
template <int kByte>
inline __m256 ByteAsFloat(__m256i v) {
  if constexpr (kByte < 3) v = _mm256_slli_epi32(v, 24 - 8 * kByte);
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(v, 24));
}

template <int kRows>
struct GemmFloat {
  static_assert(kRows * 2 + 4 + 1 <= kRegisters);
  static void Run(const GemmArgs& a) {
    FloatSums<kRows> s;
    s.Start(a);
    XRows<float> x(a);
    const uint8_t* w = a.w[0];
    Ahead ahead(a);
    for (int k = 0; k < a.k; k += 4, w += kLineBytes, x.Advance(4)) {
      ahead.Fetch();
      const __m256i v0 = Load32(w), v1 = Load32(w + 32);
      s.Step(x, 0, ByteAsFloat<0>(v0), ByteAsFloat<0>(v1));
      s.Step(x, 1, ByteAsFloat<1>(v0), ByteAsFloat<1>(v1));
      s.Step(x, 2, ByteAsFloat<2>(v0), ByteAsFloat<2>(v1));
      s.Step(x, 3, ByteAsFloat<3>(v0), ByteAsFloat<3>(v1));
    }
    s.Finish(a);
  }
};

/// Both panels of a pair together: the four sums that follow one another in a lane's chain take longer than a line takes to
/// arrive, so one or two rows want more chains: 12.6 -> 14.3 and 23.3 -> 27.1 GMAC/s (one
/// core of a Zen 4).
template <int kRows>
struct GemmFloatPair {
  static void Run(const GemmArgs& a) {
    const GemmArgs second = SecondOf(a);
    FloatSums<kRows> s, t;
    s.Start(a);
    t.Start(second);
    XRows<float> x(a);
    const uint8_t* w = a.w[0];
    AheadOfPair ahead(a);
    const ptrdiff_t other = a.w[1] - a.w[0];
    for (int k = 0; k < a.k; k += 4, w += kLineBytes, x.Advance(4)) {
      ahead.Fetch();
      const __m256i v0 = Load32(w), v1 = Load32(w + 32), u0 = Load32(w + other), u1 = Load32(w + other + 32);
      const auto step = [&]<int kByte>() __attribute__((always_inline)) {
        s.Step(x, kByte, ByteAsFloat<kByte>(v0), ByteAsFloat<kByte>(v1));
        t.Step(x, kByte, ByteAsFloat<kByte>(u0), ByteAsFloat<kByte>(u1));
      };
      step.template operator()<0>();
      step.template operator()<1>();
      step.template operator()<2>();
      step.template operator()<3>();
    }
    s.Finish(a);
    t.Finish(second);
  }
};

/// A line as four rows of 16 fp32, k ascending.
void WidenToFloats(const uint8_t* lines, int line_count, uint8_t* out) {
  float* f = reinterpret_cast<float*>(out);
  for (int l = 0; l < line_count; ++l, lines += kLineBytes, f += kLineBytes) {
    _mm_prefetch(reinterpret_cast<const char*>(lines) + kPrefetchBytes, _MM_HINT_T0);
    const __m256i v0 = Load32(lines), v1 = Load32(lines + 32);
    _mm256_storeu_ps(f, ByteAsFloat<0>(v0));
    _mm256_storeu_ps(f + 8, ByteAsFloat<0>(v1));
    _mm256_storeu_ps(f + 16, ByteAsFloat<1>(v0));
    _mm256_storeu_ps(f + 24, ByteAsFloat<1>(v1));
    _mm256_storeu_ps(f + 32, ByteAsFloat<2>(v0));
    _mm256_storeu_ps(f + 40, ByteAsFloat<2>(v1));
    _mm256_storeu_ps(f + 48, ByteAsFloat<3>(v0));
    _mm256_storeu_ps(f + 56, ByteAsFloat<3>(v1));
  }
}

template <int kRows>
struct GemmFloats {
  static_assert(kRows * 2 + 2 + 1 <= kRegisters);
  static void Run(const GemmArgs& a) {
    FloatSums<kRows> s;
    s.Start(a);
    XRows<float> x(a);
    const float* w = reinterpret_cast<const float*>(a.w[0]);
    Ahead ahead(a);
    for (int k = 0; k < a.k; k += 4, w += kLineBytes, x.Advance(4)) {
      ahead.Fetch();
#pragma GCC unroll 4
      for (int at = 0; at < 4; ++at) {
        s.Step(x, at, _mm256_loadu_ps(w + at * kPanelColumns), _mm256_loadu_ps(w + at * kPanelColumns + 8));
      }
    }
    s.Finish(a);
  }
};

}  // namespace
}  // namespace qgmm::cpu
