// SPDX-License-Identifier: Apache-2.0
// Linux' transparent huge pages.
#include "cpu/huge_pages.h"

#include <sys/mman.h>

#include <cstdint>
#include <fstream>

namespace qgmm::cpu {

void AskForHugePages(void* data, size_t bytes) {
  if (bytes < 2 * kHugePage) return;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(data) + bytes) / kHugePage * kHugePage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

void AskForHugeResults(void* data, size_t bytes) {
  if (bytes >= size_t{32} << 20) AskForHugePages(data, bytes);
}

std::string HugePageSetting(const std::string& file) {
  std::ifstream setting(file);  // "always [madvise] never"
  std::string word;
  while (setting >> word) {
    if (word.size() > 2 && word.front() == '[' && word.back() == ']') return word.substr(1, word.size() - 2);
  }
  return "unknown";
}

}  // namespace qgmm::cpu
