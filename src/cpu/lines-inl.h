// SPDX-License-Identifier: Apache-2.0
// Packing in GCC's and clang's portable vectors, for ISAs that bring nothing of their own.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/kernel.h"

namespace qgmm::cpu {
namespace {

// SSE2 and NEON have instructions for all of this.
using Bytes16 = uint8_t __attribute__((vector_size(16)));
using Shorts8 = uint16_t __attribute__((vector_size(16)));
using Words4 = uint32_t __attribute__((vector_size(16)));
using Longs2 = uint64_t __attribute__((vector_size(16)));
using Signed16 = int8_t __attribute__((vector_size(16)));
using Signed8 = int16_t __attribute__((vector_size(16)));

template <class V>
inline V LoadVector(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
template <class V>
inline void StoreVector(uint8_t* p, V v) {
  std::memcpy(p, &v, sizeof(v));
}

inline Bytes16 ZipLow(Bytes16 a, Bytes16 b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
inline Bytes16 ZipHigh(Bytes16 a, Bytes16 b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

/// A line from four rows of 16 bytes: byte 4 * c + b = row b's byte c.
inline void Interleave(Bytes16 row0, Bytes16 row1, Bytes16 row2, Bytes16 row3, uint8_t* line) {
  const auto low01 = reinterpret_cast<Shorts8>(ZipLow(row0, row1)),
             low23 = reinterpret_cast<Shorts8>(ZipLow(row2, row3));
  const auto high01 = reinterpret_cast<Shorts8>(ZipHigh(row0, row1)),
             high23 = reinterpret_cast<Shorts8>(ZipHigh(row2, row3));
  StoreVector(line, __builtin_shufflevector(low01, low23, 0, 8, 1, 9, 2, 10, 3, 11));
  StoreVector(line + 16, __builtin_shufflevector(low01, low23, 4, 12, 5, 13, 6, 14, 7, 15));
  StoreVector(line + 32, __builtin_shufflevector(high01, high23, 0, 8, 1, 9, 2, 10, 3, 11));
  StoreVector(line + 48, __builtin_shufflevector(high01, high23, 4, 12, 5, 13, 6, 14, 7, 15));
}

/// Sums of the weights per column: four byte sums per column at first, of at most kMaxLines lines.
inline void AddColumnSums(const uint8_t* lines, int count, bool nibbles, int32_t* sums) {
  uint16_t part[kLineBytes] = {};
  for (int l = 0; l < count; ++l, lines += kLineBytes) {
    for (int i = 0; i < kLineBytes; ++i) {
      const int value = nibbles ? (lines[i] & 15) + (lines[i] >> 4) - 16 : static_cast<int8_t>(lines[i]);
      part[i] = static_cast<uint16_t>(part[i] + value);
    }
  }
  for (int i = 0; i < kLineBytes; ++i) {
    sums[i / 4] = static_cast<int32_t>(static_cast<uint32_t>(sums[i / 4]) +
                                       static_cast<uint32_t>(static_cast<int16_t>(part[i])));
  }
}

inline void LinesFromRows(const LinesArgs& a) {
  for (int p = 0; p < 4; ++p) {
    const uint8_t* row = a.source + kPanelColumns * p;
    for (int l = 0; l < a.lines; ++l, row += 4 * a.stride) {
      Interleave(LoadVector<Bytes16>(row), LoadVector<Bytes16>(row + a.stride), LoadVector<Bytes16>(row + 2 * a.stride),
                 LoadVector<Bytes16>(row + 3 * a.stride), a.out[p] + l * kLineBytes);
    }
    if (a.sums[p]) AddColumnSums(a.out[p], a.lines, false, a.sums[p]);
  }
}

/// Four lines at once from 16 bytes of each column, by 4 x 4 transposes of four k.
inline void LinesFromColumns(const LinesArgs& a) {
  for (int l = 0; l < a.lines; l += 4) {
    const uint8_t* column = a.source + 4 * l;
    for (int c = 0; c < kPanelColumns; c += 4, column += 4 * a.stride) {
      const Words4 v = LoadVector<Words4>(column), w = LoadVector<Words4>(column + a.stride);
      const Words4 y = LoadVector<Words4>(column + 2 * a.stride), z = LoadVector<Words4>(column + 3 * a.stride);
      const auto vw0 = reinterpret_cast<Longs2>(__builtin_shufflevector(v, w, 0, 4, 1, 5));
      const auto vw1 = reinterpret_cast<Longs2>(__builtin_shufflevector(v, w, 2, 6, 3, 7));
      const auto yz0 = reinterpret_cast<Longs2>(__builtin_shufflevector(y, z, 0, 4, 1, 5));
      const auto yz1 = reinterpret_cast<Longs2>(__builtin_shufflevector(y, z, 2, 6, 3, 7));
      uint8_t* out = a.out[0] + l * kLineBytes + 4 * c;
      StoreVector(out, __builtin_shufflevector(vw0, yz0, 0, 2));
      StoreVector(out + kLineBytes, __builtin_shufflevector(vw0, yz0, 1, 3));
      StoreVector(out + 2 * kLineBytes, __builtin_shufflevector(vw1, yz1, 0, 2));
      StoreVector(out + 3 * kLineBytes, __builtin_shufflevector(vw1, yz1, 1, 3));
    }
  }
  if (a.sums[0]) AddColumnSums(a.out[0], a.lines, false, a.sums[0]);
}

/// Byte c: column c's nibbles of k (low) and k + 4 (high), + 8 each, from 8 bytes of each of both rows.
inline Bytes16 NibblePairs(const uint8_t* low_k, const uint8_t* high_k) {
  constexpr uint64_t kEights = 0x8888888888888888, kLow = 0x0F0F0F0F0F0F0F0F;
  uint64_t low, high;
  std::memcpy(&low, low_k, sizeof(low));
  std::memcpy(&high, high_k, sizeof(high));
  low ^= kEights;
  high ^= kEights;
  const Longs2 even = {(low & kLow) | (high & kLow) << 4, 0}, odd = {(low >> 4 & kLow) | (high & ~kLow), 0};
  return ZipLow(reinterpret_cast<Bytes16>(even), reinterpret_cast<Bytes16>(odd));
}

inline void LinesFromNibbleRows(const LinesArgs& a) {
  const ptrdiff_t s = a.stride;
  for (int p = 0; p < 4; ++p) {
    const uint8_t* row = a.source + kPanelColumns / 2 * p;
    for (int l = 0; l < a.lines; ++l, row += 8 * s) {
      Interleave(NibblePairs(row, row + 4 * s), NibblePairs(row + s, row + 5 * s), NibblePairs(row + 2 * s, row + 6 * s),
                 NibblePairs(row + 3 * s, row + 7 * s), a.out[p] + l * kLineBytes);
    }
    if (a.sums[p]) AddColumnSums(a.out[p], a.lines, true, a.sums[p]);
  }
}

/// Source: two runs of words of eight columns, consecutive in k, `stride` bytes apart.
inline void LinesFromNibbleColumns(const LinesArgs& a) {
  for (int l = 0; l < a.lines; ++l) {
    uint8_t* line = a.out[0] + l * kLineBytes;
    for (int half = 0; half < 2; ++half) {
      for (int b = 0; b < 4; ++b) {
        uint32_t low, high;
        std::memcpy(&low, a.source + half * a.stride + (8 * l + b) * 4, sizeof(low));
        std::memcpy(&high, a.source + half * a.stride + (8 * l + b + 4) * 4, sizeof(high));
        for (int c = 0; c < 8; ++c) {
          const uint32_t pair = (low >> (4 * c) & 15) | (high >> (4 * c) & 15) << 4;
          line[32 * half + 4 * c + b] = static_cast<uint8_t>(pair ^ 0x88);
        }
      }
    }
  }
  if (a.sums[0]) AddColumnSums(a.out[0], a.lines, true, a.sums[0]);
}

/// With A the sum of a lane's magnitudes and S its sum, the positive weights sum to (A + S) / 2, the negative ones to
/// (A - S) / 2: the promise is A + |S| <= 256. A magnitude of 128 is the byte 128.
inline int FindBroken(const uint8_t* lines, int groups, int steps, BrokenLanes* found) {
  int count = 0;
  for (int g = 0; g < groups; ++g, lines += steps * kLineBytes) {
    Signed8 above[4];
    uint32_t any = 0;
    for (int part = 0; part < 4; ++part) {
      Signed8 magnitudes = {}, sums = {};
      for (int s = 0; s < steps; ++s) {
        const auto w = LoadVector<Signed16>(lines + s * kLineBytes + 16 * part);
        const auto sign = reinterpret_cast<Bytes16>(w < 0);
        const auto size = reinterpret_cast<Signed8>((reinterpret_cast<Bytes16>(w) ^ sign) - sign);
        magnitudes += (size & 255) + (size >> 8 & 255);
        const auto both = reinterpret_cast<Signed8>(w);
        sums += (both << 8 >> 8) + (both >> 8);
      }
      above[part] = magnitudes + (sums < 0 ? -sums : sums) > 256;
      const auto halves = reinterpret_cast<Longs2>(above[part]);
      any |= (halves[0] | halves[1]) != 0;
    }
    if (!any) continue;
    found[count] = {g, 0};
    for (int lane = 0; lane < kLineBytes / 2; ++lane) found[count].lanes |= uint32_t{above[lane / 8][lane % 8] != 0} << lane;
    ++count;
  }
  return count;
}

inline void CopyLines(const uint8_t* lines, int64_t count, uint8_t* out, int64_t stride) {
  for (int64_t i = 0; i < count; ++i) std::memcpy(out + i * stride, lines + i * kLineBytes, kLineBytes);
}

constexpr LineMakers kPortableLines = {LinesFromRows, LinesFromColumns, LinesFromNibbleRows, LinesFromNibbleColumns,
                                       FindBroken, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, CopyLines, nullptr,
                                       nullptr};

}  // namespace
}  // namespace qgmm::cpu
