// SPDX-License-Identifier: Apache-2.0
// Packed weights -> plain tensors.
#include <algorithm>
#include <cstring>

#include "cpu/backend.h"
#include "cpu/certify.h"
#include "cpu/huge_pages.h"
#include "cpu/team.h"
#include "packed_format.h"

namespace qgmm::cpu {
namespace {

using Bytes16 = uint8_t __attribute__((vector_size(16)));
using Shorts8 = uint16_t __attribute__((vector_size(16)));

constexpr int64_t kPanels = 8;  // of a task: cache lines of four gate and four up panels
constexpr int64_t kStretch = 16;  // lines of a panel at a time

/// A line's 16 columns x 4 bytes become rows of 16 bytes: a byte's place has six bits, and zipping the line's halves turns
/// them by one.
void RowsOfLine(const uint8_t* line, Bytes16 rows[4]) {
  std::memcpy(rows, line, kLineBytes);
  for (int round = 0; round < 4; ++round) {
    const Bytes16 a = rows[0], b = rows[1], c = rows[2], d = rows[3];
    rows[0] = __builtin_shufflevector(a, c, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    rows[1] = __builtin_shufflevector(a, c, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    rows[2] = __builtin_shufflevector(b, d, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    rows[3] = __builtin_shufflevector(b, d, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  }
}

/// 16 columns of k (low nibbles) and k + 4 (high), + 8 each: as 8 bytes of either, two's complement, columns ascending.
Bytes16 SplitNibbles(Bytes16 row) {
  const auto pairs = reinterpret_cast<Shorts8>(row ^ 0x88);
  const auto low = reinterpret_cast<Bytes16>((pairs & 0x000F) | (pairs >> 4 & 0x00F0));
  const auto high = reinterpret_cast<Bytes16>((pairs >> 4 & 0x000F) | (pairs >> 8 & 0x00F0));
  return __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}

/// Weights of one panel, whose columns are `columns` of plain's from `first` on, k [k, end), from true lines.
class PanelRows {
 public:
  PanelRows(const PackedWeight& weight, uint8_t* plain)
      : plain_(plain), int4_(weight.dtype() == DType::kInt4), row_bytes_(int4_ ? weight.n / 2 : weight.n) {}

  void Write(const PanelSpan& span, const uint8_t* lines, int64_t k, int64_t end) const {
    const size_t bytes = static_cast<size_t>(int4_ ? span.columns / 2 : span.columns);
    uint8_t* to = plain_ + k * row_bytes_ + (int4_ ? span.first / 2 : span.first);
    for (; k < end; k += int4_ ? 8 : 4, lines += kLineBytes, to += (int4_ ? 8 : 4) * row_bytes_) {
      Bytes16 rows[4];
      RowsOfLine(lines, rows);
      for (int b = 0; b < 4; ++b) {
        if (int4_) rows[b] = SplitNibbles(rows[b]);
        uint8_t* const row = to + b * row_bytes_;
        if (!int4_ && bytes == 16 && k + b < end) std::memcpy(row, &rows[b], 16);
        else if (k + b < end) std::memcpy(row, &rows[b], bytes);
        if (int4_ && k + b + 4 < end) std::memcpy(row + 4 * row_bytes_, reinterpret_cast<const uint8_t*>(&rows[b]) + 8, bytes);
      }
    }
  }

 private:
  uint8_t* const plain_;  // of the expert
  const bool int4_;
  const int64_t row_bytes_;
};

/// Panels [first, end) of one expert.
void UnpackPanels(const PackedWeight& weight, const Promises& promises, int64_t expert, int64_t first, int64_t end,
                  const PanelRows& rows) {
  const int64_t lines = PanelBytes(weight.dtype(), weight.k) / kLineBytes, line_k = LineK(weight.dtype());
  alignas(64) uint8_t stretch[kStretch * kLineBytes];
  for (int64_t line = 0; line < lines; line += kStretch) {
    const int64_t count = std::min(kStretch, lines - line), k = line * line_k;
    for (int64_t panel = first; panel < end; ++panel) {
      const PanelPromise promise = promises.Of(expert, panel);
      const uint8_t* from = PackedPanels(weight).Lines(expert, panel) + line * kLineBytes;
      if (promise.count > 0) {
        std::memcpy(stretch, from, static_cast<size_t>(count * kLineBytes));
        RestoreLines(promise, k, count, stretch);
        from = stretch;
      }
      rows.Write(ColumnsOf(panel, weight.n, weight.paired()), from, k, std::min(weight.k, k + count * line_k));
    }
  }
}

}  // namespace

void Unpack(const PackedWeight& weight, void* plain, Context& context) {
  const bool int4 = weight.dtype() == DType::kInt4;
  const int64_t panels = 2 * Pairs(weight.n), sets = (panels + kPanels - 1) / kPanels;
  const int64_t expert_bytes = weight.k * weight.n / (int4 ? 2 : 1);
  AskForHugePages(plain, static_cast<size_t>(weight.e * expert_bytes));
  const Promises promises(weight);
  const int workers = static_cast<int>(std::min<int64_t>(WorkersFor(context, nullptr), weight.e * sets));
  ParallelFor(context, workers, [&](int worker) {
    for (int64_t i = weight.e * sets * worker / workers; i < weight.e * sets * (worker + 1) / workers; ++i) {
      const int64_t expert = i / sets, first = i % sets * kPanels;
      uint8_t* const own = static_cast<uint8_t*>(plain) + expert * expert_bytes;
      UnpackPanels(weight, promises, expert, first, std::min(panels, first + kPanels), PanelRows(weight, own));
    }
  });
}

}  // namespace qgmm::cpu
