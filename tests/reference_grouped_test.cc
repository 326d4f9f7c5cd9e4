// SPDX-License-Identifier: Apache-2.0
// grouped_matmul of the reference: int32 sums against int64, dequantised outputs against steps written apart.
#include <gtest/gtest.h>

#include <limits>

#include "reference.h"
#include "reference_case.h"

namespace qgmm::reference {
namespace {

/// int32 outputs must be the int64 sums, modulo 2^32 with a bias.
void ExpectSums(const Case& c) {
  for (const RowRange& range : c.problem.rows) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      for (int64_t j = 0; j < c.sizes.n; ++j) {
        int64_t sum = Sum(c, range.expert, i, j, 0, c.sizes.k);
        if (!c.int_bias.empty()) sum = Wrapped(sum + c.int_bias[static_cast<size_t>(range.expert * c.sizes.n + j)]);
        int32_t got;
        std::memcpy(&got, c.y.data() + (i * c.sizes.n + j) * 4, sizeof(got));
        ASSERT_EQ(got, sum) << "row " << i << ", column " << j;
      }
    }
  }
}

/// A case with int32 output, x and w filled by value(kk) and judged.
template <class FillX, class FillW>
Case Sums(const Sizes& sizes, FillX fill_x, FillW fill_w, DType weight_dtype = DType::kInt8) {
  Case c = MakeCase(Finish::kInt32, sizes, 31, weight_dtype, DType::kInt32);
  for (size_t i = 0; i < c.x.size(); ++i) c.x[i] = static_cast<int8_t>(fill_x(static_cast<int64_t>(i) % sizes.k));
  for (size_t i = 0; i < c.w.size(); ++i) {
    const auto place = static_cast<int64_t>(i);
    c.w[i] = static_cast<int8_t>(fill_w(place / sizes.n % sizes.k, place % sizes.n));
  }
  Connect(&c, weight_dtype);
  c.problem.epilogue.scale = {};
  reference::Run(c.problem);
  ExpectSums(c);
  return c;
}

int32_t FirstSum(const Case& c) {
  int32_t sum;
  std::memcpy(&sum, c.y.data(), sizeof(sum));
  return sum;
}

auto Constant(int value) {
  return [value](auto...) { return value; };
}

TEST(ReferenceSums, UniformFullRange) {
  for (const DType dtype : {DType::kInt8, DType::kInt4}) {
    Case c = MakeCase(Finish::kInt32, {{3, 0, 4}, 129, 24}, 32, dtype, DType::kInt32);
    c.problem.epilogue.scale = {};
    reference::Run(c.problem);
    ExpectSums(c);
  }
}

TEST(ReferenceSums, AllMinus128) {
  EXPECT_EQ(FirstSum(Sums({{2}, 100, 8}, Constant(-128), Constant(-128))), 100 * 16384);
}
TEST(ReferenceSums, AllPlus127) { EXPECT_EQ(FirstSum(Sums({{2}, 100, 8}, Constant(127), Constant(127))), 100 * 16129); }
TEST(ReferenceSums, Minus128TimesPlus127) {
  EXPECT_EQ(FirstSum(Sums({{2}, 100, 8}, Constant(-128), Constant(127))), -100 * 16256);
}
TEST(ReferenceSums, AlternatingSigns) {
  const auto x = [](int64_t kk) { return kk % 2 ? -128 : 127; };
  const auto w = [](int64_t kk, int64_t) { return kk % 2 ? 127 : -128; };
  EXPECT_EQ(FirstSum(Sums({{2}, 101, 8}, x, w)), -101 * 16256);
}

TEST(ReferenceSums, SumAtInt32Edge) {
  EXPECT_EQ(FirstSum(Sums({{1}, 131071, 1}, Constant(-128), Constant(-128))), 2147467264);
  EXPECT_EQ(FirstSum(Sums({{1}, 131071, 1}, Constant(-128), Constant(127))), -2130690176);  // 131071 * -16256
}

TEST(ReferenceSums, SumAbove2To24) {
  // 1041 * 16129 = 16790289 is odd and above 2^24 = 16777216: one rounding in f, to the multiple of 4 among its
  // neighbours 16790288 and 16790290.
  Case c = MakeCase(Finish::kDequantize, {{1}, 1041, 1}, 33, DType::kInt8, DType::kFloat32);
  c.x.assign(c.x.size(), 127);
  c.w.assign(c.w.size(), 127);
  c.scale = {1};
  Connect(&c, DType::kInt8);
  c.problem.x_scale = {};
  reference::Run(c.problem);
  EXPECT_EQ(Load(c.y.data(), DType::kFloat32, 0), 16790288.0f);
}

