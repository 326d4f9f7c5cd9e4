// SPDX-License-Identifier: Apache-2.0
// The float stages of every ISA that work on rows: the checksums of Exp and Silu, and each stage against its formula,
// one IEEE operation at a time, strides, tails and special values included. Strips are in finish_test.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cpu/kernel.h"
#include "numeric.h"
#include "reference.h"
#include "stage_isas.h"

namespace qgmm::cpu {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int kRow = kPairColumns;

uint32_t CanonicalBits(float v) { return std::isnan(v) ? kNanBits : Bits(v); }

/// Normal values, with zeros, subnormals, huge ones, Inf and NaN among them; `special` of 100.
std::vector<float> Values(size_t count, uint32_t seed, int special = 20) {
  static const float kSpecial[] = {0.0f, -0.0f, FromBits(1), -FromBits(0x7FFFFF), 3.4e38f, -3.4e38f, kInf, -kInf, kNan};
  std::mt19937 random(seed);
  std::normal_distribution<float> bell(0.0f, 5.0f);
  std::vector<float> v(count);
  for (float& value : v) value = static_cast<int>(random() % 100) < special ? kSpecial[random() % 9] : bell(random);
  return v;
}

std::vector<int32_t> Integers(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> v(count);
  for (int32_t& value : v)
    value = random() % 8 ? static_cast<int32_t>(random() % 400000) - 200000 : static_cast<int32_t>(random());
  v[0] = INT32_MIN, v[count - 1] = INT32_MAX;
  return v;
}

class Epilogue : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (GetParam() > ChosenIsa(-1) || !HasIsa(GetParam())) {
      GTEST_SKIP() << "not run: " << Name(GetParam()) << " stages, this run has " << Name(ChosenIsa(-1));
    }
    ASSERT_EQ(stages().isa, GetParam());
  }
  const Stages& stages() const { return StagesFor(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Stages, Epilogue, testing::ValuesIn(kStageIsas),
                         [](const testing::TestParamInfo<Isa>& info) { return std::string(Name(info.param)); });

/// The checksum of docs/operators.md, section 2, over u = stride * [begin, end).
uint64_t Checksum(const Stages& stages, uint64_t begin, uint64_t end, uint64_t stride) {
  constexpr int kBatch = 4096;
  std::vector<float> t(kBatch), exp(kBatch), silu(kBatch);
  uint64_t sum = 0;
  for (uint64_t first = begin; first < end; first += kBatch) {
    const int count = static_cast<int>(std::min<uint64_t>(kBatch, end - first));
    for (int i = 0; i < kBatch; ++i)
      t[static_cast<size_t>(i)] = FromBits(static_cast<uint32_t>((first + static_cast<uint64_t>(i)) * stride));
    stages.exp_silu(t.data(), kBatch, exp.data(), silu.data());
    for (int i = 0; i < count; ++i) {
      const uint64_t u = (first + static_cast<uint64_t>(i)) * stride;
      const uint64_t x = CanonicalBits(exp[static_cast<size_t>(i)]), y = CanonicalBits(silu[static_cast<size_t>(i)]);
      sum += (y * 0x9E3779B97F4A7C15u) ^ (x * 0xC2B2AE3D27D4EB4Fu + u);
    }
  }
  return sum;
}

uint64_t ChecksumOnTwoThreads(const Stages& stages, uint64_t count, uint64_t stride) {
  uint64_t first = 0;
  std::thread other([&] { first = Checksum(stages, 0, count / 2, stride); });
  const uint64_t second = Checksum(stages, count / 2, count, stride);
  other.join();
  return first + second;
}

/// All inputs once, on the best ISA; scalar code would take minutes, QGMM_TEST_SMALL=1 leaves the strided ones.
TEST(ExpSilu, ChecksumAll) {
  const char* small = std::getenv("QGMM_TEST_SMALL");
  if (small && *small == '1') GTEST_SKIP() << "not run: QGMM_TEST_SMALL=1 leaves ChecksumStrided";
  if (ChosenIsa(-1) == Isa::kScalar) GTEST_SKIP() << "not run: scalar code would take minutes; ChecksumStrided runs";
  EXPECT_EQ(ChecksumOnTwoThreads(StagesFor(ChosenIsa(-1)), uint64_t{1} << 32, 1), 0xC8B6A01705993496u);
}

TEST_P(Epilogue, ChecksumStrided) {
  EXPECT_EQ(ChecksumOnTwoThreads(stages(), ((uint64_t{1} << 32) + 60) / 61, 61), 0xF5DDC917CD9E0338u);
}

/// Any count, nothing behind it written.
TEST_P(Epilogue, ExpSiluTails) {
  for (int count = 1; count <= 20; ++count) {
    const std::vector<float> t = Values(static_cast<size_t>(count), static_cast<uint32_t>(count));
    std::vector<float> exp(t.size() + 8, -7.0f), silu = exp;
    stages().exp_silu(t.data(), count, exp.data(), silu.data());
    for (size_t i = 0; i < exp.size(); ++i) {
      EXPECT_EQ(CanonicalBits(exp[i]), CanonicalBits(i < t.size() ? reference::Exp(t[i]) : -7.0f))
          << count << ", " << i;
      EXPECT_EQ(CanonicalBits(silu[i]), CanonicalBits(i < t.size() ? reference::Silu(t[i]) : -7.0f))
          << count << ", " << i;
    }
  }
}

TEST_P(Epilogue, FoldOfSlices) {
  const int rows = 5;
  const std::vector<int32_t> acc = Integers(rows * kRow, 1);
  const std::vector<float> scale = Values(kRow, 2), before = Values(rows * kRow, 3);
  for (const bool first : {true, false}) {
    std::vector<float> c = before;
    c.resize(c.size() + 8, -7.0f);
    stages().fold(acc.data(), scale.data(), first, rows, c.data());
    for (size_t i = 0; i < before.size(); ++i) {
      const float expected = std::fma(static_cast<float>(acc[i]), scale[i % kRow], first ? 0.0f : before[i]);
      EXPECT_EQ(CanonicalBits(c[i]), CanonicalBits(expected)) << i << ", " << acc[i] << " * " << scale[i % kRow];
    }
    for (size_t i = before.size(); i < c.size(); ++i) EXPECT_EQ(c[i], -7.0f);
  }
}

/// One row as it lies.
QuantizeArgs OneRow(const void* x, DType dtype, int64_t count, const float* scale, DType code, uint8_t* q) {
  QuantizeArgs args = {};
  args.x = x;
  args.dtype = dtype;
  args.panel_stride = kPanelColumns;
  args.count = count;
  args.rows = 1;
  args.scales = scale;
  args.code = code;
  args.q = q;
  args.q_stride = 1;
  return args;
}

constexpr DType kCodeTypes[] = {DType::kInt8, DType::kInt4, DType::kFloat8E4M3, DType::kFloat8E5M2};

/// Codes of every dtype, count, stride and number of rows against the reference, which sees the same row maximum.
TEST_P(Epilogue, QuantizeStridesAndTails) {
  for (const DType code : kCodeTypes) {
    for (int count = 1; count <= 41; ++count) {
      for (const float size : {1.0f, 1e-30f, 1e30f, 0x1p-147f}) {  // the last: subnormal scales, where the clamp acts
        const int rows = 1 + count % kQuantizeRows, panels = (count + 15) / 16, panel_stride = (rows + 1) * 16;
        const size_t reach = static_cast<size_t>(rows) * 128 + 16;
        std::vector<float> x(static_cast<size_t>(panels * panel_stride), kNan), scales;
        std::vector<std::vector<uint8_t>> expected;
        for (int i = 0; i < rows; ++i) {
          std::vector<float> v = Values(static_cast<size_t>(count), static_cast<uint32_t>(count + 64 * i), 0);
          for (float& value : v) value *= size;
          if (count > 3) v[1] = 0.0f, v[2] = -0.0f;
          expected.emplace_back(v.size());
          scales.push_back(reference::QuantizeRow(v.data(), count, code, expected.back().data()));
          for (int j = 0; j < count; ++j) {
            x[static_cast<size_t>(j / 16 * panel_stride + i * 16 + j % 16)] = v[static_cast<size_t>(j)];
          }
        }
        if (std::count(scales.begin(), scales.end(), 0.0f) > 0) continue;  // such rows never get here
        for (const int64_t stride : {1, 2, 3, -1}) {
          std::vector<uint8_t> q(reach, 0xAB), wanted = q;
          uint8_t* out = q.data() + (stride < 0 ? count : 8);
          QuantizeArgs args = OneRow(x.data(), DType::kFloat32, count, scales.data(), code, out);
          args.panel_stride = panel_stride;
          args.rows = rows;
          args.q_row_stride = 125;
          args.q_stride = stride;
          for (int i = 0; i < rows; ++i) {
            for (int j = 0; j < count; ++j) {
              wanted[static_cast<size_t>(out - q.data() + i * args.q_row_stride + j * stride)] =
                  expected[static_cast<size_t>(i)][static_cast<size_t>(j)];
            }
          }
          stages().quantize(args);
          ASSERT_EQ(q, wanted) << Name(code) << ", count " << count << ", size " << size << ", stride " << stride;
        }
      }
    }
  }
}

/// Rows of every float dtype, with smooth and without.
TEST_P(Epilogue, QuantizeStoredRows) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat32}) {
    for (const DType code : kCodeTypes) {
      for (const int count : {5, 16, 48, 77}) {
        const size_t size = static_cast<size_t>(count);
        const std::vector<float> values = Values(size, static_cast<uint32_t>(count), 0), smooth = Values(size, 9, 0);
        std::vector<uint8_t> x(size * static_cast<size_t>(Bytes(dtype)));
        for (int j = 0; j < count; ++j) Store(x.data(), dtype, j, values[static_cast<size_t>(j)]);
        for (const float* factors : {static_cast<const float*>(nullptr), smooth.data()}) {
          std::vector<float> v(size);
          for (int j = 0; j < count; ++j) {
            const size_t at = static_cast<size_t>(j);
            v[at] = Load(x.data(), dtype, j);
            if (factors) v[at] = v[at] * factors[at];
          }
          std::vector<uint8_t> q(size + 8, 0xAB), wanted = q;
          const float scale = reference::QuantizeRow(v.data(), count, code, wanted.data());
          QuantizeArgs args = OneRow(x.data(), dtype, count, &scale, code, q.data());
          args.smooth = factors;
          stages().quantize(args);
          ASSERT_EQ(q, wanted) << Name(dtype) << " to " << Name(code) << ", count " << count;
        }
      }
    }
  }
}

