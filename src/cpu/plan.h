// SPDX-License-Identifier: Apache-2.0
// Problem -> Plan: row blocks, tasks, kernels, scratch memory. A plan is data; making one computes nothing of the result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cpu/caches.h"
#include "cpu/kernel.h"
#include "cpu/numa.h"
#include "problem.h"
#include "qgmm/context.h"

namespace qgmm::cpu {

/// Consecutive rows of one group; packed once, multiplied by one kernel.
struct RowBlock {
  int64_t expert, first_row;
  int rows;                 // of x, at most 256
  int packed_rows;          // rows, plus the row of eights in front when there is an assist matrix
  int padded_rows;          // packed_rows, up to a multiple of the kernel's row_step
  const Kernel* kernel;                           // of panels without a certificate
  const Kernel* by_certificate[kCertificates];    // what panels with one get; `kernel` where it is no use
  bool pairs_together;      // a kernel takes both panels of a pair: the lesser certificate counts
  int strip_rows;           // whole tiles of all its kernels, at most 64 rows, whose accumulators fit L1
  int64_t k_block;          // k elements per turn over the block's strips: whole slices, or a part of one
  int64_t k_pass;           // k elements, in whole k_blocks, per turn over `waiting_pairs`: so much of x stays in L2
  int scale_pairs;          // pairs of a task whose scales are gathered together
  int64_t waiting_pairs;    // pairs of a task whose sums wait for the next pass, whole scale_pairs: a pass starts with the
                            // first of those whose scales are gathered together; one pass: all
  bool meanwhile;           // rows of a span of pairs are finished in the kernel calls of the next span, or between
  int tasks;                // 1: whole, results stay in the worker's scratch; more: split over pairs
  int64_t results = -1;     // split operator A: offset of [pair][rows][16] fp32 in the shared workspace
  int64_t row_max = -1;     // split operator A: offset of [task][rows] uint32 there

  /// What multiplies the two panels of a pair that have these certificates.
  std::pair<const Kernel*, const Kernel*> KernelsOf(Certificate first, Certificate second) const;
};

/// Pairs [first_pair, first_pair + pairs) of a block; block -1: rows [first_pair, first_pair + pairs) of y become zeros.
struct Task {
  int32_t block, index;     // index: which of the block's tasks
  int64_t first_pair, pairs;
};

/// Byte offsets into one worker's scratch; 64-byte aligned. 0 bytes where a part is not needed.
struct ScratchLayout {
  size_t packed_x = 0, certified_x = 0, transposed_x = 0, residual_sums = 0, row_sums = 0, x_sums = 0, acc = 0,
         folded = 0, lines = 0, widened = 0, scales = 0, columns = 0, results = 0, row_max = 0;
  size_t fixed_scales = 0, outliers = 0, outlier_counts = 0, outlier_lines = 0;  // kFixed16; one row of outliers more:
                                                                                 // those of any row of the block
  size_t bytes = 0;
};

struct Plan {
  Isa isa = Isa::kScalar;
  const Stages* stages = nullptr;
  int workers = 1;
  std::string workers_why;
  int nodes = 1;             // that the pairs of packed experts are divided among (numa.h); <= workers
  int64_t pairs = 0;
  int span = 1;              // pairs that take turns in every stretch of k: 4 where plain weights are packed on the way, 2
                             // where tiles multiply several stretches, else 1
  bool assist_row = false;
  Ahead ahead = Ahead::kByKernel;
  Promises promises;         // of packed weights
  std::vector<RowBlock> blocks;
  std::vector<Task> tasks;      // by node, then in the order of groups and panels
  std::vector<int32_t> bounds;  // tasks of worker w: [bounds[w], bounds[w + 1]), all of one node
  ScratchLayout scratch;
  size_t shared_bytes = 0;

  /// How far ahead in its own stream a call of that kernel's only row tile fetches.
  int AheadBytes(const Kernel& kernel, int rows) const;
  size_t workspace_bytes() const { return shared_bytes + static_cast<size_t>(workers) * scratch.bytes; }
};

/// Whether the stages of a span of pairs wait for the kernel calls of the next: where a kernel asks for it, never
/// (QGMM_OVERLAP=0), or whatever the kernel (tests: one that runs no parts leaves them to the worker).
enum class Overlap { kByKernel, kNever, kAlways };

/// A pure function of its arguments.
Plan MakePlan(const Problem& problem, Isa isa, int workers, const Caches& caches, int nodes = 1,
              Overlap overlap = Overlap::kByKernel);
Plan MakePlan(const Problem& problem, const Context& context, const Topology& topology = MachineTopology());

/// run.cc: carries a plan out.
void Execute(const Problem& problem, const Plan& plan, Context& context, const Topology& topology);

/// Workers that a call is worth: waking another one costs about as much as this many nanoseconds of work.
inline constexpr double kWorkerNs = 20000;
int WorthWorkers(const Problem& problem);

/// Packed elements from row to row of packed x, on average where it is tiles.
int64_t PackedStride(int64_t k, const Kernel& kernel);
/// Elements from the start of packed x to (row, k).
int64_t PackedAt(const Kernel& kernel, int64_t stride, int64_t row, int64_t k);

/// Most pairs of a span: plain weights of 64 columns of each half are packed together, whole cache lines of [k, n].
inline constexpr int kSpanPairs = 4;

/// Rows of kPairColumns values that a pair's stages may need: int bias, assist, d, smooth, offset, bias.
inline constexpr int kColumnRows = 6;

/// Some kernel of the block that wants a certificate, or null. All of them read x in one form.
const Kernel* CertifiedKernel(const RowBlock& block);

/// Width of transposed x (kernel.h) and its strips.
inline int TransposedWidth(const RowBlock& block) {
  return block.packed_rows == 1 ? 1 : block.packed_rows <= kFewRows ? kFewRows : kManyRows;
}

}  // namespace qgmm::cpu
