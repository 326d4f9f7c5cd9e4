// SPDX-License-Identifier: Apache-2.0
// Plans as data: whatever the problem, rows, pairs and tasks are covered exactly once; and the rules by which they are
// cut.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "cpu/plan.h"
#include "cpu/team.h"
#include "kernel_case.h"
#include "plan_draft.h"

namespace qgmm::cpu {
namespace {

constexpr Caches kCaches = {1 << 20, 32 << 20};

void ExpectBlocksCoverGroups(const Problem& p, const Plan& plan) {
  size_t at = 0;
  for (const RowRange& range : p.rows) {
    int64_t row = range.begin;
    while (row < range.end) {
      ASSERT_LT(at, plan.blocks.size());
      const RowBlock& b = plan.blocks[at++];
      ASSERT_EQ(b.expert, range.expert);
      ASSERT_EQ(b.first_row, row);
      ASSERT_GE(b.rows, 1);
      ASSERT_EQ(b.packed_rows, b.rows + (p.epilogue.assist.given() ? 1 : 0));
      ASSERT_LE(b.packed_rows, 256);
      row += b.rows;
    }
    ASSERT_EQ(row, range.end) << "a block must not leave its group";
  }
  ASSERT_EQ(at, plan.blocks.size());
}

void ExpectKernelsFit(const Problem& p, const Plan& plan) {
  const int line_k = p.product == Product::kInt4 ? 8 : 4;
  for (const RowBlock& b : plan.blocks) {
    ASSERT_EQ(b.kernel, &ChooseKernel(p.product, p.slice, p.k, b.packed_rows, plan.isa));
    ASSERT_TRUE(b.k_block >= 1 && b.k_block <= p.k) << b.k_block;
    ASSERT_TRUE(b.k_pass == p.k || (b.k_pass >= 1 && b.k_pass < p.k && b.k_pass % b.k_block == 0)) << b.k_pass;
    ASSERT_TRUE(b.k_pass == p.k ? b.waiting_pairs == plan.pairs : b.waiting_pairs % b.scale_pairs == 0) << b.waiting_pairs;
    ASSERT_EQ(b.scale_pairs % kSpanPairs, 0) << "a span's scales are gathered together";
    if (b.k_block == p.k) continue;
    ASSERT_EQ(b.k_block % line_k, 0) << "a stretch starts at a line";
    ASSERT_TRUE(b.k_block % p.slice == 0 || (b.k_block < p.slice)) << "whole slices, or a part of one";
    if (b.kernel->k_block > 0 && (b.packed_rows > b.kernel->tile_m || b.kernel->widen)) {
      ASSERT_LE(b.k_block, b.kernel->k_block);
    }
  }
}

void ExpectTasksCoverPairs(const Problem& p, const Plan& plan) {
  std::vector<int64_t> next(plan.blocks.size(), 0);
  std::vector<int> index(plan.blocks.size(), 0);
  const int64_t grouped = p.rows.empty() ? 0 : p.rows.back().end;
  int64_t zeroed = grouped;
  for (const Task& t : plan.tasks) {
    if (t.block < 0) {
      ASSERT_EQ(t.first_pair, zeroed);
      ASSERT_GE(t.pairs, 1);
      zeroed += t.pairs;
      continue;
    }
    const size_t block = static_cast<size_t>(t.block);
    ASSERT_LT(block, plan.blocks.size());
    ASSERT_EQ(t.index, index[block]++);
    ASSERT_EQ(t.first_pair, next[block]);
    ASSERT_GE(t.pairs, 1);
    next[block] += t.pairs;
  }
  ASSERT_EQ(zeroed, p.m) << "rows in no group";
  for (size_t i = 0; i < plan.blocks.size(); ++i) {
    ASSERT_EQ(next[i], plan.pairs) << "block " << i;
    ASSERT_EQ(index[i], plan.blocks[i].tasks) << "block " << i;
  }
}

void ExpectBounds(const Plan& plan, int workers) {
  ASSERT_TRUE(plan.workers >= 1 && plan.workers <= workers);
  ASSERT_LE(plan.workers, std::max<int>(1, static_cast<int>(plan.tasks.size())));
  ASSERT_EQ(plan.bounds.size(), static_cast<size_t>(plan.workers) + 1);
  ASSERT_EQ(plan.bounds.front(), 0);
  ASSERT_EQ(plan.bounds.back(), static_cast<int32_t>(plan.tasks.size()));
  ASSERT_TRUE(std::is_sorted(plan.bounds.begin(), plan.bounds.end()));
}

/// A part of memory that somebody needs: [begin, begin + bytes).
struct Part {
  size_t begin, bytes;
};
void ExpectDisjoint(std::vector<Part> parts, size_t end) {
  std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.begin < b.begin; });
  size_t at = 0;
  for (const Part& part : parts) {
    if (part.bytes == 0) continue;
    ASSERT_EQ(part.begin % 64, 0u);
    ASSERT_GE(part.begin, at) << "overlaps the part before";
    at = part.begin + part.bytes;
  }
  ASSERT_LE(at, end);
}

