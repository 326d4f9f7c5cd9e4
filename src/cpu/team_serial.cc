// SPDX-License-Identifier: Apache-2.0
// The default team where OpenMP is not linked: everything in the caller.
#include "cpu/team.h"

namespace qgmm::cpu {

Team DefaultTeam() { return {"serial", 1}; }

void DefaultParallelFor(int count, void (*body)(int index, void* state), void* state) {
  for (int i = 0; i < count; ++i) body(i, state);
}

}  // namespace qgmm::cpu
