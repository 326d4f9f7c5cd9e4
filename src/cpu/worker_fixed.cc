// SPDX-License-Identifier: Apache-2.0
// kFixed16: where a block's scales and outliers lie, and the outliers' terms after the last slice.
#include <algorithm>
#include <cstring>

#include "cpu/certify.h"
#include "cpu/pack.h"
#include "cpu/worker.h"

namespace qgmm::cpu {

/// Of the block in scratch, from that row on.
FixedRows Worker::Fixed(int row) const {
  return {At<float>(plan_.scratch.fixed_scales) + row * slices_,
          At<uint64_t>(plan_.scratch.outliers) + row * slices_ * kOutlierWords,
          At<int32_t>(plan_.scratch.outlier_counts) + row};
}

/// One row behind the block's: bit k says that some row has an outlier there.
void Worker::UniteOutliers(const RowBlock& b) {
  const FixedRows fixed = Fixed(0);
  outliers_ = std::any_of(fixed.counts, fixed.counts + b.packed_rows, [](int32_t count) { return count > 0; });
  if (!outliers_) return;
  const int64_t words = slices_ * kOutlierWords;
  uint64_t* any = Fixed(b.packed_rows).outliers;
  std::fill(any, any + words, 0);
  for (int i = 0; i < b.packed_rows; ++i) {
    for (int64_t word = 0; fixed.counts[i] > 0 && word < words; ++word) any[word] |= fixed.outliers[i * words + word];
  }
}

/// True weights of a panel of which only the lines with an outlier need exist. Several stretches of k: none of them has all
/// lines, so those that count are fetched once more.
const uint8_t* Worker::OutlierLines(const RowBlock& b, const PairLines& lines, int64_t pair, int h) {
  if (b.k_block >= p_.k) return lines.bytes[h];
  const int64_t panel = 2 * pair + h;
  if (p_.w.packed.given() && lines.promise[h].count == 0) return panels_.Lines(b.expert, panel);
  const int64_t count = (p_.k + LineK(p_.w.dtype) - 1) / LineK(p_.w.dtype);
  uint8_t* out = At<uint8_t>(plan_.scratch.outlier_lines) + h * count * kLineBytes;
  if (outlier_pair_ == pair) return out;
  const uint64_t* any = Fixed(b.packed_rows).outliers;
  for (int64_t line = 0; line < count; ++line) {
    if ((any[line / 16] >> (line % 16 * 4) & 15) == 0) continue;
    uint8_t* to = out + line * kLineBytes;
    if (p_.w.packed.given()) std::memcpy(to, panels_.Lines(b.expert, panel) + line * kLineBytes, kLineBytes);
    else PackPanels(p_.w, {b.expert, panel, 1, line, 1, to, kLineBytes}, plan_.stages->lines);
  }
  if (p_.w.packed.given()) RestoreLines(lines.promise[h], 0, count, out);
  return out;
}

void Worker::AddOutliers(const RowBlock& b, const PairLines& lines, int64_t pair, int row, int rows) {
  if (p_.product != Product::kFixed16 || !outliers_) return;
  OutlierArgs args = {};
  args.x = static_cast<const std::byte*>(p_.x.data) + (b.first_row + row) * p_.x.row_stride * Bytes(p_.x.dtype);
  args.dtype = p_.x.dtype;
  args.row_stride = p_.x.row_stride;
  args.k_stride = p_.x.column_stride;
  args.fixed = Fixed(row);
  args.slices = slices_;
  for (int h = 0; h < 2; ++h) args.lines[h] = OutlierLines(b, lines, pair, h);
  outlier_pair_ = pair;
  args.rows = rows;
  args.c = At<float>(plan_.scratch.folded) + AccRow(b, lines.sums, row, 0) * kPairColumns;
  plan_.stages->add_outliers(args);
}

}  // namespace qgmm::cpu
