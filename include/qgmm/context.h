// SPDX-License-Identifier: Apache-2.0
// Where and how a call runs: threads, limits, scratch memory, warnings, and what ran last.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "qgmm/types.h"

namespace qgmm {

/// Instruction sets, weakest first. The machine's best is used unless a limit says otherwise. A limit allows every
/// weaker set that the machine has; x86 machines have none of Arm's, and some have a set without those before it.
enum class Isa : int {
  kScalar = 0,
  kAvx2 = 1,        // with FMA and F16C
  kAvxVnni = 2,     // vpdpbusd on ymm
  kAvxVnniInt8 = 3, // vpdpbssd on ymm
  kAvx512 = 4,      // F, BW, VL
  kAvx512Vnni = 5,
  kAmx = 6,         // AMX-INT8, with all before it but kAvxVnni and kAvxVnniInt8
  kNeon = 7,        // Armv8
  kNeonDot = 8,     // sdot
  kNeonI8mm = 9,    // smmla
};
QGMM_EXPORT const char* Name(Isa isa);  // "scalar", "avx2", "avxvnni", "avxvnniint8", "avx512", "avx512vnni", "amx", ...

/// Calls body(index, state) exactly once for every index in [0, count), in any order, on any threads, and returns
/// when all are done. Must not call back into qgmm with the same Context.
using ParallelForFn = void (*)(int count, void (*body)(int index, void* state), void* state, void* pool);

/// What the last call with a Context did.
struct RunReport {
  std::string operation;             // "grouped_matmul_swiglu_quant"
  std::vector<std::string> kernels;  // rows of the kernel table that multiplied at least one tile; "reference"
  std::string isa;                   // of the epilogue
  int workers = 0;
  int64_t tasks = 0;
};

/// One per calling thread; reused from call to call. Not thread safe: two calls at once need two Contexts.
class QGMM_EXPORT Context {
 public:
  Context() = default;
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  ParallelForFn parallel_for = nullptr;  // null: the default team (OpenMP, or serial where it was not built in)
  void* pool = nullptr;                  // passed to parallel_for
  int pool_size = 0;                     // threads behind parallel_for; 0: ask the default team
  int max_workers = 0;                   // 0: pool size, CPU affinity and cgroup quota decide; QGMM_NUM_THREADS overrides
  int max_isa = -1;                      // an Isa; -1: QGMM_MAX_ISA, else the machine's best
  bool use_reference = false;            // run the scalar specification instead of the kernels
  void (*warn)(const char* text, void* state) = nullptr;  // told of a clamped vendor list; null: nobody
  void* warn_state = nullptr;
  RunReport last_run;

  /// At least `bytes` of 64-byte aligned scratch memory, kept until the Context dies; contents undefined.
  void* Workspace(size_t bytes);
  size_t workspace_bytes() const { return workspace_bytes_; }

 private:
  void* workspace_ = nullptr;
  size_t workspace_bytes_ = 0;
};

}  // namespace qgmm
