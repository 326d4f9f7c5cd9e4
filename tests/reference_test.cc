// SPDX-License-Identifier: Apache-2.0
// Operator A and grouped_matmul of the reference: bit for bit against steps written apart, and near float64.
#include "reference.h"

#include <gtest/gtest.h>

#include <limits>

#include "reference_case.h"

namespace qgmm::reference {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

float SmoothOf(const Case& c, int64_t expert, int64_t j) {
  if (c.smooth.empty()) return 1;
  const int64_t h = c.sizes.n / 2;
  return static_cast<int64_t>(c.smooth.size()) == c.e ? c.smooth[static_cast<size_t>(expert)]
                                                      : c.smooth[static_cast<size_t>(expert * h + j)];
}

std::vector<float> ExpectedS(const Case& c, int64_t expert, int64_t i) {
  const int64_t h = c.sizes.n / 2;
  const float limit = c.problem.epilogue.limit;
  std::vector<float> s;
  for (int64_t j = 0; j < h; ++j) {
    float gate = Mul(ExpectedT(c, expert, i, j), c.x_scale[static_cast<size_t>(i)]);
    float up = Mul(ExpectedT(c, expert, i, j + h), c.x_scale[static_cast<size_t>(i)]);
    if (c.problem.epilogue.limited) {
      if (gate > limit) gate = limit;
      if (up > limit) up = limit;
      if (up < -limit) up = -limit;
    }
    s.push_back(Mul(Mul(Silu(gate), up), SmoothOf(c, expert, j)));
  }
  return s;
}

/// y and y_scale of operator A, rows in no group as zeros.
void ExpectSwiglu(const Case& c) {
  const int64_t h = c.sizes.n / 2;
  std::vector<uint8_t> y(c.y.size(), 0);
  std::vector<float> y_scale(c.y_scale.size(), 0);
  for (const RowRange& range : c.problem.rows) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      const std::vector<float> s = ExpectedS(c, range.expert, i);
      y_scale[static_cast<size_t>(i)] = QuantizeRow(s.data(), h, c.problem.y.dtype, y.data() + i * h);
    }
  }
  EXPECT_EQ(c.y, y);
  for (size_t i = 0; i < y_scale.size(); ++i) EXPECT_EQ(Bits(c.y_scale[i]), Bits(y_scale[i])) << "row " << i;
}

/// Tolerance 8.1 against float64: |dq| <= 1, at least 99 % identical, scale relative 2e-5.
void ExpectNearTrue(const Case& c) {
  const int64_t h = c.sizes.n / 2;
  int64_t different = 0, total = 0;
  for (const RowRange& range : c.problem.rows) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      std::vector<double> s;
      double largest = 0;
      for (int64_t j = 0; j < h; ++j) {
        const double x_scale = static_cast<double>(c.x_scale[static_cast<size_t>(i)]);
        double gate = TrueT(c, range.expert, i, j) * x_scale, up = TrueT(c, range.expert, i, j + h) * x_scale;
        if (c.problem.epilogue.limited) {
          const double limit = static_cast<double>(c.problem.epilogue.limit);
          gate = std::min(gate, limit);
          up = std::clamp(up, -limit, limit);
        }
        s.push_back(gate / (1 + std::exp(-gate)) * up * static_cast<double>(SmoothOf(c, range.expert, j)));
        largest = std::max(largest, std::fabs(s.back()));
      }
      EXPECT_NEAR(static_cast<double>(c.y_scale[static_cast<size_t>(i)]), largest / 127, 2e-5 * largest / 127);
      for (int64_t j = 0; j < h; ++j, ++total) {
        const double q = std::nearbyint(s[static_cast<size_t>(j)] * 127 / largest);
        const double got = static_cast<int8_t>(c.y[static_cast<size_t>(i * h + j)]);
        EXPECT_NEAR(got, q, 1) << "row " << i << ", column " << j;
        if (got != q) ++different;
      }
    }
  }
  EXPECT_LE(different * 100, total);
}

