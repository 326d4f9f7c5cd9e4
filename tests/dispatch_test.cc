// SPDX-License-Identifier: Apache-2.0
// Which kernel a block gets, and which ISA a call may use: Context::max_isa, QGMM_MAX_ISA, the machine.
#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cpu/kernel.h"
#include "qgmm/types.h"

namespace qgmm::cpu {
namespace {

TEST(ChooseKernel, AlwaysOneThatFits) {
  for (const Product product : {Product::kInt8, Product::kInt4, Product::kFloat, Product::kFixed16}) {
    for (const Isa isa : MachineIsas()) {
      for (const int64_t rows : {1, 2, 8, 9, 64, 256}) {
        for (int64_t slice = 1; slice <= 70; ++slice) {
          for (const int64_t k : {slice, 3 * slice}) {
            const Kernel& kernel = ChooseKernel(product, slice, k, rows, isa);
            ASSERT_EQ(kernel.product, product);
            ASSERT_LE(kernel.isa, isa);
            ASSERT_LE(kernel.min_rows, rows);
            ASSERT_TRUE(slice == k || slice % kernel.slice_step == 0) << kernel.name << ", slice " << slice;
          }
        }
      }
    }
  }
}

TEST(ChooseKernel, ScalarForOddSlicesAndOldMachines) {
  EXPECT_STREQ(ChooseKernel(Product::kInt8, 64, 64, 1, Isa::kScalar).name, "scalar_int8");
  EXPECT_STREQ(ChooseKernel(Product::kInt4, 64, 64, 100, Isa::kScalar).name, "scalar_int4");
  EXPECT_STREQ(ChooseKernel(Product::kFloat, 64, 64, 9, Isa::kScalar).name, "scalar_float");
  for (const int64_t rows : {1, 100}) {
    EXPECT_STREQ(ChooseKernel(Product::kInt8, 3, 9, rows, Isa::kAvx2).name, "scalar_int8");
    EXPECT_STREQ(ChooseKernel(Product::kInt4, 4, 12, rows, Isa::kAvx2).name, "scalar_int4");
  }
}

#if defined(__x86_64__)
TEST(ChooseKernel, Avx2ByRows) {
  if (!HasIsa(Isa::kAvx2)) GTEST_SKIP() << "not run: this machine has no avx2";
  const std::string of_two = HasTwoStreams() ? "_pair" : "";
  EXPECT_EQ(ChooseKernel(Product::kInt8, 3, 3, 2, Isa::kAvx2).name, "avx2_wide" + of_two);
  EXPECT_STREQ(ChooseKernel(Product::kInt8, 3, 3, 3, Isa::kAvx2).name, "avx2_wide");
  EXPECT_STREQ(ChooseKernel(Product::kInt8, 300, 1200, 256, Isa::kAvx2).name, "avx2_wide_unpacked");
  EXPECT_EQ(ChooseKernel(Product::kInt4, 8, 64, 2, Isa::kAvx2).name, "avx2_int4" + of_two);
  EXPECT_STREQ(ChooseKernel(Product::kInt4, 8, 64, 3, Isa::kAvx2).name, "avx2_int4");
  EXPECT_STREQ(ChooseKernel(Product::kInt4, 64, 64, 256, Isa::kAvx2).name, "avx2_int4");
  for (const auto& [promise, name] :
       {std::pair(Certificate::kPairs, "avx2_pairs"), std::pair(Certificate::kQuads, "avx2_quads")}) {
    EXPECT_EQ(ChooseKernel(Product::kInt8, 64, 64, 2, Isa::kAvx2, promise).name, name + of_two);
    EXPECT_STREQ(ChooseKernel(Product::kInt8, 64, 64, 3, Isa::kAvx2, promise).name, name);
  }
  EXPECT_STREQ(ChooseKernel(Product::kFloat, 7, 7, 2, Isa::kAvx2).name, "avx2_float_pair");
  EXPECT_STREQ(ChooseKernel(Product::kFloat, 7, 7, 3, Isa::kAvx2).name, "avx2_float");
  EXPECT_STREQ(ChooseKernel(Product::kFloat, 7, 7, 17, Isa::kAvx2).name, "avx2_float");
  EXPECT_STREQ(ChooseKernel(Product::kFloat, 7, 7, 18, Isa::kAvx2).name, "avx2_float_unpacked");
  EXPECT_STREQ(ChooseKernel(Product::kFixed16, kFixedSlice, 7, 2, Isa::kAvx2).name, "avx2_fixed_pair");
  EXPECT_STREQ(ChooseKernel(Product::kFixed16, kFixedSlice, 7, 3, Isa::kAvx2).name, "avx2_fixed");
  EXPECT_STREQ(ChooseKernel(Product::kFixed16, kFixedSlice, 7168, 256, Isa::kAvx2).name, "avx2_fixed_unpacked");
}

TEST(ChooseKernel, AvxVnniInt8TakesInt8Only) {
  if (!HasIsa(Isa::kAvxVnniInt8)) GTEST_SKIP() << "not run: this machine has no avxvnniint8";
  for (const int64_t rows : {3, 100}) {
    EXPECT_STREQ(ChooseKernel(Product::kInt8, 64, 128, rows, Isa::kAvxVnniInt8).name, "avxvnniint8_int8");
    EXPECT_STREQ(ChooseKernel(Product::kInt8, 3, 9, rows, Isa::kAvxVnniInt8).name, "scalar_int8");
    const Kernel& int4 = ChooseKernel(Product::kInt4, 64, 128, rows, Isa::kAvxVnniInt8);
    EXPECT_STREQ(int4.name, HasIsa(Isa::kAvxVnni) ? "avxvnni_int4" : "avx2_int4");
    if (!HasIsa(Isa::kAvx512Vnni)) continue;
    EXPECT_EQ(ChooseKernel(Product::kInt8, 64, 128, rows, Isa::kAvx512Vnni).isa, Isa::kAvx512Vnni) << "twice as wide";
  }
}

const int64_t kVnniPairFrom = __builtin_cpu_is("amd") ? 17 : 8;

TEST(ChooseKernel, Avx512VnniAtAnyRows) {
  if (!HasIsa(Isa::kAvx512Vnni)) GTEST_SKIP() << "not run: this machine has no avx512vnni";
  for (const int64_t rows : {3, 7, 8, 16, 17, 100}) {
    EXPECT_STREQ(ChooseKernel(Product::kInt8, 64, 128, rows, Isa::kAvx512Vnni).name,
                 rows < kVnniPairFrom ? "avx512vnni_int8" : "avx512vnni_int8_pair");
    EXPECT_STREQ(ChooseKernel(Product::kFixed16, kFixedSlice, 7168, rows, Isa::kAvx512Vnni).name, "avx512vnni_fixed");
    const bool unpacked = rows >= 17 && HasTwoPorts();
    EXPECT_STREQ(ChooseKernel(Product::kInt4, 64, 128, rows, Isa::kAvx512Vnni).name,
                 unpacked ? "avx512vnni_int4_unpacked" : "avx512vnni_int4");
    EXPECT_STREQ(ChooseKernel(Product::kFloat, 9, 9, rows, Isa::kAvx512Vnni).name,
                 unpacked ? "avx512_float_unpacked" : "avx512_float");
    EXPECT_STREQ(ChooseKernel(Product::kInt8, 3, 9, rows, Isa::kAvx512Vnni).name, "scalar_int8");
  }
}

TEST(ChooseKernel, AmxFromNineRowsHalfStepsForHalfSlices) {
  if (!HasIsa(Isa::kAmx)) GTEST_SKIP() << "not run: this machine has no amx";
  const auto name = [](Product product, int64_t slice, int64_t k, int64_t rows) {
    return std::string(ChooseKernel(product, slice, k, rows, Isa::kAmx).name);
  };
  EXPECT_EQ(name(Product::kInt8, 70, 70, 7), "avx512vnni_int8");
  const char* of_eight = kVnniPairFrom > 8 ? "avx512vnni_int8" : "avx512vnni_int8_pair";
  EXPECT_EQ(name(Product::kInt8, 70, 70, 8), of_eight);
  EXPECT_EQ(name(Product::kInt8, 70, 70, 9), "amx_int8");
  EXPECT_EQ(name(Product::kInt8, 128, 256, 9), "amx_int8");
  EXPECT_EQ(name(Product::kInt8, 32, 256, 8), of_eight);
  EXPECT_EQ(name(Product::kInt8, 32, 256, 9), "amx_int8_half");
  EXPECT_EQ(name(Product::kInt8, 96, 288, 256), "amx_int8_half");
  EXPECT_EQ(name(Product::kInt8, 16, 256, 256), "avx512vnni_int8_pair") << "slices that are no whole tiles";
  EXPECT_EQ(name(Product::kInt4, 128, 256, 8), "avx512vnni_int4");
  EXPECT_EQ(name(Product::kInt4, 128, 256, 9), "amx_int4");
  EXPECT_EQ(name(Product::kInt4, 64, 256, 256), "amx_int4");
  EXPECT_EQ(name(Product::kInt4, 32, 256, 256), "amx_int4_half");
  EXPECT_EQ(name(Product::kInt4, 40, 240, 16), "avx512vnni_int4");
  EXPECT_EQ(name(Product::kInt4, 40, 240, 256), "avx512vnni_int4_unpacked");
  EXPECT_EQ(name(Product::kFloat, 64, 64, 256), "avx512_float_unpacked");
  EXPECT_EQ(name(Product::kFixed16, 512, 1024, 9), "amx_fixed");
  EXPECT_NE(name(Product::kFixed16, 512, 1024, 8), "amx_fixed");
}
#elif defined(__aarch64__)
TEST(ChooseKernel, NeonByRows) {
  EXPECT_STREQ(ChooseKernel(Product::kInt8, 3, 3, 1, Isa::kNeon).name, "neon_int8");
  EXPECT_STREQ(ChooseKernel(Product::kInt4, 8, 64, 256, Isa::kNeon).name, "neon_int4");
  EXPECT_STREQ(ChooseKernel(Product::kFloat, 7, 7, 1, Isa::kNeon).name, "neon_float");
  EXPECT_STREQ(ChooseKernel(Product::kFloat, 7, 7, 256, Isa::kNeon).name, "neon_float_unpacked");
}

TEST(ChooseKernel, NeonI8mmByRows) {
  if (!HasIsa(Isa::kNeonI8mm)) GTEST_SKIP() << "not run: this machine has no neoni8mm";
  for (const Product product : {Product::kInt8, Product::kInt4}) {
    const std::string type = product == Product::kInt8 ? "int8" : "int4";
    EXPECT_EQ(ChooseKernel(product, 64, 128, 256, Isa::kNeonDot).name, "neondot_" + type);
    EXPECT_EQ(ChooseKernel(product, 64, 128, 3, Isa::kNeonI8mm).name, "neondot_" + type) << "few rows";
    EXPECT_EQ(ChooseKernel(product, 64, 128, 4, Isa::kNeonI8mm).name, "neoni8mm_" + type);
    EXPECT_EQ(ChooseKernel(product, 64, 128, 256, Isa::kNeonI8mm).name, "neoni8mm_" + type + "_zipped");
  }
  EXPECT_STREQ(ChooseKernel(Product::kInt8, 12, 48, 256, Isa::kNeonI8mm).name, "neoni8mm_int8") << "slices of odd lines";
}
#endif

/// QGMM_MAX_ISA is absent at first and as before at the end.
class MaxIsa : public testing::Test {
 protected:
  void SetUp() override {
    if (const char* text = std::getenv("QGMM_MAX_ISA")) before_ = text;
    unsetenv("QGMM_MAX_ISA");
  }
  void TearDown() override {
    if (before_) {
      setenv("QGMM_MAX_ISA", before_->c_str(), 1);
    } else {
      unsetenv("QGMM_MAX_ISA");
    }
  }
  static std::string Refusal(int limit) {
    try {
      ChosenIsa(limit);
    } catch (const InvalidArgument& refusal) {
      return refusal.what();
    }
    return "accepted";
  }
  std::optional<std::string> before_;
};

TEST_F(MaxIsa, TheBestUnlessALimitSaysOtherwise) {
  EXPECT_EQ(ChosenIsa(-1), BestIsa());
  EXPECT_EQ(ChosenIsa(0), Isa::kScalar);
  EXPECT_EQ(ChosenIsa(static_cast<int>(BestIsa())), BestIsa());
  setenv("QGMM_MAX_ISA", "", 1);
  EXPECT_EQ(ChosenIsa(-1), BestIsa());
  setenv("QGMM_MAX_ISA", "scalar", 1);
  EXPECT_EQ(ChosenIsa(-1), Isa::kScalar);
  EXPECT_EQ(ChosenIsa(static_cast<int>(BestIsa())), BestIsa()) << "the Context's own limit goes first";
}

TEST_F(MaxIsa, WhatTheMachineDoesNotHaveIsRefusedWithAListOfWhatItHas) {
  std::string names, numbers;
  for (const Isa isa : MachineIsas()) {
    names += (names.empty() ? "" : ", ") + std::string(Name(isa));
    numbers += (numbers.empty() ? "" : ", ") + std::to_string(static_cast<int>(isa)) + " " + Name(isa);
  }
  std::vector<std::string> unknown = {"avx9", "AVX2", "0", "scalar "};
  std::vector<int> numbers_unknown = {10, 1000};
  for (int isa = 0; isa <= 9; ++isa) {
    if (HasIsa(static_cast<Isa>(isa))) continue;
    unknown.push_back(Name(static_cast<Isa>(isa)));
    numbers_unknown.push_back(isa);
  }
  for (const std::string& text : unknown) {
    setenv("QGMM_MAX_ISA", text.c_str(), 1);
    EXPECT_EQ(Refusal(-1), "[qgmm] QGMM_MAX_ISA must be what this machine has (" + names + "); got " + text);
  }
  for (const int number : numbers_unknown) {
    EXPECT_EQ(Refusal(number), "[qgmm] Context::max_isa must be an Isa that this machine has (" + numbers + "); got " +
                                   std::to_string(number));
  }
}

TEST_F(MaxIsa, EveryIsaOfTheMachineCanBeForced) {
  for (const Isa isa : MachineIsas()) {
    setenv("QGMM_MAX_ISA", Name(isa), 1);
    EXPECT_EQ(ChosenIsa(-1), isa);
    EXPECT_EQ(ChosenIsa(static_cast<int>(isa)), isa);
  }
}

TEST(StagesFor, TheIsasOwn) {
  EXPECT_EQ(StagesFor(Isa::kScalar).isa, Isa::kScalar);
#if defined(__x86_64__)
  EXPECT_EQ(StagesFor(Isa::kAvx2).isa, Isa::kAvx2);
  EXPECT_EQ(StagesFor(Isa::kAvxVnni).isa, Isa::kAvx2) << "needs none of its own";
  EXPECT_EQ(StagesFor(Isa::kAvx512Vnni).isa, HasIsa(Isa::kAvx512) ? Isa::kAvx512 : Isa::kAvx2);
#elif defined(__aarch64__)
  EXPECT_EQ(StagesFor(Isa::kNeon).isa, Isa::kNeon);
  EXPECT_EQ(StagesFor(Isa::kNeonI8mm).isa, Isa::kNeon) << "needs none of its own";
#endif
}

}  // namespace
}  // namespace qgmm::cpu
