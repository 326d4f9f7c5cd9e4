// SPDX-License-Identifier: Apache-2.0
// Judging refusals: the exact sentence, and that no sentence of src/check*.cc goes untested.
#pragma once

#include <errno.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>

#include "check_refuse.h"
#include "qgmm/types.h"

// Set by the linker around the section that QGMM_REFUSE fills.
extern "C" __attribute__((visibility("hidden"))) qgmm::check::RefusalSite __start_qgmm_refusals[];
extern "C" __attribute__((visibility("hidden"))) qgmm::check::RefusalSite __stop_qgmm_refusals[];

namespace qgmm {

/// Which test binary raises every sentence of which file. A file that is missing here fails all of them.
struct Proof {
  const char* file;
  const char* binary;
};
inline constexpr Proof kProofs[] = {
    {"check.cc", "check_test"},
    {"check_arguments.cc", "check_arguments_test"},
    {"no file", "check_order_test"},
    {"check_dynamic_quant.cc", "check_dynamic_quant_test"},
    {"check_fractal_nz.cc", "check_fractal_nz_test"},
    {"check_groups.cc", "groups_test"},
    {"check_pack.cc", "check_pack_test"},
    {"check_refuse.cc", "check_arguments_test"},
    {"check_scales.cc", "check_scales_test"},
    {"check_weights.cc", "check_weights_test"},
};

/// After the last test: every site of this binary's file was raised. A filtered or sharded run proves nothing.
class EverySentence : public testing::Environment {
 public:
  void TearDown() override {
    const testing::UnitTest& tests = *testing::UnitTest::GetInstance();
    if (tests.test_to_run_count() != tests.total_test_count()) return;
    bool named = false;
    for (const Proof& proof : kProofs) named |= std::string(proof.binary) == program_invocation_short_name;
    EXPECT_TRUE(named) << program_invocation_short_name << " is not in the table of tests/refusals.h";
    for (const check::RefusalSite* site = __start_qgmm_refusals; site != __stop_qgmm_refusals; ++site) {
      const Proof* proof = FindProof(site->file);
      ASSERT_NE(proof, nullptr) << site->file << " refuses, but no test binary is named for it in tests/refusals.h";
      if (std::string(proof->binary) != program_invocation_short_name) continue;
      EXPECT_TRUE(site->raised) << site->file << ":" << site->line << " was never raised";
    }
  }

 private:
  static const Proof* FindProof(const std::string& file) {
    for (const Proof& proof : kProofs) {
      if (file == proof.file) return &proof;
    }
    return nullptr;
  }
};
inline testing::Environment* const kEverySentence = testing::AddGlobalTestEnvironment(new EverySentence);

/// What the call was refused for; "accepted" if it was not.
inline std::string RefusalOf(const std::function<void()>& call) {
  try {
    call();
  } catch (const InvalidArgument& refusal) {
    return refusal.what();
  }
  return "accepted";
}

}  // namespace qgmm
