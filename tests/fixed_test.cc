// SPDX-License-Identifier: Apache-2.0
// Operator B in fixed point: every ISA, weight form and number of workers against the reference, bit for bit, over the
// patterns that outliers, blocks of 512 k and extreme values make.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernel_case.h"
#include "numeric.h"

namespace qgmm::cpu {
namespace {

using reference::Case;
using reference::MakeCase;
using reference::SetColumns;
using reference::Sizes;
using reference::Uniform;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// The value of x[row][k]; `usual` is around 1.
using Values = std::function<float(int64_t row, int64_t k, float usual)>;

void Fill(Case* c, DType dtype, const Values& values) {
  const std::vector<float> usual = Uniform(c->m * c->sizes.k, 2, 3);
  c->x_bytes.assign(usual.size() * 2, 0);
  for (int64_t at = 0; at < static_cast<int64_t>(usual.size()); ++at) {
    Store(c->x_bytes.data(), dtype, at, values(at / c->sizes.k, at % c->sizes.k, usual[static_cast<size_t>(at)]));
  }
  c->problem.x = {c->x_bytes.data(), dtype, c->m, c->sizes.k, c->sizes.k, 1};
}

Case FixedCase(const Sizes& sizes, DType dtype, const Values& values, bool extras = true) {
  Case c = MakeCase(Finish::kAffine, sizes, 2, DType::kInt8, dtype);
  Fill(&c, dtype, values);
  Problem& p = c.problem;
  p.product = Product::kFixed16;
  p.slice = kFixedSlice;
  p.x_scale = {};
  p.y_scale = {};
  if (!extras) return c;
  c.offset = Uniform(c.e * sizes.n, 3, 4);
  SetColumns(&p.epilogue.offset, c.offset, c.e, 1, sizes.n);
  c.bias = Uniform(c.e * sizes.n, 1, 5);
  SetColumns(&p.epilogue.bias, c.bias, c.e, 1, sizes.n);
  return c;
}

float Usual(int64_t, int64_t, float usual) { return usual; }
/// A few outliers in every row, other ones than the next row's.
float Scattered(int64_t row, int64_t k, float usual) { return (k * 7 + row * 13) % 101 == 5 ? usual * 3000 : usual; }
float SameColumns(int64_t, int64_t k, float usual) { return k % 200 == 3 ? usual * 5000 : usual; }

constexpr DType kHalves[] = {DType::kBFloat16, DType::kFloat16};

TEST(Fixed, EveryRowCountAroundTiles) {
  for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 15, 16, 17, 31, 33, 47, 48, 49, 63, 64, 65, 67}) {
    for (const Values& values : {Values(Usual), Values(Scattered)}) {
      Case c = FixedCase({{rows}, 67, 34}, DType::kBFloat16, values);
      ExpectEverywhere(c, "rows " + std::to_string(rows));
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Fixed, BlocksOfRowsAndOfColumns) {
  for (const DType dtype : kHalves) {
    Case c = FixedCase({{9, 0, 257, 70}, 67, 150, 1, 3}, dtype, Scattered);
    ExpectEverywhere(c, Name(dtype));
    if (HasFatalFailure()) return;
  }
}

TEST(Fixed, EveryK) {
  for (const DType dtype : kHalves) {
    for (const int64_t k : {1, 3, 4, 15, 16, 17, 63, 64, 65, 511, 512, 513, 515, 1023, 1024, 1025, 1537, 2049}) {
      for (const int64_t rows : {5, 50}) {
        for (const Values& values : {Values(Usual), Values(SameColumns)}) {
          Case c = FixedCase({{rows, 1}, k, 34}, dtype, values);
          ExpectEverywhere(c, std::string(Name(dtype)) + ", k " + std::to_string(k));
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(Fixed, LargeK) {
  for (const Values& values : {Values(Usual), Values(Scattered)}) {
    Case c = FixedCase({{2, 49}, 7168, 34}, DType::kBFloat16, values);
    ExpectEverywhere(c, "k 7168");
    if (HasFatalFailure()) return;
  }
}

TEST(Fixed, OutlierPatterns) {
  struct Pattern {
    const char* name;
    Values values;
  };
  const Pattern patterns[] = {
      {"none", Usual},
      {"one in the first element", [](int64_t, int64_t k, float v) { return k == 0 ? 9000 : v; }},
      {"one in the last element", [](int64_t, int64_t k, float v) { return k == 599 ? -9000 : v; }},
      {"fifteen in a block", [](int64_t, int64_t k, float v) { return k % 40 == 1 && k < 600 ? 3e4f : v / 1024; }},
      {"all, as they are infinite", [](int64_t row, int64_t, float v) { return row == 1 ? kInf : v; }},
      {"all NaN", [](int64_t row, int64_t, float v) { return row % 2 ? kNan : v; }},
      {"Inf of both signs and finite ones", [](int64_t row, int64_t k, float v) {
         return row == 2 && k == 8 ? -kInf : row == 2 && k == 590 ? kInf : row == 0 && k == 77 ? kInf : 9 * v;
       }},
      {"a row of zeros, one of negative zeros", [](int64_t row, int64_t, float v) { return row < 2 ? row * -0.0f : v; }},
      {"one element in zeros", [](int64_t, int64_t k, float) { return k == 300 ? 3.5f : 0; }},
      {"a block of zeros", [](int64_t, int64_t k, float v) { return k < 512 ? 0 : v; }},
      {"the least subnormals", [](int64_t, int64_t k, float v) { return k % 3 ? v * 0x1p-133f : 0; }},
      {"small normals", [](int64_t, int64_t, float v) { return v * 0x1p-120f; }},
      {"the largest values", [](int64_t, int64_t k, float v) { return k % 7 ? 60000 * v / 3 : 65504; }},
      {"a sum beyond fp32", [](int64_t, int64_t, float v) { return v * 1e38f; }},
      {"equal magnitudes", [](int64_t, int64_t k, float) { return k % 2 ? -1.9921875f : 1.9921875f; }},
      {"exactly 32 means", [](int64_t, int64_t k, float) { return k % 512 < 16 ? 32.0f : 0; }},
  };
  for (const DType dtype : kHalves) {
    for (const Pattern& pattern : patterns) {
      for (const int64_t rows : {4, 53}) {
        Case c = FixedCase({{rows}, 600, 34}, dtype, pattern.values, false);
        ExpectEverywhere(c, std::string(Name(dtype)) + ", outliers: " + pattern.name);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Fixed, OptionsOfTheEpilogue) {
  for (const Activation act : {Activation::kRelu, Activation::kGeluTanh, Activation::kFastGelu, Activation::kSilu}) {
    Case c = FixedCase({{12, 3}, 530, 33}, DType::kBFloat16, Scattered);
    c.problem.epilogue.activation = act;
    ExpectEverywhere(c, "activation " + std::to_string(static_cast<int>(act)));
    if (HasFatalFailure()) return;
  }
}

TEST(Fixed, StridedX) {
  Case c = FixedCase({{10, 0, 60}, 530, 40}, DType::kBFloat16, Scattered);
  const Answer straight = ByReference(c);
  const Sizes& s = c.sizes;
  std::vector<uint8_t> turned(c.x_bytes.size());
  for (int64_t i = 0; i < c.m; ++i) {
    for (int64_t k = 0; k < s.k; ++k) std::memcpy(&turned[static_cast<size_t>(k * c.m + i) * 2],
                                                  &c.x_bytes[static_cast<size_t>(i * s.k + k) * 2], 2);
  }
  c.problem.x = {turned.data(), DType::kBFloat16, c.m, s.k, 1, c.m};
  ASSERT_TRUE(ByReference(c) == straight);
  ExpectEverywhere(c, "strided");
}

/// A row's bits come from its own data: whatever stands beside it, and alone.
TEST(Fixed, NeighboursUnaffected) {
  const auto row_of = [](const Case& c, int64_t row) {
    const size_t bytes = static_cast<size_t>(c.sizes.n) * 2;
    return std::vector<uint8_t>(c.y.begin() + static_cast<ptrdiff_t>(bytes) * row,
                                c.y.begin() + static_cast<ptrdiff_t>(bytes) * (row + 1));
  };
  std::vector<std::vector<uint8_t>> answers;
  for (const Values& others : {Values(Usual), Values(Scattered), Values([](int64_t, int64_t, float) { return kNan; })}) {
    for (const bool alone : {false, true}) {
      Case c = FixedCase({{70}, 700, 40}, DType::kBFloat16, [&](int64_t row, int64_t k, float v) {
        if (row != 5) return others(row, k, v);
        return static_cast<float>(k * 37 % 101 - 50) / (k % 90 == 1 ? 0.001f : 64);
      });
      if (alone) c.problem.rows = {{0, 5, 6}};
      Context context;
      context.parallel_for = Backwards;
      ByKernels(c, context);
      answers.push_back(row_of(c, 5));
    }
  }
  for (const auto& answer : answers) EXPECT_EQ(answer, answers[0]);
}

}  // namespace
}  // namespace qgmm::cpu
