// SPDX-License-Identifier: Apache-2.0
// The rules by which rows become blocks, blocks become tasks, and workers get their shares.
#include "cpu/plan.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <string>

#include "check.h"
#include "cpu/team.h"

namespace qgmm::cpu {
namespace {

constexpr int64_t kMaxBlockRows = 256, kMinBlockRows = 64;
constexpr int kOverlapRows = 96;  // of a block, beyond which stages run between the calls of kernels that say `meanwhile`
constexpr int64_t kPlainKBlock = 2048;  // k of plain weights packed at once: 8 panels of 32 KiB stay in L2
constexpr int kSpanTiles = 2;           // pairs: x of a stretch of k is read for two pairs before the next stretch's
// Of 128 workers one at half speed ends within 5 % of the others with 64 tasks each, within 20 % with 8 (in simulation).
// Blocks of so small a part of a share are left whole: a split block's results pass through memory, 7 % of 256 rows at k 2048.
constexpr int kTasksPerWorker = 64, kWholePerWorker = 16, kSmallPerWorker = 40;
// Tiles want many pairs per task: x of a pass comes from L3 once for all of them. Two Granite Rapids cores, against tasks of one
// or two pairs: one expert of 256 rows, down projection of k 14336 1.6 to 1.8 x, operator B of k 7168 1.5 to 1.7 x, A of two
// experts 1.1 x; with 16 instead of 8 tasks per worker 1.5, 1.4, 1.1. From 48 workers on the balance would suffer.
constexpr int64_t kTilePairs = 16;
constexpr double kTileTasksPerWorker = 8;  // at least
constexpr int kFewWorkers = 16;
constexpr double kTaskNs = 20000;
constexpr double kBytesPerNs = 12, kMacsPerNs = 120;  // one core of the machines measured; only ratios matter

int64_t RoundUp(int64_t v, int64_t step) { return (v + step - 1) / step * step; }
int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Whole slices up to `most` k, or a part of one slice in whole lines; `most` 0: all of k.
int64_t KBlock(const Problem& p, int64_t most) {
  if (most == 0 || most >= p.k) return p.k;
  if (p.slice <= most) return most / p.slice * p.slice;
  return most;
}

int64_t KBlockOf(const Problem& p, const Kernel& kernel, int64_t packed_rows) {
  int64_t most = packed_rows > kernel.tile_m || kernel.widen ? kernel.k_block : 0;
  if (!p.w.packed.given() && (most == 0 || most > kPlainKBlock)) most = kPlainKBlock;
  if (kernel.slice_step == 1 && p.slice != p.k) return p.k;  // scalar slices may start within a line
  return KBlock(p, most);
}

int64_t BlockRows(const Problem& p, Isa isa, int64_t group_rows, const Caches& caches) {
  const Kernel& kernel = ChooseKernel(p.product, p.slice, p.k, group_rows, isa);
  // Between two pairs all of x is read once. Where a stretch takes longer than its x takes from L3, that much must stay in
  // L2; tiles are too fast for L3, and take x in passes.
  const int64_t stretch = kernel.k_block ? std::min(p.k, int64_t{kernel.k_block}) : PaddedK(p.k);
  const int64_t row_bytes = stretch * kernel.x_bytes;
  int64_t most = caches.l2 / 2 / std::max<int64_t>(row_bytes, 1);
  most = std::clamp(most, kMinBlockRows, kMaxBlockRows);
  if (p.expected_rows > 0) most = std::clamp(RoundUp(p.expected_rows, kMinBlockRows), kMinBlockRows, most);
  return most;
}

/// Nanoseconds for all pairs of so many rows of one expert, roughly.
double Cost(const Problem& p, int64_t rows) {
  const double weights = static_cast<double>(p.k) * static_cast<double>(p.n);
  const double bytes = weights / (p.w.dtype == DType::kInt4 ? 2 : 1);
  const double pack = p.w.packed.given() ? 1 : 3;  // plain weights are read, packed and read again
  return std::max(pack * bytes / kBytesPerNs, weights * static_cast<double>(rows) / kMacsPerNs);
}

/// See RowBlock::strip_rows.
int StripRows(const RowBlock& block) {
  int step = block.kernel->tile_m;
  for (const Kernel* kernel : block.by_certificate) step = std::lcm(step, kernel->tile_m);
  return kManyRows / step * step;
}

void AddBlocks(const Problem& p, const RowRange& range, const Caches& caches, Plan& plan) {
  const int64_t group_rows = range.end - range.begin;
  const int64_t most = BlockRows(p, plan.isa, group_rows, caches) - (plan.assist_row ? 1 : 0);
  const int64_t count = CeilDiv(group_rows, most);
  const int tile_m = ChooseKernel(p.product, p.slice, p.k, group_rows, plan.isa).tile_m;
  const int64_t rows = std::min(most, count > 1 ? RoundUp(CeilDiv(group_rows, count), tile_m) : group_rows);
  for (int64_t row = range.begin; row < range.end; row += rows) {
    RowBlock block = {};
    block.expert = range.expert;
    block.first_row = row;
    block.rows = static_cast<int>(std::min(rows, range.end - row));
    block.packed_rows = block.rows + (plan.assist_row ? 1 : 0);
    block.kernel = &ChooseKernel(p.product, p.slice, p.k, block.packed_rows, plan.isa);
    for (int c = 0; c < kCertificates; ++c) {
      const bool useful = plan.promises.given() && p.product == Product::kInt8;
      block.by_certificate[c] = useful ? &ChooseKernel(p.product, p.slice, p.k, block.packed_rows, plan.isa,
                                                       static_cast<Certificate>(c))
                                       : block.kernel;
      block.pairs_together = block.pairs_together || block.by_certificate[c]->panels == 2;
    }
    block.strip_rows = StripRows(block);
    block.padded_rows = static_cast<int>(RoundUp(block.packed_rows, block.kernel->row_step));
    block.k_block = KBlockOf(p, *block.kernel, block.packed_rows);
    block.tasks = 1;
    block.results = block.row_max = -1;
    plan.blocks.push_back(block);
  }
}

/// Tiles that wait for several stretches of k: L2 gives x back only while little else passes through it (a Granite Rapids'
/// 2 MiB behave like 1 MiB for cyclic reuse, which is what x of a block takes), so half as many passes over all of x.
int SpanOf(const Problem& p, const Plan& plan) {
  const auto waits = [&](const RowBlock& b) { return b.kernel->x_tile_k && b.k_block < p.k; };
  const bool tiles = std::any_of(plan.blocks.begin(), plan.blocks.end(), waits);
  const int most = !p.w.packed.given() ? kSpanPairs : tiles ? kSpanTiles : 1;
  return static_cast<int>(std::clamp<int64_t>(plan.pairs, 1, most));
}

/// Blocks that are more than a small part of a worker's share are split over pairs into tasks of about equal cost, worth
/// kTaskNs at least where everyone has eight of them. Tasks of a block lie side by side in the list, so that whoever owns
/// them packs x once. With several nodes no task leaves a node's share of pairs, and blocks of few rows, which weights
/// stream past, are always split between the nodes.
void Split(const Problem& p, Plan& plan) {
  if (plan.workers == 1) return;
  double total = 0;
  for (const RowBlock& b : plan.blocks) total += Cost(p, b.packed_rows);
  const double share = total / plan.workers, task = std::max(std::min(kTaskNs, share / 8), share / kTasksPerWorker);
  for (RowBlock& b : plan.blocks) {
    const int whole = b.rows >= kMinBlockRows ? kWholePerWorker : kSmallPerWorker;
    const int least = b.rows < kMinBlockRows ? plan.nodes : 1;
    if (Cost(p, b.packed_rows) * whole <= share && least == 1) continue;
    const int64_t unit = p.w.packed.given() ? 1 : plan.span;  // two would suit tiles, but not a hundred workers
    int64_t most = std::max<int64_t>(plan.nodes, plan.pairs / unit / plan.nodes * plan.nodes);
    if (b.kernel->x_tile_k && b.rows > kMinBlockRows && plan.workers <= kFewWorkers) {
      const int64_t few = std::llround(std::ceil(kTileTasksPerWorker * plan.workers * Cost(p, b.packed_rows) / total));
      most = std::min(most, RoundUp(std::max(CeilDiv(plan.pairs, kTilePairs), few), plan.nodes));
    }
    b.tasks = static_cast<int>(std::clamp<int64_t>(std::llround(Cost(p, b.packed_rows) / task), least, most));
    if (b.tasks > 1) b.tasks = static_cast<int>(std::min(RoundUp(b.tasks, plan.nodes), most));
    if (b.tasks == 1 || p.epilogue.finish != Finish::kSwigluQuant) continue;
    b.results = static_cast<int64_t>(plan.shared_bytes);
    plan.shared_bytes += RoundUp(plan.pairs * b.rows * kPanelColumns * sizeof(float), 64);
    b.row_max = static_cast<int64_t>(plan.shared_bytes);
    plan.shared_bytes += RoundUp(int64_t{b.tasks} * b.rows * sizeof(uint32_t), 64);
  }
}

struct NodeTasks {
  std::vector<Task> tasks;
  std::vector<double> costs;
  double total = 0;

