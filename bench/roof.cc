// SPDX-License-Identifier: Apache-2.0
// The machine's own roofs, for the share a measurement reaches: linear reads from memory, and multiply-accumulates
// that never leave the registers. Plain C functions: ops_bench.py calls them between measurements, gemm_bench too.
#include "roof.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include <sys/mman.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace {

constexpr size_t kPage = size_t{2} << 20;

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Starts all threads together; work(thread) returns units per second; the sum of all.
double OnAllThreads(int threads, const std::function<double(int)>& work) {
  std::atomic<int> waiting{threads};
  std::vector<double> rates(static_cast<size_t>(threads));
  const auto body = [&](int thread) {
    waiting.fetch_sub(1);
    while (waiting.load() > 0) std::this_thread::yield();
    rates[static_cast<size_t>(thread)] = work(thread);
  };
  std::vector<std::thread> team;
  for (int thread = 1; thread < threads; ++thread) team.emplace_back(body, thread);
  body(0);
  for (std::thread& member : team) member.join();
  double sum = 0;
  for (double rate : rates) sum += rate;
  return sum;
}

/// Calls work() until `seconds` are over; units(work) per second.
template <class Work>
double Rate(double seconds, double units, Work work) {
  work();  // clocks and caches settle
  const double start = Now();
  int64_t calls = 0;
  double end = start;
  for (; end - start < seconds; end = Now(), ++calls) work();
  return static_cast<double>(calls) * units / (end - start);
}

using Memory = std::unique_ptr<void, decltype(&std::free)>;

