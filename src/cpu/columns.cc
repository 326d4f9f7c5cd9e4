// SPDX-License-Identifier: Apache-2.0
// Gathering of per-column values.
#include "cpu/columns.h"

#include <cstring>

#include "numeric.h"

namespace qgmm::cpu {

void GatherPair(const Columns& columns, int64_t expert, int64_t slice, const PanelSpan spans[2], float* out) {
  const Columns::Source source = columns.Of(expert);
  for (int h = 0; h < 2; ++h, out += kPanelColumns) {
    std::memset(out, 0, sizeof(float) * kPanelColumns);
    const int64_t first = slice * source.slice_stride + spans[h].first * source.column_stride;
    if (columns.dtype == DType::kFloat32 && source.column_stride == 1) {
      std::memcpy(out, static_cast<const float*>(source.data) + first, sizeof(float) * static_cast<size_t>(spans[h].columns));
      continue;
    }
    for (int c = 0; c < spans[h].columns; ++c) out[c] = Load(source.data, columns.dtype, first + c * source.column_stride);
  }
}

void GatherPairs(const Columns& columns, int64_t expert, int64_t slices, int64_t first_pair, int64_t pairs, int64_t n,
                 bool paired, float* out) {
  const Columns::Source source = columns.Of(expert);
  const int64_t end = (first_pair + pairs) * (paired ? kPanelColumns : kPairColumns);
  if (columns.dtype == DType::kFloat32 && source.column_stride == 1 && end <= (paired ? n / 2 : n)) {
    const float* first = static_cast<const float*>(source.data) + ColumnsOf(2 * first_pair, n, paired).first;
    const int64_t to_second = paired ? n / 2 : kPanelColumns, to_next = paired ? kPanelColumns : kPairColumns;
    for (int64_t s = 0; s < slices; ++s, first += source.slice_stride) {
      for (int64_t i = 0; i < pairs; ++i) {
        float* to = out + (i * slices + s) * kPairColumns;
        std::memcpy(to, first + i * to_next, sizeof(float) * kPanelColumns);
        std::memcpy(to + kPanelColumns, first + i * to_next + to_second, sizeof(float) * kPanelColumns);
      }
    }
    return;
  }
  for (int64_t i = 0; i < pairs; ++i) {
    const int64_t panel = 2 * (first_pair + i);
    const PanelSpan spans[2] = {ColumnsOf(panel, n, paired), ColumnsOf(panel + 1, n, paired)};
    for (int64_t s = 0; s < slices; ++s) GatherPair(columns, expert, s, spans, out + (i * slices + s) * kPairColumns);
  }
}

void GatherPairIntegers(const Columns& columns, int64_t expert, const PanelSpan spans[2], int32_t* out) {
  const Columns::Source source = columns.Of(expert);
  const int32_t* data = static_cast<const int32_t*>(source.data);
  for (int h = 0; h < 2; ++h, out += kPanelColumns) {
    for (int c = 0; c < kPanelColumns; ++c) {
      out[c] = c < spans[h].columns ? data[(spans[h].first + c) * source.column_stride] : 0;
    }
  }
}

}  // namespace qgmm::cpu