/// Every block by itself finds what it touches in the scratch of one worker, and split blocks share nothing.
void ExpectMemory(const Problem& p, const Plan& plan) {
  const bool swiglu = p.epilogue.finish == Finish::kSwigluQuant, plain = !p.w.packed.given();
  const int line_k = p.product == Product::kInt4 ? 8 : 4;
  const bool fixed = p.product == Product::kFixed16;
  std::vector<Part> shared;
  const ScratchLayout& s = plan.scratch;
  for (const RowBlock& b : plan.blocks) {
    const auto bytes = [](int64_t count, int64_t size) { return static_cast<size_t>(count * size); };
    const int64_t lines = (b.k_block + line_k - 1) / line_k;
    const int64_t most_pairs = (plan.pairs + b.tasks - 1) / b.tasks;  // of a task
    const int64_t spans = (b.meanwhile ? 2 : 1) * plan.span;
    const int64_t pairs = b.k_pass < p.k ? std::min(most_pairs, b.waiting_pairs) : std::min<int64_t>(most_pairs, spans);
    const int64_t acc_rows =
        b.k_block < p.k || b.meanwhile ? b.padded_rows * pairs : std::min(b.padded_rows, b.strip_rows);
    const bool split = b.tasks > 1 && swiglu;
    ASSERT_EQ(b.results >= 0, split);
    ASSERT_EQ(b.row_max >= 0, split);
    const size_t results = bytes(plan.pairs * b.rows, 16 * 4), row_max = bytes(b.rows, 4);
    ExpectDisjoint({{s.packed_x, bytes(b.padded_rows * PackedStride(p.k, *b.kernel), b.kernel->x_bytes)},
                    {s.row_sums, b.kernel->row_sums ? bytes(b.packed_rows * p.slices(), 4) : 0},
                    {s.x_sums, p.epilogue.finish == Finish::kAffine ? bytes(b.rows, 4) : 0},
                    {s.acc, bytes(acc_rows, 32 * 4)},
                    {s.folded, fixed || p.slices() > 1 ? bytes(acc_rows, 32 * 4) : 0},
                    {s.lines, plain ? bytes(2 * plan.span * lines, 64) : 0},
                    {s.widened, bytes(2 * lines, b.kernel->widened_bytes)},
                    {s.scales, bytes(b.scale_pairs * (fixed ? 1 : p.slices()), 32 * 4)},
                    {s.fixed_scales, fixed ? bytes(b.rows * p.slices(), 4) : 0},
                    {s.outliers, fixed ? bytes((b.rows + 1) * p.slices(), 512 / 8) : 0},
                    {s.outlier_counts, fixed ? bytes(b.rows, 4) : 0},
                    {s.outlier_lines, fixed && b.k_block < p.k ? bytes(2 * ((p.k + 3) / 4), 64) : 0},
                    {s.columns, bytes(plan.span * kColumnRows, 32 * 4)},
                    {s.results, swiglu && !split ? results : 0},
                    {s.row_max, swiglu && !split ? row_max : 0}},
                   s.bytes);
    if (!split) continue;
    shared.push_back({static_cast<size_t>(b.results), results});
    shared.push_back({static_cast<size_t>(b.row_max), static_cast<size_t>(b.tasks) * row_max});
  }
  ExpectDisjoint(shared, plan.shared_bytes);
  ASSERT_EQ(s.bytes % 64, 0u);
  ASSERT_EQ(plan.workspace_bytes(), plan.shared_bytes + static_cast<size_t>(plan.workers) * s.bytes);
}

