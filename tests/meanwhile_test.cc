// SPDX-License-Identifier: Apache-2.0
// Rows that are finished while the next span of pairs is multiplied: whatever a kernel runs of the parts it is given, all
// of them, some or none, every row is finished once and the bits are the reference's. On every ISA, whose kernels are
// wrapped here; the AMX rows run their parts themselves.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "cpu/numa.h"
#include "cpu/plan.h"
#include "gemm_tile.h"
#include "kernel_case.h"

namespace qgmm::cpu {
namespace {

using reference::Case;
using reference::MakeCase;
using reference::SetColumns;
using reference::Uniform;

/// What a wrapped kernel does with its parts. kOwn: whatever the row of the table does.
enum class Runs { kOwn, kNone, kAllFirst, kHalfLast, kOneLast };

/// The wrapped kernel and stages, and what they saw. Workers run one after the other here.
struct Spy {
  const Kernel* kernel = nullptr;
  const Stages* stages = nullptr;
  Runs runs = Runs::kOwn;
  bool inside = false;  // a kernel call
  int64_t rows = 0, rows_inside = 0;
  std::vector<int> offered;  // parts, per call
};
Spy spy;

void Gemm(const GemmArgs& a) {
  const int parts = a.meanwhile ? a.meanwhile->parts : 0;
  spy.offered.push_back(parts);
  spy.inside = true;
  const auto run = [&](int count) {
    if (count > 0) a.meanwhile->run(a.meanwhile->state, count);
  };
  if (spy.runs == Runs::kAllFirst) run(parts);
  GemmArgs args = a;
  if (spy.runs != Runs::kOwn) args.meanwhile = nullptr;
  spy.kernel->gemm(args);
  if (spy.runs == Runs::kHalfLast) run(parts / 2);
  if (spy.runs == Runs::kOneLast) run(parts > 0 ? 1 : 0);
  spy.inside = false;
}

template <void (*Stages::*kFinish)(const StripArgs&)>
void CountRows(const StripArgs& s) {
  spy.rows += s.rows;
  if (spy.inside) spy.rows_inside += s.rows;
  (spy.stages->*kFinish)(s);
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

/// Rows of all spans, and those with a span of their block behind them to be finished in, at least: the worker that comes
/// first changes blocks at most that often, once more for what it takes from another.
std::pair<int64_t, int64_t> RowsOf(const Plan& plan) {
  int64_t all = 0, waiting = 0;
  for (const RowBlock& b : plan.blocks) {
    all += plan.pairs * b.packed_rows;
    const int64_t last = plan.workers == 1 ? (plan.pairs - 1) % plan.span + 1 : 2 * plan.span;
    if (b.meanwhile) waiting += (plan.pairs - last) * b.packed_rows;
  }
  return {all, waiting};
}

/// A plan of one kernel, wrapped, and stages that count.
struct Wrapped {
  Kernel kernel;
  Stages stages;
  Plan plan;

  Wrapped(const Problem& p, Isa isa, int workers, Runs runs, Overlap overlap)
      : plan(MakePlan(p, isa, workers, {256 * 1024, 0}, 1, overlap)) {
    spy = {};
    spy.kernel = plan.blocks[0].kernel;
    spy.stages = plan.stages;
    spy.runs = runs;
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

void ExpectOnce(Case& c, const Answer& expected, Isa isa, int workers, Runs runs, const std::string& what) {
  Wrapped wrapped(c.problem, isa, workers, runs, Overlap::kAlways);
  const Answer got = RunPlan(c, wrapped.plan);
  const std::string where = what + ", " + spy.kernel->name + ", workers " + std::to_string(workers) + ", runs " +
                            std::to_string(static_cast<int>(runs));
  ASSERT_TRUE(got == expected) << where;
  const auto [all, waiting] = RowsOf(wrapped.plan);
  ASSERT_GT(waiting, 0) << where << ": one span alone";
  EXPECT_EQ(spy.rows, all) << where;
  const bool itself = runs == Runs::kOwn && spy.kernel->meanwhile && c.problem.k >= 64;  // a step; fewer k: no room
  if (itself || runs == Runs::kAllFirst) {
    EXPECT_GE(spy.rows_inside, waiting) << where;
    EXPECT_LE(spy.rows_inside, workers == 1 ? waiting : all) << where;
  } else if (runs == Runs::kNone || runs == Runs::kOwn) {
    EXPECT_EQ(spy.rows_inside, 0) << where;
  } else if (runs == Runs::kOneLast) {
    EXPECT_GT(spy.rows_inside, 0) << where;
  }
}

void Expect(Case& c, const std::string& what) {
  c.problem.w.paired = c.problem.epilogue.finish == Finish::kSwigluQuant;
  const Answer expected = ByReference(c);
  PackedWeight packed;
  const std::vector<uint8_t> bytes = Packed(c.problem, &packed);
  for (const bool plain : {true, false}) {
    if (!plain) c.problem.w.packed = packed;
    for (const Isa isa : TestedIsas()) {
      for (const int workers : {1, 2}) {
        for (const Runs runs : {Runs::kOwn, Runs::kNone, Runs::kAllFirst, Runs::kHalfLast, Runs::kOneLast}) {
          ExpectOnce(c, expected, isa, workers, runs, what + (plain ? ", plain" : ", packed"));
          if (testing::Test::HasFailure()) return;
        }
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
      Case c = MakeCase(Finish::kAffine, {{50}, k, 32 * 9 + 5}, 8, DType::kInt8, DType::kBFloat16);
      std::vector<float> x = Uniform(c.m * k, 2, 9);
      for (size_t i = 0; i < x.size(); ++i) x[i] *= i % 101 == 5 ? 3000.0f : 1.0f;
      c.x_bytes.resize(x.size() * 2);
      for (size_t i = 0; i < x.size(); ++i) Store(c.x_bytes.data(), DType::kBFloat16, static_cast<int64_t>(i), x[i]);
      Problem& p = c.problem;
      p.product = product;
      if (product == Product::kFixed16) p.slice = kFixedSlice;
      p.x = {c.x_bytes.data(), DType::kBFloat16, c.m, k, k, 1};
      p.x_scale = {};
      p.y_scale = {};
      AddColumns(&c.offset, &p.epilogue.offset, c, c.sizes.n, 10);
      AddColumns(&c.bias, &p.epilogue.bias, c, c.sizes.n, 11);
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

/// Of two pairs of 64 rows, 16 calls (2 tiles, 2 pairs, 4 stretches of k) get 8 rows each.
TEST(Meanwhile, TilesShareTheRowsEvenly) {
  if (!IsTested(Isa::kAmx)) GTEST_SKIP() << "not run: this machine has no amx";
  Case c = MakeCase(Finish::kSwigluQuant, {{64}, 2048, 32 * 6}, 1);
  PackedWeight packed;
  c.problem.w.paired = true;
  const std::vector<uint8_t> bytes = Packed(c.problem, &packed);
  c.problem.w.packed = packed;
  Wrapped wrapped(c.problem, Isa::kAmx, 1, Runs::kOwn, Overlap::kByKernel);
  RunPlan(c, wrapped.plan);
  std::vector<int> expected(48, 8);
  std::fill_n(expected.begin(), 16, 0);
  EXPECT_EQ(spy.offered, expected);
  EXPECT_EQ(spy.rows_inside, 4 * 64);
}

/// Part j of n runs after step ceil(j * steps / n): from then on x is zero, and the sums tell.
TEST(Meanwhile, PartsFollowTheStepsTheyAreSpreadOver) {
  constexpr int kSteps = 5, kK = 64 * kSteps + 8;
  struct State {
    Tile* tile;
    int at, seen = 0;
  };
  int kernels = 0;
  for (const Kernel* kernel : KernelTable()) {
    if (!kernel->meanwhile || !IsTested(kernel->isa)) continue;
    ++kernels;
    for (const int rows : {kernel->tile_m, 3}) {
      for (int parts = 1; parts <= 12; ++parts) {
        for (int at = 1; at <= parts; ++at) {
          Tile tile(*kernel, rows, kK, kK, 0);
          tile.Fill(static_cast<uint32_t>(at));
          State state = {&tile, at};
          const Meanwhile work = {[](void* to, int count) {
                                    State& s = *static_cast<State*>(to);
                                    s.seen += count;
                                    if (s.seen >= s.at) std::memset(s.tile->packed_x.data(), 0, s.tile->packed_x.size());
                                  },
                                  &state, parts};
          tile.meanwhile = &work;
          Accumulators acc(tile, 0);
          tile.Multiply(0, kK, false, acc.data());
          const int step = (at * kSteps + parts - 1) / parts;
          acc.Expect([&](int i, int column) { return tile.Expected(i, column, 0, 64 * step, 0); },
                     std::string(kernel->name) + ", part " + std::to_string(at) + " of " + std::to_string(parts));
          if (HasFailure()) return;
          EXPECT_EQ(state.seen, parts);
        }
      }
    }
  }
  if (kernels == 0) GTEST_SKIP() << "not run: this machine has no kernel that runs parts";
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

TEST(Meanwhile, SettingSwitchesItOff) {
  Case c = MakeCase(Finish::kSwigluQuant, {{64}, 640, 32 * 40}, 1);
  c.problem.w.paired = true;
  Context context;
  context.parallel_for = Backwards;
  context.max_workers = 1;
  for (const Isa isa : TestedIsas()) {
    context.max_isa = static_cast<int>(isa);
    for (const char* value : {static_cast<const char*>(nullptr), "", "1", "0"}) {
      const Setting setting(value);
      const RowBlock b = MakePlan(c.problem, context).blocks[0];
      const bool off = value != nullptr && std::string(value) == "0";
      EXPECT_EQ(b.meanwhile, !off && isa == Isa::kAmx) << Name(isa) << ", " << (value ? value : "unset");
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
