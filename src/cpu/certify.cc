// SPDX-License-Identifier: Apache-2.0
// The promise, lane by lane: in 2 S consecutive places (S lines, half a column) the positive weights sum to at most 128
// and the negative ones to at least -128, so that sums of 2 S products with x + 128 in [0, 255] stay within
// 255 * 128 = 32640 whatever subset has been added. 129 would give 32895.
#include "cpu/certify.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "cpu/backend.h"
#include "cpu/kernel.h"

namespace qgmm::cpu {
namespace {

constexpr int kBound = 128;
constexpr int kLanes = kLineBytes / 2;  // of one line: two halves of 16 columns

// GCC's and clang's portable vectors.
using Signed16 = int8_t __attribute__((vector_size(16)));
using Shorts8 = uint16_t __attribute__((vector_size(16)));

/// Per lane the sum of its weights of one sign, without the sign.
struct LaneSums {
  Shorts8 positive[4], negative[4];

  LaneSums(const uint8_t* lines, int steps) {
    for (int part = 0; part < 4; ++part) {
      positive[part] = negative[part] = Shorts8{};
      for (int s = 0; s < steps; ++s) {
        Signed16 w;
        std::memcpy(&w, lines + s * kLineBytes + 16 * part, sizeof(w));
        const auto above = reinterpret_cast<Shorts8>(w & (w > 0));
        const auto below = reinterpret_cast<Shorts8>(-w & (w < 0));  // -128 becomes the byte 128
        positive[part] += (above & 255) + (above >> 8);
        negative[part] += (below & 255) + (below >> 8);
      }
    }
  }
  bool Break() const {
    Shorts8 any = {};
    for (int part = 0; part < 4; ++part) {
      any |= reinterpret_cast<Shorts8>(positive[part] > kBound) | reinterpret_cast<Shorts8>(negative[part] > kBound);
    }
    uint64_t halves[2];
    std::memcpy(halves, &any, sizeof(any));
    return (halves[0] | halves[1]) != 0;
  }
};

/// Takes from the lane's weights of one sign, largest first, what exceeds the bound.
void Repair(uint8_t* lines, int steps, int lane, int sign, int64_t first_k, std::vector<uint32_t>* residuals) {
  std::array<int, 4> places;  // byte offsets
  int count = 0, sum = 0;
  for (int s = 0; s < steps; ++s) {
    for (int b = 0; b < 2; ++b) {
      const int place = s * kLineBytes + 2 * lane + b;
      const int w = sign * static_cast<int8_t>(lines[place]);
      if (w <= 0) continue;
      sum += w;
      places[static_cast<size_t>(count++)] = place;
    }
  }
  const auto size = [&](int place) { return sign * static_cast<int8_t>(lines[place]); };
  std::stable_sort(places.begin(), places.begin() + count, [&](int a, int b) { return size(a) > size(b); });
  for (int i = 0; sum > kBound; ++i) {
    const int place = places[static_cast<size_t>(i)], taken = std::min(size(place), sum - kBound);
    sum -= taken;
    const int64_t k = first_k + place / kLineBytes * 4 + place % 4;
    residuals->push_back(MakeResidual(k, place % kLineBytes / 4, sign * taken));
    lines[place] = static_cast<uint8_t>(static_cast<int8_t>(lines[place]) - sign * taken);
  }
}

/// Repairs all lanes of S = `steps`; false, bytes restored, if the list would exceed `most`.
bool CertifyAt(int steps, uint8_t* panel, int64_t lines, int64_t most, std::vector<uint32_t>* residuals) {
  residuals->clear();
  bool fits = true;
  for (int64_t l = 0; l < lines && fits; l += steps) {
    uint8_t* group = panel + l * kLineBytes;
    const LaneSums sums(group, steps);
    if (!sums.Break()) continue;
    for (int lane = 0; lane < kLanes; ++lane) {
      if (sums.positive[lane / 8][lane % 8] > kBound) Repair(group, steps, lane, 1, 4 * l, residuals);
      if (sums.negative[lane / 8][lane % 8] > kBound) Repair(group, steps, lane, -1, 4 * l, residuals);
    }
    fits = static_cast<int64_t>(residuals->size()) <= most;
  }
  std::sort(residuals->begin(), residuals->end());
  if (fits) return true;
  const PanelPromise list = {Certificate::kNone, static_cast<int>(residuals->size()),
                             reinterpret_cast<const uint8_t*>(residuals->data())};
  RestoreLines(list, 0, lines, panel);
  residuals->clear();
  return false;
}

}  // namespace

int64_t ResidualCapacity(DType dtype, int64_t k, Certification certify, double max_residuals) {
  if (certify == Certification::kAuto) {
    const bool fits = dtype == DType::kInt8 && k <= kMaxIntegerK;
    const bool wanted =
        fits && ChooseKernel(Product::kInt8, k, k, 256, ChosenIsa(-1), Certificate::kQuads).needs != Certificate::kNone;
    certify = wanted ? Certification::kYes : Certification::kNo;
  }
  if (certify == Certification::kNo) return 0;
  const double places = static_cast<double>(PaddedK(k) * kPanelColumns) * max_residuals;
  return std::max<int64_t>(1, static_cast<int64_t>(places));
}

Certificate CertifyPanel(uint8_t* panel, int64_t lines, int64_t capacity, std::vector<uint32_t>* residuals) {
  if (CertifyAt(2, panel, lines, capacity / 2, residuals)) return Certificate::kQuads;
  if (CertifyAt(1, panel, lines, capacity, residuals)) return Certificate::kPairs;
  return Certificate::kNone;
}

void RestoreLines(const PanelPromise& promise, int64_t first_k, int64_t lines, uint8_t* stretch) {
  for (int i = 0; i < promise.count; ++i) {
    const uint32_t residual = promise.At(i);
    const int64_t k = ResidualK(residual) - first_k;
    if (k < 0 || k >= 4 * lines) continue;
    uint8_t& byte = stretch[k / 4 * kLineBytes + ResidualColumn(residual) * 4 + k % 4];
    byte = static_cast<uint8_t>(byte + static_cast<uint8_t>(ResidualValue(residual)));
  }
}

}  // namespace qgmm::cpu
