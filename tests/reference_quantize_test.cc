// SPDX-License-Identifier: Apache-2.0
// QuantizeRow and dynamic_quant of the reference: expected codes derived by hand from docs/operators.md, section 1.6.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "numeric.h"
#include "reference.h"

namespace qgmm::reference {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr DType kTypes[] = {DType::kInt8, DType::kInt4, DType::kFloat8E4M3, DType::kFloat8E5M2};

struct Row {
  float scale;
  std::vector<int> q;  // int8 and int4: signed values; fp8: codes
};

Row Quantize(const std::vector<float>& v, DType dtype) {
  std::vector<uint8_t> q(v.size(), 0xAB);
  Row row;
  row.scale = QuantizeRow(v.data(), static_cast<int64_t>(v.size()), dtype, q.data());
  const bool integer = dtype == DType::kInt8 || dtype == DType::kInt4;
  for (uint8_t code : q) row.q.push_back(integer ? static_cast<int8_t>(code) : code);
  return row;
}

void ExpectRow(const std::vector<float>& v, DType dtype, float scale, const std::vector<int>& q) {
  const Row row = Quantize(v, dtype);
  EXPECT_EQ(Bits(row.scale), Bits(scale)) << Name(dtype) << ": " << row.scale << " instead of " << scale;
  EXPECT_EQ(row.q, q) << Name(dtype);
}

void ExpectSpoiled(const std::vector<float>& v, uint32_t scale_bits) {
  for (const DType dtype : kTypes) ExpectRow(v, dtype, FromBits(scale_bits), std::vector<int>(v.size(), 0));
}

float Tiny(int units) { return std::ldexp(static_cast<float>(units), -149); }

TEST(ReferenceQuantize, ZeroRow) {
  for (const DType dtype : kTypes) ExpectRow({0.0f, -0.0f, 0.0f}, dtype, 0.0f, {0, 0, 0});
}

TEST(ReferenceQuantize, ScaleUnderflow) {
  // int8: 63 / 127 of 2^-149 rounds to 0, 64 / 127 to 2^-149.
  ExpectRow({Tiny(63), Tiny(-63), Tiny(1)}, DType::kInt8, 0.0f, {0, 0, 0});
  ExpectRow({Tiny(64), Tiny(-63), Tiny(1)}, DType::kInt8, Tiny(1), {64, -63, 1});
  ExpectRow({Tiny(3), Tiny(-3)}, DType::kInt4, 0.0f, {0, 0});  // 3 / 7
  ExpectRow({Tiny(4), Tiny(-3)}, DType::kInt4, Tiny(1), {4, -3});
  // fp8: exactly half of 2^-149 is a tie with 0. Then 225 becomes 224 = 1.75 * 2^7, 28673 becomes 28672 = 1.75 * 2^14.
  ExpectRow({Tiny(224), Tiny(-224)}, DType::kFloat8E4M3, 0.0f, {0, 0});
  ExpectRow({Tiny(225), Tiny(-1)}, DType::kFloat8E4M3, Tiny(1), {0x76, 0xB8});
  ExpectRow({Tiny(28672), Tiny(-28672)}, DType::kFloat8E5M2, 0.0f, {0, 0});
  ExpectRow({Tiny(28673), Tiny(-1)}, DType::kFloat8E5M2, Tiny(1), {0x77, 0xBC});
}

TEST(ReferenceQuantize, SubnormalScaleClamps) {
  // The scale rounds down to 2^-149, so the largest quotients leave the range: 190 / 127 = 1.496.
  ExpectRow({Tiny(190), Tiny(-190), Tiny(128), Tiny(-127), Tiny(126)}, DType::kInt8, Tiny(1),
            {127, -127, 127, -127, 126});
  ExpectRow({Tiny(10), Tiny(-10), Tiny(7), Tiny(-8), Tiny(6)}, DType::kInt4, Tiny(1), {7, -7, 7, -7, 6});
  ExpectRow({Tiny(600), Tiny(-600), Tiny(448), Tiny(8)}, DType::kFloat8E4M3, Tiny(1), {0x7E, 0xFE, 0x7E, 0x50});
  ExpectRow({Tiny(80000), Tiny(-80000), Tiny(4)}, DType::kFloat8E5M2, Tiny(1), {0x7B, 0xFB, 0x44});
}

TEST(ReferenceQuantize, HalfwayToEven) {
  ExpectRow({127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 126.5f, -126.5f}, DType::kInt8, 1.0f,
            {127, 0, 2, 2, 0, -2, -2, 126, -126});
  ExpectRow({-7, 0.5f, 1.5f, 2.5f, -2.5f, 6.5f}, DType::kInt4, 1.0f, {-7, 0, 2, 2, -2, 6});
}

TEST(ReferenceQuantize, LargestIsNeverMinus128) {
  ExpectRow({-254, 254, 1}, DType::kInt8, 2.0f, {-127, 127, 0});
  ExpectRow({-14, 14, 1}, DType::kInt4, 2.0f, {-7, 7, 0});
}

TEST(ReferenceQuantize, Float8Ties) {
  // e4m3: steps of 2 from 16 to 32. 16 = code 0x58. e5m2: steps of 1 from 4 to 8. 4 = code 0x44.
  ExpectRow({448, 17, 19, -17, -19, 18}, DType::kFloat8E4M3, 1.0f, {0x7E, 0x58, 0x5A, 0xD8, 0xDA, 0x59});
  ExpectRow({57344, 4.5f, 5.5f, -4.5f, -5.5f, 5}, DType::kFloat8E5M2, 1.0f, {0x7B, 0x44, 0x46, 0xC4, 0xC6, 0x45});
}

TEST(ReferenceQuantize, Float8RoundsTheQuotientTwiceAsWritten) {
  // The scale is 3. 51 / 3 is the tie of 16 and 18; the next fp32 above 51, divided by 3, rounds to the one above 17.
  ExpectRow({1344, 51, std::nextafter(51.0f, 52.0f)}, DType::kFloat8E4M3, 3.0f, {0x7E, 0x58, 0x59});
}

TEST(ReferenceQuantize, Float8Saturation) {
  // Only a subnormal scale lets a quotient beyond max: 448 * 1.49 of 2^-149 rounds its scale down to 2^-149.
  ExpectRow({Tiny(671), Tiny(-500), Tiny(465)}, DType::kFloat8E4M3, Tiny(1), {0x7E, 0xFE, 0x7E});
  ExpectRow({Tiny(86015), Tiny(-61440)}, DType::kFloat8E5M2, Tiny(1), {0x7B, 0xFB});
}

TEST(ReferenceQuantize, Float8Subnormals) {
  ExpectRow({448, 0x1p-9f, 0x1p-10f, 0x1.8p-9f, -0x1p-9f, 0x1.cp-7f}, DType::kFloat8E4M3, 1.0f,
            {0x7E, 0x01, 0x00, 0x02, 0x81, 0x07});
  ExpectRow({57344, 0x1p-16f, 0x1p-17f, 0x1.8p-16f, -0x1.8p-15f}, DType::kFloat8E5M2, 1.0f,
            {0x7B, 0x01, 0x00, 0x02, 0x83});
}

TEST(ReferenceQuantize, Float8SignedZero) {
  ExpectRow({448, 0.0f, -0.0f, -0x1p-20f}, DType::kFloat8E4M3, 1.0f, {0x7E, 0x00, 0x80, 0x80});
  ExpectRow({57344, 0.0f, -0.0f, -0x1p-30f}, DType::kFloat8E5M2, 1.0f, {0x7B, 0x00, 0x80, 0x80});
}

TEST(ReferenceQuantize, NanRow) { ExpectSpoiled({1.0f, kNan, 3.0f}, 0x7FC00000); }

TEST(ReferenceQuantize, InfRow) {
  ExpectSpoiled({1.0f, kInf, 3.0f}, 0x7F800000);
  ExpectSpoiled({1.0f, -kInf, 3.0f}, 0x7F800000);
}

TEST(ReferenceQuantize, NanAndInfRow) {
  ExpectSpoiled({kInf, kNan, -kInf}, 0x7FC00000);
  ExpectSpoiled({kNan, kInf}, 0x7FC00000);
}

TEST(ReferenceQuantize, CanonicalNan) {
  for (const uint32_t bits : {0x7F800001u, 0xFFC00000u, 0xFFFFFFFFu}) ExpectSpoiled({1.0f, FromBits(bits)}, 0x7FC00000);
}

TEST(ReferenceQuantize, RandomRowsAgainstDouble) {
  const uint32_t seed = 5;
  std::mt19937 random(seed);
  std::normal_distribution<float> bell;
  for (int round = 0; round < 200; ++round) {
    SCOPED_TRACE(testing::Message() << "seed " << seed << ", round " << round);
    std::vector<float> v(1 + random() % 70);
    for (float& value : v) value = std::ldexp(bell(random), static_cast<int>(random() % 20) - 10);
    double largest = 0;
    for (float value : v) largest = std::max(largest, std::fabs(static_cast<double>(value)));
    const Row row = Quantize(v, DType::kInt8);
    EXPECT_EQ(row.scale, static_cast<float>(largest / 127));
    for (size_t j = 0; j < v.size(); ++j) {
      // One step of fp32 around the quotient may cross a tie; nothing else may differ.
      EXPECT_NEAR(row.q[j], static_cast<double>(v[j]) / static_cast<double>(row.scale), 0.5 + 1e-5);
    }
  }
}

struct DynamicQuantCase {
  DynamicQuantProblem problem;
  std::vector<uint8_t> y;
  std::vector<float> scale;

