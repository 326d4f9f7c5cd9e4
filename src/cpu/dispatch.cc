// SPDX-License-Identifier: Apache-2.0
// Which ISA this machine has, which one a call may use, and which kernel a block of rows gets.
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string>
#include <vector>

#include "check.h"
#include "cpu/isa/tables.h"
#include "cpu/kernel.h"

namespace qgmm {

const char* Name(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return "scalar";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvxVnni: return "avxvnni";
    case Isa::kAvxVnniInt8: return "avxvnniint8";
    case Isa::kAvx512: return "avx512";
    case Isa::kAvx512Vnni: return "avx512vnni";
    case Isa::kAmx: return "amx";
    case Isa::kNeon: return "neon";
    case Isa::kNeonDot: return "neondot";
    case Isa::kNeonI8mm: return "neoni8mm";
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

constexpr Isa kIsas[] = {Isa::kScalar, Isa::kAvx2, Isa::kAvxVnni, Isa::kAvxVnniInt8, Isa::kAvx512,
                         Isa::kAvx512Vnni, Isa::kAmx, Isa::kNeon, Isa::kNeonDot, Isa::kNeonI8mm};

#if defined(__x86_64__)
/// AMX-INT8 of the processor, tile state switched on by the system, and leave to use it: Linux gives the process, with all
/// threads it has and will have, the larger signal frames only when asked.
bool MayUseTiles() {
  unsigned a, b, c = 0, d = 0;
  constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25, kStates = 3u << 17;  // XTILECFG, XTILEDATA
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kTile) == 0 || (d & kInt8) == 0) return false;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & bit_OSXSAVE) == 0) return false;
  asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  if ((a & kStates) != kStates) return false;
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

#if defined(__x86_64__)
/// By the bits themselves: __builtin_cpu_supports of GCC 12 and clang 14 knows neither name.
bool HasAvxVnni() {
  unsigned a = 0, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4) != 0;
}
bool HasAvxVnniInt8() {
  unsigned a, b, c, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (d & 1u << 4) != 0;
}
#endif

/// Of this machine, whatever kernels there are.
bool ProcessorHas(Isa isa) {
#if defined(__x86_64__)
  static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c();
  static const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                             __builtin_cpu_supports("avx512vl");
  static const bool avx512vnni = avx512 && __builtin_cpu_supports("avx512vnni");
#if defined(QGMM_EMULATED_ISAS)  // tests/emulation: the best ISA of a machine whose rows were compiled for AVX2
  if (isa > Isa::kAvx2 && isa <= Isa::kAmx) return avx2 && isa <= QGMM_EMULATED_ISAS;
#endif
  switch (isa) {
    case Isa::kScalar: return true;
    case Isa::kAvx2: return avx2;
    case Isa::kAvxVnni: return avx2 && HasAvxVnni();
    case Isa::kAvxVnniInt8: return avx2 && HasAvxVnniInt8();
    case Isa::kAvx512: return avx512;
    case Isa::kAvx512Vnni: return avx512vnni;
    case Isa::kAmx: return avx512vnni && MayUseTiles();
    default: return false;
  }
#elif defined(__aarch64__)
  // Bits of Linux's user interface; older headers lack the names. Every aarch64 has NEON.
  constexpr unsigned long kHwcapSdot = 1ul << 20, kHwcap2I8mm = 1ul << 13;  // HWCAP_ASIMDDP, HWCAP2_I8MM
  static const bool dot = (getauxval(AT_HWCAP) & kHwcapSdot) != 0;
  static const bool i8mm = dot && (getauxval(AT_HWCAP2) & kHwcap2I8mm) != 0;
  switch (isa) {
    case Isa::kScalar: return true;
    case Isa::kNeon: return true;
    case Isa::kNeonDot: return dot;
    case Isa::kNeonI8mm: return i8mm;
    default: return false;
  }
#else
  return isa == Isa::kScalar;
#endif
}

/// Those of the processor that rows of the table were compiled for, or were not.
std::vector<Isa> FindIsas(bool built) {
  std::vector<Isa> found;
  for (Isa isa : kIsas) {
    const auto is_its = [isa](const Kernel* kernel) { return kernel->isa == isa; };
    const bool has_rows = std::any_of(std::begin(kTable), std::end(kTable), is_its);
    if (has_rows == built && ProcessorHas(isa)) found.push_back(isa);
  }
  return found;
}

