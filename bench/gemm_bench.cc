// SPDX-License-Identifier: Apache-2.0
// Every row of the kernel table that this machine can run, alone, one thread: pairs of panels from L2, at 1 to 256 rows. A
// result is compared with plain loops before it is timed. Counters: GMAC/s, MAC per clock cycle, and the share of the rate
// that the row's own instruction reaches without memory, measured in the same run.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "cpu/kernel.h"
#include "cpu/plan.h"
#include "numeric.h"
#include "packed_format.h"
#include "roof.h"

namespace qgmm::cpu {
namespace {

constexpr int kK = 2048;
constexpr int kPairs = 4;          // 256 KiB of int8 lines: in L2, not in L1, as in a call with many rows
constexpr int kCertified = 32;     // |w| of certified panels: four in a lane, 128 together
constexpr int kWidestRows = 64;    // sums wait in a strip of so many rows, as in a call

/// As scratch and packed weights are. A tile of AMX from elsewhere has two cache lines per row: 0.8 of the speed.
template <class T>
struct LineAligned {
  using value_type = T;
  LineAligned() = default;
  template <class U>
  LineAligned(const LineAligned<U>&) {}
  T* allocate(size_t count) { return static_cast<T*>(operator new(count * sizeof(T), std::align_val_t{kLineBytes})); }
  void deallocate(T* p, size_t) { operator delete(p, std::align_val_t{kLineBytes}); }
  bool operator==(const LineAligned&) const { return true; }
};
template <class T>
using Lines = std::vector<T, LineAligned<T>>;

/// x as packed by the kernel, pairs of panels, and the accumulators of one pair.
struct Work {
  const Kernel& kernel;
  int rows, padded_rows;
  int64_t line_k, x_stride;
  std::vector<float> x_floats;
  std::vector<int8_t> x_bytes;
  std::vector<uint16_t> x_halves;  // kFixed16: the same values in bfloat16; its greatest of 512 is -128 / 64, so X is 128 x
  std::vector<float> fixed_scales;
  std::vector<uint64_t> outliers;
  std::vector<int32_t> outlier_counts;
  Lines<uint8_t> packed_x, panels, widened;
  Lines<int32_t> row_sums, acc, column_sums;

  Work(const Kernel& row, int row_count)
      : kernel(row), rows(row_count), padded_rows((row_count + row.row_step - 1) / row.row_step * row.row_step),
        line_k(row.product == Product::kInt4 ? 8 : 4), x_stride(PackedStride(kK, row)),
        x_floats(static_cast<size_t>(rows * kK)), x_bytes(x_floats.size()),
        packed_x(static_cast<size_t>(padded_rows * x_stride * row.x_bytes)),
        panels(static_cast<size_t>(2 * kPairs * PanelSize())),
        widened(static_cast<size_t>(2 * kK / line_k * row.widened_bytes)), row_sums(static_cast<size_t>(padded_rows)),
        acc(static_cast<size_t>(padded_rows * kPairColumns)), column_sums(2 * kPairs * kPanelColumns) {
    std::mt19937 random(7);
    const bool certified = row.needs != Certificate::kNone;
    for (uint8_t& byte : panels) {
      const int drawn = static_cast<int>(random() >> 24);
      byte = static_cast<uint8_t>(certified ? drawn % (2 * kCertified + 1) - kCertified : drawn);
    }
    for (size_t i = 0; i < x_bytes.size(); ++i) {
      x_bytes[i] = i % kFixedSlice == 0 ? int8_t{-128} : static_cast<int8_t>(random() >> 24);
      x_floats[i] = static_cast<float>(x_bytes[i]) / 64;  // sums of products stay exact in fp32, in any order
    }
    for (int i = 0; i < 2 * kPairs * kPanelColumns; ++i) {
      for (int k = 0; k < kK; ++k) column_sums[static_cast<size_t>(i)] += Weight(i / kPanelColumns, k, i % kPanelColumns);
    }
    PackX();
  }

  void PackX() {
    PackXArgs args = {};
    args.x = x_bytes.data();
    args.dtype = DType::kInt8;
    if (kernel.product == Product::kFloat) {
      args.x = x_floats.data();
      args.dtype = DType::kFloat32;
    } else if (kernel.product == Product::kFixed16) {
      for (const float x : x_floats) x_halves.push_back(ToBFloat16(x));
      const size_t slices = static_cast<size_t>(rows * kK / kFixedSlice);
      fixed_scales.resize(slices), outliers.resize(slices * kOutlierWords), outlier_counts.resize(slices);
      args.x = x_halves.data();
      args.dtype = DType::kBFloat16;
      args.fixed = {fixed_scales.data(), outliers.data(), outlier_counts.data()};
    }
    args.row_stride = args.k = args.padded_k = args.slice = kK;
    args.packed_stride = x_stride;
    args.k_stride = 1;
    args.rows = rows;
    args.packed = packed_x.data();
    args.row_sums = kernel.row_sums ? row_sums.data() : nullptr;
    kernel.pack_x(args);
  }

  int64_t PanelSize() const { return kK / line_k * kLineBytes; }
  const uint8_t* Panel(int panel) const { return panels.data() + panel * PanelSize(); }

  int Weight(int panel, int k, int column) const {
    const uint8_t byte = Panel(panel)[k / line_k * kLineBytes + column * 4 + k % 4];
    if (kernel.product != Product::kInt4) return static_cast<int8_t>(byte);
    return (k % 8 < 4 ? byte & 15 : byte >> 4) - 8;
  }

