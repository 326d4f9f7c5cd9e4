// SPDX-License-Identifier: Apache-2.0
// Exp and Silu as the kernels compute them, over all 2^32 inputs: the checksums of docs/operators.md, section 2.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <thread>
#include <vector>

#include "cpu/kernel.h"
#include "numeric.h"

namespace qgmm::cpu {
namespace {

uint64_t BitsCanonical(float v) { return v != v ? kNanBits : Bits(v); }

/// Sum over u = begin, begin + stride, ... < end of the contract's mix of both results.
uint64_t Checksum(const Stages& stages, uint64_t begin, uint64_t end, uint64_t stride) {
  constexpr int kChunk = 1024;
  std::vector<float> t(kChunk), exp(kChunk), silu(kChunk);
  uint64_t sum = 0;
  for (uint64_t u = begin; u < end;) {
    int count = 0;
    for (uint64_t v = u; count < kChunk && v < end; v += stride) t[count++] = FromBits(static_cast<uint32_t>(v));
    stages.exp_silu(t.data(), count, exp.data(), silu.data());
    for (int i = 0; i < count; ++i, u += stride) {
      const uint64_t x = BitsCanonical(exp[i]), y = BitsCanonical(silu[i]);
      sum += (y * 0x9E3779B97F4A7C15) ^ (x * 0xC2B2AE3D27D4EB4F + u);
    }
  }
  return sum;
}

/// By two threads; the first half ends at a multiple of the stride.
uint64_t ChecksumOfAll(const Stages& stages, uint64_t stride) {
  const uint64_t end = uint64_t{1} << 32, half = (end / 2 / stride) * stride;
  uint64_t first = 0;
  std::thread other([&] { first = Checksum(stages, 0, half, stride); });
  const uint64_t second = Checksum(stages, half, end, stride);
  other.join();
  return first + second;
}

TEST(Math, ChecksumStrided) {
  for (int isa = 0; isa <= static_cast<int>(BestIsa()); ++isa) {
    const Stages& stages = StagesFor(static_cast<Isa>(isa));
    ASSERT_EQ(static_cast<int>(stages.isa), isa);
    EXPECT_EQ(ChecksumOfAll(stages, 61), 0xF5DDC917CD9E0338) << Name(stages.isa);
  }
}

// Once, by the best ISA: the strided one compares the ISAs.
TEST(Math, ChecksumAll) {
  if (std::getenv("QGMM_TEST_SMALL")) GTEST_SKIP() << "all 2^32 inputs of Exp and Silu take minutes in this build";
  if (BestIsa() == Isa::kScalar) GTEST_SKIP() << "all 2^32 inputs of Exp and Silu take minutes without AVX2";
  EXPECT_EQ(ChecksumOfAll(StagesFor(BestIsa()), 1), 0xC8B6A01705993496);
}

}  // namespace
}  // namespace qgmm::cpu
