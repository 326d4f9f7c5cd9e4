// SPDX-License-Identifier: Apache-2.0
// src/check_scales.cc: weight_scale, assist matrix, bias, smooth_scale, and operator B's scale and offset.
#include "check_scales.h"

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

TensorList List(const Views& views) { return TensorList(views.data(), static_cast<int64_t>(views.size())); }

const Views kMatrices(8, Expanded(kI8, {7168, 4096}));

std::string WithScale(const TensorView& scale, int64_t mode = 0) {
  return A([&](C& c) {
    c.ws = scale;
    c.dequant_mode = mode;
  });
}
std::string WithLists(const Views& scale, int64_t mode = 0) {
  return A([&](C& c) {
    c.weight = List(kMatrices);
    c.weight_scale = List(scale);
    c.dequant_mode = mode;
  });
}

TEST(CheckScales, Absent) {
  EXPECT_EQ(WithScale(TensorView()), "weight_scale must be a tensor; got None");
  EXPECT_EQ(G([](E& c) { c.ws = TensorView(); }), "weight_scale must be a tensor; got None");
  EXPECT_EQ(B([](D& c) { c.scale = TensorView(); }), "scale must be a tensor; got None");
  EXPECT_EQ(WithLists({}),
            "weight_scale must be one [e, n] or [e, G, n] tensor or e [n] or [G, n] tensors; got an empty list");
}

TEST(CheckScales, Dtype) {
  for (DType dtype : {kF32, kF16, kBF16}) EXPECT_EQ(WithScale(Expanded(dtype, {8, 4096})), "accepted");
  EXPECT_EQ(WithScale(Expanded(kI32, {8, 4096})),
            "weight_scale must be float32, float16, bfloat16, or int64 carrying float32 bits (int4 weights only); "
            "got int32");
  EXPECT_EQ(WithScale(Expanded(kI64, {8, 4096})),
            "weight_scale must be float32, float16 or bfloat16 for int8 weights; got int64");
  EXPECT_EQ(G([](E& c) { c.ws = Expanded(DType::kUInt64, {8, 4096}); }),
            "weight_scale must be float32, float16 or bfloat16 for int8 weights; got uint64");
  for (DType dtype : {kI64, DType::kUInt64}) {
    EXPECT_EQ(A([&](C& c) {
                c.w = Expanded(kI32, {8, 7168, 512});
                c.ws = Expanded(dtype, {8, 4096});
              }),
              "accepted");
  }
}

TEST(CheckScales, Shape) {
  EXPECT_EQ(WithScale(Expanded(kF32, {8, 2048})), "weight_scale must be [8, 4096] (e, n); got [8, 2048]");
  EXPECT_EQ(WithScale(Expanded(kF32, {7, 4096})), "weight_scale must be [8, 4096] (e, n); got [7, 4096]");
  EXPECT_EQ(WithScale(Expanded(kF32, {4096})), "weight_scale must be [8, 4096] (e, n); got [4096]");
  EXPECT_EQ(WithScale(Expanded(kF32, {1, 8, 1, 4096})), "weight_scale must be [8, 4096] (e, n); got [1, 8, 1, 4096]");
  EXPECT_EQ(WithScale(Expanded(kF32, {8, 56, 2048}), 1),
            "weight_scale must be [8, 56, 4096] (e, G, n); got [8, 56, 2048]");
}

TEST(CheckScales, Slices) {
  EXPECT_EQ(WithScale(Expanded(kF32, {8, 56, 4096}), 1), "accepted") << "int8 weights too";
  EXPECT_EQ(WithScale(Expanded(kF32, {8, 7168, 4096}), 1), "accepted") << "one scale per element";
  EXPECT_EQ(WithScale(Expanded(kF32, {8, 1, 4096}), 1), "accepted");
  EXPECT_EQ(WithScale(Expanded(kF32, {8, 1, 4096}), 0), "accepted") << "the same as [e, n]";
  EXPECT_EQ(WithScale(Expanded(kF32, {8, 56, 4096}), 0),
            "dequant_mode must be 1 for weight_scale [8, 56, 4096]; got 0");
  EXPECT_EQ(WithScale(Expanded(kF32, {8, 4096}), 1),
            "weight_scale must be [e, G, n] for dequant_mode 1; got [8, 4096]");
  EXPECT_EQ(WithScale(Expanded(kF32, {8, 60, 4096}), 1),
            "k must be a multiple of G; got k 7168 with 60 scales per column");
  EXPECT_EQ(WithScale(Expanded(kF32, {8, 0, 4096}), 1),
            "k must be a multiple of G; got k 7168 with 0 scales per column");
  EXPECT_EQ(WithScale(Expanded(kF32, {8, kHuge, 4096}), 1),
            "k must be a multiple of G; got k 7168 with 9223372036854775807 scales per column");
}

