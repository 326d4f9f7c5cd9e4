// SPDX-License-Identifier: Apache-2.0
// What the system says of 2 MiB pages.
#include "cpu/huge_pages.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "qgmm/moe.h"

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

/// The flags of the mapping that holds `address`, from /proc/self/smaps.
std::string FlagsOf(const void* address) {
  std::ifstream maps("/proc/self/smaps");
  bool here = false;
  for (std::string line; std::getline(maps, line);) {
    uintptr_t first = 0, last = 0;
    char dash = 0;
    if (std::istringstream words(line); words >> std::hex >> first >> dash >> last && dash == '-') {
      here = reinterpret_cast<uintptr_t>(address) >= first && reinterpret_cast<uintptr_t>(address) < last;
    } else if (here && line.rfind("VmFlags:", 0) == 0) {
      return line + ' ';
    }
  }
  return "";
}

TEST(HugePages, FreshResultsAskForThem) {
  const int64_t rows = 2048, h = 4096;
  const size_t bytes = static_cast<size_t>(rows * h);
  void* y = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(y, MAP_FAILED);
  const char* middle = static_cast<const char*>(y) + bytes / 2;
  const std::string before = FlagsOf(middle);
  if (before.empty() || HugePageSetting() == "unknown") GTEST_SKIP() << "not run: this system does not tell";
  EXPECT_EQ(before.find(" hg "), std::string::npos);
  const std::vector<uint16_t> x(bytes, 0x3F80);
  std::vector<float> scale(static_cast<size_t>(rows));
  DynamicQuantArgs args;
  args.x = View(x.data(), DType::kBFloat16, {rows, h});
  args.y = View(y, DType::kInt8, {rows, h});
  args.scale = View(scale.data(), DType::kFloat32, {rows});
  Context context;
  DynamicQuant(args, context);
  EXPECT_NE(FlagsOf(middle).find(" hg "), std::string::npos);
  EXPECT_EQ(*middle, 127);
  munmap(y, bytes);
}

}  // namespace
}  // namespace qgmm::cpu
