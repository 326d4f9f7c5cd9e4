// SPDX-License-Identifier: Apache-2.0
// The grouped products: each operation's arguments in the order of its signature, then its Problem.
#include "check.h"

#include <algorithm>
#include <cmath>

#include "check_arguments.h"
#include "check_groups.h"
#include "check_refuse.h"
#include "check_scales.h"
#include "check_weights.h"

namespace qgmm {
namespace {

using namespace check;  // NOLINT: this file is the door of that namespace

const char* NameOf(const SwigluQuantArgs& args) {
  if (args.spelling == Spelling::kVendorSwigluQuantV1) return "npu_grouped_matmul_swiglu_quant";
  if (args.spelling == Spelling::kVendorSwigluQuantV2) return "npu_grouped_matmul_swiglu_quant_v2";
  return "grouped_matmul_swiglu_quant";
}

const char* NameOf(const WeightQuantArgs& args) {
  if (args.spelling == Spelling::kVendorWeightQuantGmm) return "npu_weight_quant_gmm";
  if (args.spelling == Spelling::kVendorWeightQuantGmmV2) return "npu_weight_quant_gmm_v2";
  return "weight_quant_grouped_matmul";
}

/// The vendor's operators compute the rows that exist when a list ends past m.
bool ClampsList(Spelling spelling) { return spelling != Spelling::kNative; }

/// More rows per expert than any plan tells apart; the hint may be any integer, and plans compute with it.
constexpr int64_t kMaxExpectedRows = int64_t{1} << 32;

/// A limit that rounds to Inf as fp32 clamps nothing; one that rounds to 0 clamps to 0.
bool LimitActs(double limit) { return limit > 0 && limit < 0x1.ffffffp+127; }

void CheckInt8X(const Call& call, Stage stage, const TensorView& x) {
  CheckX(call, stage, x, kMaxIntegerK);
  if (stage == Stage::kDtype && x.dtype != DType::kInt8) {
    QGMM_REFUSE(call.operation, "x must be int8 [m, k]; got ", Came(x));
  }
}

Problem BaseProblem(const Call& call, const TensorView& x, const WeightArgument& weight, const TensorView& y) {
  Problem problem;
  problem.operation = call.operation;
  problem.m = call.m;
  problem.k = call.k;
  problem.n = call.n;
  problem.e = call.e;
  problem.x = AsMatrix(x);
  problem.w = MakeWeights(call, weight);
  problem.product = weight.int4() ? Product::kInt4 : Product::kInt8;
  problem.slice = call.k / call.slices;
  problem.y = AsMatrix(y);
  return problem;
}

// ---- operator A

/// The arguments of operator A under the caller's names: the vendor's V1 passes the assist matrix as `bias`, and has
/// no dequant_mode.
struct SwigluQuantNames {
  explicit SwigluQuantNames(const SwigluQuantArgs& args)
      : v1(args.spelling == Spelling::kVendorSwigluQuantV1),
        bias(v1 ? TensorView() : args.bias),
        assist(v1 ? TensorList(args.bias) : args.weight_assist_matrix),
        assist_name(v1 ? "bias" : "weight_assist_matrix") {}

