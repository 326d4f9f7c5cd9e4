// SPDX-License-Identifier: Apache-2.0
// Every row of the kernel table alone: one tile of rows, one panel or pair, packed here byte by byte from the format's
// definition, memory ending at guard pages. Integers against exact sums, floats against fma with k ascending.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cpu/isa/tables.h"
#include "cpu/kernel.h"
#include "cpu/plan.h"
#include "gemm_tile.h"
#include "numeric.h"
#include "rows_ran.h"

namespace qgmm::cpu {
namespace {

class Gemm : public testing::TestWithParam<const Kernel*> {
 protected:
  void SetUp() override {
    if (kernel().isa > ChosenIsa(-1) || !HasIsa(kernel().isa)) {
      GTEST_SKIP() << "not run: " << kernel().name << " needs " << Name(kernel().isa) << ", this run has "
                   << Name(ChosenIsa(-1));
    }
  }
  const Kernel& kernel() const { return *GetParam(); }
  int step() const { return kernel().slice_step; }

  void ExpectWhole(const Tile& tile, int half, const std::string& what) {
    Accumulators acc(tile, half);
    tile.Multiply(0, tile.k, false, acc.data());
    acc.Expect([&](int i, int c) { return tile.Expected(i, c, 0, tile.k, 0); }, what);
  }
};

class IntegerGemm : public Gemm {};
class FloatGemm : public Gemm {};
class FoldingGemm : public Gemm {};

std::vector<const Kernel*> Rows(bool integers, bool floats) {
  std::vector<const Kernel*> rows;
  for (const Kernel* kernel : KernelTable()) {
    if (!EmulatedNames().empty() && !IsTested(kernel->isa)) continue;
    if (kernel->product == Product::kFloat ? floats : integers) rows.push_back(kernel);
  }
  return rows;
}
std::vector<const Kernel*> FoldingRows() {
  std::vector<const Kernel*> rows = Rows(true, false);
  std::erase_if(rows, [](const Kernel* kernel) { return !kernel->folds; });
  return rows;
}
std::string KernelName(const testing::TestParamInfo<const Kernel*>& info) { return info.param->name; }
INSTANTIATE_TEST_SUITE_P(Kernels, Gemm, testing::ValuesIn(Rows(true, true)), KernelName);
INSTANTIATE_TEST_SUITE_P(Kernels, IntegerGemm, testing::ValuesIn(Rows(true, false)), KernelName);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(FoldingGemm);  // Arm folds none
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(FloatGemm);    // AVX-VNNI and AMX have none
INSTANTIATE_TEST_SUITE_P(Kernels, FoldingGemm, testing::ValuesIn(FoldingRows()), KernelName);
INSTANTIATE_TEST_SUITE_P(Kernels, FloatGemm, testing::ValuesIn(Rows(false, true)), KernelName);

TEST_P(Gemm, EveryRowCountAndK) {
  for (int rows = 1; rows <= kernel().tile_m; ++rows) {
    for (int k = 1; k <= 70; ++k) {
      Tile tile(kernel(), rows, k, k, 0);
      tile.Fill(static_cast<uint32_t>(rows * 100 + k));
      ExpectWhole(tile, k % 2, "rows " + std::to_string(rows) + ", k " + std::to_string(k));
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(Gemm, UnalignedAddresses) {
  for (const int shift : {1, 2, 3, 5, 7, 8, 13, 16, 31, 33, 63}) {
    for (const int k : {4, 37, 64}) {
      Tile tile(kernel(), kernel().tile_m, k, k, shift);
      tile.Fill(static_cast<uint32_t>(shift));
      ExpectWhole(tile, shift % 2, "shift " + std::to_string(shift) + ", k " + std::to_string(k));
      if (HasFatalFailure()) return;
    }
  }
}

/// A slice in two calls, the second with `add`: the same bits as in one. Rows that take any slice start anywhere.
TEST_P(Gemm, PartsOfASliceAdd) {
  const int line_k = LineK(WeightType(kernel())), every = step() == 1 ? 1 : std::max(line_k, step());
  const int k = 77 + 2 * step();
  for (int first = every; first < k; first += every) {
    Tile tile(kernel(), kernel().tile_m, k, k, 0);
    tile.Fill(static_cast<uint32_t>(first));
    Accumulators acc(tile, 0);
    tile.Multiply(0, first, false, acc.data());
    tile.Multiply(first, k - first, true, acc.data());
    acc.Expect([&](int i, int c) { return tile.Expected(i, c, 0, k, 0); }, "second part at " + std::to_string(first));
    if (HasFatalFailure()) return;
  }
}

TEST_P(Gemm, KBlockBoundaries) {
  const int block = kernel().k_block > 0 ? kernel().k_block : 512;
  for (const int k : {block - 1, block, block + 1, 2 * block, 2 * block + 5}) {
    Tile tile(kernel(), kernel().tile_m, k, k, 0);
    tile.Fill(static_cast<uint32_t>(k));
    Accumulators acc(tile, 1);
    for (int first = 0; first < k; first += block) {
      tile.Multiply(first, std::min(block, k - first), first > 0, acc.data());
    }
    acc.Expect([&](int i, int c) { return tile.Expected(i, c, 0, k, 0); }, "k " + std::to_string(k));
    if (HasFatalFailure()) return;
  }
}

/// Slices that are multiples of the step, each by itself: for a step of 1 they start and end within lines.
TEST_P(Gemm, SlicesOfEveryStep) {
  for (int units = 1; units <= 19; ++units) {
    const int slice = units * step(), slices = 5;
    Tile tile(kernel(), kernel().tile_m, slice * slices, slice, 0);
    tile.Fill(static_cast<uint32_t>(units));
    for (int s = 0; s < slices; ++s) {
      Accumulators acc(tile, s % 2);
      tile.Multiply(s * slice, slice, false, acc.data());
      acc.Expect([&](int i, int c) { return tile.Expected(i, c, s * slice, slice, 0); },
                 "slice " + std::to_string(s) + " of " + std::to_string(slice));
      if (HasFatalFailure()) return;
    }
  }
}

/// Slices folded by the kernel: c = fma(float(sum), scale, c), ascending, in one call or in two.
TEST_P(FoldingGemm, FoldsSlices) {
  std::mt19937 random(21);
  std::uniform_real_distribution<float> reals(-1.0f, 1.0f);
  std::vector<int> lengths(9);
  std::iota(lengths.begin(), lengths.end(), 1);
  if (128 / step() >= 9) lengths.push_back(128 / step() + 1);  // some fold slices of more than 128 k in another way
  for (const int units : lengths) {
    for (const int slices : {1, 2, 5}) {
      for (int rows = 1; rows <= kernel().tile_m; ++rows) {
        Tile tile(kernel(), rows, units * step() * slices, units * step(), 0);
        tile.Fill(static_cast<uint32_t>(units * 100 + rows));
        std::vector<float> scales(static_cast<size_t>(slices * kPairColumns));
        for (float& scale : scales) scale = reals(random);
        const auto expected = [&](int i, int c) {
          float folded = 0;
          for (int s = 0; s < slices; ++s) {
            const auto sum = static_cast<int32_t>(tile.Expected(i, c, s * tile.slice, tile.slice, 0));
            folded = std::fma(static_cast<float>(sum), scales[static_cast<size_t>(s * kPairColumns + c)], folded);
          }
          return Bits(folded);
        };
        for (int first_part = 1; first_part <= slices; ++first_part) {
          Accumulators acc(tile, 0);
          tile.MultiplyFolded(0, first_part, scales.data(), acc.data());
          if (first_part < slices) tile.MultiplyFolded(first_part, slices - first_part, scales.data(), acc.data());
          acc.Expect(expected, "slice " + std::to_string(tile.slice) + ", " + std::to_string(slices) + " slices");
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

/// Every pair of extremes with signs that stay and signs that alternate; k past every int16 or saturating partial sum.
TEST_P(IntegerGemm, IntegerExtremes) {
  const bool int4 = kernel().product == Product::kInt4;
  const int low = int4 ? -8 : -128, high = int4 ? 7 : 127;
  for (const int xv : {-128, 127}) {
    for (const int wv : {low, high}) {
      for (const int period : {1, 2, 3, 4, 8}) {
        Tile tile(kernel(), kernel().tile_m, 1031, 1031, 0);
        for (size_t i = 0; i < tile.x.size(); ++i) tile.x[i] = static_cast<float>(i % period ? -1 - xv : xv);
        for (size_t i = 0; i < tile.w.size(); ++i) tile.w[i] = i / static_cast<size_t>(tile.columns) % period ? -1 - wv : wv;
        tile.Pack();
        ExpectWhole(tile, 0,
                    "x " + std::to_string(xv) + ", w " + std::to_string(wv) + ", period " + std::to_string(period));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(IntegerGemm, SumAtInt32Edge) {
  Tile tile(kernel(), kernel().tile_m, 131071, 131071, 0);
  std::fill(tile.x.begin(), tile.x.end(), -128.0f);
  std::fill(tile.w.begin(), tile.w.end(), kernel().product == Product::kInt4 ? -8 : -128);
  tile.Pack();
  Accumulators acc(tile, 0);
  tile.Multiply(0, tile.k, false, acc.data());
  uint32_t expected = kernel().product == Product::kInt4 ? 131071u * 1024 : 2147467264u;
  if (kernel().product == Product::kFixed16) expected = 131071u * 16384 * 128;  // wraps: a worker calls for 512 k at most
  if (kernel().needs == Certificate::kPairs) expected = 65536u * 16384;  // one weight of a pair is left
  if (kernel().needs == Certificate::kQuads) expected = 32768u * 16384;
  acc.Expect([&](int, int) { return expected; }, "k 131071");
}

/// Sums are modulo 2^32: sums pushed to the edge between two parts of a slice wrap.
TEST_P(IntegerGemm, AddWraps) {
  for (const uint32_t push : {0x7FFFFFFFu, 0x80000000u}) {
    const int first = std::max(16, step()), k = first + 24;
    Tile tile(kernel(), kernel().tile_m, k, k, 0);
    tile.Fill(5);
    Accumulators acc(tile, 0);
    tile.Multiply(0, first, false, acc.data());
    for (int i = 0; i < tile.rows; ++i) {
      for (int c = 0; c < tile.columns; ++c) acc.At(i, c) += push;
    }
    tile.Multiply(first, 24, true, acc.data());
    acc.Expect([&](int i, int c) { return tile.Expected(i, c, 0, tile.k, push); }, "pushed by " + std::to_string(push));
  }
}

/// Every weight value at every position of a line, picked out by an x that is zero everywhere else.
TEST_P(IntegerGemm, AllWeightValuesAtEveryPosition) {
  const bool int4 = kernel().product == Product::kInt4;
  const int k = 16;
  for (int at = 0; at < k; ++at) {
    for (int value = int4 ? -8 : -128; value <= (int4 ? 7 : 127); value += int4 ? 1 : 5) {
      Tile tile(kernel(), 1, k, k, 0);
      tile.x[static_cast<size_t>(at)] = -128.0f;
      for (size_t i = 0; i < tile.w.size(); ++i) {
        tile.w[i] = kernel().needs == Certificate::kNone ? static_cast<int>(i * 7 % 16) - 8 : 0;
      }
      for (int c = 0; c < tile.columns; ++c) tile.w[static_cast<size_t>(at * tile.columns + c)] = value;
      tile.Pack();
      Accumulators acc(tile, 0);
      tile.Multiply(0, k, false, acc.data());
      const int x = kernel().product == Product::kFixed16 ? -16384 : -128;  // X of a row whose greatest is a power of two
      acc.Expect([&](int, int) { return static_cast<uint32_t>(x * value); }, "value " + std::to_string(value));
      if (HasFatalFailure()) return;
    }
  }
}

/// Magnitudes that cancel and round at every step: any other order of the sums gives other bits.
TEST_P(FloatGemm, ManyMagnitudes) {
  std::mt19937 random(11);
  std::uniform_int_distribution<int> exponent(-40, 40);
  Tile tile(kernel(), kernel().tile_m, 259, 259, 0);
  tile.Fill(12);
  for (float& v : tile.x) v = std::ldexp(v, exponent(random));
  tile.x[3] = -0.0f;
  tile.x[4] = FromBits(1);  // the least subnormal
  tile.x[5] = 3e38f;
  tile.Pack();
  ExpectWhole(tile, 0, "many magnitudes");
}

TEST_P(FloatGemm, InfAndNanStayInTheirRow) {
  Tile tile(kernel(), kernel().tile_m, 37, 37, 0);
  tile.Fill(13);
  const int inf_row = tile.rows - 1;
  tile.x[20] = std::numeric_limits<float>::quiet_NaN();
  tile.x[static_cast<size_t>(inf_row * tile.k + 36)] = std::numeric_limits<float>::infinity();
  for (int c = 0; c < tile.columns; ++c) tile.w[static_cast<size_t>(36 * tile.columns + c)] = c - 8;  // Inf * 0 too
  tile.Pack();
  Accumulators acc(tile, 0);
  tile.Multiply(0, tile.k, false, acc.data());
  for (int i = 0; i < tile.rows; ++i) {
    for (int c = 0; c < tile.columns; ++c) {
      const float got = FromBits(acc.At(i, c));
      if (i == 0 || (i == inf_row && c == 8)) {
        EXPECT_TRUE(std::isnan(got)) << "row " << i << ", column " << c;
      } else {
        EXPECT_EQ(Bits(got), tile.Expected(i, c, 0, tile.k, 0)) << "row " << i << ", column " << c;
      }
    }
  }
}

/// kAvx2WideUnpacked is "avx2_wide_unpacked": the table of ./run test relies on it.
TEST(KernelTable, NamesFollowFromConstants) {
#define QGMM_KERNEL(isa, kernel) {#kernel, kernel.name},
#define QGMM_STAGES(isa, stages)
  const std::pair<std::string, std::string> kRows[] = {
#include "cpu/kernels.inc"
  };
#undef QGMM_KERNEL
#undef QGMM_STAGES
  for (const auto& [constant, name] : kRows) {
    std::string plain = "k" + name, lower = constant;
    std::erase(plain, '_');
    for (char& c : lower) c = static_cast<char>(std::tolower(c));
    EXPECT_EQ(lower, plain);
  }
}

TEST(KernelTable, RowsAreSound) {
  std::set<std::string> names;
  Isa last = Isa::kScalar;
  for (const Kernel* kernel : KernelTable()) {
    EXPECT_TRUE(names.insert(kernel->name).second) << kernel->name;
    EXPECT_EQ(std::string(kernel->name).rfind(std::string(Name(kernel->isa)) + "_", 0), 0u) << kernel->name;
    EXPECT_GE(kernel->isa, last) << kernel->name << ": slowest first";
    last = kernel->isa;
    const int line_k = LineK(WeightType(*kernel));
    EXPECT_TRUE(kernel->panels == 1 || kernel->panels == 2) << kernel->name;
    EXPECT_EQ(kernel->tile_m % kernel->row_step, 0) << kernel->name;
    EXPECT_TRUE(kernel->tile_m >= 1 && kernel->tile_m <= 64) << kernel->name;
    EXPECT_TRUE(kernel->slice_step == 1 || kernel->slice_step % line_k == 0) << kernel->name;
    EXPECT_EQ(kernel->k_block % line_k, 0) << kernel->name << ": parts start at a line";
    EXPECT_EQ(kernel->widen != nullptr, kernel->widened_bytes > 0) << kernel->name;
  }
}

}  // namespace
}  // namespace qgmm::cpu
