// SPDX-License-Identifier: Apache-2.0
// Weights: which form came, whether its sizes agree with x, and the one struct that all forms become.
#include "check_weights.h"

#include <algorithm>
#include <limits>

#include "packed_format.h"

namespace qgmm::check {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
constexpr const char* kForms = "must be one [e, k, n] tensor or e [k, n] tensors; got ";

const char* PythonBool(bool value) { return value ? "True" : "False"; }

void CheckPackedForm(const Call& call, const WeightArgument& weight) {
  const int64_t layout = static_cast<int64_t>(weight.packed.layout);
  if (layout < 1 || layout > 4) QGMM_REFUSE(call.operation, "weight must have a layout of 1 to 4; got ", layout);
  if (weight.list.given) {
    QGMM_REFUSE(call.operation,
                "weight must be a tensor, a list or a PackedWeight; got both tensors and a PackedWeight");
  }
}

void CheckForm(const Call& call, const WeightArgument& weight) {
  if (weight.packed.given()) return CheckPackedForm(call, weight);
  if (weight.use == WeightUse::kFloat && weight.list.given && (weight.is_list || weight.list.size != 1)) {
    QGMM_REFUSE(call.operation, "weight must be one tensor; got a list");
  }
}

void CheckPackedDtype(const Call& call, const WeightArgument& weight) {
  if (weight.use == WeightUse::kFloat && weight.int4()) {
    QGMM_REFUSE(call.operation, "weight must be int8 [e, k, n] or a PackedWeight; got a PackedWeight of int4");
  }
  if (weight.packed.paired() != weight.paired) {
    QGMM_REFUSE(call.operation, "weight must be packed with swiglu=", PythonBool(weight.paired),
                "; got a PackedWeight with swiglu=", PythonBool(weight.packed.paired()));
  }
}

void CheckDtype(const Call& call, const WeightArgument& weight) {
  if (weight.packed.given()) return CheckPackedDtype(call, weight);
  const DType dtype = weight.list.data->dtype;
  if (dtype == DType::kInt8 || (dtype == DType::kInt32 && weight.use != WeightUse::kFloat)) return;
  if (weight.use == WeightUse::kFloat) {
    QGMM_REFUSE(call.operation, "weight must be int8 [e, k, n] or a PackedWeight; got ", Name(dtype));
  }
  if (weight.use == WeightUse::kPacking) {
    QGMM_REFUSE(call.operation, "weight must be int8 [e, k, n] or int32 [e, k, n/8] (packed int4); got ", Name(dtype));
  }
  QGMM_REFUSE(call.operation,
              "weight must be int8 [e, k, n], int32 [e, k, n/8] (packed int4) or a PackedWeight; got ", Name(dtype));
}

void CheckRank(const Call& call, const WeightArgument& weight) {
  const TensorView& first = weight.list.data[0];
  if (weight.split() && first.rank != 2) {
    QGMM_REFUSE(call.operation, "weight ", kForms, weight.list.size, " tensors of ", static_cast<int64_t>(first.rank),
                " dimensions");
  }
  if (!weight.split() && first.rank != 3) {
    QGMM_REFUSE(call.operation, "weight must have 3 dimensions; got ", Shape(first));
  }
}

void CheckInnerSize(const Call& call, const WeightArgument& weight) {
  const int64_t k = InnerSize(weight);
  if (k == call.k) return;
  const char* columns = weight.int4() && !weight.packed.given() ? "n/8" : "n";
  if (weight.split()) {
    QGMM_REFUSE(call.operation, "weight[0] must be ", Shape({{call.k, "k"}, {-1, columns}}), " (k of x); got ",
                Shape(weight.list.data[0]));
  }
  const std::string came = weight.packed.given() ? Shape({{call.e, "e"}, {k, "k"}, {weight.packed.n, "n"}})
                                                 : Shape(weight.list.data[0]);
  QGMM_REFUSE(call.operation, "weight must be ", Shape({{-1, "e"}, {call.k, "k"}, {-1, columns}}),
              " (k of x); got ", came);
}

/// int32 tensors hold n / 8 columns; n itself is what weight_scale says, where there is one.
void CheckInt4Width(Call& call, const WeightArgument& weight) {
  const TensorView& first = weight.list.data[0];
  const int64_t words = first.sizes[first.rank - 1];
  if (words > kMax / 8) {
    QGMM_REFUSE(call.operation, "n must be at most 9223372036854775807; got 8 * ", words);
  }
  call.n = words * 8;
  const TensorView* scale = weight.scale && weight.scale->given ? weight.scale->data : nullptr;
  if (!scale || scale->sizes[scale->rank - 1] < 1 || words == 0) return;
  const int64_t n = scale->sizes[scale->rank - 1];
  if (n % 8 != 0) QGMM_REFUSE(call.operation, "n must be a multiple of 8 for packed int4; got ", n);
  if (n == call.n) return;
  const Size k = {call.k, "k"}, wanted = {n / 8, "n/8"};
  if (weight.split()) {
    QGMM_REFUSE(call.operation, "weight[0] must be int32 ", Shape({k, wanted}), " (n / 8 of weight_scale); got ",
                Shape(first));
  }
  QGMM_REFUSE(call.operation, "weight must be int32 ", Shape({{call.e, "e"}, k, wanted}),
              " (n / 8 of weight_scale); got ", Shape(first));
}

void CheckShape(Call& call, const WeightArgument& weight) {
  CheckInnerSize(call, weight);
  if (call.e < 1) QGMM_REFUSE(call.operation, "e must be at least 1; got ", call.e);
  if (call.e > kMaxExperts) QGMM_REFUSE(call.operation, "e must be at most ", kMaxExperts, "; got ", call.e);
  if (!weight.packed.given() && weight.int4()) CheckInt4Width(call, weight);
  if (call.n < 1) QGMM_REFUSE(call.operation, "n must be at least 1; got ", call.n);
  if (weight.paired && call.n % 2 != 0) QGMM_REFUSE(call.operation, "n must be even; got ", call.n);
}

void CheckPackedDevice(const Call& call, const PackedWeight& packed) {
  if (packed.device.type == DeviceType::kCpu) return;
  QGMM_REFUSE(call.operation, "weight must be packed for cpu; got a PackedWeight for ",
              packed.device.type == DeviceType::kCuda ? "cuda" : "an unsupported device");
}

void CheckHeader(const Call& call, const PackedWeight& packed) {
  PackedWeight header;
  const std::string violation = ReadHeader(packed.data, packed.bytes, &header);
  if (!violation.empty()) QGMM_REFUSE(call.operation, "weight must ", violation);
  if (header.layout != packed.layout) {
    QGMM_REFUSE(call.operation, "weight must have layout ", static_cast<int64_t>(header.layout),
                " (its header); got ", static_cast<int64_t>(packed.layout));
  }
  if (header.e != packed.e || header.k != packed.k || header.n != packed.n) {
    QGMM_REFUSE(call.operation, "weight must be ", Shape({{header.e, "e"}, {header.k, "k"}, {header.n, "n"}}),
                " (its header); got ", Shape({{packed.e, "e"}, {packed.k, "k"}, {packed.n, "n"}}));
  }
}

}  // namespace

