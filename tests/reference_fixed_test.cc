// SPDX-License-Identifier: Apache-2.0
// The fixed-point product of the reference: by hand, within its bound (docs/operators.md, section 8.2), and at it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <tuple>
#include <vector>

#include "numeric.h"
#include "reference_case.h"
#include "reference_fixed.h"

namespace qgmm::reference {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<float> Rounded(std::vector<float> values, DType dtype) {
  for (float& v : values) {
    uint16_t bits = 0;
    Store(&bits, dtype, 0, v);
    v = Load(&bits, dtype, 0);
  }
  return values;
}

struct Judgement {
  double error = 0, bound = 0;
};

/// |c - sum(x w)| and the bound: half a step per element that is no multiple of it, and fp32 roundings.
Judgement Judge(const std::vector<float>& x, const std::vector<float>& w) {
  const FixedRow row = ToFixed(x.data(), static_cast<int64_t>(x.size()));
  long double exact = 0, products = 0, steps = 0;
  for (size_t kk = 0; kk < x.size(); ++kk) {
    const long double term = static_cast<long double>(x[kk]) * w[kk];
    exact += term;
    products += std::fabs(term);
    const double scale = row.scale[kk / 512];
    if (row.x[kk] * scale != x[kk] && std::find(row.outliers.begin(), row.outliers.end(), kk) == row.outliers.end()) {
      steps += scale / 2 * std::fabs(w[kk]);
    }
  }
  const double roundings = static_cast<double>(row.scale.size() + row.outliers.size() + 2) * 0x1p-24;
  const double c = FixedProduct(row, x.data(), w);
  return {static_cast<double>(std::fabs(c - exact)), static_cast<double>(steps + roundings * products)};
}

std::vector<float> Weights(int64_t count, uint32_t seed) {
  std::vector<float> w = Uniform(count, 127.4f, seed);
  for (float& v : w) v = std::nearbyint(v);
  return w;
}

TEST(ReferenceFixed, ByHand) {
  const float x[] = {1.5f, -0.25f, 0x1p-14f, 0x1p-15f, 0x1.8p-14f, -0x1p-14f};
  const FixedRow row = ToFixed(x, 6);
  EXPECT_EQ(row.x, (std::vector<int16_t>{24576, -4096, 1, 0, 2, -1}));  // halves go to even
  EXPECT_EQ(row.scale, std::vector<float>{0x1p-14f});
  EXPECT_TRUE(row.outliers.empty());
  EXPECT_EQ(FixedProduct(row, x, {1, 2, 3, 127, -4, 5}), 1.0f + 0x1p-14f * (3 - 8 - 5));
}

TEST(ReferenceFixed, OneScalePerBlock) {
  std::vector<float> x(1030, 1.0f);
  for (size_t kk = 512; kk < 1024; ++kk) x[kk] = 8;
  for (size_t kk = 1024; kk < 1030; ++kk) x[kk] = 0;
  const FixedRow row = ToFixed(x.data(), 1030);
  EXPECT_EQ(row.scale, (std::vector<float>{0x1p-14f, 0x1p-11f, 0x1p-126f}));
  EXPECT_EQ(row.x[511], 16384);
  EXPECT_EQ(row.x[512], 16384);
  EXPECT_EQ(row.x[1029], 0);
}

TEST(ReferenceFixed, LargestIntegers) {  // 512 of them by -128 still fit int32
  for (const auto& [dtype, largest, integer] :
       {std::tuple{DType::kBFloat16, 1.9921875f, 32640}, std::tuple{DType::kFloat16, 1.9990234375f, 32752}}) {
    const std::vector<float> x = Rounded(std::vector<float>(512, largest), dtype), w(512, -128.0f);
    const FixedRow row = ToFixed(x.data(), 512);
    EXPECT_EQ(row.x[100], integer);
    EXPECT_EQ(FixedProduct(row, x.data(), w), static_cast<float>(-512.0 * 128 * integer) * 0x1p-14f);
  }
}

TEST(ReferenceFixed, OutliersAreBeyond32MeansOrNotFinite) {
  std::vector<float> x(512, 1.0f);
  x[7] = 40;  // the mean is 1.076, 32 of them 34.4
  x[8] = 34;
  EXPECT_EQ(ToFixed(x.data(), 512).outliers, std::vector<int64_t>{7});
  x[100] = -kInf, x[511] = std::numeric_limits<float>::quiet_NaN();
  const FixedRow row = ToFixed(x.data(), 512);
  EXPECT_EQ(row.outliers, (std::vector<int64_t>{7, 100, 511}));
  EXPECT_EQ(row.x[7], 0);
  EXPECT_EQ(row.scale[0], 0x1p-9f) << "of 34";
}

TEST(ReferenceFixed, NotMoreThanFifteenFiniteOutliersABlock) {
  for (int count = 1; count <= 40; ++count) {
    std::vector<float> x(512, 0x1p-20f);
    for (int i = 0; i < count; ++i) x[static_cast<size_t>(i * 12)] = 1;
    const size_t found = ToFixed(x.data(), 512).outliers.size();
    EXPECT_EQ(found, count < 16 ? static_cast<size_t>(count) : 0u) << count;
  }
}

TEST(ReferenceFixed, WithinBoundOnRandomData) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (int round = 0; round < 400; ++round) {
      const int64_t k = static_cast<int64_t>(random() % 1500) + 1;
      std::vector<float> x(static_cast<size_t>(k));
      const int spread = round % 4 * 4;
      for (float& v : x) v = std::ldexp(normal(random), spread ? -static_cast<int>(random() % spread) : 0);
      for (int i = 0; i < round % 7; ++i) x[random() % x.size()] = static_cast<float>(1 << random() % 12);
      const Judgement j = Judge(Rounded(x, dtype), Weights(k, random()));
      ASSERT_LE(j.error, j.bound) << Name(dtype) << ", round " << round;
    }
  }
}

