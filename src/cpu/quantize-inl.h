// SPDX-License-Identifier: Apache-2.0
// QuantizeRow of docs/operators.md, section 1.6, over one ISA's vocabulary: the maximum of a row, and its codes. Rows are
// read as they are stored, twice, rather than kept in fp32 between: the second time a row of 16-bit floats is still in L1.
#pragma once

#include <bit>
#include <cstdint>

#include "cpu/kernel.h"
#include "numeric.h"

namespace qgmm::cpu {
namespace {

constexpr int kCodes = 16;  // handled together

/// Elements j .. of an array, widened.
template <class V, DType kType>
inline typename V::F LoadAs(const void* x, int64_t j) {
  if constexpr (kType == DType::kFloat16) return V::LoadHalf(static_cast<const uint16_t*>(x) + j);
  if constexpr (kType == DType::kBFloat16) return V::LoadBFloat16(static_cast<const uint16_t*>(x) + j);
  if constexpr (kType == DType::kFloat32) return V::Load(static_cast<const float*>(x) + j);
}

/// Bits of the largest |x|: of 16-bit floats, too, magnitudes have the order of their bits, NaN above Inf.
template <class V>
uint32_t MaxOf16Bits(const void* x, DType dtype, int64_t count) {
  const auto* halves = static_cast<const uint16_t*>(x);
  constexpr int kStep = 2 * V::kLanes;
  uint32_t top = 0;
  int64_t j = 0;
  if constexpr (V::kLanes > 1) {
    auto most = V::SetInt(0);
    for (; j + kStep <= count; j += kStep) {
      most = V::MaxHalves(most, V::AndInt(V::LoadHalves(halves + j), V::SetInt(0x7FFF7FFF)));
    }
    alignas(64) int32_t pairs[V::kLanes];
    V::StoreInt(pairs, most);
    for (const int32_t pair : pairs) {
      const uint32_t low = static_cast<uint32_t>(pair) & 0xFFFF, high = static_cast<uint32_t>(pair) >> 16;
      top = low > top ? low : top;
      top = high > top ? high : top;
    }
  }
  for (; j < count; ++j) {
    const uint32_t bits = halves[j] & 0x7FFFu;
    top = bits > top ? bits : top;
  }
  const uint16_t bits = static_cast<uint16_t>(top);
  return Bits(Load(&bits, dtype, 0));
}

template <class V, DType kType>
uint32_t MaxOfProducts(const void* x, const float* smooth, int64_t count) {
  auto top = V::SetInt(0);
  int64_t j = 0;
  for (; j + V::kLanes <= count; j += V::kLanes) {
    auto v = LoadAs<V, kType>(x, j);
    if (smooth) v = V::Mul(v, V::Load(smooth + j));
    top = V::MaxInt(top, V::AndInt(V::Bits(v), V::SetInt(0x7FFFFFFF)));
  }
  uint32_t highest = static_cast<uint32_t>(V::MaxLane(top));
  for (; j < count; ++j) {
    const float v = Load(x, kType, j);
    const uint32_t bits = Bits(smooth ? v * smooth[j] : v) & 0x7FFFFFFFu;
    highest = bits > highest ? bits : highest;
  }
  return highest;
}

/// The maximum of the bits of |f(x)|, or of |f(x) * smooth|.
template <class V>
uint32_t RowMax(const void* x, DType dtype, const float* smooth, int64_t count) {
  if (dtype == DType::kFloat32) return MaxOfProducts<V, DType::kFloat32>(x, smooth, count);
  if (smooth == nullptr) return MaxOf16Bits<V>(x, dtype, count);
  if (dtype == DType::kFloat16) return MaxOfProducts<V, DType::kFloat16>(x, smooth, count);
  return MaxOfProducts<V, DType::kBFloat16>(x, smooth, count);
}

/// rint(v / scale) without a division: q = v * r, r = 1 / scale rounded, then q + (v - q * scale) * r, fused. That is off
/// the true quotient z by less than 2^-22 of an ulp before its rounding, so rint sees what it would see of v / scale unless
/// an end of the interval that rounds to a tie n + 1/2 lies that close to z; only the two v beside such an end can be so
/// close. All of them were tried, for every scale in [1, 2) and all n below 127 (4.3e9): none differs, while v * r alone is
/// wrong for a tenth of them and v * r + v * (the rest of 1 / scale) for one. Powers of two change nothing while the
/// remainder is exact where |z| > 1/4: from kLeastScale on, whose last place times that of q is 2^-149.
constexpr float kLeastScale = 0x1p-100f;

inline int MaxCode(DType code) { return code == DType::kInt4 ? 7 : 127; }

/// Elements [at, at + kCodes) of a row, times smooth, each by vectors of V.
template <class V, DType kType>
struct Sixteen {
  static constexpr int kVectors = kCodes / V::kLanes;
  typename V::F v[kVectors];