TEST(CheckScales, SlicesInTheProblem) {
  C call;
  call.weight = call.w;
  call.ws = View(Forbidden(), kF32, {8, 56, 4096});
  call.weight_scale = call.ws;
  call.dequant_mode = 1;
  const Problem p = Checked(static_cast<const SwigluQuantArgs&>(call));
  EXPECT_EQ(p.slice, 128);
  EXPECT_EQ(p.slices(), 56);
  EXPECT_EQ(p.epilogue.scale.expert_stride, 56 * 4096);
  EXPECT_EQ(p.epilogue.scale.slice_stride, 4096);
  EXPECT_EQ(p.epilogue.scale.column_stride, 1);
}

TEST(CheckScales, SlicesOfAListInTheProblem) {
  Views scale(8, View(Forbidden(), kF32, {56, 4096}));
  scale[5].strides[0] = 1;
  scale[5].strides[1] = -56;
  C call;
  call.weight = List(kMatrices);
  call.weight_scale = List(scale);
  call.dequant_mode = 1;
  const Problem p = Checked(static_cast<const SwigluQuantArgs&>(call));
  EXPECT_EQ(p.epilogue.scale.Of(0).slice_stride, 4096);
  EXPECT_EQ(p.epilogue.scale.Of(0).column_stride, 1);
  EXPECT_EQ(p.epilogue.scale.Of(5).slice_stride, 1);
  EXPECT_EQ(p.epilogue.scale.Of(5).column_stride, -56);
}

TEST(CheckScales, Lists) {
  const TensorView row = Expanded(kF32, {4096});
  EXPECT_EQ(WithLists(Views(8, row)), "accepted");
  EXPECT_EQ(WithLists(Views(8, Expanded(kF32, {56, 4096})), 1), "accepted");
  EXPECT_EQ(WithLists({Expanded(kF32, {8, 4096})}), "weight_scale must be a list of 8 tensors like weight; got 1");
  EXPECT_EQ(WithLists(Views(7, row)), "weight_scale must be a list of 8 tensors like weight; got 7");
  EXPECT_EQ(A([&](C& c) {
              const static Views list(8, row);
              c.weight_scale = List(list);
            }),
            "weight_scale must be one tensor like weight; got a list of 8");
  Views uneven(8, row);
  uneven[3] = Expanded(kF16, {4096});
  EXPECT_EQ(WithLists(uneven), "weight_scale[3] must be float32 like weight_scale[0]; got float16");
  uneven[3] = Expanded(kF32, {2048});
  EXPECT_EQ(WithLists(uneven), "weight_scale[3] must be [4096] like weight_scale[0]; got [2048]");
  uneven[3] = TensorView();
  EXPECT_EQ(WithLists(uneven), "weight_scale[3] must be a tensor; got None");
  EXPECT_EQ(WithLists(Views(8, Expanded(kF32, {2048}))), "weight_scale[0] must be [4096] (n); got [2048]");
  EXPECT_EQ(WithLists(Views(8, Expanded(kF32, {56, 2048})), 1),
            "weight_scale[0] must be [56, 4096] (G, n); got [56, 2048]");
  EXPECT_EQ(WithLists(Views(8, row), 1), "weight_scale[0] must be [G, n] for dequant_mode 1; got [4096]");
  EXPECT_EQ(WithLists(Views(8, Expanded(kF32, {56, 4096}))),
            "dequant_mode must be 1 for weight_scale [8, 56, 4096]; got 0");
}

