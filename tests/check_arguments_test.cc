// SPDX-License-Identifier: Apache-2.0
// src/check_arguments.cc: rules of x, x_scale, outputs, options and of every tensor.
#include "check_arguments.h"

#include <gtest/gtest.h>

#include <limits>

#include "calls.h"

namespace qgmm {
namespace {

using C = SwigluQuantCall;
using D = WeightQuantCall;
using E = GroupedMatmulCall;

constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();

TEST(CheckArguments, AbsentTensors) {
  EXPECT_EQ(A([](C& c) { c.x = TensorView(); }), "x must be a tensor; got None");
  EXPECT_EQ(A([](C& c) { c.x_scale = TensorView(); }), "x_scale must be a tensor; got None");
  EXPECT_EQ(A([](C& c) { c.y = TensorView(); }), "y must be a tensor; got None");
  EXPECT_EQ(A([](C& c) { c.y_scale = TensorView(); }), "y_scale must be a tensor; got None");
  EXPECT_EQ(B([](D& c) { c.x = TensorView(); }), "x must be a tensor; got None");
  EXPECT_EQ(G([](E& c) { c.group_list = TensorView(); }), "group_list must be a tensor; got None");
}

TEST(CheckArguments, NegativeSizes) {
  EXPECT_EQ(A([](C& c) { c.x.sizes[0] = -1; }), "x must have sizes of at least 0; got [-1, 7168]");
  EXPECT_EQ(A([](C& c) { c.smooth_scale = Expanded(kF32, {-8}); }),
            "smooth_scale must have sizes of at least 0; got [-8]");
}

TEST(CheckArguments, Devices) {
  const auto cuda = DeviceType::kCuda;
  EXPECT_EQ(A([&](C& c) { c.x = On(c.x, cuda, 1); }), "x must be on cpu; got cuda:1 (this build has no CUDA)");
  EXPECT_EQ(A([&](C& c) { c.x = On(c.x, DeviceType::kOther); }), "x must be on cpu; got an unsupported device");
  EXPECT_EQ(A([&](C& c) { c.ws = On(c.ws, cuda); }), "weight_scale must be on cpu like x; got cuda:0");
  EXPECT_EQ(A([&](C& c) { c.w = On(c.w, cuda); }), "weight must be on cpu like x; got cuda:0");
  EXPECT_EQ(A([&](C& c) { c.group_list = On(c.group_list, cuda); }), "group_list must be on cpu like x; got cuda:0");
  EXPECT_EQ(B([&](D& c) { c.bias = On(c.scale, cuda); }), "bias must be on cpu like x; got cuda:0");
  EXPECT_EQ(G([&](E& c) { c.y = On(c.y, cuda); }), "y must be on cpu like x; got cuda:0");
}

TEST(CheckArguments, NullPointers) {
  const auto null = [](TensorView view) {
    view.data = nullptr;
    return view;
  };
  EXPECT_EQ(A([&](C& c) { c.x = null(c.x); }), "x must have memory behind its elements; got a null pointer");
  EXPECT_EQ(A([&](C& c) { c.w = null(c.w); }), "weight must have memory behind its elements; got a null pointer");
  EXPECT_EQ(A([&](C& c) { c.group_list = null(c.group_list); }),
            "group_list must have memory behind its elements; got a null pointer");
  EXPECT_EQ(A([&](C& c) { c.y = null(c.y); }), "y must have memory behind its elements; got a null pointer");
  EXPECT_EQ(B([&](D& c) { c.offset = null(c.scale); }),
            "offset must have memory behind its elements; got a null pointer");
}

TEST(CheckArguments, XRank) {
  EXPECT_EQ(A([](C& c) { c.x = Expanded(kI8, {2, 16, 7168}); }), "x must be [m, k]; got [2, 16, 7168]");
  EXPECT_EQ(B([](D& c) { c.x = Expanded(kF16, {}); }), "x must be [m, k]; got []");
  EXPECT_EQ(G([](E& c) {
              c.x = Expanded(kI8, {1, 2, 3, 4, 5, 6, 7, 8});
              c.x.rank = 11;
            }),
            "x must be [m, k]; got [1, 2, 3, 4, 5, 6, 7, 8, ...]");
}

TEST(CheckArguments, InnerSize) {
  EXPECT_EQ(A([](C& c) { c.x = Expanded(kI8, {32, 0}); }), "k must be at least 1; got 0");
  EXPECT_EQ(A([](C& c) { c.x = Expanded(kI8, {32, 131072}); }),
            "k must be at most 131071 (int32 sums); got 131072");
  EXPECT_EQ(G([](E& c) { c.x = Expanded(kI8, {32, 131072}); }),
            "k must be at most 131071 (int32 sums); got 131072");
  EXPECT_EQ(B([](D& c) { c.x = Expanded(kF16, {32, 0}); }), "k must be at least 1; got 0");
  EXPECT_EQ(A([](C& c) {
              c.x = Expanded(kI8, {32, 131071});
              c.w = Expanded(kI8, {8, 131071, 4096});
            }),
            "accepted");
  EXPECT_EQ(B([](D& c) {
              c.x = Expanded(kF16, {32, kHuge});
              c.w = Expanded(kI8, {8, kHuge, 128});
            }),
            "accepted") << "operator B has no upper limit";
  EXPECT_EQ(A([](C& c) {
              c.x = Expanded(kI8, {32, 1});
              c.w = Expanded(kI8, {8, 1, 4096});
            }),
            "accepted");
}

TEST(CheckArguments, XScale) {
  EXPECT_EQ(A([](C& c) { c.x_scale = Expanded(kF32, {32, 1}); }),
            "x_scale must be float32 [32] (m); got float32 [32, 1]");
  EXPECT_EQ(A([](C& c) { c.x_scale = Expanded(kF16, {32}); }), "x_scale must be float32 [32] (m); got float16 [32]");
  EXPECT_EQ(A([](C& c) { c.x_scale = Expanded(kF32, {31}); }), "x_scale must be float32 [32] (m); got float32 [31]");
  EXPECT_EQ(G([](E& c) { c.x_scale = Expanded(kF32, {31}); }), "x_scale must be float32 [32] (m); got float32 [31]");
  EXPECT_EQ(G([](E& c) { c.x_scale = Expanded(kF32, {32}); }), "accepted");
}

TEST(CheckArguments, Outputs) {
  EXPECT_EQ(A([](C& c) { c.y = Untouchable(kI8, {32, 4096}); }),
            "y must be int8 [32, 2048] (m, n/2); got int8 [32, 4096]");
  EXPECT_EQ(A([](C& c) { c.y = Untouchable(DType::kFloat8E5M2, {32, 2048}); }),
            "y must be int8 [32, 2048] (m, n/2); got float8_e5m2 [32, 2048]");
  EXPECT_EQ(A([](C& c) { c.y_scale = Untouchable(kF32, {32, 1}); }),
            "y_scale must be float32 [32] (m); got float32 [32, 1]");
  EXPECT_EQ(B([](D& c) { c.y = Untouchable(kF32, {32, 128}); }),
            "y must be float16 [32, 128] (m, n); got float32 [32, 128]");
  EXPECT_EQ(G([](E& c) { c.y = Untouchable(kBF16, {33, 4096}); }),
            "y must be bfloat16 [32, 4096] (m, n); got bfloat16 [33, 4096]");
}

std::string WithStrides(int64_t rows, int64_t columns) {
  return A([&](C& c) {
    c.y.strides[0] = rows;
    c.y.strides[1] = columns;
  });
}

TEST(CheckArguments, OutputsOfAnyStridesWithoutOverlap) {
  EXPECT_EQ(WithStrides(1, 32), "accepted") << "transposed";
  EXPECT_EQ(WithStrides(-4096, 2), "accepted") << "reversed, with gaps";
  EXPECT_EQ(WithStrides(3, 96), "accepted") << "interleaved";
  EXPECT_EQ(WithStrides(4095, 2), "accepted") << "odd rows between even columns";
  EXPECT_EQ(WithStrides(std::numeric_limits<int64_t>::min(), 1), "accepted");
}

TEST(CheckArguments, OutputsThatOverlap) {
  const auto sentence = [](int64_t rows, int64_t columns) {
    return "y must have a place of its own for every element; got [32, 2048] with strides [" + std::to_string(rows) +
           ", " + std::to_string(columns) + "]";
  };
  EXPECT_EQ(WithStrides(0, 1), sentence(0, 1));
  EXPECT_EQ(WithStrides(2048, 0), sentence(2048, 0));
  EXPECT_EQ(WithStrides(2047, 1), sentence(2047, 1)) << "the last column is the next row's first";
  EXPECT_EQ(WithStrides(1, 31), sentence(1, 31));
  EXPECT_EQ(WithStrides(-6, 4), sentence(-6, 4));
  EXPECT_EQ(A([](C& c) { c.y_scale.strides[0] = 0; }),
            "y_scale must have a place of its own for every element; got [32] with strides [0]");
}

/// The closed form against marking every place, for all small sizes and strides.
TEST(CheckArguments, OverlapIsExact) {
  const int64_t one[] = {1};
  for (int64_t m = 1; m <= 4; ++m) {
    for (int64_t h = 1; h <= 4; ++h) {
      for (int64_t s0 = -7; s0 <= 7; ++s0) {
        for (int64_t s1 = -7; s1 <= 7; ++s1) {
          std::set<int64_t> places;
          for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < h; ++j) places.insert(i * s0 + j * s1);
          }
          const bool distinct = static_cast<int64_t>(places.size()) == m * h;
          const std::string text = A([&](C& c) {
            c.x = Expanded(kI8, {m, 4});
            c.w = Expanded(kI8, {1, 4, 2 * h});
            c.ws = Expanded(kF32, {1, 2 * h});
            c.x_scale = Expanded(kF32, {m});
            c.group_list = Ends(one, 1);
            c.y = Untouchable(kI8, {m, h});
            c.y.strides[0] = s0;
            c.y.strides[1] = s1;
            c.y_scale = Untouchable(kF32, {m});
          });
          ASSERT_EQ(text == "accepted", distinct) << m << " x " << h << ", strides " << s0 << ", " << s1;
        }
      }
    }
  }
}

