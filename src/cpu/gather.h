// SPDX-License-Identifier: Apache-2.0
// Strided elements made consecutive, by instructions that every machine has.
#pragma once

#include <cstdint>
#include <cstring>

namespace qgmm::cpu {

/// to[i] = from[i * stride] for i < count. Reads no byte beyond the first and the last element.
inline void GatherBytes(const uint8_t* from, int64_t stride, int64_t count, uint8_t* to) {
  using Bytes16 = uint8_t __attribute__((vector_size(16)));
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

}  // namespace qgmm::cpu
