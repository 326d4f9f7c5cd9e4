// SPDX-License-Identifier: Apache-2.0
// Scalar conversions between fp32 and the storage types: f(v) and narrowing of docs/operators.md, section 1.2.
#pragma once

#include <bit>
#include <cstdint>

#include "qgmm/types.h"

namespace qgmm {

inline uint32_t Bits(float v) { return std::bit_cast<uint32_t>(v); }
inline float FromBits(uint32_t bits) { return std::bit_cast<float>(bits); }

inline constexpr uint32_t kNanBits = 0x7FC00000;  // every NaN that is computed is stored as this one

/// Exact.
float FromHalf(uint16_t bits);
float FromBFloat16(uint16_t bits);
float FromFloat8E4M3(uint8_t bits);
float FromFloat8E5M2(uint8_t bits);

/// One rounding to nearest even; overflow gives Inf; a NaN becomes 0x7E00 (half), 0x7FC0 (bfloat16).
uint16_t ToHalf(float v);
uint16_t ToBFloat16(float v);

/// One rounding to nearest even; magnitudes above the largest finite value (448, 57344) become it, the sign of zero
/// is kept. `v` is not NaN.
uint8_t ToFloat8E4M3(float v);
uint8_t ToFloat8E5M2(float v);

/// f(v): element `index` of an array of `dtype` as fp32. kInt64, kUInt64: the low 32 bits are the float's pattern.
/// kInt8, kInt32: converted, one rounding above 2^24.
float Load(const void* data, DType dtype, int64_t index);

/// v narrowed once to float32, float16 or bfloat16 and stored at `index`; NaN stored as the canonical one.
void Store(void* data, DType dtype, int64_t index, float v);

}  // namespace qgmm