/// The end of a refusal: a name of what the processor has and this build does not tells more than the list.
std::string WhyNot(const std::string& name) {
  for (Isa isa : IsasNotBuilt()) {
    if (name == Name(isa)) return std::string(", ") + kNotBuilt;
  }
  return "";
}

int MinRows(const Kernel& kernel) {
  return AmdFamily() != 0 && kernel.min_rows_amd != 0 ? kernel.min_rows_amd : kernel.min_rows;
}

}  // namespace

std::span<const Kernel* const> KernelTable() { return kTable; }

const Stages& StagesFor(Isa isa) {
  const Stages* best = kStages[0];
  for (const Stages* stages : kStages) {
    if (stages->isa <= isa && HasIsa(stages->isa)) best = stages;
  }
  return *best;
}

#if defined(__x86_64__)
bool HasF16c() {
  unsigned a, b, c = 0, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}
#endif

int AmdFamily() {
#if defined(__x86_64__)
  static const int family = [] {
    unsigned a = 0, b, c, d;
    if (!__builtin_cpu_is("amd") || !__get_cpuid(1, &a, &b, &c, &d)) return 0;
    return static_cast<int>((a >> 8 & 0xF) + (a >> 20 & 0xFF));
  }();
  return family;
#else
  return 0;
#endif
}

bool HasTwoPorts() {
#if defined(QGMM_EMULATED_ISAS)  // every machine's tests run the rows that want them
  return true;
#else
  return AmdFamily() == 0 || AmdFamily() >= kZen5;
#endif
}

bool HasTwoStreams() { return AmdFamily() < kZen5; }

std::span<const Isa> MachineIsas() {
  static const std::vector<Isa> isas = FindIsas(true);
  return isas;
}

std::span<const Isa> IsasNotBuilt() {
  static const std::vector<Isa> isas = FindIsas(false);
  return isas;
}

bool HasIsa(Isa isa) {
  const auto isas = MachineIsas();
  return std::find(isas.begin(), isas.end(), isa) != isas.end();
}

bool CanRun(const Kernel& kernel) {
  return HasIsa(kernel.isa) && (!kernel.two_ports || HasTwoPorts()) && (!kernel.two_streams || HasTwoStreams());
}

Isa BestIsa() { return MachineIsas().back(); }

Isa ChosenIsa(int limit) {
  const char* text = std::getenv("QGMM_MAX_ISA");
  if (limit < 0 && (text == nullptr || *text == '\0')) return BestIsa();
  std::string names, numbers;
  for (Isa isa : MachineIsas()) {
    if (limit >= 0 ? limit == static_cast<int>(isa) : std::strcmp(text, Name(isa)) == 0) return isa;
    names += (names.empty() ? "" : ", ") + std::string(Name(isa));
    numbers += (numbers.empty() ? "" : ", ") + std::to_string(static_cast<int>(isa)) + " " + Name(isa);
  }
  if (limit >= 0) {
    RefuseSetting("Context::max_isa must be an Isa that this machine has (" + numbers + "); got " + std::to_string(limit) +
                  WhyNot(Name(static_cast<Isa>(limit))));
  }
  RefuseSetting("QGMM_MAX_ISA must be what this machine has (" + names + "); got " + text + WhyNot(text));
}

const Kernel& ChooseKernel(Product product, int64_t slice, int64_t k, int64_t rows, Isa isa, Certificate certificate) {
  const auto takes = [=](const Kernel* kernel) {
    if (kernel->product != product || kernel->isa > isa || !CanRun(*kernel) || MinRows(*kernel) > rows) return false;
    if (kernel->two_streams && rows > kernel->tile_m) return false;
    if (kernel->needs > certificate || (slice != k && slice % kernel->slice_step != 0)) return false;
    return kernel->needs == Certificate::kNone || slice == k;  // column sums are of the whole k
  };
  return **std::find_if(std::rbegin(kTable), std::rend(kTable), takes);
}

}  // namespace cpu
}  // namespace qgmm
