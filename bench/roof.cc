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

#if defined(__linux__)
#include <sys/mman.h>
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

Memory Allocate(size_t bytes) {
  Memory memory(std::aligned_alloc(kPage, bytes), std::free);
#if defined(__linux__)
  if (memory) madvise(memory.get(), bytes, MADV_HUGEPAGE);
#endif
  if (memory) std::memset(memory.get(), 0x5A, bytes);  // by the thread that will read it
  return memory;
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
#define QGMM_VNNI(c) "vpdpbusd %%zmm0, %%zmm1, %%zmm" #c "\n"
#define QGMM_FLOATS512(c) "vfmadd231ps %%zmm0, %%zmm1, %%zmm" #c "\n"
#define QGMM_LOOP(name, load, body)                                                                              \
  void name(const void* operands) {                                                                              \
    int64_t steps = kSteps;                                                                                      \
    asm volatile(load QGMM_ACCUMULATORS(QGMM_CLEAR) "1:\n" QGMM_ACCUMULATORS(body) "dec %0\n jnz 1b\n vzeroupper" \
                 : "+r"(steps)                                                                                   \
                 : "r"(operands)                                                                                 \
                 : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",       \
                   "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");                                \
  }
QGMM_LOOP(MultiplyWords, "vmovdqu (%1), %%ymm0\n vmovdqu 64(%1), %%ymm1\n", QGMM_WORDS)
QGMM_LOOP(MultiplyNibbles, "vmovdqu (%1), %%ymm0\n vmovdqu 64(%1), %%ymm1\n", QGMM_NIBBLES)
QGMM_LOOP(MultiplyFloats, "vmovups 192(%1), %%ymm0\n vmovups 256(%1), %%ymm1\n", QGMM_FLOATS)
QGMM_LOOP(MultiplyVnni, "vmovdqu64 (%1), %%zmm0\n vmovdqu64 64(%1), %%zmm1\n", QGMM_VNNI)
QGMM_LOOP(MultiplyFloats512, "vmovups 192(%1), %%zmm0\n vmovups 256(%1), %%zmm1\n", QGMM_FLOATS512)

bool Has(const char* kind) {
  if (std::strcmp(kind, "vpdpbusd512") == 0) return __builtin_cpu_supports("avx512vnni");
  if (std::strcmp(kind, "vfmadd512") == 0) return __builtin_cpu_supports("avx512f");
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

struct Loop {
  const char* kind;
  void (*run)(const void* operands);
  int macs;  // of one accumulator and step
};
constexpr Loop kLoops[] = {{"vpmaddwd", MultiplyWords, 16},     {"vpmaddubsw", MultiplyNibbles, 8 * 32},
                           {"vfmadd", MultiplyFloats, 8},       {"vpdpbusd512", MultiplyVnni, 64},
                           {"vfmadd512", MultiplyFloats512, 16}};

#endif  // __x86_64__

}  // namespace

extern "C" double qgmm_roof_multiply(const char* kind, int threads, double seconds) {
#if defined(__x86_64__)
  for (const Loop& loop : kLoops) {
    if (std::strcmp(kind, loop.kind) != 0 || !Has(kind)) continue;
    const Operands operands;
    const double macs = 12.0 * kSteps * loop.macs;
    return 1e-9 * OnAllThreads(threads, [&](int) { return Rate(seconds, macs, [&] { loop.run(&operands); }); });
  }
#else
  (void)kind, (void)threads, (void)seconds;
#endif
  return -1;
}

extern "C" double qgmm_roof_clock(double seconds) {
#if defined(__x86_64__)
  return 1e-9 * Rate(seconds, 100000, [] {
    int64_t turns = 100000;
    asm volatile("1: dec %0\n jnz 1b" : "+r"(turns) : : "cc");
  });
#else
  return (void)seconds, 1;
#endif
}

extern "C" double qgmm_roof_read(int streams, int threads, double seconds, int64_t bytes) {
  static std::vector<Memory> parts;  // kept: touching half a gigabyte anew would take longer than reading it
  static size_t part = 0;
  const size_t wanted = (static_cast<size_t>(bytes) / static_cast<size_t>(threads) / kPage + 1) * kPage;
  if (parts.size() != static_cast<size_t>(threads) || part != wanted) {
    parts.clear();
    for (int thread = 0; thread < threads; ++thread) parts.emplace_back(nullptr, std::free);
    part = wanted;
    OnAllThreads(threads, [&](int thread) {
      parts[static_cast<size_t>(thread)] = Allocate(wanted);
      return 0.0;
    });
  }
  if (std::any_of(parts.begin(), parts.end(), [](const Memory& memory) { return !memory; })) return -1;
  return 1e-9 * OnAllThreads(threads, [&](int thread) {
    const auto* data = static_cast<const uint64_t*>(parts[static_cast<size_t>(thread)].get());
    const auto read = streams == 1 ? Read<1> : streams == 2 ? Read<2> : Read<4>;
    size_t at = 0;
    const size_t chunk = kPage;  // walked through the whole part, so that no read finds its data in a cache
    return Rate(seconds, static_cast<double>(chunk), [&] {
      sink = read(data + at / 8, chunk);
      at = (at + chunk) % part;
    });
  });
}
