// SPDX-License-Identifier: Apache-2.0
// Packed weights: every source layout gives the same bytes, every weight comes back, and padding is zero weights.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cpu/backend.h"
#include "cpu/pack.h"
#include "pack_case.h"
#include "packed_format.h"
#include "views.h"

namespace qgmm::cpu {
namespace {

std::vector<Shape> Shapes() {
  std::vector<Shape> shapes;
  for (const int64_t k : {1, 3, 4, 5, 7, 8, 9, 63, 64, 65, 130}) {
    for (const int64_t n : {1, 2, 15, 16, 17, 31, 32, 33, 66}) shapes.push_back({2, k, n, DType::kInt8, false});
    for (const int64_t n : {2, 6, 30, 32, 34, 66, 130}) shapes.push_back({2, k, n, DType::kInt8, true});
    for (const int64_t n : {8, 16, 24, 32, 40, 72, 136}) {
      for (const bool paired : {false, true}) shapes.push_back({2, k, n, DType::kInt4, paired});
    }
  }
  return shapes;
}

TEST(Pack, EveryWeightComesBack) {
  for (const Shape& s : Shapes()) {
    const std::vector<int> values = RandomValues(s, 1);
    const Owned tensor = Tensor(s, values, Contiguous({s.e, s.k, Elements(s)}), Edge::kBack);
    Weights plain = WeightsOf(s, tensor), packed = plain;
    const std::vector<uint8_t> bytes = PackedBytesOf(plain);
    packed.packed = FromBytes(bytes.data(), static_cast<int64_t>(bytes.size()));
    ASSERT_EQ(packed.packed.paired(), s.paired);
    ASSERT_EQ(packed.packed.dtype(), s.dtype);
    ASSERT_EQ(UnpackedOf(packed.packed), BytesOf(tensor)) << Words(s);
    for (int64_t e = 0; e < s.e; ++e) {
      for (int64_t k = 0; k < s.k; ++k) {
        for (int64_t j = 0; j < s.n; ++j) {
          const int value = ValueAt(s, values, e, k, j);
          ASSERT_EQ(At(packed.packed, e, k, j), value) << Words(s) << "; " << e << ", " << k << ", " << j;
          ASSERT_EQ(WeightAt(packed, e, k, j), value);
          ASSERT_EQ(WeightAt(plain, e, k, j), value);
        }
      }
    }
  }
}

/// Transposed, permuted, sliced, reversed and repeated strides, memory ending at guard pages on both sides.
TEST(Pack, EverySourceLayoutGivesTheSameBytes) {
  for (const Shape& s : Shapes()) {
    const std::vector<int> values = RandomValues(s, 2);
    const int64_t e = s.e, k = s.k, n = Elements(s);
    const std::vector<uint8_t> expected = PackedBytesOf(WeightsOf(s, Tensor(s, values, {k * n, n, 1}, Edge::kBack)));
    const std::vector<std::vector<int64_t>> layouts = {
        {k * n, 1, k},              // transposed view
        {1, n * e, e},              // experts innermost
        {n, e * n, 1},              // experts between k and n
        {2 * k * (n + 3), 2 * (n + 3), 1},  // a slice of wider rows, every other one
        {3 * k * n, 3 * n, 3},      // every third column
        {2 * k * n, 2 * n, 2}, {2 * k * n, 2 * n, -2},      // every second one, and backwards
        {2 * k * n, 2, 2 * k}, {3 * k * n, -3, 3 * k},      // every second and third row of transposed weights
        {k * n, -1, k}, {40 * k * n, 40, 40 * k}, {40 * k * n, 40 * n, 40},  // elements that share no cache line
        {-k * n, n, 1}, {k * n, -n, 1}, {k * n, n, -1}, {-k * n, -1, -k},  // reversed
    };
    for (const auto& strides : layouts) {
      for (const Edge edge : {Edge::kFront, Edge::kBack}) {
        const Owned tensor = Tensor(s, values, strides, edge);
        for (const Isa isa : PackingIsas()) {
          ASSERT_EQ(PackedBytesOf(WeightsOf(s, tensor), 1, 0, 0, static_cast<int>(isa)), expected)
              << Words(s) << ", strides " << strides[0] << ", " << strides[1] << ", " << strides[2] << ", " << Name(isa);
        }
      }
    }
  }
}

TEST(Pack, OneValueExpanded) {
  const Shape s = {3, 9, 34, DType::kInt8, true};
  const std::vector<int> values(static_cast<size_t>(s.e * s.k * s.n), -77);
  const Owned one = Tensor(s, values, {0, 0, 0}, Edge::kBack), all = Tensor(s, values, {9 * 34, 34, 1}, Edge::kBack);
  EXPECT_EQ(one.byte_count(), 1u);
  EXPECT_EQ(PackedBytesOf(WeightsOf(s, one)), PackedBytesOf(WeightsOf(s, all)));
}

TEST(Pack, ListOfExpertsWithStridesOfTheirOwn) {
  for (Shape s : Shapes()) {
    if (s.k % 2) continue;  // half of the shapes are enough
    s.e = 4;
    const std::vector<int> values = RandomValues(s, 3);
    const int64_t k = s.k, n = Elements(s);
    const std::vector<uint8_t> expected = PackedBytesOf(WeightsOf(s, Tensor(s, values, {k * n, n, 1}, Edge::kBack)));
    std::vector<Owned> experts;
    experts.push_back(Tensor(s, values, {0, n, 1}, Edge::kBack, 0, 1));
    experts.push_back(Tensor(s, values, {0, 1, k}, Edge::kFront, 1, 1));
    experts.push_back(Tensor(s, values, {0, -n, 1}, Edge::kBack, 2, 1));
    experts.push_back(Tensor(s, values, {0, 5 * n, 2}, Edge::kFront, 3, 1));
    Weights w = WeightsOf(s, experts[0]);
    w.plain = {};
    for (const Owned& expert : experts)
      w.list.push_back({expert.view().data, expert.view().strides[1], expert.view().strides[2]});
    ASSERT_EQ(PackedBytesOf(w), expected) << Words(s);
  }
}

TEST(Pack, UnalignedOutputAndAnyWorkers) {
  for (const Shape& s : {Shape{3, 65, 130, DType::kInt8, true}, Shape{3, 65, 264, DType::kInt4, false},
                         Shape{1, 5, 600, DType::kInt8, false}}) {
    const std::vector<int> values = RandomValues(s, 4);
    const Owned tensor = Tensor(s, values, Contiguous({s.e, s.k, Elements(s)}), Edge::kBack);
    const Weights w = WeightsOf(s, tensor);
    const std::vector<uint8_t> expected = PackedBytesOf(w);
    for (const size_t shift : {1u, 2u, 3u, 31u, 63u})
      EXPECT_EQ(PackedBytesOf(w, 1, shift), expected) << "shift " << shift;
    for (const int workers : {2, 7, 64}) EXPECT_EQ(PackedBytesOf(w, workers), expected) << "workers " << workers;
  }
}

/// docs/packing.md, read byte by byte: every place that holds no weight of the caller's holds the weight zero.
TEST(Pack, PaddingIsZeroWeightsAndColumnSumsAreRight) {
  for (const Shape& s : Shapes()) {
    const std::vector<int> values = RandomValues(s, 5);
    const Owned tensor = Tensor(s, values, Contiguous({s.e, s.k, Elements(s)}), Edge::kBack);
    const std::vector<uint8_t> bytes = PackedBytesOf(WeightsOf(s, tensor));
    const int64_t panels = 2 * ((s.n + 31) / 32), padded_k = (s.k + 63) / 64 * 64;
    const int64_t panel_bytes = padded_k * 16 / (s.dtype == DType::kInt4 ? 2 : 1);
    const uint8_t* sums = bytes.data() + 64 + s.e * panels * panel_bytes;
    ASSERT_EQ(static_cast<int64_t>(bytes.size()), 64 + s.e * panels * (panel_bytes + 16 * 4)) << Words(s);
    for (int64_t e = 0; e < s.e; ++e) {
      for (int64_t p = 0; p < panels; ++p) {
        const uint8_t* panel = bytes.data() + 64 + (e * panels + p) * panel_bytes;
        for (int c = 0; c < 16; ++c) {
          // The caller's column, or -1: plain panels follow each other; paired ones alternate gate and up.
          const int64_t h = s.n / 2, within = (s.paired ? p / 2 : p) * 16 + c;
          const int64_t j = within >= (s.paired ? h : s.n) ? -1 : within + (s.paired && p % 2 ? h : 0);
          int32_t sum = 0, stored_sum = 0;
          for (int64_t k = 0; k < padded_k; ++k) {
            const uint8_t byte =
                s.dtype == DType::kInt4 ? panel[k / 8 * 64 + c * 4 + k % 4] : panel[k / 4 * 64 + c * 4 + k % 4];
            const int got =
                s.dtype == DType::kInt8 ? static_cast<int8_t>(byte) : (k % 8 < 4 ? byte & 15 : byte >> 4) - 8;
            const int value = j >= 0 && k < s.k ? ValueAt(s, values, e, k, j) : 0;
            ASSERT_EQ(got, value) << Words(s) << "; panel " << p << ", column " << c << ", k " << k;
            sum += value;
          }
          std::memcpy(&stored_sum, sums + ((e * panels + p) * 16 + c) * 4, 4);
          ASSERT_EQ(stored_sum, sum) << Words(s) << "; panel " << p << ", column " << c;
        }
      }
    }
  }
}

/// A run packs spans of panels and stretches of k as it goes: the same lines as in the whole.
TEST(Pack, StretchesOfPanelsAndLines) {
  for (const Shape& s : {Shape{2, 130, 150, DType::kInt8, true}, Shape{2, 130, 152, DType::kInt4, true},
                         Shape{2, 61, 97, DType::kInt8, false}}) {
    const std::vector<int> values = RandomValues(s, 6);
    const Owned tensor = Tensor(s, values, Contiguous({s.e, s.k, Elements(s)}), Edge::kBack);
    const Weights w = WeightsOf(s, tensor);
    const std::vector<uint8_t> whole = PackedBytesOf(w);
    const int64_t panel_bytes = PanelBytes(s.dtype, s.k), panels = 2 * Pairs(s.n), all = panel_bytes / kLineBytes;
    for (int64_t first = 0; first < panels; first += 2) {
      for (const auto& [line, lines] : {std::pair<int64_t, int64_t>{0, all}, {1, 3}, {all - 2, 2}, {all / 2, 1}}) {
        const int64_t count = std::min<int64_t>(8, panels - first), stride = lines * kLineBytes + 64;
        std::vector<uint8_t> out(static_cast<size_t>(count * stride), 0xAB);
        PackPanels(w, {1, first, count, line, lines, out.data(), stride}, StagesFor(ChosenIsa(-1)).lines);
        for (int64_t p = 0; p < count; ++p) {
          const uint8_t* expected =
              whole.data() + kHeaderBytes + (panels + first + p) * panel_bytes + line * kLineBytes;
          ASSERT_EQ(0, std::memcmp(out.data() + p * stride, expected, static_cast<size_t>(lines * kLineBytes)))
              << Words(s);
          for (int64_t i = lines * kLineBytes; i < stride; ++i)
            ASSERT_EQ(out[static_cast<size_t>(p * stride + i)], 0xAB);
        }
      }
    }
  }
}

/// Stacks that exceed the caches are written around them, and sums come from registers: the same bytes and sums.
TEST(Pack, AroundTheCaches) {
  for (const Shape& s : {Shape{1, 1100, 166, DType::kInt8, true}, Shape{1, 1100, 168, DType::kInt4, true},
                         Shape{1, 1027, 150, DType::kInt8, false}}) {
    const std::vector<int> values = RandomValues(s, 8);
    const int64_t n = Elements(s), panels = 2 * Pairs(s.n), stride = PanelBytes(s.dtype, s.k);
    for (const auto& strides : {std::vector<int64_t>{s.k * n, n, 1}, {s.k * n, 1, s.k}, {0, 2 * n, 2}, {0, 2, 2 * s.k},
                                {0, n, -1}}) {
      const Owned tensor = Tensor(s, values, strides, Edge::kBack);
      const Weights w = WeightsOf(s, tensor);
      const std::vector<uint8_t> whole = PackedBytesOf(w, 1, 0, 0, static_cast<int>(Isa::kScalar));
      const size_t size = static_cast<size_t>(panels * stride);
      std::vector<uint8_t> memory(size + 64);
      uint8_t* out = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
      for (const Isa isa : PackingIsas()) {
        std::fill(memory.begin(), memory.end(), 0xAB);
        std::vector<int32_t> sums(static_cast<size_t>(panels * kPanelColumns));
        const LineMakers& makers = StagesFor(isa).lines;
        PackPanels(w, {0, 0, panels, 0, stride / kLineBytes, out, stride, sums.data(), true}, makers);
        if (makers.drain) makers.drain();
        ASSERT_EQ(0, std::memcmp(out, whole.data() + kHeaderBytes, size)) << Words(s) << ", " << Name(isa);
        std::fill(memory.begin(), memory.end(), 0xAB);
        makers.copy(whole.data() + kHeaderBytes, panels * stride / kLineBytes, out, kLineBytes);
        if (makers.drain) makers.drain();
        ASSERT_EQ(0, std::memcmp(out, whole.data() + kHeaderBytes, size)) << Words(s) << ", " << Name(isa);
        ASSERT_EQ(memory.size() - size, static_cast<size_t>(std::count(memory.data(), out, 0xAB) +
                                                            std::count(out + size, memory.data() + memory.size(), 0xAB)));
        std::vector<uint8_t> apart(3 * 128 + 64, 0xAB), expected = apart;
        uint8_t* const first = apart.data() + (64 - reinterpret_cast<uintptr_t>(apart.data()) % 64) % 64;
        for (int i = 0; i < 3; ++i) {
          std::memcpy(expected.data() + (first - apart.data()) + 96 * i, whole.data() + kHeaderBytes + 64 * i, 64);
        }
        makers.copy(whole.data() + kHeaderBytes, 3, first, 96);
        if (makers.drain) makers.drain();
        ASSERT_EQ(apart, expected) << Name(isa);
        ASSERT_EQ(0, std::memcmp(sums.data(), whole.data() + kHeaderBytes + size, sums.size() * 4)) << Words(s);
      }
    }
  }
}

}  // namespace
}  // namespace qgmm::cpu