TEST(CheckScales, ListBesidePackedWeights) {
  const PackedHeader header = MakeHeader(Layout::kCpuInt8Paired, 2, 4, 16);
  std::vector<uint8_t> bytes(static_cast<size_t>(header.bytes));
  std::memcpy(bytes.data(), &header, sizeof(header));
  const int64_t ends[] = {16, 32};
  const auto with = [&](const Views& scale) {
    return A([&](C& c) {
      c.x = Expanded(kI8, {32, 4});
      c.packed = {bytes.data(), header.bytes, Layout::kCpuInt8Paired, 2, 4, 16, Device{}};
      c.weight_scale = List(scale);
      c.group_list = Ends(ends, 2);
      c.y = Untouchable(kI8, {32, 8});
    });
  };
  EXPECT_EQ(with(Views(2, Expanded(kF32, {16}))), "accepted");
  EXPECT_EQ(with(Views(1, Expanded(kF32, {2, 16}))), "accepted");
  EXPECT_EQ(with(Views(3, Expanded(kF32, {16}))),
            "weight_scale must be one tensor or a list of 2 tensors; got a list of 3");
}

TEST(CheckScales, Assist) {
  const auto with = [](const TensorView& assist) { return A([&](C& c) { c.assist = assist; }); };
  EXPECT_EQ(with(Expanded(kF32, {8, 4096})), "accepted");
  EXPECT_EQ(with(Expanded(kF32, {8, 2048})),
            "weight_assist_matrix must be float32 [8, 4096] (e, n); got float32 [8, 2048]");
  EXPECT_EQ(with(Expanded(kF16, {8, 4096})),
            "weight_assist_matrix must be float32 [8, 4096] (e, n); got float16 [8, 4096]");
  EXPECT_EQ(with(Expanded(kF32, {4096})), "weight_assist_matrix must be float32 [8, 4096] (e, n); got float32 [4096]");
  EXPECT_EQ(G([](E& c) { c.assist = Expanded(kF32, {8}); }),
            "weight_assist_matrix must be float32 [8, 4096] (e, n); got float32 [8]");
}

TEST(CheckScales, AssistLists) {
  const auto with = [](const Views& assist) { return A([&](C& c) { c.weight_assist_matrix = List(assist); }); };
  const TensorView row = Expanded(kF32, {4096});
  EXPECT_EQ(with(Views(8, row)), "accepted");
  EXPECT_EQ(with({}), "weight_assist_matrix must be one [e, n] tensor or e [n] tensors; got an empty list");
  EXPECT_EQ(with(Views(3, row)), "weight_assist_matrix must be float32 [8, 4096] (e, n); got a list of 3 tensors");
  Views uneven(8, row);
  uneven[5] = Expanded(kF32, {2048});
  EXPECT_EQ(with(uneven), "weight_assist_matrix[5] must be float32 [4096] (n); got float32 [2048]");
  uneven[5] = Expanded(kF16, {4096});
  EXPECT_EQ(with(uneven), "weight_assist_matrix[5] must be float32 [4096] (n); got float16 [4096]");
  uneven[5] = On(row, DeviceType::kCuda);
  EXPECT_EQ(with(uneven), "weight_assist_matrix[5] must be on cpu like x; got cuda:0");
}

TEST(CheckScales, IntBias) {
  const auto with = [](const TensorView& bias) { return A([&](C& c) { c.bias = bias; }); };
  EXPECT_EQ(with(Expanded(kI32, {8, 4096})), "accepted");
  EXPECT_EQ(with(Expanded(kF32, {8, 4096})), "bias must be int32 [8, 4096] (e, n); got float32 [8, 4096]");
  EXPECT_EQ(with(Expanded(kI32, {4096})), "bias must be int32 [8, 4096] (e, n); got int32 [4096]");
  EXPECT_EQ(with(Expanded(kI32, {8, 4095})), "bias must be int32 [8, 4096] (e, n); got int32 [8, 4095]");
}

