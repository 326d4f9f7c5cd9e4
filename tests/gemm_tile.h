// SPDX-License-Identifier: Apache-2.0
// One call of a kernel: rows of x, panels packed here byte by byte from the format's definition, memory ending at guard
// pages, accumulators among poison.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "cpu/kernel.h"
#include "cpu/plan.h"
#include "numeric.h"
#include "rows_ran.h"
#include "views.h"

namespace qgmm::cpu {

inline constexpr uint32_t kPoison = 0xABABABAB;

inline DType WeightType(const Kernel& kernel) { return kernel.product == Product::kInt4 ? DType::kInt4 : DType::kInt8; }
inline DType XType(const Kernel& kernel) {
  if (kernel.product == Product::kFixed16) return DType::kFloat16;
  return kernel.product == Product::kFloat ? DType::kFloat32 : DType::kInt8;
}

/// Rows of x and the panels of one call, as plain values and as the kernel reads them. `shift` bytes of weights and
/// `shift` elements of x lie between their ends and a guard page: 0 catches whoever reads on, others make addresses
/// unaligned.
struct Tile {
  const Kernel& kernel;
  int rows, k, slice, shift;
  std::vector<float> x;  // [rows][k]; small integers unless the product is kFloat; kFixed16: once packed, its X
  int columns;           // 16 per panel
  std::vector<int> w;    // [k][columns]
  GuardedBytes packed_x{0};
  GuardedBytes panel[2] = {GuardedBytes(0), GuardedBytes(0)}, widened[2] = {GuardedBytes(0), GuardedBytes(0)};
  std::vector<int32_t> row_sums;  // [rows][slices]

  Tile(const Kernel& row, int row_count, int k_size, int slice_size, int end_shift)
      : kernel(row), rows(row_count), k(k_size), slice(slice_size), shift(end_shift),
        x(static_cast<size_t>(rows) * k), columns(kPanelColumns * row.panels), w(static_cast<size_t>(k) * columns) {}

  void Fill(uint32_t seed) {
    std::mt19937 random(seed);
    const bool int4 = kernel.product == Product::kInt4;
    std::uniform_int_distribution<int> bytes(-128, 127), weights(int4 ? -8 : -128, int4 ? 7 : 127);
    std::uniform_real_distribution<float> reals(-2.0f, 2.0f);
    const bool real = kernel.product == Product::kFloat || kernel.product == Product::kFixed16;
    for (float& v : x) v = real ? reals(random) : static_cast<float>(bytes(random));
    for (int& v : w) v = weights(random);
    Pack();
  }

  int lanes() const { return kernel.needs == Certificate::kQuads ? 2 : 1; }  // lines whose products meet in int16

  /// Lanes that break the promise the kernel needs lose what is too much, the last weights first.
  void KeepPromise() {
    if (kernel.needs == Certificate::kNone) return;
    for (int c = 0; c < columns; ++c) {
      for (int k0 = 0; k0 < k; k0 += 4 * lanes()) {
        for (int half = 0; half < 4; half += 2) {
          int positive = 0, negative = 0;
          for (int i = 0; i < 4 * lanes(); ++i) {
            if (i % 4 / 2 != half / 2 || k0 + i >= k) continue;
            int& v = w[static_cast<size_t>((k0 + i) * columns + c)];
            v = std::clamp(v, std::min(0, -128 - negative), std::max(0, 128 - positive));
            (v > 0 ? positive : negative) += v;
          }
        }
      }
    }
  }

  /// Byte c * 4 + k % 4 of line k / 4; int4: of line k / 8, the low nibble for k % 8 < 4, the weight + 8.
  void PackPanel(int h) {
    const int line_k = LineK(WeightType(kernel)), step = std::max(line_k, kernel.slice_step);
    const int lines = (k + step - 1) / step * (step / line_k);  // panels are padded to more than any step
    const bool int4 = line_k == 8;
    panel[h] = GuardedBytes(static_cast<size_t>(lines * kLineBytes + shift));
    std::memset(panel[h].data(), int4 ? 0x88 : 0, static_cast<size_t>(lines * kLineBytes));
    for (int kk = 0; kk < k; ++kk) {
      for (int c = 0; c < kPanelColumns; ++c) {
        uint8_t& byte = panel[h].data()[kk / line_k * kLineBytes + 4 * c + kk % 4];
        const int v = w[static_cast<size_t>(kk * columns + h * kPanelColumns + c)];
        if (!int4) byte = static_cast<uint8_t>(v);
        if (int4 && kk % 8 < 4) byte = static_cast<uint8_t>((byte & 0xF0) | (v + 8));
        if (int4 && kk % 8 >= 4) byte = static_cast<uint8_t>((byte & 0x0F) | (v + 8) << 4);
      }
    }
    if (!kernel.widen) return;
    const int whole = (k + line_k - 1) / line_k;  // what a worker asks for
    widened[h] = GuardedBytes(static_cast<size_t>(whole * kernel.widened_bytes + 4 * shift));
    kernel.widen(panel[h].data(), whole, widened[h].data());
  }

