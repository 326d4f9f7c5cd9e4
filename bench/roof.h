// SPDX-License-Identifier: Apache-2.0
// Roofs of this machine, measured: GB/s of linear reads, GMAC/s of register-only multiply-accumulates.
#pragma once

#include <cstdint>

extern "C" {

/// GB/s, all threads together, each walking its part of `bytes` (more than the caches hold) as 1, 2 or 4 streams,
/// for about `seconds`. 2 MiB pages where the system grants them. -1: not enough memory.
__attribute__((visibility("default"))) double qgmm_roof_read(int streams, int threads, double seconds, int64_t bytes);

/// GMAC/s of all threads. kind: "vpmaddwd" (int16, + vpaddd), "vpmaddubsw" (u4 x s8, eight steps in int16), "vfmadd"
/// (fp32, 256 bits), "vpdpbusd512", "vfmadd512". -1: the machine cannot.
__attribute__((visibility("default"))) double qgmm_roof_multiply(const char* kind, int threads, double seconds);

/// Clock of one busy core in GHz, from a loop that takes one cycle per turn; 1 where that loop is not known.
__attribute__((visibility("default"))) double qgmm_roof_clock(double seconds);
}
