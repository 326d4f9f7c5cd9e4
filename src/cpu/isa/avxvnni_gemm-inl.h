// SPDX-License-Identifier: Apache-2.0
// The tile loop of four int8 products per lane on ymm, two registers a line, over the instruction that multiplies them.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/for_rows-inl.h"
#include "cpu/kernel.h"

namespace qgmm::cpu {
namespace {

constexpr int kRegisters = 16, kTileRows = 6;

inline __m256i Load32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void Store32(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
inline __m256i Broadcast4(const int8_t* p) {
  int32_t v;
  __builtin_memcpy(&v, p, sizeof(v));
  return _mm256_set1_epi32(v);
}

/// Lines of a panel, and a fetch of what the worker says is read next, into L2.
struct Lines {
  const uint8_t* at;
  const uint8_t* prefetch;
  int prefetch_step;
  explicit Lines(const GemmArgs& a) : at(a.w[0]), prefetch(a.prefetch[0]), prefetch_step(a.prefetch_step) {}
  void Next(__m256i* halves) {
    _mm_prefetch(reinterpret_cast<const char*>(prefetch), _MM_HINT_T1);
    prefetch += prefetch_step;
    halves[0] = Load32(at);
    halves[1] = Load32(at + 32);
    at += kLineBytes;
  }
};

/// Sums of weights + kOffset and x: what the offset added is kOffset * sum(x). Dot: the instruction, sums modulo 2^32.
template <class Dot, int kOffset, int kRows>
struct IntegerSums {
  __m256i c[kRows][2];

  void Start(const GemmArgs& a, int slice) {
    const int32_t* acc = static_cast<const int32_t*>(a.acc);
    const bool add = a.add && a.scales == nullptr;
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      __m256i start = _mm256_setzero_si256();
      if constexpr (kOffset != 0) {
        const uint32_t sum = static_cast<uint32_t>(a.row_sums[i * a.row_sums_stride + slice]);
        start = _mm256_set1_epi32(static_cast<int32_t>(0u - static_cast<uint32_t>(kOffset) * sum));
      }
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) c[i][j] = add ? Load32(acc + i * kPairColumns + 8 * j) : start;
    }
  }
  void Step(const GemmArgs& a, const int8_t* x, __m256i b0, __m256i b1) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const __m256i four = Broadcast4(x + i * a.x_stride);
      c[i][0] = Dot::Add(c[i][0], b0, four);
      c[i][1] = Dot::Add(c[i][1], b1, four);
    }
  }
  void Finish(const GemmArgs& a, int slice) const {
    if (a.scales) return Fold(a, slice);
    int32_t* acc = static_cast<int32_t*>(a.acc);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) Store32(acc + i * kPairColumns + 8 * j, c[i][j]);
    }
  }
  void Fold(const GemmArgs& a, int slice) const {
    const bool first = slice == 0 && !a.add;
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m256 scale = _mm256_loadu_ps(a.scales + slice * kPairColumns + 8 * j);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        float* at = static_cast<float*>(a.acc) + i * kPairColumns + 8 * j;
        const __m256 before = first ? _mm256_setzero_ps() : _mm256_loadu_ps(at);
        _mm256_storeu_ps(at, _mm256_fmadd_ps(_mm256_cvtepi32_ps(c[i][j]), scale, before));
      }
    }
  }
};

inline int SliceCount(const GemmArgs& a) { return a.scales ? a.slices : 1; }

/// int8. Per line and row 1 broadcast, 2 dots = 64 multiply-adds. Dot::Bytes: a register of weights as Dot takes it.
template <class Dot, int kRows>
struct GemmBytes {
  static_assert(kRows * 2 + 2 + 1 + 1 <= kRegisters);
  static void Run(const GemmArgs& a) {
    const int8_t* x = static_cast<const int8_t*>(a.x);
    Lines lines(a);
    for (int slice = 0; slice < SliceCount(a); ++slice) {
      IntegerSums<Dot, Dot::kOffset, kRows> sums;
      sums.Start(a, slice);
      for (int k = 0; k < a.k; k += 4, x += 4) {
        __m256i v[2];
        lines.Next(v);
        sums.Step(a, x, Dot::Bytes(v[0]), Dot::Bytes(v[1]));
      }
      sums.Finish(a, slice);
    }
  }
};

}  // namespace
}  // namespace qgmm::cpu