  const bool v1;
  const TensorView bias;
  const TensorList assist;
  const char* const assist_name;
};

void CheckSwigluQuantOptions(const Call& call, const SwigluQuantArgs& args, const SwigluQuantNames& names) {
  if (!names.v1) CheckDequantMode(call, args.dequant_mode);
  if (args.quant_dtype != DType::kInt8 && args.quant_dtype != DType::kFloat8E4M3 &&
      args.quant_dtype != DType::kFloat8E5M2) {
    QGMM_REFUSE(call.operation, "quant_dtype must be int8, float8_e4m3fn or float8_e5m2; got ",
                Name(args.quant_dtype));
  }
  CheckGroupListType(call, args.group_list_type);
  if (!(args.swiglu_limit >= 0)) {
    QGMM_REFUSE(call.operation, "swiglu_limit must be at least 0; got ", Spell(args.swiglu_limit));
  }
}

/// What the V1 calls bias is the assist matrix of int4 weights.
void CheckBiasOfV1(const Call& call, Stage stage, const SwigluQuantArgs& args, const WeightArgument& weight) {
  if (stage == Stage::kType && args.weight_assist_matrix.given) {
    QGMM_REFUSE(call.operation, "weight_assist_matrix must be None (bias is its name here); got a tensor");
  }
  if (stage == Stage::kDtype && args.bias.given() && !weight.int4()) {
    QGMM_REFUSE(call.operation, "bias must be None for int8 weights; got ", Came(args.bias));
  }
}

void CheckAt(Stage stage, Call& call, const SwigluQuantArgs& args, const SwigluQuantNames& names,
             const WeightArgument& weight) {
  if (stage == Stage::kOption) {
    CheckSwigluQuantOptions(call, args, names);
    return LearnSizes(call, args.x, weight);
  }
  CheckInt8X(call, stage, args.x);
  CheckWeight(call, stage, weight);
  CheckWeightScale(call, stage, {args.weight_scale, weight, args.dequant_mode, names.v1});
  CheckXScale(call, stage, args.x_scale, Need::kRequired);
  CheckGroupList(call, stage, args.group_list, Need::kRequired);
  CheckSmoothScale(call, stage, args.smooth_scale);
  if (names.v1) CheckBiasOfV1(call, stage, args, weight);
  CheckAssist(call, stage, names.assist_name, names.assist);
  CheckIntBias(call, stage, names.bias);
  CheckMatrixOutput(call, stage, "y", args.y, args.quant_dtype, {{call.m, "m"}, {call.h(), "n/2"}});
  CheckMatrixOutput(call, stage, "y_scale", args.y_scale, DType::kFloat32, {{call.m, "m"}});
}

}  // namespace

Problem Checked(const SwigluQuantArgs& args) {
  const SwigluQuantNames names(args);
  const WeightArgument weight = {args.weight, args.packed, WeightUse::kInteger, true, false, &args.weight_scale};
  Call call = {NameOf(args)};
  for (Stage stage : kStages) CheckAt(stage, call, args, names, weight);

  Problem problem = BaseProblem(call, args.x, weight, args.y);
  problem.rows = Rows(call, args.group_list, args.group_list_type, ClampsList(args.spelling), &problem.warning);
  problem.x_scale = AsVector(args.x_scale);
  problem.y_scale = AsVector(args.y_scale);
  if (args.tuning_config && args.tuning_config_size > 0 && args.tuning_config[0] > 0) {
    problem.expected_rows = std::min(args.tuning_config[0], kMaxExpectedRows);
  }
  Epilogue& epilogue = problem.epilogue;
  epilogue.finish = Finish::kSwigluQuant;
  epilogue.scale = MakeColumns(args.weight_scale);
  epilogue.int_bias = MakeColumns(names.bias);
  epilogue.assist = MakeColumns(names.assist);
  epilogue.smooth = MakeColumns(args.smooth_scale);
  epilogue.limited = LimitActs(args.swiglu_limit);
  if (epilogue.limited) epilogue.limit = static_cast<float>(args.swiglu_limit);
  return problem;
}

// ---- operator B

namespace {

struct WeightQuantNames {
  explicit WeightQuantNames(const WeightQuantArgs& args)
      : scale(args.spelling == Spelling::kNative ? "scale" : "antiquant_scale"),
        offset(args.spelling == Spelling::kNative ? "offset" : "antiquant_offset") {}

