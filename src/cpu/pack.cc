// SPDX-License-Identifier: Apache-2.0
// Packing: rows, columns or anything strided into lines; whole experts for pack_weight, spans of panels during a run.
#include "cpu/pack.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cpu/backend.h"
#include "cpu/certify.h"
#include "cpu/gather.h"
#include "cpu/huge_pages.h"
#include "cpu/numa.h"
#include "cpu/plan.h"
#include "cpu/team.h"

namespace qgmm::cpu {
namespace {

constexpr uint8_t kZeroNibbles = 0x88;  // stored nibbles are the weight + 8
constexpr int64_t kSmallCache = 8 << 20;  // of machines that do not tell their L3
constexpr int kRowsAhead = 8;  // that strided rows are fetched early: each is a page, so no prefetcher of the machine's helps
constexpr int kTileLines = 16;
static_assert(kTileLines <= kMaxLines);
constexpr int kTilePanels = 4, kTileColumns = kTilePanels * kPanelColumns;  // a cache line of int8
// Panels packed together. Wide spans read whole pages of [k, n], whose rows are pages apart; certified ones wait in L2.
// Certified rows of k 2048, CPU time of 256 MB at 8, 16, 32 panels: 64, 66, 71 ms; 4 (half cache lines of rows): 138.
constexpr int64_t kStreamedPanels = 256, kCertifiedPanels = 8, kSpanStep = 8;
constexpr int kSpansPerWorker = 4;

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
    const int64_t panel = tile * kTilePanels;
    if (!columns_run_) return PackRows(panel, std::min<int64_t>(kTilePanels, panels_ - panel), line, lines);
    return PackColumns(tile, line, lines);
  }

 private:
  uint8_t* Out(int64_t panel, int64_t line) const {
    return span_.out + (first_ + panel * step_) * span_.panel_stride + line * kLineBytes;
  }
  int64_t FirstK(int64_t line) const { return (span_.first_line + line) * line_k_; }

