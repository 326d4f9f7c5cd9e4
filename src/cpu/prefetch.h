// SPDX-License-Identifier: Apache-2.0
// Fetching what packing reads a few kilobytes later. GCC takes a function that only fetches for one without effects and deletes
// calls of it: hence -fno-ipa-modref (CMakeLists.txt).
#pragma once

#include <cstdint>
#include <cstdlib>

#include "packed_format.h"

namespace qgmm::cpu {

/// Elements so far apart share cache lines; farther ones are a line each, or nearly.
inline constexpr int64_t kNearBytes = 16;

/// Into L2: a core keeps few misses of L1 in flight, and what is fetched into L1 by the kilobyte drives out what is worked on.
/// Rows of n took 1.4 to 1.7 times as long with L1 (two Zen 4 cores).
inline void FetchLine(const uint8_t* p) { __builtin_prefetch(p, 0, 2); }

/// The cache lines of `bytes` bytes from `first` on; of those before it, if negative.
inline void FetchRange(const uint8_t* first, int64_t bytes) {
  for (int64_t b = 0; b < std::abs(bytes); b += kLineBytes) FetchLine(first + (bytes < 0 ? -b : b));
}

}  // namespace qgmm::cpu
