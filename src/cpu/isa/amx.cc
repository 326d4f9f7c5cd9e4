// SPDX-License-Identifier: Apache-2.0
// Kernels of AMX-INT8: a tile holds 16 rows of 64 bytes, so 16 lines of a panel are one tile of weights, 16 rows of x one of
// x, and a step of four products is 32 rows x a pair's 32 columns x 64 k. Weights and x are signed as they are.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/fixed-inl.h"
#include "cpu/isa/avx2.h"
#include "cpu/isa/tables.h"

namespace qgmm::cpu {
namespace {

constexpr int kTileRows = 16, kTileK = 64, kTileBytes = kTileRows * kTileK;
constexpr int kAccStride = kPairColumns * static_cast<int>(sizeof(int32_t));
constexpr int kSums = 2 * kTileRows * kPairColumns;  // of a call
static_assert(kTileK == kPadK && kTileBytes == kTileK / 4 * kLineBytes);

/// What the two tiles of x are: rows 0..15 and none, rows 0..15 and 16..31, or the high and the low bytes of 16 rows of
/// int16, X = 256 * high + low, the low ones unsigned.
enum class Form { k16Rows, k32Rows, kHighLow };

/// What ldtilecfg reads. Tiles 0, 1: sums of the first tile of x, gate and up; 2, 3: of the second; 4, 5: x; 6, 7: gate, up.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {kTileK, kTileK, kTileK, kTileK, kTileK, kTileK, kTileK, kTileK};
  uint8_t rows[16] = {kTileRows, kTileRows, kTileRows, kTileRows, kTileRows, kTileRows, kTileRows, kTileRows};
};
static_assert(sizeof(TileConfig) == 64);

void EnterTiles() {
  static constexpr TileConfig kConfig;
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
  template <Form kForm>
  void Advance(int steps = 1) {
    constexpr int kXStep = (kForm == Form::kHighLow ? 2 : 1) * kTileBytes;
    x[0] += steps * kXStep, x[1] += steps * kXStep;
    w[0] += steps * kTileBytes, w[1] += steps * kTileBytes;
  }
};

/// x0 w0 T w1 T x1 T T: 79-85 cycles from L1 on a Granite Rapids, no other of 400 orders was better; 64 are the four
/// products' own.
template <Form kForm, class Fetch>
inline __attribute__((always_inline)) void Step(const Operands& o, const Fetch& fetch) {
  constexpr int kSpots = kForm == Form::k16Rows ? 5 : 8;
  _tile_loadd(4, o.x[0], kTileK);
  fetch.template At<0, kSpots>();
  _tile_loadd(6, o.w[0], kTileK);
  fetch.template At<1, kSpots>();
  _tile_dpbssd(0, 4, 6);
  fetch.template At<2, kSpots>();
  _tile_loadd(7, o.w[1], kTileK);
  fetch.template At<3, kSpots>();
  _tile_dpbssd(1, 4, 7);
  fetch.template At<4, kSpots>();
  if constexpr (kForm != Form::k16Rows) {
    _tile_loadd(5, o.x[1], kTileK);
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
template <Form kForm>
void LastStep(Operands o, int k) {
  alignas(64) uint8_t w[2][kTileBytes] = {};
  const size_t bytes = static_cast<size_t>((k + 3) / 4 * kLineBytes);
  for (int h = 0; h < 2; ++h) {
    std::memcpy(w[h], o.w[h], bytes);
    o.w[h] = w[h];
  }
  StoresAreDone();
  Step<kForm>(o, Fetch<0>());
}

/// k of one slice, fetching in the first `fetching` steps. A function of its own with copies of its own: all pointers stay in
/// registers, which they do not in the loop over slices (clang 14).
template <Form kForm, int kFetchLines>
__attribute__((noinline)) void Product(const Operands& start, const Fetch<kFetchLines>& next, int k, int fetching) {
  Operands o = start;
  Fetch<kFetchLines> fetch = next;
  const int steps = k / kTileK;
  int step = 0;
  for (; step < fetching; ++step, o.template Advance<kForm>(), fetch.Advance()) Step<kForm>(o, fetch);
  for (; step < steps; ++step, o.template Advance<kForm>()) Step<kForm>(o, Fetch<0>());
  if (k % kTileK != 0) LastStep<kForm>(o, k % kTileK);
}

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

/// 256 times the sums of high bytes, and those of low bytes, which lie 16 rows behind.
void AddHighAndLow(const int32_t* sums, bool add, int rows, int32_t* acc) {
  for (int i = 0; i < rows; ++i, sums += kPairColumns, acc += kPairColumns) {
    for (int c = 0; c < kPairColumns; c += kPanelColumns) {
      const __m512i high = _mm512_slli_epi32(_mm512_loadu_si512(sums + c), 8);
      __m512i sum = _mm512_add_epi32(high, _mm512_loadu_si512(sums + kTileRows * kPairColumns + c));
      if (add) sum = _mm512_add_epi32(sum, _mm512_loadu_si512(acc + c));
      _mm512_storeu_si512(acc + c, sum);
    }
  }
}

/// One product of k after another, or slices that are folded two at a time: their fp32 rows are then loaded and stored
/// half as often.
template <Form kForm, int kFetchLines>
void Multiply(const GemmArgs& a, int fetches) {
  const int8_t* x = static_cast<const int8_t*>(a.x);
  Operands o = {{x, x + (kForm == Form::kHighLow ? kTileBytes : kTileRows * a.x_stride)}, {a.w[0], a.w[1]}};
  Fetch<kFetchLines> fetch = {{a.prefetch[0], a.prefetch[1]}};
  alignas(64) int32_t sums[2 * kSums];
  const int steps = a.k / kTileK;
  if constexpr (kForm == Form::kHighLow) {
    ZeroSums<kForm>();
    Product<kForm>(o, fetch, a.k, fetches);
    StoreSums<kForm>(sums);
    return AddHighAndLow(sums, a.add, a.rows, static_cast<int32_t*>(a.acc));
  }
  if (!a.scales) {
    a.add ? LoadSums<kForm>(static_cast<const int32_t*>(a.acc)) : ZeroSums<kForm>();
    Product<kForm>(o, fetch, a.k, fetches);
    return StoreSums<kForm>(static_cast<int32_t*>(a.acc));
  }
  for (int slice = 0; slice < a.slices; ++slice, o.template Advance<kForm>(steps)) {
    const int fetching = fetches < steps ? fetches : steps;
    ZeroSums<kForm>();
    Product<kForm>(o, fetch, a.k, fetching);
    StoreSums<kForm>(sums + slice % 2 * kSums);
    fetches -= fetching;
    fetch.Advance(fetching);
    const float* scales = a.scales + (slice & ~1) * kPairColumns;
    const bool first = slice < 2 && !a.add;
    if (slice % 2 == 1) Fold<2>(sums, scales, first, a.rows, static_cast<float*>(a.acc));
    if (slice % 2 == 0 && slice + 1 == a.slices) Fold<1>(sums, scales, first, a.rows, static_cast<float*>(a.acc));
  }
}

/// kLines: packed lines per step, what prefetch_step counts by. Two row tiles or one wait for memory, whatever the tiles
/// cost (below about 100 rows on a Granite Rapids: 17 GB/s a core against 2 KiB of weights per 85 cycles and row tile), so
/// there all of the next stretch is fetched; from three on 4 lines per step.
template <Form kForm, int kLines>
void MultiplyFetching(const GemmArgs& a) {
  const int slices = a.scales ? a.slices : 1, bytes = kLines * a.prefetch_step;  // of each panel per step
  const int steps = a.k / kTileK * slices;
  if (bytes == 0) return Multiply<kForm, 0>(a, 0);
  if (bytes == 16 * kLineBytes) return Multiply<kForm, 16>(a, steps);
  if (bytes == 8 * kLineBytes) return Multiply<kForm, 8>(a, steps);
  Multiply<kForm, 2>(a, steps * bytes / (2 * kLineBytes) < steps ? steps * bytes / (2 * kLineBytes) : steps);
}

template <int kLines>
void GemmTiles(const GemmArgs& a) {
  a.rows > kTileRows ? MultiplyFetching<Form::k32Rows, kLines>(a) : MultiplyFetching<Form::k16Rows, kLines>(a);
}

/// Tiles of 16 rows x 64 k, those of the same rows in a row; zeros behind k.
void PackXTiles(const PackXArgs& a) {
  for (int i = 0; i < a.rows; ++i) {
    const int row = a.first_row + i;
    const int8_t* x = static_cast<const int8_t*>(a.x) + i * a.row_stride;
    int8_t* out = static_cast<int8_t*>(a.packed) + (row / kTileRows - a.first_row / kTileRows) * kTileRows * a.packed_stride +
                  (row % kTileRows - a.first_row % kTileRows) * kTileK;
    for (int64_t k = 0; k < a.padded_k; k += kTileK, out += kTileBytes) {
      const int64_t count = a.k - k < kTileK ? a.k - k : kTileK;
      if (a.k_stride == 1 && count == kTileK) {
        std::memcpy(out, x + k, kTileK);
        continue;
      }
      std::memset(out, 0, kTileK);
      for (int64_t kk = 0; kk < count; ++kk) out[kk] = x[(k + kk) * a.k_stride];
    }
  }
}

/// X of 16 rows: tiles of their high bytes and of their low bytes, 64 k each.
struct HighAndLow {
  static constexpr int kTileRows = cpu::kTileRows;
  static void Store(const float* v, int count, float inverse, int16_t* out) {
    const __m256 factor = _mm256_set1_ps(inverse);
    const __m256i low = _mm256_set1_epi16(0xFF);
    uint8_t* bytes = reinterpret_cast<uint8_t*>(out);
    const auto shorts = [&](const float* from) {  // to nearest even; the order of 128-bit lanes is put right below
      return _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(from), factor)),
                                _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(from + 8), factor)));
    };
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int k = 0; k < count; k += 32) {
      const __m256i first = shorts(v + k), second = shorts(v + k + 16);
      const __m256i high_bytes = _mm256_packus_epi16(_mm256_srli_epi16(first, 8), _mm256_srli_epi16(second, 8));
      const __m256i low_bytes = _mm256_packus_epi16(_mm256_and_si256(first, low), _mm256_and_si256(second, low));
      uint8_t* to = bytes + k / kTileK * 2 * kTileBytes + k % kTileK;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(high_bytes, order));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + kTileBytes), _mm256_permutevar8x32_epi32(low_bytes, order));
    }
  }
};

