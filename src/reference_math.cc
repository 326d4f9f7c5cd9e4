// SPDX-License-Identifier: Apache-2.0
// The specification of the functions: Exp, Silu, the activations and QuantizeRow (docs/operators.md, sections 2, 1.6).
#include <algorithm>
#include <cmath>

#include "numeric.h"
#include "reference.h"

namespace qgmm::reference {

float Exp(float t) {
  t = t > 0x1.64p+6f ? 0x1.64p+6f : t;  // 89: e^89 overflows. NaN passes both selects
  t = t < -0x1.ap+6f ? -0x1.ap+6f : t;  // -104: e^-104 < 2^-150 rounds to 0
  const float rounded = std::fma(t, 0x1.715476p+0f, 0x1.8p+23f);  // t * log2(e) as an integer, in the low bits
  const float whole = rounded - 0x1.8p+23f;
  float r = std::fma(whole, -0x1.62e43p-1f, t);  // t - whole * ln2 in two parts; the first is exact
  r = std::fma(whole, 0x1.05c61p-29f, r);
  float p = std::fma(0x1.6adbdap-10f, r, 0x1.1242e2p-7f);
  p = std::fma(p, r, 0x1.55571ap-5f);
  p = std::fma(p, r, 0x1.555482p-3f);
  p = std::fma(p, r, 0x1p-1f);
  p = std::fma(p, r, 0x1p+0f);
  p = std::fma(p, r, 0x1p+0f);
  const int32_t exponent = static_cast<int32_t>(Bits(rounded) - 0x4B400000u);
  const int32_t first = exponent >> 1;
  // Two factors: the first product is exact, the second rounds once, to Inf or to a subnormal where it must.
  const float power1 = FromBits(static_cast<uint32_t>(first + 127) << 23);
  const float power2 = FromBits(static_cast<uint32_t>(exponent - first + 127) << 23);
  return (p * power1) * power2;
}

float Silu(float v) { return v / (1.0f + Exp(-v)); }

float Activate(Activation activation, float z) {
  switch (activation) {
    case Activation::kNone: return z;
    case Activation::kRelu: return z < 0 ? 0 : z;
    case Activation::kSilu: return Silu(z);
    case Activation::kFastGelu: return z / (1.0f + Exp(z * -0x1.b3b646p+0f));
    case Activation::kGeluTanh: return z / (1.0f + Exp(z * std::fma(z * z, -0x1.2444f2p-4f, -0x1.988454p+0f)));
  }
  return z;
}

namespace {

float LargestQuantum(DType dtype) {
  switch (dtype) {
    case DType::kInt4: return 7;
    case DType::kFloat8E4M3: return 448;
    case DType::kFloat8E5M2: return 57344;
    default: return 127;
  }
}

uint8_t Quantum(float quotient, DType dtype, float max) {
  if (dtype == DType::kFloat8E4M3) return ToFloat8E4M3(quotient);
  if (dtype == DType::kFloat8E5M2) return ToFloat8E5M2(quotient);
  float q = std::rint(quotient);
  q = q > max ? max : q;
  q = q < -max ? -max : q;
  return static_cast<uint8_t>(static_cast<int>(q));
}

}  // namespace

float QuantizeRow(const float* v, int64_t h, DType dtype, uint8_t* q) {
  uint32_t largest = 0;  // of the bits without sign, as integers: NaN > Inf > finite, in any order
  for (int64_t j = 0; j < h; ++j) largest = std::max(largest, Bits(v[j]) & 0x7FFFFFFF);
  for (int64_t j = 0; j < h; ++j) q[j] = 0;
  if (largest > 0x7F800000) return FromBits(kNanBits);
  if (largest == 0x7F800000) return FromBits(largest);
  const float max = LargestQuantum(dtype);
  const float scale = FromBits(largest) / max;
  if (scale == 0) return scale;
  for (int64_t j = 0; j < h; ++j) q[j] = Quantum(v[j] / scale, dtype, max);
  return scale;
}

}  // namespace qgmm::reference
