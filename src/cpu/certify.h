// SPDX-License-Identifier: Apache-2.0
// Certificates of packed panels: bytes that vpmaddubsw cannot saturate on, and lists of what they lack.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernel.h"
#include "packed_format.h"

namespace qgmm::cpu {

/// One panel's certificate, found stretch by stretch while its lines are on their way to where they stay.
///
/// The best promise whose list fits: kQuads if it needs at most half of `capacity`, else kPairs if at most `capacity`, else
/// none. PackArgs::max_residuals sets the capacity, by default 1/256 of the panel's weights. Measured on a Zen 3: an entry
/// costs about 1 ns per panel for up to 8 rows and 0.06 to 0.09 ns per row beyond. So at these limits one row pays at most
/// 3.4 % (kQuads) and 7 % (kPairs) of the time that streaming the panel takes, many rows 1.8 % and 3 %, against gains of
/// 20 % (quads over pairs) and 22 % (pairs over wide).
class PanelCertifier {
 public:
  /// A panel of which nothing has come; its lines will stand at `place`. `find`: of the ISA's LineMakers.
  void Start(uint8_t* place, int64_t capacity, FindBrokenFn find);

  /// The panel's next lines, true weights, an even number; the caller copies to `place` what has become of them before the
  /// next ones come. Where a list overflows, all bytes are put back, also at `place`, and a lesser promise is tried.
  void Take(uint8_t* stretch, int64_t lines);

  /// Once all lines were taken. No promise: the bytes are the weights, and there is no list.
  Certificate certificate() const { return static_cast<Certificate>(steps_); }
  const std::vector<uint32_t>& residuals() const { return residuals_; }  // what the bytes lack, ascending

 private:
  /// Repairs what breaks the promise of `steps_`; false if the list would exceed its limit.
  bool Repair(uint8_t* part, int64_t first_line, int64_t lines);
  /// Takes from the lane's weights of one sign, largest first, what exceeds the bound.
  bool RepairLane(uint8_t* lines, int lane, int sign, int64_t first_k);
  void Append(uint32_t residual);  // into its place: lanes of a group come by column, lists go by k

  uint8_t* place_ = nullptr;
  int64_t capacity_ = 0, line_ = 0;  // lines taken so far
  FindBrokenFn find_ = nullptr;
  int steps_ = 0;  // 2: kQuads, 1: kPairs, 0: no promise
  std::vector<uint32_t> residuals_;
};
static_assert(static_cast<int>(Certificate::kNone) == 0 && static_cast<int>(Certificate::kPairs) == 1 &&
              static_cast<int>(Certificate::kQuads) == 2);

/// Adds the residues of k in [first_k, first_k + 4 * lines) to the bytes of a stretch of the panel's lines.
void RestoreLines(const PanelPromise& promise, int64_t first_k, int64_t lines, uint8_t* stretch);

}  // namespace qgmm::cpu
