// SPDX-License-Identifier: Apache-2.0
// X of kFixed16 in the order in which shifts split a line into int16 pairs; for AVX2 and everything above it.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace qgmm::cpu {
namespace {

/// Each four k in the order 0 2 1 3.
struct EvenThenOdd {
  static void Store(const float* v, int count, float inverse, int16_t* out) {
    const __m256 factor = _mm256_set1_ps(inverse);
    for (int k = 0; k < count; k += 16) {
      const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(v + k), factor));  // to nearest even
      const __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(v + k + 8), factor));
      __m256i shorts = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
      shorts = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(shorts, 0xD8), 0xD8);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + k), shorts);
    }
  }
};

}  // namespace
}  // namespace qgmm::cpu
