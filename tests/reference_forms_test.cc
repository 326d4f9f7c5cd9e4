// SPDX-License-Identifier: Apache-2.0
// What must not change the reference's bits: form of weights, scales and rows, groups around, the caller's float mode.
#include <gtest/gtest.h>

#include <cfenv>
#include <functional>

#include "packed_format.h"
#include "reference.h"
#include "reference_case.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace qgmm::reference {
namespace {

constexpr int64_t kK = 37, kN = 24, kH = 12;

Case Fresh(DType weight_dtype = DType::kInt8) {
  return MakeCase(Finish::kSwigluQuant, {{2, 0, 3, 1}, kK, kN}, 51, weight_dtype);
}

void ExpectSameBits(const Case& a, const Case& b) {
  EXPECT_EQ(a.y, b.y);
  EXPECT_EQ(0, std::memcmp(a.y_scale.data(), b.y_scale.data(), a.y_scale.size() * sizeof(float)));
}

/// Runs the case as it is and as `change` leaves its problem; both must give the same bits.
void ExpectNoEffect(DType weight_dtype, const std::function<void(Case*)>& change) {
  const Case plain = Fresh(weight_dtype);
  reference::Run(plain.problem);
  Case other = Fresh(weight_dtype);
  change(&other);
  reference::Run(other.problem);
  ExpectSameBits(plain, other);
}

/// Weights [e, k, columns] of type T copied to storage with the given strides, everything else poisoned.
template <class T>
std::vector<T> Scattered(const std::vector<T>& w, int64_t e, int64_t columns, int64_t size, int64_t offset,
                         int64_t expert_stride, int64_t k_stride, int64_t n_stride) {
  std::vector<T> storage(static_cast<size_t>(size), static_cast<T>(0x5B));
  for (int64_t i = 0; i < e * kK * columns; ++i) {
    const int64_t expert = i / (kK * columns), kk = i / columns % kK, j = i % columns;
    const int64_t to = offset + expert * expert_stride + kk * k_stride + j * n_stride;
    storage[static_cast<size_t>(to)] = w[static_cast<size_t>(i)];
  }
  return storage;
}

TEST(ReferenceWeightForms, TransposedView) {
  std::vector<int8_t> w;
  ExpectNoEffect(DType::kInt8, [&](Case* c) {
    w = Scattered(c->w, 4, kN, 4 * kK * kN, 0, kK * kN, 1, kK);
    c->problem.w.plain = {w.data(), 1, kK};
  });
  std::vector<int32_t> words;
  ExpectNoEffect(DType::kInt4, [&](Case* c) {
    words = Scattered(c->words, 4, kN / 8, 4 * kK * kN / 8, 0, kK * kN / 8, 1, kK);
    c->problem.w.plain = {words.data(), 1, kK};
  });
}

TEST(ReferenceWeightForms, PermutedStrides) {  // stored as [k, e, n]
  std::vector<int8_t> w;
  ExpectNoEffect(DType::kInt8, [&](Case* c) {
    w = Scattered(c->w, 4, kN, 4 * kK * kN, 0, kN, 4 * kN, 1);
    c->problem.w.plain = {w.data(), 4 * kN, 1};
    c->problem.w.expert_stride = kN;
  });
  std::vector<int32_t> words;
  ExpectNoEffect(DType::kInt4, [&](Case* c) {
    words = Scattered(c->words, 4, kN / 8, 4 * kK * kN / 8, 0, kN / 8, 4 * kN / 8, 1);
    c->problem.w.plain = {words.data(), 4 * kN / 8, 1};
    c->problem.w.expert_stride = kN / 8;
  });
}

TEST(ReferenceWeightForms, SlicedStorage) {  // every second column of a wider tensor, experts and rows backwards
  std::vector<int8_t> w;
  ExpectNoEffect(DType::kInt8, [&](Case* c) {
    const int64_t row = 2 * kN + 5, size = 4 * kK * row;
    w = Scattered(c->w, 4, kN, size, size - row, -kK * row, -row, 2);
    c->problem.w.plain = {w.data() + size - row, -row, 2};
    c->problem.w.expert_stride = -kK * row;
  });
}

TEST(ReferenceWeightForms, ListOfExperts) {  // strides differ from expert to expert
  std::vector<int8_t> even, odd;
  ExpectNoEffect(DType::kInt8, [&](Case* c) {
    even = c->w;
    odd = Scattered(c->w, 4, kN, 4 * kK * kN, 0, kK * kN, 1, kK);
    c->problem.w.plain = {};
    for (int64_t expert = 0; expert < 4; ++expert) {
      const int64_t begin = expert * kK * kN;
      if (expert % 2) c->problem.w.list.push_back({odd.data() + begin, 1, kK});
      else c->problem.w.list.push_back({even.data() + begin, kN, 1});
    }
  });
}

/// Panels written place by place from the definition in docs/packing.md, behind the header; from byte `shift` on.
std::vector<uint8_t> Panels(const Case& c, bool paired, bool int4, size_t shift) {
  const Layout layout = int4 ? (paired ? Layout::kCpuInt4Paired : Layout::kCpuInt4)
                             : (paired ? Layout::kCpuInt8Paired : Layout::kCpuInt8);
  const PackedHeader header = MakeHeader(layout, c.e, kK, kN);
  std::vector<uint8_t> bytes(shift + static_cast<size_t>(header.bytes));
  std::memcpy(bytes.data() + shift, &header, sizeof(header));
  uint8_t* panels = bytes.data() + shift + kHeaderBytes;
  const int64_t padded_k = 64, panels_per_expert = 2 * ((kN + 31) / 32);
  for (int64_t i = 0; i < c.e * kK * kN; ++i) {
    const int64_t expert = i / (kK * kN), kk = i / kN % kK, j = i % kN;
    const int64_t half = paired ? j / kH : 0, within = paired ? j % kH : j;
    const int64_t panel = expert * panels_per_expert + (paired ? 2 * (within / 16) + half : within / 16);
    const int64_t in_line = within % 16 * 4 + kk % 4;
    const auto value = static_cast<uint8_t>(c.W(expert, kk, j) + (int4 ? 8 : 0));
    if (!int4) panels[panel * 16 * padded_k + kk / 4 * 64 + in_line] = value;
    else panels[panel * 8 * padded_k + kk / 8 * 64 + in_line] |= static_cast<uint8_t>(value << (kk % 8 < 4 ? 0 : 4));
  }
  return bytes;
}

/// The same weights as panels, paired for operator A; `shift`: at an odd address, as a loaded file may lie.
void ExpectPackedIsPlain(DType weight_dtype, bool paired, size_t shift) {
  std::vector<uint8_t> bytes;
  ExpectNoEffect(weight_dtype, [&](Case* c) {
    bytes = Panels(*c, paired, weight_dtype == DType::kInt4, shift);
    const auto size = static_cast<int64_t>(bytes.size() - shift);
    ASSERT_EQ(ReadHeader(bytes.data() + shift, size, &c->problem.w.packed), "");
    c->problem.w.plain = {};
    c->problem.w.paired = paired;
  });
}

TEST(ReferenceWeightForms, Packed) {
  for (const bool paired : {false, true}) {
    ExpectPackedIsPlain(DType::kInt8, paired, 0);
    ExpectPackedIsPlain(DType::kInt4, paired, 0);
  }
}

TEST(ReferenceWeightForms, PackedReloaded) {
  ExpectPackedIsPlain(DType::kInt8, true, 1);
  ExpectPackedIsPlain(DType::kInt4, true, 3);
}

TEST(ReferenceWeightForms, EveryFormIsWeightAt) {  // the reference reads plain weights directly
  const Case int8 = Fresh(), int4 = Fresh(DType::kInt4);
  for (int64_t i = 0; i < 4 * kK * kN; ++i) {
    const int64_t expert = i / (kK * kN), kk = i / kN % kK, j = i % kN;
    ASSERT_EQ(WeightAt(int8.problem.w, expert, kk, j), int8.W(expert, kk, j));
    ASSERT_EQ(WeightAt(int4.problem.w, expert, kk, j), int4.W(expert, kk, j));
  }
}

TEST(ReferenceRows, RowStridedX) {
  std::vector<int8_t> x;
  ExpectNoEffect(DType::kInt8, [&](Case* c) {
    const int64_t row = 3 * kK + 7;
    x.assign(static_cast<size_t>(c->m * row), 99);
    for (int64_t i = 0; i < c->m * kK; ++i) {
      x[static_cast<size_t>(i / kK * row + i % kK * 3)] = c->x[static_cast<size_t>(i)];
    }
    c->problem.x = {x.data(), DType::kInt8, c->m, kK, row, 3};
  });
}

TEST(ReferenceRows, ExpandedX) {  // one row shown m times: the same as m copies of it
  Case copies = Fresh(), expanded = Fresh();
  for (size_t i = 0; i < copies.x.size(); ++i) copies.x[i] = copies.x[i % kK];
  expanded.problem.x.row_stride = 0;
  reference::Run(copies.problem);
  reference::Run(expanded.problem);
  ExpectSameBits(copies, expanded);
}

TEST(ReferenceRows, StridedOutputsKeepTheirGaps) {
  const Case plain = Fresh();
  reference::Run(plain.problem);
  Case c = Fresh();
  const int64_t row = 2 * kH + 3;
  c.y.assign(static_cast<size_t>(c.m * row), 0xAB);
  c.y_scale.assign(static_cast<size_t>(2 * c.m), -77);
  c.problem.y = {c.y.data(), DType::kInt8, c.m, kH, row, 2};
  c.problem.y_scale = {c.y_scale.data(), DType::kFloat32, c.m, 2};
  reference::Run(c.problem);
  for (int64_t at = 0; at < c.m * row; ++at) {
    const int64_t i = at / row, j = at % row;
    const bool inside = j % 2 == 0 && j < 2 * kH;
    EXPECT_EQ(c.y[static_cast<size_t>(at)], inside ? plain.y[static_cast<size_t>(i * kH + j / 2)] : 0xAB);
  }
  for (size_t i = 0; i < c.y_scale.size(); ++i) EXPECT_EQ(c.y_scale[i], i % 2 ? -77 : plain.y_scale[i / 2]);
}

/// The case's scales in another dtype; their values are rounded to it first, so both problems mean the same.
template <class T>
void ExpectScaleDType(DType dtype, DType weight_dtype, T (*narrow)(float)) {
  Case plain = Fresh(weight_dtype);
  std::vector<T> narrowed;
  for (float& value : plain.scale) {
    narrowed.push_back(narrow(value));
    value = Load(narrowed.data(), dtype, static_cast<int64_t>(narrowed.size()) - 1);
  }
  Case c = Fresh(weight_dtype);
  c.problem.epilogue.scale.dtype = dtype;
  c.problem.epilogue.scale.data = narrowed.data();
  reference::Run(plain.problem);
  reference::Run(c.problem);
  ExpectSameBits(plain, c);
}

TEST(ReferenceScales, Fp16) { ExpectScaleDType(DType::kFloat16, DType::kInt8, ToHalf); }
TEST(ReferenceScales, Bf16) { ExpectScaleDType(DType::kBFloat16, DType::kInt4, ToBFloat16); }
TEST(ReferenceScales, Int64WithHighWordSet) {
  uint64_t (*carry)(float) = [](float v) { return uint64_t{Bits(v)} | 0xFEDC400000000000u; };
  ExpectScaleDType(DType::kInt64, DType::kInt4, carry);
  ExpectScaleDType(DType::kUInt64, DType::kInt4, carry);
}

TEST(ReferenceScales, ListWithStrides) {
  std::vector<float> wide;
  ExpectNoEffect(DType::kInt8, [&](Case* c) {
    Columns& scale = c->problem.epilogue.scale;
    for (float value : c->scale) wide.insert(wide.end(), {value, -1e9f, 1e9f});
    for (int64_t expert = 0; expert < 4; ++expert) scale.list.push_back({wide.data() + expert * kN * 3, 0, 3});
    scale.data = nullptr;
  });
}

TEST(ReferenceScales, Negative) {  // negative gates' scales change Silu, negative ups' scales only signs
  Case c = Fresh();
  const Case plain = Fresh();
  for (size_t i = 0; i < c.scale.size(); ++i) {
    if (i % kN >= kH) c.scale[i] = -c.scale[i];
  }
  reference::Run(plain.problem);
  reference::Run(c.problem);
  for (size_t i = 0; i < c.y.size(); ++i) {
    EXPECT_EQ(static_cast<int8_t>(c.y[i]), -static_cast<int8_t>(plain.y[i]));
  }
  EXPECT_EQ(c.y_scale, plain.y_scale);
}

TEST(ReferenceScales, Zero) {
  Case c = Fresh();
  c.scale.assign(c.scale.size(), 0);
  reference::Run(c.problem);
  EXPECT_EQ(c.y, std::vector<uint8_t>(c.y.size(), 0));
  EXPECT_EQ(c.y_scale, std::vector<float>(c.y_scale.size(), 0));
}

TEST(ReferenceScales, Subnormal) {  // x 1, w 1: t is the scale itself, kept, and made normal again by x_scale
  Case c = MakeCase(Finish::kDequantize, {{1}, 1, 1}, 52, DType::kInt8, DType::kFloat32);
  c.x = {3}, c.w = {1}, c.scale = {0x1p-149f}, c.x_scale = {0x1p100f};
  Connect(&c, DType::kInt8);
  reference::Run(c.problem);
  EXPECT_EQ(Load(c.y.data(), DType::kFloat32, 0), 0x3p-49f);
}

/// Rows of the group keep their bits with other groups around; rows in no group are zeros.
void ExpectGroups(const std::vector<int64_t>& counts, int64_t tail) {
  const Case c = MakeCase(Finish::kSwigluQuant, {counts, kK, kN, 1, tail}, 53);
  reference::Run(c.problem);
  int64_t begin = 0;
  for (size_t expert = 0; expert < counts.size(); ++expert) {
    for (int64_t i = begin; i < begin + counts[expert]; ++i) {
      Case alone = MakeCase(Finish::kSwigluQuant, {{1}, kK, kN}, 53);  // its weights are replaced by this expert's
      alone.problem.w = c.problem.w;
      alone.problem.epilogue.scale = c.problem.epilogue.scale;
      alone.problem.rows = {{static_cast<int64_t>(expert), 0, 1}};
      std::memcpy(alone.x.data(), c.x.data() + i * kK, kK);
      alone.x_scale[0] = c.x_scale[static_cast<size_t>(i)];
      reference::Run(alone.problem);
      EXPECT_EQ(0, std::memcmp(alone.y.data(), c.y.data() + i * kH, kH)) << "row " << i;
      EXPECT_EQ(alone.y_scale[0], c.y_scale[static_cast<size_t>(i)]) << "row " << i;
    }
    begin += counts[expert];
  }
  for (int64_t i = begin; i < c.m; ++i) {
    EXPECT_EQ(Bits(c.y_scale[static_cast<size_t>(i)]), 0u);
    for (int64_t j = 0; j < kH; ++j) EXPECT_EQ(c.y[static_cast<size_t>(i * kH + j)], 0);
  }
}

TEST(ReferenceGroups, EmptyFirst) { ExpectGroups({0, 0, 3, 1}, 0); }
TEST(ReferenceGroups, EmptyMiddle) { ExpectGroups({2, 0, 0, 1}, 0); }
TEST(ReferenceGroups, EmptyLast) { ExpectGroups({2, 1, 0, 0}, 0); }
TEST(ReferenceGroups, AllEmpty) { ExpectGroups({0, 0, 0}, 4); }
TEST(ReferenceGroups, AllRowsInOne) { ExpectGroups({0, 6, 0}, 0); }
TEST(ReferenceGroups, OneRowEach) { ExpectGroups({1, 1, 1, 1, 1}, 0); }
TEST(ReferenceGroups, MoreGroupsThanRows) { ExpectGroups({0, 1, 0, 0, 1, 0, 0}, 0); }
TEST(ReferenceGroups, TailRowsZero) { ExpectGroups({2, 1}, 3); }

TEST(ReferenceGroups, NanInUnusedExpert) {
  ExpectNoEffect(DType::kInt8, [](Case* c) {  // expert 1 has no rows
    for (int64_t j = 0; j < kN; ++j) c->scale[static_cast<size_t>(kN + j)] = FromBits(kNanBits);
  });
}

TEST(ReferenceRows, NoRowsAtAll) {
  const Case c = MakeCase(Finish::kSwigluQuant, {{0, 0}, kK, kN}, 54);
  reference::Run(c.problem);
  EXPECT_TRUE(c.y.empty());
}

#if defined(__x86_64__)
/// s about 1e-40: what flushing subnormals to zero or another rounding would change.
Case SmallValues() {
  Case c = Fresh();
  for (float& value : c.x_scale) value *= 1e-20f;
  return c;
}

TEST(ReferenceExpSilu, CallerFlushToZero) {
  const Case expected = SmallValues(), c = SmallValues();
  reference::Run(expected.problem);
  const unsigned int before = _mm_getcsr(), flushing = before | 0x8040;  // flush to zero, denormals are zero
  _mm_setcsr(flushing);
  reference::Run(c.problem);
  const unsigned int after = _mm_getcsr();
  _mm_setcsr(before);
  EXPECT_EQ(after & 0xFFC0, flushing & 0xFFC0);
  ExpectSameBits(expected, c);
  for (const size_t i : {0, 1, 2}) EXPECT_GT(expected.y_scale[i], 0);  // subnormal results, so flushing would show
  for (const size_t i : {0, 1, 2}) EXPECT_LT(expected.y_scale[i], 0x1p-126f);
}
#endif

TEST(ReferenceExpSilu, CallerRoundingMode) {
  for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
    const Case expected = Fresh(), c = Fresh();
    reference::Run(expected.problem);
    std::fesetround(mode);
    reference::Run(c.problem);
    const int after = std::fegetround();
    std::fesetround(FE_TONEAREST);
    EXPECT_EQ(after, mode);
    ExpectSameBits(expected, c);
  }
}

}  // namespace
}  // namespace qgmm::reference
