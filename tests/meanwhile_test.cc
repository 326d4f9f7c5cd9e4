// SPDX-License-Identifier: Apache-2.0
// Rows that are finished while the next span of pairs is multiplied, by its kernel calls or between them: every row is finished
// once, several together, and the bits are the reference's. On every ISA, whose kernels and stages are wrapped here.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
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

/// The wrapped kernel and stages, and what they saw. Workers run one after the other here.
struct Spy {
  const Kernel* kernel = nullptr;
  const Stages* stages = nullptr;
  std::vector<int> finished = {0};  // rows before the first kernel call, and with each: by it and after it
  int64_t by_kernels = 0;           // of them
};
Spy spy;

void Gemm(const GemmArgs& a) {
  const int row = a.waiting ? a.waiting->row : 0;
  spy.kernel->gemm(a);
  spy.finished.push_back(0);
  if (!a.waiting) return;
  ASSERT_TRUE(row <= a.waiting->row && a.waiting->row <= std::max(row, a.waiting->end));
  spy.finished.back() += a.waiting->row - row;
  spy.by_kernels += a.waiting->row - row;
}

template <FinishFn Stages::*kFinish>
void CountRows(const StripArgs& s, int begin, int end) {
  ASSERT_TRUE(0 <= begin && begin < end && end <= s.rows);
  spy.finished.back() += end - begin;
  (spy.stages->*kFinish)(s, begin, end);
}

/// One worker after the other, the last one first, who takes all other workers' tasks.
Answer RunPlan(Case& c, const Plan& plan) {
  Poison(c);
  Context context;
  context.parallel_for = Backwards;
  std::memset(context.Workspace(plan.workspace_bytes() + 64), 0xCB, plan.workspace_bytes() + 64);
  Execute(c.problem, plan, context, MachineTopology());
  return {c.y, c.y_scale};
}

int64_t AllRows(const Plan& plan) {
  int64_t all = 0;
  for (const RowBlock& b : plan.blocks) all += plan.pairs * b.packed_rows;
  return all;
}

/// A plan of one kernel, wrapped, and stages that count.
struct Wrapped {
  Kernel kernel;
  Stages stages;
  Plan plan;

  Wrapped(const Problem& p, Isa isa, int workers, int64_t l2)
      : plan(MakePlan(p, isa, workers, {l2, 0}, 1, Overlap::kAlways)) {
    spy = {};
    spy.kernel = plan.blocks[0].kernel;
    spy.stages = plan.stages;
    kernel = *spy.kernel;
    kernel.gemm = Gemm;
    stages = *plan.stages;
    stages.finish_swiglu = CountRows<&Stages::finish_swiglu>;
    stages.finish_affine = CountRows<&Stages::finish_affine>;
    stages.finish_dequantize = CountRows<&Stages::finish_dequantize>;
    plan.stages = &stages;
    for (RowBlock& b : plan.blocks) {
      EXPECT_EQ(b.kernel, spy.kernel) << "a case of one kernel";
      b.kernel = &kernel;
      for (const Kernel*& certified : b.by_certificate) certified = &kernel;
    }
    RowRan(spy.kernel->name);
  }
};

void ExpectOnce(Case& c, const Answer& expected, Isa isa, int workers, int64_t l2, const std::string& what) {
  Wrapped wrapped(c.problem, isa, workers, l2);
  for (const RowBlock& b : wrapped.plan.blocks) ASSERT_TRUE(b.meanwhile) << what << ": one span alone";
  const Answer got = RunPlan(c, wrapped.plan);
  const std::string where = what + ", " + spy.kernel->name + ", workers " + std::to_string(workers);
  ASSERT_TRUE(got == expected) << where;
  EXPECT_EQ(std::accumulate(spy.finished.begin(), spy.finished.end(), int64_t{0}), AllRows(wrapped.plan)) << where;
}

