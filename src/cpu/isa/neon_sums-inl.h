// SPDX-License-Identifier: Apache-2.0
// What the tile loops of all Arm ISAs share: loads, the line as four registers of four columns, int32 accumulators.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "cpu/for_rows-inl.h"
#include "cpu/kernel.h"

namespace qgmm::cpu {
namespace {

constexpr int kQuarters = 4;          // of a line: registers of four columns with four k (int4: eight) each
constexpr int kPrefetchBytes = 2048;  // ahead in a panel that comes from memory; panels of a task are contiguous

inline int8x16_t LoadBytes(const void* p) { return vld1q_s8(static_cast<const int8_t*>(p)); }
inline uint8x16_t LoadNibbles(const uint8_t* p) { return vld1q_u8(p); }
inline void PrefetchAhead(const uint8_t* w) { __builtin_prefetch(w + kPrefetchBytes); }

// Accumulators whose address leaves a function stay in memory: clang 14 would call some of these.
#define QGMM_IN_REGISTERS __attribute__((always_inline))

/// No load moves across it. Both compilers would load the weights of a whole line ahead of their use, and then keep
/// accumulators on the stack.
inline void LoadsStayHere() { asm volatile("" ::: "memory"); }

/// Four k of a row, once per column of a register.
inline int8x16_t Broadcast4(const int8_t* p) {
  int32_t v;
  __builtin_memcpy(&v, p, sizeof(v));
  return vreinterpretq_s8_s32(vdupq_n_s32(v));
}

/// Nibbles as bytes 0..15, which signed instructions take as they are; the stored weights are + 8.
inline int8x16_t LowNibbles(uint8x16_t v) { return vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15))); }
inline int8x16_t HighNibbles(uint8x16_t v) { return vreinterpretq_s8_u8(vshrq_n_u8(v, 4)); }

/// What nibbles + 8 have added to the sums of row i, negative and modulo 2^32: an int4 slice starts from it.
inline int32_t NibbleStart(const GemmArgs& a, int i) {
  return static_cast<int32_t>(0u - 8u * static_cast<uint32_t>(a.row_sums[i * a.row_sums_stride]));
}

/// The accumulators of kRows rows x 16 columns.
template <int kRows>
struct Sums {
  int32x4_t c[kRows][kQuarters];

  template <bool kNibbles>
  QGMM_IN_REGISTERS void Start(const GemmArgs& a) {
    const int32_t* acc = static_cast<const int32_t*>(a.acc);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      int32x4_t start = vdupq_n_s32(0);
      if constexpr (kNibbles) {
        if (!a.add) start = vdupq_n_s32(NibbleStart(a, i));
      }
#pragma GCC unroll 4
      for (int j = 0; j < kQuarters; ++j) c[i][j] = a.add ? vld1q_s32(acc + i * kPairColumns + 4 * j) : start;
    }
  }
  QGMM_IN_REGISTERS void Finish(const GemmArgs& a) const {
    int32_t* acc = static_cast<int32_t*>(a.acc);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kQuarters; ++j) vst1q_s32(acc + i * kPairColumns + 4 * j, c[i][j]);
    }
  }
};

}  // namespace
}  // namespace qgmm::cpu