void CheckAlike(const Call& call, Stage stage, const char* name, const TensorList& list) {
  const TensorView& first = list.data[0];
  for (int64_t i = 1; i < list.size; ++i) {
    const TensorView& view = list.data[i];
    if (stage == Stage::kDtype && view.dtype != first.dtype) {
      QGMM_REFUSE(call.operation, Argument{name, i}, " must be ", Name(first.dtype), " like ", name, "[0]; got ",
                  Name(view.dtype));
    }
    if ((stage == Stage::kRank && view.rank != first.rank) ||
        (stage == Stage::kShape && !std::equal(view.sizes, view.sizes + view.rank, first.sizes))) {
      QGMM_REFUSE(call.operation, Argument{name, i}, " must be ", Shape(first), " like ", name, "[0]; got ",
                  Shape(view));
    }
  }
}

void CheckList(const Call& call, Stage stage, const char* name, const TensorList& list, const char* forms) {
  const TensorView absent;
  if (!list.given) CheckTensor(call, stage, {name}, absent, Need::kRequired);
  if (stage == Stage::kType && list.size < 1) QGMM_REFUSE(call.operation, name, " ", forms, "an empty list");
  if (stage != Stage::kType && stage != Stage::kDevice && stage != Stage::kData) return;
  for (int64_t i = 0; i < list.size; ++i) {
    CheckTensor(call, stage, {name, list.size > 1 ? i : -1}, list.data ? list.data[i] : absent, Need::kRequired);
  }
}

void LearnSizes(Call& call, const TensorView& x, const WeightArgument& weight) {
  if (x.rank == 2) {
    call.m = x.sizes[0];
    call.k = x.sizes[1];
  }
  if (weight.packed.given()) {
    call.e = weight.packed.e;
    call.n = weight.packed.n;
    return;
  }
  const TensorView& first = weight.list.data[0];
  if (first.rank != (weight.split() ? 2 : 3)) return;
  call.e = weight.split() ? weight.list.size : first.sizes[0];
  call.n = first.sizes[first.rank - 1];
  if (weight.int4()) call.n = call.n > kMax / 8 ? -1 : call.n * 8;
}

int64_t InnerSize(const WeightArgument& weight) {
  return weight.packed.given() ? weight.packed.k : weight.list.data->sizes[weight.split() ? 0 : 1];
}

void CheckWeight(Call& call, Stage stage, const WeightArgument& weight) {
  if (stage == Stage::kType) CheckForm(call, weight);
  if (weight.packed.given()) {
    if (stage == Stage::kDtype) CheckDtype(call, weight);
    if (stage == Stage::kShape) CheckShape(call, weight);
    if (stage == Stage::kDevice) CheckPackedDevice(call, weight.packed);
    if (stage == Stage::kData) CheckHeader(call, weight.packed);
    return;
  }
  CheckList(call, stage, "weight", weight.list, kForms);
  if (stage == Stage::kDtype) CheckDtype(call, weight);
  if (stage == Stage::kRank) CheckRank(call, weight);
  CheckAlike(call, stage, "weight", weight.list);
  if (stage == Stage::kShape) CheckShape(call, weight);
}

Weights MakeWeights(const Call& call, const WeightArgument& weight) {
  Weights w;
  w.e = call.e;
  w.k = call.k;
  w.n = call.n;
  w.dtype = weight.int4() ? DType::kInt4 : DType::kInt8;
  w.paired = weight.paired;
  if (weight.packed.given()) {
    w.packed = weight.packed;
    return w;
  }
  const TensorView& first = weight.list.data[0];
  if (!weight.split()) {
    w.plain = {first.data, first.strides[1], first.strides[2]};
    w.expert_stride = first.strides[0];
    return w;
  }
  w.list.reserve(static_cast<size_t>(weight.list.size));
  for (int64_t i = 0; i < weight.list.size; ++i) {
    const TensorView& view = weight.list.data[i];
    w.list.push_back({view.data, view.strides[0], view.strides[1]});
  }
  return w;
}

}  // namespace qgmm::check