Case Judged(Case c) {
  reference::Run(c.problem);
  ExpectSwiglu(c);
  return c;
}

void ExpectSameResult(const Case& a, const Case& b) {
  EXPECT_EQ(a.y, b.y);
  EXPECT_EQ(0, std::memcmp(a.y_scale.data(), b.y_scale.data(), a.y_scale.size() * sizeof(float)));
}

TEST(ReferenceSwiglu, Int8PerChannel) {
  ExpectNearTrue(Judged(MakeCase(Finish::kSwigluQuant, {{3, 0, 5, 1}, 67, 34}, 11)));
}

TEST(ReferenceSwiglu, Int4PerChannel) {
  ExpectNearTrue(Judged(MakeCase(Finish::kSwigluQuant, {{3, 0, 5, 1}, 67, 40}, 12, DType::kInt4)));
}

TEST(ReferenceSwiglu, ScalesPerSlice) {
  const struct { int64_t k, slices; } rows[] = {{56, 1}, {56, 2}, {56, 56}, {5, 5}, {64, 2}, {512, 2}, {600, 2}};
  for (const auto& row : rows) {
    for (const DType dtype : {DType::kInt8, DType::kInt4}) {
      SCOPED_TRACE(testing::Message() << row.slices << " slices of k " << row.k << ", " << Name(dtype));
      ExpectNearTrue(Judged(MakeCase(Finish::kSwigluQuant, {{2, 3}, row.k, 16, row.slices}, 13, dtype)));
    }
  }
}

TEST(ReferenceSwiglu, SmallestShapes) {
  for (const int64_t k : {1, 3, 4}) {
    for (const int64_t n : {2, 6, 30}) {
      SCOPED_TRACE(testing::Message() << "k " << k << ", n " << n);
      Judged(MakeCase(Finish::kSwigluQuant, {{1, 2}, k, n}, 14));
    }
  }
}

TEST(ReferenceSwiglu, Float8BothKinds) {
  for (const DType dtype : {DType::kFloat8E4M3, DType::kFloat8E5M2}) {
    Judged(MakeCase(Finish::kSwigluQuant, {{4, 3}, 33, 62}, 15, DType::kInt8, dtype));
  }
}

TEST(ReferenceSwiglu, StepsInTheWrittenOrder) {
  // (a * ws) * x_scale with a = 3, ws = 1 + 2^-23, x_scale = 1 + 2^-23: 3 + 3 * 2^-23 is a tie and goes to
  // 3 + 4 * 2^-23; times x_scale 3 + 7 * 2^-23 + ..., above the tie, to 3 + 8 * 2^-23. The scales first would give
  // (1 + 2 * 2^-23) * 3 = 3 + 6 * 2^-23, exactly.
  Case c = MakeCase(Finish::kSwigluQuant, {{1}, 1, 2}, 16);
  c.x = {1};
  c.w = {3, 127};
  c.scale = {0x1.000002p+0f, 1.0f};
  c.x_scale = {0x1.000002p+0f};
  Connect(&c, DType::kInt8);
  reference::Run(c.problem);
  const float s = Mul(Silu(0x1.800008p+1f), Mul(127, 0x1.000002p+0f));
  EXPECT_EQ(c.y_scale[0], s / 127);
  ExpectSwiglu(c);
}

TEST(ReferenceSwiglu, BiasZeroEqualsNone) {
  const Case none = Judged(MakeCase(Finish::kSwigluQuant, {{3, 2}, 40, 12}, 17));
  Case zero = MakeCase(Finish::kSwigluQuant, {{3, 2}, 40, 12}, 17);
  zero.int_bias.assign(24, 0);
  zero.problem.epilogue.int_bias = {DType::kInt32, zero.int_bias.data(), 12, 0, 1, {}};
  ExpectSameResult(none, Judged(std::move(zero)));
}

