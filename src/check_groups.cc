// SPDX-License-Identifier: Apache-2.0
// group_list: its form, and what the caller hears of bad values.
#include "check_groups.h"

#include "groups.h"

namespace qgmm::check {

void CheckGroupListType(const Call& call, int64_t group_list_type) {
  if (group_list_type == 0 || group_list_type == 1) return;
  QGMM_REFUSE(call.operation, "group_list_type must be 0 (cumsum) or 1 (counts); got ", group_list_type);
}

void CheckGroupList(const Call& call, Stage stage, const TensorView& list, Need need) {
  if (!CheckTensor(call, stage, {"group_list"}, list, need)) return;
  if (stage == Stage::kDtype && list.dtype != DType::kInt64 && list.dtype != DType::kInt32) {
    QGMM_REFUSE(call.operation, "group_list must be int64 or int32; got ", Name(list.dtype));
  }
  if (stage == Stage::kRank && list.rank != 1) {
    QGMM_REFUSE(call.operation, "group_list must have one dimension; got ", Shape(list));
  }
  if (stage == Stage::kShape && (list.sizes[0] < 1 || list.sizes[0] > call.e)) {
    QGMM_REFUSE(call.operation, "group_list must have 1 to ", call.e, " (e) entries; got ", list.sizes[0]);
  }
}

std::vector<RowRange> Rows(const Call& call, const TensorView& list, int64_t type, bool clamps, std::string* warning) {
  DecodedGroups groups = DecodeGroups(list, type, call.m);
  if (groups.violation.empty()) return std::move(groups.rows);
  if (!clamps || !groups.only_past_m) QGMM_REFUSE(call.operation, "group_list ", groups.violation);
  *warning = std::string("[") + call.operation + "] group_list " + groups.violation +
             "; clamped, as the NPU computes the rows that exist";
  return std::move(groups.rows);
}

}  // namespace qgmm::check