/// v / scale rounds to a tie n + 1/2 in an interval between two points of 25 bits: tries the two v beside either of them, for
/// each n below 127 and scales of mantissas first, first + step, ... in [0, 2^23), of varying exponent and sign. No division
/// is needed to know the codes: fp64 holds a point times a scale. Returns how many are wrong.
int64_t WrongBesideTies(const Stages& stages, uint32_t first, uint32_t end, uint32_t step) {
  constexpr int kTies = 127, kCount = 4 * kTies;
  std::vector<float> v(kCount), tie(kTies);
  std::vector<double> low(kTies), high(kTies);
  std::vector<int> code(kCount);
  std::vector<uint8_t> q(kCount);
  for (size_t n = 0; n < kTies; ++n) {
    tie[n] = static_cast<float>(n) + 0.5f;
    low[n] = 0.5 * (double{tie[n]} + double{FromBits(Bits(tie[n]) - 1)});
    high[n] = 0.5 * (double{tie[n]} + double{FromBits(Bits(tie[n]) + 1)});
  }
  int64_t wrong = 0;
  for (uint32_t mantissa = first; mantissa < end; mantissa += step) {
    const float unit = FromBits(0x3F800000u | mantissa);
    const float power = FromBits((27 + mantissa * 2654435761u % 220) << 23);  // 2^-100 to 2^119
    const float sign = mantissa & 4 ? -1.0f : 1.0f, scale = unit * power;
    for (int j = 0; j < kCount; ++j) {
      const size_t at = static_cast<size_t>(j), n = at / 4;
      const double lower = low[n] * double{unit}, upper = high[n] * double{unit}, point = j & 1 ? upper : lower;
      const float near = static_cast<float>(point);  // beside it, as the product has 25 bits at least
      const bool wants_above = j & 2, is_above = double{near} > point;
      const float beside = FromBits(Bits(near) + static_cast<uint32_t>(wants_above) - static_cast<uint32_t>(is_above));
      const int even = static_cast<int>(n + n % 2);
      const int expected = beside < lower ? static_cast<int>(n) : beside > upper ? static_cast<int>(n) + 1 : even;
      code[at] = sign < 0 ? -expected : expected;
      v[at] = beside * power * sign;
    }
    stages.quantize(OneRow(v.data(), DType::kFloat32, kCount, &scale, DType::kInt8, q.data()));
    for (size_t at = 0; at < kCount; ++at) wrong += static_cast<int8_t>(q[at]) != code[at];
  }
  return wrong;
}

