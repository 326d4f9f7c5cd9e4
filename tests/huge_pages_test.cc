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

/// Whether the mapping that starts there was told to take 2 MiB pages ("hg" of its flags), as the kernel says.
bool Told(const void* data) {
  std::ostringstream start;
  start << std::hex << reinterpret_cast<uintptr_t>(data) << '-';
  std::ifstream maps("/proc/self/smaps");
  bool ours = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.find('-') < line.find(' ')) ours = line.rfind(start.str(), 0) == 0;
    if (ours && line.rfind("VmFlags:", 0) == 0) return line.find(" hg") != std::string::npos;
  }
  return false;
}

/// Memory of one test, whole pages of 2 MiB.
class Mapping {
 public:
  explicit Mapping(size_t bytes) : bytes_(bytes + kHugePage) {
    reserved_ = mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    data = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(reserved_) + kHugePage - 1) / kHugePage * kHugePage);
    EXPECT_EQ(mprotect(data, bytes, PROT_READ | PROT_WRITE), 0);
  }
  ~Mapping() { munmap(reserved_, bytes_); }
  void* data;

 private:
  void* reserved_;
  size_t bytes_;
};

TEST(HugePages, ForResultsThatMallocDoesNotKeep) {
  constexpr size_t kLess = size_t{31} << 20, kEnough = size_t{32} << 20;
  const Mapping control(kEnough), less(kLess), enough(kEnough);
  madvise(control.data, kEnough, MADV_HUGEPAGE);
  if (!Told(control.data)) GTEST_SKIP() << "not run: this system does not tell who asked for 2 MiB pages";
  AskForHugeResults(less.data, kLess);
  AskForHugeResults(enough.data, kEnough);
  EXPECT_FALSE(Told(less.data));
  EXPECT_TRUE(Told(enough.data));
}

}  // namespace
}  // namespace qgmm::cpu
