// SPDX-License-Identifier: Apache-2.0
// src/check.cc: whose name is called, options, the order of checks, and what the Problem of a good call holds.
#include "check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "calls.h"

namespace qgmm {
namespace {

using C = SwigluQuantCall;
using D = WeightQuantCall;
using E = GroupedMatmulCall;

TEST(Check, ValidCallsPass) {
  EXPECT_EQ(C().Refusal(), "accepted");
  EXPECT_EQ(D().Refusal(), "accepted");
  EXPECT_EQ(E().Refusal(), "accepted");
}

TEST(Check, NameOfEverySpelling) {
  const auto name = [](auto call, Spelling spelling) {
    call.spelling = spelling;
    call.group_list_type = 2;
    const std::string text = call.Refusal();
    return text.substr(0, text.find(' '));
  };
  EXPECT_EQ(name(C(), Spelling::kNative), "[grouped_matmul_swiglu_quant]");
  EXPECT_EQ(name(C(), Spelling::kVendorSwigluQuantV1), "[npu_grouped_matmul_swiglu_quant]");
  EXPECT_EQ(name(C(), Spelling::kVendorSwigluQuantV2), "[npu_grouped_matmul_swiglu_quant_v2]");
  EXPECT_EQ(name(D(), Spelling::kNative), "[weight_quant_grouped_matmul]");
  EXPECT_EQ(name(D(), Spelling::kVendorWeightQuantGmm), "[npu_weight_quant_gmm]");
  EXPECT_EQ(name(D(), Spelling::kVendorWeightQuantGmmV2), "[npu_weight_quant_gmm_v2]");
  EXPECT_EQ(name(E(), Spelling::kNative), "[grouped_matmul]");
}

TEST(Check, XDtype) {
  EXPECT_EQ(A([](C& c) { c.x = Expanded(kF16, {32, 7168}); }), "x must be int8 [m, k]; got float16 [32, 7168]");
  EXPECT_EQ(G([](E& c) { c.x = Expanded(kBF16, {32, 7168}); }), "x must be int8 [m, k]; got bfloat16 [32, 7168]");
  EXPECT_EQ(B([](D& c) { c.x = Expanded(kI8, {32, 256}); }), "x must be float16, bfloat16 or float32; got int8");
}

TEST(Check, QuantDtype) {
  EXPECT_EQ(A([](C& c) { c.quant_dtype = DType::kUInt8; }),
            "quant_dtype must be int8, float8_e4m3fn or float8_e5m2; got uint8");
  for (DType dtype : {kI8, DType::kFloat8E4M3, DType::kFloat8E5M2}) {
    EXPECT_EQ(A([&](C& c) {
                c.quant_dtype = dtype;
                c.y = Untouchable(dtype, {32, 2048});
              }),
              "accepted");
  }
}

TEST(Check, SwigluLimit) {
  const auto refusal = [](double limit) { return A([&](C& c) { c.swiglu_limit = limit; }); };
  EXPECT_EQ(refusal(-1), "swiglu_limit must be at least 0; got -1");
  EXPECT_EQ(refusal(-0.5), "swiglu_limit must be at least 0; got -0.5");
  EXPECT_EQ(refusal(std::nan("")), "swiglu_limit must be at least 0; got nan");
  EXPECT_EQ(refusal(-std::numeric_limits<double>::infinity()), "swiglu_limit must be at least 0; got -inf");
}

TEST(Check, SwigluLimitAsAFloat) {
  const auto epilogue = [](double limit) {
    C call;
    call.swiglu_limit = limit;
    call.weight = call.w;
    call.weight_scale = call.ws;
    return Checked(static_cast<const SwigluQuantArgs&>(call)).epilogue;
  };
  EXPECT_FALSE(epilogue(0).limited);
  EXPECT_FALSE(epilogue(-0.0).limited);
  EXPECT_FALSE(epilogue(std::numeric_limits<double>::infinity()).limited);
  EXPECT_FALSE(epilogue(1e300).limited);
  EXPECT_FALSE(epilogue(0x1.ffffffp+127).limited) << "rounds to infinity";
  EXPECT_TRUE(epilogue(0x1.fffffe8p+127).limited);
  EXPECT_EQ(epilogue(0x1.fffffe8p+127).limit, std::numeric_limits<float>::max());
  EXPECT_TRUE(epilogue(1e-50).limited);
  EXPECT_EQ(epilogue(1e-50).limit, 0.0f);
  EXPECT_TRUE(epilogue(7).limited);
  EXPECT_EQ(epilogue(7).limit, 7.0f);
}

TEST(Check, TuningConfigIsAHint) {
  const int64_t hints[] = {40, -5, 0, std::numeric_limits<int64_t>::max()};
  const auto rows = [&](const int64_t* hint, int64_t size) {
    C call;
    call.tuning_config = hint;
    call.tuning_config_size = size;
    call.weight = call.w;
    call.weight_scale = call.ws;
    return Checked(static_cast<const SwigluQuantArgs&>(call)).expected_rows;
  };
  EXPECT_EQ(rows(hints, 3), 40);
  EXPECT_EQ(rows(hints + 3, 1), int64_t{1} << 32) << "plans compute with it";
  EXPECT_EQ(rows(hints + 1, 2), 0);
  EXPECT_EQ(rows(hints + 2, 1), 0);
  EXPECT_EQ(rows(hints, 0), 0);
  EXPECT_EQ(rows(nullptr, 3), 0);
}

TEST(Check, Precision) {
  EXPECT_EQ(B([](D& c) { c.precision = static_cast<Precision>(7); }),
            "precision must be \"default\", \"strict\" or \"fast\"; got 7");
  for (Precision precision : {Precision::kDefault, Precision::kStrict, Precision::kFast}) {
    EXPECT_EQ(B([&](D& c) { c.precision = precision; }), "accepted");
  }
}

TEST(Check, PrecisionChoosesTheProduct) {
  const auto product = [](DType x, Precision precision) {
    D call;
    call.x = Expanded(x, {32, 256});
    call.scale = Expanded(kF32, {8, 128});
    call.y = Untouchable(x, {32, 128});
    call.weight = call.w;
    call.precision = precision;
    const Problem p = Checked(static_cast<const WeightQuantArgs&>(call));
    EXPECT_EQ(p.slice, p.product == Product::kFixed16 ? 512 : 256);
    return p.product;
  };
  EXPECT_EQ(product(DType::kBFloat16, Precision::kDefault), Product::kFixed16);
  EXPECT_EQ(product(DType::kBFloat16, Precision::kFast), Product::kFixed16);
  EXPECT_EQ(product(DType::kBFloat16, Precision::kStrict), Product::kFloat);
  EXPECT_EQ(product(kF16, Precision::kDefault), Product::kFloat);
  EXPECT_EQ(product(kF16, Precision::kFast), Product::kFixed16);
  EXPECT_EQ(product(kF16, Precision::kStrict), Product::kFloat);
  for (const Precision precision : {Precision::kDefault, Precision::kStrict, Precision::kFast}) {
    EXPECT_EQ(product(kF32, precision), Product::kFloat);
  }
}

TEST(Check, GroupListAbsent) {
  EXPECT_EQ(B([](D& c) { c.group_list = TensorView(); }), "group_list must be given when e is 8; got None");
  EXPECT_EQ(A([](C& c) { c.group_list = TensorView(); }), "group_list must be a tensor; got None");
  D one;
  one.weight = one.w = Expanded(kI8, {1, 256, 128});
  one.scale = Expanded(kF16, {1, 128});
  one.group_list = TensorView();
  const Problem problem = Checked(static_cast<const WeightQuantArgs&>(one));
  ASSERT_EQ(problem.rows.size(), 1u);
  EXPECT_EQ(problem.rows[0].end, 32);
  one.x = Expanded(kF16, {0, 256});
  one.y = Untouchable(kF16, {0, 128});
  EXPECT_TRUE(Checked(static_cast<const WeightQuantArgs&>(one)).rows.empty());
}

TEST(Check, OutDtype) {
  EXPECT_EQ(G([](E& c) { c.out_dtype = DType::kFloat64; }),
            "out_dtype must be float16, bfloat16, float32 or int32; got float64");
}

TEST(Check, Int32OutTakesNoScales) {
  const auto sums = [](E& c) {
    c.out_dtype = kI32;
    c.y = Untouchable(kI32, {32, 4096});
    c.ws = TensorView();
  };
  EXPECT_EQ(G(sums), "accepted");
  EXPECT_EQ(G([&](E& c) { sums(c); c.ws = Expanded(kF32, {8, 4096}); }),
            "weight_scale must be None for out_dtype int32; got float32 [8, 4096]");
  const std::vector<TensorView> list(8, Expanded(kF32, {4096}));
  EXPECT_EQ(G([&](E& c) { sums(c); c.weight_scale = TensorList(list.data(), 8); }),
            "weight_scale must be None for out_dtype int32; got a list of 8");
  EXPECT_EQ(G([&](E& c) { sums(c); c.x_scale = Expanded(kF32, {32}); }),
            "x_scale must be None for out_dtype int32; got float32 [32]");
  EXPECT_EQ(G([&](E& c) { sums(c); c.assist = Expanded(kF32, {8, 4096}); }),
            "weight_assist_matrix must be None for out_dtype int32; got a tensor");
  EXPECT_EQ(G([&](E& c) { sums(c); c.dequant_mode = 1; }), "dequant_mode must be 0 for out_dtype int32; got 1");
  EXPECT_EQ(G([&](E& c) { sums(c); c.act_type = 5; }), "act_type must be 0 for out_dtype int32; got 5");
  EXPECT_EQ(G([&](E& c) { sums(c); c.bias = Expanded(kF32, {8, 4096}); }),
            "bias must be int32 [8, 4096] (e, n); got float32 [8, 4096]");
  EXPECT_EQ(G([&](E& c) { sums(c); c.bias = Expanded(kI32, {8, 4096}); }), "accepted");
}

TEST(Check, V1BiasIsTheAssistMatrix) {
  const auto v1 = [](C& c) {
    c.spelling = Spelling::kVendorSwigluQuantV1;
    c.w = Expanded(kI32, {8, 7168, 512});
    c.bias = Expanded(kF32, {8, 4096});
  };
  EXPECT_EQ(A(v1), "accepted");
  EXPECT_EQ(A([&](C& c) { v1(c); c.w = Expanded(kI8, {8, 7168, 4096}); }),
            "bias must be None for int8 weights; got float32 [8, 4096]");
  EXPECT_EQ(A([&](C& c) { v1(c); c.bias = Expanded(kF32, {8, 2048}); }),
            "bias must be float32 [8, 4096] (e, n); got float32 [8, 2048]");
  EXPECT_EQ(A([&](C& c) { v1(c); c.assist = Expanded(kF32, {8, 4096}); }),
            "weight_assist_matrix must be None (bias is its name here); got a tensor");
  EXPECT_EQ(A([&](C& c) {
              v1(c);
              c.assist = Expanded(kF32, {8, 4096});
              c.quant_dtype = kF32;
            }),
            "weight_assist_matrix must be None (bias is its name here); got a tensor") << "types come before options";
  EXPECT_EQ(A([&](C& c) {
              v1(c);
              c.w = Expanded(kI8, {8, 7168, 4096});
              c.quant_dtype = kF32;
            }),
            "quant_dtype must be int8, float8_e4m3fn or float8_e5m2; got float32") << "options come before dtypes";
  C call;
  v1(call);
  call.weight = call.w;
  call.weight_scale = call.ws;
  const Problem problem = Checked(static_cast<const SwigluQuantArgs&>(call));
  EXPECT_TRUE(problem.epilogue.assist.given());
  EXPECT_FALSE(problem.epilogue.int_bias.given());
}

TEST(Check, V1ModeFollowsTheRankOfTheScale) {
  const auto slices = [](C& c) {
    c.spelling = Spelling::kVendorSwigluQuantV1;
    c.w = Expanded(kI32, {8, 7168, 512});
    c.ws = Expanded(kF32, {8, 56, 4096});
  };
  EXPECT_EQ(A(slices), "accepted");
  EXPECT_EQ(A([&](C& c) { slices(c); c.spelling = Spelling::kVendorSwigluQuantV2; }),
            "dequant_mode must be 1 for weight_scale [8, 56, 4096]; got 0");
}

TEST(Check, VendorNamesOfOperatorB) {
  const auto vendor = [](D& c) { c.spelling = Spelling::kVendorWeightQuantGmm; };
  EXPECT_EQ(B([&](D& c) { vendor(c); c.scale = Expanded(kBF16, {8, 128}); }),
            "antiquant_scale must be float16 (like x) or float32; got bfloat16");
  EXPECT_EQ(B([&](D& c) { vendor(c); c.scale = TensorView(); }), "antiquant_scale must be a tensor; got None");
  EXPECT_EQ(B([&](D& c) { vendor(c); c.offset = Expanded(kF16, {8, 64}); }),
            "antiquant_offset must be [8, 128] (e, n); got [8, 64]");
}

/// Every stage is wrong; the mistakes are repaired one by one, and the next stage speaks.
TEST(Check, FirstFailureIsReported) {
  const int64_t negative[] = {-1};
  const auto spoil = [&](C& c, int from) {
    if (from <= 6) c.group_list = Ends(negative, 1);
    if (from <= 5) c.y_scale.data = nullptr;
    if (from <= 4) c.ws = On(c.ws, DeviceType::kCuda);
    if (from <= 3) c.w = Expanded(kI8, {8, 4096, 4096});
    if (from <= 2) c.x_scale = Expanded(kF32, {32, 1});
    if (from <= 1) c.smooth_scale = Expanded(kF16, {8});
    if (from <= 0) c.group_list_type = 2;
    if (from < 0) c.x = TensorView();
  };
  const char* expected[] = {"x must be a tensor; got None",
                            "group_list_type must be 0 (cumsum) or 1 (counts); got 2",
                            "smooth_scale must be float32 [8] (e) or [8, 2048] (e, n/2); got float16 [8]",
                            "x_scale must be float32 [32] (m); got float32 [32, 1]",
                            "weight must be [e, 7168, n] (k of x); got [8, 4096, 4096]",
                            "weight_scale must be on cpu like x; got cuda:0",
                            "y_scale must have memory behind its elements; got a null pointer",
                            "group_list must not be negative; got -1 at index 0",
                            "accepted"};
  for (int from = -1; from <= 7; ++from) {
    EXPECT_EQ(A([&](C& c) { spoil(c, from); }), expected[from + 1]) << from;
  }
}

TEST(Check, WithinAStageTheSignatureDecides) {
  EXPECT_EQ(A([](C& c) {
              c.x_scale = Expanded(kF16, {32});
              c.smooth_scale = Expanded(kF16, {8});
              c.y = Untouchable(kF32, {32, 2048});
            }),
            "x_scale must be float32 [32] (m); got float16 [32]");
}

TEST(Check, SizesNotYetKnownAreLetters) {
  EXPECT_EQ(A([](C& c) {
              c.x = Expanded(kI8, {32});
              c.x_scale = Expanded(kF16, {32});
            }),
            "x_scale must be float32 [m] (m); got float16 [32]");
}

TEST(Check, ZeroRowsPassEveryCheck) {
  const int64_t zeros[8] = {};
  C a;
  a.x = View(nullptr, kI8, {0, 7168});
  a.x_scale = View(nullptr, kF32, {0});
  a.y = View(nullptr, kI8, {0, 2048});
  a.y_scale = View(nullptr, kF32, {0});
  a.group_list = Ends(zeros, 8);
  EXPECT_EQ(a.Refusal(), "accepted");
  a.group_list = Ends(kEnds, 8);
  EXPECT_EQ(a.Refusal(), "[grouped_matmul_swiglu_quant] group_list (cumsum) must end at or below 0 (m); got 32");
}

TEST(Check, ProblemOfOperatorA) {
  C call;
  call.w = Expanded(kI32, {8, 7168, 512});
  call.ws = Expanded(kI64, {8, 56, 4096});
  call.weight = call.w;
  call.weight_scale = call.ws;
  call.dequant_mode = 1;
  call.smooth_scale = View(Forbidden(), kF32, {8});
  const Problem p = Checked(static_cast<const SwigluQuantArgs&>(call));
  EXPECT_STREQ(p.operation, "grouped_matmul_swiglu_quant");
  EXPECT_EQ(p.m, 32);
  EXPECT_EQ(p.k, 7168);
  EXPECT_EQ(p.n, 4096);
  EXPECT_EQ(p.e, 8);
  EXPECT_EQ(p.slice, 128);
  EXPECT_EQ(p.product, Product::kInt4);
  EXPECT_EQ(p.w.dtype, DType::kInt4);
  EXPECT_TRUE(p.w.paired);
  EXPECT_TRUE(p.w.list.empty());
  EXPECT_EQ(p.rows.size(), 8u);
  EXPECT_EQ(p.y.columns, 2048);
  EXPECT_EQ(p.epilogue.finish, Finish::kSwigluQuant);
  EXPECT_TRUE(p.epilogue.scale.list.empty());
  EXPECT_EQ(p.epilogue.smooth.column_stride, 0);
  EXPECT_EQ(p.epilogue.smooth.expert_stride, 1);
  EXPECT_TRUE(p.warning.empty());
}

TEST(Check, ProblemOfGroupedMatmul) {
  E call;
  call.weight = call.w;
  call.weight_scale = call.ws;
  call.bias = Expanded(kI32, {8, 4096});
  call.act_type = 4;
  const Problem p = Checked(static_cast<const GroupedMatmulArgs&>(call));
  EXPECT_EQ(p.epilogue.finish, Finish::kDequantize);
  EXPECT_EQ(p.epilogue.activation, Activation::kFastGelu);
  EXPECT_TRUE(p.epilogue.int_bias.given());
  EXPECT_FALSE(p.epilogue.bias.given());
  EXPECT_EQ(p.x_scale.data, nullptr);
  EXPECT_EQ(p.slice, 7168);
  EXPECT_FALSE(p.w.paired);
}

TEST(Check, ProblemOfOperatorB) {
  D call;
  call.weight = call.w;
  call.offset = View(Forbidden(), kF32, {8, 128});
  const Problem p = Checked(static_cast<const WeightQuantArgs&>(call));
  EXPECT_EQ(p.epilogue.finish, Finish::kAffine);
  EXPECT_EQ(p.product, Product::kFloat);
  EXPECT_EQ(p.slice, 256);
  EXPECT_EQ(p.epilogue.offset.dtype, kF32);
  EXPECT_EQ(p.epilogue.offset.expert_stride, 128);
  EXPECT_EQ(p.epilogue.scale.dtype, kF16);
  EXPECT_FALSE(p.epilogue.bias.given());
}

}  // namespace
}  // namespace qgmm
