// SPDX-License-Identifier: Apache-2.0
// What the ISA objects export: the rows of kernels.inc and one table of stages each, nothing else.
#pragma once

#include "cpu/kernel.h"

namespace qgmm::cpu {

#define QGMM_KERNEL(isa, kernel) extern const Kernel kernel;
#define QGMM_STAGES(isa, stages) extern const Stages stages;
#include "cpu/kernels.inc"
#undef QGMM_KERNEL
#undef QGMM_STAGES

}  // namespace qgmm::cpu
