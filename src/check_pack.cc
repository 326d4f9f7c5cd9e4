// SPDX-License-Identifier: Apache-2.0
// pack_weight, and bytes that claim to be packed weights.
#include <string>

#include "check.h"
#include "check_arguments.h"
#include "check_refuse.h"
#include "check_weights.h"
#include "packed_format.h"

namespace qgmm {
namespace {

using namespace check;  // NOLINT: this file is a door of that namespace

// So that every offset fits int64 with room: e is at most 2^10, a padded weight at most one byte.
constexpr int64_t kMaxSide = int64_t{1} << 40, kMaxPlane = int64_t{1} << 50;

void CheckPlane(const Call& call, const WeightArgument& weight) {
  if (call.k < 1) QGMM_REFUSE(call.operation, "k must be at least 1; got ", call.k);
  // Operator B takes any k; the packed weights of the others sum in int32.
  if ((weight.paired || weight.int4()) && call.k > kMaxIntegerK) {
    QGMM_REFUSE(call.operation, "k must be at most ", kMaxIntegerK, " (int32 sums); got ", call.k);
  }
  if (call.k > kMaxSide || call.n > kMaxSide) {
    QGMM_REFUSE(call.operation, "k and n must be at most ", kMaxSide, " to be packed; got k ", call.k, " and n ",
                call.n);
  }
  if (call.k > kMaxPlane / (call.n + kPairColumns)) {
    QGMM_REFUSE(call.operation, "k * (n + 32) must be at most ", kMaxPlane, " to be packed; got k ", call.k,
                " and n ", call.n);
  }
}

void CheckCertification(const char* operation, DType dtype, int64_t k, Certification certify, double max_residuals) {
  if (certify == Certification::kYes && dtype != DType::kInt8) {
    QGMM_REFUSE(operation, "certify must not be True for int4 weights: no kernel of theirs needs certificates");
  }
  if (certify == Certification::kYes && k > kMaxIntegerK) {
    QGMM_REFUSE(operation, "certify must not be True for k above ", kMaxIntegerK, "; got k ", k);
  }
  if (!(max_residuals > 0 && max_residuals <= 1)) {
    QGMM_REFUSE(operation, "max_residuals must be above 0 and at most 1; got ", std::to_string(max_residuals));
  }
}

}  // namespace

void CheckCertify(const PackedWeight& weight, Certification certify, double max_residuals) {
  PackedWeight header;
  const std::string violation = ReadHeader(weight.data, weight.bytes, &header);
  if (!violation.empty()) QGMM_REFUSE("PackedWeight", "data must ", violation);
  CheckCertification("PackedWeight", weight.dtype(), weight.k, certify, max_residuals);
}

Weights Checked(const PackArgs& args) {
  const PackedWeight none;
  const WeightArgument weight = {args.weight, none, WeightUse::kPacking, args.swiglu};
  Call call = {"pack_weight", "weight"};
  for (Stage stage : kStages) {
    if (stage == Stage::kOption) {
      LearnSizes(call, TensorView(), weight);
      continue;
    }
    if (stage == Stage::kShape) call.k = InnerSize(weight);
    CheckWeight(call, stage, weight);
    if (stage == Stage::kShape) CheckPlane(call, weight);
  }
  const DType dtype = weight.int4() ? DType::kInt4 : DType::kInt8;
  CheckCertification("pack_weight", dtype, call.k, args.certify, args.max_residuals);
  return MakeWeights(call, weight);
}

PackedWeight FromBytes(const uint8_t* data, int64_t bytes) {
  PackedWeight weight;
  const std::string violation = ReadHeader(data, bytes, &weight);
  if (!violation.empty()) QGMM_REFUSE("PackedWeight", "data must ", violation);
  return weight;
}

}  // namespace qgmm
