// SPDX-License-Identifier: Apache-2.0
// Operator B of the reference: bit for bit against steps written apart, and within the bound of section 8.2.
#include <gtest/gtest.h>

#include <limits>

#include "reference.h"
#include "reference_case.h"

namespace qgmm::reference {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr DType kTypes[] = {DType::kFloat16, DType::kBFloat16, DType::kFloat32};
constexpr Activation kActivations[] = {Activation::kNone, Activation::kRelu, Activation::kGeluTanh,
                                       Activation::kFastGelu, Activation::kSilu};

/// Gives x the values (rounded to its dtype first).
void SetX(Case* c, DType dtype, const std::vector<float>& values) {
  c->x_bytes.resize(values.size() * static_cast<size_t>(Bytes(dtype)));
  c->x_values.clear();
  for (size_t i = 0; i < values.size(); ++i) {
    Store(c->x_bytes.data(), dtype, static_cast<int64_t>(i), values[i]);
    c->x_values.push_back(Load(c->x_bytes.data(), dtype, static_cast<int64_t>(i)));
  }
  c->problem.x = {c->x_bytes.data(), dtype, c->m, c->sizes.k, c->sizes.k, 1};
}

Case Affine(DType dtype, const Sizes& sizes, uint32_t seed) {
  Case c = MakeCase(Finish::kAffine, sizes, seed, DType::kInt8, dtype);
  c.problem.product = Product::kFloat;
  c.problem.x_scale = {};
  SetX(&c, dtype, Uniform(c.m * sizes.k, 50.0f, seed));
  return c;
}

void AddOffset(Case* c, const std::vector<float>& values) {
  c->offset = values;
  SetColumns(&c->problem.epilogue.offset, c->offset, c->e, 1, c->sizes.n);
}

void AddBias(Case* c, const std::vector<float>& values) {
  c->bias = values;
  SetColumns(&c->problem.epilogue.bias, c->bias, c->e, 1, c->sizes.n);
}

/// z before the activation, step by step.
float ExpectedZ(const Case& c, int64_t expert, int64_t i, int64_t j) {
  float t = 0;
  long double row_sum = 0;
  for (int64_t kk = 0; kk < c.sizes.k; ++kk) {
    const float x = c.x_values[static_cast<size_t>(i * c.sizes.k + kk)];
    t = Fma(x, static_cast<float>(c.W(expert, kk, j)), t);
    row_sum += x;
  }
  if (!c.offset.empty()) t = Fma(c.Of(c.offset, expert, j), static_cast<float>(row_sum), t);
  const float scale = c.Scale(expert, 0, j);
  return c.bias.empty() ? Mul(scale, t) : Fma(scale, t, c.Of(c.bias, expert, j));
}

struct Bounded {
  double z = 0, bound = 0;
};

/// z in float64 and how far fp32 may be from it before rounding to the output (section 8.2, C = 1).
Bounded TrueZ(const Case& c, int64_t expert, int64_t i, int64_t j) {
  const auto k = static_cast<double>(c.sizes.k), scale = static_cast<double>(c.Scale(expert, 0, j));
  const double offset = c.offset.empty() ? 0 : static_cast<double>(c.Of(c.offset, expert, j));
  const double bias = c.bias.empty() ? 0 : static_cast<double>(c.Of(c.bias, expert, j)), u = 0x1p-24;
  double sum = 0, products = 0, row = 0;
  for (int64_t kk = 0; kk < c.sizes.k; ++kk) {
    const auto x = static_cast<double>(c.x_values[static_cast<size_t>(i * c.sizes.k + kk)]);
    const auto w = static_cast<double>(c.W(expert, kk, j));
    sum += x * (w + offset);
    products += std::fabs(x * w);
    row += std::fabs(x);
  }
  const double terms = std::min(k, 8 * std::sqrt(k)) + 8;
  return {scale * sum + bias,
          terms * u * std::fabs(scale) * (products + std::fabs(offset) * row) + 2 * u * std::fabs(bias)};
}

double Ulp(DType dtype, double y) {
  const int exponent = y == 0 ? -200 : std::ilogb(y);
  if (dtype == DType::kFloat16) return std::ldexp(1.0, std::max(exponent - 10, -24));
  return std::ldexp(1.0, dtype == DType::kBFloat16 ? std::max(exponent - 7, -133) : std::max(exponent - 23, -149));
}

double TrueActivation(Activation activation, double z) {
  switch (activation) {
    case Activation::kNone: return z;
    case Activation::kRelu: return std::max(z, 0.0);
    case Activation::kSilu: return z / (1 + std::exp(-z));
    case Activation::kFastGelu: return z / (1 + std::exp(-1.702 * z));
    case Activation::kGeluTanh: return 0.5 * z * (1 + std::tanh(std::sqrt(2 / M_PI) * (z + 0.044715 * z * z * z)));
  }
  return 0;
}

/// Runs the case and judges every element of its groups, bits and bound.
Case Judged(Case c) {
  reference::Run(c.problem);
  const DType dtype = c.problem.y.dtype;
  const Activation activation = c.problem.epilogue.activation;
  const double u = 0x1p-24;
  for (const RowRange& range : c.problem.rows) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      for (int64_t j = 0; j < c.sizes.n; ++j) {
        const float got = Load(c.y.data(), dtype, i * c.sizes.n + j);
        uint32_t narrowed = 0;
        Store(&narrowed, dtype, 0, Activate(activation, ExpectedZ(c, range.expert, i, j)));
        EXPECT_EQ(Bits(got), Bits(Load(&narrowed, dtype, 0))) << "row " << i << ", column " << j;
        const Bounded exact = TrueZ(c, range.expert, i, j);
        const bool linear = activation == Activation::kNone;
        const double y = TrueActivation(activation, exact.z);
        const double bound = linear ? exact.bound : 1.13 * exact.bound + 8 * u * std::fabs(exact.z);
        EXPECT_NEAR(static_cast<double>(got), y, bound + Ulp(dtype, std::fabs(y) + bound) / 2);
      }
    }
  }
  return c;
}

