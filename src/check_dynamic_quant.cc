// SPDX-License-Identifier: Apache-2.0
// dynamic_quant: rows of any leading axes, a smoothing row per group.
#include "check.h"

#include <algorithm>

#include "check_arguments.h"
#include "check_refuse.h"
#include "check_scales.h"
#include "groups.h"

namespace qgmm {
namespace {

using namespace check;  // NOLINT: this file is a door of that namespace

struct Sizes {
  int64_t rows = -1, h = -1, g = -1;
};

bool IsFloat(DType dtype) {
  return dtype == DType::kFloat16 || dtype == DType::kBFloat16 || dtype == DType::kFloat32;
}

bool GoodRank(const TensorView& x) { return x.rank >= 2 && x.rank <= TensorView::kMaxRank; }

/// Product of the leading axes; negative if it does not fit int64.
int64_t CountRows(const TensorView& x) {
  int64_t rows = 1;
  for (int axis = 0; axis < x.rank - 1; ++axis) {
    if (x.sizes[axis] == 0) return 0;
  }
  for (int axis = 0; axis < x.rank - 1; ++axis) {
    if (__builtin_mul_overflow(rows, x.sizes[axis], &rows)) return -1;
  }
  return rows;
}

void CheckDstType(const Call& call, DType dst_type) {
  if (dst_type == DType::kInt8 || dst_type == DType::kInt4 || dst_type == DType::kFloat8E4M3 ||
      dst_type == DType::kFloat8E5M2) {
    return;
  }
  QGMM_REFUSE(call.operation, "dst_type must be int8, quint4x2, float8_e4m3fn or float8_e5m2; got ", Name(dst_type));
}

void CheckX(const Call& call, Stage stage, const DynamicQuantArgs& args, const Sizes& sizes) {
  const TensorView& x = args.x;
  CheckTensor(call, stage, {"x"}, x, Need::kRequired);
  if (stage == Stage::kDtype && !IsFloat(x.dtype)) {
    QGMM_REFUSE(call.operation, "x must be float16, bfloat16 or float32; got ", Name(x.dtype));
  }
  if (stage == Stage::kRank && x.rank < 2) {
    QGMM_REFUSE(call.operation, "x must have at least 2 dimensions; got ", Shape(x));
  }
  if (stage == Stage::kRank && x.rank > TensorView::kMaxRank) {
    QGMM_REFUSE(call.operation, "x must have at most 8 dimensions; got ", Shape(x));
  }
  if (stage != Stage::kShape) return;
  if (sizes.rows < 0) {
    QGMM_REFUSE(call.operation, "x must have at most 9223372036854775807 rows; got ", Shape(x));
  }
  if (sizes.h < 1) QGMM_REFUSE(call.operation, "h must be at least 1; got ", sizes.h);
  if (args.dst_type == DType::kInt4 && sizes.h % 8 != 0) {
    QGMM_REFUSE(call.operation, "h must be a multiple of 8 for int4; got ", sizes.h);
  }
}

void CheckSmooth(const Call& call, Stage stage, const DynamicQuantArgs& args, const Sizes& sizes) {
  const TensorView& smooth = args.smooth_scales;
  if (!CheckTensor(call, stage, {"smooth_scales"}, smooth, Need::kOptional)) return;
  if (stage == Stage::kDtype && smooth.dtype != args.x.dtype && smooth.dtype != DType::kFloat32) {
    if (args.x.dtype == DType::kFloat32) {
      QGMM_REFUSE(call.operation, "smooth_scales must be float32; got ", Name(smooth.dtype));
    }
    QGMM_REFUSE(call.operation, "smooth_scales must be ", Name(args.x.dtype), " (like x) or float32; got ",
                Name(smooth.dtype));
  }
  if (args.group_index.given()) {
    if (Fits(stage, smooth, true, {sizes.g, sizes.h})) return;
    QGMM_REFUSE(call.operation, "smooth_scales must be ", Shape({{sizes.g, "g"}, {sizes.h, "h"}}), " (g, h); got ",
                Shape(smooth));
  }
  if (Fits(stage, smooth, true, {sizes.h})) return;
  QGMM_REFUSE(call.operation, "smooth_scales must be ", Shape({{sizes.h, "h"}}), " (h); got ", Shape(smooth));
}

void CheckGroupIndex(const Call& call, Stage stage, const TensorView& index, const TensorView& smooth) {
  if (!CheckTensor(call, stage, {"group_index"}, index, Need::kOptional)) return;
  if (stage == Stage::kType && !smooth.given()) {
    QGMM_REFUSE(call.operation, "group_index must be None without smooth_scales; got ", Came(index));
  }
  if (stage == Stage::kDtype && index.dtype != DType::kInt64 && index.dtype != DType::kInt32) {
    QGMM_REFUSE(call.operation, "group_index must be int64 or int32; got ", Name(index.dtype));
  }
  if (stage == Stage::kRank && index.rank != 1) {
    QGMM_REFUSE(call.operation, "group_index must have one dimension; got ", Shape(index));
  }
  if (stage == Stage::kShape && index.sizes[0] < 1) {
    QGMM_REFUSE(call.operation, "group_index must have at least 1 entry; got 0");
  }
}

/// x, its last size replaced by `last` or, if negative, dropped.
TensorView LikeX(const TensorView& x, int64_t last) {
  TensorView wanted = x;
  if (last >= 0) wanted.sizes[x.rank - 1] = last;
  else --wanted.rank;
  return wanted;
}

/// A contiguous output; `letters` stand for its sizes while x has a rank that gives none.
void CheckOutput(const Call& call, Stage stage, const char* name, const TensorView& view, DType dtype,
                 const TensorView& x, int64_t last, const char* letters) {
  CheckTensor(call, stage, {name}, view, Need::kRequired);
  if (!GoodRank(x)) {
    if (stage != Stage::kDtype || view.dtype == dtype) return;
    QGMM_REFUSE(call.operation, name, " must be ", Name(dtype), " ", letters, "; got ", Came(view));
  }
  const TensorView wanted = LikeX(x, last);
  const bool same_sizes = std::equal(wanted.sizes, wanted.sizes + wanted.rank, view.sizes);
  if ((stage == Stage::kDtype && view.dtype != dtype) || (stage == Stage::kRank && view.rank != wanted.rank) ||
      (stage == Stage::kShape && !same_sizes)) {
    QGMM_REFUSE(call.operation, name, " must be ", Name(dtype), " ", Shape(wanted), "; got ", Came(view));
  }
  if (stage == Stage::kShape && !IsContiguous(view)) {
    QGMM_REFUSE(call.operation, name, " must be contiguous; got ", Shape(view), " with strides ", Strides(view));
  }
}

void CheckAt(Stage stage, const Call& call, const DynamicQuantArgs& args, Sizes& sizes) {
  if (stage == Stage::kOption) {
    CheckDstType(call, args.dst_type);
    if (GoodRank(args.x)) {
      sizes.rows = CountRows(args.x);
      sizes.h = args.x.sizes[args.x.rank - 1];
    }
    if (args.group_index.rank == 1) sizes.g = args.group_index.sizes[0];
    return;
  }
  const bool int4 = args.dst_type == DType::kInt4;
  CheckX(call, stage, args, sizes);
  CheckSmooth(call, stage, args, sizes);
  CheckGroupIndex(call, stage, args.group_index, args.smooth_scales);
  if (int4) CheckOutput(call, stage, "y", args.y, DType::kInt32, args.x, sizes.h / 8, "[..., h/8]");
  else CheckOutput(call, stage, "y", args.y, args.dst_type, args.x, sizes.h, "[..., h]");
  CheckOutput(call, stage, "scale", args.scale, DType::kFloat32, args.x, -1, "[...]");
}

std::vector<RowRange> SmoothRows(const Call& call, const TensorView& index, int64_t rows) {
  if (!index.given()) return rows > 0 ? std::vector<RowRange>{{0, 0, rows}} : std::vector<RowRange>{};
  DecodedGroups groups = DecodeGroups(index, 0, rows);
  if (!groups.violation.empty() && !groups.only_past_m) QGMM_REFUSE(call.operation, "group_index ", groups.violation);
  const int64_t end = LastEntry(index);
  if (end != rows) QGMM_REFUSE(call.operation, "group_index must end at ", rows, " (rows); got ", end);
  return std::move(groups.rows);
}

}  // namespace

DynamicQuantProblem Checked(const DynamicQuantArgs& args) {
  const Call call = {"dynamic_quant"};
  Sizes sizes;
  for (Stage stage : kStages) CheckAt(stage, call, args, sizes);

  DynamicQuantProblem problem;
  problem.rows = SmoothRows(call, args.group_index, sizes.rows);
  const TensorView& x = args.x;
  problem.x = {x.data, x.dtype, sizes.rows, sizes.h, x.strides[x.rank - 2], x.strides[x.rank - 1]};
  problem.x_view = x;
  problem.smooth = MakeColumns(args.smooth_scales);
  if (args.smooth_scales.rank == 1) {  // [h]: one row for every group there is
    problem.smooth.expert_stride = 0;
    problem.smooth.column_stride = args.smooth_scales.strides[0];
  }
  problem.dst_type = args.dst_type;
  problem.row_count = sizes.rows;
  problem.h = sizes.h;
  problem.y = args.y.data;
  problem.scale = static_cast<float*>(args.scale.data);
  return problem;
}

}  // namespace qgmm
