// SPDX-License-Identifier: Apache-2.0
// What the system says of 2 MiB pages.
#include "cpu/huge_pages.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <utility>

namespace qgmm::cpu {
namespace {

TEST(HugePages, TheWordInBrackets) {
  const std::string file = testing::TempDir() + "qgmm_huge_pages_" + std::to_string(getpid());
  for (const auto& [text, expected] : {std::pair{"always [madvise] never\n", "madvise"}, {"[always] madvise never", "always"},
                                       {"always madvise [never]", "never"}, {"", "unknown"}, {"[]", "unknown"}}) {
    std::ofstream(file) << text;
    EXPECT_EQ(HugePageSetting(file), expected);
  }
  std::remove(file.c_str());
  EXPECT_EQ(HugePageSetting(file), "unknown");
}

TEST(HugePages, AskingForAnyRangeIsHarmless) {
  alignas(64) static char bytes[64];
  AskForHugePages(bytes, sizeof(bytes));
  bytes[0] = 1;
  EXPECT_EQ(bytes[0], 1);
}

}  // namespace
}  // namespace qgmm::cpu
