// SPDX-License-Identifier: Apache-2.0
// Conversions between fp32 and the storage types, by integers only: no floating-point mode can touch them.
#include "numeric.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace qgmm {
namespace {

constexpr uint32_t kSign = 0x80000000, kInfinity = 0x7F800000;

/// value / 2^shift, rounded half to even; 1 <= shift <= 31.
uint32_t RoundShift(uint32_t value, int shift) {
  const uint32_t half = uint32_t{1} << (shift - 1);
  const uint32_t odd = (value >> shift) & 1;
  return (value + half - 1 + odd) >> shift;
}

/// The code of a magnitude (bits of an fp32 >= 0) in a format with `mantissa` bits and exponent bias `bias` < 127,
/// rounded half to even as if the exponent had no upper end: codes beyond the largest finite one are the caller's.
uint32_t NarrowMagnitude(uint32_t magnitude, int mantissa, int bias) {
  const int drop = 23 - mantissa;
  const int least_normal = 128 - bias;  // as an exponent of fp32
  const int exponent = static_cast<int>(magnitude >> 23);
  if (exponent >= least_normal) return RoundShift(magnitude - (static_cast<uint32_t>(127 - bias) << 23), drop);
  const int shift = drop + least_normal - exponent;
  if (shift > 24) return 0;  // below half of the smallest subnormal
  return RoundShift((magnitude & 0x7FFFFF) | 0x800000, shift);
}

template <class T>
T LoadAs(const void* data, int64_t index) {  // memcpy: a view may start at any address
  T value;
  std::memcpy(&value, static_cast<const std::byte*>(data) + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

template <class T>
void StoreAs(void* data, int64_t index, T value) {
  std::memcpy(static_cast<std::byte*>(data) + index * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
}

}  // namespace

float FromHalf(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16, exponent = (bits >> 10) & 31, mantissa = bits & 0x3FF;
  if (exponent == 31) return FromBits(sign | kInfinity | (mantissa << 13));
  if (exponent == 0) return FromBits(sign | Bits(static_cast<float>(mantissa) * 0x1p-24f));  // exact, never subnormal
  return FromBits(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

float FromBFloat16(uint16_t bits) { return FromBits(static_cast<uint32_t>(bits) << 16); }

float FromFloat8E4M3(uint8_t bits) {
  const uint32_t sign = (bits & 0x80u) << 24, exponent = (bits >> 3) & 15, mantissa = bits & 7;
  if ((bits & 0x7F) == 0x7F) return FromBits(sign | kNanBits);  // this format has no Inf
  if (exponent == 0) return FromBits(sign | Bits(static_cast<float>(mantissa) * 0x1p-9f));
  return FromBits(sign | ((exponent + 120) << 23) | (mantissa << 20));
}

float FromFloat8E5M2(uint8_t bits) { return FromHalf(static_cast<uint16_t>(bits << 8)); }

uint16_t ToHalf(float v) {
  const uint32_t magnitude = Bits(v) & ~kSign;
  if (magnitude > kInfinity) return 0x7E00;
  return static_cast<uint16_t>(((Bits(v) & kSign) >> 16) | std::min(NarrowMagnitude(magnitude, 10, 15), 0x7C00u));
}

uint16_t ToBFloat16(float v) {
  const uint32_t magnitude = Bits(v) & ~kSign;
  if (magnitude > kInfinity) return 0x7FC0;
  return static_cast<uint16_t>(((Bits(v) & kSign) >> 16) | RoundShift(magnitude, 16));
}

uint8_t ToFloat8E4M3(float v) {
  return static_cast<uint8_t>(((Bits(v) & kSign) >> 24) | std::min(NarrowMagnitude(Bits(v) & ~kSign, 3, 7), 0x7Eu));
}

uint8_t ToFloat8E5M2(float v) {
  return static_cast<uint8_t>(((Bits(v) & kSign) >> 24) | std::min(NarrowMagnitude(Bits(v) & ~kSign, 2, 15), 0x7Bu));
}

float Load(const void* data, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::kInt8: return static_cast<float>(LoadAs<int8_t>(data, index));
    case DType::kInt32: return static_cast<float>(LoadAs<int32_t>(data, index));
    case DType::kInt64:
    case DType::kUInt64: return FromBits(static_cast<uint32_t>(LoadAs<uint64_t>(data, index)));
    case DType::kFloat16: return FromHalf(LoadAs<uint16_t>(data, index));
    case DType::kBFloat16: return FromBFloat16(LoadAs<uint16_t>(data, index));
    case DType::kFloat8E4M3: return FromFloat8E4M3(LoadAs<uint8_t>(data, index));
    case DType::kFloat8E5M2: return FromFloat8E5M2(LoadAs<uint8_t>(data, index));
    default: return LoadAs<float>(data, index);
  }
}

void Store(void* data, DType dtype, int64_t index, float v) {
  switch (dtype) {
    case DType::kFloat16: return StoreAs(data, index, ToHalf(v));
    case DType::kBFloat16: return StoreAs(data, index, ToBFloat16(v));
    default: return StoreAs(data, index, (Bits(v) & ~kSign) > kInfinity ? kNanBits : Bits(v));
  }
}

}  // namespace qgmm