  /// X of section 8.2 for x without outliers: the greatest of a block of 512 becomes 2^14 to 2^15.
  void ToFixed(const std::vector<uint16_t>& halves) {
    for (size_t i = 0; i < x.size(); ++i) x[i] = FromHalf(halves[i]);
    for (int i = 0; i < rows; ++i) {
      for (int first = 0; first < k; first += static_cast<int>(kFixedSlice)) {
        float* block = x.data() + i * k + first;
        const int count = std::min(static_cast<int>(kFixedSlice), k - first);
        float largest = 0;
        for (int kk = 0; kk < count; ++kk) largest = std::max(largest, std::fabs(block[kk]));
        const int exponent = largest == 0 ? 0 : std::ilogb(largest);
        for (int kk = 0; kk < count; ++kk) block[kk] = std::nearbyint(std::ldexp(block[kk], 14 - exponent));
      }
    }
  }

  void PackRows() {
    const int64_t stride = PackedStride(k, kernel);
    const int64_t padded_rows = (rows + kernel.row_step - 1) / kernel.row_step * kernel.row_step;
    packed_x = GuardedBytes(static_cast<size_t>(((padded_rows - 1) * stride + PaddedK(k) + shift) * kernel.x_bytes));
    std::memset(packed_x.data(), 0x55, packed_x.size());
    std::vector<int8_t> bytes(x.size());
    for (size_t i = 0; i < x.size() && kernel.product != Product::kFloat; ++i) bytes[i] = static_cast<int8_t>(x[i]);
    row_sums.assign(static_cast<size_t>(rows * (k / slice)), -1);
    std::vector<uint16_t> halves(x.size());
    for (size_t i = 0; i < x.size() && kernel.product == Product::kFixed16; ++i) halves[i] = ToHalf(x[i]);
    const size_t blocks = static_cast<size_t>((k + kFixedSlice - 1) / kFixedSlice * rows);
    std::vector<float> scales(blocks);
    std::vector<uint64_t> outliers(blocks * kOutlierWords);
    std::vector<int32_t> counts(static_cast<size_t>(rows));
    PackXArgs args = {};
    args.fixed = {scales.data(), outliers.data(), counts.data()};
    args.x = kernel.product == Product::kFloat ? static_cast<const void*>(x.data()) : bytes.data();
    if (kernel.product == Product::kFixed16) args.x = halves.data();
    args.dtype = XType(kernel);
    args.row_stride = k;
    args.k_stride = 1;
    args.rows = rows;
    args.k = k;
    args.padded_k = PaddedK(k);
    args.packed_stride = stride;
    args.slice = slice;
    args.packed = packed_x.data();
    args.row_sums = kernel.row_sums ? row_sums.data() : nullptr;
    kernel.pack_x(args);
    if (kernel.product == Product::kFixed16) ToFixed(halves);
  }

  void Pack() {
    KeepPromise();
    for (int h = 0; h < kernel.panels; ++h) PackPanel(h);
    PackRows();
  }

  /// What the kernel reads of panel h, from `first` on.
  const uint8_t* Lines(int h, int first) const {
    const int line = first / LineK(WeightType(kernel));
    return kernel.widen ? widened[h].data() + line * kernel.widened_bytes : panel[h].data() + line * kLineBytes;
  }

