// SPDX-License-Identifier: Apache-2.0
// Torch's stable tensors as the core's borrowed views, and outputs of the sizes that a call's arguments claim.
#include "views.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>

#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "call.h"

namespace qgmm::door {
namespace {

struct DTypePair {
  ScalarType torch;
  DType core;
};
constexpr DTypePair kDTypes[] = {
    {ScalarType::Char, DType::kInt8},
    {ScalarType::Int, DType::kInt32},
    {ScalarType::Long, DType::kInt64},
    {ScalarType::UInt64, DType::kUInt64},
    {ScalarType::Float, DType::kFloat32},
    {ScalarType::Half, DType::kFloat16},
    {ScalarType::BFloat16, DType::kBFloat16},
    {ScalarType::Float8_e4m3fn, DType::kFloat8E4M3},
    {ScalarType::Float8_e5m2, DType::kFloat8E5M2},
    {ScalarType::Byte, DType::kUInt8},
    {ScalarType::Bool, DType::kBool},
    {ScalarType::Short, DType::kInt16},
    {ScalarType::Double, DType::kFloat64},
};

// Through the C shim: Tensor::scalar_type() throws for dtypes that its target version had no name for.
DType TensorDType(const Tensor& tensor) {
  int32_t number = -1;
  if (aoti_torch_get_dtype(tensor.get(), &number) != AOTI_TORCH_SUCCESS) return DType::kOther;
  return DTypeOf(static_cast<ScalarType>(number));
}

Device DeviceOf(const Tensor& tensor) {
  Device device;
  int32_t type = -1, index = 0;
  aoti_torch_get_device_type(tensor.get(), &type);
  aoti_torch_get_device_index(tensor.get(), &index);
  device.index = index < 0 ? 0 : index;
  device.type = type == aoti_torch_device_type_cpu()    ? DeviceType::kCpu
                : type == aoti_torch_device_type_cuda() ? DeviceType::kCuda
                                                        : DeviceType::kOther;
  return device;
}

bool IsStrided(const Tensor& tensor) {
  int32_t layout = -1;
  return aoti_torch_get_layout(tensor.get(), &layout) == AOTI_TORCH_SUCCESS && layout == aoti_torch_layout_strided();
}

}  // namespace

DType DTypeOf(ScalarType type) {
  for (const DTypePair& pair : kDTypes) {
    if (pair.torch == type) return pair.core;
  }
  return DType::kOther;
}

DType DTypeOfNumber(int64_t number) {
  if (number == static_cast<int64_t>(ScalarType::QUInt4x2)) return DType::kInt4;
  if (number < 0 || number > std::numeric_limits<int8_t>::max()) return DType::kOther;
  return DTypeOf(static_cast<ScalarType>(number));
}

ScalarType ScalarTypeOf(DType dtype) {
  for (const DTypePair& pair : kDTypes) {
    if (pair.core == dtype) return pair.torch;
  }
  return ScalarType::Byte;
}

TensorView ViewOf(const Tensor& tensor) {
  TensorView view;
  const auto sizes = tensor.sizes();
  view.rank = static_cast<int>(sizes.size());
  view.device = DeviceOf(tensor);
  const int kept = view.rank < TensorView::kMaxRank ? view.rank : TensorView::kMaxRank;
  for (int axis = 0; axis < kept; ++axis) view.sizes[axis] = sizes[axis];
  if (!IsStrided(tensor)) return view;  // dtype kOther: refused by name before anybody reads
  view.dtype = TensorDType(tensor);
  const auto strides = tensor.strides();
  for (int axis = 0; axis < kept; ++axis) view.strides[axis] = strides[axis];
  view.data = const_cast<void*>(tensor.const_data_ptr());
  return view;
}

TensorView ViewOf(const std::optional<Tensor>& tensor) { return tensor ? ViewOf(*tensor) : TensorView(); }

int64_t Views::LastSize() const {
  if (size_ == 0) return 0;
  const TensorView& first = *list().data;
  return first.rank >= 1 && first.rank <= 3 ? first.sizes[first.rank - 1] : 0;
}

PackedWeight PackedOf(const char* operation, const Tensor& data, const std::vector<int64_t>& integers) {
  const TensorView view = ViewOf(data);
  const std::string prefix = std::string("[") + operation + "] ";
  if (integers.size() != 4) throw std::invalid_argument(prefix + "packed must be [layout, e, k, n]");
  if (view.dtype != DType::kUInt8 || view.rank != 1 || (view.sizes[0] > 1 && view.strides[0] != 1)) {
    throw std::invalid_argument(prefix + "a PackedWeight must hold one contiguous row of uint8; got " + Name(view.dtype) +
                          " of " + std::to_string(view.rank) + " dimensions");
  }
  PackedWeight weight;
  weight.data = static_cast<const uint8_t*>(view.data);
  weight.bytes = view.sizes[0];
  weight.layout = static_cast<Layout>(integers[0]);
  weight.e = integers[1];
  weight.k = integers[2];
  weight.n = integers[3];
  weight.device = view.device;
  return weight;
}

WeightArgument WeightOf(const char* operation, int64_t spelling, const std::vector<Tensor>& weights,
                        const std::optional<std::vector<int64_t>>& packed) {
  if (!packed || weights.size() != 1) return {{}, Views(weights)};
  return {PackedOf(CalledName(operation, SpellingOf(spelling)), weights[0], *packed), {}};
}

PackedWeight PackedIn(const Tensor& data) {
  const TensorView view = ViewOf(data);
  if (view.device.type != DeviceType::kCpu || view.dtype != DType::kUInt8 || view.rank != 1 ||
      (view.sizes[0] > 1 && view.strides[0] != 1)) {
    throw std::invalid_argument("[PackedWeight] data must be one contiguous row of uint8 on the CPU");
  }
  return FromBytes(static_cast<const uint8_t*>(view.data), view.sizes[0]);
}

std::vector<int64_t> IntegersOf(const Tensor& data) {
  const PackedWeight weight = PackedIn(data);
  return {static_cast<int64_t>(weight.layout), weight.e, weight.k, weight.n};
}

int64_t SizeIf(const TensorView& view, int rank, int axis) { return view.rank == rank ? view.sizes[axis] : 0; }

std::optional<Tensor> TryEmpty(const Tensor& any, const std::vector<int64_t>& sizes, ScalarType type) {
  int64_t elements = 1;
  for (size_t axis = sizes.size(); axis-- > 0;) {
    if (sizes[axis] == 0) continue;
    // 2^56 elements: beyond any address space, and small enough for torch's own arithmetic.
    if (sizes[axis] < 0 || elements > (int64_t{1} << 56) / sizes[axis]) return std::nullopt;
    elements *= sizes[axis];
  }
  // Through torch's dispatcher, so that torch.utils.deterministic.fill_uninitialized_memory holds here too, but by the one
  // function of its C interface that needs no boxed arguments: 1 us less than torch::stable::empty, which looks its name up.
  int32_t dtype = static_cast<int32_t>(type), layout = aoti_torch_layout_strided(), cpu = aoti_torch_device_type_cpu();
  AtenTensorHandle made = nullptr;
  const AOTITorchError error = aoti_torch_aten_new_empty(any.get(), sizes.data(), static_cast<int64_t>(sizes.size()), &dtype,
                                                         &layout, &cpu, 0, nullptr, &made);
  if (error != AOTI_TORCH_SUCCESS) return std::nullopt;
  return Tensor(made);
}

Tensor Empty(const Tensor& any, const std::vector<int64_t>& sizes, ScalarType type) {
  std::optional<Tensor> tensor = TryEmpty(any, sizes, type);
  if (!tensor) throw std::bad_alloc();
  return std::move(*tensor);
}

TensorView ClaimedView(const std::vector<int64_t>& sizes, ScalarType type) {
  alignas(64) static uint8_t nothing[64];
  TensorView view;
  view.data = nothing;
  view.dtype = DTypeOf(type);
  view.rank = static_cast<int>(sizes.size());
  int64_t stride = 1;
  for (int axis = view.rank - 1; axis >= 0; --axis) {
    const int64_t size = sizes[static_cast<size_t>(axis)];
    if (axis < TensorView::kMaxRank) {
      view.sizes[axis] = size;
      view.strides[axis] = stride;
    }
    constexpr int64_t kMost = std::numeric_limits<int64_t>::max();  // where the claim is absurd
    if (size > 0) stride = stride > kMost / size ? kMost : stride * size;
  }
  return view;
}

}  // namespace qgmm::door
