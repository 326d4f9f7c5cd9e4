// SPDX-License-Identifier: Apache-2.0
// The weight argument in all its forms: one tensor, a list of experts, packed.
#pragma once

#include "check_arguments.h"
#include "problem.h"

namespace qgmm::check {

enum class WeightUse {
  kInteger,  // operator A and grouped_matmul: int8 or int4, tensor, list or packed
  kFloat,    // operator B: int8, one tensor or packed
  kPacking,  // pack_weight: int8 or int4, tensor or list
};

struct WeightArgument {
  const TensorList& list;
  const PackedWeight& packed;
  WeightUse use;
  bool paired;                         // operator A: gate and up columns
  bool is_list = false;                // kFloat: the caller wrote a list
  const TensorList* scale = nullptr;   // gives n to int4 tensors, which only know n / 8

  bool split() const { return list.size > 1; }  // one tensor per expert
  bool int4() const { return packed.given() ? packed.dtype() == DType::kInt4 : list.data->dtype == DType::kInt32; }
};

/// Every tensor of a list is like its first: `name[3] must be int8 like name[0]; got int32`, and so for sizes.
void CheckAlike(const Call& call, Stage stage, const char* name, const TensorList& list);

/// A tensor list that must be there: given, not empty, every tensor by the rules of CheckTensor.
/// `forms`: what to say of an empty list.
void CheckList(const Call& call, Stage stage, const char* name, const TensorList& list, const char* forms);

/// Fills e and n (m and k come from x) as far as the ranks allow. After stage kOption.
void LearnSizes(Call& call, const TensorView& x, const WeightArgument& weight);

/// k of a weight whose rank is right.
int64_t InnerSize(const WeightArgument& weight);

/// Stage kShape leaves e and n known and in range; kData compares a packed weight with its own header.
void CheckWeight(Call& call, Stage stage, const WeightArgument& weight);

Weights MakeWeights(const Call& call, const WeightArgument& weight);

}  // namespace qgmm::check
