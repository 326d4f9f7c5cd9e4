// SPDX-License-Identifier: Apache-2.0
// Scales, biases and the like of one pair of panels, gathered from any dtype and strides; padding becomes 0.
#pragma once

#include <cstdint>

#include "packed_format.h"
#include "problem.h"

namespace qgmm::cpu {

/// out[16 * h + c] = f(columns[expert, slice, spans[h].first + c]).
void GatherPair(const Columns& columns, int64_t expert, int64_t slice, const PanelSpan spans[2], float* out);
/// The same for `pairs` consecutive pairs and all slices: out[(i * slices + s) * kPairColumns ..]. Rows of slices may be
/// kilobytes apart, a page and a cache miss each, so of every row all pairs are read at once.
void GatherPairs(const Columns& columns, int64_t expert, int64_t slices, int64_t first_pair, int64_t pairs, int64_t n,
                 bool paired, float* out);
/// The same as GatherPair for int32.
void GatherPairIntegers(const Columns& columns, int64_t expert, const PanelSpan spans[2], int32_t* out);

}  // namespace qgmm::cpu
