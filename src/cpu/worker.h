// SPDX-License-Identifier: Apache-2.0
// One worker of a call: its scratch memory and what it does with a task.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/plan.h"
#include "problem.h"

namespace qgmm::cpu {

class Worker {
 public:
  /// `scratch`: plan.scratch.bytes, 64-byte aligned; `shared`: plan.shared_bytes that all workers see.
  Worker(const Problem& problem, const Plan& plan, std::byte* scratch, std::byte* shared)
      : p_(problem), plan_(plan), slices_(problem.slices()), only_scales_(problem.epilogue.only_scales()),
        panels_(problem.w.packed.given() ? PackedPanels(problem.w.packed) : PackedPanels()), scratch_(scratch), shared_(shared) {}

  /// Everything of the task but the requantisation of its rows; blocks that are finished `meanwhile`: and but the stages of
  /// its last span, which the next task of the same block or FinishRest brings.
  void Multiply(const Task& task);
  void FinishRest();
  /// Operator A: scales and codes of a block whose tasks are all done, by whoever finished the last one.
  void Requantize(const RowBlock& block);
  /// Rows in no group.
  void WriteZeros(const Task& task);

  uint64_t kernels_ran() const { return kernels_ran_; }  // bit i: row i of the kernel table

 private:
  /// A pair's values per column, gathered into scratch.
  struct PairColumns {
    const float* scale = nullptr;       // [slices][kPairColumns]
    const int32_t* int_bias = nullptr;  // [kPairColumns], like the rest
    const float *assist = nullptr, *smooth = nullptr, *offset = nullptr, *bias = nullptr;
    float* d = nullptr;
  };
  /// A stretch of k of the pair being multiplied.
  struct PairLines {
    const uint8_t* panel[2];   // as the kernel reads them, at the first line of the stretch
    const uint8_t* bytes[2];   // lines of true weights, as packed, if a kernel without certificate reads the panel
    bool copied[2];            // panel is scratch: widened, or whole bytes of a certified panel
    const Kernel* kernel[2];
    PanelPromise promise[2];   // kernels that need a certificate: with a residual list
    alignas(64) int32_t column_sums[2][kPanelColumns];  // the same
    const uint8_t* next[2] = {};  // the panels of the stretch that follows; null if none does
    int64_t first_k, k;
    int slot, sums;            // of its columns, and of its sums
  };
  /// Pairs whose sums are complete, and of whose packed rows some are not finished.
  struct Unfinished {
    const RowBlock* block = nullptr;
    const Task* task = nullptr;
    int64_t pair = 0;           // the next row's
    int slot = 0, sums = 0, row = 0;
    int rows = 0, rows_left = 0;  // of all pairs
    int64_t products = 0, products_left = 0;  // row, panel and k: of the span being multiplied
    int due = 0;                // rows that the kernel call should see finished
    WaitingRows waiting = {};   // those of them that it may finish itself
    StripArgs strip = {};       // the pair's rows
  };
  template <class T>
  T* At(size_t offset) const { return reinterpret_cast<T*>(scratch_ + offset); }
  float* Results(const RowBlock& b) const;
  uint32_t* RowMax(const RowBlock& b, int index) const;
  int64_t AccRow(const RowBlock& b, int sums, int row, int strip_row) const;

  void PackX(const RowBlock& b, const Kernel& kernel, std::byte* packed);
  const std::byte* PackedX(const RowBlock& b, const Kernel& kernel);
  int GatherSpan(const RowBlock& b, const Task& task, int64_t first, int pairs);
  void GatherScales(const RowBlock& b, int64_t first_pair, int64_t pairs, float* to);
  void GatherColumns(const RowBlock& b, int64_t pair, int slot);
  void MultiplySpan(const RowBlock& b, const Task& task, int64_t first, int pairs, int64_t waiting, int64_t pass);
  PairLines Lines(const RowBlock& b, int64_t pair, int index, int slot, int64_t first_k, int64_t k);
  void ChooseKernels(const RowBlock& b, int64_t pair, PairLines* lines) const;
  void FindNext(const RowBlock& b, const Task& task, int64_t pair, PairLines* lines) const;
  void FetchNext(const RowBlock& b, const PairLines& lines, int part) const;
  void SetPrefetch(const RowBlock& b, const Kernel& kernel, const PairLines& lines, int half, int row,
                   int64_t line, GemmArgs* args) const;
  void MultiplyStrip(const RowBlock& b, const PairLines& lines, int row, int rows);
  void MultiplySlice(const RowBlock& b, const PairLines& lines, int row, int rows, int64_t slice, int64_t first_k,
                     int64_t k);
  void MultiplySlices(const RowBlock& b, const PairLines& lines, int row, int rows);
  void MultiplyTiles(const RowBlock& b, const PairLines& lines, int row, int rows, int64_t slice, int64_t first_k,
                     GemmArgs& args, int32_t* acc);
  void AddResiduals(const RowBlock& b, const PairLines& lines, int row, int rows);
  FixedRows Fixed(int row) const;
  void AddOutliers(const RowBlock& b, const PairLines& lines, int64_t pair, int row, int rows);
  void UniteOutliers(const RowBlock& b);
  const uint8_t* OutlierLines(const RowBlock& b, const PairLines& lines, int64_t pair, int h);
  StripArgs Strip(const RowBlock& b, const Task& task, int64_t pair, int slot, int sums, int row, int rows) const;
  void FinishStrip(const StripArgs& strip, int begin, int end) const;
  void FinishLater(const RowBlock& b, const Task& task, int64_t first_pair, int pairs, int slot, int sums);
  void FinishRows(int count);
  WaitingRows* Share(int64_t products);
  void FinishShare();
  void NextStrip();
  void FetchResults(const StripArgs& strip, int begin, int end) const;

  const Problem& p_;
  const Plan& plan_;
  const int64_t slices_;
  const bool only_scales_;
  const PackedPanels panels_;
  std::byte* scratch_;
  std::byte* shared_;
  int block_ = -1;  // of x in scratch, in the forms that are true here:
  bool packed_ = false, certified_packed_ = false, transposed_ = false;
  bool outliers_ = false;     // kFixed16: some row of the block has one
  int64_t outlier_pair_ = -1; // whose lines lie in scratch
  PairColumns columns_[2 * kSpanPairs];  // of the span being multiplied and of the one being finished, by slot
  int turn_ = 0, scales_turn_ = 0;        // which half of the slots, and of the scratch for scales
  Unfinished unfinished_;
  uint64_t kernels_ran_ = 0;
  const Kernel* noted_[2] = {};  // in kernels_ran_
};

}  // namespace qgmm::cpu
