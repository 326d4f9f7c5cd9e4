// SPDX-License-Identifier: Apache-2.0
// The task loop, and what follows it for rows that are complete. This is a good place to start reading the CPU wing.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <utility>

#include "cpu/backend.h"
#include "cpu/huge_pages.h"
#include "cpu/numa.h"
#include "cpu/queue.h"
#include "cpu/row_scale.h"
#include "cpu/team.h"
#include "cpu/worker.h"
#include "float_mode.h"
#include "numeric.h"

namespace qgmm::cpu {
namespace {

void ZeroElements(std::byte* first, int64_t count, int64_t stride, int bytes) {
  if (stride == 1) {
    std::memset(first, 0, static_cast<size_t>(count * bytes));
    return;
  }
  for (int64_t j = 0; j < count; ++j) std::memset(first + j * stride * bytes, 0, static_cast<size_t>(bytes));
}

}  // namespace

/// scale = B / max;  q = clamp(rint(v / scale)). A row whose scale is 0, Inf or NaN has codes 0 everywhere. Results of a
/// panel's rows are neighbours, so several rows are quantised together.
void Worker::Requantize(const RowBlock& b) {
  const int64_t h = p_.n / 2;
  float scales[kQuantizeRows];
  QuantizeArgs args = {};
  args.dtype = DType::kFloat32;
  args.panel_stride = int64_t{b.rows} * kPanelColumns;
  args.count = h;
  args.scales = scales;
  args.code = p_.y.dtype;
  args.q_row_stride = p_.y.row_stride;
  args.q_stride = p_.y.column_stride;
  for (int i = 0; i <= b.rows; ++i) {
    RowScale row = {0, true};
    uint8_t* q = static_cast<uint8_t*>(p_.y.data) + (b.first_row + i) * p_.y.row_stride;
    if (i < b.rows) {
      uint32_t bits = 0;
      for (int t = 0; t < b.tasks; ++t) bits = std::max(bits, RowMax(b, t)[i]);
      row = ScaleOf(bits, p_.y.dtype);
      static_cast<float*>(p_.y_scale.data)[(b.first_row + i) * p_.y_scale.stride] = row.scale;
      if (row.zeros) ZeroElements(reinterpret_cast<std::byte*>(q), h, p_.y.column_stride, 1);
    }
    if (args.rows > 0 && (row.zeros || args.rows == kQuantizeRows)) {
      plan_.stages->quantize(args);
      args.rows = 0;
    }
    if (row.zeros) continue;
    if (args.rows == 0) {
      args.x = Results(b) + int64_t{i} * kPanelColumns;
      args.q = q;
    }
    scales[args.rows++] = row.scale;
  }
}

void Worker::WriteZeros(const Task& task) {
  const int bytes = Bytes(p_.y.dtype);
  for (int64_t row = task.first_pair; row < task.first_pair + task.pairs; ++row) {
    std::byte* y = static_cast<std::byte*>(p_.y.data) + row * p_.y.row_stride * bytes;
    ZeroElements(y, p_.y.columns, p_.y.column_stride, bytes);
    if (p_.y_scale.data) static_cast<float*>(p_.y_scale.data)[row * p_.y_scale.stride] = 0;
  }
}

void Run(const Problem& p, Context& context) { Run(p, context, MachineTopology()); }

void Run(const Problem& p, Context& context, const Topology& topology) {
  Execute(p, MakePlan(p, context, topology), context, topology);
}

void Execute(const Problem& p, const Plan& plan, Context& context, const Topology& topology) {
  // 64 bytes more: kernels may prefetch or load whole vectors at the end of the last part.
  std::byte* shared = static_cast<std::byte*>(context.Workspace(plan.workspace_bytes() + 64));
  std::byte* scratch = shared + plan.shared_bytes;
  const std::unique_ptr<std::atomic<int>[]> progress(new std::atomic<int>[plan.blocks.size()]);
  for (size_t i = 0; i < plan.blocks.size(); ++i) progress[i].store(plan.blocks[i].tasks, std::memory_order_relaxed);
  Queue queue(plan.bounds, plan.nodes);
  Slots slots(plan.workers, plan.nodes);
  std::atomic<uint64_t> kernels_ran{0};
  const bool requantize = p.epilogue.finish == Finish::kSwigluQuant;
  if (p.y.column_stride == 1 && p.y.row_stride == p.y.columns) {
    AskForHugeResults(p.y.data, static_cast<size_t>(p.y.rows * p.y.columns * Bytes(p.y.dtype)));
  }

  ParallelFor(context, plan.workers, [&](int index) {
    const FloatMode mode;
    const int slot = slots.Claim(index, topology);
    Worker worker(p, plan, scratch + static_cast<size_t>(slot) * plan.scratch.bytes, shared);
    const auto complete = [&](const Task& task) {
      if (progress[static_cast<size_t>(task.block)].fetch_sub(1, std::memory_order_acq_rel) == 1 && requantize) {
        worker.Requantize(plan.blocks[static_cast<size_t>(task.block)]);
      }
    };
    const Task* open = nullptr;  // its last rows are finished while the next task of its block is multiplied
    const auto close = [&] {
      worker.FinishRest();
      if (open != nullptr) complete(*std::exchange(open, nullptr));
    };
    for (int t = queue.Take(slot); t >= 0; t = queue.Take(slot)) {
      const Task& task = plan.tasks[static_cast<size_t>(t)];
      if (task.block < 0) {
        worker.WriteZeros(task);
        continue;
      }
      if (open != nullptr && open->block != task.block) close();
      worker.Multiply(task);
      if (open != nullptr) complete(*open);
      open = plan.blocks[static_cast<size_t>(task.block)].meanwhile ? &task : nullptr;
      if (open == nullptr) complete(task);
    }
    close();
    kernels_ran.fetch_or(worker.kernels_ran(), std::memory_order_relaxed);
  });

  context.last_run = {};
  context.last_run.isa = Name(plan.isa);
  context.last_run.workers = plan.workers;
  context.last_run.tasks = static_cast<int64_t>(plan.tasks.size());
  const auto table = KernelTable();
  for (size_t i = 0; i < table.size(); ++i) {
    if (kernels_ran.load() >> i & 1) context.last_run.kernels.push_back(table[i]->name);
  }
}

}  // namespace qgmm::cpu