void AskForHugePages([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) {
#if defined(__linux__)
  madvise(memory, bytes, MADV_HUGEPAGE);
#endif
}

/// Reads kStreams runs of `bytes` / kStreams side by side, a cache line of each at a time.
template <int kStreams>
uint64_t Read(const uint64_t* data, size_t bytes) {
  const size_t run = bytes / kStreams / 8;
  uint64_t sum[8] = {};
  for (size_t i = 0; i < run; i += 8) {
    for (int stream = 0; stream < kStreams; ++stream) {
      const uint64_t* line = data + static_cast<size_t>(stream) * run + i;
      for (int j = 0; j < 8; ++j) sum[j] ^= line[j];
    }
  }
  uint64_t all = 0;
  for (uint64_t part : sum) all ^= part;
  return all;
}

std::atomic<uint64_t> sink;  // keeps results alive

/// Around the caches, where that is known to be possible.
void Copy(const uint8_t* from, uint8_t* to, size_t bytes) {
#if defined(__x86_64__)
  for (size_t i = 0; i < bytes; i += 16) {
    asm volatile("movdqa %1, %%xmm0\n movntdq %%xmm0, %0" : "=m"(to[i]) : "m"(from[i]) : "xmm0", "memory");
  }
#else
  std::memcpy(to, from, bytes);
#endif
}

/// A part of the memory for each thread, a multiple of kPage; `bytes` 0 where there is too little.
struct Parts {
  std::vector<Memory> memory;
  size_t bytes = 0;
};

/// Kept from call to call: touching half a gigabyte anew would take longer than reading it.
const Parts& PartsOf(int threads, int64_t bytes) {
  static Parts parts;
  const size_t wanted = (static_cast<size_t>(bytes) / static_cast<size_t>(threads) / kPage + 1) * kPage;
  if (parts.memory.size() == static_cast<size_t>(threads) && parts.bytes == wanted) return parts;
  parts.memory.clear();
  for (int thread = 0; thread < threads; ++thread) parts.memory.emplace_back(nullptr, std::free);
  OnAllThreads(threads, [&](int thread) {
    void* memory = std::aligned_alloc(kPage, wanted);
    if (memory) {
      AskForHugePages(memory, wanted);
      std::memset(memory, 0x5A, wanted);  // by the thread that will read it
    }
    parts.memory[static_cast<size_t>(thread)].reset(memory);
    return 0.0;
  });
  const bool all = std::all_of(parts.memory.begin(), parts.memory.end(), [](const Memory& memory) { return memory != nullptr; });
  parts.bytes = all ? wanted : 0;
  return parts;
}

#if defined(__x86_64__)

constexpr int kSteps = 1024;

/// No zeros among them: zeros run faster. Bytes 0..63 any, 64..127 below 16 (nibbles), 128..191 ones as int16, then
/// small floats.
struct Operands {
  uint8_t bytes[192];
  float floats[32];
  Operands() {
    for (int i = 0; i < 64; ++i) bytes[i] = static_cast<uint8_t>((i * 167 + 59) | 1);
    for (int i = 64; i < 128; ++i) bytes[i] = bytes[i - 64] & 15;
    for (int i = 128; i < 192; ++i) bytes[i] = i % 2 == 0;
    for (int i = 0; i < 32; ++i) floats[i] = 1.0f / static_cast<float>(i + 3);
  }
};

// Assembly, because compilers spill these accumulators, and find out that they are equal. Operands in registers 0 and
// 1, accumulators 2..13, products of the integer forms in 14 and 15.
#define QGMM_ACCUMULATORS(step) step(2) step(3) step(4) step(5) step(6) step(7) step(8) step(9) step(10) step(11) \
  step(12) step(13)
#define QGMM_CLEAR(c) "vpxor %%xmm" #c ", %%xmm" #c ", %%xmm" #c "\n"
#define QGMM_WORDS(c) "vpmaddwd %%ymm0, %%ymm1, %%ymm14\n vpaddd %%ymm14, %%ymm" #c ", %%ymm" #c "\n"
#define QGMM_NIBBLE "vpmaddubsw %%ymm0, %%ymm1, %%ymm15\n vpaddw %%ymm15, %%ymm14, %%ymm14\n"
#define QGMM_NIBBLES(c) "vpmaddubsw %%ymm0, %%ymm1, %%ymm14\n" QGMM_NIBBLE QGMM_NIBBLE QGMM_NIBBLE QGMM_NIBBLE \
  QGMM_NIBBLE QGMM_NIBBLE QGMM_NIBBLE "vpmaddwd 128(%1), %%ymm14, %%ymm14\n vpaddd %%ymm14, %%ymm" #c ", %%ymm" #c "\n"
#define QGMM_FLOATS(c) "vfmadd231ps %%ymm0, %%ymm1, %%ymm" #c "\n"
#define QGMM_VNNI256(c) "%{vex%} vpdpbusd %%ymm0, %%ymm1, %%ymm" #c "\n"
#define QGMM_VNNI(c) "vpdpbusd %%zmm0, %%zmm1, %%zmm" #c "\n"
#define QGMM_VNNI_WORDS(c) "vpdpwssd %%zmm0, %%zmm1, %%zmm" #c "\n"
#define QGMM_FLOATS512(c) "vfmadd231ps %%zmm0, %%zmm1, %%zmm" #c "\n"
// Certified kernels, r: register name without its number.
#define QGMM_ADD(r, c) "vpmaddwd 128(%1), %%" r "14, %%" r "14\n vpaddd %%" r "14, %%" r #c ", %%" r #c "\n"
#define QGMM_BYTES(r, to) "vpmaddubsw %%" r "0, %%" r "1, %%" r to "\n"
#define QGMM_PAIRS(c) QGMM_BYTES("ymm", "14") QGMM_ADD("ymm", c)
#define QGMM_QUADS(c) \
  QGMM_BYTES("ymm", "14") QGMM_BYTES("ymm", "15") "vpaddw %%ymm15, %%ymm14, %%ymm14\n" QGMM_ADD("ymm", c)
#define QGMM_PAIRS512(c) QGMM_BYTES("zmm", "14") QGMM_ADD("zmm", c)
#define QGMM_SUM512 QGMM_BYTES("zmm", "15") "vpaddw %%zmm15, %%zmm14, %%zmm14\n"
#define QGMM_QUADS512(c) QGMM_BYTES("zmm", "14") QGMM_SUM512 QGMM_ADD("zmm", c)
#define QGMM_NIBBLES512(c) \
  QGMM_BYTES("zmm", "14") QGMM_SUM512 QGMM_SUM512 QGMM_SUM512 QGMM_SUM512 QGMM_SUM512 QGMM_SUM512 QGMM_SUM512 \
  QGMM_ADD("zmm", c)
#define QGMM_WORDS512(c) "vpmaddwd %%zmm0, %%zmm1, %%zmm14\n vpaddd %%zmm14, %%zmm" #c ", %%zmm" #c "\n"
#define QGMM_YMM_BYTES "vmovdqu (%1), %%ymm0\n vmovdqu 64(%1), %%ymm1\n"
#define QGMM_ZMM_BYTES "vmovdqu64 (%1), %%zmm0\n vmovdqu64 64(%1), %%zmm1\n"
#define QGMM_LOOP(name, load, body)                                                                              \
  void name(const void* operands) {                                                                              \
    int64_t steps = kSteps;                                                                                      \
    asm volatile(load QGMM_ACCUMULATORS(QGMM_CLEAR) "1:\n" QGMM_ACCUMULATORS(body) "dec %0\n jnz 1b\n vzeroupper" \
                 : "+r"(steps)                                                                                   \
                 : "r"(operands)                                                                                 \
                 : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",       \
                   "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");                                \
  }
QGMM_LOOP(MultiplyWords, QGMM_YMM_BYTES, QGMM_WORDS)
QGMM_LOOP(MultiplyNibbles, QGMM_YMM_BYTES, QGMM_NIBBLES)
QGMM_LOOP(MultiplyPairs, QGMM_YMM_BYTES, QGMM_PAIRS)
QGMM_LOOP(MultiplyQuads, QGMM_YMM_BYTES, QGMM_QUADS)
QGMM_LOOP(MultiplyFloats, "vmovups 192(%1), %%ymm0\n vmovups 256(%1), %%ymm1\n", QGMM_FLOATS)
QGMM_LOOP(MultiplyVnni256, QGMM_YMM_BYTES, QGMM_VNNI256)
QGMM_LOOP(MultiplyWords512, QGMM_ZMM_BYTES, QGMM_WORDS512)
QGMM_LOOP(MultiplyNibbles512, QGMM_ZMM_BYTES, QGMM_NIBBLES512)
QGMM_LOOP(MultiplyPairs512, QGMM_ZMM_BYTES, QGMM_PAIRS512)
QGMM_LOOP(MultiplyQuads512, QGMM_ZMM_BYTES, QGMM_QUADS512)
QGMM_LOOP(MultiplyVnni, QGMM_ZMM_BYTES, QGMM_VNNI)
QGMM_LOOP(MultiplyVnniWords, QGMM_ZMM_BYTES, QGMM_VNNI_WORDS)
QGMM_LOOP(MultiplyFloats512, "vmovups 192(%1), %%zmm0\n vmovups 256(%1), %%zmm1\n", QGMM_FLOATS512)

constexpr int kTileMacs = 16 * 16 * 64;

/// Four accumulator tiles, two of each operand, all in registers.
void MultiplyTiles(const void*) {
  alignas(64) uint8_t config[64] = {1}, ones[64];
  for (int tile = 0; tile < 8; ++tile) {
    config[16 + 2 * tile] = 64;  // bytes per row
    config[48 + tile] = 16;      // rows
  }
  std::memset(ones, 3, sizeof(ones));
  int64_t steps = kSteps, stride = 0;
  asm volatile(
      "ldtilecfg (%1)\n"
      "tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n tilezero %%tmm3\n"
      "tileloadd (%2,%3,1), %%tmm4\n tileloadd (%2,%3,1), %%tmm5\n"
      "tileloadd (%2,%3,1), %%tmm6\n tileloadd (%2,%3,1), %%tmm7\n"
      "1: tdpbusd %%tmm6, %%tmm4, %%tmm0\n tdpbusd %%tmm7, %%tmm4, %%tmm1\n"
      "tdpbusd %%tmm6, %%tmm5, %%tmm2\n tdpbusd %%tmm7, %%tmm5, %%tmm3\n"
      "dec %0\n jnz 1b\n tilerelease"
      : "+r"(steps)
      : "r"(config), "r"(ones), "r"(stride)
      : "cc", "memory");
}

/// Bits that older compilers' __builtin_cpu_supports does not know.
bool HasBit(unsigned leaf7_part, char output, int bit) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, leaf7_part, &a, &b, &c, &d)) return false;
  return ((output == 'a' ? a : d) >> bit & 1) != 0;
}

bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool HasAvx512() { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"); }
bool HasVnni() { return __builtin_cpu_supports("avx512vnni"); }
bool HasAvxVnni() { return HasAvx2() && HasBit(1, 'a', 4); }

/// The processor has int8 tiles, and the system grants them to this process.
bool HasTiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // of arch_prctl
  return HasBit(0, 'd', 24) && HasBit(0, 'd', 25) && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

struct Loop {
  const char* kind;
  void (*run)(const void* operands);
  double macs;  // of one step
  bool (*can)();
};
constexpr double kChains = 12;
constexpr Loop kLoops[] = {{"vpmaddwd", MultiplyWords, kChains * 16, HasAvx2},
                           {"vpmaddubsw", MultiplyNibbles, kChains * 8 * 32, HasAvx2},
                           {"pairs", MultiplyPairs, kChains * 32, HasAvx2},
                           {"quads", MultiplyQuads, kChains * 64, HasAvx2},
                           {"vfmadd", MultiplyFloats, kChains * 8, HasAvx2},
                           {"vpdpbusd256", MultiplyVnni256, kChains * 32, HasAvxVnni},
                           {"vpmaddwd512", MultiplyWords512, kChains * 32, HasAvx512},
                           {"vpmaddubsw512", MultiplyNibbles512, kChains * 8 * 64, HasAvx512},
                           {"pairs512", MultiplyPairs512, kChains * 64, HasAvx512},
                           {"quads512", MultiplyQuads512, kChains * 128, HasAvx512},
                           {"vfmadd512", MultiplyFloats512, kChains * 16, HasAvx512},
                           {"vpdpbusd512", MultiplyVnni, kChains * 64, HasVnni},
                           {"vpdpwssd512", MultiplyVnniWords, kChains * 32, HasVnni},
                           {"tdpbusd", MultiplyTiles, 4.0 * kTileMacs, HasTiles},
                           {"tdpbusd twice", MultiplyTiles, 2.0 * kTileMacs, HasTiles}};

#endif  // __x86_64__

}  // namespace

