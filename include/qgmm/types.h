// SPDX-License-Identifier: Apache-2.0
// The words every call is made of: dtypes, devices, borrowed tensor views and the one error type.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

#define QGMM_EXPORT __attribute__((visibility("default")))

namespace qgmm {

/// What an argument was refused for, as one sentence:
/// `[grouped_matmul_swiglu_quant] weight_scale must be [8, 4096] (e, n); got [8, 2048]`.
/// When it is thrown no output has been touched.
class QGMM_EXPORT InvalidArgument : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

enum class DType : uint8_t {
  kInt8, kInt32, kInt64, kUInt64, kFloat32, kFloat16, kBFloat16, kFloat8E4M3, kFloat8E5M2,
  kInt4,  // two per byte; only the dtype of a PackedWeight or of a FRACTAL_NZ import
  kUInt8, kBool, kInt16, kFloat64, kOther,  // never accepted; they exist so that sentences can name what came
};

/// "int8", "float8_e4m3fn", ...; "an unsupported dtype" for kOther.
QGMM_EXPORT const char* Name(DType dtype);
/// Bytes per element; 0 for kInt4 and kOther.
QGMM_EXPORT int Bytes(DType dtype);

enum class DeviceType : uint8_t { kCpu, kCuda, kOther };
struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;
};

/// A borrowed tensor of any rank and any strides (in elements, zero and negative included). Inputs are never written.
struct TensorView {
  static constexpr int kMaxRank = 8;  // sizes and strides beyond are not kept; no operator accepts more than 3 of them
  void* data = nullptr;               // element [0, 0, ...]; may be null where a size is 0
  DType dtype = DType::kOther;
  Device device;
  int rank = -1;  // -1: absent (an optional argument that was not given)
  int64_t sizes[kMaxRank] = {};
  int64_t strides[kMaxRank] = {};

  bool given() const { return rank >= 0; }
};

/// A contiguous (row-major) view.
inline TensorView View(const void* data, DType dtype, std::initializer_list<int64_t> sizes) {
  TensorView view;
  view.data = const_cast<void*>(data);
  view.dtype = dtype;
  view.rank = 0;
  for (int64_t size : sizes) view.sizes[view.rank++] = size;
  int64_t stride = 1;
  for (int axis = view.rank - 1; axis >= 0; --axis) {
    view.strides[axis] = stride;
    stride *= view.sizes[axis];
  }
  return view;
}

/// A borrowed list of tensors. `given` tells an empty list from an absent one.
struct TensorList {
  const TensorView* data = nullptr;
  int64_t size = 0;
  bool given = false;

  TensorList() = default;
  TensorList(const TensorView* first, int64_t count) : data(first), size(count), given(true) {}
  TensorList(const TensorView& one) : data(&one), size(1), given(one.given()) {}  // NOLINT: one tensor is a list of one
};

}  // namespace qgmm
