// SPDX-License-Identifier: Apache-2.0
// Stacks that are read in the order of memory, a stretch of k at a time, and leave from L2: the weights of different experts are
// neighbours, [k, n, e] permuted (an expert at a time, every cache line would be read once per expert), or columns are a few
// bytes apart (tile by tile, a row is a page for one or two cache lines: 0.7 to 0.9 of the speed, two Zen 4 cores). Whole panels
// of eight experts or more are made into lines at once, where the ISA can; the rest is packed from a copy with experts apart:
// 0.6 to 0.7 of the speed.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "cpu/gather.h"
#include "cpu/pack.h"

namespace qgmm::cpu {
namespace {

constexpr int64_t kMostExperts = 128;  // two cache lines of int8
constexpr int64_t kBytesAhead = 8192;  // that are fetched early, in whole rows
constexpr int64_t kStretchLines = 8;
// For L2; 128 experts take 530 KB with the fewest panels. Few experts read longer pieces of every row so: 28 of int4, 16 panels
// instead of 8, 1.1 x; twice as many bytes gain nothing, nor do half the lines of twice the panels (two Zen 4 cores).
constexpr int64_t kStretchBytes = 256 << 10;

/// One stretch of k and columns, experts apart: [experts][rows][columns] in scratch memory.
class Stretch {
 public:
  Stretch(const Weights& w, int64_t panels, int64_t experts)
      : w_(w), int4_(w.dtype == DType::kInt4), rows_(kStretchLines * LineK(w.dtype)), parts_(w.paired ? 2 : 1),
        part_columns_(panels / parts_ * kPanelColumns / PerElement()), row_(parts_ * part_columns_),
        // Not a multiple of 4096: every expert's row would stand in the same set of L1.
        expert_bytes_(rows_ * row_ * ElementBytes() + kLineBytes),
        memory_(static_cast<size_t>(experts * expert_bytes_ + kLineBytes)) {}

  /// The experts' plain weights of k [k, k + rows) and the span's columns, as weights of their own.
  Weights Gather(const PackSpan& span, int64_t experts, int64_t k) {
    const int64_t width = w_.n / parts_ / PerElement(), first = span.first_panel / parts_ * kPanelColumns / PerElement();
    const int64_t columns = std::clamp<int64_t>(width - first, 0, part_columns_), rows = std::min(rows_, w_.k - k);
    const Weights::Plain from = w_.Of(span.expert);
    const auto* source = static_cast<const uint8_t*>(from.data);
    const int64_t row_bytes = std::max<int64_t>(1, columns * std::abs(from.n_stride) * ElementBytes());
    const int64_t ahead = std::max<int64_t>(1, kBytesAhead / row_bytes) * from.k_stride * ElementBytes();
    for (int64_t r = 0; r < rows; ++r) {  // in the order of memory
      for (int64_t part = 0; part < parts_; ++part) {
        const int64_t at = (k + r) * from.k_stride + (part * width + first) * from.n_stride;
        const Across across = {source + at * ElementBytes(), from.n_stride, w_.expert_stride, columns, experts, ahead};
        uint8_t* const to = memory_.data() + (r * row_ + part * columns) * ElementBytes();
        if (int4_) GatherWordsAcross(across, to, expert_bytes_);
        else GatherBytesAcross(across, to, expert_bytes_);
      }
    }
    Weights own;
    own.e = experts, own.k = std::max<int64_t>(rows, 0), own.n = columns * parts_ * PerElement();
    own.dtype = w_.dtype, own.paired = w_.paired;
    own.list.resize(static_cast<size_t>(experts));
    for (int64_t x = 0; x < experts; ++x) own.list[static_cast<size_t>(x)] = {memory_.data() + x * expert_bytes_, row_, 1};
    return own;
  }

  /// Makes lines [line, line + kStretchLines) of the span's panels in registers: those of panel p, of expert x, at Made(x, p).
  /// False where that cannot be: something is to be padded, or the ISA has nothing for it.
  bool MakeLines(const PackSpan& span, int64_t experts, int64_t line, const LineMakers& makers) {
    const Weights::Plain from = w_.Of(span.expert);
    const int64_t panels = span.panels / parts_, line_k = LineK(w_.dtype);
    const ExpertsFn make = MakerOf(from, experts, panels, makers);
    if (make == nullptr || span.panels % parts_ != 0 || (line + kStretchLines) * line_k > w_.k ||
        (span.first_panel / parts_ + panels) * kPanelColumns > w_.n / parts_) {
      return false;
    }
    const int64_t width = w_.n / parts_ / PerElement(), first = span.first_panel / parts_ * kPanelColumns / PerElement();
    ExpertsArgs a;
    a.k_stride = from.k_stride * ElementBytes(), a.column_stride = from.n_stride * ElementBytes();
    a.panels = static_cast<int>(panels), a.experts = static_cast<int>(experts);
    a.panel_stride = parts_ * kStretchLines * kLineBytes, a.expert_stride = expert_bytes_;
    const int64_t line_bytes = part_columns_ * a.column_stride * line_k;  // that are read for a line of every panel
    a.ahead = std::max<int64_t>(1, kBytesAhead / line_bytes) * line_k * a.k_stride;
    for (int64_t l = 0; l < kStretchLines; ++l) {  // in the order of memory
      const auto* row = static_cast<const uint8_t*>(from.data) + (line + l) * line_k * a.k_stride;
      for (int64_t part = 0; part < parts_; ++part) {
        a.source = row + (part * width + first) * a.column_stride;
        a.out = Made(0, part) + l * kLineBytes;
        make(a);
      }
    }
    return true;
  }
  uint8_t* Made(int64_t expert, int64_t panel) {
    const uintptr_t start = (reinterpret_cast<uintptr_t>(memory_.data()) + kLineBytes - 1) / kLineBytes * kLineBytes;
    return reinterpret_cast<uint8_t*>(start) + expert * expert_bytes_ + panel * kStretchLines * kLineBytes;
  }

