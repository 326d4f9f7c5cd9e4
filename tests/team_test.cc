// SPDX-License-Identifier: Apache-2.0
// How many workers a call gets and why, and the default team: every index once, exceptions carried, serial when nested.
#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cpu/team.h"
#include "kernel_case.h"
#include "qgmm/types.h"

namespace qgmm::cpu {
namespace {

/// QGMM_NUM_THREADS is absent at first and as before at the end.
class Workers : public testing::Test {
 protected:
  void SetUp() override {
    if (const char* text = std::getenv(kName)) before_ = text;
    unsetenv(kName);
  }
  void TearDown() override {
    if (before_) {
      setenv(kName, before_->c_str(), 1);
    } else {
      unsetenv(kName);
    }
  }
  static void Set(const std::string& text) { setenv(kName, text.c_str(), 1); }
  static std::string Why(const Context& context) {
    std::string why;
    WorkersFor(context, &why);
    return why;
  }

  static constexpr const char* kName = "QGMM_NUM_THREADS";
  std::optional<std::string> before_;
};

TEST_F(Workers, EnvironmentOverridesEverything) {
  Context context;
  context.max_workers = 3;
  context.pool_size = 2;
  for (const int workers : {1, 5, 1024}) {
    Set(std::to_string(workers));
    EXPECT_EQ(WorkersFor(context, nullptr), workers);
    EXPECT_EQ(Why(context), "QGMM_NUM_THREADS");
  }
}

TEST_F(Workers, EmptyEnvironmentCountsAsAbsent) {
  Context context;
  context.max_workers = 3;
  Set("");
  EXPECT_EQ(WorkersFor(context, nullptr), 3);
}

TEST_F(Workers, BadEnvironmentIsRefused) {
  for (const std::string text : {"0", "-1", "1025", "4x", "four", "1.5", "1e2", " ", "99999999999999999999", "2,4"}) {
    Set(text);
    try {
      WorkersFor(Context(), nullptr);
      ADD_FAILURE() << "accepted " << text;
    } catch (const InvalidArgument& refusal) {
      EXPECT_EQ(std::string(refusal.what()), "[qgmm] QGMM_NUM_THREADS must be 1 to 1024; got " + text);
    }
  }
}

TEST_F(Workers, MaxWorkersIsTaken) {
  Context context;
  context.max_workers = 7;
  context.pool_size = 2;
  EXPECT_EQ(WorkersFor(context, nullptr), 7);
  EXPECT_EQ(Why(context), "Context::max_workers");
  context.max_workers = 5000;
  EXPECT_EQ(WorkersFor(context, nullptr), 1024);
}

TEST_F(Workers, SmallestOfPoolAffinityAndQuota) {
  Context context;
  context.pool_size = 1;
  EXPECT_EQ(WorkersFor(context, nullptr), 1);
  EXPECT_EQ(Why(context), "the caller's pool");
  for (const int pool : {2, 3, 8, 1000}) {
    context.pool_size = pool;
    int least = pool;
    if (AffinityCpus() > 0) least = std::min(least, AffinityCpus());
    if (QuotaCpus() > 0) least = std::min(least, QuotaCpus());
    EXPECT_EQ(WorkersFor(context, nullptr), least);
  }
}

TEST_F(Workers, AffinityToOneCpu) {
  cpu_set_t before, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu) {
    if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
  }
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  Context context;
  context.pool_size = 16;
  const int cpus = AffinityCpus(), workers = WorkersFor(context, nullptr);
  ASSERT_EQ(sched_setaffinity(0, sizeof(before), &before), 0);
  EXPECT_EQ(cpus, 1);
  EXPECT_EQ(workers, 1);
  EXPECT_EQ(AffinityCpus(), CPU_COUNT(&before));
}

TEST_F(Workers, DefaultTeamIsAsked) {
  const int workers = WorkersFor(Context(), nullptr);
  EXPECT_GE(workers, 1);
  EXPECT_LE(workers, std::max(1, DefaultTeam().size));
}

/// Files of cgroups below a folder of their own.
class Quota : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(root_); }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  void V1(const std::string& quota, const std::string& period) const {
    Write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota);
    Write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", period);
  }

  const std::string root_ = testing::TempDir() + "qgmm_quota_" + std::to_string(getpid());
};

