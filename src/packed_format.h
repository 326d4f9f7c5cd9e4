// SPDX-License-Identifier: Apache-2.0
// The bytes of a PackedWeight on the CPU: lines, panels, pairs, and where one weight lies. docs/packing.md explains.
//
//   line    16 columns x 4 consecutive k = 64 bytes: byte c * 4 + k % 4 (int4: 8 k, low nibble for k % 8 < 4)
//   panel   16 columns, all their lines contiguous, k padded with zeros to a multiple of 64
//   pair    panels 2i and 2i + 1: columns 32i .. 32i + 31, or, paired, 16 gate columns and their 16 up columns
//   bytes   header (64) | panels [e][P] | column sums int32 [e][P][16] of the weights
#pragma once

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

struct PackedHeader {
  char magic[8];
  uint32_t version;
  int32_t layout;
  int64_t e, k, n;
  int64_t panels_offset, column_sums_offset, bytes;  // from the start of the header
};
static_assert(sizeof(PackedHeader) == kHeaderBytes);

PackedHeader MakeHeader(Layout layout, int64_t e, int64_t k, int64_t n);

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

inline const uint8_t* PanelAt(const PackedWeight& w, int64_t expert, int64_t panel) {
  return w.data + kHeaderBytes + (expert * 2 * Pairs(w.n) + panel) * PanelBytes(w.dtype(), w.k);
}

}  // namespace qgmm