TEST(ReferenceSums, BiasWraps) {
  const int32_t most = std::numeric_limits<int32_t>::max(), least = std::numeric_limits<int32_t>::min();
  for (const int32_t bias : {most, least, 1, -1}) {
    Case c = MakeCase(Finish::kInt32, {{2, 1}, 5, 3}, 34, DType::kInt8, DType::kInt32);
    c.int_bias.assign(6, bias);
    c.problem.epilogue.int_bias = {DType::kInt32, c.int_bias.data(), 3, 0, 1, {}};
    c.problem.epilogue.scale = {};
    reference::Run(c.problem);
    ExpectSums(c);
  }
  // Dequantised, the wrapped sum is what is scaled: 2 + (2^31 - 1) is -2^31 + 1, in fp32 -2^31.
  Case c = MakeCase(Finish::kDequantize, {{1}, 1, 1}, 35, DType::kInt8, DType::kFloat32);
  c.x = {2};
  c.w = {1};
  c.scale = {0.5f};
  c.int_bias = {most};
  Connect(&c, DType::kInt8);
  c.problem.epilogue.int_bias = {DType::kInt32, c.int_bias.data(), 1, 0, 1, {}};
  c.problem.x_scale = {};
  reference::Run(c.problem);
  EXPECT_EQ(Load(c.y.data(), DType::kFloat32, 0), -0x1p30f);
}

TEST(ReferenceSums, Int4AllValuesBothNibbles) {
  // Column j at kk holds (kk + j) % 16 - 8: every value in every nibble; x picks one kk at a time.
  for (int64_t pick = 0; pick < 16; ++pick) {
    Sums({{1}, 16, 16}, [pick](int64_t kk) { return kk == pick ? 1 : 0; },
         [](int64_t kk, int64_t j) { return (kk + j) % 16 - 8; }, DType::kInt4);
  }
  Case c = MakeCase(Finish::kInt32, {{1}, 1, 8}, 36, DType::kInt4, DType::kInt32);
  c.x = {1};
  c.words = {static_cast<int32_t>(0xF8706591u)};  // written out, so that the packing of this test is judged too
  c.problem.w.plain.data = c.words.data();
  reference::Run(c.problem);
  const int32_t expected[8] = {1, -7, 5, 6, 0, 7, -8, -1};
  EXPECT_EQ(0, std::memcmp(c.y.data(), expected, sizeof(expected)));
}

TEST(ReferenceSums, Int4XMinus128) {
  EXPECT_EQ(FirstSum(Sums({{1}, 131071, 8}, Constant(-128), Constant(-8), DType::kInt4)), 131071 * 1024);
  EXPECT_EQ(FirstSum(Sums({{2}, 65, 8}, Constant(-128), Constant(7), DType::kInt4)), -65 * 896);
}

/// y of kDequantize, step by step.
void ExpectDequantized(const Case& c) {
  const Problem& p = c.problem;
  for (const RowRange& range : p.rows) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      for (int64_t j = 0; j < c.sizes.n; ++j) {
        float z = ExpectedT(c, range.expert, i, j);
        if (p.x_scale.data) z = Mul(z, c.x_scale[static_cast<size_t>(i)]);
        if (!c.bias.empty()) z = Add(z, c.Of(c.bias, range.expert, j));
        z = Activate(p.epilogue.activation, z);
        uint32_t expected = 0, got = 0;
        Store(&expected, p.y.dtype, 0, z);
        const auto bytes = static_cast<size_t>(Bytes(p.y.dtype));
        std::memcpy(&got, c.y.data() + static_cast<size_t>(i * c.sizes.n + j) * bytes, bytes);
        ASSERT_EQ(got, expected) << "row " << i << ", column " << j;
      }
    }
  }
}