/// A line of nibbles, the weight + 8, into two of signed bytes. tdpbsud would take them unsigned, but the -8 * sum(x) that
/// sums must then start from is 64 stores and 4 tile loads per row tile and slice; two subtractions per line run beside
/// the stores that limit this loop.
void WidenNibbles(const uint8_t* lines, int line_count, uint8_t* out) {
  const __m512i low = _mm512_set1_epi8(15), eight = _mm512_set1_epi8(8);
  for (int i = 0; i < line_count; ++i, lines += kLineBytes, out += 2 * kLineBytes) {
    const __m512i v = _mm512_loadu_si512(lines);
    _mm512_storeu_si512(out, _mm512_sub_epi8(_mm512_and_si512(v, low), eight));
    _mm512_storeu_si512(out + kLineBytes, _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(v, 4), low), eight));
  }
}

}  // namespace

// k_block 512: 16 KiB of x and 16 KiB of a pair stay in L1. With k in one piece both come from L2, 49 % of the tiles' peak
// on a Granite Rapids; 256 reach 48 %, 512 60 %, 1024 54 %. Up to 8 rows the VNNI rows are as fast as memory.
constexpr Kernel kAmxInt8 = {.name = "amx_int8", .isa = Isa::kAmx, .product = Product::kInt8, .panels = 2,
                             .tile_m = 2 * kTileRows, .row_step = kTileRows, .min_rows = 9, .slice_step = kTileK,
                             .k_block = 512, .ahead_bytes = 2048, .x_bytes = 1, .x_tiles = true, .row_sums = false,
                             .folds = true, .meanwhile = true, .pack_x = PackXTiles, .widened_bytes = 0,
                             .widen = nullptr, .gemm = GemmTiles<16>, .enter = EnterTiles, .leave = LeaveTiles};