void JudgeDType(DType dtype) {
  for (const int64_t k : {1, 3, 64, 257}) {
    SCOPED_TRACE(testing::Message() << "k " << k);
    Judged(Affine(dtype, {{2, 0, 3}, k, 13}, 61));
    Case c = Affine(dtype, {{2, 0, 3}, k, 13}, 62);
    AddOffset(&c, Uniform(39, 20.0f, 63));
    AddBias(&c, Uniform(39, 2.0f, 64));
    Judged(std::move(c));
  }
}

TEST(ReferenceAffine, Fp16) { JudgeDType(DType::kFloat16); }
TEST(ReferenceAffine, Bf16) { JudgeDType(DType::kBFloat16); }
TEST(ReferenceAffine, Fp32) { JudgeDType(DType::kFloat32); }

TEST(ReferenceAffine, WithinBound) {
  for (const DType dtype : kTypes) {
    Case c = Affine(dtype, {{2}, 2048, 5}, 65);
    AddOffset(&c, Uniform(5, 100.0f, 66));
    Judged(std::move(c));
  }
}

TEST(ReferenceAffine, OffsetZeroEqualsNone) {
  Case none = Judged(Affine(DType::kFloat16, {{3}, 40, 13}, 67)), zero = Affine(DType::kFloat16, {{3}, 40, 13}, 67);
  AddOffset(&zero, std::vector<float>(13, 0.0f));
  EXPECT_EQ(none.y, Judged(std::move(zero)).y);
}