TEST_F(Quota, NoFilesAreNoLimit) { EXPECT_EQ(ReadQuotaCpus(root_), 0); }

TEST_F(Quota, Version2RoundsUp) {
  for (const auto& [text, cpus] : {std::pair{"200000 100000\n", 2}, {"200001 100000\n", 3}, {"1 100000\n", 1},
                                   {"50000 100000", 1}, {"max 100000\n", 0}, {"1000000000000000000 1\n", 1024}}) {
    Write("/sys/fs/cgroup/cpu.max", text);
    EXPECT_EQ(ReadQuotaCpus(root_), cpus) << text;
  }
}

TEST_F(Quota, Version2TakesTheLeastOfItsGroupAndTheParents) {
  Write("/proc/self/cgroup", "12:cpu,cpuacct:/elsewhere\n0::/a/b/c\n");
  Write("/sys/fs/cgroup/elsewhere/cpu.max", "100000 100000\n");
  Write("/sys/fs/cgroup/a/b/c/cpu.max", "max 100000\n");
  EXPECT_EQ(ReadQuotaCpus(root_), 0);
  Write("/sys/fs/cgroup/a/cpu.max", "700000 100000\n");
  EXPECT_EQ(ReadQuotaCpus(root_), 7);
  Write("/sys/fs/cgroup/a/b/c/cpu.max", "300000 100000\n");
  EXPECT_EQ(ReadQuotaCpus(root_), 3);
  Write("/sys/fs/cgroup/a/b/cpu.max", "200000 100000\n");
  EXPECT_EQ(ReadQuotaCpus(root_), 2);
}