  /// Slices [first, first + count) folded into acc (fp32); scales [slices][32].
  void MultiplyFolded(int first, int count, const float* scales, void* acc) const {
    GemmArgs args = {};
    args.x_stride = PackedStride(k, kernel);
    args.x = packed_x.data() + PackedAt(kernel, args.x_stride, 0, first * slice) * kernel.x_bytes;
    for (int h = 0; h < kernel.panels; ++h) args.w[h] = Lines(h, first * slice);
    args.row_sums = row_sums.data() + first;
    args.row_sums_stride = k / slice;
    args.rows = rows;
    args.k = slice;
    args.add = first > 0;
    args.acc = acc;
    args.scales = scales + first * kPairColumns;
    args.slices = count;
    if (kernel.enter) kernel.enter();
    kernel.gemm(args);
    if (kernel.leave) kernel.leave();
    RowRan(kernel.name);
  }

  /// acc of `length` k from `first` on, which lie in one slice, on top of `acc` if `add`; acc is [rows][32], half
  /// `half`.
  void Multiply(int first, int length, bool add, void* acc) const {
    const int line_k = LineK(WeightType(kernel));
    GemmArgs args = {};
    int32_t column_sums[2][kPanelColumns];
    args.x_stride = PackedStride(k, kernel);
    args.x = packed_x.data() + PackedAt(kernel, args.x_stride, 0, first) * kernel.x_bytes;
    for (int h = 0; h < kernel.panels; ++h) {
      args.w[h] = Lines(h, first);
      for (int c = 0; c < kPanelColumns; ++c) {
        column_sums[h][c] = 0;
        for (int kk = first / slice * slice; kk < (first / slice + 1) * slice; ++kk) column_sums[h][c] +=
              w[static_cast<size_t>(kk * columns + h * kPanelColumns + c)];
      }
      args.column_sums[h] = column_sums[h];
    }
    args.row_sums = row_sums.data() + first / slice;
    args.row_sums_stride = k / slice;
    args.rows = rows;
    args.k = length;
    args.k_offset = first % line_k;
    args.add = add;
    args.acc = acc;
    if (kernel.enter) kernel.enter();
    kernel.gemm(args);
    if (kernel.leave) kernel.leave();
    RowRan(kernel.name);
  }

  /// What one output must be, as bits: the sum over [first, first + length), on top of `start` (bits).
  uint32_t Expected(int i, int c, int first, int length, uint32_t start) const {
    uint32_t sum = start;
    float real = FromBits(start);
    for (int kk = first; kk < first + length; ++kk) {
      const float xv = x[static_cast<size_t>(i) * k + kk];
      const int wv = w[static_cast<size_t>(kk * columns + c)];
      if (kernel.product == Product::kFloat) {
        real = std::fma(xv, static_cast<float>(wv), real);
      } else {
        sum += static_cast<uint32_t>(static_cast<int>(xv) * wv);
      }
    }
    return kernel.product == Product::kFloat ? Bits(real) : sum;
  }
};

/// Accumulators of one call, in one half of a row of 32 or all of it, with poison all around, but in the rows that fill up
/// a row_step. `shift`: 4 bytes off any alignment.
class Accumulators {
 public:
  Accumulators(const Tile& tile, int half)
      : rows_(tile.rows), padded_rows_((rows_ + tile.kernel.row_step - 1) / tile.kernel.row_step * tile.kernel.row_step),
        columns_(tile.columns), first_(kPairColumns + (columns_ == kPairColumns ? 0 : half) * kPanelColumns + tile.shift),
        words_(static_cast<size_t>((padded_rows_ + 2) * kPairColumns + tile.shift), kPoison) {}

  void* data() { return words_.data() + first_; }
  uint32_t& At(int i, int c) { return words_[static_cast<size_t>(first_ + i * kPairColumns + c)]; }

  void Expect(const std::function<uint32_t(int i, int c)>& value, const std::string& what) {
    std::vector<uint32_t> expected(words_.size(), kPoison);
    for (int i = 0; i < rows_; ++i) {
      for (int c = 0; c < columns_; ++c) expected[static_cast<size_t>(first_ + i * kPairColumns + c)] = value(i, c);
    }
    const size_t ignored = static_cast<size_t>(first_ + rows_ * kPairColumns);
    const size_t ignored_end = static_cast<size_t>(first_ + padded_rows_ * kPairColumns);
    for (size_t at = 0; at < words_.size(); ++at) {
      if (at >= ignored && at < ignored_end) continue;
      ASSERT_EQ(words_[at], expected[at]) << what << ", word " << static_cast<int64_t>(at) - first_;
    }
  }

 private:
  int rows_, padded_rows_, columns_, first_;
  std::vector<uint32_t> words_;
};

}  // namespace qgmm::cpu
