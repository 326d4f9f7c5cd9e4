// SPDX-License-Identifier: Apache-2.0
// Packing: rows, columns or anything strided into lines; whole experts for pack_weight, spans of panels during a run.
#include "cpu/pack.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "cpu/backend.h"
#include "cpu/team.h"

namespace qgmm::cpu {
namespace {

constexpr uint8_t kZeroNibbles = 0x88;  // stored nibbles are the weight + 8
constexpr int64_t kHugePage = 2 << 20;

/// One panel of one expert as its source sees it.
struct PanelSource {
  Weights::Plain plain;
  PanelSpan span;
  int64_t k;
};

/// int8, unit column stride: four rows of 16 bytes interleave.
void LineFromRows(const int8_t* row, int64_t k_stride, uint8_t* line) {
  for (int c = 0; c < kPanelColumns; ++c) {
    line[4 * c] = static_cast<uint8_t>(row[c]);
    line[4 * c + 1] = static_cast<uint8_t>(row[k_stride + c]);
    line[4 * c + 2] = static_cast<uint8_t>(row[2 * k_stride + c]);
    line[4 * c + 3] = static_cast<uint8_t>(row[3 * k_stride + c]);
  }
}

void PackLineInt8(const PanelSource& s, int64_t k, uint8_t* line) {
  const int8_t* w = static_cast<const int8_t*>(s.plain.data) + k * s.plain.k_stride + s.span.first * s.plain.n_stride;
  const bool full = s.span.columns == kPanelColumns && k + 4 <= s.k;
  if (full && s.plain.n_stride == 1) return LineFromRows(w, s.plain.k_stride, line);
  if (full && s.plain.k_stride == 1) {
    for (int c = 0; c < kPanelColumns; ++c) std::memcpy(line + 4 * c, w + c * s.plain.n_stride, 4);
    return;
  }
  std::memset(line, 0, kLineBytes);
  for (int b = 0; b < 4 && k + b < s.k; ++b) {
    for (int c = 0; c < s.span.columns; ++c) {
      line[4 * c + b] = static_cast<uint8_t>(w[b * s.plain.k_stride + c * s.plain.n_stride]);
    }
  }
}

/// The 16 nibbles of one k, + 8, a byte each; columns that do not exist hold 8.
void Nibbles(const PanelSource& s, int64_t k, uint8_t* out) {
  const auto word = [&](int64_t j) {
    uint32_t v;
    std::memcpy(&v, static_cast<const uint32_t*>(s.plain.data) + k * s.plain.k_stride + j / 8 * s.plain.n_stride, 4);
    return v;
  };
  if (s.span.first % 8 == 0 && s.span.columns == kPanelColumns) {
    const uint32_t low = word(s.span.first), high = word(s.span.first + 8);
    for (int c = 0; c < 8; ++c) {
      out[c] = static_cast<uint8_t>((low >> (4 * c) & 15) ^ 8);
      out[c + 8] = static_cast<uint8_t>((high >> (4 * c) & 15) ^ 8);
    }
    return;
  }
  for (int c = 0; c < kPanelColumns; ++c) {
    const int64_t j = s.span.first + c;
    out[c] = c < s.span.columns ? static_cast<uint8_t>((word(j) >> (4 * (j % 8)) & 15) ^ 8) : 8;
  }
}

void PackLineInt4(const PanelSource& s, int64_t k, uint8_t* line) {
  alignas(16) uint8_t row[8][kPanelColumns];
  for (int b = 0; b < 8; ++b) {
    if (k + b < s.k) {
      Nibbles(s, k + b, row[b]);
    } else {
      std::memset(row[b], 8, kPanelColumns);
    }
  }
  for (int c = 0; c < kPanelColumns; ++c) {
    for (int b = 0; b < 4; ++b) line[4 * c + b] = static_cast<uint8_t>(row[b][c] | row[b + 4][c] << 4);
  }
}

void ColumnSums(const uint8_t* panel, int64_t lines, DType dtype, int32_t* sums) {
  uint32_t total[kPanelColumns] = {};
  for (const uint8_t* line = panel; line < panel + lines * kLineBytes; line += kLineBytes) {
    for (int c = 0; c < kPanelColumns; ++c) {
      int four = 0;
      for (int b = 0; b < 4; ++b) {
        const uint8_t v = line[4 * c + b];
        four += dtype == DType::kInt4 ? (v & 15) + (v >> 4) - 16 : static_cast<int8_t>(v);
      }
      total[c] += static_cast<uint32_t>(four);
    }
  }
  std::memcpy(sums, total, sizeof(total));
}

/// 2 MiB pages where the system grants them on request; 4 KiB pages cost 20 % of decode.
void AskForHugePages(uint8_t* data, int64_t bytes) {
  if (bytes < 2 * kHugePage) return;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / kHugePage * kHugePage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

}  // namespace

void PackPanels(const Weights& weights, int64_t expert, int64_t first_panel, int64_t panels, int64_t first_line,
                int64_t lines, uint8_t* out, int64_t panel_stride) {
  const bool int4 = weights.dtype == DType::kInt4;
  const int line_k = LineK(weights.dtype);
  constexpr int64_t kMaxPanels = 8;
  PanelSource sources[kMaxPanels];
  QGMM_DCHECK(panels <= kMaxPanels);
  for (int64_t p = 0; p < panels; ++p) {
    sources[p] = {weights.Of(expert), ColumnsOf(first_panel + p, weights.n, weights.paired), weights.k};
  }
  // Lines outside, panels inside: neighbouring panels read the same cache lines of [k, n].
  for (int64_t l = 0; l < lines; ++l) {
    const int64_t k = (first_line + l) * line_k;
    for (int64_t p = 0; p < panels; ++p) {
      uint8_t* line = out + p * panel_stride + l * kLineBytes;
      if (k >= weights.k || sources[p].span.columns == 0) {
        std::memset(line, int4 ? kZeroNibbles : 0, kLineBytes);
      } else if (int4) {
        PackLineInt4(sources[p], k, line);
      } else {
        PackLineInt8(sources[p], k, line);
      }
    }
  }
}

int64_t PackedBytes(const Weights& w) {
  const Layout layout = w.dtype == DType::kInt4 ? Layout::kCpuInt4 : Layout::kCpuInt8;
  return MakeHeader(layout, w.e, w.k, w.n).bytes;
}

PackedWeight Pack(const Weights& w, uint8_t* out, Context& context) {
  const Layout layout = w.dtype == DType::kInt4 ? (w.paired ? Layout::kCpuInt4Paired : Layout::kCpuInt4)
                                                : (w.paired ? Layout::kCpuInt8Paired : Layout::kCpuInt8);
  const PackedHeader header = MakeHeader(layout, w.e, w.k, w.n);
  AskForHugePages(out, header.bytes);
  std::memcpy(out, &header, sizeof(header));
  const int64_t panels = 2 * Pairs(w.n), panel_bytes = PanelBytes(w.dtype, w.k), lines = panel_bytes / kLineBytes;
  constexpr int64_t kSpan = 8;
  const int64_t spans = (panels + kSpan - 1) / kSpan, all = w.e * spans;
  const int workers = static_cast<int>(std::min<int64_t>(WorkersFor(context, nullptr), all));
  ParallelFor(context, workers, [&](int worker) {
    for (int64_t i = all * worker / workers; i < all * (worker + 1) / workers; ++i) {
      const int64_t expert = i / spans, first = i % spans * kSpan, count = std::min(kSpan, panels - first);
      uint8_t* to = out + header.panels_offset + (expert * panels + first) * panel_bytes;
      PackPanels(w, expert, first, count, 0, lines, to, panel_bytes);
      for (int64_t p = 0; p < count; ++p) {
        int32_t sums[kPanelColumns];
        ColumnSums(to + p * panel_bytes, lines, w.dtype, sums);
        std::memcpy(out + header.column_sums_offset + (expert * panels + first + p) * static_cast<int64_t>(sizeof(sums)), sums, sizeof(sums));
      }
    }
  });
  return PackedWeight{out, header.bytes, layout, w.e, w.k, w.n, Device{}};
}

}  // namespace qgmm::cpu
