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
