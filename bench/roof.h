// SPDX-License-Identifier: Apache-2.0
// Roofs of this machine, measured: GB/s of linear reads and of copies, seconds of new pages, GMAC/s of register-only
// multiply-accumulates, instructions a second.
#pragma once

#include <cstdint>

extern "C" {

/// GB/s, all threads together, each walking its part of `bytes` (more than the caches hold) as 1, 2 or 4 streams,
/// for about `seconds`. 2 MiB pages where the system grants them. -1: not enough memory.
__attribute__((visibility("default"))) double qgmm_roof_read(int streams, int threads, double seconds, int64_t bytes);

/// GB/s read plus GB/s written, all threads together, each copying within its part of `bytes`, around the caches: what packing
/// could reach that cost nothing but its bytes. -1: not enough memory.
__attribute__((visibility("default"))) double qgmm_roof_copy(int threads, double seconds, int64_t bytes);

/// Seconds in which all threads together get `bytes` of new memory, in 2 MiB pages where the system grants them, a byte of
/// every page written: what the system takes to clear them. -1: not enough memory.
__attribute__((visibility("default"))) double qgmm_roof_clear(int threads, int64_t bytes);

/// GMAC/s of all threads, of the instructions that a kernel multiplies with; the instruction's name, "512" for zmm, "256"
/// for the ymm form of one that has both. vpmaddwd holds the vpaddd behind it; vpmaddubsw is u4 x s8, eight steps summed in
/// int16; "pairs" and "quads" are the certified u8 x s8 forms, one and two steps in int16. "tdpbusd": tiles; "tdpbusd twice":
/// high and low bytes of int16. -1: the machine cannot.
__attribute__((visibility("default"))) double qgmm_roof_multiply(const char* kind, int threads, double seconds);

/// Billions of instructions a second, all threads together, of such that do nothing: what cores take in. A core whose other
/// hardware thread is somebody else's has about half, while loops of nearly nothing but multiplies may not notice.
__attribute__((visibility("default"))) double qgmm_roof_issue(int threads, double seconds);

/// Clock of one busy core in GHz, from multiplications that wait for one another, three cycles each; 1 where they are not known.
__attribute__((visibility("default"))) double qgmm_roof_clock(double seconds);
}
