// SPDX-License-Identifier: Apache-2.0
// What the tile loops of AVX2 share, and those on int8. All exact for every input: no vpmaddubsw on int8 (its pair sum saturates:
// 2 * 255 * 127 > 32767).
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

/// sum += v, where the sum is: left to itself, g++ 12 moves sums from register to register in an unrolled loop. Unrolled once
/// with this, on two Zen 3 cores that share theirs: widened panels 1.06 to 1.08 x, quads 1.01 to 1.03, pairs 1.00 to 1.04.
inline void AddInPlace(__m256i& sum, __m256i v) { asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(v)); }

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

/// Fetches what the worker says is read next, once per line. Into L2: fetched into L1, 8 rows 77 instead of 95
/// GMAC/s, one row -9 % (one core of a Zen 4).
struct Ahead {
  const uint8_t* at;
  int step;
  explicit Ahead(const GemmArgs& a) : at(a.prefetch[0]), step(a.prefetch_step) {}
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
  if (a.scales) second.scales += kPanelColumns;
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
    const auto add_line = [&](int l) __attribute__((always_inline)) {
      ahead.Fetch();
      ReadAgain(w);
      const __m256i v0 = Load32(w + l * kLineBytes), v1 = Load32(w + l * kLineBytes + 32);
      const __m256i even0 = EvenBytes(v0), odd0 = OddBytes(v0), even1 = EvenBytes(v1), odd1 = OddBytes(v1);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const __m256i x02 = Broadcast4(x[i] + 4 * l), x13 = Broadcast4(x[i] + 4 * l + 2);
        AddInPlace(sums.c[i][0], _mm256_add_epi32(_mm256_madd_epi16(even0, x02), _mm256_madd_epi16(odd0, x13)));
        AddInPlace(sums.c[i][1], _mm256_add_epi32(_mm256_madd_epi16(even1, x02), _mm256_madd_epi16(odd1, x13)));
      }
    };
    int k = 0;
    for (; k + 4 < a.k; k += 8, w += 2 * kLineBytes, x.Advance(8)) {
      add_line(0);
      add_line(1);
    }
    if (k < a.k) add_line(0);
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

/// int8 from a widened panel. Per two k: 2 loads, 6 broadcasts, 12 vpmaddwd, 12 vpaddd = 192 multiply-adds; four k a turn.
template <int kRows>
struct GemmShorts {
  static_assert(kRows * 2 + 2 + 1 <= kRegisters);
  static void Run(const GemmArgs& a) {
    Sums<kRows> sums;
    sums.Start(a);
    XRows<int16_t> x(a);
    const uint8_t* w = a.w[0];
    Ahead ahead(a);
    const auto step = [&](int at) __attribute__((always_inline)) {  // two k
      const __m256i b0 = Load32(w + 32 * at), b1 = Load32(w + 32 * at + 32);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const __m256i pair = Broadcast4(x[i] + at);
        AddInPlace(sums.c[i][0], _mm256_madd_epi16(pair, b0));
        AddInPlace(sums.c[i][1], _mm256_madd_epi16(pair, b1));
      }
    };
    for (int k = 0; k < a.k; k += 4, w += 2 * kLineBytes, x.Advance(4)) {
      ahead.Fetch();
      step(0);
      step(2);
    }
    sums.Finish(a);
  }
};

}  // namespace
}  // namespace qgmm::cpu