/// All small elements err by almost half a step in the direction of their weight: the bound is reached, and an element
/// that was cut off instead of rounded would break it.
TEST(ReferenceFixed, WithinBoundAtItsWorst) {
  for (const float part : {0x1.fcp-2f, 0x1.02p-1f}) {  // of a step: just below and just above a half
    std::vector<float> x(512, part * 0x1p-14f), w(512, 127.0f);
    for (size_t kk = 0; kk < 40; ++kk) x[kk] = 1, w[kk] = 0;  // enough large ones that none is an outlier
    const Judgement j = Judge(Rounded(x, DType::kBFloat16), w);
    EXPECT_LE(j.error, j.bound);
    EXPECT_GE(j.error, 0.9 * j.bound) << "part " << part;
  }
}

/// What the list is for: without it one element of 1000 leaves the rest seven bits, an error far above the bound.
TEST(ReferenceFixed, BoundNoticesAMissingListAndAMissingOutlier) {
  const std::vector<float> w = Weights(512, 9);
  std::vector<float> x = Rounded(Uniform(512, 1, 8), DType::kBFloat16);
  x[77] = 1000;
  FixedRow row = ToFixed(x.data(), 512);
  ASSERT_EQ(row.outliers, std::vector<int64_t>{77});
  const double bound = Judge(x, w).bound, right = FixedProduct(row, x.data(), w);
  row.outliers.clear();
  EXPECT_GT(std::fabs(FixedProduct(row, x.data(), w) - right), 100 * bound) << "the outlier is dropped";
  for (size_t kk = 0; kk < 512; ++kk) row.x[kk] = static_cast<int16_t>(std::rint(x[kk] / 0x1p-5f));
  row.scale = {0x1p-5f};  // 2^(E - 14) with E = 9
  EXPECT_GT(std::fabs(FixedProduct(row, x.data(), w) - right), 10 * bound) << "the outlier sets the scale";
}

}  // namespace
}  // namespace qgmm::reference
