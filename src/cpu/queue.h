// SPDX-License-Identifier: Apache-2.0
// Tasks for workers: everyone owns a contiguous slice, takes from its front, and when empty steals from the back of the
// richest, of its own NUMA node first. Sequential streams for decode, balance under skewed groups, and no structure that
// all workers touch per task.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

#include "cpu/numa.h"

namespace qgmm::cpu {

class Queue {
 public:
  /// Worker w owns tasks [bounds[w], bounds[w + 1]); bounds has workers + 1 entries. nodes <= workers.
  explicit Queue(std::span<const int32_t> bounds, int nodes = 1)
      : workers_(static_cast<int>(bounds.size()) - 1), nodes_(nodes), slices_(new Slice[bounds.size() - 1]) {
    for (int w = 0; w < workers_; ++w)
      slices_[w].range.store(Pack(bounds[w], bounds[w + 1]), std::memory_order_relaxed);
  }

  /// The next task of `worker`, or -1 when nothing is left anywhere. Every task is given out exactly once, whatever the
  /// order and number of callers.
  int Take(int worker) {
    if (const int task = TakeFront(slices_[worker]); task >= 0) return task;
    for (;;) {
      int richest = -1;
      if (nodes_ > 1) {
        const int node = NodeOfWorker(worker, workers_, nodes_);
        richest = Richest(FirstWorker(node, workers_, nodes_), FirstWorker(node + 1, workers_, nodes_));
      }
      if (richest < 0) richest = Richest(0, workers_);
      if (richest < 0) return -1;
      if (const int task = TakeBack(slices_[richest]); task >= 0) return task;
    }
  }

 private:
  struct alignas(64) Slice {
    std::atomic<uint64_t> range;  // front in the low half, back (exclusive) in the high half
  };

  static uint64_t Pack(int32_t front, int32_t back) {
    return static_cast<uint32_t>(front) | static_cast<uint64_t>(static_cast<uint32_t>(back)) << 32;
  }
  static uint32_t Front(uint64_t range) { return static_cast<uint32_t>(range); }
  static uint32_t Back(uint64_t range) { return static_cast<uint32_t>(range >> 32); }
  static uint32_t Left(uint64_t range) { return Back(range) - Front(range); }

  /// Who of workers [first, end) has most left; -1 if none has any.
  int Richest(int first, int end) const {
    int richest = -1;
    uint32_t most = 0;
    for (int w = first; w < end; ++w) {
      const uint32_t left = Left(slices_[w].range.load(std::memory_order_relaxed));
      if (left > most) most = left, richest = w;
    }
    return richest;
  }

  static int TakeFront(Slice& slice) {
    uint64_t range = slice.range.load(std::memory_order_relaxed);
    while (Left(range) != 0) {
      if (slice.range.compare_exchange_weak(range, range + 1, std::memory_order_relaxed))
        return static_cast<int>(Front(range));
    }
    return -1;
  }
  static int TakeBack(Slice& slice) {
    uint64_t range = slice.range.load(std::memory_order_relaxed);
    while (Left(range) != 0) {
      if (slice.range.compare_exchange_weak(range, range - (uint64_t{1} << 32), std::memory_order_relaxed)) {
        return static_cast<int>(Back(range)) - 1;
      }
    }
    return -1;
  }

  int workers_, nodes_;
  std::unique_ptr<Slice[]> slices_;
};

}  // namespace qgmm::cpu