extern "C" double qgmm_roof_multiply(const char* kind, int threads, double seconds) {
#if defined(__x86_64__)
  for (const Loop& loop : kLoops) {
    if (std::strcmp(kind, loop.kind) != 0 || !loop.can()) continue;
    const Operands operands;
    const double macs = kSteps * loop.macs;
    return 1e-9 * OnAllThreads(threads, [&](int) { return Rate(seconds, macs, [&] { loop.run(&operands); }); });
  }
#else
  (void)kind, (void)threads, (void)seconds;
#endif
  return -1;
}

extern "C" double qgmm_roof_issue(int threads, double seconds) {
#if defined(__x86_64__)
#define QGMM_NOTHING "nopw 0(%%rax)"  // of four bytes: caches of decoded instructions hold few of one byte
#else
#define QGMM_NOTHING "nop"
#endif
  return 1e-9 * OnAllThreads(threads, [&](int) {
    return Rate(seconds, 100 * 128, [] {
      for (int turn = 0; turn < 100; ++turn) asm volatile(".rept 128\n " QGMM_NOTHING "\n .endr" : :);
    });
  });
}

extern "C" double qgmm_roof_clock(double seconds) {
#if defined(__x86_64__)
  // Multiplications that wait for one another, three cycles each; unlike branches they are not slowed by another virtual
  // machine on the core's other hardware thread.
  return 1e-9 * Rate(seconds, 10000 * 8 * 3, [] {
    int64_t turns = 10000, value = 1;
    asm volatile("1:\n .rept 8\n imul %1, %1\n .endr\n dec %0\n jnz 1b" : "+r"(turns), "+r"(value) : : "cc");
  });
#else
  return (void)seconds, 1;
#endif
}

extern "C" double qgmm_roof_read(int streams, int threads, double seconds, int64_t bytes) {
  const Parts& parts = PartsOf(threads, bytes);
  if (parts.bytes == 0) return -1;
  return 1e-9 * OnAllThreads(threads, [&](int thread) {
    const auto* data = static_cast<const uint64_t*>(parts.memory[static_cast<size_t>(thread)].get());
    const auto read = streams == 1 ? Read<1> : streams == 2 ? Read<2> : Read<4>;
    size_t at = 0;
    return Rate(seconds, kPage, [&] {  // walked through the whole part, so that no read finds its data in a cache
      sink = read(data + at / 8, kPage);
      at = (at + kPage) % parts.bytes;
    });
  });
}

extern "C" double qgmm_roof_copy(int threads, double seconds, int64_t bytes) {
  const Parts& parts = PartsOf(threads, bytes);
  if (parts.bytes == 0) return -1;
  return 1e-9 * OnAllThreads(threads, [&](int thread) {
    auto* data = static_cast<uint8_t*>(parts.memory[static_cast<size_t>(thread)].get());
    size_t at = 0;
    return Rate(seconds, 2.0 * kPage, [&] {
      Copy(data + at, data + (at + parts.bytes / 2 / kPage * kPage) % parts.bytes, kPage);
      at = (at + kPage) % parts.bytes;
    });
  });
}

extern "C" double qgmm_roof_clear(int threads, int64_t bytes) {
  const size_t part = (static_cast<size_t>(bytes) / static_cast<size_t>(threads) / kPage + 1) * kPage;
  const size_t all = part * static_cast<size_t>(threads) + kPage;
  void* memory = mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);  // malloc's may have pages
  if (memory == MAP_FAILED) return -1;
  AskForHugePages(memory, all);
  const auto first = (reinterpret_cast<uintptr_t>(memory) + kPage - 1) / kPage * kPage;
  const double start = Now();
  OnAllThreads(threads, [&](int thread) {
    constexpr size_t kSmallPage = 4096;
    auto* own = reinterpret_cast<volatile char*>(first + part * static_cast<size_t>(thread));
    for (size_t at = 0; at < part; at += kSmallPage) own[at] = 1;
    return 0.0;
  });
  const double seconds = Now() - start;
  munmap(memory, all);
  return seconds;
}
