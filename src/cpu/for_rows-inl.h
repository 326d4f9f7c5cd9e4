// SPDX-License-Identifier: Apache-2.0
// A tile loop compiled once per number of rows.
#pragma once

#include "cpu/kernel.h"

namespace qgmm::cpu {
namespace {

/// Gemm<a.rows>::Run(a), for a.rows from 1 to kMax.
template <int kMax, template <int> class Gemm>
void ForRows(const GemmArgs& a) {
  if constexpr (kMax > 1) {
    if (a.rows < kMax) return ForRows<kMax - 1, Gemm>(a);
  }
  Gemm<kMax>::Run(a);
}

}  // namespace
}  // namespace qgmm::cpu
