// SPDX-License-Identifier: Apache-2.0
// Whole problems whose rows are several row tiles and whose k is several stretches, on every ISA: partial sums wait, pairs
// take turns, tiles are ragged.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "cpu/plan.h"
#include "kernel_case.h"

namespace qgmm::cpu {
namespace {

using reference::Case;
using reference::MakeCase;
using reference::SetColumns;
using reference::Sizes;
using reference::Uniform;

void Expect(const Sizes& sizes, DType weights = DType::kInt8, bool assist = false) {
  Case c = MakeCase(Finish::kSwigluQuant, sizes, 11, weights);
  if (assist) {
    c.assist = Uniform(c.e * sizes.n, 2, 12);
    SetColumns(&c.problem.epilogue.assist, c.assist, c.e, 1, sizes.n);
  }
  ExpectEverywhere(c, std::to_string(sizes.counts[0]) + " rows, k " + std::to_string(sizes.k) + ", slices " +
                          std::to_string(sizes.slices) + (assist ? ", assist" : ""));
}

TEST(RunTiles, RaggedRowsOfTiles) {
  for (const int64_t rows : {8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49}) {
    for (const bool assist : {false, true}) {
      Expect({{rows, 3}, 130, 34}, DType::kInt8, assist);
      if (HasFatalFailure()) return;
    }
    Expect({{rows, 3}, 136, 40}, DType::kInt4);
    if (HasFatalFailure()) return;
  }
}

TEST(RunTiles, SeveralStretchesOfK) {
  for (const int64_t rows : {20, 33, 65, 100}) {
    Expect({{rows}, 1100, 70}, DType::kInt8, rows == 65);
    Expect({{rows}, 1096, 72}, DType::kInt4, rows == 65);
    if (HasFatalFailure()) return;
  }
}

/// Whole slices in a stretch, an odd number of them, and slices longer than a stretch.
TEST(RunTiles, SlicesWithinAndAcrossStretches) {
  for (const auto& [k, slices] : std::vector<std::pair<int64_t, int64_t>>{{1152, 9}, {320, 5}, {1536, 2}, {640, 20}}) {
    Expect({{40, 10}, k, 40, slices}, DType::kInt8);
    Expect({{40, 10}, k, 40, slices}, DType::kInt4);
    if (HasFatalFailure()) return;
  }
}

TEST(RunTiles, ExtremesInSeveralTiles) {
  for (const int xv : {-128, 127}) {
    for (const int wv : {-128, 127}) {
      Case c = MakeCase(Finish::kSwigluQuant, {{37}, 600, 34}, 13);
      std::fill(c.x.begin(), c.x.end(), static_cast<int8_t>(xv));
      std::fill(c.w.begin(), c.w.end(), static_cast<int8_t>(wv));
      for (size_t i = 0; i < c.x.size(); i += 7) c.x[i] = static_cast<int8_t>(-1 - xv);
      ExpectEverywhere(c, "x " + std::to_string(xv) + ", w " + std::to_string(wv));
      if (HasFatalFailure()) return;
    }
  }
}

/// x of a pass is at most half of L2, and sums that wait fill it; one tile of rows takes k in one piece.
TEST(RunTiles, PlanKeepsAPassOfXInL2AndPairsTakeTurns) {
  if (!HasIsa(Isa::kAmx)) GTEST_SKIP() << "not run: this machine has no amx";
  const uint8_t packed = 0;
  Problem p;
  p.product = Product::kInt8;
  p.epilogue.finish = Finish::kDequantize;
  p.w.packed.data = &packed;
  p.w.e = p.e = 1;
  p.w.n = p.n = 256;
  const auto plan = [&](int64_t m, int64_t k) {
    p.m = m;
    p.w.k = p.slice = p.k = k;
    p.rows = {{0, 0, m}};
    return MakePlan(p, Isa::kAmx, 2, {2 << 20, 0});
  };
  for (const auto& [k, k_pass] : {std::pair{2048, 2048}, {4096, 4096}, {4100, 3072}, {7168, 4096}, {14336, 4096}}) {
    const Plan made = plan(1024, k);
    EXPECT_EQ(made.blocks[0].rows, 256) << k;
    EXPECT_EQ(made.blocks[0].k_block, 1024) << k;
    EXPECT_EQ(made.blocks[0].k_pass, k_pass) << k;
    EXPECT_EQ(made.blocks[0].waiting_pairs, k_pass < k ? 64 : made.pairs) << k;
    EXPECT_EQ(made.span, 2) << k;
  }
  EXPECT_EQ(plan(128, 7168).blocks[0].k_pass, 7168);
  EXPECT_EQ(plan(32, 7168).blocks[0].k_block, 7168);
  EXPECT_EQ(plan(32, 7168).span, 1);
  p.product = Product::kInt4;
  p.w.dtype = DType::kInt4;
  EXPECT_EQ(plan(32, 7168).blocks[0].k_block, 512) << "unpacked into L1";
}

}  // namespace
}  // namespace qgmm::cpu
