// SPDX-License-Identifier: Apache-2.0
// src/check_weights.cc: weights in all their forms.
#include "check_weights.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "calls.h"
#include "packed_format.h"

namespace qgmm {
namespace {

using C = SwigluQuantCall;
using D = WeightQuantCall;
using E = GroupedMatmulCall;
using Views = std::vector<TensorView>;

constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
const std::string kRule = "weight must be int8 [e, k, n], int32 [e, k, n/8] (packed int4) or a PackedWeight; got ";

TensorList List(const Views& views) { return TensorList(views.data(), static_cast<int64_t>(views.size())); }

/// Operator A with e lists of weights and scales.
std::string WithLists(const Views& weight, const Views& scale) {
  return A([&](C& c) {
    c.weight = List(weight);
    c.weight_scale = List(scale);
  });
}

const Views kMatrices(8, Expanded(kI8, {7168, 4096}));
const Views kRows(8, Expanded(kF32, {4096}));

TEST(CheckWeights, Absent) {
  EXPECT_EQ(A([](C& c) { c.w = TensorView(); }), "weight must be a tensor; got None");
  EXPECT_EQ(B([](D& c) { c.w = TensorView(); }), "weight must be a tensor; got None");
  Views weight = kMatrices;
  weight[3] = TensorView();
  EXPECT_EQ(WithLists(weight, kRows), "weight[3] must be a tensor; got None");
  EXPECT_EQ(A([](C& c) { c.weight = TensorList(nullptr, 2); }), "weight[0] must be a tensor; got None");
}

TEST(CheckWeights, Dtype) {
  EXPECT_EQ(A([](C& c) { c.w = Expanded(kF16, {8, 7168, 4096}); }), kRule + "float16");
  EXPECT_EQ(G([](E& c) { c.w = Expanded(DType::kOther, {8, 7168, 4096}); }), kRule + "an unsupported dtype");
  EXPECT_EQ(B([](D& c) { c.w = Expanded(kI32, {8, 256, 16}); }),
            "weight must be int8 [e, k, n] or a PackedWeight; got int32");
  EXPECT_EQ(RefusalOf([] { Checked(PackArgs{Expanded(kF16, {8, 16, 16})}); }),
            "[pack_weight] weight must be int8 [e, k, n] or int32 [e, k, n/8] (packed int4); got float16");
  Views weight = kMatrices;
  weight[3].dtype = kI32;
  EXPECT_EQ(WithLists(weight, kRows), "weight[3] must be int8 like weight[0]; got int32");
}

TEST(CheckWeights, Rank) {
  EXPECT_EQ(A([](C& c) { c.w = Expanded(kI8, {7168, 4096}); }), "weight must have 3 dimensions; got [7168, 4096]");
  EXPECT_EQ(B([](D& c) { c.w = Expanded(kI8, {256, 128}); }), "weight must have 3 dimensions; got [256, 128]");
}

TEST(CheckWeights, InnerSizeOfXAndWeight) {
  EXPECT_EQ(A([](C& c) { c.w = Expanded(kI8, {8, 4096, 4096}); }),
            "weight must be [e, 7168, n] (k of x); got [8, 4096, 4096]");
  EXPECT_EQ(A([](C& c) { c.w = Expanded(kI32, {8, 4096, 512}); }),
            "weight must be [e, 7168, n/8] (k of x); got [8, 4096, 512]");
  EXPECT_EQ(B([](D& c) { c.w = Expanded(kI8, {8, 128, 128}); }),
            "weight must be [e, 256, n] (k of x); got [8, 128, 128]");
  EXPECT_EQ(WithLists(Views(8, Expanded(kI8, {4096, 4096})), kRows),
            "weight[0] must be [7168, n] (k of x); got [4096, 4096]");
}

TEST(CheckWeights, Lists) {
  EXPECT_EQ(WithLists(kMatrices, kRows), "accepted");
  EXPECT_EQ(WithLists({}, kRows), "weight must be one [e, k, n] tensor or e [k, n] tensors; got an empty list");
  EXPECT_EQ(WithLists(Views(2, Expanded(kI8, {8, 7168, 4096})), Views(2, kRows[0])),
            "weight must be one [e, k, n] tensor or e [k, n] tensors; got 2 tensors of 3 dimensions");
  EXPECT_EQ(WithLists({Expanded(kI8, {8, 7168, 4096})}, {Expanded(kF32, {8, 4096})}), "accepted");
  Views weight = kMatrices;
  weight[3] = Expanded(kI8, {7168, 2048});
  EXPECT_EQ(WithLists(weight, kRows), "weight[3] must be [7168, 4096] like weight[0]; got [7168, 2048]");
  weight[3] = Expanded(kI8, {7168});
  EXPECT_EQ(WithLists(weight, kRows), "weight[3] must be [7168, 4096] like weight[0]; got [7168]");
  weight[3] = On(kMatrices[0], DeviceType::kCuda);
  EXPECT_EQ(WithLists(weight, kRows), "weight[3] must be on cpu like x; got cuda:0");
  weight[3] = kMatrices[0];
  weight[3].data = nullptr;
  EXPECT_EQ(WithLists(weight, kRows), "weight[3] must have memory behind its elements; got a null pointer");
}

TEST(CheckWeights, ListsOfDifferentStrides) {
  std::vector<int8_t> memory(4 * 6 * 2);
  Views weight = {View(memory.data(), kI8, {4, 6}), View(memory.data() + 24, kI8, {4, 6})};
  weight[1].strides[0] = 1;
  weight[1].strides[1] = 4;
  const Views scale = {View(Forbidden(), kF32, {6}), Expanded(kF32, {6})};
  C call;
  call.x = Expanded(kI8, {32, 4});
  call.weight = List(weight);
  call.weight_scale = List(scale);
  const int64_t ends[] = {16, 32};
  call.group_list = Ends(ends, 2);
  call.y = Untouchable(kI8, {32, 3});
  const Problem p = Checked(static_cast<const SwigluQuantArgs&>(call));
  ASSERT_EQ(p.w.list.size(), 2u);
  EXPECT_EQ(p.w.Of(1).data, memory.data() + 24);
  EXPECT_EQ(p.w.Of(1).k_stride, 1);
  EXPECT_EQ(p.w.Of(1).n_stride, 4);
  EXPECT_EQ(p.w.e, 2);
  EXPECT_EQ(p.w.n, 6);
  ASSERT_EQ(p.epilogue.scale.list.size(), 2u);
  EXPECT_EQ(p.epilogue.scale.Of(0).column_stride, 1);
  EXPECT_EQ(p.epilogue.scale.Of(1).column_stride, 0);
}

TEST(CheckWeights, OperatorBTakesNoList) {
  EXPECT_EQ(B([](D& c) { c.weight_is_list = true; }), "weight must be one tensor; got a list");
  const Views weight(8, Expanded(kI8, {256, 128}));
  EXPECT_EQ(B([&](D& c) { c.weight = List(weight); }), "weight must be one tensor; got a list");
  EXPECT_EQ(B([&](D& c) { c.weight = TensorList(nullptr, 0); }), "weight must be one tensor; got a list");
}

TEST(CheckWeights, Experts) {
  EXPECT_EQ(A([](C& c) { c.w = Expanded(kI8, {0, 7168, 4096}); }), "e must be at least 1; got 0");
  EXPECT_EQ(A([](C& c) { c.w = Expanded(kI8, {1025, 7168, 4096}); }), "e must be at most 1024; got 1025");
  EXPECT_EQ(A([](C& c) {
              c.w = Expanded(kI8, {1024, 7168, 4096});
              c.ws = Expanded(kF32, {1024, 4096});
            }),
            "accepted");
  EXPECT_EQ(WithLists(Views(1025, kMatrices[0]), Views(1025, kRows[0])), "e must be at most 1024; got 1025");
}

TEST(CheckWeights, Columns) {
  EXPECT_EQ(A([](C& c) { c.w = Expanded(kI8, {8, 7168, 0}); }), "n must be at least 1; got 0");
  EXPECT_EQ(A([](C& c) { c.w = Expanded(kI32, {8, 7168, 0}); }), "n must be at least 1; got 0");
  EXPECT_EQ(A([](C& c) {
              c.w = Expanded(kI8, {8, 7168, 4095});
              c.ws = Expanded(kF32, {8, 4095});
            }),
            "n must be even; got 4095");
  EXPECT_EQ(G([](E& c) {
              c.w = Expanded(kI8, {8, 7168, 4095});
              c.ws = Expanded(kF32, {8, 4095});
              c.y = Untouchable(kBF16, {32, 4095});
            }),
            "accepted");
}

TEST(CheckWeights, Int4Width) {
  EXPECT_EQ(A([](C& c) { c.w = Expanded(kI32, {8, 7168, 512}); }), "accepted");
  EXPECT_EQ(A([](C& c) { c.w = Expanded(kI32, {8, 7168, 4096}); }),
            "weight must be int32 [8, 7168, 512] (n / 8 of weight_scale); got [8, 7168, 4096]");
  EXPECT_EQ(WithLists(Views(8, Expanded(kI32, {7168, 4096})), kRows),
            "weight[0] must be int32 [7168, 512] (n / 8 of weight_scale); got [7168, 4096]");
  EXPECT_EQ(A([](C& c) {
              c.w = Expanded(kI32, {8, 7168, 2});
              c.ws = Expanded(kF32, {8, 12});
            }),
            "n must be a multiple of 8 for packed int4; got 12");
  EXPECT_EQ(A([](C& c) {
              c.w = Expanded(kI32, {8, 7168, 512});
              c.ws = Expanded(kF32, {8, 0});
            }),
            "weight_scale must be [8, 4096] (e, n); got [8, 0]");
  EXPECT_EQ(G([](E& c) {
              c.w = Expanded(kI32, {8, 7168, kHuge / 8 + 1});
              c.ws = TensorView();
              c.out_dtype = kI32;
              c.y = Untouchable(kI32, {32, 4096});
            }),
            "n must be at most 9223372036854775807; got 8 * 1152921504606846976");
  EXPECT_EQ(A([](C& c) {
              c.w = Expanded(kI32, {8, 7168, 1});
              c.ws = Expanded(kF32, {8, 1});
            }),
            "n must be a multiple of 8 for packed int4; got 1");
}

TEST(CheckWeights, WidestInt4) {
  constexpr int64_t kWidest = kHuge / 8 * 8;
  const auto widest = [](C& c) {
    c.w = Expanded(kI32, {8, 7168, kHuge / 8});
    c.ws = Expanded(kF32, {8, kWidest});
  };
  const std::string rule = "y must be int8 [32, 4611686018427387900] (m, n/2); got ";
  EXPECT_EQ(A(widest), rule + "int8 [32, 2048]");
  EXPECT_EQ(A([&](C& c) { widest(c); c.y.dtype = kF32; }), rule + "float32 [32, 2048]") << "known before its shape is";
}

TEST(CheckWeights, OneColumn) {
  const auto one = [](E& c) {
    c.w = Expanded(kI8, {8, 7168, 1});
    c.ws = Expanded(kF32, {8, 1});
    c.y = Untouchable(kBF16, {32, 1});
  };
  EXPECT_EQ(G(one), "accepted");
}

TEST(CheckWeights, HugeSizesDoNotOverflow) {
  EXPECT_EQ(A([](C& c) { c.w = Expanded(kI8, {kHuge, 7168, kHuge}); }),
            "e must be at most 1024; got 9223372036854775807");
  EXPECT_EQ(A([](C& c) {
              c.w = Expanded(kI8, {8, 7168, kHuge - 1});
              c.ws = Expanded(kF32, {8, kHuge - 1});
            }),
            "y must be int8 [32, 4611686018427387903] (m, n/2); got int8 [32, 2048]");
}

/// Operator A on packed weights [2, 4, 16].
template <class Change>
std::string OnPacked(Layout layout, Change change) {
  Packed packed(layout, 2, 4, 16);
  const int64_t ends[] = {16, 32};
  return A([&](C& c) {
    c.x = Expanded(kI8, {32, 4});
    c.packed = packed.view;
    c.ws = Expanded(kF32, {2, 16});
    c.group_list = Ends(ends, 2);
    c.y = Untouchable(kI8, {32, 8});
    change(c, packed);
  });
}
std::string OnPacked(Layout layout) {
  return OnPacked(layout, [](C&, Packed&) {});
}

TEST(CheckWeights, PackedForms) {
  const auto paired = Layout::kCpuInt8Paired;
  EXPECT_EQ(OnPacked(paired), "accepted");
  EXPECT_EQ(OnPacked(Layout::kCpuInt4Paired), "accepted");
  EXPECT_EQ(OnPacked(Layout::kCpuInt8),
            "weight must be packed with swiglu=True; got a PackedWeight with swiglu=False");
  EXPECT_EQ(OnPacked(paired, [](C& c, Packed&) { c.packed.layout = static_cast<Layout>(9); }),
            "weight must have a layout of 1 to 4; got 9");
  EXPECT_EQ(OnPacked(paired, [](C& c, Packed&) { c.weight = c.w; }),
            "weight must be a tensor, a list or a PackedWeight; got both tensors and a PackedWeight");
  EXPECT_EQ(OnPacked(paired, [](C& c, Packed&) { c.packed.device.type = DeviceType::kCuda; }),
            "weight must be packed for cpu; got a PackedWeight for cuda");
  EXPECT_EQ(OnPacked(paired, [](C& c, Packed&) { c.packed.device.type = DeviceType::kOther; }),
            "weight must be packed for cpu; got a PackedWeight for an unsupported device");
  EXPECT_EQ(OnPacked(paired, [](C& c, Packed&) { c.x = Expanded(kI8, {32, 5}); }),
            "weight must be [e, 5, n] (k of x); got [2, 4, 16]");
}

TEST(CheckWeights, PackedFormsInOrder) {
  EXPECT_EQ(OnPacked(Layout::kCpuInt8, [](C& c, Packed&) { c.group_list_type = 2; }),
            "group_list_type must be 0 (cumsum) or 1 (counts); got 2") << "options come before the kind";
  EXPECT_EQ(OnPacked(Layout::kCpuInt8Paired,
                     [](C& c, Packed&) {
                       c.packed.device.type = DeviceType::kCuda;
                       c.x_scale.rank = 2;
                     }),
            "x_scale must be float32 [32] (m); got float32 [32, 0]") << "ranks come before the device";
}

TEST(CheckWeights, PackedForOthers) {
  const int64_t end[] = {32};
  const Packed int4(Layout::kCpuInt4, 1, 256, 128), paired(Layout::kCpuInt8Paired, 1, 256, 128),
      narrow(Layout::kCpuInt8, 1, 256, 64);
  const auto on = [&](D& c, const Packed& packed) {
    c.packed = packed.view;
    c.scale = Expanded(kF16, {1, 128});
    c.group_list = Ends(end, 1);
  };
  EXPECT_EQ(B([&](D& c) { on(c, int4); }),
            "weight must be int8 [e, k, n] or a PackedWeight; got a PackedWeight of int4");
  EXPECT_EQ(B([&](D& c) { on(c, paired); }),
            "weight must be packed with swiglu=False; got a PackedWeight with swiglu=True");
  EXPECT_EQ(B([&](D& c) { on(c, narrow); }), "scale must be [1, 64] (e, n); got [1, 128]");
}

TEST(CheckWeights, PackedHeader) {
  const auto paired = Layout::kCpuInt8Paired;
  EXPECT_EQ(OnPacked(paired, [](C& c, Packed&) { c.packed.layout = Layout::kCpuInt4Paired; }),
            "weight must have layout 2 (its header); got 4");
  EXPECT_EQ(OnPacked(paired,
                     [](C& c, Packed&) {
                       c.packed.n = 32;
                       c.ws = Expanded(kF32, {2, 32});
                       c.y = Untouchable(kI8, {32, 16});
                     }),
            "weight must be [2, 4, 16] (its header); got [2, 4, 32]");
  EXPECT_EQ(OnPacked(paired,
                     [](C& c, Packed&) {
                       c.packed.e = 3;
                       c.ws = Expanded(kF32, {3, 16});
                     }),
            "weight must be [2, 4, 16] (its header); got [3, 4, 16]");
  EXPECT_EQ(OnPacked(paired,
                     [](C& c, Packed&) {
                       c.packed.k = 5;
                       c.x = Expanded(kI8, {32, 5});
                     }),
            "weight must be [2, 4, 16] (its header); got [2, 5, 16]");
  EXPECT_EQ(OnPacked(paired, [](C& c, Packed&) { c.packed.bytes = 12; }),
            "weight must be at least 64 bytes long; got 12");
  EXPECT_EQ(OnPacked(paired, [](C& c, Packed&) { c.packed.e = -3; }), "e must be at least 1; got -3");
}

TEST(CheckWeights, NullPackedBytes) {
  EXPECT_EQ(OnPacked(Layout::kCpuInt8Paired, [](C& c, Packed&) { c.packed.data = nullptr; }).substr(0, 11),
            "weight must");
}

}  // namespace
}  // namespace qgmm
