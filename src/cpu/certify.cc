// SPDX-License-Identifier: Apache-2.0
// The promise, lane by lane: in 2 S consecutive places (S lines, half a column) the positive weights sum to at most 128
// and the negative ones to at least -128, so that sums of 2 S products with x + 128 in [0, 255] stay within
// 255 * 128 = 32640 whatever subset has been added. 129 would give 32895.
#include "cpu/certify.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "cpu/backend.h"
#include "cpu/kernel.h"

namespace qgmm::cpu {
namespace {

constexpr int kBound = 128;

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

void PanelCertifier::Start(uint8_t* place, int64_t capacity, FindBrokenFn find) {
  place_ = place;
  capacity_ = capacity;
  find_ = find;
  steps_ = 2;
  line_ = 0;
  residuals_.clear();
}

void PanelCertifier::Take(uint8_t* stretch, int64_t lines) {
  for (bool again = false; steps_ > 0; --steps_, again = true) {
    if ((!again || Repair(place_, 0, line_)) && Repair(stretch, line_, lines)) break;
    const PanelPromise list = {Certificate::kNone, static_cast<int>(residuals_.size()),
                               reinterpret_cast<const uint8_t*>(residuals_.data())};
    RestoreLines(list, 0, line_, place_);
    RestoreLines(list, 4 * line_, lines, stretch);
    residuals_.clear();
  }
  line_ += lines;
}

bool PanelCertifier::Repair(uint8_t* part, int64_t first_line, int64_t lines) {
  BrokenLanes broken[kMaxLines];
  for (int64_t top = 0; top < lines; top += kMaxLines) {
    uint8_t* const at = part + top * kLineBytes;
    const int count = find_(at, static_cast<int>(std::min<int64_t>(kMaxLines, lines - top)) / steps_, steps_, broken);
    for (int i = 0; i < count; ++i) {
      const int64_t line = int64_t{broken[i].group} * steps_;
      for (uint32_t lanes = broken[i].lanes; lanes != 0; lanes &= lanes - 1) {
        for (const int sign : {1, -1}) {
          if (!RepairLane(at + line * kLineBytes, std::countr_zero(lanes), sign, 4 * (first_line + top + line))) return false;
        }
      }
    }
  }
  return true;
}

bool PanelCertifier::RepairLane(uint8_t* lines, int lane, int sign, int64_t first_k) {
  const int64_t most = steps_ == 2 ? capacity_ / 2 : capacity_;
  int places[4] = {};  // byte offsets, the largest weight's first; of equals the first
  const auto size = [&](int place) { return sign * static_cast<int8_t>(lines[place]); };
  int count = 0, sum = 0;
  for (int s = 0; s < steps_; ++s) {
    for (int b = 0; b < 2; ++b) {
      const int place = s * kLineBytes + 2 * lane + b;
      if (size(place) <= 0) continue;
      sum += size(place);
      int i = count++;
      for (; i > 0 && size(places[i - 1]) < size(place); --i) places[i] = places[i - 1];
      places[i] = place;
    }
  }
  for (int i = 0; sum > kBound; ++i) {
    if (static_cast<int64_t>(residuals_.size()) == most) return false;
    const int place = places[i], taken = std::min(size(place), sum - kBound);
    sum -= taken;
    const int64_t k = first_k + place / kLineBytes * 4 + place % 4;
    Append(MakeResidual(k, place % kLineBytes / 4, sign * taken));
    lines[place] = static_cast<uint8_t>(static_cast<int8_t>(lines[place]) - sign * taken);
  }
  return true;
}

void PanelCertifier::Append(uint32_t residual) {
  residuals_.push_back(residual);
  for (size_t i = residuals_.size() - 1; i > 0 && residuals_[i - 1] > residual; --i) {
    std::swap(residuals_[i - 1], residuals_[i]);
  }
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
