// SPDX-License-Identifier: Apache-2.0
// group_list -> row ranges. The only host file that knows both spellings (cumulative ends, counts).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "problem.h"
#include "qgmm/types.h"

namespace qgmm {

struct DecodedGroups {
  std::vector<RowRange> rows;  // of experts that have rows
  std::string violation;       // empty, or the sentence's rest: "(counts) must sum to at most 32 (m); got 33"
  bool only_past_m = false;    // the violation is nothing but an end beyond m: clamping it is harmless
};

/// Decodes a rank-1 int64 or int32 list of any stride. `type`: 0 cumulative ends, 1 counts. `m`: rows of x.
/// The ranges are those of the clamped list whatever its values, as in docs/operators.md section 1.3.
DecodedGroups DecodeGroups(const TensorView& list, int64_t type, int64_t m);

/// The last entry of such a list.
int64_t LastEntry(const TensorView& list);

}  // namespace qgmm