constexpr Kernel kAmxInt4 = {.name = "amx_int4", .isa = Isa::kAmx, .product = Product::kInt4, .panels = 2,
                             .tile_m = 2 * kTileRows, .row_step = kTileRows, .min_rows = 32, .slice_step = kTileK,
                             .k_block = 512, .ahead_bytes = 2048, .x_bytes = 1, .x_tiles = true, .row_sums = false,
                             .folds = true, .meanwhile = true, .pack_x = PackXTiles, .widened_bytes = 2 * kLineBytes,
                             .widen = WidenNibbles, .gemm = GemmTiles<8>, .enter = EnterTiles, .leave = LeaveTiles};

constexpr Kernel kAmxFixed = {.name = "amx_fixed", .isa = Isa::kAmx, .product = Product::kFixed16, .panels = 2,
                              .tile_m = kTileRows, .row_step = kTileRows, .min_rows = 9, .slice_step = kTileK,
                              .k_block = 512, .ahead_bytes = 2048, .x_bytes = 2, .x_tiles = true, .row_sums = false,
                              .meanwhile = true, .pack_x = PackXFixed<Avx2, HighAndLow>, .widened_bytes = 0,
                              .widen = nullptr, .gemm = MultiplyFetching<Form::kHighLow, 16>, .enter = EnterTiles,
                              .leave = LeaveTiles};

}  // namespace qgmm::cpu
