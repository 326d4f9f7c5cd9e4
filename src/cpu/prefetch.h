// SPDX-License-Identifier: Apache-2.0
// Fetching what is read or written a little later.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "packed_format.h"

namespace qgmm::cpu {
namespace {  // compiled for several ISAs: no two files share them

/// Elements so far apart share cache lines; farther ones are a line each, or nearly.
inline constexpr int64_t kNearBytes = 16;

/// Into L2. With L1, of which a core keeps few misses in flight and which holds little beside what is worked on, rows of n had
/// 0.6 to 0.7 of the speed (two Zen 4 cores).
inline void FetchLine(const uint8_t* p) {
  __builtin_prefetch(p, 0, 2);
  asm volatile("" ::);  // GCC (from 11 on) takes a function that only fetches for one without effects, and deletes calls of it
}

/// For a store. Older x86 CPUs than those with this instruction do nothing.
inline void FetchLineToWrite(const void* p) {
#if defined(__x86_64__)
  asm volatile("prefetchw %0" : : "m"(*static_cast<const uint8_t*>(p)));  // of GCC only with -mprfchw
#else
  __builtin_prefetch(p, 1, 3);
  asm volatile("" ::);
#endif
}

/// The cache lines of `bytes` bytes from `first` on; of those before it, if negative.
inline void FetchRange(const uint8_t* first, int64_t bytes) {
  for (int64_t b = 0; b < std::abs(bytes); b += kLineBytes) FetchLine(first + (bytes < 0 ? -b : b));
}

}  // namespace
}  // namespace qgmm::cpu
