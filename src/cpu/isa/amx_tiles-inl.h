// SPDX-License-Identifier: Apache-2.0
// Products of AMX-INT8 tiles: a tile holds 16 rows of 64 bytes, so 16 lines of a panel are one tile of weights, 16 rows of x one
// of x, and a step of four products is 32 rows x a pair's 32 columns x 64 k. Weights and x are signed as they are.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/finish_rows-inl.h"
#include "cpu/isa/avx512.h"
#include "cpu/kernel.h"

namespace qgmm::cpu {
namespace {

constexpr int kTileRows = 16, kTileK = 64;
constexpr int TileBytes(int step_k) { return kTileRows * step_k; }  // of x, and of a panel
constexpr int kAccStride = kPairColumns * static_cast<int>(sizeof(int32_t));
constexpr int kSums = 2 * kTileRows * kPairColumns;  // of a call
static_assert(kTileK == kPadK && TileBytes(kTileK) == kTileK / 4 * kLineBytes);

/// What the two tiles of x are: rows 0..15 and none, rows 0..15 and 16..31, or the high and the low bytes of 16 rows of
/// int16, X = 256 * high + low, the low ones unsigned.
enum class Form { k16Rows, k32Rows, kHighLow };

/// What ldtilecfg reads. Tiles 0, 1: sums of the first tile of x, gate and up; 2, 3: of the second; 4, 5: x; 6, 7: gate, up.
/// A step takes kStepK k: a tile of x has so many bytes per row, one of weights a row per 4.
template <int kStepK>
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, kStepK, kStepK, 64, 64};
  uint8_t rows[16] = {kTileRows, kTileRows, kTileRows, kTileRows, kTileRows, kTileRows, kStepK / 4, kStepK / 4};
};
static_assert(sizeof(TileConfig<kTileK>) == 64);

template <int kStepK>
void EnterTiles() {
  static constexpr TileConfig<kStepK> kConfig;
#if defined(QGMM_EMULATED_TILES)
  _tile_loadconfig(&kConfig);
#else
  // GCC 12's _tile_loadconfig names 8 of the 64 bytes as its input.
  asm volatile("ldtilecfg %0" : : "m"(kConfig) : "memory");
#endif
}

void LeaveTiles() { _tile_release(); }

/// Tile loads of GCC's header do not say that they read memory.
inline void StoresAreDone() { asm volatile("" : : : "memory"); }

/// Lines of what comes next, fetched into L2 between the tile instructions of a step, gate and up in turn. kLines of each
/// panel per step: 2 are nearly free on a Granite Rapids, 4 are not; fetching in bursts costs 10 to 20 %, and fetching into
/// L1 or past the caches (T0, NTA) more than T1.
template <int kLines>
struct Fetch {
  /// x by loads that do not keep it in L1, which weights stay in. An only row tile's passes weights by instead: all lines.
  static constexpr bool kStreamX = kLines != 16;
  const uint8_t* w[2];

  template <int kSpot, int kSpots>
  void At() const {
    constexpr int kEnd = 2 * kLines * (kSpot + 1) / kSpots;
#pragma GCC unroll 32
    for (int i = 2 * kLines * kSpot / kSpots; i < kEnd; ++i) {
      _mm_prefetch(reinterpret_cast<const char*>(w[i % 2]) + i / 2 * kLineBytes, _MM_HINT_T1);
    }
  }
  void Advance(int steps = 1) {
    w[0] += steps * kLines * kLineBytes;
    w[1] += steps * kLines * kLineBytes;
  }
};

/// Where a call reads.
struct Operands {
  const int8_t* x[2];
  const uint8_t* w[2];
  template <Form kForm, int kStepK>
  void Advance(int steps = 1) {
    constexpr int kBytes = TileBytes(kStepK), kXStep = (kForm == Form::kHighLow ? 2 : 1) * kBytes;
    x[0] += steps * kXStep, x[1] += steps * kXStep;
    w[0] += steps * kBytes, w[1] += steps * kBytes;
  }
};