TEST_P(Epilogue, QuantizeBesideTies) { EXPECT_EQ(WrongBesideTies(stages(), 0, 1u << 23, 1021), 0); }

/// All scales once, on the best ISA: the proof that quantize-inl.h may do without a division.
TEST(Quantize, BesideTiesAll) {
  const char* small = std::getenv("QGMM_TEST_SMALL");
  if (small && *small == '1') GTEST_SKIP() << "not run: QGMM_TEST_SMALL=1 leaves QuantizeBesideTies";
  if (ChosenIsa(-1) == Isa::kScalar) GTEST_SKIP() << "not run: scalar code would take minutes; QuantizeBesideTies runs";
  const Stages& stages = StagesFor(ChosenIsa(-1));
  int64_t wrong = 0;
  std::thread other([&] { wrong = WrongBesideTies(stages, 0, 1u << 22, 1); });
  const int64_t wrong_too = WrongBesideTies(stages, 1u << 22, 1u << 23, 1);
  other.join();
  EXPECT_EQ(wrong + wrong_too, 0);
}

TEST_P(Epilogue, QuantizeTiesAndClamp) {
  const std::vector<float> few = {0.5f,   1.5f,    2.5f,    -0.5f,  -1.5f,  -2.5f,
                                  126.5f, -126.5f, 127.49f, 127.5f, 300.0f, -300.0f};
  const std::vector<int> int8 = {0, 2, 2, 0, -2, -2, 126, -126, 127, 127, 127, -127};
  const std::vector<int> int4 = {0, 2, 2, 0, -2, -2, 7, -7, 7, 7, 7, -7};
  std::vector<float> v;  // panels of 16, and a rest
  for (int i = 0; i < 3; ++i) v.insert(v.end(), few.begin(), few.end());
  for (const DType dtype : {DType::kInt8, DType::kInt4}) {
    std::vector<uint8_t> q(v.size());
    const float scale = 1.0f;
    stages().quantize(OneRow(v.data(), DType::kFloat32, static_cast<int64_t>(v.size()), &scale, dtype, q.data()));
    for (size_t j = 0; j < v.size(); ++j) {
      const int expected = (dtype == DType::kInt8 ? int8 : int4)[j % few.size()];
      EXPECT_EQ(static_cast<int8_t>(q[j]), expected) << v[j] << " as " << Name(dtype);
    }
  }
}

