// SPDX-License-Identifier: Apache-2.0
// Any source layout of weights -> lines of panels.
#pragma once

#include <cstdint>

#include "cpu/kernel.h"
#include "packed_format.h"
#include "problem.h"

namespace qgmm::cpu {

/// Lines [first_line, first_line + lines) of panels [first_panel, first_panel + panels) of one expert, and where they go.
struct PackSpan {
  int64_t expert, first_panel, panels, first_line, lines;
  uint8_t* out;          // panel p's lines go to out + (p - first_panel) * panel_stride, contiguous
  int64_t panel_stride;  // bytes
  int32_t* sums = nullptr;  // [panels][16]: sums of these lines' weights per column; null: not asked for
  bool stream = false;      // write around the caches, where out and panel_stride allow
};

/// Lines and columns beyond k and n hold zero weights.
void PackPanels(const Weights& weights, const PackSpan& span, const LineMakers& makers);

}  // namespace qgmm::cpu