  const char* const scale;
  const char* const offset;
};

void CheckWeightQuantOptions(const Call& call, const WeightQuantArgs& args) {
  CheckGroupListType(call, args.group_list_type);
  CheckActType(call, args.act_type);
  const int64_t precision = static_cast<int64_t>(args.precision);
  if (precision < 0 || precision > 2) {
    QGMM_REFUSE(call.operation, "precision must be \"default\", \"strict\" or \"fast\"; got ", precision);
  }
}

/// By default only where its error is small beside the rounding of y, which has x's dtype.
bool FixedPoint(const WeightQuantArgs& args) {
  if (args.x.dtype == DType::kBFloat16) return args.precision != Precision::kStrict;
  return args.x.dtype == DType::kFloat16 && args.precision == Precision::kFast;
}

void CheckFloatX(const Call& call, Stage stage, const TensorView& x) {
  CheckX(call, stage, x, std::numeric_limits<int64_t>::max());
  if (stage == Stage::kDtype && x.dtype != DType::kFloat16 && x.dtype != DType::kBFloat16 &&
      x.dtype != DType::kFloat32) {
    QGMM_REFUSE(call.operation, "x must be float16, bfloat16 or float32; got ", Name(x.dtype));
  }
}

void CheckAt(Stage stage, Call& call, const WeightQuantArgs& args, const WeightQuantNames& names,
             const WeightArgument& weight) {
  if (stage == Stage::kOption) {
    CheckWeightQuantOptions(call, args);
    return LearnSizes(call, args.x, weight);
  }
  CheckFloatX(call, stage, args.x);
  CheckWeight(call, stage, weight);
  CheckLikeX(call, stage, names.scale, args.scale, args.x.dtype, Need::kRequired);
  CheckLikeX(call, stage, names.offset, args.offset, args.x.dtype, Need::kOptional);
  CheckLikeX(call, stage, "bias", args.bias, args.x.dtype, Need::kOptional);
  if (stage == Stage::kShape && !args.group_list.given() && call.e != 1) {
    QGMM_REFUSE(call.operation, "group_list must be given when e is ", call.e, "; got None");
  }
  CheckGroupList(call, stage, args.group_list, Need::kOptional);
  CheckMatrixOutput(call, stage, "y", args.y, args.x.dtype, {{call.m, "m"}, {call.n, "n"}});
}

}  // namespace

Problem Checked(const WeightQuantArgs& args) {
  const WeightQuantNames names(args);
  const WeightArgument weight = {args.weight, args.packed, WeightUse::kFloat, false, args.weight_is_list};
  Call call = {NameOf(args)};
  for (Stage stage : kStages) CheckAt(stage, call, args, names, weight);

  Problem problem = BaseProblem(call, args.x, weight, args.y);
  if (args.group_list.given()) {
    problem.rows = Rows(call, args.group_list, args.group_list_type, ClampsList(args.spelling), &problem.warning);
  } else if (call.m > 0) {
    problem.rows = {{0, 0, call.m}};
  }
  problem.product = Product::kFloat;
  if (FixedPoint(args)) problem.product = Product::kFixed16, problem.slice = kFixedSlice;
  Epilogue& epilogue = problem.epilogue;
  epilogue.finish = Finish::kAffine;
  epilogue.scale = MakeColumns(args.scale);
  epilogue.offset = MakeColumns(args.offset);
  epilogue.bias = MakeColumns(args.bias);
  epilogue.activation = static_cast<Activation>(args.act_type);
  return problem;
}

// ---- the down projection

namespace {

void CheckGroupedMatmulOptions(const Call& call, const GroupedMatmulArgs& args) {
  CheckDequantMode(call, args.dequant_mode);
  CheckGroupListType(call, args.group_list_type);
  CheckActType(call, args.act_type);
  const DType out = args.out_dtype;
  if (out != DType::kFloat16 && out != DType::kBFloat16 && out != DType::kFloat32 && out != DType::kInt32) {
    QGMM_REFUSE(call.operation, "out_dtype must be float16, bfloat16, float32 or int32; got ", Name(out));
  }
}

/// Sums go out as they are: nothing may ask for scaling them.
void CheckInt32Out(const Call& call, const GroupedMatmulArgs& args) {
  if (args.weight_scale.given) {
    const TensorList& scale = args.weight_scale;
    QGMM_REFUSE(call.operation, "weight_scale must be None for out_dtype int32; got ",
                scale.size == 1 && scale.data ? Came(scale.data[0]) : "a list of " + std::to_string(scale.size));
  }
  if (args.x_scale.given()) {
    QGMM_REFUSE(call.operation, "x_scale must be None for out_dtype int32; got ", Came(args.x_scale));
  }
  if (args.weight_assist_matrix.given) {
    QGMM_REFUSE(call.operation, "weight_assist_matrix must be None for out_dtype int32; got a tensor");
  }
  if (args.dequant_mode != 0) {
    QGMM_REFUSE(call.operation, "dequant_mode must be 0 for out_dtype int32; got ", args.dequant_mode);
  }
  if (args.act_type != 0) {
    QGMM_REFUSE(call.operation, "act_type must be 0 for out_dtype int32; got ", args.act_type);
  }
}

void CheckAt(Stage stage, Call& call, const GroupedMatmulArgs& args, const WeightArgument& weight) {
  if (stage == Stage::kOption) {
    CheckGroupedMatmulOptions(call, args);
    return LearnSizes(call, args.x, weight);
  }
  const bool sums = args.out_dtype == DType::kInt32;
  CheckInt8X(call, stage, args.x);
  CheckWeight(call, stage, weight);
  if (stage == Stage::kDtype && sums) CheckInt32Out(call, args);
  if (!sums) CheckWeightScale(call, stage, {args.weight_scale, weight, args.dequant_mode});
  CheckGroupList(call, stage, args.group_list, Need::kRequired);
  CheckXScale(call, stage, args.x_scale, Need::kOptional);
  if (sums) CheckIntBias(call, stage, args.bias);
  else CheckAnyBias(call, stage, args.bias);
  CheckAssist(call, stage, "weight_assist_matrix", args.weight_assist_matrix);
  CheckMatrixOutput(call, stage, "y", args.y, args.out_dtype, {{call.m, "m"}, {call.n, "n"}});
}

}  // namespace

Problem Checked(const GroupedMatmulArgs& args) {
  const WeightArgument weight = {args.weight, args.packed, WeightUse::kInteger, false, false, &args.weight_scale};
  Call call = {"grouped_matmul"};
  for (Stage stage : kStages) CheckAt(stage, call, args, weight);

  Problem problem = BaseProblem(call, args.x, weight, args.y);
  problem.rows = Rows(call, args.group_list, args.group_list_type, false, &problem.warning);
  problem.x_scale = AsVector(args.x_scale);
  Epilogue& epilogue = problem.epilogue;
  epilogue.finish = args.out_dtype == DType::kInt32 ? Finish::kInt32 : Finish::kDequantize;
  epilogue.scale = MakeColumns(args.weight_scale);
  (args.bias.dtype == DType::kInt32 ? epilogue.int_bias : epilogue.bias) = MakeColumns(args.bias);
  epilogue.assist = MakeColumns(args.weight_assist_matrix);
  epilogue.activation = static_cast<Activation>(args.act_type);
  return problem;
}

}  // namespace qgmm
