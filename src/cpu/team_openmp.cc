// SPDX-License-Identifier: Apache-2.0
// The default team by OpenMP.
#include <omp.h>

#include <exception>

#include "cpu/team.h"

namespace qgmm::cpu {

Team DefaultTeam() { return {"openmp", omp_in_parallel() ? 1 : omp_get_max_threads()}; }

void DefaultParallelFor(int count, void (*body)(int index, void* state), void* state) {
  std::exception_ptr first;  // an exception must not leave a parallel region
#pragma omp parallel for num_threads(count) schedule(static, 1)
  for (int i = 0; i < count; ++i) {
    try {
      body(i, state);
    } catch (...) {
#pragma omp critical(qgmm_team)
      if (!first) first = std::current_exception();
    }
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace qgmm::cpu
