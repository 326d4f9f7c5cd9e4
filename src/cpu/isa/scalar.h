// SPDX-License-Identifier: Apache-2.0
// The vocabulary of plain C++: one lane. Slow, and the yardstick for every other vocabulary.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "numeric.h"
#include "qgmm/types.h"

namespace qgmm::cpu {
namespace {

struct Scalar {
  static constexpr int kLanes = 1;
  using F = float;
  using I = int32_t;
  using M = bool;

  static F Load(const float* p) { return *p; }
  static void Store(float* p, F v) { *p = v; }
  static I LoadInt(const int32_t* p) { return *p; }
  static void StoreInt(int32_t* p, I v) { *p = v; }
  static F LoadHalf(const uint16_t* p) { return FromHalf(*p); }
  static F LoadBFloat16(const uint16_t* p) { return FromBFloat16(*p); }
  static F Set(float v) { return v; }
  static I SetInt(int32_t v) { return v; }
  static F Add(F a, F b) { return a + b; }
  static F Sub(F a, F b) { return a - b; }
  static F Mul(F a, F b) { return a * b; }
  static F Div(F a, F b) { return a / b; }
  static F Fma(F a, F b, F c) { return std::fma(a, b, c); }
  static F NegativeFma(F a, F b, F c) { return std::fma(-a, b, c); }
  static F Rint(F v) { return std::nearbyint(v); }
  static I AddInt(I a, I b) { return static_cast<I>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b)); }
  static I SubInt(I a, I b) { return static_cast<I>(static_cast<uint32_t>(a) - static_cast<uint32_t>(b)); }
  static I AndInt(I a, I b) { return a & b; }
  static I MaxInt(I a, I b) { return a > b ? a : b; }
  template <int kBits> static I ShiftLeft(I v) { return static_cast<I>(static_cast<uint32_t>(v) << kBits); }
  template <int kBits> static I ShiftRight(I v) { return v >> kBits; }  // arithmetic
  static I Bits(F v) { return std::bit_cast<I>(v); }
  static F FromBits(I v) { return std::bit_cast<F>(v); }
  static F ToFloat(I v) { return static_cast<float>(v); }
  static I Truncate(F v) { return static_cast<I>(v); }  // v is an integer in range
  /// v > limit ? limit : v, and v < limit ? limit : v: a NaN passes.
  static F Min(F v, F limit) { return v > limit ? limit : v; }
  static F Max(F v, F limit) { return v < limit ? limit : v; }
  static M IsNan(F v) { return v != v; }
  static M IsNegative(F v) { return v < 0; }  // -0 and NaN are not
  static F Select(M mask, F yes, F no) { return mask ? yes : no; }
  static int32_t MaxLane(I v) { return v; }

  static void StoreCodes(uint8_t* q, const F (&v)[16], int max) {
    for (int j = 0; j < 16; ++j) {
      const int code = static_cast<int>(std::nearbyint(v[j]));
      q[j] = static_cast<uint8_t>(code > max ? max : code < -max ? -max : code);
    }
  }

  /// Fast paths that plain C++ does not have: the caller goes element by element.
  static bool StoreNarrow16(void*, DType, int64_t, const F (&)[16]) { return false; }
  static bool Widen(const void*, DType, int64_t, float*) { return false; }
};

}  // namespace
}  // namespace qgmm::cpu