TEST_P(Epilogue, RowMax) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat32}) {
    for (int count = 1; count <= 80; ++count) {
      for (const int special : {0, 20}) {
        const size_t size = static_cast<size_t>(count);
        const std::vector<float> values = Values(size, static_cast<uint32_t>(count), special),
                                 smooth = Values(size, 9, special);
        std::vector<uint8_t> x((size + 1) * static_cast<size_t>(Bytes(dtype)));
        for (int j = 0; j < count; ++j) Store(x.data(), dtype, j, values[static_cast<size_t>(j)]);
        Store(x.data(), dtype, count, kInf);  // not part of the row
        for (const float* factors : {static_cast<const float*>(nullptr), smooth.data()}) {
          const uint32_t top = stages().row_max(x.data(), dtype, factors, count);
          uint32_t expected = 0;
          for (int j = 0; j < count; ++j) {
            float v = Load(x.data(), dtype, j);
            if (factors) v = v * factors[j];
            expected = std::max(expected, CanonicalBits(v) & 0x7FFFFFFFu);
          }
          EXPECT_TRUE(top == expected || (top > 0x7F800000u && expected > 0x7F800000u))
              << Name(dtype) << ", count " << count << ": " << top << ", " << expected;
        }
      }
    }
  }
}

}  // namespace
}  // namespace qgmm::cpu