Plan SoundPlan(const Draft& draft, Isa isa = BestIsa(), int workers = 2, const Caches& caches = kCaches) {
  const Problem p = draft.Make();
  const Plan plan = MakePlan(p, isa, workers, caches);
  EXPECT_EQ(plan.isa, isa);
  EXPECT_EQ(plan.stages, &StagesFor(isa));
  EXPECT_EQ(plan.pairs, (p.n + 31) / 32);
  [&] {
    ASSERT_NO_FATAL_FAILURE(ExpectBlocksCoverGroups(p, plan));
    ASSERT_NO_FATAL_FAILURE(ExpectKernelsFit(p, plan));
    ASSERT_NO_FATAL_FAILURE(ExpectTasksCoverPairs(p, plan));
    ASSERT_NO_FATAL_FAILURE(ExpectBounds(plan, workers));
    ASSERT_NO_FATAL_FAILURE(ExpectMemory(p, plan));
  }();
  return plan;
}

TEST(Plan, EveryRowCountOfAGroup) {
  for (int64_t rows = 1; rows <= 1100; ++rows) {
    for (const bool assist : {false, true}) {
      Draft draft;
      draft.counts = {rows, 0, 3};
      draft.assist = assist;
      SoundPlan(draft);
      if (HasFailure()) FAIL() << "rows " << rows << (assist ? ", assist" : "");
    }
  }
}

TEST(Plan, AnyProblem) {
  for (uint32_t seed = 1; seed <= 3000; ++seed) {
    std::mt19937 random(seed);
    const auto upto = [&](int64_t most) { return static_cast<int64_t>(random() % static_cast<uint32_t>(most)) + 1; };
    Draft draft;
    draft.counts.assign(static_cast<size_t>(upto(random() % 4 ? 8 : 300)), 0);
    const int64_t scale = upto(3) == 1 ? 600 : 12;
    for (int64_t& count : draft.counts) count = random() % 3 ? upto(scale) : 0;
    draft.product = static_cast<Product>(random() % 4);
    const bool affine = draft.product == Product::kFloat || draft.product == Product::kFixed16;
    const int64_t unit = affine ? 1 : upto(3);
    draft.slices = unit == 1 ? 1 : upto(30);
    draft.k = draft.slices * (random() % 2 ? upto(600) : 8 * upto(200));
    draft.n = draft.product == Product::kInt4 ? 8 * upto(300) : 2 * upto(1500);
    draft.finish = affine ? Finish::kAffine : random() % 2 ? Finish::kSwigluQuant : Finish::kDequantize;
    draft.tail = random() % 2 ? upto(40) : 0;
    draft.packed = random() % 2;
    draft.assist = !affine && random() % 3 == 0;
    draft.expected_rows = random() % 3 ? 0 : upto(500);
    const Isa isa = random() % 3 ? BestIsa() : Isa::kScalar;
    SoundPlan(draft, isa, static_cast<int>(upto(70)), {upto(4 << 20), upto(64 << 20)});
    if (HasFailure()) FAIL() << "seed " << seed;
  }
}

TEST(Plan, ScalesOfManyPairsForFewRowsOfSlicesThatL2Holds) {
  Draft draft;
  draft.product = Product::kInt4, draft.n = 4096;
  const auto scale_pairs = [&](int64_t rows, int64_t k, int64_t slices, int64_t l2) {
    draft.counts = {rows}, draft.k = k, draft.slices = slices;
    return SoundPlan(draft, BestIsa(), 2, {l2, 32 << 20}).blocks[0].scale_pairs;
  };
  constexpr int64_t kMib = 1 << 20;
  EXPECT_EQ(scale_pairs(1, 2048, 64, kMib / 2), 16) << "128 KiB";
  EXPECT_EQ(scale_pairs(8, 2048, 64, kMib / 2), 16);
  EXPECT_EQ(scale_pairs(9, 2048, 64, kMib / 2), kSpanPairs) << "rows that do not wait for memory";
  EXPECT_EQ(scale_pairs(1, 2048, 64, kMib / 2 - 1), 8);
  EXPECT_EQ(scale_pairs(1, 7168, 224, kMib), 8);
  EXPECT_EQ(scale_pairs(1, 7168, 224, kMib / 4), kSpanPairs);
  EXPECT_EQ(scale_pairs(1, 2048, 1, kMib), kSpanPairs) << "one row of scales";
}