TEST(ReferenceAffine, OffsetNone) {  // no term at all: 0 * Inf would make NaN of the row
  Case c = Affine(DType::kFloat16, {{1}, 2, 1}, 68);
  SetX(&c, DType::kFloat16, {kInf, 1});
  c.w = {1, 1};
  c.scale = {1};
  reference::Run(c.problem);
  EXPECT_EQ(Load(c.y.data(), DType::kFloat16, 0), kInf);
  AddOffset(&c, {0});
  reference::Run(c.problem);
  EXPECT_TRUE(std::isnan(Load(c.y.data(), DType::kFloat16, 0)));
}

TEST(ReferenceAffine, OffsetCancels) {  // w + offset is 0 everywhere: what remains is within the bound, near 0
  Case c = Affine(DType::kFloat32, {{3}, 300, 13}, 69);
  c.w.assign(c.w.size(), 77);
  AddOffset(&c, std::vector<float>(13, -77.0f));
  Judged(std::move(c));
}

TEST(ReferenceAffine, RowSumIsRoundedOnce) {
  // 2^24 + 1 + 1 in fp32 steps stays 2^24; in double it is 2^24 + 2. The weights are 0, so offset * X is all there is.
  Case c = Affine(DType::kFloat32, {{1}, 3, 1}, 70);
  SetX(&c, DType::kFloat32, {0x1p24f, 1, 1});
  c.w = {0, 0, 0};
  c.scale = {1};
  AddOffset(&c, {1});
  reference::Run(c.problem);
  EXPECT_EQ(Load(c.y.data(), DType::kFloat32, 0), 0x1.000002p+24f);
}

TEST(ReferenceAffine, KAscendingInOneLane) {
  // 2^24, then +1 three times, each lost (ties to even); any other order or lanes of partial sums would keep some.
  Case c = Affine(DType::kFloat32, {{1}, 4, 1}, 71);
  SetX(&c, DType::kFloat32, {0x1p24f, 1, 1, 1});
  c.w = {1, 1, 1, 1};
  c.scale = {1};
  reference::Run(c.problem);
  EXPECT_EQ(Load(c.y.data(), DType::kFloat32, 0), 0x1p24f);
}

TEST(ReferenceAffine, BiasBothDtypes) {
  Case c = Affine(DType::kBFloat16, {{3}, 40, 13}, 72);
  std::vector<uint16_t> narrow;
  std::vector<float> values;
  for (const float value : Uniform(13, 2.0f, 73)) {
    narrow.push_back(ToHalf(value));
    values.push_back(FromHalf(narrow.back()));
  }
  AddBias(&c, values);
  const Case wide = Judged(std::move(c));
  Case half = Affine(DType::kBFloat16, {{3}, 40, 13}, 72);
  half.problem.epilogue.bias = {DType::kFloat16, narrow.data(), 13, 0, 1, {}};
  reference::Run(half.problem);
  EXPECT_EQ(wide.y, half.y);
}

TEST(ReferenceAffine, EveryAct) {
  for (const DType dtype : kTypes) {
    for (const Activation activation : kActivations) {
      SCOPED_TRACE(testing::Message() << Name(dtype) << ", act_type " << static_cast<int>(activation));
      Case c = Affine(dtype, {{3}, 40, 13}, 74);
      c.problem.epilogue.activation = activation;
      Judged(std::move(c));
    }
  }
}

TEST(ReferenceAffine, EveryActWithLargeAndNanZ) {
  for (const Activation activation : kActivations) {
    Case c = Affine(DType::kFloat32, {{4}, 1, 1}, 75);
    SetX(&c, DType::kFloat32, {1e6f, -1e6f, kInf, FromBits(0xFFFFFFFF)});
    c.w = {1};
    c.scale = {1};
    c.problem.epilogue.activation = activation;
    reference::Run(c.problem);
    EXPECT_EQ(Load(c.y.data(), DType::kFloat32, 0), 1e6f);
    EXPECT_EQ(Load(c.y.data(), DType::kFloat32, 1), activation == Activation::kNone ? -1e6f : 0.0f);
    EXPECT_EQ(Load(c.y.data(), DType::kFloat32, 2), kInf);
    EXPECT_EQ(Bits(Load(c.y.data(), DType::kFloat32, 3)), kNanBits);
  }
}

