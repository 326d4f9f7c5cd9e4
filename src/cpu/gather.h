// SPDX-License-Identifier: Apache-2.0
// Strided elements made consecutive, by instructions that every machine has.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "cpu/kernel.h"
#include "cpu/prefetch.h"

namespace qgmm::cpu {

using Bytes16 = uint8_t __attribute__((vector_size(16)));

/// to[i] = from[i * stride] for i < count. Reads no byte beyond the first and the last element.
inline void GatherBytes(const uint8_t* from, int64_t stride, int64_t count, uint8_t* to) {
  using Shorts8 = uint16_t __attribute__((vector_size(16)));
  if (stride == 1) {
    std::memcpy(to, from, static_cast<size_t>(count));
    return;
  }
  int64_t i = 0;
  if (stride == 2) {
    for (; i + 16 <= count; i += 16) {
      Bytes16 low, high;
      std::memcpy(&low, from + 2 * i, sizeof(low));
      std::memcpy(&high, from + 2 * i + 15, sizeof(high));  // 31 bytes are all there may be
      high = reinterpret_cast<Bytes16>(reinterpret_cast<Shorts8>(high) >> 8);  // GCC knows only the even bytes of two
      const Bytes16 even = __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
      std::memcpy(to + i, &even, sizeof(even));
    }
  } else if (stride == -1) {
    for (; i + 8 <= count; i += 8) {
      uint64_t eight;
      std::memcpy(&eight, from - i - 7, sizeof(eight));
      eight = __builtin_bswap64(eight);
      std::memcpy(to + i, &eight, sizeof(eight));
    }
  }
  for (; i + 8 <= count; i += 8) {  // a store of eight: single bytes would take as many cycles as there are
    const uint8_t* at = from + i * stride;
    uint64_t eight = 0;
    for (int b = 0; b < 8; ++b) eight |= uint64_t{at[b * stride]} << (8 * b);
    std::memcpy(to + i, &eight, sizeof(eight));
  }
  for (; i < count; ++i) to[i] = from[i * stride];
}

/// The same of words of four bytes, at any address.
inline void GatherWords(const uint8_t* from, int64_t stride, int64_t count, uint8_t* to) {
  using Words4 = uint32_t __attribute__((vector_size(16)));
  int64_t i = 0;
  if (stride == 2) {
    for (; i + 4 <= count; i += 4) {
      Words4 low, high;
      std::memcpy(&low, from + 8 * i, sizeof(low));
      std::memcpy(&high, from + 8 * i + 12, sizeof(high));
      const Words4 even = __builtin_shufflevector(low, high, 0, 2, 5, 7);
      std::memcpy(to + 4 * i, &even, sizeof(even));
    }
  }
  for (; i < count; ++i) std::memcpy(to + 4 * i, from + 4 * i * stride, 4);
}

/// `count` elements, `stride` apart, each with neighbours `across` apart, in elements.
struct Across {
  const uint8_t* from;
  int64_t stride, across, count, neighbours;
  int64_t ahead;  // bytes to what is read a little later, which is fetched meanwhile

