// SPDX-License-Identifier: Apache-2.0
// Which ISA this machine has, which one a call may use, and which kernel a block of rows gets.
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <cstring>
#include <string>

#include "check.h"
#include "cpu/isa/tables.h"
#include "cpu/kernel.h"

namespace qgmm {

const char* Name(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return "scalar";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512Vnni: return "avx512vnni";
  }
  return "an unknown ISA";
}

namespace cpu {
namespace {

#define QGMM_KERNEL(isa, kernel) &kernel,
#define QGMM_STAGES(isa, stages)
constexpr const Kernel* kTable[] = {
#include "cpu/kernels.inc"
};
#undef QGMM_KERNEL
#undef QGMM_STAGES

#define QGMM_KERNEL(isa, kernel)
#define QGMM_STAGES(isa, stages) &stages,
constexpr const Stages* kStages[] = {
#include "cpu/kernels.inc"
};
#undef QGMM_KERNEL
#undef QGMM_STAGES

constexpr Isa kIsas[] = {Isa::kScalar, Isa::kAvx2, Isa::kAvx512Vnni};
constexpr const char* kIsaNames = "scalar, avx2 or avx512vnni";

Isa Allowed(Isa wanted, const std::string& who) {
  if (wanted > BestIsa()) {
    RefuseSetting(who + " must be at most " + Name(BestIsa()) + " on this machine; got " + Name(wanted));
  }
  return wanted;
}

}  // namespace

std::span<const Kernel* const> KernelTable() { return kTable; }

const Stages& StagesFor(Isa isa) {
  const Stages* best = kStages[0];
  for (const Stages* stages : kStages) {
    if (stages->isa <= isa) best = stages;
  }
  return *best;
}

#if defined(__x86_64__)
bool HasF16c() {
  unsigned a, b, c = 0, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}
#endif

Isa BestIsa() {
#if defined(__x86_64__)
  static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c();
  static const bool avx512vnni = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  if (avx512vnni) return Isa::kAvx512Vnni;
  if (avx2) return Isa::kAvx2;
#endif
  return Isa::kScalar;
}

Isa ChosenIsa(int limit) {
  if (limit >= 0) {
    if (limit > static_cast<int>(Isa::kAvx512Vnni)) {
      RefuseSetting("Context::max_isa must be 0 (scalar), 1 (avx2) or 2 (avx512vnni); got " + std::to_string(limit));
    }
    return Allowed(static_cast<Isa>(limit), "Context::max_isa");
  }
  const char* text = std::getenv("QGMM_MAX_ISA");
  if (text == nullptr || *text == '\0') return BestIsa();
  for (Isa isa : kIsas) {
    if (std::strcmp(text, Name(isa)) == 0) return Allowed(isa, "QGMM_MAX_ISA");
  }
  RefuseSetting(std::string("QGMM_MAX_ISA must be ") + kIsaNames + "; got " + text);
}

const Kernel& ChooseKernel(Product product, int64_t slice, int64_t k, int64_t rows, Isa isa) {
  const Kernel* best = nullptr;
  for (const Kernel* kernel : kTable) {
    if (kernel->product != product || kernel->isa > isa || kernel->min_rows > rows) continue;
    if (slice != k && slice % kernel->slice_step != 0) continue;
    best = kernel;
  }
  return *best;
}

}  // namespace cpu
}  // namespace qgmm
