// SPDX-License-Identifier: Apache-2.0
// 2 MiB pages for packed weights and scratch memory: 4 KiB pages cost about 20 % of decode.
#pragma once

#include <cstddef>
#include <string>

namespace qgmm::cpu {

inline constexpr size_t kHugePage = size_t{2} << 20;

/// Asks for them where they fit whole, from two of them on.
void AskForHugePages(void* data, size_t bytes);

/// The same for results, which a caller may have fresh from the system in every call: malloc keeps blocks of less than 32 MiB
/// (glibc). Memory that has its pages stays as it is.
void AskForHugeResults(void* data, size_t bytes);

/// What the system grants: "always", "madvise" (on request), "never", or "unknown".
std::string HugePageSetting(const std::string& file = "/sys/kernel/mm/transparent_hugepage/enabled");

}  // namespace qgmm::cpu