  DynamicQuantCase(const TensorView& x, DType dst) {
    problem.x_view = x;
    problem.dst_type = dst;
    problem.h = x.sizes[x.rank - 1];
    problem.row_count = 1;
    for (int axis = 0; axis + 1 < x.rank; ++axis) problem.row_count *= x.sizes[axis];
    problem.rows = {{0, 0, problem.row_count}};
    y.assign(static_cast<size_t>(problem.row_count * problem.h / (dst == DType::kInt4 ? 2 : 1)), 0xAB);
    scale.assign(static_cast<size_t>(problem.row_count), kNan);
    problem.y = y.data();
    problem.scale = scale.data();
  }
};

TEST(ReferenceDynamicQuant, LeadingAxesWithAnyStrides) {
  float x[64];
  for (int i = 0; i < 64; ++i) x[i] = static_cast<float>(i);
  TensorView view = View(x, DType::kFloat32, {2, 3, 2});
  view.strides[0] = 1, view.strides[1] = 20, view.strides[2] = 10;
  DynamicQuantCase c(view, DType::kInt8);
  reference::Run(c.problem);
  // Row (a, b) holds x[a + 20 b] and x[a + 20 b + 10].
  const float expected[6][2] = {{0, 10}, {20, 30}, {40, 50}, {1, 11}, {21, 31}, {41, 51}};
  for (size_t row = 0; row < 6; ++row) {
    EXPECT_EQ(c.scale[row], expected[row][1] / 127);
    EXPECT_EQ(c.y[2 * row], std::nearbyint(expected[row][0] * 127 / expected[row][1]));
    EXPECT_EQ(c.y[2 * row + 1], 127);
  }
}

TEST(ReferenceDynamicQuant, Int4LowNibbleFirst) {
  const float x[8] = {7, -7, 1, 2, -1, -2, 0, 3};
  DynamicQuantCase c(View(x, DType::kFloat32, {1, 8}), DType::kInt4);
  reference::Run(c.problem);
  EXPECT_EQ(c.scale[0], 1.0f);
  EXPECT_EQ(c.y, (std::vector<uint8_t>{0x97, 0x21, 0xEF, 0x30}));  // -7 is 9, -1 is F, -2 is E
}

TEST(ReferenceDynamicQuant, SmoothPerGroup) {
  const uint16_t x[6] = {0x3F80, 0x4000, 0x3F80, 0x4000, 0x3F80, 0x4000};  // bfloat16: 1, 2 in every row
  const float smooth[4] = {127, 0.5f, 3, 127};
  DynamicQuantCase c(View(x, DType::kBFloat16, {3, 2}), DType::kInt8);
  c.problem.rows = {{0, 0, 1}, {1, 1, 3}};
  c.problem.smooth.data = smooth;
  c.problem.smooth.expert_stride = 2;
  c.problem.smooth.column_stride = 1;
  reference::Run(c.problem);
  EXPECT_EQ(c.scale, (std::vector<float>{1, 2, 2}));
  EXPECT_EQ(c.y, (std::vector<uint8_t>{127, 1, 2, 127, 2, 127}));  // 3 / 2 is a tie: 2
}

TEST(ReferenceDynamicQuant, NeighboursUnaffected) {
  const float x[8] = {1, 2, kNan, 1, -kInf, 1, 1, 2};
  for (const DType dtype : {DType::kInt8, DType::kFloat8E4M3, DType::kFloat8E5M2}) {
    DynamicQuantCase c(View(x, DType::kFloat32, {4, 2}), dtype);
    reference::Run(c.problem);
    const Row clean = Quantize({1, 2}, dtype);
    for (size_t row : {0, 3}) {
      EXPECT_EQ(c.scale[row], clean.scale);
      EXPECT_EQ(static_cast<uint8_t>(clean.q[0]), c.y[2 * row]);
      EXPECT_EQ(static_cast<uint8_t>(clean.q[1]), c.y[2 * row + 1]);
    }
    EXPECT_EQ(Bits(c.scale[1]), 0x7FC00000u);
    EXPECT_EQ(c.scale[2], kInf);
    for (size_t place = 2; place < 6; ++place) EXPECT_EQ(c.y[place], 0);
  }
}

}  // namespace
}  // namespace qgmm::reference