/// x0 w0 T w1 T x1 T T: no other of 400 orders was better. On a quiet core of an Emerald Rapids, whose products alone take 59
/// ticks: 63 with x from L2 and weights from L1, 75 with sums loaded and stored every 16 steps, 10 more with lines fetched from
/// memory, and 11 with a row of SwiGLU.
template <Form kForm, int kStepK, class Fetch>
inline __attribute__((always_inline)) void Step(const Operands& o, const Fetch& fetch) {
  constexpr int kSpots = kForm == Form::k16Rows ? 5 : 8;
  constexpr bool kStream = Fetch::kStreamX;
  if constexpr (kStream) _tile_stream_loadd(4, o.x[0], kStepK);
  else _tile_loadd(4, o.x[0], kStepK);
  fetch.template At<0, kSpots>();
  _tile_loadd(6, o.w[0], kLineBytes);
  fetch.template At<1, kSpots>();
  _tile_dpbssd(0, 4, 6);
  fetch.template At<2, kSpots>();
  _tile_loadd(7, o.w[1], kLineBytes);
  fetch.template At<3, kSpots>();
  _tile_dpbssd(1, 4, 7);
  fetch.template At<4, kSpots>();
  if constexpr (kForm != Form::k16Rows) {
    if constexpr (kStream) _tile_stream_loadd(5, o.x[1], kStepK);
    else _tile_loadd(5, o.x[1], kStepK);
    fetch.template At<5, kSpots>();
    if constexpr (kForm == Form::k32Rows) _tile_dpbssd(2, 5, 6);
    if constexpr (kForm == Form::kHighLow) _tile_dpbusd(2, 5, 6);
    fetch.template At<6, kSpots>();
    if constexpr (kForm == Form::k32Rows) _tile_dpbssd(3, 5, 7);
    if constexpr (kForm == Form::kHighLow) _tile_dpbusd(3, 5, 7);
    fetch.template At<7, kSpots>();
  }
}

template <Form kForm>
void ZeroSums() {
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kForm != Form::k16Rows) {
    _tile_zero(2);
    _tile_zero(3);
  }
}

template <Form kForm>
void LoadSums(const int32_t* acc) {
  _tile_loadd(0, acc, kAccStride);
  _tile_loadd(1, acc + kPanelColumns, kAccStride);
  if constexpr (kForm != Form::k16Rows) {
    _tile_loadd(2, acc + kTileRows * kPairColumns, kAccStride);
    _tile_loadd(3, acc + kTileRows * kPairColumns + kPanelColumns, kAccStride);
  }
}

template <Form kForm>
void StoreSums(int32_t* acc) {
  _tile_stored(0, acc, kAccStride);
  _tile_stored(1, acc + kPanelColumns, kAccStride);
  if constexpr (kForm != Form::k16Rows) {
    _tile_stored(2, acc + kTileRows * kPairColumns, kAccStride);
    _tile_stored(3, acc + kTileRows * kPairColumns + kPanelColumns, kAccStride);
  }
}

/// The last k of x, fewer than a tile has: lines behind the panel's are taken as zeros.
template <Form kForm, int kStepK>
void LastStep(Operands o, int k) {
  alignas(64) uint8_t w[2][TileBytes(kStepK)] = {};
  const size_t bytes = static_cast<size_t>((k + 3) / 4 * kLineBytes);
  for (int h = 0; h < 2; ++h) {
    std::memcpy(w[h], o.w[h], bytes);
    o.w[h] = w[h];
  }
  StoresAreDone();
  Step<kForm, kStepK>(o, Fetch<0>());
}

/// Read by a load of its own. GCC joins loads of neighbouring pointers into one, which waits until the two stores that made
/// them, and all before, have reached L1: the sums of the call before among them, for which its last products must end.
template <class T>
inline T* Alone(T* pointer) {
  asm volatile("" : "+r"(pointer));
  return pointer;
}

