// SPDX-License-Identifier: Apache-2.0
// Stacks that are packed in the order of memory: experts or columns that share cache lines.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "pack_case.h"

namespace qgmm::cpu {
namespace {

/// More experts than a cache line holds, neighbours in memory, whole sixteens of experts and columns or not.
TEST(Pack, ExpertsThatAreNeighbours) {
  for (const Shape& s : {Shape{70, 37, 34, DType::kInt8, true}, Shape{64, 66, 272, DType::kInt8, false},
                         Shape{16, 40, 320, DType::kInt8, true}, Shape{9, 70, 136, DType::kInt8, true},
                         Shape{130, 5, 48, DType::kInt8, false},
                         Shape{37, 70, 48, DType::kInt4, true}, Shape{17, 9, 272, DType::kInt4, false},
                         Shape{16, 130, 24, DType::kInt4, true},
                         Shape{19, 20, 464, DType::kInt4, true}}) {
    const std::vector<int> values = RandomValues(s, 7);
    const int64_t e = s.e, k = s.k, n = Elements(s);
    const Owned contiguous = Tensor(s, values, {k * n, n, 1}, Edge::kBack);
    for (const int64_t capacity : {0, 9}) {
      if (capacity > 0 && s.dtype == DType::kInt4) continue;
      const std::vector<uint8_t> expected = PackedBytesOf(WeightsOf(s, contiguous), 1, 0, capacity);
      for (const auto& strides : {std::vector<int64_t>{1, n * e, e}, {1, e, k * e}, {2, 2 * n * e, 2 * e}, {-1, n * e, e},
                                  {1, -2 * n * e, 2 * e}, {1, n * e, -e}}) {
        for (const Edge edge : {Edge::kFront, Edge::kBack}) {
          const Owned tensor = Tensor(s, values, strides, edge);
          const std::vector<uint8_t> bytes = PackedBytesOf(WeightsOf(s, tensor), 3, 0, capacity);
          ASSERT_EQ(UnpackedOf(FromBytes(bytes.data(), static_cast<int64_t>(bytes.size()))), BytesOf(contiguous)) << Words(s);
          ASSERT_EQ(bytes, expected)
              << Words(s) << ", strides " << strides[0] << ", " << strides[1] << ", " << strides[2];
          ASSERT_EQ(bytes, PackedBytesOf(WeightsOf(s, tensor), 2, 0, capacity, static_cast<int>(Isa::kScalar))) << Words(s);
        }
      }
    }
  }
}

/// Packs spans of all panels of all experts, together or one after the other, and expects what the portable code makes.
void ExpectSameAroundTheCaches(const Shape& s, const std::vector<int>& values, const std::vector<int64_t>& strides, Edge edge,
                               bool together) {
  const Owned tensor = Tensor(s, values, strides, edge);
  const Weights w = WeightsOf(s, tensor);
  const std::vector<uint8_t> whole = PackedBytesOf(w, 1, 0, 0, static_cast<int>(Isa::kScalar));
  const int64_t panels = 2 * Pairs(s.n), stride = PanelBytes(s.dtype, s.k), each = panels * stride;
  for (const Isa isa : PackingIsas()) {
    const LineMakers& makers = StagesFor(isa).lines;
    for (const bool stream : {false, true}) {
      std::vector<uint8_t> memory(static_cast<size_t>(s.e * each + 64), 0xAB);
      uint8_t* const out = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
      std::vector<int32_t> sums(static_cast<size_t>(s.e * panels * kPanelColumns));
      std::vector<PackSpan> spans;
      for (int64_t x = 0; x < s.e; ++x) {
        int32_t* const own_sums = &sums[static_cast<size_t>(x * panels * kPanelColumns)];
        spans.push_back({x, 0, panels, 0, stride / kLineBytes, out + x * each, stride, own_sums, stream});
      }
      if (together) PackExperts(w, spans, makers);
      else for (const PackSpan& span : spans) PackExperts(w, {span}, makers);
      if (makers.drain) makers.drain();
      ASSERT_EQ(0, std::memcmp(out, whole.data() + kHeaderBytes, s.e * each)) << Words(s) << ", " << Name(isa);
      ASSERT_EQ(0, std::memcmp(sums.data(), whole.data() + kHeaderBytes + s.e * each, sums.size() * 4)) << Words(s);
    }
  }
}

/// Whole panels of neighbouring experts become lines in registers, and leave around the caches or not.
TEST(Pack, ExpertsAroundTheCaches) {
  for (const Shape& s : {Shape{14, 96, 160, DType::kInt8, true}, Shape{8, 70, 128, DType::kInt8, false},
                         Shape{21, 128, 160, DType::kInt4, true}, Shape{8, 136, 128, DType::kInt4, false}}) {
    ExpectSameAroundTheCaches(s, RandomValues(s, 9), {1, Elements(s) * s.e, s.e}, Edge::kBack, true);
  }
}

/// Whole panels of every second column become lines in registers, others by way of rows, and leave around the caches or not.
TEST(Pack, SecondColumnsAroundTheCaches) {
  for (const Shape& s : {Shape{2, 70, 272, DType::kInt8, true}, Shape{1, 64, 160, DType::kInt8, false},
                         Shape{2, 130, 128, DType::kInt8, false}, Shape{2, 136, 272, DType::kInt4, true},
                         Shape{1, 70, 128, DType::kInt4, false}, Shape{2, 64, 160, DType::kInt4, false}}) {
    const std::vector<int> values = RandomValues(s, 10);
    const int64_t k = s.k, n = Elements(s);
    for (const auto& strides : {std::vector<int64_t>{2 * k * n, 2 * n, 2}, {2 * k * n, -2 * n, 2}, {-2 * k * n, 2 * n + 5, 2}}) {
      for (const Edge edge : {Edge::kFront, Edge::kBack}) ExpectSameAroundTheCaches(s, values, strides, edge, false);
    }
  }
}

}  // namespace
}  // namespace qgmm::cpu
