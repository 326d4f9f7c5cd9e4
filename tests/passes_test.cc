// SPDX-License-Identifier: Apache-2.0
// Blocks whose x exceeds L2: tiles take k in passes, and the sums of many pairs wait. L2 is small here, so that small problems
// have several passes, and pairs that wait apart; every kind of product, the answers against the reference.
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "cpu/numa.h"
#include "cpu/plan.h"
#include "kernel_case.h"

namespace qgmm::cpu {
namespace {

using reference::Case;
using reference::MakeCase;
using reference::SetColumns;
using reference::Uniform;

constexpr Caches kSmall = {32 << 10, 0};
constexpr Caches kSixPairs = {40 << 10, 0};  // sums of six pairs of 48 rows: four may wait

void ExpectPasses(const Plan& plan, int64_t k, const std::string& what) {
  for (const RowBlock& b : plan.blocks) {
    if (b.kernel->isa != Isa::kAmx) {
      EXPECT_EQ(b.k_pass, k) << what;
      continue;
    }
    EXPECT_LT(b.k_pass, k) << what;
    EXPECT_EQ(b.k_pass % b.k_block, 0) << what;
    EXPECT_EQ(b.waiting_pairs % b.scale_pairs, 0) << what << ": whose scales are gathered together, and again in every pass";
    EXPECT_LT(b.waiting_pairs, plan.pairs) << what;
  }
}

void Expect(Case& c, const std::string& what, const Caches& caches = kSmall) {
  c.problem.w.paired = c.problem.epilogue.finish == Finish::kSwigluQuant;
  const Answer expected = ByReference(c);
  PackedWeight packed;
  const std::vector<uint8_t> bytes = Packed(c.problem, &packed);
  for (const bool plain : {true, false}) {
    if (!plain) c.problem.w.packed = packed;
    for (const Isa isa : TestedIsas()) {
      if (isa < Isa::kAvx512Vnni) continue;  // nothing there knows passes
      for (const int workers : {1, 3}) {
        for (const Overlap overlap : {Overlap::kNever, Overlap::kAlways}) {
          const Plan plan = MakePlan(c.problem, isa, workers, caches, 1, overlap);
          const std::string where = what + (plain ? ", plain, " : ", packed, ") + Name(isa) + ", workers " +
                                    std::to_string(workers) + (overlap == Overlap::kNever ? "" : ", overlapped");
          ExpectPasses(plan, c.problem.k, where);
          Poison(c);
          Context context;
          context.parallel_for = Backwards;
          Execute(c.problem, plan, context, MachineTopology());
          ASSERT_TRUE((Answer{c.y, c.y_scale} == expected)) << where;
          for (const std::string& row : context.last_run.kernels) RowRan(row);
        }
      }
    }
  }
}

TEST(Passes, PerChannelWithEveryOption) {
  for (const int64_t rows : {33, 60}) {
    Case c = MakeCase(Finish::kSwigluQuant, {{rows}, 1100, 32 * 9 + 6}, 1);
    Expect(c, std::to_string(rows) + " rows");
    if (HasFailure()) return;
    c.problem.w.packed = {};
    Expect(c, std::to_string(rows) + " rows, another L2", kSixPairs);
    if (HasFailure()) return;
    c.problem.w.packed = {};
    c.assist = Uniform(c.e * c.sizes.n, 2, 2);
    SetColumns(&c.problem.epilogue.assist, c.assist, c.e, 1, c.sizes.n);
    c.smooth = Uniform(c.e * c.sizes.n / 2, 2, 3);
    SetColumns(&c.problem.epilogue.smooth, c.smooth, c.e, 1, c.sizes.n / 2);
    Expect(c, std::to_string(rows) + " rows, options");
    if (HasFailure()) return;
  }
}

TEST(Passes, Slices) {
  for (const auto& [k, slices] : std::vector<std::pair<int64_t, int64_t>>{{1152, 9}, {1536, 2}}) {
    for (const DType weights : {DType::kInt8, DType::kInt4}) {
      Case c = MakeCase(Finish::kSwigluQuant, {{40}, k, 32 * 9 + 8, slices}, 3, weights);
      Expect(c, std::string(Name(weights)) + ", k " + std::to_string(k));
      if (HasFailure()) return;
    }
  }
}

TEST(Passes, DownProjection) {
  Case c = MakeCase(Finish::kDequantize, {{45}, 1030, 32 * 7 + 20}, 4, DType::kInt8, DType::kBFloat16);
  c.problem.y_scale = {};
  Expect(c, "down");
}

TEST(Passes, OperatorBWithOutliers) {
  Case c = MakeOutlierCase(33, 1100, 32 * 9 + 5, Product::kFixed16);
  Expect(c, "fixed point");
}

}  // namespace
}  // namespace qgmm::cpu
