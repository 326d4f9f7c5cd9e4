// SPDX-License-Identifier: Apache-2.0
// The two environment switches that make a call talk.
#include "verbose.h"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace qgmm {
namespace {

/// Read at every call: a user switches it on in a running process.
bool IsOn(const char* variable) {
  const char* text = std::getenv(variable);
  return text != nullptr && *text != '\0' && std::string(text) != "0";
}

}  // namespace

Verbose::Verbose() : line_(IsOn("QGMM_VERBOSE")), plan_(IsOn("QGMM_PRINT_PLAN")) {
  if (line_) start_ = std::chrono::steady_clock::now();
}

void Verbose::Report(const RunReport& report, int64_t rows, int64_t k, int64_t n) const {
  if (!line_) return;
  const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start_;
  std::string kernels;
  for (const std::string& kernel : report.kernels) kernels += (kernels.empty() ? "" : "+") + kernel;
  if (kernels.empty()) kernels = "none";
  std::fprintf(stderr, "qgmm %s m %lld k %lld n %lld: %s, isa %s, %d workers, %lld tasks, %.3f ms\n",
               report.operation.c_str(), static_cast<long long>(rows), static_cast<long long>(k),
               static_cast<long long>(n), kernels.c_str(), report.isa.c_str(), report.workers,
               static_cast<long long>(report.tasks), time.count());
}

void Verbose::Print(const std::string& plan) const { std::fprintf(stderr, "qgmm plan %s\n", plan.c_str()); }

}  // namespace qgmm