void Expect(Case& c, const std::string& what, int64_t l2 = 256 << 10) {
  c.problem.w.paired = c.problem.epilogue.finish == Finish::kSwigluQuant;
  const Answer expected = ByReference(c);
  PackedWeight packed;
  const std::vector<uint8_t> bytes = Packed(c.problem, &packed);
  for (const bool plain : {true, false}) {
    if (!plain) c.problem.w.packed = packed;
    for (const Isa isa : TestedIsas()) {
      for (const int workers : {1, 2}) {
        ExpectOnce(c, expected, isa, workers, l2, what + (plain ? ", plain" : ", packed"));
        if (testing::Test::HasFailure()) return;
      }
    }
  }
}

void AddColumns(std::vector<float>* values, Columns* columns, const Case& c, int64_t n, uint32_t seed) {
  *values = Uniform(c.e * n, 2, seed);
  SetColumns(columns, *values, c.e, 1, n);
}

void AddOptionsOfA(Case& c) {
  Epilogue& e = c.problem.epilogue;
  AddColumns(&c.assist, &e.assist, c, c.sizes.n, 8);
  AddColumns(&c.smooth, &e.smooth, c, c.sizes.n / 2, 9);
  e.limited = true;
  e.limit = 0.75f;
}

TEST(Meanwhile, PerChannelRaggedRowsAndSpans) {
  for (const int64_t rows : {16, 33, 70}) {
    Case c = MakeCase(Finish::kSwigluQuant, {{rows}, 1100, 32 * 9 + 6}, 1);
    Expect(c, std::to_string(rows) + " rows");
    if (HasFailure()) return;
  }
}

TEST(Meanwhile, RowOfEightsLimitAndSmooth) {
  for (const int64_t k : {130, 600}) {
    Case c = MakeCase(Finish::kSwigluQuant, {{65}, k, 32 * 9 + 8}, 2);
    AddOptionsOfA(c);
    for (int64_t i = 0; i < c.e * c.sizes.n; ++i) c.int_bias.push_back(static_cast<int32_t>(i * 2654435761u));
    c.problem.epilogue.int_bias.data = c.int_bias.data();
    c.problem.epilogue.int_bias.dtype = DType::kInt32;
    c.problem.epilogue.int_bias.expert_stride = c.sizes.n;
    c.problem.epilogue.int_bias.column_stride = 1;
    Expect(c, "options, k " + std::to_string(k));
    if (HasFailure()) return;
  }
}

TEST(Meanwhile, SlicesThatKernelsOrStagesFold) {
  for (const auto& [k, slices] : std::vector<std::pair<int64_t, int64_t>>{{1152, 9}, {640, 5}, {1536, 2}}) {
    for (const DType weights : {DType::kInt8, DType::kInt4}) {
      Case c = MakeCase(Finish::kSwigluQuant, {{40}, k, 32 * 9 + 8, slices}, 3, weights);
      if (slices == 9) AddOptionsOfA(c);
      Expect(c, "k " + std::to_string(k) + ", slices " + std::to_string(slices));
      if (HasFailure()) return;
    }
  }
}

TEST(Meanwhile, SeveralBlocksAndExperts) {
  Case c = MakeCase(Finish::kSwigluQuant, {{300, 0, 150}, 640, 32 * 9, 1, 3}, 4);
  Expect(c, "blocks");
}

TEST(Meanwhile, NoRoomInFewSteps) {
  for (const int64_t k : {1, 20, 63, 64}) {
    Case c = MakeCase(Finish::kSwigluQuant, {{40}, k, 32 * 9}, 5);
    Expect(c, "k " + std::to_string(k));
    if (HasFailure()) return;
  }
}

TEST(Meanwhile, RowsToTypesAndIntegers) {
  for (const DType y : {DType::kBFloat16, DType::kInt32}) {
    const Finish finish = y == DType::kInt32 ? Finish::kInt32 : Finish::kDequantize;
    Case c = MakeCase(finish, {{70}, 600, 32 * 9 + 5}, 6, DType::kInt8, y);
    c.problem.y_scale = {};
    if (y == DType::kBFloat16) {
      AddColumns(&c.bias, &c.problem.epilogue.bias, c, c.sizes.n, 7);
      c.problem.epilogue.activation = Activation::kGeluTanh;
    }
    Expect(c, Name(y));
    if (HasFailure()) return;
  }
}