  /// Where the lines of up to four panels go; places that no panel needs get what is thrown away.
  LinesArgs Args(int64_t panel, int64_t count, int64_t line, int64_t lines) {
    LinesArgs a = {};
    a.lines = static_cast<int>(lines);
    a.stream = span_.stream;
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
      (int4_ ? makers_.nibble_columns : makers_.columns)(a);
    }
    for (; whole < lines; whole += kTileLines) {
      PackRows(panel, 1, line + whole, std::min<int64_t>(kTileLines, lines - whole));
    }
  }

  static constexpr int64_t kNear = 16;  // bytes; farther elements are a cache line each, or nearly

  /// Fetches as much as `count` elements take, from behind them: what the next tile or the next stretch of columns reads.
  static void FetchFrom(const uint8_t* first, int64_t apart, int64_t count) {
    const int64_t length = apart * count;
    if (std::abs(apart) > kNear) return;
    for (int64_t b = 0; b < std::abs(length); b += kLineBytes) __builtin_prefetch(first + length + (apart < 0 ? -b : b));
  }

  /// The same of elements of a row; of far ones a row to come.
  void FetchRow(const uint8_t* row, int64_t count) const {
    const int64_t bytes = int4_ ? 4 : 1, apart = source_.n_stride * bytes;
    FetchFrom(row, apart, count);
    if (std::abs(apart) <= kNear) return;
    row += kRowsAhead * source_.k_stride * bytes;
    for (int64_t c = 0; c < count; ++c) __builtin_prefetch(row + c * apart);
  }

  /// Columns that are strided along k, made consecutive.
  void StageColumns(LinesArgs* a) {
    const int64_t runs = int4_ ? 2 : kPanelColumns, count = int64_t{a->lines} * line_k_, bytes = int4_ ? 4 : 1;
    const ptrdiff_t stride = kMaxLines * line_k_ * bytes;
    for (int64_t run = 0; run < runs; ++run) {
      const uint8_t* from = a->source + run * a->stride;
      FetchFrom(from, source_.k_stride * bytes, count);
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
    std::memset(staged_, 0, static_cast<size_t>(8 * lines * kRow));
    const auto stage = [&](int64_t r, int64_t c) {
      const int64_t wanted = std::min<int64_t>(8, columns - c), here = 8 - column % 8;  // columns in the first word
      uint32_t word = Word(k + r, column + c) >> shift;
      if (wanted > here) word |= Word(k + r, column + c + here) << (32 - shift);
      if (wanted < 8) word &= (1u << (4 * wanted)) - 1;
      std::memcpy(staged_ + r * kRow + c / 2, &word, sizeof(word));
    };
    const int64_t whole = shift == 0 ? columns / 8 * 8 : 0;
    for (int64_t r = 0; r < rows && whole > 0; ++r) {
      const uint8_t* from = Source(k + r, column);
      if (!rows_) FetchRow(from, whole / 8);
      GatherWords(from, source_.n_stride, whole / 8, staged_ + r * kRow);
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
  alignas(64) uint8_t staged_[kTileLines * 4 * kTileColumns];
  alignas(64) uint8_t unwanted_[kTileLines * kLineBytes];
};

/// Certificates, and column sums, of whole panels on their way to the output.
class Finisher {
 public:
  /// `stream`: certified lines leave scratch memory around the caches.
  Finisher(const PackedHeader& header, const LineMakers& makers, bool stream, uint8_t* out)
      : header_(header), makers_(makers), stream_(stream), panel_bytes_(PanelBytes(header.dtype(), header.k)), out_(out) {}

  uint8_t* PlaceOf(int64_t index) const { return out_ + kHeaderBytes + index * panel_bytes_; }

  /// `index`: expert * P + panel; `panel`: its lines, in their place or in scratch; `sums`: of its weights.
  void Finish(int64_t index, uint8_t* panel, int32_t* sums) {
    if (header_.residual_capacity > 0) Certify(index, panel, sums);
    if (panel != PlaceOf(index)) {
      if (stream_) makers_.copy(panel, panel_bytes_ / kLineBytes, PlaceOf(index));
      else std::memcpy(PlaceOf(index), panel, static_cast<size_t>(panel_bytes_));
    }
    std::memcpy(out_ + header_.column_sums_offset() + index * kPanelColumns * 4, sums, kPanelColumns * 4);
  }

 private:
  void Certify(int64_t index, uint8_t* panel, int32_t* sums) {
    const int64_t capacity = header_.residual_capacity;
    const Certificate certificate =
        CertifyPanel(panel, panel_bytes_ / kLineBytes, capacity, makers_.find_broken, &residuals_);
    for (const uint32_t residual : residuals_) sums[ResidualColumn(residual)] -= ResidualValue(residual);  // of the bytes
    const uint32_t words[2] = {static_cast<uint32_t>(certificate), static_cast<uint32_t>(residuals_.size())};
    residuals_.resize(static_cast<size_t>(capacity));  // every byte of the output is written
    std::memcpy(out_ + header_.certificates_offset() + index * 8, words, sizeof(words));
    std::memcpy(out_ + header_.residuals_offset() + index * capacity * 4, residuals_.data(), residuals_.size() * 4);
  }

  const PackedHeader& header_;
  const LineMakers& makers_;
  const bool stream_;
  const int64_t panel_bytes_;
  uint8_t* const out_;
  std::vector<uint32_t> residuals_;
};

/// What one worker packs: spans [begin, end), counted expert by expert, of a node's panels. Memory belongs to the node that
/// first writes it, so this is where packed weights come to lie.
struct Part {
  int64_t first_panel, panels, spans, begin, end;  // panels of every expert, spans of `wide` panels each

  Part(int worker, int workers, int nodes, int64_t experts, int64_t pairs, int64_t wide) {
    const int node = NodeOfWorker(worker, workers, nodes), first = FirstWorker(node, workers, nodes);
    const int count = FirstWorker(node + 1, workers, nodes) - first;
    first_panel = 2 * FirstPair(node, pairs, nodes);
    panels = 2 * FirstPair(node + 1, pairs, nodes) - first_panel;
    spans = (panels + wide - 1) / wide;
    begin = experts * spans * (worker - first) / count;
    end = experts * spans * (worker - first + 1) / count;
  }
};

uint8_t* Aligned(uint8_t* p) { return p + (kLineBytes - reinterpret_cast<uintptr_t>(p) % kLineBytes) % kLineBytes; }

/// Whether so many bytes are written around the caches: if they exceed the last one, and start where that is possible.
bool Streams(int64_t bytes, const uint8_t* out) {
  return reinterpret_cast<uintptr_t>(out) % 32 == 0 && bytes > std::max(DetectCaches().l3, kSmallCache);
}

}  // namespace

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

int64_t PackedBytes(const Weights& w, int64_t residual_capacity) {
  const Layout layout = w.dtype == DType::kInt4 ? Layout::kCpuInt4 : Layout::kCpuInt8;
  return MakeHeader(layout, w.e, w.k, w.n, residual_capacity).bytes;
}

PackedWeight Pack(const Weights& w, int64_t residual_capacity, uint8_t* out, Context& context) {
  return Pack(w, residual_capacity, out, context, MachineTopology());
}

PackedWeight Pack(const Weights& w, int64_t residual_capacity, uint8_t* out, Context& context,
                  const Topology& topology) {
  const Layout layout = w.dtype == DType::kInt4 ? (w.paired ? Layout::kCpuInt4Paired : Layout::kCpuInt4)
                                                : (w.paired ? Layout::kCpuInt8Paired : Layout::kCpuInt8);
  const PackedHeader header = MakeHeader(layout, w.e, w.k, w.n, residual_capacity);
  AskForHugePages(out, static_cast<size_t>(header.bytes));
  std::memcpy(out, &header, sizeof(header));
  const int64_t panels = 2 * Pairs(w.n), panel_bytes = PanelBytes(w.dtype, w.k), lines = panel_bytes / kLineBytes;
  const LineMakers& makers = StagesFor(ChosenIsa(context.max_isa)).lines;
  // Around the caches if memory is where it ends. Certifying reads a panel again: that happens in scratch memory first.
  const bool certify = residual_capacity > 0, stream = Streams(header.bytes, out);
  const int team = WorkersFor(context, nullptr);
  const int64_t most = certify ? kCertifiedPanels : kStreamedPanels, each = w.e * panels / (kSpansPerWorker * team);
  const int64_t wide = std::clamp<int64_t>(each / kSpanStep * kSpanStep, kSpanStep, most);
  const int workers = static_cast<int>(std::min<int64_t>(team, w.e * ((panels + wide - 1) / wide)));
  const int nodes = NodesFor(topology.nodes, workers, panels / 2);
  Slots slots(workers, nodes);
  ParallelFor(context, workers, [&](int index) {
    const Part part(slots.Claim(index, topology), workers, nodes, w.e, panels / 2, wide);
    std::vector<int32_t> sums(static_cast<size_t>(wide * kPanelColumns));
    std::vector<uint8_t> scratch(certify ? static_cast<size_t>(wide * panel_bytes + kLineBytes) : 0);
    uint8_t* const panels_here = certify ? Aligned(scratch.data()) : nullptr;
    Finisher finisher(header, makers, stream, out);
    for (int64_t i = part.begin; i < part.end; ++i) {
      const int64_t expert = i / part.spans, within = i % part.spans * wide, first = part.first_panel + within;
      const int64_t count = std::min(wide, part.panels - within), place = expert * panels + first;
      std::fill(sums.begin(), sums.end(), 0);
      uint8_t* const to = certify ? panels_here : finisher.PlaceOf(place);
      PackPanels(w, {expert, first, count, 0, lines, to, panel_bytes, sums.data(), stream && !certify}, makers);
      for (int64_t p = 0; p < count; ++p) {
        finisher.Finish(place + p, to + p * panel_bytes, sums.data() + p * kPanelColumns);
      }
    }
    if (stream && makers.drain) makers.drain();
  });
  return PackedWeight{out, header.bytes, layout, w.e, w.k, w.n, Device{}};
}

int64_t CertifiedBytes(const PackedWeight& weight, int64_t residual_capacity) {
  return MakeHeader(weight.layout, weight.e, weight.k, weight.n, residual_capacity).bytes;
}

PackedWeight Certify(const PackedWeight& weight, int64_t residual_capacity, uint8_t* out, Context& context) {
  return Certify(weight, residual_capacity, out, context, MachineTopology());
}

PackedWeight Certify(const PackedWeight& weight, int64_t residual_capacity, uint8_t* out, Context& context,
                     const Topology& topology) {
  const PackedHeader header = MakeHeader(weight.layout, weight.e, weight.k, weight.n, residual_capacity);
  AskForHugePages(out, static_cast<size_t>(header.bytes));
  std::memcpy(out, &header, sizeof(header));
  const int64_t panels = 2 * Pairs(weight.n), all = weight.e * panels, panel_bytes = PanelBytes(header.dtype(), header.k);
  const Promises promises(weight);
  const LineMakers& makers = StagesFor(ChosenIsa(context.max_isa)).lines;
  const bool stream = Streams(header.bytes, out);
  const int workers = static_cast<int>(std::min<int64_t>(WorkersFor(context, nullptr), all));
  const int nodes = NodesFor(topology.nodes, workers, panels / 2);
  Slots slots(workers, nodes);
  ParallelFor(context, workers, [&](int index) {
    const Part part(slots.Claim(index, topology), workers, nodes, weight.e, panels / 2, 1);
    std::vector<uint8_t> scratch(static_cast<size_t>(panel_bytes + kLineBytes));
    uint8_t* const panel = Aligned(scratch.data());
    Finisher finisher(header, makers, stream, out);
    for (int64_t i = part.begin; i < part.end; ++i) {
      const int64_t expert = i / part.spans, first = part.first_panel + i % part.spans;
      std::memcpy(panel, PanelAt(weight, expert, first), static_cast<size_t>(panel_bytes));
      const PanelPromise promise = promises.Of(expert, first);
      RestoreLines(promise, 0, panel_bytes / kLineBytes, panel);
      int32_t sums[kPanelColumns];
      std::memcpy(sums, ColumnSumsAt(weight, expert, first), sizeof(sums));
      for (int r = 0; r < promise.count; ++r) sums[ResidualColumn(promise.At(r))] += ResidualValue(promise.At(r));
      finisher.Finish(expert * panels + first, panel, sums);
    }
    if (stream && makers.drain) makers.drain();
  });
  return PackedWeight{out, header.bytes, weight.layout, weight.e, weight.k, weight.n, Device{}};
}

}  // namespace qgmm::cpu
