// SPDX-License-Identifier: Apache-2.0
// group_list and group_list_type: the argument, and its values once everything else is right.
#pragma once

#include <string>
#include <vector>

#include "check_arguments.h"
#include "problem.h"

namespace qgmm::check {

void CheckGroupListType(const Call& call, int64_t group_list_type);

/// int64 or int32, one dimension, 1 to e entries.
void CheckGroupList(const Call& call, Stage stage, const TensorView& list, Need need);

/// The rows of every expert that has some. `clamps`: a list that ends past m is cut off and `warning` says so.
std::vector<RowRange> Rows(const Call& call, const TensorView& list, int64_t type, bool clamps, std::string* warning);

}  // namespace qgmm::check
