// SPDX-License-Identifier: Apache-2.0
// Rows, columns or anything strided -> lines of panels.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "cpu/certify.h"
#include "cpu/gather.h"
#include "cpu/pack.h"
#include "cpu/prefetch.h"

namespace qgmm::cpu {
namespace {

constexpr uint8_t kZeroNibbles = 0x88;  // stored nibbles are the weight + 8
constexpr int kRowsAhead = 8;  // that strided rows are fetched early: each is a page, so no prefetcher of the machine's helps
// That strided columns are fetched early. The next stretch of the same column instead: 0.8 of the speed (two Zen 4 cores); for
// int4, which reads two runs of 4 KB a stretch, it is the next stretch.
constexpr int kColumnsAhead = 6;
constexpr int kTileLines = 16;
constexpr int kTilePanels = 4, kTileColumns = kTilePanels * kPanelColumns;  // a cache line of int8
constexpr int kColumnBytes = 4 * kMaxLines;  // of a column's stretch of int8
static_assert(kTilePanels * kTileLines == kMaxLines);  // a tile of rows is as large as a stretch of one panel's columns

/// The span's panels whose columns are neighbours: all of them, or, paired, either the gate or the up panels.
class Neighbours {
 public:
  Neighbours(const Weights& w, const PackSpan& span, const LineMakers& makers, int64_t first, int64_t step)
      : w_(w), makers_(makers), source_(w.Of(span.expert)), span_(span), first_(first), step_(step),
        panels_((span.panels - first + step - 1) / step), line_k_(LineK(w.dtype)), int4_(w.dtype == DType::kInt4) {
    const int64_t start = span.first_panel + first;
    const int64_t width = w.paired ? w.n / 2 : w.n, within = (w.paired ? start / 2 : start) * kPanelColumns;
    column_ = within + (w.paired ? start % 2 * width : 0);
    columns_ = std::clamp<int64_t>(width - within, 0, panels_ * kPanelColumns);
    rows_ = source_.n_stride == 1;
    const bool nearer = source_.k_stride == 1 || std::abs(source_.k_stride) < std::abs(source_.n_stride);
    columns_run_ = !rows_ && nearer && (!int4_ || column_ % 8 == 0);
  }

  int64_t tiles() const { return columns_run_ ? panels_ : (panels_ + kTilePanels - 1) / kTilePanels; }
  bool columns_run() const { return columns_run_; }  // neighbours along k are nearer than along n

  /// Lines [line, line + lines) of the tile's panels; `line` from the span's first.
  void PackTile(int64_t tile, int64_t line, int64_t lines) {
    later_ = {};
    tile_panel_ = columns_run_ ? tile : tile * kTilePanels;
    tile_line_ = line;
    const int64_t count = columns_run_ ? 1 : std::min<int64_t>(kTilePanels, panels_ - tile_panel_);
    if (columns_run_) PackColumns(tile_panel_, line, lines);
    else PackRows(tile_panel_, count, line, lines);
    for (int64_t p = tile_panel_; p < tile_panel_ + count && span_.certifiers != nullptr; ++p) {
      later_.Fetch();
      PassOn(span_, first_ + p * step_, line, lines, Out(p, line), makers_);
    }
  }

 private:
  uint8_t* Out(int64_t panel, int64_t line) {
    if (span_.certifiers == nullptr) return span_.out + (first_ + panel * step_) * span_.panel_stride + line * kLineBytes;
    return tile_ + ((panel - tile_panel_) * kTileLines + line - tile_line_) * kLineBytes;
  }

  /// What the next tile reads, `ahead` bytes from what this one does (0: nothing): `runs` of `bytes`. It is fetched while
  /// lines are made, or, if they are certified, while they are that: a core keeps few misses in flight, and memory rested
  /// then. Two Zen 3 cores: rows 1.12 to 1.14 x, columns 1.10 to 1.13 x.
  void FetchLater(LinesArgs* a, ptrdiff_t ahead, int64_t runs, int64_t bytes) {
    if (span_.certifiers == nullptr) a->ahead = ahead;
    else if (ahead != 0) later_ = {a->source + ahead, a->stride, runs, bytes};
  }

  int64_t FirstK(int64_t line) const { return (span_.first_line + line) * line_k_; }

  /// Where the lines of up to four panels go; places that no panel needs get what is thrown away.
  LinesArgs Args(int64_t panel, int64_t count, int64_t line, int64_t lines) {
    LinesArgs a = {};
    a.lines = static_cast<int>(lines);
    a.stream = span_.stream && span_.certifiers == nullptr;
    for (int64_t p = 0; p < kTilePanels; ++p) {
      a.out[p] = p < count ? Out(panel + p, line) : unwanted_;
      a.sums[p] = p < count && span_.sums ? span_.sums + (first_ + (panel + p) * step_) * kPanelColumns : nullptr;
    }
    return a;
  }

  const uint8_t* Source(int64_t k, int64_t column) const {
    const int64_t k_bytes = k * source_.k_stride, bytes = int4_ ? 4 : 1;
    const auto* base = static_cast<const uint8_t*>(source_.data) + k_bytes * bytes;
    // Rows of int4: two columns a byte, little endian, whatever the columns' place in a word.
    return base + (!int4_ ? column * source_.n_stride : rows_ ? column / 2 : column / 8 * source_.n_stride * 4);
  }

