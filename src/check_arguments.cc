// SPDX-License-Identifier: Apache-2.0
// Rules of single tensors and options that several operations share.
#include "check_arguments.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace qgmm::check {
namespace {

int KeptRank(const TensorView& view) { return std::min(view.rank, TensorView::kMaxRank); }

bool HasElements(const TensorView& view) {
  return std::find(view.sizes, view.sizes + KeptRank(view), 0) == view.sizes + KeptRank(view);
}

void CheckDevice(const Call& call, Argument argument, Device device) {
  if (device.type == DeviceType::kCpu) return;
  if (std::strcmp(argument.name, call.leader) != 0) {
    QGMM_REFUSE(call.operation, argument, " must be on cpu like ", call.leader, "; got ", Spell(device));
  }
  const char* why = device.type == DeviceType::kCuda ? " (this build has no CUDA)" : "";
  QGMM_REFUSE(call.operation, argument, " must be on cpu; got ", Spell(device), why);
}

uint64_t Magnitude(int64_t stride) {
  const uint64_t bits = static_cast<uint64_t>(stride);
  return stride < 0 ? 0 - bits : bits;
}

/// Rank 1 or 2. Two elements share a place iff i * |s0| == j * |s1| for some i < rows, j < columns, not both 0; the
/// smallest such pair is (|s1|, |s0|) / gcd.
bool Overlaps(const TensorView& view) {
  if (!HasElements(view)) return false;
  const uint64_t s0 = Magnitude(view.strides[0]);
  const bool many0 = view.sizes[0] > 1;
  if (view.rank == 1) return many0 && s0 == 0;
  const uint64_t s1 = Magnitude(view.strides[1]);
  const bool many1 = view.sizes[1] > 1;
  if ((many0 && s0 == 0) || (many1 && s1 == 0)) return true;
  if (!many0 || !many1) return false;
  const uint64_t divisor = std::gcd(s0, s1);
  return s1 / divisor < static_cast<uint64_t>(view.sizes[0]) && s0 / divisor < static_cast<uint64_t>(view.sizes[1]);
}

}  // namespace

bool CheckTensor(const Call& call, Stage stage, Argument argument, const TensorView& view, Need need) {
  if (!view.given()) {
    if (need == Need::kRequired) QGMM_REFUSE(call.operation, argument, " must be a tensor; got None");
    return false;
  }
  if (stage == Stage::kType) {
    for (int axis = 0; axis < KeptRank(view); ++axis) {
      if (view.sizes[axis] < 0) {
        QGMM_REFUSE(call.operation, argument, " must have sizes of at least 0; got ", Shape(view));
      }
    }
  }
  if (stage == Stage::kDevice) CheckDevice(call, argument, view.device);
  if (stage == Stage::kData && view.data == nullptr && HasElements(view)) {
    QGMM_REFUSE(call.operation, argument, " must have memory behind its elements; got a null pointer");
  }
  return true;
}

bool Fits(Stage stage, const TensorView& view, bool dtype_ok, std::initializer_list<int64_t> sizes) {
  if (stage == Stage::kDtype) return dtype_ok;
  if (stage == Stage::kRank) return view.rank == static_cast<int>(sizes.size());
  if (stage == Stage::kShape) return std::equal(sizes.begin(), sizes.end(), view.sizes);
  return true;
}

void CheckX(const Call& call, Stage stage, const TensorView& x, int64_t max_k) {
  CheckTensor(call, stage, {"x"}, x, Need::kRequired);
  if (stage == Stage::kRank && x.rank != 2) QGMM_REFUSE(call.operation, "x must be [m, k]; got ", Shape(x));
  if (stage != Stage::kShape) return;
  if (call.k < 1) QGMM_REFUSE(call.operation, "k must be at least 1; got ", call.k);
  if (call.k > max_k) QGMM_REFUSE(call.operation, "k must be at most ", max_k, " (int32 sums); got ", call.k);
}

void CheckXScale(const Call& call, Stage stage, const TensorView& x_scale, Need need) {
  if (!CheckTensor(call, stage, {"x_scale"}, x_scale, need)) return;
  if (!Fits(stage, x_scale, x_scale.dtype == DType::kFloat32, {call.m})) {
    QGMM_REFUSE(call.operation, "x_scale must be float32 ", Shape({{call.m, "m"}}), " (m); got ", Came(x_scale));
  }
}

void CheckMatrixOutput(const Call& call, Stage stage, const char* name, const TensorView& y, DType dtype,
                       std::initializer_list<Size> sizes) {
  CheckTensor(call, stage, {name}, y, Need::kRequired);
  const bool same_sizes = std::equal(sizes.begin(), sizes.end(), y.sizes,
                                     [](const Size& size, int64_t came) { return size.value == came; });
  if ((stage == Stage::kDtype && y.dtype != dtype) ||
      (stage == Stage::kRank && y.rank != static_cast<int>(sizes.size())) || (stage == Stage::kShape && !same_sizes)) {
    std::string letters;
    for (const Size& size : sizes) letters += (letters.empty() ? " (" : ", ") + std::string(size.letter);
    QGMM_REFUSE(call.operation, name, " must be ", Name(dtype), " ", Shape(sizes), letters, "); got ", Came(y));
  }
  if (stage == Stage::kShape && Overlaps(y)) {
    QGMM_REFUSE(call.operation, name, " must have a place of its own for every element; got ", Shape(y),
                " with strides ", Strides(y));
  }
}

void CheckDequantMode(const Call& call, int64_t dequant_mode) {
  if (dequant_mode == 0 || dequant_mode == 1) return;
  QGMM_REFUSE(call.operation, "dequant_mode must be 0 (per channel) or 1 (per group of k); got ", dequant_mode);
}

void CheckActType(const Call& call, int64_t act_type) {
  const int64_t known[] = {0, 1, 2, 4, 5};
  if (std::find(std::begin(known), std::end(known), act_type) != std::end(known)) return;
  QGMM_REFUSE(call.operation, "act_type must be 0 (none), 1 (relu), 2 (gelu_tanh), 4 (fast_gelu) or 5 (silu); got ",
              act_type);
}

bool IsContiguous(const TensorView& view) {
  if (!HasElements(view)) return true;
  int64_t stride = 1;
  for (int axis = view.rank - 1; axis >= 0; --axis) {
    if (view.sizes[axis] > 1 && view.strides[axis] != stride) return false;
    if (__builtin_mul_overflow(stride, view.sizes[axis], &stride)) return false;
  }
  return true;
}

Matrix AsMatrix(const TensorView& view) {
  return {view.data, view.dtype, view.sizes[0], view.sizes[1], view.strides[0], view.strides[1]};
}

Vector AsVector(const TensorView& view) {
  if (!view.given()) return {};
  return {view.data, view.dtype, view.sizes[0], view.strides[0]};
}

}  // namespace qgmm::check
