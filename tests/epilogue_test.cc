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

/// Codes of every dtype, count and stride against the reference, which sees the same row maximum.
TEST_P(Epilogue, QuantizeStridesAndTails) {
  for (const DType dtype : {DType::kInt8, DType::kInt4, DType::kFloat8E4M3, DType::kFloat8E5M2}) {
    for (int count = 1; count <= 41; ++count) {
      for (const float size : {1.0f, 1e-30f, 1e30f, 0x1p-147f}) {  // the last: subnormal scales, where the clamp acts
        std::vector<float> v = Values(static_cast<size_t>(count), static_cast<uint32_t>(count), 0);
        for (float& value : v) value *= size;
        if (count > 3) v[1] = 0.0f, v[2] = -0.0f;
        std::vector<uint8_t> expected(v.size());
        const float scale = reference::QuantizeRow(v.data(), count, dtype, expected.data());
        if (scale == 0) continue;  // such rows never get here
        for (const int64_t stride : {1, 2, 3, -1}) {
          std::vector<uint8_t> q(static_cast<size_t>(3 * count + 16), 0xAB), wanted = q;
          uint8_t* out = q.data() + (stride < 0 ? count : 8);
          for (int j = 0; j < count; ++j)
            wanted[static_cast<size_t>(out - q.data() + j * stride)] = expected[static_cast<size_t>(j)];
          stages().quantize(v.data(), count, scale, dtype, out, stride);
          ASSERT_EQ(q, wanted) << Name(dtype) << ", count " << count << ", size " << size << ", stride " << stride;
        }
      }
    }
  }
}

TEST_P(Epilogue, QuantizeTiesAndClamp) {
  const std::vector<float> v = {0.5f,   1.5f,    2.5f,    -0.5f,  -1.5f,  -2.5f,
                                126.5f, -126.5f, 127.49f, 127.5f, 300.0f, -300.0f};
  const std::vector<int> int8 = {0, 2, 2, 0, -2, -2, 126, -126, 127, 127, 127, -127};
  const std::vector<int> int4 = {0, 2, 2, 0, -2, -2, 7, -7, 7, 7, 7, -7};
  for (const DType dtype : {DType::kInt8, DType::kInt4}) {
    std::vector<uint8_t> q(v.size());
    stages().quantize(v.data(), static_cast<int>(v.size()), 1.0f, dtype, q.data(), 1);
    for (size_t j = 0; j < v.size(); ++j) {
      EXPECT_EQ(static_cast<int8_t>(q[j]), (dtype == DType::kInt8 ? int8 : int4)[j]) << v[j] << " as " << Name(dtype);
    }
  }
}

TEST_P(Epilogue, WidenRow) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat32}) {
    for (int count = 1; count <= 40; ++count) {
      for (const int64_t stride : {1, 3, -2}) {
        for (const int special : {0, 20}) {
          const size_t room = static_cast<size_t>(3 * count + 3);
          const std::vector<float> values = Values(room, static_cast<uint32_t>(count), special),
                                   smooth = Values(room, 9, special);
          std::vector<uint8_t> x(room * static_cast<size_t>(Bytes(dtype)));
          for (size_t i = 0; i < room; ++i) Store(x.data(), dtype, static_cast<int64_t>(i), values[i]);
          const int64_t first = stride < 0 ? 2 * count : 1;
          for (const float* factors : {static_cast<const float*>(nullptr), smooth.data()}) {
            std::vector<float> out(static_cast<size_t>(count) + 8, -7.0f);
            const uint32_t top =
                stages().widen_row(x.data() + first * Bytes(dtype), dtype, stride, factors, count, out.data());
            uint32_t expected_top = 0;
            for (int j = 0; j < count; ++j) {
              float v = Load(x.data(), dtype, first + j * stride);
              if (factors) v = v * factors[j];
              ASSERT_EQ(CanonicalBits(out[static_cast<size_t>(j)]), CanonicalBits(v))
                  << Name(dtype) << ", count " << count << ", " << j;
              expected_top = std::max(expected_top, CanonicalBits(v) & 0x7FFFFFFFu);
            }
            EXPECT_TRUE(top == expected_top || (top > 0x7F800000u && expected_top > 0x7F800000u))
                << Name(dtype) << ", count " << count;
            for (size_t j = static_cast<size_t>(count); j < out.size(); ++j) ASSERT_EQ(out[j], -7.0f);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace qgmm::cpu