  void PackRows(int64_t panel, int64_t count, int64_t line, int64_t lines) {
    const int64_t k = FirstK(line), left = std::max<int64_t>(0, w_.k - k);
    const int64_t column = panel * kPanelColumns, columns = std::clamp<int64_t>(columns_ - column, 0, kTileColumns);
    const int64_t real = columns == 0 ? 0 : std::min(lines, (left + line_k_ - 1) / line_k_);
    const int64_t whole = rows_ && columns == kTileColumns ? std::min(real, left / line_k_) : 0;
    const LinesFn make = int4_ ? makers_.nibble_rows : makers_.rows;
    if (whole > 0) {
      LinesArgs a = Args(panel, count, line, whole);
      a.source = Source(k, column_ + column);
      a.stride = source_.k_stride * (int4_ ? 4 : 1);
      if (span_.far) FetchLater(&a, kTileLines * line_k_ * a.stride, whole * line_k_, kLineBytes);
      make(a);
    }
    if (real > whole) {  // through a tile of rows, padded with zero weights
      LinesArgs a = Args(panel, count, line + whole, real - whole);
      int4_ ? StageNibbles(k + whole * line_k_, column_ + column, columns, a.lines)
            : StageBytes(k + whole * line_k_, column_ + column, columns, a.lines);
      a.source = staged_;
      a.stride = int4_ ? kTileColumns / 2 : kTileColumns;
      make(a);
    }
    for (int64_t p = 0; p < count && real < lines; ++p) {
      std::memset(Out(panel + p, line + real), int4_ ? kZeroNibbles : 0, static_cast<size_t>((lines - real) * kLineBytes));
    }
  }

  void PackColumns(int64_t panel, int64_t line, int64_t lines) {
    const int64_t k = FirstK(line), left = std::max<int64_t>(0, w_.k - k);
    const bool full = (panel + 1) * kPanelColumns <= columns_;
    int64_t whole = full ? std::min(lines, left / line_k_) : 0;
    if (!int4_) whole -= whole % kColumnLines;
    if (whole > 0) {
      LinesArgs a = Args(panel, 1, line, whole);
      a.source = Source(k, column_ + panel * kPanelColumns);
      a.stride = source_.n_stride * (int4_ ? 4 : 1);
      if (source_.k_stride != 1) StageColumns(&a);
      else FetchLater(&a, NextColumns(panel, line, a), kPanelColumns, kColumnBytes);
      (int4_ ? makers_.nibble_columns : makers_.columns)(a);
    }
    for (; whole < lines; whole += kTileLines) {
      PackRows(panel, 1, line + whole, std::min<int64_t>(kTileLines, lines - whole));
    }
  }

  /// From a stretch of columns to what is packed next: their next stretch, or the next panel's first; 0: nothing.
  ptrdiff_t NextColumns(int64_t panel, int64_t line, const LinesArgs& a) const {
    if (line + kMaxLines < span_.lines) return kColumnBytes;
    return panel + 1 < panels_ ? kPanelColumns * a.stride - line * line_k_ : 0;
  }

  /// Fetches `count` elements of a row to come: of the next tile below, or, of far ones, each a line of its own, sooner.
  void FetchRow(const uint8_t* row, int64_t count) const {
    const int64_t bytes = int4_ ? 4 : 1, apart = source_.n_stride * bytes, down = source_.k_stride * bytes;
    if (std::abs(apart) <= kNearBytes) return FetchRange(row + kTileLines * line_k_ * down, apart * count);
    row += kRowsAhead * down;
    for (int64_t c = 0; c < count; ++c) FetchLine(row + c * apart);
  }

  /// Columns that are strided along k, made consecutive.
  void StageColumns(LinesArgs* a) {
    const int64_t runs = int4_ ? 2 : kPanelColumns, count = int64_t{a->lines} * line_k_, bytes = int4_ ? 4 : 1;
    const int64_t apart = source_.k_stride * bytes;
    const ptrdiff_t stride = kMaxLines * line_k_ * bytes, ahead = int4_ ? apart * count : kColumnsAhead * a->stride;
    for (int64_t run = 0; run < runs; ++run) {
      const uint8_t* from = a->source + run * a->stride;
      if (std::abs(apart) <= kNearBytes) FetchRange(from + ahead, apart * count);
      if (int4_) GatherWords(from, source_.k_stride, count, staged_ + run * stride);
      else GatherBytes(from, source_.k_stride, count, staged_ + run * stride);
    }
    a->source = staged_;
    a->stride = stride;
  }

