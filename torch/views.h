// SPDX-License-Identifier: Apache-2.0
// Torch's stable tensors as the core's borrowed views, and outputs of the sizes that a call's arguments claim.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <vector>

#include "qgmm/ops.h"

namespace qgmm::door {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

/// kOther for every dtype without a name in the core, and for tensors without strides (sparse and the like).
DType DTypeOf(ScalarType type);
ScalarType ScalarTypeOf(DType dtype);
/// torch's number of a dtype, as torch.dtype passes through an `int` argument; 16 (quint4x2) means int4.
DType DTypeOfNumber(int64_t number);

/// Borrows: the view lives as long as the tensor. A rank above TensorView::kMaxRank is kept, its far sizes are not.
TensorView ViewOf(const Tensor& tensor);
TensorView ViewOf(const std::optional<Tensor>& tensor);

/// A list of tensors as the core wants it. Owns the views, borrows the tensors. One tensor costs no memory of its own.
class Views {
 public:
  Views() = default;
  explicit Views(const Tensor& only) : given_(true), size_(1), one_(ViewOf(only)) {}
  explicit Views(const std::optional<Tensor>& only) {
    if (only) *this = Views(*only);
  }
  explicit Views(const std::vector<Tensor>& tensors) : given_(true), size_(static_cast<int64_t>(tensors.size())) {
    if (size_ == 1) one_ = ViewOf(tensors[0]);
    if (size_ > 1) {
      for (const Tensor& tensor : tensors) many_.push_back(ViewOf(tensor));
    }
  }
  explicit Views(const std::optional<std::vector<Tensor>>& tensors) {
    if (tensors) *this = Views(*tensors);
  }
  /// Points into this object.
  TensorList list() const { return given_ ? TensorList(size_ == 1 ? &one_ : many_.data(), size_) : TensorList(); }
  /// The last size of the first tensor; 0 where there is none.
  int64_t LastSize() const;

 private:
  bool given_ = false;
  int64_t size_ = 0;
  TensorView one_;
  std::vector<TensorView> many_;
};

/// The bytes of a packed weight with the integers [layout, e, k, n] that travel beside them. `operation` names the
/// call in the sentence that refuses other tensors than one row of bytes.
PackedWeight PackedOf(const char* operation, const Tensor& data, const std::vector<int64_t>& integers);

/// What a schema's list of weights is: the bytes of a packed weight, or plain. `operation` is called by `spelling`.
struct WeightArgument {
  PackedWeight packed;
  Views plain;
};
WeightArgument WeightOf(const char* operation, int64_t spelling, const std::vector<Tensor>& weights,
                        const std::optional<std::vector<int64_t>>& packed);

/// The packed weight that `data` holds, by its header alone. Throws where it is no contiguous row of uint8 on the CPU, or was
/// not written by pack_weight.
PackedWeight PackedIn(const Tensor& data);
/// [layout, e, k, n] of its header.
std::vector<int64_t> IntegersOf(const Tensor& data);

/// Size `axis` of a tensor of exactly `rank` dimensions, else 0: claims are made only of arguments that can be right,
/// and check reports the others before it looks at outputs.
int64_t SizeIf(const TensorView& view, int rank, int axis);

/// A new contiguous CPU tensor, uninitialised, or nothing where so much memory cannot be had. `any` tensor, whatever it is:
/// torch has no quick way to make one of nothing.
std::optional<Tensor> TryEmpty(const Tensor& any, const std::vector<int64_t>& sizes, ScalarType type);

/// TryEmpty, or std::bad_alloc (MemoryError in Python).
Tensor Empty(const Tensor& any, const std::vector<int64_t>& sizes, ScalarType type);

/// The view an output of these sizes would have; its data is not to be touched. TryEmpty gives it data of its own.
TensorView ClaimedView(const std::vector<int64_t>& sizes, ScalarType type);

}  // namespace qgmm::door
