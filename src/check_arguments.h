// SPDX-License-Identifier: Apache-2.0
// What all checks share: the order of the stages, the sizes of a call, and the rules every tensor obeys.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "check_refuse.h"
#include "problem.h"
#include "qgmm/types.h"

namespace qgmm::check {

/// The order of checks. An operation walks the stages and, in each, its arguments in the order of its signature; so
/// the first failure is the one reported. Values of group_list come last.
enum class Stage { kType, kOption, kDtype, kRank, kShape, kDevice, kData };
inline constexpr Stage kStages[] = {Stage::kType,  Stage::kOption, Stage::kDtype, Stage::kRank,
                                    Stage::kShape, Stage::kDevice, Stage::kData};

/// One call being checked. Sizes are known (not negative) once the ranks that give them have been looked at.
struct Call {
  const char* operation;
  const char* leader = "x";  // the argument whose device the others must share
  int64_t m = -1, k = -1, n = -1, e = -1;
  int64_t slices = 1;

  int64_t h() const { return n < 0 ? -1 : n / 2; }
};

inline constexpr int64_t kMaxExperts = 1024;

enum class Need { kRequired, kOptional };

/// The rules of any tensor: given, no negative size (kType); on the CPU (kDevice); memory behind its elements (kData).
/// False: it is absent, and nothing is left to check.
bool CheckTensor(const Call& call, Stage stage, Argument argument, const TensorView& view, Need need);

/// Whether `view` passes this stage of the rule "`dtype_ok`, of exactly these sizes".
bool Fits(Stage stage, const TensorView& view, bool dtype_ok, std::initializer_list<int64_t> sizes);

/// x of a grouped product, [m, k] with 1 <= k <= max_k. Its dtype is the operation's own affair.
void CheckX(const Call& call, Stage stage, const TensorView& x, int64_t max_k);

/// x_scale: float32 [m].
void CheckXScale(const Call& call, Stage stage, const TensorView& x_scale, Need need);

/// An output of exactly this dtype and these sizes, no element of which lies on another one. Letters: "(m, n/2)".
void CheckMatrixOutput(const Call& call, Stage stage, const char* name, const TensorView& y, DType dtype,
                       std::initializer_list<Size> sizes);

void CheckDequantMode(const Call& call, int64_t dequant_mode);
void CheckActType(const Call& call, int64_t act_type);

/// Row-major without gaps; the rank is at most TensorView::kMaxRank.
bool IsContiguous(const TensorView& view);

Matrix AsMatrix(const TensorView& view);  // of rank 2
Vector AsVector(const TensorView& view);  // of rank 1; absent: no data

}  // namespace qgmm::check
