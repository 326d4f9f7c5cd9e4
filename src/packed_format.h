// SPDX-License-Identifier: Apache-2.0
// The bytes of a PackedWeight on the CPU: lines, panels, pairs, and where one weight lies. docs/packing.md explains.
//
//   line    16 columns x 4 consecutive k = 64 bytes: byte c * 4 + k % 4 (int4: 8 k, low nibble for k % 8 < 4)
//   panel   16 columns, all their lines contiguous, k padded with zeros to a multiple of 64
//   pair    panels 2i and 2i + 1: columns 32i .. 32i + 31, or, paired, 16 gate columns and their 16 up columns
//   bytes   header (64) | panels [e][P] | column sums int32 [e][P][16] of the bytes
//           and, if certified, certificates [e][P] | residual lists [e][P][capacity]
//   weight  the byte, plus its residue if the panel's list has one
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "problem.h"

namespace qgmm {

inline constexpr int kLineBytes = 64;
inline constexpr int kPanelColumns = 16;
inline constexpr int kPairColumns = 32;
inline constexpr int64_t kPadK = 64;
inline constexpr int64_t kHeaderBytes = 64;

inline int64_t PaddedK(int64_t k) { return (k + kPadK - 1) / kPadK * kPadK; }
inline int64_t Pairs(int64_t n) { return (n + kPairColumns - 1) / kPairColumns; }
/// k of one line: 4, or 8 for int4.
inline int LineK(DType dtype) { return dtype == DType::kInt4 ? 8 : 4; }
inline int64_t PanelBytes(DType dtype, int64_t k) { return PaddedK(k) / LineK(dtype) * kLineBytes; }

/// What is known of a panel's bytes: kPairs, kQuads: vpmaddubsw of x + 128 cannot saturate, alone or two steps added
/// (docs/packing.md). Each promise holds what those before it promise.
enum class Certificate : uint8_t { kNone, kPairs, kQuads };
inline constexpr int kCertificates = 3;

struct PackedHeader {
  char magic[8];
  uint32_t version;
  int32_t layout;
  int64_t e, k, n;
  int64_t residual_capacity;  // places in every panel's residual list; 0: no certificates
  int64_t bytes;              // of everything
  int64_t reserved;           // 0

  int64_t panels() const { return e * 2 * Pairs(n); }
  DType dtype() const { return layout >= static_cast<int32_t>(Layout::kCpuInt4) ? DType::kInt4 : DType::kInt8; }
  int64_t column_sums_offset() const { return kHeaderBytes + panels() * PanelBytes(dtype(), k); }
  int64_t certificates_offset() const { return column_sums_offset() + panels() * kPanelColumns * 4; }
  int64_t residuals_offset() const { return certificates_offset() + panels() * 8; }
};
static_assert(sizeof(PackedHeader) == kHeaderBytes);

PackedHeader MakeHeader(Layout layout, int64_t e, int64_t k, int64_t n, int64_t residual_capacity = 0);

/// A residual list's entry: which weight of the panel, and what its byte lacks. Entries sort by k, then by column.
inline constexpr int64_t kMaxResidualK = int64_t{1} << 20;
inline uint32_t MakeResidual(int64_t k, int column, int residue) {
  return static_cast<uint32_t>(k) << 12 | static_cast<uint32_t>(column) << 8 | (static_cast<uint32_t>(residue) & 255u);
}
inline int64_t ResidualK(uint32_t residual) { return residual >> 12; }
inline int ResidualColumn(uint32_t residual) { return static_cast<int>(residual >> 8 & 15); }
inline int ResidualValue(uint32_t residual) { return static_cast<int8_t>(residual & 255u); }

/// Certificate and list of one panel. Bytes may be anybody's: numbers that make no sense become no certificate, no list.
struct PanelPromise {
  Certificate certificate = Certificate::kNone;
  int count = 0;
  const uint8_t* residuals = nullptr;  // uint32 each, at any address

  uint32_t At(int i) const {
    uint32_t residual;
    __builtin_memcpy(&residual, residuals + 4 * static_cast<ptrdiff_t>(i), sizeof(residual));
    return residual;
  }
};

/// The certificates of one PackedWeight, found once.
class Promises {
 public:
  Promises() = default;
  explicit Promises(const PackedWeight& weight);

  bool given() const { return capacity_ > 0; }
  PanelPromise Of(int64_t expert, int64_t panel) const;
  /// Fetches what Of and the list's first entries will read.
  void Prefetch(int64_t expert, int64_t panel) const {
    const int64_t index = expert * panels_ + panel;
    __builtin_prefetch(certificates_ + index * 8);
    __builtin_prefetch(residuals_ + index * capacity_ * 4);
  }

 private:
  const uint8_t* certificates_ = nullptr;
  const uint8_t* residuals_ = nullptr;
  int64_t panels_ = 0, capacity_ = 0;
};

/// Validates the header and the size; empty string, or what is wrong, as the rest of a sentence.
std::string ReadHeader(const uint8_t* data, int64_t bytes, PackedWeight* weight);

/// Where the caller's column j stands: panel 0 .. 2 * Pairs(n) - 1 and column 0 .. 15 in it.
struct PanelColumn {
  int64_t panel;
  int column;
};
inline PanelColumn Place(int64_t j, int64_t n, bool paired) {
  if (!paired) return {j / kPanelColumns, static_cast<int>(j % kPanelColumns)};
  const int64_t h = n / 2, half = j / h, within = j % h;
  return {2 * (within / kPanelColumns) + half, static_cast<int>(within % kPanelColumns)};
}

/// The first of the caller's columns in `panel`, and how many of its 16 are real.
struct PanelSpan {
  int64_t first;
  int columns;
};
PanelSpan ColumnsOf(int64_t panel, int64_t n, bool paired);

/// Where the panels of one PackedWeight are, found once.
class PackedPanels {
 public:
  PackedPanels() = default;
  explicit PackedPanels(const PackedWeight& w)
      : panels_(2 * Pairs(w.n)), panel_bytes_(PanelBytes(w.dtype(), w.k)), lines_(w.data + kHeaderBytes),
        sums_(lines_ + w.e * panels_ * panel_bytes_) {}

  /// The first line of a panel.
  const uint8_t* Lines(int64_t expert, int64_t panel) const { return lines_ + (expert * panels_ + panel) * panel_bytes_; }
  /// Sums over k of the bytes of a panel's columns, int32 [16] at any address.
  const uint8_t* ColumnSums(int64_t expert, int64_t panel) const {
    return sums_ + (expert * panels_ + panel) * kPanelColumns * 4;
  }

 private:
  int64_t panels_ = 0, panel_bytes_ = 0;
  const uint8_t *lines_ = nullptr, *sums_ = nullptr;
};

}  // namespace qgmm
