// SPDX-License-Identifier: Apache-2.0
// Every row of the kernel table alone, one thread: panels of 16 columns from L2, at 1 to 64 rows. A result is compared
// with plain loops before it is timed. Counters: GMAC/s, MAC per clock cycle, share of the register-only loop's rate
// measured in the same run.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include "cpu/kernel.h"
#include "numeric.h"
#include "packed_format.h"
#include "roof.h"

namespace qgmm::cpu {
namespace {

constexpr int kK = 2048;
constexpr int kPanels = 8;  // 256 KiB of int8 lines: in L2, not in L1, as in a call with many rows

/// x as packed by the kernel, panels of random bytes (any byte is a weight), and the accumulators of one panel.
struct Work {
  const Kernel& kernel;
  int rows;
  int64_t line_k;
  std::vector<float> x_floats;
  std::vector<int8_t> x_bytes;
  std::vector<uint16_t> x_halves;  // kFixed16: the same values in bfloat16; its greatest of 512 is -128 / 64, so X is 128 x
  std::vector<float> fixed_scales;
  std::vector<uint64_t> outliers;
  std::vector<int32_t> outlier_counts;
  std::vector<uint8_t> packed_x, panels, widened;
  std::vector<int32_t> row_sums, acc;

  Work(const Kernel& row, int row_count)
      : kernel(row), rows(row_count), line_k(row.product == Product::kInt4 ? 8 : 4),
        x_floats(static_cast<size_t>(rows * kK)), x_bytes(x_floats.size()),
        packed_x(x_floats.size() * static_cast<size_t>(row.x_bytes)),
        panels(static_cast<size_t>(kPanels * kK / line_k * kLineBytes)),
        widened(static_cast<size_t>(kK / line_k * row.widened_bytes)), row_sums(static_cast<size_t>(rows)),
        acc(static_cast<size_t>(rows * kPairColumns)) {
    std::mt19937 random(7);
    for (uint8_t& byte : panels) byte = static_cast<uint8_t>(random() >> 24);
    for (size_t i = 0; i < x_bytes.size(); ++i) {
      x_bytes[i] = i % kFixedSlice == 0 ? int8_t{-128} : static_cast<int8_t>(random() >> 24);
      x_floats[i] = static_cast<float>(x_bytes[i]) / 64;  // sums of products stay exact in fp32, in any order
    }
    const bool is_float = row.product == Product::kFloat;
    PackXArgs args = {};
    if (row.product == Product::kFixed16) {
      for (const float x : x_floats) x_halves.push_back(ToBFloat16(x));
      const size_t slices = static_cast<size_t>(rows * kK / kFixedSlice);
      fixed_scales.resize(slices), outliers.resize(slices * kOutlierWords), outlier_counts.resize(slices);
      args.fixed = {fixed_scales.data(), outliers.data(), outlier_counts.data()};
    }
    args.x = !x_halves.empty() ? static_cast<const void*>(x_halves.data()) : is_float ? static_cast<const void*>(x_floats.data()) : x_bytes.data();
    args.dtype = !x_halves.empty() ? DType::kBFloat16 : is_float ? DType::kFloat32 : DType::kInt8;
    args.row_stride = args.k = args.padded_k = args.packed_stride = args.slice = kK;
    args.k_stride = 1;
    args.rows = rows;
    args.packed = packed_x.data();
    args.row_sums = row.row_sums ? row_sums.data() : nullptr;
    row.pack_x(args);
  }

  const uint8_t* Panel(int panel) const { return panels.data() + panel * (kK / line_k) * kLineBytes; }

  int Weight(int panel, int k, int column) const {
    const uint8_t byte = Panel(panel)[k / line_k * kLineBytes + column * 4 + k % 4];
    if (kernel.product != Product::kInt4) return static_cast<int8_t>(byte);
    return (k % 8 < 4 ? byte & 15 : byte >> 4) - 8;
  }

