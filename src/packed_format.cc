// SPDX-License-Identifier: Apache-2.0
// Header of packed weights, and the value of a single weight in every form.
#include "packed_format.h"

#include <algorithm>
#include <cstring>

namespace qgmm {
namespace {

constexpr char kMagic[8] = {'q', 'g', 'm', 'm', 'p', 'a', 'c', 'k'};
constexpr uint32_t kVersion = 2;
constexpr int64_t kMaxExperts = 1024, kMaxSide = int64_t{1} << 40;

int SignedNibble(uint32_t nibble) { return static_cast<int>((nibble & 15) ^ 8) - 8; }

}  // namespace

PackedHeader MakeHeader(Layout layout, int64_t e, int64_t k, int64_t n, int64_t residual_capacity) {
  PackedHeader header = {};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kVersion;
  header.layout = static_cast<int32_t>(layout);
  header.e = e;
  header.k = k;
  header.n = n;
  header.residual_capacity = residual_capacity;
  header.bytes = residual_capacity == 0 ? header.certificates_offset()
                                        : header.residuals_offset() + header.panels() * residual_capacity * 4;
  return header;
}

std::string ReadHeader(const uint8_t* data, int64_t bytes, PackedWeight* weight) {
  if (data == nullptr || bytes < kHeaderBytes) return "be at least 64 bytes long; got " + std::to_string(bytes);
  PackedHeader header;
  std::memcpy(&header, data, sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0)
    return "start with the header that pack_weight writes; got other bytes";
  if (header.version != kVersion) return "have format version 2; got " + std::to_string(header.version);
  if (header.layout < 1 || header.layout > 4) return "have a CPU layout, 1 to 4; got " + std::to_string(header.layout);
  const Layout layout = static_cast<Layout>(header.layout);
  const bool int4 = layout >= Layout::kCpuInt4,
             paired = layout == Layout::kCpuInt8Paired || layout == Layout::kCpuInt4Paired;
  const bool sizes_ok = header.e >= 1 && header.e <= kMaxExperts && header.k >= 1 && header.k <= kMaxSide &&
                        header.n >= 1 && header.n <= kMaxSide && !(int4 && header.n % 8) && !(paired && header.n % 2);
  // e * k * n fits int64 before MakeHeader multiplies them: e < 2^11, so k * n must stay below 2^50.
  if (!sizes_ok || header.k > (int64_t{1} << 50) / (header.n + kPairColumns)) {
    return "have sensible sizes; got e " + std::to_string(header.e) + ", k " + std::to_string(header.k) + ", n " +
           std::to_string(header.n);
  }
  if (header.residual_capacity < 0 || header.residual_capacity > PaddedK(header.k) * kPanelColumns ||
      (header.residual_capacity > 0 && (int4 || header.k > kMaxResidualK))) {
    return "have residual lists that fit its panels; got a capacity of " + std::to_string(header.residual_capacity);
  }
  const PackedHeader expected = MakeHeader(layout, header.e, header.k, header.n, header.residual_capacity);
  if (std::memcmp(&expected, &header, sizeof(header)) != 0) return "have the size of its sizes; got others";
  if (bytes != expected.bytes) {
    return "be " + std::to_string(expected.bytes) + " bytes long by its header; got " + std::to_string(bytes);
  }
  *weight = PackedWeight{data, bytes, layout, header.e, header.k, header.n, Device{}};
  return "";
}

PanelSpan ColumnsOf(int64_t panel, int64_t n, bool paired) {
  const int64_t width = paired ? n / 2 : n;
  const int64_t within = (paired ? panel / 2 : panel) * kPanelColumns;
  const int columns = static_cast<int>(std::clamp<int64_t>(width - within, 0, kPanelColumns));
  return {within + (paired ? panel % 2 * width : 0), columns};
}

Promises::Promises(const PackedWeight& weight) {
  PackedHeader header;
  std::memcpy(&header, weight.data, sizeof(header));
  certificates_ = weight.data + header.certificates_offset();
  residuals_ = weight.data + header.residuals_offset();
  panels_ = 2 * Pairs(weight.n);
  capacity_ = header.residual_capacity;
}

PanelPromise Promises::Of(int64_t expert, int64_t panel) const {
  if (!given()) return {};
  const int64_t index = expert * panels_ + panel;
  uint32_t words[2];  // certificate, count
  std::memcpy(words, certificates_ + index * 8, sizeof(words));
  if (words[0] >= static_cast<uint32_t>(kCertificates) || words[1] > capacity_) return {};
  return {static_cast<Certificate>(words[0]), static_cast<int>(words[1]), residuals_ + index * capacity_ * 4};
}

int At(const PackedWeight& weight, int64_t e, int64_t k, int64_t j) {
  const PanelColumn place = Place(j, weight.n, weight.paired());
  const int line_k = LineK(weight.dtype());
  const uint8_t* line = PackedPanels(weight).Lines(e, place.panel) + k / line_k * kLineBytes;
  const uint8_t byte = line[place.column * 4 + k % 4];
  if (weight.dtype() == DType::kInt8) {
    const PanelPromise promise = Promises(weight).Of(e, place.panel);
    const uint32_t wanted = MakeResidual(k, place.column, 0);
    int first = 0, end = promise.count;  // the first entry at or behind (k, column)
    while (first < end) {
      const int middle = (first + end) / 2;
      if (promise.At(middle) < wanted) {
        first = middle + 1;
      } else {
        end = middle;
      }
    }
    const bool found = first < promise.count && promise.At(first) >> 8 == wanted >> 8;
    return static_cast<int8_t>(byte) + (found ? ResidualValue(promise.At(first)) : 0);
  }
  return (k % 8 < 4 ? byte & 15 : byte >> 4) - 8;
}

int WeightAt(const Weights& weights, int64_t expert, int64_t k, int64_t j) {
  if (weights.packed.given()) return At(weights.packed, expert, k, j);
  const Weights::Plain plain = weights.Of(expert);
  if (weights.dtype == DType::kInt8)
    return static_cast<const int8_t*>(plain.data)[k * plain.k_stride + j * plain.n_stride];
  int32_t word;  // nibbles of one int32, the lowest first
  std::memcpy(&word, static_cast<const int32_t*>(plain.data) + k * plain.k_stride + j / 8 * plain.n_stride,
              sizeof(word));
  return SignedNibble(static_cast<uint32_t>(word) >> (4 * (j % 8)));
}

}  // namespace qgmm