TEST_F(Quota, Version1) {
  for (const auto& [quota, cpus] : {std::pair{"250000\n", 3}, {"-1\n", 0}, {"0\n", 0}, {"", 0}, {"max\n", 0}}) {
    V1(quota, "100000\n");
    EXPECT_EQ(ReadQuotaCpus(root_), cpus) << quota;
  }
  for (const std::string period : {"0\n", "-1\n", "", "none\n"}) {
    V1("250000\n", period);
    EXPECT_EQ(ReadQuotaCpus(root_), 0) << period;
  }
  std::filesystem::remove(root_ + "/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  EXPECT_EQ(ReadQuotaCpus(root_), 0);
}

TEST_F(Quota, TheLesserOfBothVersions) {
  Write("/sys/fs/cgroup/cpu.max", "400000 100000\n");
  V1("200000\n", "100000\n");
  EXPECT_EQ(ReadQuotaCpus(root_), 2);
  V1("600000\n", "100000\n");
  EXPECT_EQ(ReadQuotaCpus(root_), 4);
}

TEST_F(Quota, GarbageIsNoLimit) {
  for (const std::string text : {"", "\n", "100000", "many 100000", "100000 few", "nan 100000", "-100000 100000", "0 0",
                                 "100000 0", "100000 -1", "\xff\xfe \x01"}) {
    Write("/sys/fs/cgroup/cpu.max", text);
    EXPECT_EQ(ReadQuotaCpus(root_), 0) << text;
  }
  std::filesystem::remove(root_ + "/sys/fs/cgroup/cpu.max");
  for (const std::string text : {"", "0::", "0::nothing", "::::\n0:\n", "0::/missing/group\n"}) {
    Write("/proc/self/cgroup", text);
    EXPECT_EQ(ReadQuotaCpus(root_), 0) << text;
  }
}

/// Indices of a call, counted.
struct Indices {
  std::vector<std::atomic<int>> counts;
  explicit Indices(int count) : counts(static_cast<size_t>(count)) {}
  static void Count(int index, void* state) {
    static_cast<Indices*>(state)->counts[static_cast<size_t>(index)].fetch_add(1);
  }
  void ExpectEachOnce() const {
    for (size_t i = 0; i < counts.size(); ++i)
      EXPECT_EQ(counts[i].load(), 1) << "index " << i << " of " << counts.size();
  }
};

TEST(DefaultTeam, EveryIndexOnce) {
  const std::string name = DefaultTeam().name;
  EXPECT_TRUE(name == "openmp" || name == "serial") << name;
  for (const int count : {1, 2, 3, 8, 100}) {
    Indices indices(count);
    DefaultParallelFor(count, Indices::Count, &indices);
    indices.ExpectEachOnce();
  }
}

TEST(DefaultTeam, ExceptionsArriveInTheCaller) {
  for (const int thrower : {0, 1, 3}) {
    struct State {
      int thrower;
    } state{thrower};
    try {
      DefaultParallelFor(4, [](int index, void* p) {
        if (index == static_cast<State*>(p)->thrower) throw std::out_of_range("index " + std::to_string(index));
      }, &state);
      ADD_FAILURE() << "no exception of index " << thrower;
    } catch (const std::out_of_range& error) {
      EXPECT_EQ(std::string(error.what()), "index " + std::to_string(thrower));
    }
    Indices indices(4);  // the team is whole after it
    DefaultParallelFor(4, Indices::Count, &indices);
    indices.ExpectEachOnce();
  }
}

TEST(DefaultTeam, AllIndicesThrow) {
  EXPECT_THROW(DefaultParallelFor(4, [](int, void*) { throw std::length_error("each"); }, nullptr), std::length_error);
}

/// Called from inside its own region the team has one thread: the one that called.
TEST(DefaultTeam, NestedCallIsSerial) {
  struct State {
    std::atomic<int> runs{0}, elsewhere{0}, largest{0};
  } state;
  DefaultParallelFor(2, [](int, void* p) {
    State& outer = *static_cast<State*>(p);
    if (DefaultTeam().size > outer.largest.load()) outer.largest.store(DefaultTeam().size);
    struct Inner {
      State* outer;
      std::thread::id caller;
    } inner{&outer, std::this_thread::get_id()};
    DefaultParallelFor(6, [](int, void* q) {
      const Inner& me = *static_cast<Inner*>(q);
      me.outer->runs.fetch_add(1);
      if (std::this_thread::get_id() != me.caller) me.outer->elsewhere.fetch_add(1);
    }, &inner);
  }, &state);
  EXPECT_EQ(state.runs.load(), 12);
  EXPECT_EQ(state.elsewhere.load(), 0);
  EXPECT_EQ(state.largest.load(), 1);
}

TEST(ParallelForOnAPool, TheCallersExecutorRuns) {
  struct Pool {
    int calls = 0, count = 0;
  } pool;
  Context context;
  context.pool = &pool;
  context.parallel_for = [](int count, void (*body)(int, void*), void* state, void* p) {
    ++static_cast<Pool*>(p)->calls;
    static_cast<Pool*>(p)->count = count;
    OnThreads(count, body, state, nullptr);
  };
  Indices indices(8);
  ParallelFor(context, 8, [&](int index) { Indices::Count(index, &indices); });
  indices.ExpectEachOnce();
  EXPECT_EQ(pool.calls, 1);
  EXPECT_EQ(pool.count, 8);
}

TEST(ParallelForOnAPool, OneWorkerStaysInTheCaller) {
  Context context;
  context.parallel_for = [](int, void (*)(int, void*), void*, void*) {
    ADD_FAILURE() << "the pool was called for one worker";
  };
  std::thread::id ran;
  ParallelFor(context, 1, [&](int index) {
    EXPECT_EQ(index, 0);
    ran = std::this_thread::get_id();
  });
  EXPECT_EQ(ran, std::this_thread::get_id());
}

TEST(ParallelForOnAPool, WithoutPoolTheDefaultTeamRuns) {
  Indices indices(5);
  ParallelFor(Context(), 5, [&](int index) { Indices::Count(index, &indices); });
  indices.ExpectEachOnce();
}

}  // namespace
}  // namespace qgmm::cpu
