// SPDX-License-Identifier: Apache-2.0
// Kernels of plain C++: every product, every slice, every machine.
#include "cpu/isa/scalar.h"

#include "cpu/epilogue-inl.h"
#include "cpu/isa/tables.h"
#include "cpu/pack_x-inl.h"

namespace qgmm::cpu {
namespace {

constexpr int kTileRows = 4;

/// Weight `k` of a panel's column, as packed.
template <Product kProduct>
inline int Weight(const uint8_t* w, int k, int column) {
  if constexpr (kProduct == Product::kInt4) {
    const int byte = w[k / 8 * kLineBytes + column * 4 + k % 4];
    return (k % 8 < 4 ? byte & 15 : byte >> 4) - 8;
  } else {
    return static_cast<int8_t>(w[k / 4 * kLineBytes + column * 4 + k % 4]);
  }
}

template <Product kProduct, class X = int8_t>
void GemmIntegers(const GemmArgs& a) {
  for (int i = 0; i < a.rows; ++i) {
    const X* x = static_cast<const X*>(a.x) + i * a.x_stride;
    int32_t* acc = static_cast<int32_t*>(a.acc) + i * kPairColumns;
    uint32_t sum[kPanelColumns];
    for (int c = 0; c < kPanelColumns; ++c) sum[c] = a.add ? static_cast<uint32_t>(acc[c]) : 0;
    for (int k = 0; k < a.k; ++k) {
      for (int c = 0; c < kPanelColumns; ++c) {
        sum[c] += static_cast<uint32_t>(x[k] * Weight<kProduct>(a.w[0], a.k_offset + k, c));
      }
    }
    for (int c = 0; c < kPanelColumns; ++c) acc[c] = static_cast<int32_t>(sum[c]);
  }
}

void GemmFloats(const GemmArgs& a) {
  for (int i = 0; i < a.rows; ++i) {
    const float* x = static_cast<const float*>(a.x) + i * a.x_stride;
    float* acc = static_cast<float*>(a.acc) + i * kPairColumns;
    for (int c = 0; c < kPanelColumns; ++c) {
      float sum = a.add ? acc[c] : 0.0f;
      for (int k = 0; k < a.k; ++k) {
        sum = std::fma(x[k], static_cast<float>(Weight<Product::kFloat>(a.w[0], a.k_offset + k, c)), sum);
      }
      acc[c] = sum;
    }
  }
}

}  // namespace

constexpr Kernel kScalarInt8 = {.name = "scalar_int8", .isa = Isa::kScalar, .product = Product::kInt8,
                                .tile_m = kTileRows, .min_rows = 1, .slice_step = 1, .k_block = 0, .x_bytes = 1,
                                .row_sums = false, .pack_x = PackXBytes, .widened_bytes = 0, .widen = nullptr,
                                .gemm = GemmIntegers<Product::kInt8>};
constexpr Kernel kScalarInt4 = {.name = "scalar_int4", .isa = Isa::kScalar, .product = Product::kInt4,
                                .tile_m = kTileRows, .min_rows = 1, .slice_step = 1, .k_block = 0, .x_bytes = 1,
                                .row_sums = false, .pack_x = PackXBytes, .widened_bytes = 0, .widen = nullptr,
                                .gemm = GemmIntegers<Product::kInt4>};
constexpr Kernel kScalarFloat = {.name = "scalar_float", .isa = Isa::kScalar, .product = Product::kFloat,
                                 .tile_m = kTileRows, .min_rows = 1, .slice_step = 1, .k_block = 0, .x_bytes = 4,
                                 .row_sums = false, .pack_x = PackXFloats<Scalar>, .widened_bytes = 0, .widen = nullptr,
                                 .gemm = GemmFloats};
constexpr Kernel kScalarFixed = {.name = "scalar_fixed", .isa = Isa::kScalar, .product = Product::kFixed16,
                                 .tile_m = kTileRows, .min_rows = 1, .slice_step = 1, .k_block = 0, .x_bytes = 2,
                                 .row_sums = false, .pack_x = PackXFixed<Scalar, InOrder<Scalar>>, .widened_bytes = 0,
                                 .widen = nullptr, .gemm = GemmIntegers<Product::kFixed16, int16_t>};
constexpr Stages kScalarStages = MakeStages<Scalar>(Isa::kScalar);

}  // namespace qgmm::cpu