TEST(ReferenceSwiglu, BiasRandom) {
  Case c = MakeCase(Finish::kSwigluQuant, {{3, 2}, 40, 12}, 18);
  for (int32_t j = 0; j < 24; ++j) c.int_bias.push_back((j - 12) * 9973);
  c.problem.epilogue.int_bias = {DType::kInt32, c.int_bias.data(), 12, 0, 1, {}};
  ExpectNearTrue(Judged(std::move(c)));
}

Case WithSmooth(int64_t count_per_expert, uint32_t seed) {
  Case c = MakeCase(Finish::kSwigluQuant, {{3, 2}, 40, 12}, seed);
  c.smooth = Uniform(2 * count_per_expert, 3.0f, seed);
  const int64_t column_stride = count_per_expert == 1 ? 0 : 1;
  c.problem.epilogue.smooth = {DType::kFloat32, c.smooth.data(), count_per_expert, 0, column_stride, {}};
  return c;
}

TEST(ReferenceSwiglu, SmoothPerExpert) { ExpectNearTrue(Judged(WithSmooth(1, 19))); }
TEST(ReferenceSwiglu, SmoothPerColumn) { ExpectNearTrue(Judged(WithSmooth(6, 20))); }

Case WithLimit(float limit) {
  Case c = MakeCase(Finish::kSwigluQuant, {{4, 5}, 40, 62}, 21);
  c.problem.epilogue.limit = limit;
  c.problem.epilogue.limited = true;
  return c;
}

TEST(ReferenceSwiglu, LimitOff) {
  Case unlimited = WithLimit(0);
  unlimited.problem.epilogue.limited = false;
  ExpectSameResult(Judged(std::move(unlimited)), Judged(WithLimit(3e38f)));
}

TEST(ReferenceSwiglu, LimitTen) {
  Case unlimited = WithLimit(0);
  unlimited.problem.epilogue.limited = false;
  const Case limited = Judged(WithLimit(10));
  ExpectNearTrue(limited);
  EXPECT_NE(limited.y_scale, Judged(std::move(unlimited)).y_scale);  // so the limit acted
}

TEST(ReferenceSwiglu, LimitTiny) {
  const Case c = Judged(WithLimit(0x1p-20f));
  ExpectNearTrue(c);
  for (const float scale : c.y_scale) {
    EXPECT_GT(scale, 0);
    EXPECT_LE(scale, 0.2785f * 0x1p-20f / 127);  // gates below -L stay; -0.2785 is the least value of Silu
  }
}

TEST(ReferenceSwiglu, LimitWithNan) {  // a clamp that answers with its limit would hide the NaN of one column
  for (const size_t column : {3, 31 + 3}) {  // a gate, an up
    Case c = WithLimit(1);
    c.scale[column] = kNan;
    c = Judged(std::move(c));
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(Bits(c.y_scale[i]), 0x7FC00000u);  // the rows of expert 0
    for (size_t i = 4; i < 9; ++i) EXPECT_FALSE(std::isnan(c.y_scale[i]));
  }
  Case c = WithLimit(1);
  c.x_scale[2] = kNan;
  c = Judged(std::move(c));
  EXPECT_EQ(Bits(c.y_scale[2]), 0x7FC00000u);
  EXPECT_FALSE(std::isnan(c.y_scale[1]));
}

Case WithAssist(const Sizes& sizes, DType dtype, uint32_t seed) {
  Case c = MakeCase(Finish::kSwigluQuant, sizes, seed, dtype);
  c.assist = Uniform(c.e * sizes.n, 5.0f, seed);
  SetColumns(&c.problem.epilogue.assist, c.assist, c.e, 1, sizes.n);
  return c;
}

TEST(ReferenceSwiglu, AssistRandom) {
  for (const DType dtype : {DType::kInt8, DType::kInt4}) {
    ExpectNearTrue(Judged(WithAssist({{3, 2}, 40, 16}, dtype, 22)));
  }
}