  /// What worker.cc does with a pair: stretches of k, each widened once, then tile after tile of rows.
  void Multiply(int pair) {
    const int block = kernel.k_block && rows > kernel.tile_m ? kernel.k_block : kK;
    if (kernel.enter) kernel.enter();
    for (int k = 0; k < kK; k += block) {
      const uint8_t* lines[2];
      for (int h = 0; h < 2; ++h) {
        lines[h] = Panel(2 * pair + h) + k / line_k * kLineBytes;
        if (!kernel.widen) continue;
        uint8_t* to = widened.data() + h * block / line_k * kernel.widened_bytes;
        kernel.widen(lines[h], static_cast<int>(block / line_k), to);
        lines[h] = to;
      }
      for (int strip = 0; strip < rows; strip += kWidestRows / kernel.tile_m * kernel.tile_m) {
        const int end = std::min(rows, strip + kWidestRows / kernel.tile_m * kernel.tile_m);
        for (int h = 0; h < 2; h += kernel.panels) MultiplyTiles(pair, h, lines, strip, end, k, block);
      }
    }
    if (kernel.leave) kernel.leave();
  }

  void MultiplyTiles(int pair, int h, const uint8_t* const* lines, int first, int end, int k, int block) {
    for (int row = first; row < end; row += kernel.tile_m) {
      GemmArgs args = {};
      args.x = packed_x.data() + PackedAt(kernel, x_stride, row, k) * kernel.x_bytes;
      args.x_stride = x_stride;
      for (int i = 0; i < kernel.panels; ++i) {
        args.w[i] = lines[h + i];
        args.column_sums[i] = column_sums.data() + (2 * pair + h + i) * kPanelColumns;
      }
      args.row_sums = row_sums.data() + row;
      args.row_sums_stride = 1;
      args.rows = std::min(kernel.tile_m, rows - row);
      args.k = block;
      args.add = k > 0;
      args.acc = acc.data() + row * kPairColumns + h * kPanelColumns;
      kernel.gemm(args);
    }
  }

  /// Sums of a pair against plain loops. The fp32 sums here are exact: |x| <= 2 in steps of 2^-6, 2048 products.
  bool Right(int pair) {
    Multiply(pair);
    for (int row = 0; row < rows; row += std::max(1, rows / 8)) {
      for (int column = 0; column < kPairColumns; ++column) {
        int64_t sum = 0;
        const int8_t* x = &x_bytes[static_cast<size_t>(row * kK)];
        for (int k = 0; k < kK; ++k) {
          sum += x[k] * Weight(2 * pair + column / kPanelColumns, k, column % kPanelColumns);
        }
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

/// The loop of roof.cc with the kernel's own instruction; null: none is known.
const char* RoofKind(const Kernel& kernel) {
  const bool is_float = kernel.product == Product::kFloat, int4 = kernel.product == Product::kInt4;
  const bool fixed = kernel.product == Product::kFixed16;
  const Certificate needs = kernel.needs;
  switch (kernel.isa) {
    case Isa::kAvx2:
    case Isa::kAvxVnni:
    case Isa::kAvxVnniInt8:
      if (is_float) return "vfmadd";
      if (kernel.isa != Isa::kAvx2 && !fixed) return "vpdpbusd256";
      if (needs != Certificate::kNone) return needs == Certificate::kPairs ? "pairs" : "quads";
      return int4 ? "vpmaddubsw" : "vpmaddwd";
    case Isa::kAvx512:
      if (is_float) return "vfmadd512";
      if (needs != Certificate::kNone) return needs == Certificate::kPairs ? "pairs512" : "quads512";
      return int4 ? "vpmaddubsw512" : "vpmaddwd512";
    case Isa::kAvx512Vnni: return is_float ? "vfmadd512" : fixed ? "vpdpwssd512" : "vpdpbusd512";
    case Isa::kAmx: return fixed ? "tdpbusd twice" : "tdpbusd";
    default: return nullptr;
  }
}

/// The best of many short turns, some of which no neighbour interrupts; measured now, as clocks change within a run.
template <class Measure>
double BestOf(Measure measure) {
  double best = 0;
  for (int turn = 0; turn < 40; ++turn) best = std::max(best, measure(0.001));
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
  if (!work.Right(kPairs - 1)) {
    state.SkipWithError("WRONG: the sums differ from plain loops");
    return;
  }
  int pair = 0;
  const double start = ThreadSeconds();
  for (auto _ : state) {
    work.Multiply(pair);
    pair = (pair + 1) % kPairs;
    benchmark::ClobberMemory();
  }
  const double seconds = ThreadSeconds() - start;
  const double rate = static_cast<double>(state.iterations()) * rows * kK * kPairColumns / seconds * 1e-9;
  state.counters["GMAC/s"] = rate;
  state.counters["MAC/cycle"] = rate / BestOf(qgmm_roof_clock);
  const char* kind = RoofKind(*kernel);
  if (kind == nullptr) return;
  const double roof = BestOf([kind](double turn) { return qgmm_roof_multiply(kind, 1, turn); });
  if (roof > 0) state.counters["of roof"] = rate / roof;
  state.SetLabel(kind);
}

void RegisterAll() {
  for (const Kernel* kernel : KernelTable()) {
    if (!HasIsa(kernel->isa)) continue;
    for (int rows : {1, 4, 8, 16, 64, 256}) {
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
