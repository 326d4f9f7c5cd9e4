// SPDX-License-Identifier: Apache-2.0
// Certificates of packed panels: bytes that vpmaddubsw cannot saturate on, and lists of what they lack.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernel.h"
#include "packed_format.h"

namespace qgmm::cpu {

/// The best promise whose list fits: kQuads if it needs at most half of `capacity`, else kPairs if at most `capacity`, else
/// none. PackArgs::max_residuals sets the capacity, by default 1/256 of the panel's weights. Measured on a Zen 3: an entry
/// costs about 1 ns per panel for up to 8 rows and 0.06 to 0.09 ns per row beyond. So at these limits one row pays at most
/// 3.4 % (kQuads) and 7 % (kPairs) of the time that streaming the panel takes, many rows 1.8 % and 3 %, against gains of
/// 20 % (quads over pairs) and 22 % (pairs over wide).
///
/// `panel`: all its lines, true weights; afterwards bytes that keep the promise, and `residuals` what they lack, ascending.
/// No promise: bytes stay as they are, and there is no list. `find`: of the ISA's LineMakers.
Certificate CertifyPanel(uint8_t* panel, int64_t lines, int64_t capacity, FindBrokenFn find,
                         std::vector<uint32_t>* residuals);

/// Adds the residues of k in [first_k, first_k + 4 * lines) to the bytes of a stretch of the panel's lines.
void RestoreLines(const PanelPromise& promise, int64_t first_k, int64_t lines, uint8_t* stretch);

}  // namespace qgmm::cpu