  /// Fetches what follows elements [first, first + elements) by `ahead`; `bytes` of an element.
  void Fetch(int64_t first, int64_t elements, int64_t bytes) const {
    const uint8_t* const start = from + first * stride * bytes + ahead;
    if (neighbours * across >= std::abs(stride)) return FetchRange(start, elements * stride * bytes);  // every line once
    for (int64_t j = 0; j < elements; ++j) FetchRange(start + j * stride * bytes, neighbours * across * bytes);
  }
};

/// 16 x 16 bytes in place: byte j of row i becomes byte i of row j.
inline void TransposeBytes(Bytes16 rows[16]) {
  Bytes16 zipped[16];
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 8; ++i) {
      const Bytes16 a = rows[i], b = rows[i + 8];
      zipped[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      zipped[2 * i + 1] = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
    std::memcpy(rows, zipped, sizeof(zipped));
  }
}

/// The same in memory: to[Row(i) * to_stride + j] = from[j * stride + Row(i)], Row(i) i below 8 and i + gap - 8 from there on.
inline void TransposeBytes(const uint8_t* from, int64_t stride, int64_t gap, uint8_t* to, int64_t to_stride) {
  using Longs2 = uint64_t __attribute__((vector_size(16)));
  Bytes16 rows[16];
  for (int j = 0; j < 16; ++j) {
    uint64_t low, high;
    std::memcpy(&low, from + j * stride, 8);
    std::memcpy(&high, from + j * stride + gap, 8);
    rows[j] = reinterpret_cast<Bytes16>(Longs2{low, high});
  }
  TransposeBytes(rows);
  for (int i = 0; i < 16; ++i) std::memcpy(to + (i < 8 ? i : i + gap - 8) * to_stride, &rows[i], 16);
}

/// 4 x 4 words of four bytes: word j at to + i * to_stride = word i at from + j * stride, strides in bytes.
inline void TransposeWords(const uint8_t* from, ptrdiff_t stride, uint8_t* to, ptrdiff_t to_stride) {
  using Words4 = uint32_t __attribute__((vector_size(16)));
  Words4 rows[4], zipped[4];
  for (int j = 0; j < 4; ++j) std::memcpy(&rows[j], from + j * stride, 16);
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 2; ++i) {
      zipped[2 * i] = __builtin_shufflevector(rows[i], rows[i + 2], 0, 4, 1, 5);
      zipped[2 * i + 1] = __builtin_shufflevector(rows[i], rows[i + 2], 2, 6, 3, 7);
    }
    std::memcpy(rows, zipped, sizeof(rows));
  }
  for (int i = 0; i < 4; ++i) std::memcpy(to + i * to_stride, &rows[i], 16);
}

/// Every neighbour's elements made consecutive: those of neighbour i at to + i * to_stride.
/// Out of line: within the walk over rows it had 0.8 to 0.9 of the speed (g++ 12, Zen 4).
[[gnu::noinline]] inline void GatherBytesAcross(const Across& a, uint8_t* to, int64_t to_stride) {
  if (a.across == 1 && a.neighbours >= 8 && a.count >= 16) {
    const int64_t gap = std::min<int64_t>(8, a.neighbours - 8);  // 8 to 15 neighbours: some of them twice
    for (int64_t j = 0; j < a.count; j += 16) {
      const int64_t column = std::min(j, a.count - 16);  // the last ones again: whole blocks only
      a.Fetch(column, 16, 1);
      for (int64_t i = 0; i < a.neighbours; i += 16) {
        const int64_t first = std::max<int64_t>(0, std::min(i, a.neighbours - 16));
        TransposeBytes(a.from + column * a.stride + first, a.stride, gap, to + first * to_stride + column, to_stride);
      }
    }
    return;
  }
  if (a.neighbours == 1) {
    FetchRange(a.from + a.ahead, a.count * a.stride);
    return GatherBytes(a.from, a.stride, a.count, to);
  }
  for (int64_t i = 0; i < a.neighbours; ++i) {
    for (int64_t j = 0; j < a.count; ++j) to[i * to_stride + j] = a.from[j * a.stride + i * a.across];
  }
}

/// The same of words of four bytes.
[[gnu::noinline]] inline void GatherWordsAcross(const Across& a, uint8_t* to, int64_t to_stride) {
  if (a.across == 1 && std::min(a.neighbours, a.count) >= 4) {
    for (int64_t j = 0; j < a.count; j += 4) {
      const int64_t column = std::min(j, a.count - 4);
      a.Fetch(column, 4, 4);
      for (int64_t i = 0; i < a.neighbours; i += 4) {
        const int64_t first = std::min(i, a.neighbours - 4);
        TransposeWords(a.from + 4 * (column * a.stride + first), 4 * a.stride, to + first * to_stride + 4 * column, to_stride);
      }
    }
    return;
  }
  if (a.neighbours == 1) {
    FetchRange(a.from + a.ahead, 4 * a.count * a.stride);
    return GatherWords(a.from, a.stride, a.count, to);
  }
  for (int64_t j = 0; j < a.count; ++j) {
    for (int64_t i = 0; i < a.neighbours; ++i) {
      std::memcpy(to + i * to_stride + 4 * j, a.from + 4 * (j * a.stride + i * a.across), 4);
    }
  }
}

}  // namespace qgmm::cpu
