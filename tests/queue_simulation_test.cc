// SPDX-License-Identifier: Apache-2.0
// The queue and real plans on up to 128 workers in virtual time: balance under skewed groups and beside a slow worker, and
// how seldom workers touch each other's slices. Nothing here is timed: costs come from a table.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "cpu/plan.h"
#include "cpu/queue.h"
#include "plan_draft.h"

namespace qgmm::cpu {
namespace {

constexpr Caches kCaches = {1 << 20, 32 << 20};
constexpr int64_t kK = 7168, kN = 4096, kExperts = 256;
constexpr int kPairs = kN / kPairColumns;

/// Microseconds of one pair of panels of operator A, int8, k 7168: measured on one core of a Zen 4 (AVX-512 VNNI), weights
/// of 117 MB, by thread CPU time.
struct Measured {
  double rows, us;
};
constexpr Measured kPairUs[] = {{1, 11.0}, {2, 12.0}, {4, 12.7}, {8, 13.8}, {16, 18.0}, {32, 36.0}, {64, 71.3},
                                {128, 144.0}, {256, 287.4}};
constexpr double kRowUs = 0.9;  // packing and requantising a row, once per block and worker

double PairUs(double rows) {
  const Measured* upper = std::begin(kPairUs) + 1;
  while (upper + 1 != std::end(kPairUs) && upper->rows < rows) ++upper;
  const Measured lower = upper[-1];
  return lower.us + (upper->us - lower.us) * (rows - lower.rows) / (upper->rows - lower.rows);
}

Problem ProblemOf(const std::vector<int64_t>& counts) {
  Draft draft;
  draft.counts = counts, draft.k = kK, draft.n = kN;
  return draft.Make();
}

struct Outcome {
  double balance = 0;   // work done / (capacity x time), where no task alone takes that long
  double repeated = 0;  // share of the work that is packing x once more
  int64_t tasks = 0, steals = 0, most_thieves = 0;  // most_thieves: others that ever took from one slice
};

double TaskUs(const Plan& plan, const Task& t) {
  return static_cast<double>(t.pairs) * PairUs(plan.blocks[static_cast<size_t>(t.block)].rows);
}

/// Whoever has the least virtual time takes next, as in a run.
Outcome Simulate(const Plan& plan, const std::vector<double>& speed) {
  Queue queue(plan.bounds);
  const size_t workers = static_cast<size_t>(plan.workers);
  std::vector<double> now(workers, 0);
  std::vector<int> block(workers, -1);
  std::vector<bool> done(workers, false);
  std::vector<std::vector<bool>> stole(workers, std::vector<bool>(workers, false));  // [owner][thief]
  Outcome out;
  double work = 0, largest = 0, needed = 0;
  for (size_t left = workers; left > 0;) {
    size_t w = workers;
    for (size_t i = 0; i < workers; ++i) {
      if (!done[i] && (w == workers || now[i] < now[w])) w = i;
    }
    const int t = queue.Take(static_cast<int>(w));
    if (t < 0) {
      done[w] = true, --left;
      continue;
    }
    const Task& task = plan.tasks[static_cast<size_t>(t)];
    const bool packs = block[w] != task.block;
    block[w] = task.block;
    const double us = TaskUs(plan, task) + (packs ? plan.blocks[static_cast<size_t>(task.block)].rows * kRowUs : 0);
    now[w] += us / speed[w];
    work += us;
    largest = std::max(largest, us);
    ++out.tasks;
    const size_t owner = static_cast<size_t>(std::upper_bound(plan.bounds.begin(), plan.bounds.end(), t) -
                                             plan.bounds.begin() - 1);
    if (owner != w) ++out.steals, stole[owner][w] = true;
  }
  for (const auto& thieves : stole) {
    out.most_thieves = std::max<int64_t>(out.most_thieves, std::count(thieves.begin(), thieves.end(), true));
  }
  for (const RowBlock& b : plan.blocks) needed += b.rows * kRowUs + kPairs * PairUs(b.rows);
  const double best = std::max(work / std::accumulate(speed.begin(), speed.end(), 0.0), largest);
  out.balance = best / *std::max_element(now.begin(), now.end());
  out.repeated = 1 - needed / work;
  return out;
}

struct Groups {
  std::string name;
  std::vector<int64_t> counts;
};

std::vector<int64_t> Zipf(double rows) {
  std::vector<int64_t> counts(kExperts);
  double sum = 0;
  for (int64_t e = 0; e < kExperts; ++e) sum += 1.0 / static_cast<double>(e + 1);
  for (int64_t e = 0; e < kExperts; ++e) {  // hot experts stand anywhere in the list
    counts[static_cast<size_t>(e * 97 % kExperts)] = std::llround(rows / sum / static_cast<double>(e + 1));
  }
  return counts;
}

std::vector<Groups> AllGroups() {
  std::vector<int64_t> giant(kExperts, 4), one(kExperts, 0);
  giant[100] = 8192;
  one[7] = 16384;  // with 4096, 128 workers have 16 tasks of one pair each, and a slow one ends 10 % late
  return {{"one row each", std::vector<int64_t>(kExperts, 1)}, {"64 rows each", std::vector<int64_t>(kExperts, 64)},
          {"zipf, 2048 rows", Zipf(2048)}, {"zipf, 32768 rows", Zipf(32768)}, {"a giant among small ones", giant},
          {"all rows in one group", one}};
}

void ForEachCase(const std::function<void(const Plan& plan, double slow, const Outcome& outcome)>& check) {
  for (const Groups& groups : AllGroups()) {
    const Problem problem = ProblemOf(groups.counts);
    for (const int workers : {2, 3, 4, 8, 16, 24, 48, 64, 96, 128}) {
      const Plan plan = MakePlan(problem, BestIsa(), workers, kCaches);
      for (const double slow : {1.0, 0.5}) {
        std::vector<double> speed(static_cast<size_t>(plan.workers), 1.0);
        speed[speed.size() / 2] = slow;
        SCOPED_TRACE(groups.name + ", workers " + std::to_string(workers) + ", slow " + std::to_string(slow));
        const Outcome outcome = Simulate(plan, speed);
        ASSERT_EQ(plan.workers, workers);
        ASSERT_EQ(outcome.tasks, static_cast<int64_t>(plan.tasks.size()));
        check(plan, slow, outcome);
      }
    }
  }
}

/// The fewer pairs a task has the better the balance, and the more often x is packed again: both are bounded.
TEST(QueueSimulation, BalanceStaysAbove95PercentBesideASlowWorkerToo) {
  ForEachCase([](const Plan&, double, const Outcome& outcome) {
    EXPECT_GE(outcome.balance, 0.95);
    EXPECT_LE(outcome.repeated, 0.08);
  });
}

/// A worker's own slice is one cache line that others look at when they have nothing left. No slice becomes everybody's:
/// a slow worker's 64 tasks go to as many others as they are halves of, and a task in ten at most changes hands among many
/// workers of equal speed.
TEST(QueueSimulation, NoStructureIsTouchedByAllWorkersPerTask) {
  ForEachCase([](const Plan& plan, double slow, const Outcome& outcome) {
    EXPECT_LE(outcome.most_thieves, 40);
    if (plan.workers < 48 || slow != 1.0) return;
    EXPECT_LE(outcome.most_thieves, plan.workers / 4);
    EXPECT_LE(outcome.steals * 10, outcome.tasks);
  });
}

}  // namespace
}  // namespace qgmm::cpu