TEST(Plan, FewBlocksAreSplitManyAreNot) {
  Draft draft;
  draft.k = 2048, draft.n = 2048;
  draft.counts = {1};  // decode: one row
  EXPECT_GE(SoundPlan(draft, BestIsa(), 8).tasks.size(), 8u);
  EXPECT_EQ(SoundPlan(draft, BestIsa(), 1).tasks.size(), 1u) << "one worker has nobody to share with";
  draft.counts.assign(8 * 48, 5);  // 48 blocks for each of 8 workers: stealing balances them
  EXPECT_EQ(SoundPlan(draft, BestIsa(), 8).tasks.size(), 8u * 48);
  draft.counts.assign(8 * 20, 64);  // many rows: a split block's results pass through memory
  EXPECT_EQ(SoundPlan(draft, BestIsa(), 8).tasks.size(), 8u * 20);
  draft.counts.assign(8 * 4, 5);
  EXPECT_GT(SoundPlan(draft, BestIsa(), 8).tasks.size(), 8u * 16);
}

TEST(Plan, ALargeGroupAmongSmallOnesGetsMoreTasks) {
  Draft draft;
  draft.k = 1024, draft.n = 4096;
  draft.counts = {1, 250, 1};
  const Plan plan = SoundPlan(draft, BestIsa(), 4);
  ASSERT_EQ(plan.blocks.size(), 3u);
  EXPECT_GT(plan.blocks[1].tasks, 3 * plan.blocks[0].tasks);  // tiles take fewer and larger ones
  EXPECT_EQ(plan.blocks[0].tasks, plan.blocks[2].tasks);
}

TEST(Plan, PlainWeightsAreSplitBySpans) {
  Draft draft;
  draft.k = 1024, draft.n = 1024;
  draft.packed = false;
  const Plan plan = SoundPlan(draft, BestIsa(), 8);
  EXPECT_EQ(plan.span, 4);
  EXPECT_GT(plan.tasks.size(), 1u);
  for (const Task& t : plan.tasks) EXPECT_GE(t.pairs, 4);
  draft.packed = true;
  EXPECT_EQ(SoundPlan(draft, BestIsa(), 8).span, 1) << "one row: k in one piece";
  draft.packed = false, draft.n = 34;
  EXPECT_EQ(SoundPlan(draft, BestIsa(), 8).span, 2) << "no more than there are";
}

TEST(Plan, EqualGroupsAreSharedEvenly) {
  Draft draft;
  draft.k = 512, draft.n = 512;
  draft.counts.assign(64, 7);
  const Plan plan = SoundPlan(draft, BestIsa(), 4);
  EXPECT_EQ(plan.bounds, (std::vector<int32_t>{0, 16, 32, 48, 64}));
}

TEST(Plan, EightOf1024ExpertsActive) {
  Draft draft;
  draft.counts.assign(1024, 0);
  const std::set<int64_t> active = {0, 7, 100, 511, 512, 800, 1022, 1023};
  for (int64_t e : active) draft.counts[static_cast<size_t>(e)] = 1;
  draft.k = 2048, draft.n = 1536;
  const Plan plan = SoundPlan(draft, BestIsa(), 2);
  ASSERT_EQ(plan.blocks.size(), 8u) << "experts without rows cost nothing";
  EXPECT_GT(plan.tasks.size(), 16u) << "two workers end together";
  for (const RowBlock& b : plan.blocks) EXPECT_EQ(active.count(b.expert), 1u);
}

TEST(Plan, NoRowsAtAll) {
  Draft draft;
  draft.counts = {0, 0};
  EXPECT_TRUE(SoundPlan(draft, BestIsa(), 8).tasks.empty());
  draft.tail = 5;
  const Plan plan = SoundPlan(draft, BestIsa(), 8);
  ASSERT_EQ(plan.tasks.size(), 1u) << "rows in no group become zeros";
  EXPECT_EQ(plan.tasks[0].pairs, 5);
  EXPECT_EQ(plan.workers, 1);
}

