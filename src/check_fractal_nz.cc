// SPDX-License-Identifier: Apache-2.0
// FRACTAL_NZ: sizes that make sense, and two tensors that hold them.
#include "check.h"
#include "check_arguments.h"
#include "check_refuse.h"

namespace qgmm {
namespace {

using namespace check;  // NOLINT: this file is a door of that namespace

// Beyond these a size is no weight's, and blocks and their padding still fit int64.
constexpr int64_t kMaxSide = (int64_t{1} << 40) - 1, kMaxPlane = int64_t{1} << 56, kMaxC0 = 65535;

void CheckSizes(const char* operation, const FractalNzArgs& args) {
  const bool int4 = args.dtype == DType::kInt4;
  const int bytes = Bytes(args.dtype);
  if (!int4 && bytes != 1 && bytes != 2 && bytes != 4) {
    QGMM_REFUSE(operation, "dtype must be int4 or a dtype of 1, 2 or 4 bytes; got ", Name(args.dtype));
  }
  if (args.k < 1) QGMM_REFUSE(operation, "k must be at least 1; got ", args.k);
  if (args.n < 1) QGMM_REFUSE(operation, "n must be at least 1; got ", args.n);
  if (args.k > kMaxSide || args.n > kMaxSide || args.k >= kMaxPlane / args.n) {
    QGMM_REFUSE(operation, "k and n must be below 2^40, and k * n below 2^56; got k ", args.k, " and n ", args.n);
  }
  if (int4 && args.n % 8 != 0) {
    QGMM_REFUSE(operation, "n must be a multiple of 8 for packed int4; got ", args.n);
  }
  if (args.c0 < 0 || args.c0 > kMaxC0) {
    QGMM_REFUSE(operation, "c0 must be 0 (the usual width) to ", kMaxC0, "; got ", args.c0);
  }
  if (int4 && args.c0 % 8 != 0) QGMM_REFUSE(operation, "c0 must be a multiple of 8 for int4; got ", args.c0);
}

void CheckDtypes(const char* operation, const FractalNzArgs& args) {
  const DType storage = args.storage.dtype, plain = args.plain.dtype;
  if (args.dtype == DType::kInt4) {
    if (storage != DType::kInt8 && storage != DType::kUInt8 && storage != DType::kInt32) {
      QGMM_REFUSE(operation, "data must be int8, uint8 or int32 (holding int4); got ", Name(storage));
    }
    if (plain != DType::kInt32) QGMM_REFUSE(operation, "weight must be int32 (holding int4); got ", Name(plain));
    return;
  }
  if (storage != args.dtype) {
    QGMM_REFUSE(operation, "data must be ", Name(args.dtype), "; got ", Name(storage));
  }
  if (plain != args.dtype) QGMM_REFUSE(operation, "weight must be ", Name(args.dtype), "; got ", Name(plain));
}

void CheckContiguous(const char* operation, const char* name, const TensorView& view) {
  if (IsContiguous(view)) return;
  QGMM_REFUSE(operation, name, " must be contiguous; got ", Shape(view), " with strides ", Strides(view));
}

/// Elements of a view; negative if they do not fit int64.
int64_t Count(const TensorView& view) {
  int64_t count = 1;
  for (int axis = 0; axis < view.rank; ++axis) {
    if (view.sizes[axis] == 0) return 0;
  }
  for (int axis = 0; axis < view.rank; ++axis) {
    if (__builtin_mul_overflow(count, view.sizes[axis], &count)) return -1;
  }
  return count;
}

void CheckShapes(const char* operation, const FractalNzArgs& args) {
  const TensorView& plain = args.plain;
  const bool int4 = args.dtype == DType::kInt4;
  const int64_t width = int4 ? args.n / 8 : args.n;
  if (plain.sizes[plain.rank - 2] != args.k || plain.sizes[plain.rank - 1] != width) {
    QGMM_REFUSE(operation, "weight must be ", Shape({{-1, "e"}, {args.k, "k"}, {width, "n"}}), "; got ",
                Shape(plain));
  }
  const int64_t e = plain.rank == 3 ? plain.sizes[0] : 1;
  const int64_t size = FractalNzSize(args);  // of one expert: elements, or bytes of int4
  int64_t wanted = 0, came = Count(args.storage);
  const bool overflow = __builtin_mul_overflow(e, size, &wanted) ||
                        (int4 && __builtin_mul_overflow(came, int64_t{Bytes(args.storage.dtype)}, &came));
  if (overflow || came != wanted || e < 1) {
    QGMM_REFUSE(operation, "data must hold e * ", size, int4 ? " bytes of int4" : " elements", " for e [", args.k,
                ", ", args.n, "] weights; got ", Came(args.storage), " for e ", e);
  }
  CheckContiguous(operation, "data", args.storage);
  CheckContiguous(operation, "weight", plain);
}

}  // namespace

void CheckFractalNzSizes(const FractalNzArgs& args) { CheckSizes("FractalNzSize", args); }

void CheckFractalNz(const FractalNzArgs& args, bool to_nz) {
  const Call call = {to_nz ? "to_fractal_nz" : "from_fractal_nz", to_nz ? "weight" : "data"};
  for (Stage stage : kStages) {
    if (stage == Stage::kOption) {
      CheckSizes(call.operation, args);
      continue;
    }
    CheckTensor(call, stage, {call.leader}, to_nz ? args.plain : args.storage, Need::kRequired);
    CheckTensor(call, stage, {to_nz ? "data" : "weight"}, to_nz ? args.storage : args.plain, Need::kRequired);
    if (stage == Stage::kDtype) CheckDtypes(call.operation, args);
    if (stage == Stage::kRank && args.storage.rank > TensorView::kMaxRank) {
      QGMM_REFUSE(call.operation, "data must have at most 8 dimensions; got ", Shape(args.storage));
    }
    if (stage == Stage::kRank && args.plain.rank != 2 && args.plain.rank != 3) {
      QGMM_REFUSE(call.operation, "weight must be [e, k, n] or [k, n]; got ", Shape(args.plain));
    }
    if (stage == Stage::kShape) CheckShapes(call.operation, args);
  }
}

}  // namespace qgmm