TEST(CheckScales, IntBiasWithSlices) {
  const auto sliced = [](auto& c, int64_t slices) {
    c.ws = Expanded(kF32, {8, slices, 4096});
    c.dequant_mode = 1;
    c.bias = Expanded(kI32, {8, 4096});
  };
  const std::string sentence = "bias must be None for weight_scale [8, 56, 4096]; got int32 [8, 4096]";
  EXPECT_EQ(A([&](C& c) { sliced(c, 56); }), sentence);
  EXPECT_EQ(G([&](E& c) { sliced(c, 56); }), sentence);
  EXPECT_EQ(A([&](C& c) { sliced(c, 1); }), "accepted") << "one slice is per channel";
  EXPECT_EQ(A([&](C& c) { sliced(c, 56); c.x_scale.rank = 2; }),
            "x_scale must be float32 [32] (m); got float32 [32, 0]") << "ranks come before shapes";
  EXPECT_EQ(A([&](C& c) { sliced(c, 56); c.x = On(c.x, DeviceType::kCuda); }), sentence)
      << "shapes come before devices";
  EXPECT_EQ(G([&](E& c) { sliced(c, 56); c.bias.dtype = kF16; }), "accepted") << "a float bias is added after scaling";
}

TEST(CheckScales, AnyBiasOfGroupedMatmul) {
  const auto with = [](const TensorView& bias) { return G([&](E& c) { c.bias = bias; }); };
  for (DType dtype : {kI32, kF16, kBF16, kF32}) EXPECT_EQ(with(Expanded(dtype, {8, 4096})), "accepted");
  EXPECT_EQ(with(Expanded(kI8, {8, 4096})),
            "bias must be int32, float16, bfloat16 or float32 [8, 4096] (e, n); got int8 [8, 4096]");
  EXPECT_EQ(with(Expanded(kF32, {8, 1, 4096})),
            "bias must be int32, float16, bfloat16 or float32 [8, 4096] (e, n); got float32 [8, 1, 4096]");
}

TEST(CheckScales, SmoothScale) {
  const auto with = [](const TensorView& smooth) { return A([&](C& c) { c.smooth_scale = smooth; }); };
  const std::string rule = "smooth_scale must be float32 [8] (e) or [8, 2048] (e, n/2); got ";
  EXPECT_EQ(with(Expanded(kF32, {8})), "accepted");
  EXPECT_EQ(with(Expanded(kF32, {8, 2048})), "accepted");
  EXPECT_EQ(with(Expanded(kF32, {2048})), rule + "float32 [2048]");
  EXPECT_EQ(with(Expanded(kF32, {8, 4096})), rule + "float32 [8, 4096]");
  EXPECT_EQ(with(Expanded(kF32, {8, 1, 2048})), rule + "float32 [8, 1, 2048]");
  EXPECT_EQ(with(Expanded(kF32, {})), rule + "float32 []");
  EXPECT_EQ(with(Expanded(kF16, {8})), rule + "float16 [8]");
}

TEST(CheckScales, OperatorB) {
  EXPECT_EQ(B([](D& c) { c.scale = Expanded(kBF16, {8, 128}); }),
            "scale must be float16 (like x) or float32; got bfloat16");
  EXPECT_EQ(B([](D& c) { c.scale = Expanded(kF16, {8, 4, 128}); }), "scale must be [8, 128] (e, n); got [8, 4, 128]");
  EXPECT_EQ(B([](D& c) { c.offset = Expanded(kI8, {8, 128}); }),
            "offset must be float16 (like x) or float32; got int8");
  EXPECT_EQ(B([](D& c) { c.offset = Expanded(kF16, {128}); }), "offset must be [8, 128] (e, n); got [128]");
  EXPECT_EQ(B([](D& c) { c.bias = Expanded(kBF16, {8, 128}); }),
            "bias must be float16 (like x) or float32; got bfloat16");
  EXPECT_EQ(B([](D& c) { c.bias = Expanded(kF32, {8, 127}); }), "bias must be [8, 128] (e, n); got [8, 127]");
  EXPECT_EQ(B([](D& c) {
              c.x = Expanded(kF32, {32, 256});
              c.y = Untouchable(kF32, {32, 128});
            }),
            "scale must be float32; got float16");
  EXPECT_EQ(B([](D& c) {
              c.scale = Expanded(kF32, {8, 128});
              c.offset = Expanded(kF16, {8, 128});
              c.bias = Expanded(kF32, {8, 128});
            }),
            "accepted");
}

}  // namespace
}  // namespace qgmm