TEST(CheckArguments, DequantMode) {
  EXPECT_EQ(A([](C& c) { c.dequant_mode = 2; }),
            "dequant_mode must be 0 (per channel) or 1 (per group of k); got 2");
  EXPECT_EQ(G([](E& c) { c.dequant_mode = -1; }),
            "dequant_mode must be 0 (per channel) or 1 (per group of k); got -1");
}

TEST(CheckArguments, ActType) {
  const std::string rule = "act_type must be 0 (none), 1 (relu), 2 (gelu_tanh), 4 (fast_gelu) or 5 (silu); got ";
  for (int64_t type : {int64_t{-1}, int64_t{3}, int64_t{6}, kHuge}) {
    EXPECT_EQ(B([&](D& c) { c.act_type = type; }), rule + std::to_string(type));
    EXPECT_EQ(G([&](E& c) { c.act_type = type; }), rule + std::to_string(type));
  }
  for (int64_t type : {0, 1, 2, 4, 5}) EXPECT_EQ(B([&](D& c) { c.act_type = type; }), "accepted");
}

TEST(CheckArguments, Contiguous) {
  using check::IsContiguous;
  EXPECT_TRUE(IsContiguous(Untouchable(kI8, {2, 3, 4})));
  EXPECT_TRUE(IsContiguous(Expanded(kI8, {2, 0, 4}))) << "nothing to lie anywhere";
  EXPECT_TRUE(IsContiguous(Expanded(kI8, {1, 1})));
  EXPECT_TRUE(IsContiguous(Untouchable(kI8, {})));
  EXPECT_FALSE(IsContiguous(Expanded(kI8, {2})));
  EXPECT_FALSE(IsContiguous(Expanded(kI8, {kHuge, kHuge, kHuge})));
  TensorView view = Untouchable(kI8, {2, 3});
  view.strides[0] = 4;
  EXPECT_FALSE(IsContiguous(view));
}

