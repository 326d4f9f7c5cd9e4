// SPDX-License-Identifier: Apache-2.0
// What a plan counts on of the machine's memory.
#pragma once

#include <cstdint>

namespace qgmm::cpu {

/// How far ahead the weights of an only row tile are fetched. kPage, 4096 bytes, against kByKernel on two Zen 5 cores, int8,
/// int4 and operator B: one row 1.02 to 1.24 x, 2 and 4 rows 1.01 to 1.06 x, but 8 and 16 rows 0.95 to 1.04 x; half a page
/// is as good for one row of int8, and loses 5 % with int4. A Zen 4 loses 10 to 30 % by it.
enum class Ahead {
  kByKernel,       // Kernel::ahead_bytes, ahead_bytes_of_one
  kAsSeveralRows,  // one row as well: Intel's (kAheadOfOne)
  kPage,           // up to 4 rows, else as kByKernel: AMD's from Zen 5 on
};

/// Bytes: L2 of one core, L3 as its cores share it.
struct Caches {
  int64_t l2 = 0, l3 = 0;
  Ahead ahead = Ahead::kByKernel;
};
Caches DetectCaches();

}  // namespace qgmm::cpu