TEST(Meanwhile, OperatorBWithOutliers) {
  for (const Product product : {Product::kFixed16, Product::kFloat}) {
    for (const int64_t k : {300, 1100}) {
      Case c = MakeOutlierCase(50, k, 32 * 9 + 5, product);
      AddColumns(&c.offset, &c.problem.epilogue.offset, c, c.sizes.n, 10);
      AddColumns(&c.bias, &c.problem.epilogue.bias, c, c.sizes.n, 11);
      Expect(c, "k " + std::to_string(k));
      if (HasFailure()) return;
    }
  }
}

/// Tasks of one block on many threads: whoever takes the next one finishes its own last span in it.
TEST(Meanwhile, ThreadsTakeTasksOfOneBlock) {
  Case c = MakeCase(Finish::kSwigluQuant, {{40, 3, 90}, 130, 32 * 13 + 6}, 12);
  AddOptionsOfA(c);
  c.problem.w.paired = true;
  const Answer expected = ByReference(c);
  for (const Isa isa : TestedIsas()) {
    for (const int workers : {2, 7}) {
      const Plan plan = MakePlan(c.problem, isa, workers, {256 * 1024, 0}, 1, Overlap::kAlways);
      Context context;
      context.parallel_for = OnThreads;
      Poison(c);
      Execute(c.problem, plan, context, MachineTopology());
      ASSERT_TRUE((Answer{c.y, c.y_scale} == expected)) << Name(isa) << ", workers " << workers;
      for (const std::string& row : context.last_run.kernels) RowRan(row);
    }
  }
}

/// Rows after each of the calls, of one worker. Nothing of the first span can be finished in it, and the last one's rows come
/// at the end, all at once.
std::vector<int> Shares(int64_t rows, int64_t k, int64_t pairs) {
  Case c = MakeCase(Finish::kSwigluQuant, {{rows}, k, 32 * pairs}, 1);
  PackedWeight packed;
  c.problem.w.paired = true;
  const std::vector<uint8_t> bytes = Packed(c.problem, &packed);
  c.problem.w.packed = packed;
  Wrapped wrapped(c.problem, Isa::kAmx, 1, 2 << 20);  // no passes
  RunPlan(c, wrapped.plan);
  return spy.finished;
}

/// Of two pairs of 64 rows, 8 calls (2 tiles, 2 pairs, 2 stretches of k) get 16 rows each.
TEST(Meanwhile, CallsShareTheRowsEvenly) {
  if (!IsTested(Isa::kAmx)) GTEST_SKIP() << "not run: this machine has no amx";
  std::vector<int> expected(25, 16);
  std::fill_n(expected.begin(), 9, 0);
  expected.back() += 2 * 64;
  EXPECT_EQ(Shares(64, 2048, 6), expected);
}

/// 12 calls (2 tiles, 2 pairs, 3 stretches) share 2 x 40 rows, of which 4 in 5 belong to the tile of 32: 10.67 and 2.67. Up to 8
/// wait, and what was rounded away comes in the end.
TEST(Meanwhile, FewRowsAreFinishedTogether) {
  if (!IsTested(Isa::kAmx)) GTEST_SKIP() << "not run: this machine has no amx";
  const std::vector<int> shares = Shares(40, 3072, 4);
  ASSERT_EQ(shares.size(), 25u);
  int64_t sum = 0;
  for (size_t call = 13; call < 24; ++call) {
    EXPECT_TRUE(shares[call] == 0 || shares[call] >= 8) << "after call " << call << ": " << shares[call];
    EXPECT_LE(shares[call], 14) << "after call " << call;
    sum += shares[call];
  }
  EXPECT_GE(sum, 2 * 40 - 8);
  EXPECT_EQ(sum + shares.back(), 4 * 40);
}