template <Form kForm, int kStepK>
inline Operands OperandsOf(const GemmArgs& a) {
  const int8_t* x = Alone(static_cast<const int8_t*>(a.x));
  const ptrdiff_t second = kForm == Form::kHighLow ? TileBytes(kStepK) : kTileRows * a.x_stride;
  return {{x, x + second}, {Alone(a.w[0]), Alone(a.w[1])}};
}

template <int kFetchLines>
inline Fetch<kFetchLines> FetchOf(const GemmArgs& a) {
  return {{Alone(a.prefetch[0]), Alone(a.prefetch[1])}};
}

/// No rows to finish.
struct NoRows {
  NoRows(const StripArgs*, int) {}
  void Finish() {}
};

/// `Rows` of a strip from there on.
template <class Rows>
struct Waiting : Rows {
  Waiting(const StripArgs* strip, int row) : Rows(*strip, row) {}
};

/// k of one slice, fetching in the first `fetching` steps, finishing a row each in the first `finishing`, at most as many. A
/// function of its own with copies of its own: all pointers stay in registers, which they do not in the loop over slices
/// (clang 14).
template <class Rows, Form kForm, int kStepK, int kFetchLines>
__attribute__((noinline)) void TileProduct(const int8_t* x0, const int8_t* x1, const uint8_t* w0, const uint8_t* w1,
                                           const uint8_t* next0, const uint8_t* next1, int k, int fetching,
                                           const StripArgs* strip, int row, int finishing) {
  Operands o = {{x0, x1}, {w0, w1}};
  Fetch<kFetchLines> fetch = {{next0, next1}};
  Rows rows(strip, row);
  const int steps = k / kStepK;
  int step = 0;
  for (; step < finishing; ++step, o.template Advance<kForm, kStepK>(), fetch.Advance()) {
    Step<kForm, kStepK>(o, fetch);
    rows.Finish();
  }
  for (; step < fetching; ++step, o.template Advance<kForm, kStepK>(), fetch.Advance()) Step<kForm, kStepK>(o, fetch);
  for (; step < steps; ++step, o.template Advance<kForm, kStepK>()) Step<kForm, kStepK>(o, Fetch<0>());
  if (k % kStepK != 0) LastStep<kForm, kStepK>(o, k % kStepK);
}

template <class Rows, Form kForm, int kStepK, int kFetchLines>
inline void ProductAnd(const Operands& o, const Fetch<kFetchLines>& f, int k, int fetching, WaitingRows* w) {
  const StripArgs* strip = nullptr;
  int row = 0, finishing = 0;
  if (w) {
    strip = w->strip, row = w->row;
    finishing = w->end - row < fetching ? w->end - row : fetching;
    w->row += finishing;
  }
  TileProduct<Rows, kForm, kStepK, kFetchLines>(o.x[0], o.x[1], o.w[0], o.w[1], f.w[0], f.w[1], k, fetching, strip, row,
                                                finishing);
}

/// Rows wait where a block has several row tiles, which fetch few lines each.
template <Form kForm, int kStepK, int kFetchLines>
inline void TileProduct(const Operands& o, const Fetch<kFetchLines>& f, int k, int fetching, WaitingRows* w) {
  if constexpr (kFetchLines == 2 || kFetchLines == 4) {
    if (w && w->row < w->end) {
      const Finish finish = w->strip->problem->epilogue.finish;
      if constexpr (kForm == Form::kHighLow) {  // operator B's alone
        if (finish == Finish::kAffine) return ProductAnd<Waiting<AffineRows<Avx512>>, kForm, kStepK>(o, f, k, fetching, w);
      } else {
        if (finish == Finish::kSwigluQuant) return ProductAnd<Waiting<SwigluRows<Avx512>>, kForm, kStepK>(o, f, k, fetching, w);
        if (finish == Finish::kDequantize) return ProductAnd<Waiting<PlainRows<Avx512>>, kForm, kStepK>(o, f, k, fetching, w);
      }
    }
  }
  ProductAnd<NoRows, kForm, kStepK>(o, f, k, fetching, nullptr);
}

}  // namespace
}  // namespace qgmm::cpu
