// SPDX-License-Identifier: Apache-2.0
// A machine that has AVX-VNNI-INT8, a build whose assembler lacks it: whoever asks is told.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "cpu/kernel.h"
#include "qgmm/ops.h"

namespace qgmm::cpu {
namespace {

constexpr char kReason[] = "which this build has no kernels for, as its assembler does not know the instructions";

class NotBuilt : public testing::Test {
 protected:
  void SetUp() override {
    if (!HasIsa(Isa::kAvx2)) GTEST_SKIP() << "not run: this machine has no avx2";
    unsetenv("QGMM_MAX_ISA");
  }
  void TearDown() override { unsetenv("QGMM_MAX_ISA"); }

  static std::string Plan(DType type) {
    const std::vector<uint8_t> x(64, 1), w(64 * 16, 1), results(64);
    const int64_t ends[1] = {1};
    const std::vector<float> scale(16, 1);
    GroupedMatmulArgs args;
    args.x = View(x.data(), DType::kInt8, {1, 64});
    const bool int4 = type == DType::kInt4;  // eight to an int32
    const TensorView weight = View(w.data(), int4 ? DType::kInt32 : type, {1, 64, int4 ? 2 : 16});
    const TensorView scales = View(scale.data(), DType::kFloat32, {1, 16});
    args.weight = weight;
    args.weight_scale = scales;
    args.group_list = View(ends, DType::kInt64, {1});
    args.out_dtype = DType::kFloat32;
    args.y = View(results.data(), DType::kFloat32, {1, 16});
    Context context;
    return Explain(args, context);
  }
};

TEST_F(NotBuilt, TheMachineReportSaysSo) {
  Context context;
  const std::string report = qgmm::MachineReport(context);
  EXPECT_NE(report.find(R"("isas": ["scalar", "avx2", "avxvnni"])"), std::string::npos) << report;
  EXPECT_NE(report.find(R"("isas_not_built": ["avxvnniint8"], "isas_not_built_why": ")" + std::string(kReason) + "\""),
            std::string::npos)
      << report;
}

TEST_F(NotBuilt, ThePlanOfInt8SaysSoAndTheOthersDoNot) {
  const std::string note = "this machine has avxvnniint8, " + std::string(kReason);
  EXPECT_NE(Plan(DType::kInt8).find(note), std::string::npos);
  EXPECT_EQ(Plan(DType::kInt4).find(note), std::string::npos) << "that ISA multiplies int8 only";
  setenv("QGMM_MAX_ISA", "avx2", 1);
  EXPECT_EQ(Plan(DType::kInt8).find(note), std::string::npos) << "a limit leaves it out anyway";
}

TEST_F(NotBuilt, AskingForItIsRefusedWithTheReason) {
  const auto refusal = [](int limit) {
    try {
      ChosenIsa(limit);
    } catch (const InvalidArgument& refused) {
      return std::string(refused.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(refusal(static_cast<int>(Isa::kAvxVnniInt8)),
            "[qgmm] Context::max_isa must be an Isa that this machine has (0 scalar, 1 avx2, 2 avxvnni); got 3, " +
                std::string(kReason));
  setenv("QGMM_MAX_ISA", "avxvnniint8", 1);
  EXPECT_EQ(refusal(-1), "[qgmm] QGMM_MAX_ISA must be what this machine has (scalar, avx2, avxvnni); got avxvnniint8, " +
                             std::string(kReason));
}

}  // namespace
}  // namespace qgmm::cpu