  Sixteen(const void* x, int64_t at, const float* smooth) {
    for (int l = 0; l < kVectors; ++l) {
      v[l] = LoadAs<V, kType>(x, at + l * V::kLanes);
      if (smooth) v[l] = V::Mul(v[l], V::Load(smooth + l * V::kLanes));
    }
  }
  void Divide(typename V::F scale, typename V::F reciprocal) {
    for (auto& one : v) {
      const auto q = V::Mul(one, reciprocal);
      one = V::Fma(V::NegativeFma(q, scale, one), reciprocal, q);
    }
  }
};

/// Any codes, any stride, any scale: up to 16 elements.
template <class V>
void QuantizeSlowly(const float* v, int count, float scale, DType code, uint8_t* q, int64_t stride) {
  const float max = static_cast<float>(MaxCode(code));
  const auto divisor = V::Set(scale), high = V::Set(max), low = V::Set(-max);
  alignas(64) float quotient[kCodes] = {};
  alignas(64) uint8_t codes[kCodes];
  for (int j = 0; j < count; ++j) quotient[j] = v[j];
  typename V::F vectors[kCodes / V::kLanes];
  for (int l = 0; l < kCodes / V::kLanes; ++l) {
    vectors[l] = V::Div(V::Load(quotient + l * V::kLanes), divisor);
    V::Store(quotient + l * V::kLanes, vectors[l]);
    vectors[l] = V::Max(V::Min(vectors[l], high), low);
  }
  if (code == DType::kFloat8E4M3 || code == DType::kFloat8E5M2) {
    for (int j = 0; j < count; ++j) {
      codes[j] = code == DType::kFloat8E4M3 ? ToFloat8E4M3(quotient[j]) : ToFloat8E5M2(quotient[j]);
    }
  } else {
    V::StoreCodes(codes, vectors, MaxCode(code));
  }
  for (int j = 0; j < count; ++j) q[j * stride] = codes[j];
}

/// Whole panels; by value, as a store of bytes might change whatever has an address.
template <class V, DType kType>
inline void QuantizePanels(const QuantizeArgs a, int64_t panels, const float* reciprocals) {
  const int max = MaxCode(a.code);
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int i = 0; i < a.rows; ++i) {
      Sixteen<V, kType> row(a.x, panel * a.panel_stride + i * kCodes, a.smooth ? a.smooth + panel * kCodes : nullptr);
      row.Divide(V::Set(a.scales[i]), V::Set(reciprocals[i]));
      V::StoreCodes(a.q + i * a.q_row_stride + panel * kCodes, row.v, max);
    }
  }
}

template <class V, DType kType>
void QuantizeAs(const QuantizeArgs& a) {
  bool fast = a.q_stride == 1 && (a.code == DType::kInt8 || a.code == DType::kInt4);
  float reciprocals[kQuantizeRows];
  for (int i = 0; i < a.rows; ++i) {
    fast = fast && a.scales[i] >= kLeastScale;
    reciprocals[i] = 1.0f / a.scales[i];
  }
  const int64_t panels = fast ? a.count / kCodes : 0;
  QuantizePanels<V, kType>(a, panels, reciprocals);
  alignas(64) float v[kCodes];
  for (int64_t first = panels * kCodes; first < a.count; first += kCodes) {
    const int count = a.count - first < kCodes ? static_cast<int>(a.count - first) : kCodes;
    for (int i = 0; i < a.rows; ++i) {
      for (int j = 0; j < count; ++j) {
        v[j] = Load(a.x, kType, first / kCodes * a.panel_stride + i * kCodes + j);
        if (a.smooth) v[j] = v[j] * a.smooth[first + j];
      }
      QuantizeSlowly<V>(v, count, a.scales[i], a.code, a.q + i * a.q_row_stride + first * a.q_stride, a.q_stride);
    }
  }
}

/// int8, int4: clamp(rint(v / scale), -max, max); fp8: the quotient, narrowed.
template <class V>
void Quantize(const QuantizeArgs& a) {
  switch (a.dtype) {
    case DType::kFloat16: return QuantizeAs<V, DType::kFloat16>(a);
    case DType::kBFloat16: return QuantizeAs<V, DType::kBFloat16>(a);
    default: return QuantizeAs<V, DType::kFloat32>(a);
  }
}

}  // namespace
}  // namespace qgmm::cpu
