// SPDX-License-Identifier: Apache-2.0
// Tile loops of AVX2 in strict fp32: k ascending in one lane, one fma each.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "cpu/isa/avx2_gemm-inl.h"

namespace qgmm::cpu {
namespace {

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