  void Add(const Task& task, double cost) {
    tasks.push_back(task);
    costs.push_back(cost);
    total += cost;
  }
};

/// Tasks of split blocks by the node that holds their pairs; others go where a worker has least to do.
std::vector<NodeTasks> TasksOfNodes(const Problem& p, const Plan& plan) {
  std::vector<NodeTasks> nodes(static_cast<size_t>(plan.nodes));
  const auto least = [&] {
    int best = 0;
    double fewest = 0;
    for (int i = 0; i < plan.nodes && plan.nodes > 1; ++i) {
      const int workers = FirstWorker(i + 1, plan.workers, plan.nodes) - FirstWorker(i, plan.workers, plan.nodes);
      const double load = nodes[static_cast<size_t>(i)].total / workers;
      if (i == 0 || load < fewest) best = i, fewest = load;
    }
    return best;
  };
  for (size_t i = 0; i < plan.blocks.size(); ++i) {
    const RowBlock& b = plan.blocks[i];
    for (int t = 0; t < b.tasks; ++t) {
      const int64_t first = plan.pairs * t / b.tasks, last = plan.pairs * (t + 1) / b.tasks;
      const int node = b.tasks > 1 ? NodeOfWorker(t, b.tasks, plan.nodes) : least();
      nodes[static_cast<size_t>(node)].Add(
          {static_cast<int32_t>(i), t, first, last - first},
          Cost(p, b.packed_rows) * static_cast<double>(last - first) / static_cast<double>(plan.pairs));
    }
  }
  const int64_t grouped = p.rows.empty() ? 0 : p.rows.back().end;
  if (grouped < p.m) {
    nodes[static_cast<size_t>(least())].Add(
        {-1, 0, grouped, p.m - grouped},
        static_cast<double>(p.m - grouped) * static_cast<double>(p.n) / kBytesPerNs);
  }
  return nodes;
}

/// Scales of slices are rows that lie pages apart: of few rows of x, which wait for memory, they are a sixteenth (slices of 128)
/// to a quarter (32) of what is read, and are read in longer pieces. Two Zen 5 cores, 1 and 8 rows, k 2048 and 7168, 8 and 16
/// pairs instead of 4: slices of 32 1.03 to 1.07, 1.05 to 1.09 x, of 128 1.02 to 1.04, 1.03 to 1.04 x; more rows 1.00 to 1.02.
void DecideScalePairs(const Problem& p, const Caches& caches, Plan& plan) {
  constexpr int kFewRowsOfX = 8, kMost = 16, kShareOfL2 = 4;
  for (RowBlock& b : plan.blocks) {
    b.scale_pairs = kSpanPairs;
    if (p.scale_slices() == 1 || b.packed_rows > kFewRowsOfX) continue;
    const int64_t bytes = p.scale_slices() * kPairColumns * 4;
    while (b.scale_pairs < kMost && 2 * b.scale_pairs * bytes <= caches.l2 / kShareOfL2) b.scale_pairs *= 2;
  }
}

/// Passes over k for blocks of tiles whose x is more than half of L2. A core of a Granite Rapids does a step in 130 cycles
/// with x in L2, of which 1.5 of 2 MiB serve, and reads 8 bytes a cycle from L3, 4.6 from memory: 256 rows of k 7168, 1.75
/// MiB, took 200 cycles a step in one pass, 209 as two blocks, which read the weights twice, and 166 in two passes. Their
/// sums, as many as L2 has bytes, come back from L3: 4 KiB per row tile, pair and pass, which is 56 steps.
void DecidePasses(const Problem& p, const Caches& caches, Plan& plan) {
  for (RowBlock& b : plan.blocks) {
    const int64_t x_bytes = int64_t{b.padded_rows} * PaddedK(p.k) * b.kernel->x_bytes;
    const int64_t passes = CeilDiv(x_bytes, std::max<int64_t>(caches.l2 / 2, 1));
    const bool several = b.kernel->x_tile_k && b.k_block < p.k && passes > 1;
    b.k_pass = several ? RoundUp(CeilDiv(p.k, passes), b.k_block) : p.k;
    const int64_t most = caches.l2 / (int64_t{b.padded_rows} * kPairColumns * 4);
    b.waiting_pairs = b.k_pass < p.k ? std::max<int64_t>(most / b.scale_pairs, 1) * b.scale_pairs : plan.pairs;
  }
}

/// A block's last span has no other to wait for: with one span alone the sums stay in L1, strip after strip. Fewer rows wait for
/// weights, whatever their stages cost: 64 -6 to +3 %, 128 rows +5 to +13 % (Emerald Rapids). From four row tiles on, each of
/// which fetches a quarter of the weights that come, the kernel finishes rows itself.
void DecideMeanwhile(Overlap overlap, Plan& plan) {
  for (RowBlock& b : plan.blocks) {
    const bool worth = b.kernel->meanwhile && b.packed_rows > kOverlapRows;
    const bool wanted = overlap == Overlap::kAlways || (overlap == Overlap::kByKernel && worth);
    b.meanwhile = wanted && plan.pairs > plan.span;
  }
}

void AddTasks(const Problem& p, Plan& plan) {
  int64_t count = p.m > (p.rows.empty() ? 0 : p.rows.back().end) ? 1 : 0;
  for (const RowBlock& b : plan.blocks) count += b.tasks;
  plan.workers = static_cast<int>(std::clamp<int64_t>(count, 1, std::max(plan.workers, 1)));
  plan.nodes = NodesFor(plan.nodes, plan.workers, plan.pairs);
  const std::vector<NodeTasks> nodes = TasksOfNodes(p, plan);
  for (int node = 0; node < plan.nodes; ++node) {
    const NodeTasks& of = nodes[static_cast<size_t>(node)];
    const int first = FirstWorker(node, plan.workers, plan.nodes);
    const int workers = FirstWorker(node + 1, plan.workers, plan.nodes) - first;
    const size_t begin = plan.tasks.size();
    plan.tasks.insert(plan.tasks.end(), of.tasks.begin(), of.tasks.end());
    plan.bounds.resize(static_cast<size_t>(first) + 1, static_cast<int32_t>(begin));
    double sum = 0;
    for (size_t i = 0; i < of.costs.size(); ++i) {  // task i goes to the worker whose share its middle falls in
      const int owner = of.total > 0 ? static_cast<int>((sum + of.costs[i] / 2) / of.total * workers) : 0;
      while (static_cast<int>(plan.bounds.size()) <= first + std::min(owner, workers - 1))
        plan.bounds.push_back(static_cast<int32_t>(begin + i));
      sum += of.costs[i];
    }
  }
  plan.bounds.resize(static_cast<size_t>(plan.workers) + 1, static_cast<int32_t>(plan.tasks.size()));
}

Overlap ChosenOverlap() {
  const char* text = std::getenv("QGMM_OVERLAP");
  const std::string value = text == nullptr || *text == '\0' ? "1" : text;
  if (value != "0" && value != "1") RefuseSetting("QGMM_OVERLAP must be 0 or 1; got " + value);
  return value == "0" ? Overlap::kNever : Overlap::kByKernel;
}

/// The most that any block needs of every part.
void LayOutScratch(const Problem& p, Plan& plan) {
  const bool plain = !p.w.packed.given(), whole_results = p.epilogue.finish == Finish::kSwigluQuant;
  const int64_t slices = p.slices();
  const bool fixed = p.product == Product::kFixed16;
  ScratchLayout need;
  for (const RowBlock& b : plan.blocks) {
    const Kernel& kernel = *b.kernel;
    const int64_t strip = std::min<int64_t>(b.strip_rows, b.padded_rows);
    const int64_t spans = b.meanwhile ? 2 : 1;  // one being multiplied, one being finished
    const int64_t task_pairs = CeilDiv(plan.pairs, b.tasks);
    const int64_t waiting = b.k_pass < p.k ? std::min(b.waiting_pairs, task_pairs) : spans * plan.span;
    const int64_t acc_rows = b.k_block < p.k || b.meanwhile ? waiting * b.padded_rows : strip;
    const int64_t lines = CeilDiv(b.k_block, LineK(p.w.dtype)) + 1;
    const auto raise = [](size_t& part, int64_t bytes) {
      part = std::max(part, static_cast<size_t>(RoundUp(bytes, 64)));
    };
    raise(need.packed_x, b.padded_rows * PackedStride(p.k, kernel) * kernel.x_bytes);
    if (const Kernel* certified = CertifiedKernel(b)) {
      const int64_t strips = CeilDiv(b.packed_rows, b.strip_rows);
      raise(need.certified_x, b.packed_rows * PackedStride(p.k, *certified) * certified->x_bytes);
      raise(need.transposed_x, strips * p.k * TransposedWidth(b));
      raise(need.residual_sums, int64_t{kPanelColumns} * kManyRows * 4);
    }
    if (kernel.row_sums) raise(need.row_sums, b.packed_rows * slices * 4);
    raise(need.x_sums, b.packed_rows * 4);
    raise(need.acc, acc_rows * kPairColumns * 4);
    if (p.folds()) raise(need.folded, acc_rows * kPairColumns * 4);
    if (plain || plan.promises.given()) raise(need.lines, plan.span * 2 * lines * kLineBytes);
    if (kernel.widen) raise(need.widened, 2 * lines * kernel.widened_bytes);
    raise(need.scales, spans * b.scale_pairs * p.scale_slices() * kPairColumns * 4);
    if (fixed) {
      raise(need.fixed_scales, b.packed_rows * slices * 4);
      raise(need.outliers, (b.packed_rows + 1) * slices * kOutlierWords * 8);
      raise(need.outlier_counts, int64_t{b.packed_rows} * 4);
      if (b.k_block < p.k) raise(need.outlier_lines, 2 * CeilDiv(p.k, LineK(p.w.dtype)) * kLineBytes);
    }
    raise(need.columns, spans * plan.span * kColumnRows * kPairColumns * 4);
    if (whole_results && b.tasks == 1) raise(need.results, plan.pairs * b.rows * kPanelColumns * 4);
    if (whole_results) raise(need.row_max, int64_t{b.rows} * 4);
  }
  size_t at = 0;
  for (size_t ScratchLayout::*part :
       {&ScratchLayout::packed_x, &ScratchLayout::certified_x, &ScratchLayout::transposed_x,
        &ScratchLayout::residual_sums, &ScratchLayout::row_sums, &ScratchLayout::x_sums, &ScratchLayout::acc,
        &ScratchLayout::folded, &ScratchLayout::lines, &ScratchLayout::widened, &ScratchLayout::scales,
        &ScratchLayout::columns, &ScratchLayout::results, &ScratchLayout::row_max, &ScratchLayout::fixed_scales,
        &ScratchLayout::outliers, &ScratchLayout::outlier_counts, &ScratchLayout::outlier_lines}) {
    plan.scratch.*part = at;
    at += need.*part;
  }
  plan.scratch.bytes = static_cast<size_t>(RoundUp(static_cast<int64_t>(at), 4096)) + 64;
}

}  // namespace

const Kernel* CertifiedKernel(const RowBlock& block) {
  for (const Kernel* kernel : block.by_certificate) {
    if (kernel->needs != Certificate::kNone) return kernel;
  }
  return nullptr;
}

int64_t PackedStride(int64_t k, const Kernel& kernel) {
  if (kernel.x_tile_k) return PaddedK(k);
  // One cache line more than the row: rows whose distance is a multiple of 4 KiB would share their L1 sets.
  return PaddedK(k) + (kernel.x_bytes == 1 ? 64 : kernel.x_bytes == 2 ? 32 : 16);
}

int64_t PackedAt(const Kernel& kernel, int64_t stride, int64_t row, int64_t k) {
  if (!kernel.x_tile_k) return row * stride + k;
  const int64_t within = row % kernel.row_step;
  return (row - within) * stride + (k - k % kernel.x_tile_k) * kernel.row_step + within * kernel.x_tile_k + k % kernel.x_tile_k;
}

std::pair<const Kernel*, const Kernel*> RowBlock::KernelsOf(Certificate first, Certificate second) const {
  if (pairs_together) first = second = std::min(first, second);
  return {by_certificate[static_cast<int>(first)], by_certificate[static_cast<int>(second)]};
}

int Plan::AheadBytes(const Kernel& kernel, int rows) const {
  constexpr int kPageBytes = 4096, kPageRows = 4;
  if (ahead == Ahead::kPage && rows <= kPageRows) return kPageBytes;
  const bool near = rows == 1 && kernel.ahead_bytes_of_one != 0 && ahead == Ahead::kByKernel;
  return near ? kernel.ahead_bytes_of_one : kernel.ahead_bytes;
}

Plan MakePlan(const Problem& problem, Isa isa, int workers, const Caches& caches, int nodes, Overlap overlap) {
  Plan plan;
  plan.isa = isa;
  plan.stages = &StagesFor(isa);
  plan.workers = workers;
  plan.ahead = caches.ahead;
  plan.pairs = Pairs(problem.n);
  plan.nodes = problem.w.packed.given() ? NodesFor(nodes, workers, plan.pairs) : 1;
  plan.assist_row = problem.epilogue.assist.given();
  if (problem.w.packed.given()) plan.promises = Promises(problem.w.packed);
  for (const RowRange& range : problem.rows) AddBlocks(problem, range, caches, plan);
  plan.span = SpanOf(problem, plan);
  Split(problem, plan);
  AddTasks(problem, plan);
  DecideScalePairs(problem, caches, plan);
  DecidePasses(problem, caches, plan);
  DecideMeanwhile(overlap, plan);
  LayOutScratch(problem, plan);
  return plan;
}

int WorthWorkers(const Problem& problem) {
  double total = 0;
  for (const RowRange& range : problem.rows) total += Cost(problem, range.end - range.begin);
  return static_cast<int>(std::clamp(total / kWorkerNs, 1.0, 1e6));
}

Plan MakePlan(const Problem& problem, const Context& context, const Topology& topology) {
  const Overlap overlap = ChosenOverlap();
  std::string why = "a small call";
  int workers = WorthWorkers(problem);
  if (workers > 1 || WorkersForced(context)) {  // else nobody is asked: a system call is a few per cent of a small one
    const int most = WorkersFor(context, &why);
    if (workers < most && !WorkersForced(context)) why = "a small call";
    else workers = most;
  }
  Plan plan = MakePlan(problem, ChosenIsa(context.max_isa), workers, DetectCaches(), topology.nodes, overlap);
  plan.workers_why = plan.workers < workers ? "no more tasks than that" : why;
  return plan;
}

}  // namespace qgmm::cpu
