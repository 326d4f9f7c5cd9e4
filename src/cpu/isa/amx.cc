// SPDX-License-Identifier: Apache-2.0
// Kernels of AMX-INT8, whose products are in amx_tiles-inl.h.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/fixed-inl.h"
#include "cpu/isa/amx_fold-inl.h"
#include "cpu/isa/amx_tiles-inl.h"
#include "cpu/isa/avx2.h"
#include "cpu/isa/tables.h"

namespace qgmm::cpu {
namespace {

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

template <Form kForm, int kStepK, int kFetchLines>
void Multiply(const GemmArgs& a, int fetches) {
  if (kForm != Form::kHighLow && a.scales) return MultiplySlices<kForm, kStepK, kFetchLines>(a, fetches);
  const Operands o = OperandsOf<kForm, kStepK>(a);
  const Fetch<kFetchLines> fetch = FetchOf<kFetchLines>(a);
  int32_t* acc = static_cast<int32_t*>(a.acc);
  if constexpr (kForm == Form::kHighLow) {
    alignas(64) int32_t sums[kSums];
    ZeroSums<kForm>();
    TileProduct<kForm, kStepK>(o, fetch, a.k, fetches, a.waiting);
    StoreSums<kForm>(sums);
    AddHighAndLow(sums, a.add, a.rows, acc);
  } else {
    a.add ? LoadSums<kForm>(acc) : ZeroSums<kForm>();
    TileProduct<kForm, kStepK>(o, fetch, a.k, fetches, a.waiting);
    StoreSums<kForm>(acc);
  }
}

/// kLines: packed lines per step, what prefetch_step counts by. Two row tiles or one wait for memory, whatever the tiles
/// cost (below about 100 rows on a Granite Rapids: 15 GB/s a core against 2 KiB of weights per 130 cycles and row tile), so
/// there all of the next stretch is fetched; from three on 4 lines per step.
template <Form kForm, int kStepK, int kLines>
void MultiplyFetching(const GemmArgs& a) {
  const int slices = a.scales ? a.slices : 1, bytes = kLines * a.prefetch_step;  // of each panel per step
  const int steps = a.k / kStepK * slices;
  if (bytes == 0) return Multiply<kForm, kStepK, 0>(a, 0);
  if (bytes == 16 * kLineBytes) return Multiply<kForm, kStepK, 16>(a, steps);
  if (bytes == 8 * kLineBytes) return Multiply<kForm, kStepK, 8>(a, steps);
  if (bytes == 4 * kLineBytes) return Multiply<kForm, kStepK, 4>(a, steps);
  Multiply<kForm, kStepK, 2>(a, steps * bytes / (2 * kLineBytes) < steps ? steps * bytes / (2 * kLineBytes) : steps);
}

template <int kStepK, int kLines>
void GemmTiles(const GemmArgs& a) {
  a.rows > kTileRows ? MultiplyFetching<Form::k32Rows, kStepK, kLines>(a)
                     : MultiplyFetching<Form::k16Rows, kStepK, kLines>(a);
}

/// Tiles of 16 rows x kStepK k, those of the same rows in a row; zeros behind k.
template <int kStepK>
void PackXTiles(const PackXArgs& a) {
  for (int i = 0; i < a.rows; ++i) {
    const int row = a.first_row + i;
    const int8_t* x = static_cast<const int8_t*>(a.x) + i * a.row_stride;
    int8_t* out = static_cast<int8_t*>(a.packed) + (row / kTileRows - a.first_row / kTileRows) * kTileRows * a.packed_stride +
                  (row % kTileRows - a.first_row % kTileRows) * kStepK;
    for (int64_t k = 0; k < a.padded_k; k += kStepK, out += TileBytes(kStepK)) {
      const int64_t count = a.k - k < kStepK ? a.k - k : kStepK;
      if (a.k_stride == 1 && count == kStepK) {
        std::memcpy(out, x + k, kStepK);
        continue;
      }
      std::memset(out, 0, kStepK);
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
      uint8_t* to = bytes + k / kTileK * 2 * TileBytes(kTileK) + k % kTileK;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(high_bytes, order));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + TileBytes(kTileK)), _mm256_permutevar8x32_epi32(low_bytes, order));
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

/// k_block 1024: 32 KiB of a pair stay in L1, which x of several row tiles passes by. A step then takes 75 ticks of an Emerald
/// Rapids whose products alone take 59, with 512 k and x through L1 86, 1024 and x through L1 94. Nibbles, which are widened
/// into L1: 256 k 0.74 to 0.85, 1024 0.82 to 0.92 of the speed with 16 and 32 rows. Up to 8 rows the VNNI rows are as fast as
/// memory, or nearly.
template <int kStepK>
constexpr Kernel TileKernel(const char* name, Product product) {
  const bool nibbles = product == Product::kInt4;
  return {.name = name, .isa = Isa::kAmx, .product = product, .panels = 2, .tile_m = 2 * kTileRows, .row_step = kTileRows,
          .min_rows = 9, .slice_step = kStepK, .k_block = nibbles ? 512 : 1024, .ahead_bytes = 2048, .x_bytes = 1,
          .x_tile_k = kStepK, .row_sums = false, .folds = true, .meanwhile = true, .pack_x = PackXTiles<kStepK>,
          .widened_bytes = nibbles ? 2 * kLineBytes : 0, .widen = nibbles ? WidenNibbles : nullptr,
          .gemm = nibbles ? GemmTiles<kStepK, kStepK / 8> : GemmTiles<kStepK, kStepK / 4>, .enter = EnterTiles<kStepK>,
          .leave = LeaveTiles};
}

}  // namespace

constexpr Kernel kAmxInt8Half = TileKernel<kTileK / 2>("amx_int8_half", Product::kInt8);
constexpr Kernel kAmxInt8 = TileKernel<kTileK>("amx_int8", Product::kInt8);
constexpr Kernel kAmxInt4Half = TileKernel<kTileK / 2>("amx_int4_half", Product::kInt4);
constexpr Kernel kAmxInt4 = TileKernel<kTileK>("amx_int4", Product::kInt4);
constexpr Kernel kAmxFixed = {.name = "amx_fixed", .isa = Isa::kAmx, .product = Product::kFixed16, .panels = 2,
                              .tile_m = kTileRows, .row_step = kTileRows, .min_rows = 9, .slice_step = kTileK,
                              .k_block = 512, .ahead_bytes = 2048, .x_bytes = 2, .x_tile_k = kTileK, .row_sums = false,
                              .meanwhile = true, .pack_x = PackXFixed<Avx2, HighAndLow>, .widened_bytes = 0,
                              .widen = nullptr, .gemm = MultiplyFetching<Form::kHighLow, kTileK, 16>, .enter = EnterTiles<kTileK>,
                              .leave = LeaveTiles};

}  // namespace qgmm::cpu