// ---- src/check_refuse.cc

TEST(CheckRefuse, Setting) {
  EXPECT_EQ(RefusalOf([] { RefuseSetting("QGMM_MAX_ISA must be what this machine has (scalar, avx2); got avx9"); }),
            "[qgmm] QGMM_MAX_ISA must be what this machine has (scalar, avx2); got avx9");
}

TEST(CheckRefuse, Words) {
  using namespace check;  // NOLINT
  EXPECT_EQ(Words(Argument{"weight", 3}).text, "weight[3]");
  EXPECT_EQ(Words(Argument{"weight"}).text, "weight");
  EXPECT_EQ(Shape({{8, "e"}, {0, "k"}, {-1, "n"}}), "[8, 0, n]");
  EXPECT_EQ(Shape(Untouchable(kI8, {1, 2, 3, 4, 5, 6, 7, 8})), "[1, 2, 3, 4, 5, 6, 7, 8]");
  EXPECT_EQ(Came(TensorView()), "None");
  EXPECT_EQ(Came(Untouchable(kBF16, {})), "bfloat16 []");
  EXPECT_EQ(Spell(0.1), "0.1");
  EXPECT_EQ(Spell(Device{DeviceType::kCuda, 3}), "cuda:3");
}

/// The sentence is an std::invalid_argument, which torch turns into ValueError.
TEST(CheckRefuse, IsAnInvalidArgument) {
  C call;
  call.x = TensorView();
  EXPECT_THROW(Checked(static_cast<const SwigluQuantArgs&>(call)), std::invalid_argument);
}

TEST(CheckRefuse, DTypeNames) {
  const char* names[] = {"int8",          "int32",         "int64", "uint64", "float32", "float16", "bfloat16",
                         "float8_e4m3fn", "float8_e5m2",   "int4",  "uint8",  "bool",    "int16",   "float64",
                         "an unsupported dtype"};
  const int bytes[] = {1, 4, 8, 8, 4, 2, 2, 1, 1, 0, 1, 1, 2, 8, 0};
  for (int i = 0; i < 15; ++i) {
    EXPECT_STREQ(Name(static_cast<DType>(i)), names[i]);
    EXPECT_EQ(Bytes(static_cast<DType>(i)), bytes[i]) << names[i];
  }
  EXPECT_STREQ(Name(static_cast<DType>(200)), "an unsupported dtype");
  EXPECT_EQ(Bytes(static_cast<DType>(200)), 0);
}

}  // namespace
}  // namespace qgmm
