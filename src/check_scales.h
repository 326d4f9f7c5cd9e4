// SPDX-License-Identifier: Apache-2.0
// Arguments with values per column: weight_scale, scale, offset, assist matrix, bias, smooth_scale.
#pragma once

#include "check_arguments.h"
#include "check_weights.h"
#include "problem.h"

namespace qgmm::check {

/// weight_scale of the integer operations: one tensor, or one per expert, like the weights. Stage kShape learns G.
struct ScaleArgument {
  const TensorList& list;
  const WeightArgument& weight;
  int64_t dequant_mode;
  bool mode_from_rank = false;  // the vendor's V1 has no dequant_mode

  bool split() const { return list.size > 1; }
  int rank() const { return list.data->rank + (split() ? 1 : 0); }  // of [e, n] or [e, G, n]
};
void CheckWeightScale(Call& call, Stage stage, const ScaleArgument& scale);

/// "weight_scale [8, 56, 4096]", as sentences about other arguments call it.
std::string ScaleShape(const Call& call);

/// float32 [e, n], or a list of e of [n]. `name`: the vendor's V1 calls it bias.
void CheckAssist(const Call& call, Stage stage, const char* name, const TensorList& assist);

/// Operator B: x's dtype or float32, [e, n].
void CheckLikeX(const Call& call, Stage stage, const char* name, const TensorView& view, DType x_dtype, Need need);

/// int32 [e, n], and only without slices.
void CheckIntBias(const Call& call, Stage stage, const TensorView& bias);

/// grouped_matmul: that, or float16, bfloat16, float32 [e, n].
void CheckAnyBias(const Call& call, Stage stage, const TensorView& bias);

/// float32 [e] or [e, n/2].
void CheckSmoothScale(const Call& call, Stage stage, const TensorView& smooth);

/// [e, n], [e, G, n] or [e]; a list of e gives one entry per expert.
Columns MakeColumns(const TensorView& view);
Columns MakeColumns(const TensorList& list);

}  // namespace qgmm::check
