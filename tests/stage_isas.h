// SPDX-License-Identifier: Apache-2.0
// The ISAs that have float stages of their own, from the table.
#pragma once

#include "cpu/kernel.h"

namespace qgmm::cpu {

#define QGMM_KERNEL(isa, kernel)
#define QGMM_STAGES(isa, stages) Isa::isa,
inline constexpr Isa kStageIsas[] = {
#include "cpu/kernels.inc"
};
#undef QGMM_KERNEL
#undef QGMM_STAGES

}  // namespace qgmm::cpu