TEST(ReferenceGroupedMatmul, EveryOutputAndActivation) {
  constexpr Activation kActivations[] = {Activation::kNone, Activation::kRelu, Activation::kGeluTanh,
                                         Activation::kFastGelu, Activation::kSilu};
  for (const DType out : {DType::kFloat16, DType::kBFloat16, DType::kFloat32}) {
    for (const Activation activation : kActivations) {
      SCOPED_TRACE(testing::Message() << Name(out) << ", act_type " << static_cast<int>(activation));
      Case c = MakeCase(Finish::kDequantize, {{2, 3}, 50, 16}, 37, DType::kInt8, out);
      c.problem.epilogue.activation = activation;
      reference::Run(c.problem);
      ExpectDequantized(c);
    }
  }
}

TEST(ReferenceGroupedMatmul, WithoutXScale) {
  Case c = MakeCase(Finish::kDequantize, {{2, 3}, 50, 16}, 38, DType::kInt4, DType::kFloat32);
  c.problem.x_scale = {};
  reference::Run(c.problem);
  ExpectDequantized(c);
}

TEST(ReferenceGroupedMatmul, FloatBiasBetweenXScaleAndActivation) {
  Case c = MakeCase(Finish::kDequantize, {{2, 3}, 50, 16}, 39, DType::kInt8, DType::kFloat32);
  c.problem.epilogue.activation = Activation::kSilu;
  c.bias = Uniform(32, 4.0f, 39);
  SetColumns(&c.problem.epilogue.bias, c.bias, 2, 1, 16);
  reference::Run(c.problem);
  ExpectDequantized(c);
}

TEST(ReferenceGroupedMatmul, SlicesAndAssist) {
  Case c = MakeCase(Finish::kDequantize, {{2, 3}, 60, 16, 4}, 40, DType::kInt4, DType::kFloat32);
  c.assist = Uniform(32, 4.0f, 40);
  SetColumns(&c.problem.epilogue.assist, c.assist, 2, 1, 16);
  reference::Run(c.problem);
  ExpectDequantized(c);
  for (int64_t i = 0; i < 2; ++i) {  // near float64, as the steps above use the same formula as the code
    for (int64_t j = 0; j < 16; ++j) {
      const double got = static_cast<double>(Load(c.y.data(), DType::kFloat32, i * 16 + j));
      EXPECT_NEAR(got, TrueT(c, 0, i, j) * static_cast<double>(c.x_scale[static_cast<size_t>(i)]), 1e-5);
    }
  }
}

TEST(ReferenceGroupedMatmul, IntBiasBeforeTheScale) {
  Case c = MakeCase(Finish::kDequantize, {{2, 3}, 50, 16}, 41, DType::kInt8, DType::kFloat32);
  for (int32_t j = 0; j < 32; ++j) c.int_bias.push_back((j - 16) * 99991);
  c.problem.epilogue.int_bias = {DType::kInt32, c.int_bias.data(), 16, 0, 1, {}};
  reference::Run(c.problem);
  ExpectDequantized(c);
}

TEST(ReferenceGroupedMatmul, CanonicalNan) {
  for (const DType out : {DType::kFloat16, DType::kBFloat16, DType::kFloat32}) {
    Case c = MakeCase(Finish::kDequantize, {{1}, 4, 2}, 42, DType::kInt8, out);
    c.x_scale[0] = FromBits(0xFFFFFFFF);
    reference::Run(c.problem);
    uint32_t bits = 0;
    std::memcpy(&bits, c.y.data() + Bytes(out), static_cast<size_t>(Bytes(out)));
    EXPECT_EQ(bits, out == DType::kFloat16 ? 0x7E00u : out == DType::kBFloat16 ? 0x7FC0u : 0x7FC00000u);
  }
}

TEST(ReferenceGroupedMatmul, TailRowsZero) {
  for (const DType out : {DType::kInt32, DType::kBFloat16, DType::kFloat32}) {
    const bool sums = out == DType::kInt32;
    Case c = MakeCase(sums ? Finish::kInt32 : Finish::kDequantize, {{0, 2, 0}, 4, 8, 1, 3}, 43, DType::kInt8, out);
    c.bias = Uniform(24, 4.0f, 43);
    if (!sums) SetColumns(&c.problem.epilogue.bias, c.bias, 3, 1, 8);
    reference::Run(c.problem);
    const auto row = static_cast<size_t>(8 * Bytes(out));
    for (size_t byte = 2 * row; byte < 5 * row; ++byte) ASSERT_EQ(c.y[byte], 0);
  }
}

}  // namespace
}  // namespace qgmm::reference