TEST(ReferenceSwiglu, AssistPerSlice) {
  for (const DType dtype : {DType::kInt8, DType::kInt4}) {
    ExpectNearTrue(Judged(WithAssist({{3, 2}, 48, 16, 3}, dtype, 23)));
  }
}

TEST(ReferenceSwiglu, AssistTrueNearNone) {
  for (const int64_t slices : {1, 7}) {
    const Sizes sizes = {{4, 3}, 448, 64, slices};
    Case c = WithAssist(sizes, DType::kInt4, 24);
    for (int64_t expert = 0; expert < c.e; ++expert) {
      for (int64_t j = 0; j < sizes.n; ++j) {
        double sum = 0;
        for (int64_t kk = 0; kk < sizes.k; ++kk) {
          const auto scale = static_cast<double>(c.Scale(expert, kk / (sizes.k / slices), j));
          sum += 8 * static_cast<double>(c.W(expert, kk, j)) * scale;
        }
        c.assist[static_cast<size_t>(expert * sizes.n + j)] = static_cast<float>(sum);
      }
    }
    c = Judged(std::move(c));
    c.assist.clear();  // judged as the plain product now
    ExpectNearTrue(c);
  }
}

TEST(ReferenceSwiglu, RowsThatAreNotFinite) {
  // x_scale 0, Inf, NaN: rows of zeros, NaN (0 * Inf somewhere) or Inf, NaN; the neighbours keep their bits.
  const Case clean = Judged(MakeCase(Finish::kSwigluQuant, {{5}, 40, 12}, 25));
  Case c = MakeCase(Finish::kSwigluQuant, {{5}, 40, 12}, 25);
  c.x_scale[0] = 0;
  c.x_scale[1] = kInf;
  c.x_scale[3] = kNan;
  c = Judged(std::move(c));
  EXPECT_EQ(Bits(c.y_scale[0]), 0u);
  EXPECT_EQ(Bits(c.y_scale[1]), 0x7FC00000u);  // a negative gate times Inf: Silu(-Inf) is NaN
  EXPECT_EQ(Bits(c.y_scale[3]), 0x7FC00000u);
  for (const size_t i : {0, 1, 3}) {
    for (size_t j = 0; j < 6; ++j) EXPECT_EQ(c.y[i * 6 + j], 0) << "row " << i;
  }
  for (const size_t i : {2, 4}) {
    EXPECT_EQ(c.y_scale[i], clean.y_scale[i]);
    EXPECT_EQ(0, std::memcmp(c.y.data() + i * 6, clean.y.data() + i * 6, 6));
  }
}

TEST(ReferenceSwiglu, InfXScaleWithPaddedColumns) {
  // All gates and ups positive: Inf without NaN, whatever stands in columns that are only padding.
  Case c = MakeCase(Finish::kSwigluQuant, {{2}, 3, 6}, 26);
  for (int8_t& value : c.x) value = 1;
  for (int8_t& value : c.w) value = 2;
  c.x_scale[0] = kInf;
  Connect(&c, DType::kInt8);
  c = Judged(std::move(c));
  EXPECT_EQ(c.y_scale[0], kInf);
  EXPECT_EQ(c.y[0] | c.y[1] | c.y[2], 0);
  EXPECT_GT(c.y_scale[1], 0);
}

TEST(ReferenceSwiglu, FarNegativeGateIsSignedZero) {
  Case c = MakeCase(Finish::kSwigluQuant, {{1}, 1, 4}, 27, DType::kInt8, DType::kFloat8E4M3);
  c.x = {1};
  c.w = {-89, 1, 5, 1};  // gates -89 (below -88.7228: Silu is -0) and 1; ups 5 and 1
  c.scale = {1, 1, 1, 1};
  c.x_scale = {1};
  Connect(&c, DType::kInt8);
  reference::Run(c.problem);
  EXPECT_EQ(c.y_scale[0], Silu(1) / 448);
  EXPECT_EQ(c.y[0], 0x80);
  EXPECT_EQ(c.y[1], 0x7E);
}

}  // namespace
}  // namespace qgmm::reference
