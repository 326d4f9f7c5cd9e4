// SPDX-License-Identifier: Apache-2.0
// Valid calls with the contract's numbers (e = 8, k = 7168, n = 4096, m = 32; operator B k = 256, n = 128), which
// tests then spoil. Only group_list has memory: touching anything else is a crash.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "packed_format.h"
#include "refusals.h"
#include "views.h"

namespace qgmm {

inline constexpr DType kI8 = DType::kInt8, kI32 = DType::kInt32, kI64 = DType::kInt64, kF16 = DType::kFloat16,
                       kBF16 = DType::kBFloat16, kF32 = DType::kFloat32;

inline constexpr int64_t kEnds[] = {4, 8, 12, 16, 20, 24, 28, 32};

inline TensorView Ends(const int64_t* values, int64_t count) { return View(values, kI64, {count}); }

/// Operator A. `weight` and the others are single tensors; lists are set by the test.
struct SwigluQuantCall : SwigluQuantArgs {
  TensorView w = Expanded(kI8, {8, 7168, 4096}), ws = Expanded(kF32, {8, 4096}), assist;
  SwigluQuantCall() {
    x = Expanded(kI8, {32, 7168});
    x_scale = Expanded(kF32, {32});
    group_list = Ends(kEnds, 8);
    y = Untouchable(kI8, {32, 2048});
    y_scale = Untouchable(kF32, {32});
  }
  std::string Refusal() {
    if (!weight.given && !packed.given()) weight = w;
    if (!weight_scale.given) weight_scale = ws;
    if (!weight_assist_matrix.given) weight_assist_matrix = assist;
    return RefusalOf([&] { Checked(static_cast<const SwigluQuantArgs&>(*this)); });
  }
};

struct GroupedMatmulCall : GroupedMatmulArgs {
  TensorView w = Expanded(kI8, {8, 7168, 4096}), ws = Expanded(kF32, {8, 4096}), assist;
  GroupedMatmulCall() {
    x = Expanded(kI8, {32, 7168});
    group_list = Ends(kEnds, 8);
    y = Untouchable(kBF16, {32, 4096});
  }
  std::string Refusal() {
    if (!weight.given && !packed.given()) weight = w;
    if (!weight_scale.given) weight_scale = ws;
    if (!weight_assist_matrix.given) weight_assist_matrix = assist;
    return RefusalOf([&] { Checked(static_cast<const GroupedMatmulArgs&>(*this)); });
  }
};

struct WeightQuantCall : WeightQuantArgs {
  TensorView w = Expanded(kI8, {8, 256, 128});
  WeightQuantCall() {
    x = Expanded(kF16, {32, 256});
    scale = Expanded(kF16, {8, 128});
    group_list = Ends(kEnds, 8);
    y = Untouchable(kF16, {32, 128});
  }
  std::string Refusal() {
    if (!weight.given && !packed.given()) weight = w;
    return RefusalOf([&] { Checked(static_cast<const WeightQuantArgs&>(*this)); });
  }
};

/// Bytes with a header, and the view that Pack would return of them.
struct Packed {
  std::vector<uint8_t> bytes;
  PackedWeight view;

  Packed(Layout layout, int64_t e, int64_t k, int64_t n) {
    const PackedHeader header = MakeHeader(layout, e, k, n);
    bytes.resize(static_cast<size_t>(header.bytes));
    std::memcpy(bytes.data(), &header, sizeof(header));
    view = {bytes.data(), header.bytes, layout, e, k, n, Device{}};
  }
};

inline TensorView On(TensorView view, DeviceType type, int index = 0) {
  view.device = {type, index};
  return view;
}

/// `change` applied to a valid call, and what came of it, without the prefix of the operation.
template <class Call, class Change>
std::string After(Change change) {
  Call call;
  change(call);
  const std::string text = call.Refusal();
  const size_t end = text.find("] ");
  return end == std::string::npos ? text : text.substr(end + 2);
}
template <class Change>
std::string A(Change change) {
  return After<SwigluQuantCall>(change);
}
template <class Change>
std::string B(Change change) {
  return After<WeightQuantCall>(change);
}
template <class Change>
std::string G(Change change) {
  return After<GroupedMatmulCall>(change);
}

}  // namespace qgmm
