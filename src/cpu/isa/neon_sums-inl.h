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
constexpr int kPrefetchBytes = 4096;  // ahead in a panel that is widened; panels of a task are contiguous

inline int8x16_t LoadBytes(const void* p) { return vld1q_s8(static_cast<const int8_t*>(p)); }
inline uint8x16_t LoadNibbles(const uint8_t* p) { return vld1q_u8(p); }
inline void FetchToWiden(const uint8_t* line) { __builtin_prefetch(line + kPrefetchBytes); }

// Accumulators whose address leaves a function stay in memory: clang 14 would call some of these.
#define QGMM_IN_REGISTERS __attribute__((always_inline))

/// No load moves across it. Both compilers would load the weights of a whole line ahead of their use, and then keep
/// accumulators on the stack.
inline void LoadsStayHere() { asm volatile("" ::: "memory"); }

/// The compiler must have `sum` in a register here.
template <class Vector>
inline void InRegister(Vector& sum) { asm volatile("" : "+w"(sum)); }

/// Four k of a row, once per column of a register.
inline int8x16_t Broadcast4(const int8_t* p) {
  int32_t v;
  __builtin_memcpy(&v, p, sizeof(v));
  return vreinterpretq_s8_s32(vdupq_n_s32(v));
}

/// Nibbles as bytes 0..15, which signed instructions take as they are; the stored weights are + 8.
inline int8x16_t LowNibbles(uint8x16_t v) { return vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15))); }
inline int8x16_t HighNibbles(uint8x16_t v) { return vreinterpretq_s8_u8(vshrq_n_u8(v, 4)); }

/// Fetches what the worker says is read next, once per line.
struct Ahead {
  const uint8_t* at;
  int step;
  explicit Ahead(const GemmArgs& a) : at(a.prefetch[0]), step(a.prefetch_step) {}
  void Fetch() {
    __builtin_prefetch(at, 0, 2);  // into L2: it may be for the rows to come
    at += step;
  }
};

/// Slices of a call: one, unless it folds. Where they start in packed x and in the panel.
inline int SliceCount(const GemmArgs& a) { return a.scales ? a.slices : 1; }
inline const int8_t* SliceX(const GemmArgs& a, int slice) { return static_cast<const int8_t*>(a.x) + slice * a.k; }
inline const uint8_t* SliceLines(const GemmArgs& a, int slice, int lines, int line_bytes = kLineBytes) {
  return a.w[0] + static_cast<ptrdiff_t>(slice) * lines * line_bytes;
}

/// What a slice's sums start from: nibbles are stored + 8, which adds eight times the sum of x, modulo 2^32.
template <bool kNibbles>
inline int32_t FirstSum(const GemmArgs& a, int i, int slice) {
  if constexpr (!kNibbles) return 0;
  return static_cast<int32_t>(0u - 8u * static_cast<uint32_t>(a.row_sums[i * a.row_sums_stride + slice]));
}
inline bool Continues(const GemmArgs& a) { return a.add && a.scales == nullptr; }

/// Where the sums of a slice go, four columns of a row at a time: stored, or folded into fp32.
struct StoreSums {
  int32_t* acc;
  StoreSums(const GemmArgs& a, int /*slice*/) : acc(static_cast<int32_t*>(a.acc)) {}
  void Four(int i, int j, int32x4_t sum) const { vst1q_s32(acc + i * kPairColumns + 4 * j, sum); }
};
struct FoldSums {
  float* folded;
  const float* scales;
  uint32x4_t keep;  // zeros in the first slice, whatever `folded` holds
  FoldSums(const GemmArgs& a, int slice)
      : folded(static_cast<float*>(a.acc)), scales(a.scales + slice * kPairColumns),
        keep(vdupq_n_u32(slice == 0 && !a.add ? 0 : ~0u)) {}
  void Four(int i, int j, int32x4_t sum) const {
    float* at = folded + i * kPairColumns + 4 * j;
    const uint32x4_t before = vandq_u32(vreinterpretq_u32_f32(vld1q_f32(at)), keep);
    vst1q_f32(at, vfmaq_f32(vreinterpretq_f32_u32(before), vcvtq_f32_s32(sum), vld1q_f32(scales + 4 * j)));
  }
};
/// sums.Leave(where), by what the call wants.
template <class AllSums>
QGMM_IN_REGISTERS inline void Finish(const AllSums& sums, const GemmArgs& a, int slice) {
  if (a.scales) {
    sums.Leave(FoldSums(a, slice));
  } else {
    sums.Leave(StoreSums(a, slice));
  }
}

/// The accumulators of kRows rows x 16 columns.
template <int kRows>
struct Sums {
  int32x4_t c[kRows][kQuarters];

  template <bool kNibbles>
  QGMM_IN_REGISTERS void Start(const GemmArgs& a, int slice) {
    const int32_t* acc = static_cast<const int32_t*>(a.acc);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const int32x4_t first = vdupq_n_s32(FirstSum<kNibbles>(a, i, slice));
#pragma GCC unroll 4
      for (int j = 0; j < kQuarters; ++j) c[i][j] = Continues(a) ? vld1q_s32(acc + i * kPairColumns + 4 * j) : first;
    }
  }
  template <class Where>
  QGMM_IN_REGISTERS void Leave(const Where& where) const {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kQuarters; ++j) where.Four(i, j, c[i][j]);
    }
  }
};

}  // namespace
}  // namespace qgmm::cpu
