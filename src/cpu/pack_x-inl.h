// SPDX-License-Identifier: Apache-2.0
// Rows of x into the forms that kernels read; compiled once per ISA, so that the compiler vectorises for it.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/kernel.h"
#include "numeric.h"

namespace qgmm::cpu {
namespace {

/// int8 as it is, zeros behind k; row_sums of every slice if asked for.
[[maybe_unused]] void PackXBytes(const PackXArgs& a) {
  for (int i = 0; i < a.rows; ++i) {
    const int8_t* x = static_cast<const int8_t*>(a.x) + i * a.row_stride;
    int8_t* out = static_cast<int8_t*>(a.packed) + i * a.packed_stride;
    if (a.k_stride == 1) {
      std::memcpy(out, x, static_cast<size_t>(a.k));
    } else {
      for (int64_t k = 0; k < a.k; ++k) out[k] = x[k * a.k_stride];
    }
    std::memset(out + a.k, 0, static_cast<size_t>(a.padded_k - a.k));
    for (int64_t p = 0; a.row_sums && p < a.k / a.slice; ++p) {
      int32_t sum = 0;
      for (int64_t k = p * a.slice; k < (p + 1) * a.slice; ++k) sum += out[k];
      a.row_sums[i * (a.k / a.slice) + p] = sum;
    }
  }
}

/// int16, each four k in the order 0 2 1 3: the order in which shifts split a line's bytes into pairs.
[[maybe_unused]] void PackXShorts(const PackXArgs& a) {
  for (int i = 0; i < a.rows; ++i) {
    const int8_t* x = static_cast<const int8_t*>(a.x) + i * a.row_stride;
    int16_t* out = static_cast<int16_t*>(a.packed) + i * a.packed_stride;
    int64_t k = 0;
    for (; k + 4 <= a.k; k += 4) {
      out[k] = x[k * a.k_stride];
      out[k + 1] = x[(k + 2) * a.k_stride];
      out[k + 2] = x[(k + 1) * a.k_stride];
      out[k + 3] = x[(k + 3) * a.k_stride];
    }
    std::memset(out + k, 0, static_cast<size_t>(a.padded_k - k) * sizeof(int16_t));
    static constexpr int kOrder[4] = {0, 2, 1, 3};
    for (int64_t rest = 0; k + rest < a.k; ++rest) out[k + kOrder[rest]] = x[(k + rest) * a.k_stride];
  }
}

/// int8 with the sign bit flipped: x + 128 as unsigned; x of 0 behind k, where weights are 0.
[[maybe_unused]] void PackXUnsigned(const PackXArgs& a) {
  for (int i = 0; i < a.rows; ++i) {
    const uint8_t* x = static_cast<const uint8_t*>(a.x) + i * a.row_stride;
    uint8_t* out = static_cast<uint8_t*>(a.packed) + i * a.packed_stride;
    if (a.k_stride == 1) {
      for (int64_t k = 0; k < a.k; ++k) out[k] = x[k] ^ 128;
    } else {
      for (int64_t k = 0; k < a.k; ++k) out[k] = x[k * a.k_stride] ^ 128;
    }
    std::memset(out + a.k, 128, static_cast<size_t>(a.padded_k - a.k));
  }
}

/// fp32; x_sums in fp64, k ascending, rounded once.
template <class V>
void PackXFloats(const PackXArgs& a) {
  for (int i = 0; i < a.rows; ++i) {
    const char* x = static_cast<const char*>(a.x) + i * a.row_stride * Bytes(a.dtype);
    float* out = static_cast<float*>(a.packed) + i * a.packed_stride;
    if (a.k_stride != 1 || !V::Widen(x, a.dtype, a.k, out)) {
      for (int64_t k = 0; k < a.k; ++k) out[k] = Load(x, a.dtype, k * a.k_stride);
    }
    for (int64_t k = a.k; k < a.padded_k; ++k) out[k] = 0;
    if (!a.x_sums) continue;
    double sum = 0;
    for (int64_t k = 0; k < a.k; ++k) sum += out[k];
    a.x_sums[i] = static_cast<float>(sum);
  }
}

}  // namespace
}  // namespace qgmm::cpu
