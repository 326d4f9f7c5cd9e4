// SPDX-License-Identifier: Apache-2.0
// The work queue: every task exactly once, whoever is slow, absent or greedy; and the order in which tasks are taken.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cpu/queue.h"
#include "kernel_case.h"

namespace qgmm::cpu {
namespace {

/// How often each task was taken.
class Counts {
 public:
  explicit Counts(int tasks) : tasks_(tasks), counts_(new std::atomic<int>[static_cast<size_t>(tasks)]) {
    for (int t = 0; t < tasks; ++t) counts_[static_cast<size_t>(t)].store(0);
  }
  int Add(int task) {
    EXPECT_TRUE(task >= 0 && task < tasks_) << task;
    if (task >= 0 && task < tasks_) counts_[static_cast<size_t>(task)].fetch_add(1);
    return done_.fetch_add(1) + 1;
  }
  int done() const { return done_.load(); }
  void ExpectEachOnce() const {
    for (int t = 0; t < tasks_; ++t) ASSERT_EQ(counts_[static_cast<size_t>(t)].load(), 1) << "task " << t;
  }

 private:
  int tasks_;
  std::unique_ptr<std::atomic<int>[]> counts_;
  std::atomic<int> done_{0};
};

std::vector<int32_t> EvenBounds(int workers, int tasks) {
  std::vector<int32_t> bounds;
  for (int w = 0; w <= workers; ++w) bounds.push_back(static_cast<int32_t>(int64_t{tasks} * w / workers));
  return bounds;
}

/// Body of worker `index` on real threads.
template <class Body>
void OnEightThreads(Body body) {
  OnThreads(8, [](int index, void* state) { (*static_cast<Body*>(state))(index); }, &body, nullptr);
}

void DrainByEight(const std::vector<int32_t>& bounds, int nodes = 1) {
  Queue queue(bounds, nodes);
  Counts counts(bounds.back());
  OnEightThreads([&](int worker) {
    for (int t = queue.Take(worker); t >= 0; t = queue.Take(worker)) counts.Add(t);
  });
  counts.ExpectEachOnce();
}

TEST(Queue, EightWorkersTakeEveryTaskOnce) {
  for (int repeat = 0; repeat < 20; ++repeat) {
    DrainByEight(EvenBounds(8, 5000));
    if (HasFatalFailure()) return;
  }
}

TEST(Queue, UnevenSlices) {
  for (uint32_t seed = 1; seed <= 50; ++seed) {
    std::mt19937 random(seed);
    std::vector<int32_t> bounds = {0};
    for (int w = 0; w < 8; ++w)
      bounds.push_back(bounds.back() + (random() % 2 ? 0 : static_cast<int32_t>(random() % 400)));
    DrainByEight(bounds);
    if (HasFatalFailure()) FAIL() << "seed " << seed;
  }
}

TEST(Queue, AllTasksInOneSlice) {
  for (int owner = 0; owner < 8; ++owner) {
    std::vector<int32_t> bounds(9, 0);
    for (int w = owner + 1; w <= 8; ++w) bounds[static_cast<size_t>(w)] = 3000;
    DrainByEight(bounds);
    if (HasFatalFailure()) return;
  }
}

TEST(Queue, MoreWorkersThanTasks) {
  for (int tasks = 0; tasks < 8; ++tasks) {
    DrainByEight(EvenBounds(8, tasks));
    if (HasFatalFailure()) return;
  }
}

/// One worker takes a single task and finishes it last of all: the others must have taken the rest of its slice.
TEST(Queue, OthersTakeTheSliceOfASlowWorker) {
  constexpr int kTasks = 800;
  for (int slow = 0; slow < 8; ++slow) {
    Queue queue(EvenBounds(8, kTasks));
    Counts counts(kTasks);
    std::atomic<bool> started{false};
    std::atomic<int> taken_by_slow{0};
    OnEightThreads([&](int worker) {
      if (worker != slow) {
        while (!started.load()) std::this_thread::yield();
      }
      for (int t = queue.Take(worker); t >= 0; t = queue.Take(worker)) {
        if (worker == slow) {
          taken_by_slow.fetch_add(1);
          started.store(true);
          while (counts.done() < kTasks - 1) std::this_thread::yield();
        }
        counts.Add(t);
      }
    });
    counts.ExpectEachOnce();
    EXPECT_EQ(taken_by_slow.load(), 1);
  }
}

/// All workers in one thread, one after the other, the last one first: it does everything, every task once.
TEST(Queue, SerialExecutor) {
  struct State {
    Queue queue{EvenBounds(5, 37)};
    Counts counts{37};
    std::vector<int> taken = std::vector<int>(5, 0);
  } state;
  const auto body = [](int index, void* p) {
    State& s = *static_cast<State*>(p);
    for (int t = s.queue.Take(index); t >= 0; t = s.queue.Take(index)) {
      s.counts.Add(t);
      ++s.taken[static_cast<size_t>(index)];
    }
  };
  Backwards(5, body, &state, nullptr);
  state.counts.ExpectEachOnce();
  EXPECT_EQ(state.taken, (std::vector<int>{0, 0, 0, 0, 37}));
}

TEST(Queue, OwnSliceFromTheFront) {
  Queue queue(std::vector<int32_t>{0, 4, 10});
  for (int t = 4; t < 10; ++t) EXPECT_EQ(queue.Take(1), t);
  for (int t = 3; t >= 0; --t) EXPECT_EQ(queue.Take(1), t) << "the other's slice from the back";
  EXPECT_EQ(queue.Take(1), -1);
  EXPECT_EQ(queue.Take(0), -1);
}

TEST(Queue, StealsFromTheBackOfTheRichest) {
  Queue queue(std::vector<int32_t>{0, 0, 3, 10, 12});
  EXPECT_EQ(queue.Take(0), 9);   // slices hold 0, 3, 7, 2
  EXPECT_EQ(queue.Take(2), 3);   // its owner goes on at the front
  EXPECT_EQ(queue.Take(0), 8);
  EXPECT_EQ(queue.Take(0), 7);
  EXPECT_EQ(queue.Take(0), 2);   // 3, 3, 2: the first of the richest
  EXPECT_EQ(queue.Take(0), 6);   // 2, 3, 2
  EXPECT_EQ(queue.Take(1), 0);
  EXPECT_EQ(queue.Take(3), 10);
}

TEST(Queue, TwoAndFourNodesGiveEveryTaskOnce) {
  for (const int nodes : {2, 4}) {
    for (int repeat = 0; repeat < 20; ++repeat) DrainByEight(EvenBounds(8, 1000), nodes);
    DrainByEight({0, 0, 0, 0, 0, 0, 0, 500, 500}, nodes);
  }
}

TEST(Queue, StealsFromItsOwnNodeFirst) {
  Queue queue(std::vector<int32_t>{0, 0, 2, 10, 12}, 2);  // workers 0 and 1 of node 0
  EXPECT_EQ(queue.Take(0), 1);
  EXPECT_EQ(queue.Take(0), 0);
  EXPECT_EQ(queue.Take(0), 9) << "nothing left there: from the richest of all";
  EXPECT_EQ(queue.Take(3), 10);
}

TEST(Queue, NothingToDo) {
  Queue queue(std::vector<int32_t>{0, 0, 0, 0});
  for (int repeat = 0; repeat < 3; ++repeat) {
    for (int w = 0; w < 3; ++w) EXPECT_EQ(queue.Take(w), -1);
  }
}

TEST(Queue, OneWorker) {
  Queue queue(std::vector<int32_t>{0, 3});
  EXPECT_EQ(queue.Take(0), 0);
  EXPECT_EQ(queue.Take(0), 1);
  EXPECT_EQ(queue.Take(0), 2);
  EXPECT_EQ(queue.Take(0), -1);
}

/// The protocol of a call: whoever finishes a block's last task sees what all other workers wrote for it, without
/// locks. The plain integers make the thread sanitizer judge the ordering.
TEST(Queue, LastFinisherSeesEveryWorkersResults) {
  constexpr int kBlocks = 40, kTasksPerBlock = 25, kTasks = kBlocks * kTasksPerBlock;
  for (int repeat = 0; repeat < 20; ++repeat) {
    Queue queue(EvenBounds(8, kTasks));
    std::vector<int> results(kTasks, 0);
    std::vector<int> totals(kBlocks, 0);
    std::vector<std::atomic<int>> left(kBlocks);
    for (std::atomic<int>& count : left) count.store(kTasksPerBlock);
    OnEightThreads([&](int worker) {
      for (int t = queue.Take(worker); t >= 0; t = queue.Take(worker)) {
        const size_t block = static_cast<size_t>(t / kTasksPerBlock);
        results[static_cast<size_t>(t)] = t + 1;
        if (left[block].fetch_sub(1, std::memory_order_acq_rel) != 1) continue;
        for (int i = 0; i < kTasksPerBlock; ++i)
          totals[block] += results[block * kTasksPerBlock + static_cast<size_t>(i)];
      }
    });
    for (int b = 0; b < kBlocks; ++b) {
      const int first = b * kTasksPerBlock + 1, last = (b + 1) * kTasksPerBlock;
      ASSERT_EQ(totals[static_cast<size_t>(b)], (first + last) * kTasksPerBlock / 2) << "block " << b;
    }
  }
}

}  // namespace
}  // namespace qgmm::cpu
