// SPDX-License-Identifier: Apache-2.0
// The float side of kFixed16 over one ISA's vocabulary: rows of 16-bit floats become int16, a power of two per slice and a
// set of outliers; then the fold by the powers and the outliers' own terms. docs/operators.md, section 8.2, has the formula.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "cpu/kernel.h"
#include "numeric.h"

namespace qgmm::cpu {
namespace {

constexpr int kMeanLanes = 16;         // of the sum of |x|: the order of additions is part of the result
constexpr float kOutlierMeans = 32;    // from so many means of |x| on an element is set aside
constexpr float kLargest = 0x1.fffffep+127f;
constexpr int kLeastExponent = -112;   // s = 2^(E - 14) stays normal

/// Where |x| begins to be an outlier: 32 means of the finite |x|, at most the largest finite value, as everything beyond
/// that is one. `highest`: the greatest bits of |x|. `v` is padded with zeros to a multiple of 16.
template <class V>
inline float OutlierLimit(const float* v, int count, int32_t* highest) {
  constexpr int kVectors = kMeanLanes / V::kLanes;
  const auto magnitude = V::SetInt(0x7FFFFFFF);
  const auto zero = V::Set(0.0f);
  typename V::F sum[kVectors];
  typename V::I top = V::SetInt(0);
  for (int i = 0; i < kVectors; ++i) sum[i] = zero;
  for (int k = 0; k < count; k += kMeanLanes) {
    for (int i = 0; i < kVectors; ++i) {
      const auto x = V::Load(v + k + i * V::kLanes);
      const auto bits = V::AndInt(V::Bits(x), magnitude);
      top = V::MaxInt(top, bits);
      sum[i] = V::Add(sum[i], V::Select(V::IsNan(V::Sub(x, x)), zero, V::FromBits(bits)));  // Inf - Inf is NaN
    }
  }
  float lane[kMeanLanes];
  for (int i = 0; i < kVectors; ++i) V::Store(lane + i * V::kLanes, sum[i]);
  for (int d = kMeanLanes / 2; d > 0; d /= 2) {
    for (int l = 0; l < d; ++l) lane[l] = lane[l] + lane[l + d];
  }
  *highest = V::MaxLane(top);
  const float limit = kOutlierMeans * (lane[0] / static_cast<float>(count));
  return limit > kLargest ? kLargest : limit;
}

/// Takes the outliers out of v; returns their number. `highest` becomes that of the rest.
inline int SetAside(float* v, int count, float limit, uint64_t* outliers, int32_t* highest) {
  int found = 0;
  *highest = 0;
  for (int k = 0; k < count; ++k) {
    const int32_t bits = static_cast<int32_t>(Bits(v[k]) & 0x7FFFFFFF);
    if (bits > static_cast<int32_t>(Bits(limit))) {
      outliers[k / 64] |= uint64_t{1} << (k % 64);
      v[k] = 0;
      ++found;
    } else if (bits > *highest) {
      *highest = bits;
    }
  }
  return found;
}

/// Rows of X that packed x interleaves: 1, or Order::kTileRows.
template <class Order>
constexpr int TileRowsOf() {
  if constexpr (requires { Order::kTileRows; }) return Order::kTileRows;
  return 1;
}

/// X = rint(x / s), s = 2^(E - 14), E = floor(log2 of the largest |x| that is no outlier), at least -112. Order::Store
/// writes the X of a slice (a multiple of 64, zeros behind k) as the kernel reads them: in a row, or in tiles of 64 k, the
/// high bytes of kTileRows rows, then their low bytes.
template <class V, class Order>
void PackXFixed(const PackXArgs& a) {
  const int64_t slices = (a.k + kFixedSlice - 1) / kFixedSlice;
  alignas(64) float v[kFixedSlice];
  for (int i = 0; i < a.rows; ++i) {
    const char* x = static_cast<const char*>(a.x) + i * a.row_stride * Bytes(a.dtype);
    constexpr int kRows = TileRowsOf<Order>();
    int16_t* out = static_cast<int16_t*>(a.packed) + i / kRows * kRows * a.packed_stride +
                   i % kRows * (kPadK / 2);  // bytes of one row in a tile, in int16
    double sum = 0;
    a.fixed.counts[i] = 0;
    for (int64_t s = 0; s < slices; ++s) {
      const int64_t first = s * kFixedSlice;
      const int count = static_cast<int>(a.k - first < kFixedSlice ? a.k - first : kFixedSlice);
      const int padded = (count + 63) / 64 * 64;
      if (a.k_stride != 1 || !V::Widen(x + first * Bytes(a.dtype), a.dtype, count, v)) {
        for (int k = 0; k < count; ++k) v[k] = Load(x, a.dtype, (first + k) * a.k_stride);
      }
      for (int k = count; k < padded; ++k) v[k] = 0;
      for (int k = 0; a.x_sums && k < count; ++k) sum += v[k];
      uint64_t* outliers = a.fixed.outliers + (i * slices + s) * kOutlierWords;
      std::memset(outliers, 0, sizeof(uint64_t) * kOutlierWords);
      int32_t highest = 0;
      const float limit = OutlierLimit<V>(v, count, &highest);
      if (highest > static_cast<int32_t>(Bits(limit))) {
        a.fixed.counts[i] += SetAside(v, count, limit, outliers, &highest);
      }
      int exponent = (highest >> 23) - 127;
      exponent = exponent < kLeastExponent ? kLeastExponent : exponent;
      a.fixed.scales[i * slices + s] = FromBits(static_cast<uint32_t>(exponent - 14 + 127) << 23);
      Order::Store(v, padded, FromBits(static_cast<uint32_t>(14 - exponent + 127) << 23), out + first * kRows);
    }
    if (a.x_sums) a.x_sums[i] = static_cast<float>(sum);
  }
}

/// X in the order of k.
template <class V>
struct InOrder {
  static void Store(const float* v, int count, float inverse, int16_t* out) {
    int32_t integer[V::kLanes];
    for (int k = 0; k < count; k += V::kLanes) {
      V::StoreInt(integer, V::Truncate(V::Rint(V::Mul(V::Load(v + k), V::Set(inverse)))));
      for (int l = 0; l < V::kLanes; ++l) out[k + l] = static_cast<int16_t>(integer[l]);
    }
  }
};

/// c = fma(f(a_p), s_p of the row, c), slices ascending, from c = +0.
template <class V>
void FoldRows(const int32_t* acc, const float* scale, int64_t scale_stride, bool first, int rows, float* c) {
  for (int i = 0; i < rows; ++i, acc += kPairColumns, c += kPairColumns, scale += scale_stride) {
    const auto s = V::Set(*scale);
    for (int j = 0; j < kPairColumns; j += V::kLanes) {
      const auto sum = first ? V::Set(0.0f) : V::Load(c + j);
      V::Store(c + j, V::Fma(V::ToFloat(V::LoadInt(acc + j)), s, sum));
    }
  }
}

/// One outlier times 32 weights: byte kByte of every column's four.
template <class V, int kByte>
inline void AddTerm(float x, const uint8_t* const* lines, int64_t line, typename V::F* c) {
  constexpr int kVectors = kPanelColumns / V::kLanes;
  for (int h = 0; h < 2; ++h) {
    for (int i = 0; i < kVectors; ++i) {
      int32_t four[V::kLanes];  // by memcpy: a line is bytes
      std::memcpy(four, lines[h] + line * kLineBytes + 4 * i * V::kLanes, sizeof(four));
      const auto w = V::template ShiftRight<24>(V::template ShiftLeft<24 - 8 * kByte>(V::LoadInt(four)));
      c[h * kVectors + i] = V::Fma(V::Set(x), V::ToFloat(w), c[h * kVectors + i]);
    }
  }
}

template <class V>
void AddOutliers(const OutlierArgs& a) {
  constexpr int kVectors = kPairColumns / V::kLanes;
  for (int i = 0; i < a.rows; ++i) {
    if (a.fixed.counts[i] == 0) continue;
    const char* x = static_cast<const char*>(a.x) + i * a.row_stride * Bytes(a.dtype);
    float* row = a.c + i * kPairColumns;
    typename V::F c[kVectors];
    for (int j = 0; j < kVectors; ++j) c[j] = V::Load(row + j * V::kLanes);
    for (int64_t word = 0; word < a.slices * kOutlierWords; ++word) {
      for (uint64_t rest = a.fixed.outliers[i * a.slices * kOutlierWords + word]; rest != 0; rest &= rest - 1) {
        const int64_t k = word * 64 + std::countr_zero(rest);
        const float v = Load(x, a.dtype, k * a.k_stride);
        switch (k % 4) {
          case 0: AddTerm<V, 0>(v, a.lines, k / 4, c); break;
          case 1: AddTerm<V, 1>(v, a.lines, k / 4, c); break;
          case 2: AddTerm<V, 2>(v, a.lines, k / 4, c); break;
          default: AddTerm<V, 3>(v, a.lines, k / 4, c);
        }
      }
    }
    for (int j = 0; j < kVectors; ++j) V::Store(row + j * V::kLanes, c[j]);
  }
}

}  // namespace
}  // namespace qgmm::cpu