  /// Rows [k, k + 4 lines) of `columns` columns, in the order of memory.
  void StageBytes(int64_t k, int64_t column, int64_t columns, int lines) {
    const int64_t rows = std::min<int64_t>(int64_t{4} * lines, w_.k - k);
    // In locals: as far as a compiler knows, bytes that are written may be the strides.
    const int64_t k_stride = source_.k_stride, n_stride = source_.n_stride;
    const uint8_t* from = Source(k, column);
    uint8_t* to = staged_;
    if (rows < 4 * lines || columns < kTileColumns) std::memset(to, 0, static_cast<size_t>(4 * lines * kTileColumns));
    if (std::abs(n_stride) <= std::abs(k_stride)) {
      for (int64_t r = 0; r < rows; ++r, from += k_stride, to += kTileColumns) {
        if (n_stride != 1) FetchRow(from, columns);
        GatherBytes(from, n_stride, columns, to);
      }
    } else {
      for (int64_t c = 0; c < columns; ++c, from += n_stride, ++to) {
        for (int64_t r = 0; r < rows; ++r) to[r * kTileColumns] = from[r * k_stride];
      }
    }
  }

  uint32_t Word(int64_t k, int64_t column) const {
    uint32_t word;
    std::memcpy(&word,
                static_cast<const uint32_t*>(source_.data) + k * source_.k_stride + column / 8 * source_.n_stride, 4);
    return word;
  }

  /// Rows [k, k + 8 lines): words as they are, or, where columns start within one, from two.
  void StageNibbles(int64_t k, int64_t column, int64_t columns, int lines) {
    constexpr int64_t kRow = kTileColumns / 2;
    const int64_t rows = std::min<int64_t>(int64_t{8} * lines, w_.k - k);
    const int shift = static_cast<int>(column % 8) * 4;
    if (rows < 8 * lines || columns < kTileColumns) std::memset(staged_, 0, static_cast<size_t>(8 * lines * kRow));
    const auto stage = [&](int64_t r, int64_t c) {
      const int64_t wanted = std::min<int64_t>(8, columns - c), here = 8 - column % 8;  // columns in the first word
      uint32_t word = Word(k + r, column + c) >> shift;
      if (wanted > here) word |= Word(k + r, column + c + here) << (32 - shift);
      if (wanted < 8) word &= (1u << (4 * wanted)) - 1;
      std::memcpy(staged_ + r * kRow + c / 2, &word, sizeof(word));
    };
    const int64_t whole = shift == 0 ? columns / 8 * 8 : 0;
    const int64_t k_bytes = 4 * source_.k_stride, n_stride = source_.n_stride;
    const uint8_t* from = Source(k, column);
    for (int64_t r = 0; r < rows && whole > 0; ++r, from += k_bytes) {
      if (!rows_) FetchRow(from, whole / 8);
      GatherWords(from, n_stride, whole / 8, staged_ + r * kRow);
    }
    for (int64_t c = whole; c < columns; c += 8) {
      for (int64_t r = 0; r < rows; ++r) stage(r, c);
    }
  }

  const Weights& w_;
  const LineMakers& makers_;
  const Weights::Plain source_;
  const PackSpan& span_;
  const int64_t first_, step_, panels_;
  const int line_k_;
  const bool int4_;
  int64_t column_, columns_;  // the caller's first column, and how many are real
  bool rows_, columns_run_;
  int64_t tile_panel_ = 0, tile_line_ = 0;  // of the tile being packed
  struct {
    const uint8_t* first = nullptr;
    ptrdiff_t stride = 0;
    int64_t left = 0, bytes = 0;

    /// What is due while one panel is certified: all columns, or a fourth of the rows.
    void Fetch() {
      const int64_t end = std::max<int64_t>(0, left - kPanelColumns);
      for (; left > end; --left, first += stride) FetchRange(first, bytes);
    }
  } later_;
  alignas(64) uint8_t tile_[kMaxLines * kLineBytes];  // its lines, if they are certified
  alignas(64) uint8_t staged_[kTileLines * 4 * kTileColumns];
  alignas(64) uint8_t unwanted_[kTileLines * kLineBytes];
};

}  // namespace

void PassOn(const PackSpan& span, int64_t panel, int64_t line, int64_t lines, uint8_t* stretch, const LineMakers& makers) {
  if (span.certifiers != nullptr) span.certifiers[panel].Take(stretch, lines);
  uint8_t* const out = span.out + panel * span.panel_stride + line * kLineBytes;
  if (span.stream) makers.copy(stretch, lines, out, kLineBytes);
  else std::memcpy(out, stretch, static_cast<size_t>(lines * kLineBytes));
}

void PackPanels(const Weights& weights, const PackSpan& span, const LineMakers& makers) {
  const int64_t step = weights.paired ? 2 : 1;
  for (int64_t first = 0; first < std::min(step, span.panels); ++first) {
    Neighbours run(weights, span, makers, first, step);
    // Columns are walked to their end; rows by tiles of few lines, all their columns at once: a row is a page.
    const int64_t tall = run.columns_run() ? span.lines : kTileLines, step_lines = run.columns_run() ? kMaxLines : kTileLines;
    for (int64_t top = 0; top < span.lines; top += tall) {
      for (int64_t tile = 0; tile < run.tiles(); ++tile) {
        for (int64_t line = top; line < std::min(top + tall, span.lines); line += step_lines) {
          run.PackTile(tile, line, std::min<int64_t>(step_lines, span.lines - line));
        }
      }
    }
  }
}

}  // namespace qgmm::cpu