TEST(ReferenceAffine, Fp16Overflow) {
  Case c = Affine(DType::kFloat16, {{4}, 1, 1}, 76);
  SetX(&c, DType::kFloat16, {65504, -65504, 516, 515.5f});
  c.w = {127};
  c.scale = {1};
  reference::Run(c.problem);  // 516 * 127 = 65532, above the tie 65520; 515.5 * 127 = 65468.5, rounded to 65472
  EXPECT_EQ(Load(c.y.data(), DType::kFloat16, 0), kInf);
  EXPECT_EQ(Load(c.y.data(), DType::kFloat16, 1), -kInf);
  EXPECT_EQ(Load(c.y.data(), DType::kFloat16, 2), kInf);
  EXPECT_EQ(Load(c.y.data(), DType::kFloat16, 3), 65472);
}

TEST(ReferenceAffine, NanRow) {
  const Case clean = Judged(Affine(DType::kFloat16, {{3}, 10, 4}, 77));
  Case c = Affine(DType::kFloat16, {{3}, 10, 4}, 77);
  std::vector<float> values = c.x_values;
  values[14] = kNan;
  SetX(&c, DType::kFloat16, values);
  reference::Run(c.problem);
  for (int64_t j = 0; j < 4; ++j) {
    uint16_t bits;
    std::memcpy(&bits, c.y.data() + (4 + j) * 2, sizeof(bits));
    EXPECT_EQ(bits, 0x7E00);
  }
  EXPECT_EQ(0, std::memcmp(c.y.data(), clean.y.data(), 8));
  EXPECT_EQ(0, std::memcmp(c.y.data() + 16, clean.y.data() + 16, 8));
}

TEST(ReferenceAffine, IntegerExact) {  // every partial sum is an integer below 2^24: y is exact but for one rounding
  for (const DType dtype : kTypes) {
    Case c = Affine(dtype, {{2, 3}, 200, 13}, 78);
    std::vector<float> x = Uniform(c.m * 200, 7.0f, 79), offset = Uniform(26, 9.0f, 80), bias = Uniform(26, 1e4f, 81);
    for (std::vector<float>* values : {&x, &offset, &bias}) {
      for (float& value : *values) value = std::nearbyint(value);
    }
    for (float& value : bias) value /= 4;  // multiples of the scale
    SetX(&c, dtype, x);
    c.scale.assign(26, 0.25f);
    AddOffset(&c, offset);
    AddBias(&c, bias);
    reference::Run(c.problem);
    for (const RowRange& range : c.problem.rows) {
      for (int64_t at = range.begin * 13; at < range.end * 13; ++at) {
        int64_t sum = 0;  // in units of 1/4
        for (int64_t kk = 0; kk < 200; ++kk) {
          const auto w = c.W(range.expert, kk, at % 13) + static_cast<int64_t>(c.Of(offset, range.expert, at % 13));
          sum += static_cast<int64_t>(x[static_cast<size_t>(at / 13 * 200 + kk)]) * w;
        }
        sum += static_cast<int64_t>(4 * c.Of(bias, range.expert, at % 13));
        uint32_t expected = 0;
        Store(&expected, dtype, 0, static_cast<float>(static_cast<double>(sum) / 4));
        EXPECT_EQ(Load(c.y.data(), dtype, at), Load(&expected, dtype, 0));
      }
    }
  }
}

TEST(ReferenceAffine, TailRowsZero) {
  Case c = Affine(DType::kBFloat16, {{1, 0}, 5, 3, 1, 2}, 82);
  AddBias(&c, std::vector<float>(6, 9.0f));
  reference::Run(c.problem);
  for (size_t byte = 3 * 2; byte < c.y.size(); ++byte) EXPECT_EQ(c.y[byte], 0);
}

}  // namespace
}  // namespace qgmm::reference
