// SPDX-License-Identifier: Apache-2.0
// QGMM_VERBOSE=1: one line per call on stderr, with the kernels that ran. QGMM_PRINT_PLAN=1: the plan before it runs.
#pragma once

#include <chrono>
#include <string>

#include "problem.h"
#include "qgmm/context.h"

namespace qgmm {

class Verbose {
 public:
  Verbose();
  bool plan() const { return plan_; }
  /// Prints the line if asked to. `rows`, `k` and `n` are the call's; 0: not given.
  void Report(const RunReport& report, int64_t rows, int64_t k, int64_t n) const;
  void Print(const std::string& plan) const;

 private:
  bool line_, plan_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace qgmm