  /// What run.cc does with one panel: k blocks, each widened once, then tile after tile of rows.
  void Multiply(int panel) {
    const int block = kernel.k_block && rows > kernel.tile_m ? kernel.k_block : kK;
    for (int k = 0; k < kK; k += block) {
      const uint8_t* lines = Panel(panel) + k / line_k * kLineBytes;
      if (kernel.widen) {
        kernel.widen(lines, static_cast<int>(block / line_k), widened.data());
        lines = widened.data();
      }
      for (int row = 0; row < rows; row += kernel.tile_m) {
        GemmArgs args = {};
        args.x = packed_x.data() + (static_cast<ptrdiff_t>(row) * kK + k) * kernel.x_bytes;
        args.x_stride = kK;
        args.w[0] = lines;
        args.row_sums = row_sums.data() + row;
        args.row_sums_stride = 1;
        args.rows = std::min(kernel.tile_m, rows - row);
        args.k = block;
        args.add = k > 0;
        args.acc = acc.data() + row * kPairColumns;
        kernel.gemm(args);
      }
    }
  }

  /// Sums of a panel against plain loops. The fp32 sums here are exact: |x| <= 2 in steps of 2^-6, 2048 products.
  bool Right(int panel) {
    Multiply(panel);
    for (int row = 0; row < rows; ++row) {
      for (int column = 0; column < kPanelColumns; ++column) {
        int64_t sum = 0;
        const int8_t* x = &x_bytes[static_cast<size_t>(row * kK)];
        for (int k = 0; k < kK; ++k) sum += x[k] * Weight(panel, k, column);
        const void* got = &acc[static_cast<size_t>(row * kPairColumns + column)];
        float as_float;
        int32_t as_int;
        std::memcpy(&as_float, got, 4);
        std::memcpy(&as_int, got, 4);
        const bool is_float = kernel.product == Product::kFloat;
        const int64_t times = kernel.product == Product::kFixed16 ? 128 : 1;
        const auto whole = static_cast<int32_t>(static_cast<uint32_t>(sum * times));  // modulo 2^32, as kernels add
        if (is_float ? as_float * 64.0 != static_cast<double>(sum) : as_int != whole) return false;
      }
    }
    return true;
  }
};

const char* RoofKind(const Kernel& kernel) {
  if (kernel.product == Product::kFloat) return "vfmadd";
  return kernel.product == Product::kInt4 ? "vpmaddubsw" : "vpmaddwd";
}

/// The best of many short turns, some of which no neighbour interrupts; measured now, as clocks change within a run.
template <class Measure>
double BestOf(Measure measure) {
  double best = 0;
  for (int turn = 0; turn < 12; ++turn) best = std::max(best, measure(0.002));
  return best;
}

/// Seconds this thread has run: a time the neighbours are not part of.
double ThreadSeconds() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void RunKernel(benchmark::State& state, const Kernel* kernel, int rows) {
  Work work(*kernel, rows);
  if (!work.Right(kPanels - 1)) {
    state.SkipWithError("WRONG: the sums differ from plain loops");
    return;
  }
  int panel = 0;
  const double start = ThreadSeconds();
  for (auto _ : state) {
    work.Multiply(panel);
    panel = (panel + 1) % kPanels;
    benchmark::ClobberMemory();
  }
  const double seconds = ThreadSeconds() - start;
  const double rate = static_cast<double>(state.iterations()) * rows * kK * kPanelColumns / seconds * 1e-9;
  state.counters["GMAC/s"] = rate;
  state.counters["MAC/cycle"] = rate / BestOf(qgmm_roof_clock);
  if (kernel->isa == Isa::kScalar) return;
  const char* kind = RoofKind(*kernel);
  state.counters["of roof"] = rate / BestOf([kind](double turn) { return qgmm_roof_multiply(kind, 1, turn); });
}

void RegisterAll() {
  for (const Kernel* kernel : KernelTable()) {
    if (kernel->isa > BestIsa()) continue;
    for (int rows : {1, 4, 6, 16, 64}) {
      if (rows < kernel->min_rows) continue;
      const std::string name = std::string(kernel->name) + "/rows:" + std::to_string(rows);
      benchmark::RegisterBenchmark(name.c_str(), RunKernel, kernel, rows)->Unit(benchmark::kMicrosecond);
    }
  }
}

}  // namespace
}  // namespace qgmm::cpu

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  qgmm::cpu::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
