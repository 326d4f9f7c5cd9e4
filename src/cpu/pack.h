// SPDX-License-Identifier: Apache-2.0
// Any source layout of weights -> lines of panels.
#pragma once

#include <cstdint>

#include "packed_format.h"
#include "problem.h"

namespace qgmm::cpu {

/// Packs lines [first_line, first_line + lines) of panels [first_panel, first_panel + panels) of one expert of plain
/// weights. Panel p's lines go to out + (p - first_panel) * panel_stride, contiguous. Lines and columns beyond k and n hold
/// zero weights.
void PackPanels(const Weights& weights, int64_t expert, int64_t first_panel, int64_t panels, int64_t first_line,
                int64_t lines, uint8_t* out, int64_t panel_stride);

}  // namespace qgmm::cpu
