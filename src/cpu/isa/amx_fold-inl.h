// SPDX-License-Identifier: Apache-2.0
// Slices of k on AMX: their sums leave the tiles through memory, and are folded into fp32 rows several slices at a time, which
// are then loaded and stored less often. Folding a few rows behind every step of the next slice, or of the one after, took 6
// to 10 % longer (Granite Rapids, slices of 128).
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/isa/amx_tiles-inl.h"

namespace qgmm::cpu {
namespace {

/// Sums of kSlices slices one after the other into the fp32 rows.
template <int kSlices>
void Fold(const int32_t* sums, const float* scales, bool first, int rows, float* acc) {
  __m512 scale[kSlices][2];
  for (int s = 0; s < kSlices; ++s) {
    scale[s][0] = _mm512_loadu_ps(scales + s * kPairColumns);
    scale[s][1] = _mm512_loadu_ps(scales + s * kPairColumns + kPanelColumns);
  }
  for (int i = 0; i < rows; ++i, sums += kPairColumns, acc += kPairColumns) {
    for (int h = 0; h < 2; ++h) {
      __m512 c = first ? _mm512_setzero_ps() : _mm512_loadu_ps(acc + h * kPanelColumns);
      for (int s = 0; s < kSlices; ++s) {
        const __m512i sum = _mm512_loadu_si512(sums + s * kSums + h * kPanelColumns);
        c = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale[s][h], c);
      }
      _mm512_storeu_ps(acc + h * kPanelColumns, c);
    }
  }
}

inline void Fold(int slices, const int32_t* sums, const float* scales, bool first, int rows, float* acc) {
  switch (slices) {
    case 1: return Fold<1>(sums, scales, first, rows, acc);
    case 2: return Fold<2>(sums, scales, first, rows, acc);
    case 3: return Fold<3>(sums, scales, first, rows, acc);
    default: return Fold<4>(sums, scales, first, rows, acc);
  }
}

template <Form kForm, int kStepK, int kFetchLines>
void MultiplySlices(const GemmArgs& a, int fetches) {
  Operands o = OperandsOf<kForm, kStepK>(a);
  Fetch<kFetchLines> fetch = FetchOf<kFetchLines>(a);
  constexpr int kTogether = kStepK == kTileK ? 2 : 4;  // 4 of 64 k or more: -6 %, as their sums leave L1; of 32 k: +7 %
  alignas(64) int32_t sums[kTogether * kSums];
  const int steps = a.k / kStepK;
  for (int slice = 0; slice < a.slices; ++slice, o.template Advance<kForm, kStepK>(steps)) {
    const int fetching = fetches < steps ? fetches : steps, at = slice % kTogether;
    ZeroSums<kForm>();
    TileProduct<kForm, kStepK>(o, fetch, a.k, fetching, a.waiting);
    StoreSums<kForm>(sums + at * kSums);
    fetches -= fetching;
    fetch.Advance(fetching);
    if (at + 1 < kTogether && slice + 1 < a.slices) continue;
    const bool first = slice == at && !a.add;
    Fold(at + 1, sums, a.scales + (slice - at) * kPairColumns, first, a.rows, static_cast<float*>(a.acc));
  }
}

}  // namespace
}  // namespace qgmm::cpu
