// SPDX-License-Identifier: Apache-2.0
// Any source layout of weights -> lines of panels.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/certify.h"
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
  PanelCertifier* certifiers = nullptr;  // [panels], which take the lines before they are written; null: not asked for
  bool far = true;  // rows come from memory: fetched a tile early
};

/// Whether so many bytes are written around the caches: if they exceed the last one, and start where that is possible.
bool Streams(int64_t bytes, const void* out);

/// Lines and columns beyond k and n hold zero weights.
void PackPanels(const Weights& weights, const PackSpan& span, const LineMakers& makers);

/// Lines [line, line + lines) of one of the span's panels, through its certificate to their place.
void PassOn(const PackSpan& span, int64_t panel, int64_t line, int64_t lines, uint8_t* stretch, const LineMakers& makers);

/// How many consecutive experts PackExperts should get at once: 1, unless their weights are neighbours in memory.
int64_t ExpertsTogether(const Weights& weights);

/// Panels that spans are multiples of, where there are enough of them.
inline constexpr int64_t kSpanStep = 8;

/// The most panels of so many experts that PackExperts should get at once.
int64_t PanelsTogether(int64_t experts);

/// PackPanels of consecutive experts, a span each: the same panels, all their lines. What lies nearer along e than along k and
/// n, or a few bytes apart along n, is read in the order of memory.
void PackExperts(const Weights& weights, const std::vector<PackSpan>& spans, const LineMakers& makers);

}  // namespace qgmm::cpu
