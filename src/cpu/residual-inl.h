// SPDX-License-Identifier: Apache-2.0
// The residual stage: what the bytes of a certified panel lack, times x, added to its sums. x lies transposed, so that an
// entry is one load, one multiply-add per vector of rows; no branch depends on a column or a value.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/kernel.h"
#include "cpu/lines-inl.h"

namespace qgmm::cpu {
namespace {

/// Eight rows of 16 bytes, x + 128, as sixteen of eight, x; the first `count` of them are stored.
inline void TransposeEight(const Bytes16 (&row)[8], int count, int width, int8_t* out) {
  Bytes16 fours[4][2], twos[2][2];  // rows i, i + 4; then i, i + 2, i + 4, i + 6
  for (int i = 0; i < 4; ++i) fours[i][0] = ZipLow(row[i], row[i + 4]), fours[i][1] = ZipHigh(row[i], row[i + 4]);
  for (int h = 0; h < 2; ++h) {
    for (int i = 0; i < 2; ++i) {
      twos[i][0] = ZipLow(fours[i][h], fours[i + 2][h]);
      twos[i][1] = ZipHigh(fours[i][h], fours[i + 2][h]);
    }
    for (int q = 0; q < 2; ++q) {
      for (int part = 0; part < 2; ++part) {
        Bytes16 both = part == 0 ? ZipLow(twos[0][q], twos[1][q]) : ZipHigh(twos[0][q], twos[1][q]);
        both ^= 128;
        const int k = 8 * h + 4 * q + 2 * part;
        if (k < count) std::memcpy(out + k * width, &both, 8);
        if (k + 1 < count) std::memcpy(out + (k + 1) * width, reinterpret_cast<const char*>(&both) + 8, 8);
      }
    }
  }
}

/// out[k * width + i] = x[i][k] for the rows of a strip, zeros behind them; x: packed bytes, + 128, padded to 64.
void TransposeX(const uint8_t* x, int64_t x_stride, int rows, int width, int64_t k, int8_t* out) {
  if (width == 1) {
    for (int64_t i = 0; i < k; ++i) out[i] = static_cast<int8_t>(x[i] ^ 128);
    return;
  }
  for (int64_t k0 = 0; k0 < k; k0 += 16) {
    for (int i0 = 0; i0 < width; i0 += 8) {
      Bytes16 row[8];
      for (int i = 0; i < 8; ++i) {
        std::memset(&row[i], 128, sizeof(row[i]));
        if (i0 + i < rows) std::memcpy(&row[i], x + (i0 + i) * x_stride + k0, sizeof(row[i]));
      }
      TransposeEight(row, k - k0 < 16 ? static_cast<int>(k - k0) : 16, width, out + k0 * width + i0);
    }
  }
}

/// sum[i] += x[i] * value. Eight rows as one vector: left to g++ 12 they are eight scalar multiplications.
template <int kWidth>
inline void AddEntry(const int8_t* x, int value, int32_t* sum) {
  if constexpr (kWidth != kFewRows) {
    for (int i = 0; i < kWidth; ++i) sum[i] += static_cast<int16_t>(x[i]) * static_cast<int16_t>(value);
  } else {
    using Bytes8 = int8_t __attribute__((vector_size(8)));
    using Sums8 = int32_t __attribute__((vector_size(32)));
    Bytes8 rows;
    Sums8 sums;
    std::memcpy(&rows, x, sizeof(rows));
    std::memcpy(&sums, sum, sizeof(sums));
    sums += __builtin_convertvector(rows, Sums8) * value;
    std::memcpy(sum, &sums, sizeof(sums));
  }
}

/// Several rows wait for x, which the weights have driven out of L1: it is fetched some entries early.
template <int kWidth>
void AddResidualsOf(const ResidualArgs& a) {
  constexpr int kEntriesAhead = 8;
  std::memset(a.sums, 0, sizeof(int32_t) * kPanelColumns * kWidth);
  for (int e = 0; e < a.promise.count; ++e) {
    const uint32_t residual = a.promise.At(e);
    if (ResidualK(residual) >= a.k) break;  // ascending; hostile bytes only
    if (kWidth > 1 && e + kEntriesAhead < a.promise.count) {
      __builtin_prefetch(a.x + ResidualK(a.promise.At(e + kEntriesAhead)) * kWidth);
    }
    AddEntry<kWidth>(a.x + ResidualK(residual) * kWidth, ResidualValue(residual),
                     a.sums + ResidualColumn(residual) * kWidth);
  }
  for (int c = 0; c < kPanelColumns; ++c) {
    const int32_t* sum = a.sums + c * kWidth;
    for (int i = 0; i < a.rows; ++i) {
      int32_t& acc = a.acc[i * kPairColumns + c];
      acc = static_cast<int32_t>(static_cast<uint32_t>(acc) + static_cast<uint32_t>(sum[i]));
    }
  }
}

void AddResiduals(const ResidualArgs& a) {
  a.width == 1 ? AddResidualsOf<1>(a) : a.width == kFewRows ? AddResidualsOf<kFewRows>(a) : AddResidualsOf<kManyRows>(a);
}

}  // namespace
}  // namespace qgmm::cpu