 private:
  int64_t PerElement() const { return int4_ ? 8 : 1; }
  int64_t ElementBytes() const { return int4_ ? 4 : 1; }

  /// What makes them: of experts that are neighbours, where every cache line between the first column and the last holds
  /// weights, or of every second column.
  ExpertsFn MakerOf(const Weights::Plain& from, int64_t experts, int64_t panels, const LineMakers& makers) const {
    const int64_t between = (from.n_stride - experts) * ElementBytes();
    if (experts == 1) {
      return from.n_stride != 2 || panels % 4 != 0 ? nullptr : int4_ ? makers.nibble_seconds : makers.seconds;
    }
    const bool near = experts >= kExpertsAtOnce && w_.expert_stride == 1 && between >= 0 && between < kLineBytes;
    return !near || std::abs(from.k_stride) <= from.n_stride ? nullptr : int4_ ? makers.nibble_experts : makers.experts;
  }

  const Weights& w_;
  const bool int4_;
  const int64_t rows_, parts_, part_columns_, row_, expert_bytes_;
  std::vector<uint8_t> memory_;
};

/// Up columns that start within a word would be shifted against the gate's.
bool WholeWords(const Weights& w) { return w.dtype != DType::kInt4 || !w.paired || w.n / 2 % 8 == 0; }

/// Elements along n are a few bytes apart, and next to nothing is nearer.
bool NearRows(const Weights& w, const Weights::Plain& from) {
  const int64_t apart = std::abs(from.n_stride), bytes = w.dtype == DType::kInt4 ? 4 : 1;
  return apart > 1 && apart * bytes <= kNearBytes && apart < std::abs(from.k_stride) && WholeWords(w);
}

/// Lines [line, line + kStretchLines) of the span's panel p, ready at `lines`, to their place and its sums.
void Place(const PackSpan& span, int64_t p, int64_t line, uint8_t* lines, DType dtype, const LineMakers& makers) {
  LinesArgs a = {};
  a.source = lines, a.lines = kStretchLines;
  a.out[0] = span.certifiers ? lines : span.out + p * span.panel_stride + line * kLineBytes;
  a.sums[0] = span.sums ? span.sums + p * kPanelColumns : nullptr;
  a.stream = span.stream && span.certifiers == nullptr;
  (dtype == DType::kInt4 ? makers.nibble_lines : makers.lines)(a);
  if (span.certifiers != nullptr) PassOn(span, p, line, kStretchLines, lines, makers);
}

}  // namespace

int64_t ExpertsTogether(const Weights& w) {
  if (!w.list.empty() || w.packed.given() || w.e < 2) return 1;
  const int64_t apart = std::abs(w.expert_stride), nearest = std::min(std::abs(w.plain.k_stride), std::abs(w.plain.n_stride));
  if (apart == 0 || apart >= nearest) return 1;
  if (!WholeWords(w)) return 1;
  const int64_t sets = (w.e + kMostExperts - 1) / kMostExperts;
  return (w.e + sets - 1) / sets;
}

int64_t PanelsTogether(int64_t experts) {
  return std::max<int64_t>(1, kStretchBytes / (experts * kStretchLines * kLineBytes) / kSpanStep) * kSpanStep;
}

void PackExperts(const Weights& w, const std::vector<PackSpan>& spans, const LineMakers& makers) {
  if (spans.size() == 1 && !NearRows(w, w.Of(spans[0].expert))) return PackPanels(w, spans[0], makers);
  const int64_t experts = static_cast<int64_t>(spans.size());
  Stretch stretch(w, spans[0].panels, experts);
  for (int64_t line = 0; line < spans[0].lines; line += kStretchLines) {
    if (stretch.MakeLines(spans[0], experts, line, makers)) {
      for (int64_t x = 0; x < experts; ++x) {
        for (int64_t p = 0; p < spans[0].panels; ++p) Place(spans[x], p, line, stretch.Made(x, p), w.dtype, makers);
      }
      continue;
    }
    const Weights own = stretch.Gather(spans[0], experts, line * LineK(w.dtype));
    for (int64_t x = 0; x < experts; ++x) {
      PackSpan span = spans[static_cast<size_t>(x)];
      span.expert = x, span.first_panel = 0, span.first_line = 0, span.far = false;
      span.lines = std::min(kStretchLines, span.lines - line);
      span.out += line * kLineBytes;
      PackPanels(own, span, makers);
    }
  }
}

}  // namespace qgmm::cpu
