// SPDX-License-Identifier: Apache-2.0
// Values per column: dtypes, shapes for one tensor or one per expert, and slices of k.
#include "check_scales.h"

#include <algorithm>

namespace qgmm::check {
namespace {

bool IsFloat(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16;
}
bool IsCarrier(DType dtype) { return dtype == DType::kInt64 || dtype == DType::kUInt64; }

constexpr const char* kForms = "must be one [e, n] or [e, G, n] tensor or e [n] or [G, n] tensors; got ";

void CheckScaleForm(const Call& call, const ScaleArgument& scale) {
  const WeightArgument& weight = scale.weight;
  const int64_t came = scale.list.size;
  if (weight.packed.given()) {
    if (came != 1 && came != weight.packed.e) {
      QGMM_REFUSE(call.operation, "weight_scale must be one tensor or a list of ", weight.packed.e,
                  " tensors; got a list of ", came);
    }
  } else if (weight.split() && came != weight.list.size) {
    QGMM_REFUSE(call.operation, "weight_scale must be a list of ", weight.list.size, " tensors like weight; got ",
                came);
  } else if (!weight.split() && came != 1) {
    QGMM_REFUSE(call.operation, "weight_scale must be one tensor like weight; got a list of ", came);
  }
}

void CheckScaleDtype(const Call& call, const ScaleArgument& scale) {
  const DType dtype = scale.list.data->dtype;
  if (!IsFloat(dtype) && !IsCarrier(dtype)) {
    QGMM_REFUSE(call.operation,
                "weight_scale must be float32, float16, bfloat16, or int64 carrying float32 bits (int4 weights only); "
                "got ", Name(dtype));
  }
  if (IsCarrier(dtype) && !scale.weight.int4()) {
    QGMM_REFUSE(call.operation, "weight_scale must be float32, float16 or bfloat16 for int8 weights; got ",
                Name(dtype));
  }
}

/// `weight_scale must be [8, 4096] (e, n)`, or with slices, or of the first tensor of a list.
[[noreturn]] void RefuseScaleShape(const Call& call, const ScaleArgument& scale) {
  const TensorView& first = scale.list.data[0];
  const Size e = {call.e, "e"}, n = {call.n, "n"};
  const Argument argument = {"weight_scale", scale.split() ? 0 : -1};
  if (scale.rank() == 3) {
    const Size slices = {first.sizes[first.rank - 2], "G"};
    QGMM_REFUSE(call.operation, argument, " must be ",
                scale.split() ? Shape({slices, n}) + " (G, n)" : Shape({e, slices, n}) + " (e, G, n)", "; got ",
                Shape(first));
  }
  QGMM_REFUSE(call.operation, argument, " must be ",
              scale.split() ? Shape({n}) + " (n)" : Shape({e, n}) + " (e, n)", "; got ", Shape(first));
}

void CheckScaleRank(const Call& call, const ScaleArgument& scale) {
  if (scale.rank() == 3 || (scale.rank() == 2 && (scale.dequant_mode == 0 || scale.mode_from_rank))) return;
  if (scale.dequant_mode == 1) {
    QGMM_REFUSE(call.operation, Argument{"weight_scale", scale.split() ? 0 : -1}, " must be ",
                scale.split() ? "[G, n]" : "[e, G, n]", " for dequant_mode 1; got ", Shape(scale.list.data[0]));
  }
  RefuseScaleShape(call, scale);
}

void CheckScaleShape(Call& call, const ScaleArgument& scale) {
  const TensorView& first = scale.list.data[0];
  call.slices = scale.rank() == 3 ? first.sizes[first.rank - 2] : 1;
  const bool good = first.sizes[first.rank - 1] == call.n && (scale.split() || first.sizes[0] == call.e);
  if (!good) RefuseScaleShape(call, scale);
  if (call.slices != 1 && scale.dequant_mode == 0 && !scale.mode_from_rank) {
    QGMM_REFUSE(call.operation, "dequant_mode must be 1 for ", ScaleShape(call), "; got 0");
  }
  if (call.slices == 0 || call.k % call.slices != 0) {
    QGMM_REFUSE(call.operation, "k must be a multiple of G; got k ", call.k, " with ", call.slices,
                " scales per column");
  }
}

}  // namespace

void CheckWeightScale(Call& call, Stage stage, const ScaleArgument& scale) {
  CheckList(call, stage, "weight_scale", scale.list, kForms);
  if (stage == Stage::kType) CheckScaleForm(call, scale);
  if (stage == Stage::kDtype) CheckScaleDtype(call, scale);
  if (stage == Stage::kRank) CheckScaleRank(call, scale);
  CheckAlike(call, stage, "weight_scale", scale.list);
  if (stage == Stage::kShape) CheckScaleShape(call, scale);
}

std::string ScaleShape(const Call& call) {
  return "weight_scale " + Shape({{call.e, "e"}, {call.slices, "G"}, {call.n, "n"}});
}

void CheckAssist(const Call& call, Stage stage, const char* name, const TensorList& assist) {
  if (!assist.given) return;
  CheckList(call, stage, name, assist, "must be one [e, n] tensor or e [n] tensors; got ");
  const Size e = {call.e, "e"}, n = {call.n, "n"};
  if (assist.size == 1) {
    const TensorView& view = assist.data[0];
    if (!Fits(stage, view, view.dtype == DType::kFloat32, {call.e, call.n})) {
      QGMM_REFUSE(call.operation, name, " must be float32 ", Shape({e, n}), " (e, n); got ", Came(view));
    }
    return;
  }
  if (stage == Stage::kShape && assist.size != call.e) {
    QGMM_REFUSE(call.operation, name, " must be float32 ", Shape({e, n}), " (e, n); got a list of ", assist.size,
                " tensors");
  }
  for (int64_t i = 0; i < assist.size; ++i) {
    const TensorView& view = assist.data[i];
    if (!Fits(stage, view, view.dtype == DType::kFloat32, {call.n})) {
      QGMM_REFUSE(call.operation, Argument{name, i}, " must be float32 ", Shape({n}), " (n); got ", Came(view));
    }
  }
}

void CheckLikeX(const Call& call, Stage stage, const char* name, const TensorView& view, DType x_dtype, Need need) {
  if (!CheckTensor(call, stage, {name}, view, need)) return;
  if (stage == Stage::kDtype && view.dtype != x_dtype && view.dtype != DType::kFloat32) {
    if (x_dtype == DType::kFloat32) {
      QGMM_REFUSE(call.operation, name, " must be float32; got ", Name(view.dtype));
    }
    QGMM_REFUSE(call.operation, name, " must be ", Name(x_dtype), " (like x) or float32; got ", Name(view.dtype));
  }
  if (!Fits(stage, view, true, {call.e, call.n})) {
    QGMM_REFUSE(call.operation, name, " must be ", Shape({{call.e, "e"}, {call.n, "n"}}), " (e, n); got ",
                Shape(view));
  }
}

void CheckIntBias(const Call& call, Stage stage, const TensorView& bias) {
  if (!CheckTensor(call, stage, {"bias"}, bias, Need::kOptional)) return;
  if (!Fits(stage, bias, bias.dtype == DType::kInt32, {call.e, call.n})) {
    QGMM_REFUSE(call.operation, "bias must be int32 ", Shape({{call.e, "e"}, {call.n, "n"}}), " (e, n); got ",
                Came(bias));
  }
  if (stage == Stage::kShape && call.slices > 1) {
    QGMM_REFUSE(call.operation, "bias must be None for ", ScaleShape(call), "; got ", Came(bias));
  }
}

void CheckAnyBias(const Call& call, Stage stage, const TensorView& bias) {
  if (bias.dtype == DType::kInt32) return CheckIntBias(call, stage, bias);
  if (!CheckTensor(call, stage, {"bias"}, bias, Need::kOptional)) return;
  if (!Fits(stage, bias, IsFloat(bias.dtype), {call.e, call.n})) {
    QGMM_REFUSE(call.operation, "bias must be int32, float16, bfloat16 or float32 ",
                Shape({{call.e, "e"}, {call.n, "n"}}), " (e, n); got ", Came(bias));
  }
}

void CheckSmoothScale(const Call& call, Stage stage, const TensorView& smooth) {
  if (!CheckTensor(call, stage, {"smooth_scale"}, smooth, Need::kOptional)) return;
  const bool per_column = smooth.rank == 2;
  const bool good = per_column ? Fits(stage, smooth, smooth.dtype == DType::kFloat32, {call.e, call.h()})
                               : Fits(stage, smooth, smooth.dtype == DType::kFloat32, {call.e});
  if (!good) {
    const Size e = {call.e, "e"}, h = {call.h(), "n/2"};
    QGMM_REFUSE(call.operation, "smooth_scale must be float32 ", Shape({e}), " (e) or ", Shape({e, h}),
                " (e, n/2); got ", Came(smooth));
  }
}

Columns MakeColumns(const TensorView& view) {
  Columns columns;
  if (!view.given()) return columns;
  columns.dtype = view.dtype;
  columns.data = view.data;
  columns.expert_stride = view.strides[0];
  if (view.rank == 3) columns.slice_stride = view.strides[1];
  if (view.rank > 1) columns.column_stride = view.strides[view.rank - 1];
  return columns;
}

Columns MakeColumns(const TensorList& list) {
  if (!list.given) return {};
  if (list.size == 1) return MakeColumns(list.data[0]);
  Columns columns;
  columns.dtype = list.data[0].dtype;
  columns.list.reserve(static_cast<size_t>(list.size));
  for (int64_t i = 0; i < list.size; ++i) {
    const TensorView& view = list.data[i];
    columns.list.push_back({view.data, view.rank == 2 ? view.strides[0] : 0, view.strides[view.rank - 1]});
  }
  return columns;
}

}  // namespace qgmm::check