/// With four tiles of rows AMX finishes plain rows itself, a row per step that fetches: of two spans those that the last four of
/// 2 x 16 calls, behind which no weights come, do not.
TEST(Meanwhile, KernelsFinishPlainRows) {
  if (!IsTested(Isa::kAmx)) GTEST_SKIP() << "not run: this machine has no amx";
  const std::vector<int> shares = Shares(128, 2048, 6);
  EXPECT_EQ(spy.by_kernels, (2 * 16 - 4) * 16);
  std::vector<int> expected(49, 16);
  std::fill_n(expected.begin(), 17, 0);
  expected.back() += 2 * 128;
  EXPECT_EQ(shares, expected);
  Shares(128, 1024, 4);
  EXPECT_LT(spy.by_kernels, 2 * 128) << "two rows per step are due";
  EXPECT_GE(spy.by_kernels, 128);
}

TEST(Meanwhile, KernelsAndPlainRowsOfEveryFinish) {
  constexpr int64_t kOneBlock = 2 << 20;
  for (const int slices : {1, 9}) {
    for (const DType weights : {DType::kInt8, DType::kInt4}) {
      Case a = MakeCase(Finish::kSwigluQuant, {{130}, 1152, 32 * 9, slices}, 13, weights);
      Expect(a, "A, slices " + std::to_string(slices), kOneBlock);
    }
  }
  for (const DType y : {DType::kBFloat16, DType::kFloat16, DType::kFloat32}) {
    Case down = MakeCase(Finish::kDequantize, {{130}, 600, 32 * 9}, 14, DType::kInt8, y);
    down.problem.y_scale = {};
    Expect(down, std::string("down to ") + Name(y), kOneBlock);
  }
  for (const int options : {0, 1, 2, 3}) {
    Case b = MakeOutlierCase(130, 1100, 32 * 9, Product::kFixed16);
    if (options & 1) AddColumns(&b.offset, &b.problem.epilogue.offset, b, b.sizes.n, 15);
    if (options & 2) AddColumns(&b.bias, &b.problem.epilogue.bias, b, b.sizes.n, 16);
    Expect(b, "B, options " + std::to_string(options), kOneBlock);
  }
}

/// QGMM_OVERLAP, and what it was before.
class Setting {
 public:
  explicit Setting(const char* value) : had_(std::getenv(kName)), before_(had_ ? std::getenv(kName) : "") {
    value ? setenv(kName, value, 1) : unsetenv(kName);
  }
  ~Setting() { had_ ? setenv(kName, before_.c_str(), 1) : unsetenv(kName); }

 private:
  static constexpr const char* kName = "QGMM_OVERLAP";
  const bool had_;
  const std::string before_;
};

/// By default: blocks of more than 96 rows of kernels that leave the stages' units idle.
TEST(Meanwhile, SettingSwitchesItOff) {
  Case c = MakeCase(Finish::kSwigluQuant, {{97, 96}, 640, 32 * 10}, 1);
  c.problem.w.paired = true;
  Context context;
  context.parallel_for = Backwards;
  context.max_workers = 1;
  for (const Isa isa : TestedIsas()) {
    context.max_isa = static_cast<int>(isa);
    for (const char* value : {static_cast<const char*>(nullptr), "", "1", "0"}) {
      const Setting setting(value);
      for (const RowBlock& b : MakePlan(c.problem, context).blocks) {
        const bool off = value != nullptr && std::string(value) == "0";
        EXPECT_EQ(b.meanwhile, !off && isa == Isa::kAmx && b.rows > 96) << Name(isa) << ", " << (value ? value : "unset");
      }
    }
    const Setting setting("off");
    try {
      MakePlan(c.problem, context);
      ADD_FAILURE() << "not refused";
    } catch (const InvalidArgument& refusal) {
      EXPECT_EQ(std::string(refusal.what()), "[qgmm] QGMM_OVERLAP must be 0 or 1; got off");
    }
  }
}

}  // namespace
}  // namespace qgmm::cpu