TEST(Plan, TuningHintChangesThePlan) {
  Draft draft;
  draft.counts = {256};
  draft.k = 128;
  EXPECT_EQ(SoundPlan(draft).blocks.size(), 1u);
  draft.expected_rows = 64;
  EXPECT_EQ(SoundPlan(draft).blocks.size(), 4u);
  draft.expected_rows = 1;
  EXPECT_EQ(SoundPlan(draft).blocks.size(), 4u) << "64 rows at least";
  draft.expected_rows = 128;
  EXPECT_EQ(SoundPlan(draft).blocks.size(), 2u);
  draft.expected_rows = 100000;
  EXPECT_EQ(SoundPlan(draft).blocks.size(), 1u);
}

TEST(Plan, BlocksFollowTheL2Cache) {
  Draft draft;
  draft.counts = {256};
  draft.k = 4096;
  const size_t small = SoundPlan(draft, Isa::kScalar, 2, {256 << 10, 0}).blocks.size();
  const size_t large = SoundPlan(draft, Isa::kScalar, 2, {4 << 20, 0}).blocks.size();
  EXPECT_EQ(small, 4u) << "64 rows at least, however small the cache";
  EXPECT_EQ(large, 1u);
}

TEST(Plan, AFullBlockWithAssistKeepsARowForTheEights) {
  Draft draft;
  draft.k = 64;
  draft.counts = {256};
  draft.assist = true;
  const Plan plan = SoundPlan(draft);
  EXPECT_EQ(plan.blocks.size(), 2u);
  draft.counts = {255};
  EXPECT_EQ(SoundPlan(draft).blocks.size(), 1u);
}

TEST(Plan, KBlocksOfPlainWeights) {
  Draft draft;
  draft.packed = false;
  draft.k = 7168;
  EXPECT_EQ(SoundPlan(draft, Isa::kScalar).blocks[0].k_block, 2048);
  draft.slices = 56;
  draft.finish = Finish::kDequantize;
  EXPECT_EQ(SoundPlan(draft, Isa::kScalar).blocks[0].k_block, 7168) << "scalar slices may start within a line";
  draft.slices = 1, draft.packed = true;
  EXPECT_EQ(SoundPlan(draft, Isa::kScalar).blocks[0].k_block, 7168) << "packed panels are read where they lie";
}

TEST(Plan, IsAFunctionOfItsArguments) {
  Draft draft;
  draft.counts = {3, 0, 90};
  draft.n = 1000;
  const Plan a = SoundPlan(draft, BestIsa(), 8), b = SoundPlan(draft, BestIsa(), 8);
  EXPECT_EQ(a.bounds, b.bounds);
  EXPECT_EQ(a.workspace_bytes(), b.workspace_bytes());
  ASSERT_EQ(a.tasks.size(), b.tasks.size());
  for (size_t i = 0; i < a.tasks.size(); ++i) EXPECT_EQ(a.tasks[i].first_pair, b.tasks[i].first_pair);
}

TEST(Plan, WorkersAndWhyTheyAreFewer) {
  Draft draft;
  draft.counts = {1};
  draft.n = 32;
  Context context;
  context.max_workers = 16;
  const Plan plan = MakePlan(draft.Make(), context);
  EXPECT_EQ(plan.workers, 1);
  EXPECT_EQ(plan.workers_why, "no more tasks than that");
}

TEST(Plan, ASmallCallTakesFewerWorkersUnlessToldHowMany) {
  unsetenv("QGMM_NUM_THREADS");
  unsetenv("QGMM_MAX_ISA");
  Draft draft;
  draft.counts = {1, 1, 1, 1, 1, 1, 1, 1};
  Context context;
  context.parallel_for = [](int count, void (*body)(int, void*), void* state, void*) {
    for (int i = 0; i < count; ++i) body(i, state);
  };
  context.pool_size = 2;
  EXPECT_EQ(MakePlan(draft.Make(), context).workers, 1);
  EXPECT_EQ(MakePlan(draft.Make(), context).workers_why, "a small call");
  context.max_workers = 2;
  EXPECT_EQ(MakePlan(draft.Make(), context).workers, 2);
  draft.k = draft.n = 4096;
  context.max_workers = 0;
  const int pool = WorkersFor(context, nullptr);  // the affinity mask may allow less than the pool has
  EXPECT_EQ(MakePlan(draft.Make(), context).workers, pool);
}

}  // namespace
}  // namespace qgmm::cpu
