// SPDX-License-Identifier: Apache-2.0
// A task: pack x, walk pairs of panels and stretches of k, multiply strips of rows, finish them.
#include "cpu/worker.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <tuple>
#include <utility>

#include "cpu/certify.h"
#include "cpu/columns.h"
#include "cpu/pack.h"
#include "cpu/prefetch.h"
#include "numeric.h"

namespace qgmm::cpu {
namespace {

int64_t LinesOf(int64_t k, DType dtype) { return (k + LineK(dtype) - 1) / LineK(dtype); }

uint64_t TableBit(const Kernel* kernel) {
  const auto table = KernelTable();
  for (size_t i = 0; i < table.size(); ++i) {
    if (table[i] == kernel) return uint64_t{1} << i;
  }
  return 0;
}

/// Of the next tile, where so many rows are left: the tiles that it takes are as even as can be, as a last one of few rows takes
/// nearly the time of a whole one.
int TileRows(const Kernel& kernel, int left) {
  if (left <= kernel.tile_m) return left;
  const int tiles = (left + kernel.tile_m - 1) / kernel.tile_m, each = (left + tiles - 1) / tiles;
  return (each + kernel.row_step - 1) / kernel.row_step * kernel.row_step;
}

}  // namespace

/// Where a strip's accumulators start: those of all strips wait, with several stretches of k for the next, with several
/// passes those of many pairs, and where a block is finished later for that.
int64_t Worker::AccRow(const RowBlock& b, int sums, int row, int strip_row) const {
  return b.k_block < p_.k || b.meanwhile ? int64_t{sums} * b.padded_rows + row : strip_row;
}

/// Packed x of the block in the form of that kernel, made when it is first asked for.
const std::byte* Worker::PackedX(const RowBlock& b, const Kernel& kernel) {
  const bool certified = kernel.needs != Certificate::kNone;
  std::byte* packed = At<std::byte>(certified ? plan_.scratch.certified_x : plan_.scratch.packed_x);
  bool& done = certified ? certified_packed_ : packed_;
  if (!done) PackX(b, kernel, packed);
  done = true;
  return packed;
}

void Worker::PackX(const RowBlock& b, const Kernel& kernel, std::byte* packed) {
  const int front = b.packed_rows - b.rows;
  PackXArgs args = {};
  args.dtype = p_.x.dtype;
  args.k = p_.k;
  args.padded_k = PaddedK(p_.k);
  args.packed_stride = PackedStride(p_.k, kernel);
  args.slice = p_.slice;
  args.packed = packed;
  args.row_sums = kernel.row_sums ? At<int32_t>(plan_.scratch.row_sums) : nullptr;
  if (front) {  // the row of eights: its t is the d of the assist term
    static constexpr int8_t kEight = 8;
    args.x = &kEight;
    args.rows = 1;
    kernel.pack_x(args);
    args.packed = packed + PackedAt(kernel, args.packed_stride, 1, 0) * kernel.x_bytes;
    args.first_row = 1;
    if (args.row_sums) args.row_sums += slices_;
  }
  args.x = static_cast<const std::byte*>(p_.x.data) + b.first_row * p_.x.row_stride * Bytes(p_.x.dtype);
  args.row_stride = p_.x.row_stride;
  args.k_stride = p_.x.column_stride;
  args.rows = b.rows;
  args.x_sums = p_.epilogue.offset.given() ? At<float>(plan_.scratch.x_sums) : nullptr;
  if (p_.product == Product::kFixed16) args.fixed = Fixed(0);
  kernel.pack_x(args);
  if (p_.product == Product::kFixed16) UniteOutliers(b);
}

/// Scales of several pairs, as they lie together.
void Worker::GatherScales(const RowBlock& b, int64_t first_pair, int64_t pairs, float* to) {
  const Columns& scale = p_.epilogue.scale;
  if (!scale.given()) return;
  GatherPairs(scale, b.expert, p_.scale_slices(), first_pair, pairs, p_.n, p_.w.paired, to);
}

void Worker::GatherColumns(const RowBlock& b, int64_t pair, int slot) {
  PairColumns& out = columns_[slot];
  out = {};
  if (only_scales_) return;
  const Epilogue& e = p_.epilogue;
  const PanelSpan spans[2] = {ColumnsOf(2 * pair, p_.n, p_.w.paired), ColumnsOf(2 * pair + 1, p_.n, p_.w.paired)};
  float* row = At<float>(plan_.scratch.columns) + static_cast<ptrdiff_t>(slot) * kColumnRows * kPairColumns;
  const auto next = [&] { return std::exchange(row, row + kPairColumns); };
  const PanelSpan gate_only[2] = {spans[0], {}};  // smooth has n / 2 columns: nothing of it belongs to the up panel
  const auto gather = [&](const Columns& columns, const PanelSpan* places) -> const float* {
    float* to = next();
    if (!columns.given()) return nullptr;
    GatherPair(columns, b.expert, 0, places, to);
    return to;
  };
  int32_t* int_bias = reinterpret_cast<int32_t*>(next());
  if (e.int_bias.given()) {
    GatherPairIntegers(e.int_bias, b.expert, spans, int_bias);
    out.int_bias = int_bias;
  }
  out.assist = gather(e.assist, spans);
  out.d = next();
  out.smooth = gather(e.smooth, gate_only);  // per column of the result: the gate panel's places
  out.offset = gather(e.offset, spans);
  out.bias = gather(e.bias, spans);
}

/// The pair's kernels, with what certified ones need to know.
void Worker::ChooseKernels(const RowBlock& b, int64_t pair, PairLines* lines) const {
  PanelPromise(&promise)[2] = lines->promise;
  if (plan_.promises.given()) {
    for (int h = 0; h < 2; ++h) promise[h] = plan_.promises.Of(b.expert, 2 * pair + h);
  }
  std::tie(lines->kernel[0], lines->kernel[1]) = b.KernelsOf(promise[0].certificate, promise[1].certificate);
  if (!plan_.promises.given()) return;
  for (int h = 0; h < 2; ++h) {
    if (lines->kernel[h]->needs == Certificate::kNone) continue;
    std::memcpy(lines->column_sums[h], panels_.ColumnSums(b.expert, 2 * pair + h), sizeof(lines->column_sums[h]));
    for (int e = 0; e < promise[h].count; e += 16) __builtin_prefetch(promise[h].residuals + 4 * e);
  }
}

Worker::PairLines Worker::Lines(const RowBlock& b, int64_t pair, int index, int slot, int64_t first_k, int64_t k) {
  const int64_t count = LinesOf(k, p_.w.dtype), first = first_k / LineK(p_.w.dtype);
  PairLines lines;
  lines.first_k = first_k;
  lines.k = k;
  lines.slot = slot;
  ChooseKernels(b, pair, &lines);
  if (plan_.promises.given() && pair + 1 < plan_.pairs) {  // three misses a panel otherwise: 15 % of decode
    for (int64_t next = 2 * pair + 2; next < 2 * pair + 4; ++next) {
      plan_.promises.Prefetch(b.expert, next);
      __builtin_prefetch(panels_.ColumnSums(b.expert, next));
    }
  }
  for (int h = 0; h < 2; ++h) {
    const Kernel& kernel = *lines.kernel[h];
    uint8_t* scratch = At<uint8_t>(plan_.scratch.lines) + (2 * index + h) * count * kLineBytes;
    const uint8_t* from = scratch;
    if (p_.w.packed.given()) from = panels_.Lines(b.expert, 2 * pair + h) + first * kLineBytes;
    if (lines.promise[h].count > 0 && kernel.needs == Certificate::kNone) {  // bytes that lack something
      std::memcpy(scratch, from, static_cast<size_t>(count * kLineBytes));
      RestoreLines(lines.promise[h], first_k, count, scratch);
      from = scratch;
    }
    lines.bytes[h] = from;
    lines.copied[h] = from == scratch || kernel.widen;
    if (kernel.widen) {
      uint8_t* to = At<uint8_t>(plan_.scratch.widened) + h * count * kernel.widened_bytes;
      kernel.widen(from, static_cast<int>(count), to);
      from = to;
    }
    lines.panel[h] = from;
  }
  return lines;
}

/// The panels of the next stretch, for kernels to fetch while they multiply this one again and again: the span's next pair,
/// else its next stretch, else the next span, else the next pass, else the pairs that wait next.
void Worker::FindNext(const RowBlock& b, const Task& task, int64_t pair, PairLines* lines) const {
  if (!p_.w.packed.given()) return;
  const int64_t end = task.first_pair + task.pairs, at = pair - task.first_pair;
  if (plan_.span == 1 && b.k_block >= p_.k) {  // all there is in decode
    for (int h = 0; h < 2 && pair + 1 < end; ++h) lines->next[h] = panels_.Lines(b.expert, 2 * pair + 2 + h);
    return;
  }
  const int64_t first = pair - at % plan_.span, span_end = std::min(first + plan_.span, end);
  const int64_t pass = lines->first_k - lines->first_k % b.k_pass;
  int64_t next_k = lines->first_k;
  if (++pair == span_end) {
    pair = first;
    next_k += b.k_block;
  }
  if (next_k >= std::min(pass + b.k_pass, p_.k)) {
    next_k = pass;
    pair = span_end;
    const int64_t waiting = task.first_pair + at - at % b.waiting_pairs;
    if (pair == std::min(waiting + b.waiting_pairs, end)) {
      next_k = next_k + b.k_pass < p_.k ? next_k + b.k_pass : 0;
      if (next_k > 0) pair = waiting;
    }
    if (pair == end) return;
  }
  for (int h = 0; h < 2; ++h) {
    lines->next[h] = panels_.Lines(b.expert, 2 * pair + h) + next_k / LineK(p_.w.dtype) * kLineBytes;
  }
}

/// What the call fetches that multiplies rows [row, row + tile_m) with a stretch's lines from `line` on. One tile of rows:
/// what comes in its own stream. Several, or lines that were copied: each tile fetches a part of the next stretch, each
/// slice a part of the tile's, so that memory is read all the time.
void Worker::SetPrefetch(const RowBlock& b, const Kernel& kernel, const PairLines& lines, int half, int row,
                         int64_t line, GemmArgs* args) const {
  const int tiles = b.packed_rows <= kernel.tile_m ? 1 : (b.packed_rows + kernel.tile_m - 1) / kernel.tile_m;
  const int tile = tiles > 1 ? row * tiles / b.packed_rows : 0;
  const int shift = std::bit_width(static_cast<unsigned>(tiles)) - 1;  // 2^shift tiles fetch a part each
  args->prefetch_step = 0;
  for (int i = 0; i < kernel.panels; ++i) {
    args->prefetch[i] = args->w[i];
    if (tiles == 1 && !lines.copied[half + i]) {
      args->prefetch[i] += plan_.AheadBytes(kernel, args->rows);
      args->prefetch_step = kLineBytes;
    } else if (lines.next[half + i] != nullptr && tile < 1 << shift) {
      args->prefetch_step = kLineBytes >> shift;
      const int64_t part = LinesOf(lines.k, p_.w.dtype) * kLineBytes >> shift;
      args->prefetch[i] = lines.next[half + i] + tile * part + line * args->prefetch_step;
    }
  }
}

/// Kernels of an only tile of rows stop reading memory where their panels end. What the next pair begins with is fetched while
/// this one is finished: one row 2 to 4 % faster, four rows 3 % (two Zen 3 cores). For kernels that walk both panels it comes
/// in three parts of as many lines as a core keeps misses in flight, 24 on a Zen 3, which waits for more: one row of certified
/// weights 1.03 to 1.08 x up to k 2048, 0.99 x beyond, of int4 1.01 to 1.05 x, of others 0.97 to 1.0 x what 64 lines of the
/// first panel at once gave.
void Worker::FetchNext(const RowBlock& b, const PairLines& lines, int part) const {
  constexpr int kAlone = 64, kTogether = 12;
  const Kernel& kernel = *lines.kernel[0];
  if (lines.next[0] == nullptr || b.packed_rows > kernel.tile_m) return;
  if (kernel.panels == 1) {
    for (int l = 0; l < kAlone && part == 0; ++l) FetchLine(lines.next[0] + l * kLineBytes);
    return;
  }
  for (int l = part * kTogether; l < (part + 1) * kTogether; ++l) {
    for (const uint8_t* next : lines.next) FetchLine(next + l * kLineBytes);
  }
}

/// The values per column of the span that begins at pair `first`. Returns the slot of its first pair: spans take turns where
/// the one before is still being finished, and so do the scales of scale_pairs.
int Worker::GatherSpan(const RowBlock& b, const Task& task, int64_t first, int pairs) {
  const int64_t place = (first - task.first_pair) % b.scale_pairs, pair_scales = p_.scale_slices() * kPairColumns;
  turn_ = b.meanwhile ? 1 - turn_ : 0;
  if (place == 0) scales_turn_ = b.meanwhile ? 1 - scales_turn_ : 0;
  const int slot = turn_ * plan_.span;
  float* scales = At<float>(plan_.scratch.scales) + scales_turn_ * b.scale_pairs * pair_scales;
  if (place == 0) GatherScales(b, first, std::min<int64_t>(b.scale_pairs, task.first_pair + task.pairs - first), scales);
  for (int i = 0; i < pairs; ++i) {
    GatherColumns(b, first + i, slot + i);
    columns_[slot + i].scale = scales + (place + i) * pair_scales;
  }
  return slot;
}

void Worker::Multiply(const Task& task) {
  const RowBlock& b = plan_.blocks[static_cast<size_t>(task.block)];
  if (block_ != task.block) packed_ = certified_packed_ = transposed_ = false;
  outlier_pair_ = -1;
  block_ = task.block;
  if (p_.epilogue.finish == Finish::kSwigluQuant) {
    std::memset(RowMax(b, task.index), 0, sizeof(uint32_t) * static_cast<size_t>(b.rows));
  }
  const int64_t end = task.first_pair + task.pairs;
  if (b.kernel->enter) b.kernel->enter();
  for (int64_t waiting = task.first_pair; waiting < end; waiting += b.waiting_pairs) {
    if (b.k_pass < p_.k) FinishRest();  // in the sums that are the next ones'
    const int64_t waiting_end = std::min(waiting + b.waiting_pairs, end);
    for (int64_t pass = 0; pass < p_.k; pass += b.k_pass) {
      for (int64_t first = waiting; first < waiting_end; first += plan_.span) {
        MultiplySpan(b, task, first, static_cast<int>(std::min<int64_t>(plan_.span, waiting_end - first)), waiting, pass);
      }
    }
  }
  if (b.kernel->leave) b.kernel->leave();
}

/// One pass over a span of pairs, of which those from `waiting` on share the sums that wait.
void Worker::MultiplySpan(const RowBlock& b, const Task& task, int64_t first, int pairs, int64_t waiting, int64_t pass) {
  const int strip = b.strip_rows;
  const int64_t pass_end = std::min(pass + b.k_pass, p_.k);
  const int slot = GatherSpan(b, task, first, pairs);
  const int sums = b.k_pass < p_.k ? static_cast<int>(first - waiting) : slot;
  if (b.meanwhile) unfinished_.products = unfinished_.products_left = int64_t{pairs} * 2 * b.packed_rows * (pass_end - pass);
  for (int64_t k0 = pass; k0 < pass_end; k0 += b.k_block) {
    const int64_t k = std::min(b.k_block, pass_end - k0), count = LinesOf(k, p_.w.dtype);
    if (!p_.w.packed.given()) {
      PackPanels(p_.w, {b.expert, 2 * first, 2 * pairs, k0 / LineK(p_.w.dtype), count,
                        At<uint8_t>(plan_.scratch.lines), count * kLineBytes}, plan_.stages->lines);
    }
    for (int i = 0; i < pairs; ++i) {
      PairLines lines = Lines(b, first + i, i, slot + i, k0, k);
      lines.sums = sums + i;
      FindNext(b, task, first + i, &lines);
      for (int h = 0; h < 2; ++h) {
        if (lines.kernel[h] != noted_[h]) kernels_ran_ |= TableBit(noted_[h] = lines.kernel[h]);
      }
      for (int row = 0; row < b.packed_rows; row += strip) {
        const int rows = std::min(strip, b.packed_rows - row);
        MultiplyStrip(b, lines, row, rows);
        FetchNext(b, lines, 0);
        if (k0 + k < p_.k) continue;
        AddResiduals(b, lines, row, rows);
        FetchNext(b, lines, 1);
        AddOutliers(b, lines, first + i, row, rows);
        if (!b.meanwhile) FinishStrip(Strip(b, task, first + i, slot + i, sums + i, row, rows), 0, rows);
        FetchNext(b, lines, 2);
      }
    }
  }
  if (!b.meanwhile) return;
  pass_end < p_.k ? FinishRest() : FinishLater(b, task, first, pairs, slot, sums);
}

/// Every slice, or part of one, that the stretch holds; where a slice ends its sums are folded. No division inside: a slice
/// of 32 k of one row is ten cycles of work.
void Worker::MultiplyStrip(const RowBlock& b, const PairLines& lines, int row, int rows) {
  if (slices_ > 1 && b.kernel->folds && lines.k % p_.slice == 0) return MultiplySlices(b, lines, row, rows);
  const int64_t stretch_end = lines.first_k + lines.k;
  int64_t slice = slices_ > 1 ? lines.first_k / p_.slice : 0;
  for (int64_t k = lines.first_k; k < stretch_end; ++slice) {
    const int64_t slice_end = (slice + 1) * p_.slice, end = std::min(slice_end, stretch_end);
    MultiplySlice(b, lines, row, rows, slice, k, end - k);
    const int64_t at = AccRow(b, lines.sums, row, 0) * kPairColumns;
    if (p_.product == Product::kFixed16 && (end == slice_end || end == p_.k)) {
      plan_.stages->fold_rows(At<int32_t>(plan_.scratch.acc) + at, Fixed(row).scales + slice, slices_, slice == 0, rows,
                              At<float>(plan_.scratch.folded) + at);
    } else if (end == slice_end && slices_ > 1) {
      plan_.stages->fold(At<int32_t>(plan_.scratch.acc) + at, columns_[lines.slot].scale + slice * kPairColumns,
                         slice == 0, rows, At<float>(plan_.scratch.folded) + at);
    }
    k = end;
  }
}

void Worker::MultiplySlice(const RowBlock& b, const PairLines& lines, int row, int rows, int64_t slice, int64_t first_k,
                           int64_t k) {
  const int64_t line_k = LineK(p_.w.dtype);
  GemmArgs args = {};
  args.k = static_cast<int>(k);
  args.k_offset = static_cast<int>(first_k % line_k);
  args.add = first_k != slice * p_.slice;
  MultiplyTiles(b, lines, row, rows, slice, first_k, args,
                At<int32_t>(plan_.scratch.acc) + AccRow(b, lines.sums, row, 0) * kPairColumns);
}

/// Whole slices, which the kernel folds.
void Worker::MultiplySlices(const RowBlock& b, const PairLines& lines, int row, int rows) {
  const int64_t slice = lines.first_k / p_.slice;
  GemmArgs args = {};
  args.k = static_cast<int>(p_.slice);
  args.slices = static_cast<int>(lines.k / p_.slice);
  args.scales = columns_[lines.slot].scale + slice * kPairColumns;
  args.add = slice > 0;
  MultiplyTiles(b, lines, row, rows, slice, lines.first_k, args,
                At<int32_t>(plan_.scratch.folded) + AccRow(b, lines.sums, row, 0) * kPairColumns);
}

/// Panel by panel (or the pair), tile after tile of rows; `acc`: of the strip's first row.
void Worker::MultiplyTiles(const RowBlock& b, const PairLines& lines, int row, int rows, int64_t slice, int64_t first_k,
                           GemmArgs& args, int32_t* acc) {
  const int64_t line_k = LineK(p_.w.dtype), line = first_k / line_k - lines.first_k / line_k;
  const int64_t k = int64_t{args.k} * (args.scales ? args.slices : 1);
  const float* scales = args.scales;
  args.row_sums_stride = slices_;
  for (int h = 0; h < 2; h += lines.kernel[h]->panels) {
    const Kernel& kernel = *lines.kernel[h];
    const std::byte* x = PackedX(b, kernel);
    args.x_stride = PackedStride(p_.k, kernel);
    for (int i = 0; i < kernel.panels; ++i) {
      args.w[i] = lines.panel[h + i] + line * (kernel.widen ? kernel.widened_bytes : kLineBytes);
      args.column_sums[i] = lines.column_sums[h + i];
    }
    args.scales = scales ? scales + h * kPanelColumns : nullptr;
    for (int r = 0; r < rows; r += args.rows) {
      args.rows = TileRows(kernel, rows - r);
      args.x = x + PackedAt(kernel, args.x_stride, row + r, first_k) * kernel.x_bytes;
      args.row_sums = At<int32_t>(plan_.scratch.row_sums) + (row + r) * slices_ + slice;
      args.acc = acc + r * kPairColumns + h * kPanelColumns;
      SetPrefetch(b, kernel, lines, h, row + r, line, &args);
      args.waiting = unfinished_.rows_left > 0 ? Share(int64_t{args.rows} * kernel.panels * k) : nullptr;
      kernel.gemm(args);
      if (args.waiting) FinishShare();
    }
  }
}

}  // namespace qgmm::cpu
