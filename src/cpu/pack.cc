// SPDX-License-Identifier: Apache-2.0
// Packing: rows, columns or anything strided into lines; whole experts for pack_weight, spans of panels during a run.
#include "cpu/pack.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/backend.h"
#include "cpu/certify.h"
#include "cpu/huge_pages.h"
#include "cpu/team.h"

namespace qgmm::cpu {
namespace {

constexpr uint8_t kZeroNibbles = 0x88;  // stored nibbles are the weight + 8

/// One panel of one expert as its source sees it.
struct PanelSource {
  Weights::Plain plain;
  PanelSpan span;
  int64_t k;
};

// GCC's and clang's portable vectors; SSE2 and NEON have instructions for all of this.
using Bytes16 = uint8_t __attribute__((vector_size(16)));
using Shorts8 = uint16_t __attribute__((vector_size(16)));
using Words4 = uint32_t __attribute__((vector_size(16)));
using Longs2 = uint64_t __attribute__((vector_size(16)));

template <class V>
V LoadVector(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
template <class V>
void StoreVector(uint8_t* p, V v) {
  std::memcpy(p, &v, sizeof(v));
}

Bytes16 ZipLow(Bytes16 a, Bytes16 b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
Bytes16 ZipHigh(Bytes16 a, Bytes16 b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

/// A line from four rows of 16 bytes: byte 4 * c + b = row b's byte c.
void Interleave(Bytes16 row0, Bytes16 row1, Bytes16 row2, Bytes16 row3, uint8_t* line) {
  const auto low01 = reinterpret_cast<Shorts8>(ZipLow(row0, row1)),
             low23 = reinterpret_cast<Shorts8>(ZipLow(row2, row3));
  const auto high01 = reinterpret_cast<Shorts8>(ZipHigh(row0, row1)),
             high23 = reinterpret_cast<Shorts8>(ZipHigh(row2, row3));
  StoreVector(line, __builtin_shufflevector(low01, low23, 0, 8, 1, 9, 2, 10, 3, 11));
  StoreVector(line + 16, __builtin_shufflevector(low01, low23, 4, 12, 5, 13, 6, 14, 7, 15));
  StoreVector(line + 32, __builtin_shufflevector(high01, high23, 0, 8, 1, 9, 2, 10, 3, 11));
  StoreVector(line + 48, __builtin_shufflevector(high01, high23, 4, 12, 5, 13, 6, 14, 7, 15));
}

/// int8, unit k stride: four lines from 16 columns of 16 bytes, by 4 x 4 transposes of four k.
void FourLinesFromColumns(const int8_t* column, int64_t n_stride, uint8_t* lines) {
  for (int c = 0; c < kPanelColumns; c += 4, column += 4 * n_stride) {
    const Words4 a = LoadVector<Words4>(column), b = LoadVector<Words4>(column + n_stride);
    const Words4 d = LoadVector<Words4>(column + 2 * n_stride), e = LoadVector<Words4>(column + 3 * n_stride);
    const auto ab0 = reinterpret_cast<Longs2>(__builtin_shufflevector(a, b, 0, 4, 1, 5));
    const auto ab1 = reinterpret_cast<Longs2>(__builtin_shufflevector(a, b, 2, 6, 3, 7));
    const auto de0 = reinterpret_cast<Longs2>(__builtin_shufflevector(d, e, 0, 4, 1, 5));
    const auto de1 = reinterpret_cast<Longs2>(__builtin_shufflevector(d, e, 2, 6, 3, 7));
    uint8_t* out = lines + 4 * c;
    StoreVector(out, __builtin_shufflevector(ab0, de0, 0, 2));
    StoreVector(out + kLineBytes, __builtin_shufflevector(ab0, de0, 1, 3));
    StoreVector(out + 2 * kLineBytes, __builtin_shufflevector(ab1, de1, 0, 2));
    StoreVector(out + 3 * kLineBytes, __builtin_shufflevector(ab1, de1, 1, 3));
  }
}

void PackLineInt8(const PanelSource& s, int64_t k, uint8_t* line) {
  const int8_t* w = static_cast<const int8_t*>(s.plain.data) + k * s.plain.k_stride + s.span.first * s.plain.n_stride;
  const bool full = s.span.columns == kPanelColumns && k + 4 <= s.k;
  if (full && s.plain.n_stride == 1) {
    const int64_t next = s.plain.k_stride;
    return Interleave(LoadVector<Bytes16>(w), LoadVector<Bytes16>(w + next), LoadVector<Bytes16>(w + 2 * next),
                      LoadVector<Bytes16>(w + 3 * next), line);
  }
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

/// Byte c of the result: column c's nibbles of k (low) and k + 4 (high), + 8 each. Source: 8 bytes per k, two nibbles a
/// byte.
Bytes16 NibblePairs(const int32_t* low_k, const int32_t* high_k) {
  constexpr uint64_t kEights = 0x8888888888888888, kLow = 0x0F0F0F0F0F0F0F0F;
  uint64_t low, high;
  std::memcpy(&low, low_k, sizeof(low));
  std::memcpy(&high, high_k, sizeof(high));
  low ^= kEights;
  high ^= kEights;
  const Longs2 even = {(low & kLow) | (high & kLow) << 4, 0}, odd = {(low >> 4 & kLow) | (high & ~kLow), 0};
  return ZipLow(reinterpret_cast<Bytes16>(even), reinterpret_cast<Bytes16>(odd));
}

void PackLineInt4(const PanelSource& s, int64_t k, uint8_t* line) {
  const bool full = s.span.columns == kPanelColumns && s.span.first % 8 == 0 && k + 8 <= s.k && s.plain.n_stride == 1;
  if (full) {
    const int64_t step = s.plain.k_stride;
    const int32_t* w = static_cast<const int32_t*>(s.plain.data) + k * step + s.span.first / 8;
    return Interleave(NibblePairs(w, w + 4 * step), NibblePairs(w + step, w + 5 * step),
                      NibblePairs(w + 2 * step, w + 6 * step), NibblePairs(w + 3 * step, w + 7 * step), line);
  }
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

/// Sums of the weights per column: four byte sums per column at first, at most 256 lines long, so that they fit 16
/// bits.
void ColumnSums(const uint8_t* panel, int64_t lines, DType dtype, int32_t* sums) {
  uint32_t total[kPanelColumns] = {};
  while (lines > 0) {
    const int64_t count = std::min<int64_t>(lines, 256);
    uint16_t part[kLineBytes] = {};
    for (int64_t l = 0; l < count; ++l, panel += kLineBytes) {
      if (dtype == DType::kInt4) {
        for (int i = 0; i < kLineBytes; ++i)
          part[i] = static_cast<uint16_t>(part[i] + (panel[i] & 15) + (panel[i] >> 4) - 16);
      } else {
        for (int i = 0; i < kLineBytes; ++i) part[i] = static_cast<uint16_t>(part[i] + static_cast<int8_t>(panel[i]));
      }
    }
    for (int i = 0; i < kLineBytes; ++i) total[i / 4] += static_cast<uint32_t>(static_cast<int16_t>(part[i]));
    lines -= count;
  }
  std::memcpy(sums, total, sizeof(total));
}

/// Certificate and column sums of a panel whose lines are complete. `index`: expert * P + panel.
void FinishPanel(const PackedHeader& header, int64_t index, uint8_t* out) {
  const int64_t panel_bytes = PanelBytes(header.dtype(), header.k);
  uint8_t* panel = out + kHeaderBytes + index * panel_bytes;
  if (header.residual_capacity > 0) {
    thread_local std::vector<uint32_t> residuals;
    const Certificate certificate = CertifyPanel(panel, panel_bytes / kLineBytes, header.residual_capacity, &residuals);
    const uint32_t words[2] = {static_cast<uint32_t>(certificate), static_cast<uint32_t>(residuals.size())};
    residuals.resize(static_cast<size_t>(header.residual_capacity));  // every byte of the output is written
    std::memcpy(out + header.certificates_offset() + index * 8, words, sizeof(words));
    std::memcpy(out + header.residuals_offset() + index * header.residual_capacity * 4, residuals.data(),
                residuals.size() * 4);
  }
  int32_t sums[kPanelColumns];
  ColumnSums(panel, panel_bytes / kLineBytes, header.dtype(), sums);
  std::memcpy(out + header.column_sums_offset() + index * static_cast<int64_t>(sizeof(sums)), sums, sizeof(sums));
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
  const auto pack = [&](int64_t p, int64_t l) {
    const int64_t k = (first_line + l) * line_k;
    uint8_t* line = out + p * panel_stride + l * kLineBytes;
    if (k >= weights.k || sources[p].span.columns == 0) {
      std::memset(line, int4 ? kZeroNibbles : 0, kLineBytes);
    } else if (int4) {
      PackLineInt4(sources[p], k, line);
    } else {
      PackLineInt8(sources[p], k, line);
    }
  };
  // Columns that are contiguous in k are walked to their end; else lines outside, panels inside, as neighbouring
  // panels read the same cache lines of [k, n].
  if (!int4 && sources[0].plain.k_stride == 1 && sources[0].plain.n_stride != 1) {
    for (int64_t p = 0; p < panels; ++p) {
      const PanelSource& s = sources[p];
      const int8_t* column = static_cast<const int8_t*>(s.plain.data) + s.span.first * s.plain.n_stride;
      for (int64_t l = 0; l < lines;) {
        const int64_t k = (first_line + l) * line_k;
        if (s.span.columns == kPanelColumns && l + 4 <= lines && k + 16 <= weights.k) {
          FourLinesFromColumns(column + k, s.plain.n_stride, out + p * panel_stride + l * kLineBytes);
          l += 4;
        } else {
          pack(p, l++);
        }
      }
    }
    return;
  }
  for (int64_t l = 0; l < lines; ++l) {
    for (int64_t p = 0; p < panels; ++p) pack(p, l);
  }
}

int64_t PackedBytes(const Weights& w, int64_t residual_capacity) {
  const Layout layout = w.dtype == DType::kInt4 ? Layout::kCpuInt4 : Layout::kCpuInt8;
  return MakeHeader(layout, w.e, w.k, w.n, residual_capacity).bytes;
}

PackedWeight Pack(const Weights& w, int64_t residual_capacity, uint8_t* out, Context& context) {
  const Layout layout = w.dtype == DType::kInt4 ? (w.paired ? Layout::kCpuInt4Paired : Layout::kCpuInt4)
                                                : (w.paired ? Layout::kCpuInt8Paired : Layout::kCpuInt8);
  const PackedHeader header = MakeHeader(layout, w.e, w.k, w.n, residual_capacity);
  AskForHugePages(out, static_cast<size_t>(header.bytes));
  std::memcpy(out, &header, sizeof(header));
  const int64_t panels = 2 * Pairs(w.n), panel_bytes = PanelBytes(w.dtype, w.k), lines = panel_bytes / kLineBytes;
  constexpr int64_t kSpan = 8;
  const int64_t spans = (panels + kSpan - 1) / kSpan, all = w.e * spans;
  const int workers = static_cast<int>(std::min<int64_t>(WorkersFor(context, nullptr), all));
  ParallelFor(context, workers, [&](int worker) {
    for (int64_t i = all * worker / workers; i < all * (worker + 1) / workers; ++i) {
      const int64_t expert = i / spans, first = i % spans * kSpan, count = std::min(kSpan, panels - first);
      uint8_t* to = out + kHeaderBytes + (expert * panels + first) * panel_bytes;
      PackPanels(w, expert, first, count, 0, lines, to, panel_bytes);
      for (int64_t p = 0; p < count; ++p) FinishPanel(header, expert * panels + first + p, out);
    }
  });
  return PackedWeight{out, header.bytes, layout, w.e, w.k, w.n, Device{}};
}

int64_t CertifiedBytes(const PackedWeight& weight, int64_t residual_capacity) {
  return MakeHeader(weight.layout, weight.e, weight.k, weight.n, residual_capacity).bytes;
}

PackedWeight Certify(const PackedWeight& weight, int64_t residual_capacity, uint8_t* out, Context& context) {
  const PackedHeader header = MakeHeader(weight.layout, weight.e, weight.k, weight.n, residual_capacity);
  AskForHugePages(out, static_cast<size_t>(header.bytes));
  std::memcpy(out, &header, sizeof(header));
  const int64_t panels = 2 * Pairs(weight.n), all = weight.e * panels, panel_bytes = PanelBytes(header.dtype(), header.k);
  const Promises promises(weight);
  const int workers = static_cast<int>(std::min<int64_t>(WorkersFor(context, nullptr), all));
  ParallelFor(context, workers, [&](int worker) {
    for (int64_t i = all * worker / workers; i < all * (worker + 1) / workers; ++i) {
      uint8_t* panel = out + kHeaderBytes + i * panel_bytes;
      std::memcpy(panel, PanelAt(weight, i / panels, i % panels), static_cast<size_t>(panel_bytes));
      RestoreLines(promises.Of(i / panels, i % panels), 0, panel_bytes / kLineBytes, panel);
      FinishPanel(header, i, out);
    }
  });
  return PackedWeight{out, header.bytes, weight.layout, weight.e, weight.k, weight.n, Device{}};
}

}  // namespace qgmm::cpu
