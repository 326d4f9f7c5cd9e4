// SPDX-License-Identifier: Apache-2.0
// From complete sums to results: what certified bytes lack, the stages, and spans that are finished while the next one is
// multiplied.
#include <algorithm>
#include <utility>

#include "cpu/prefetch.h"
#include "cpu/worker.h"

namespace qgmm::cpu {

bool IsPlain(const StripArgs& s) {
  const Epilogue& e = s.problem->epilogue;
  const bool whole = s.columns[0] == kPanelColumns && s.columns[1] == kPanelColumns && s.assist_row == 0;
  if (!whole || e.activation != Activation::kNone || e.finish == Finish::kInt32) return false;
  if (e.finish != Finish::kSwigluQuant && s.problem->y.column_stride != 1) return false;
  if (e.finish == Finish::kAffine) return true;
  return s.problem->x_scale.data && !s.int_bias && !s.assist && !s.bias && !s.smooth && !e.limited;
}

float* Worker::Results(const RowBlock& b) const {
  return b.results < 0 ? At<float>(plan_.scratch.results) : reinterpret_cast<float*>(shared_ + b.results);
}

uint32_t* Worker::RowMax(const RowBlock& b, int index) const {
  if (b.row_max < 0) return At<uint32_t>(plan_.scratch.row_max);
  return reinterpret_cast<uint32_t*>(shared_ + b.row_max) + static_cast<int64_t>(index) * b.rows;
}

/// After the last stretch: what certified bytes lack. x is transposed when the first list of a block is met.
void Worker::AddResiduals(const RowBlock& b, const PairLines& lines, int row, int rows) {
  const int width = TransposedWidth(b), strip = b.strip_rows;
  int8_t* transposed = At<int8_t>(plan_.scratch.transposed_x);
  for (int h = 0; h < 2; ++h) {
    const Kernel& kernel = *lines.kernel[h];
    if (kernel.needs == Certificate::kNone || lines.promise[h].count == 0) continue;
    if (!transposed_) {
      const int64_t stride = PackedStride(p_.k, kernel);
      const uint8_t* x = reinterpret_cast<const uint8_t*>(PackedX(b, kernel));
      for (int r = 0; r < b.packed_rows; r += strip) {
        plan_.stages->transpose_x(x + r * stride, stride, std::min(strip, b.packed_rows - r), width, p_.k,
                                  transposed + r / strip * p_.k * width);
      }
      transposed_ = true;
    }
    plan_.stages->add_residuals(
        {lines.promise[h], transposed + row / strip * p_.k * width, width, rows, p_.k,
         At<int32_t>(plan_.scratch.acc) + AccRow(b, lines.sums, row, 0) * kPairColumns + h * kPanelColumns,
         At<int32_t>(plan_.scratch.residual_sums)});
  }
}

StripArgs Worker::Strip(const RowBlock& b, const Task& task, int64_t pair, int slot, int sums, int row, int rows) const {
  const PairColumns& columns = columns_[slot];
  const int front = b.packed_rows - b.rows;
  const int64_t at = AccRow(b, sums, row, 0) * kPairColumns;
  const int first_real = row == 0 ? 0 : row - front;  // in the block
  StripArgs s = {};
  s.problem = &p_;
  s.acc = At<int32_t>(p_.product == Product::kFixed16 ? plan_.scratch.folded : plan_.scratch.acc) + at;
  s.folded = slices_ > 1 ? At<float>(plan_.scratch.folded) + at : nullptr;
  s.rows = rows;
  s.assist_row = row == 0 ? front : 0;
  s.first_row = b.first_row + first_real;
  for (int h = 0; h < 2; ++h) {
    const PanelSpan span = ColumnsOf(2 * pair + h, p_.n, p_.w.paired);
    s.columns[h] = span.columns;
    s.first_column[h] = span.first;
  }
  s.scale = columns.scale;
  s.int_bias = columns.int_bias;
  s.assist = columns.assist;
  s.d = columns.d;
  s.smooth = columns.smooth;
  s.offset = columns.offset;
  s.bias = columns.bias;
  s.x_sums = At<float>(plan_.scratch.x_sums) + first_real;
  if (p_.epilogue.finish == Finish::kSwigluQuant) {
    s.results = Results(b) + (pair * b.rows + first_real) * kPanelColumns;
    s.row_max = RowMax(b, task.index) + first_real;
  }
  s.plain = IsPlain(s);
  return s;
}

void Worker::FinishStrip(const StripArgs& s, int begin, int end) const {
  switch (p_.epilogue.finish) {
    case Finish::kSwigluQuant: return plan_.stages->finish_swiglu(s, begin, end);
    case Finish::kAffine: return plan_.stages->finish_affine(s, begin, end);
    case Finish::kDequantize:
    case Finish::kInt32: return plan_.stages->finish_dequantize(s, begin, end);
  }
}

/// The span's sums are complete, and wait for the kernel calls of the next span. What those of this one left of the last is
/// finished now: its slots are the next span's.
void Worker::FinishLater(const RowBlock& b, const Task& task, int64_t first_pair, int pairs, int slot, int sums) {
  FinishRest();
  unfinished_ = {&b, &task, first_pair, slot, sums, 0, pairs * b.packed_rows, pairs * b.packed_rows, 0, 0, 0, {}, {}};
  unfinished_.strip = Strip(b, task, first_pair, slot, sums, 0, b.packed_rows);
}

void Worker::FinishRest() { FinishRows(unfinished_.rows_left); }

/// The next rows of what waits: pair after pair, so that the row of eights comes before those that need its d.
void Worker::FinishRows(int count) {
  Unfinished& u = unfinished_;
  u.rows_left -= count;
  while (count > 0) {
    if (u.row == u.strip.rows) NextStrip();
    const int end = std::min(u.row + count, u.strip.rows);
    FinishStrip(u.strip, u.row, end);
    count -= end - u.row;
    u.row = end;
  }
}

void Worker::NextStrip() {
  Unfinished& u = unfinished_;
  u.strip = Strip(*u.block, *u.task, ++u.pair, ++u.slot, ++u.sums, 0, u.strip.rows);
  u.row = 0;
}

/// Rows that a kernel call of so many products (row, panel and k) may finish: its share, of one strip.
WaitingRows* Worker::Share(int64_t products) {
  Unfinished& u = unfinished_;
  u.products_left -= products;
  u.due = std::max(u.rows_left - static_cast<int>(u.rows * u.products_left / u.products), 0);
  if (u.due > 0 && u.row == u.strip.rows) NextStrip();
  u.waiting = {&u.strip, u.row, u.strip.plain ? std::min(u.row + u.due, u.strip.rows) : u.row};
  return &u.waiting;
}

/// What the call left of its share, whose last instructions are still on their way: several rows together.
void Worker::FinishShare() {
  constexpr int kRowsTogether = 8;
  Unfinished& u = unfinished_;
  const int done = u.waiting.row - std::exchange(u.row, u.waiting.row);
  u.rows_left -= done;
  u.due -= done;
  if (u.due < std::min(kRowsTogether, u.rows_left) || u.rows_left == 0) return;
  FinishRows(u.due);
  if (p_.epilogue.finish != Finish::kSwigluQuant && !u.strip.plain) FetchResults(u.strip, u.row, u.row + kRowsTogether);
}

/// Lines of y that the next rows write, of strips with options; plain rows fetch theirs (kRowsAhead, where the reason is).
void Worker::FetchResults(const StripArgs& s, int begin, int end) const {
  const Matrix& y = p_.y;
  for (int i = std::max(begin, s.assist_row); i < std::min(end, s.rows); ++i) {
    const int64_t row = (s.first_row + i - s.assist_row) * y.row_stride;
    for (int h = 0; h < 2 && s.columns[h] > 0; ++h) {
      FetchLineToWrite(static_cast<const std::byte*>(y.data) + (row + s.first_column[h] * y.column_stride) * Bytes(y.dtype));
    }
  }
}

}  // namespace qgmm::cpu
