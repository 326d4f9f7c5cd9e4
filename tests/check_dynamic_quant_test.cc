// SPDX-License-Identifier: Apache-2.0
// src/check_dynamic_quant.cc: tokens of any leading axes, smoothing rows, groups.
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "calls.h"
#include "check.h"

namespace qgmm {
namespace {

constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
constexpr int64_t kGroups[] = {10, 10, 32};

using Q = DynamicQuantArgs;

Q Good() {
  Q args;
  args.x = Expanded(kBF16, {4, 8, 7168});
  args.y = Untouchable(kI8, {4, 8, 7168});
  args.scale = Untouchable(kF32, {4, 8});
  return args;
}
void WithGroups(Q& q) {
  q.smooth_scales = Expanded(kF32, {3, 7168});
  q.group_index = Ends(kGroups, 3);
}

template <class Change>
std::string Refused(Change change) {
  Q args = Good();
  change(args);
  const std::string text = RefusalOf([&] { Checked(args); }), prefix = "[dynamic_quant] ";
  return text.rfind(prefix, 0) == 0 ? text.substr(prefix.size()) : text;
}

TEST(CheckDynamicQuant, ValidCallsPass) {
  EXPECT_EQ(Refused([](Q&) {}), "accepted");
  EXPECT_EQ(Refused(WithGroups), "accepted");
  EXPECT_EQ(Refused([](Q& q) { q.smooth_scales = Expanded(kBF16, {7168}); }), "accepted");
  EXPECT_EQ(Refused([](Q& q) {
              q.dst_type = DType::kInt4;
              q.y = Untouchable(kI32, {4, 8, 896});
            }),
            "accepted");
  EXPECT_EQ(Refused([](Q& q) {
              q.x = View(nullptr, kF16, {0, 8, 7168});
              q.y = View(nullptr, kI8, {0, 8, 7168});
              q.scale = View(nullptr, kF32, {0, 8});
            }),
            "accepted");
}

TEST(CheckDynamicQuant, FromTwoToEightDimensions) {
  EXPECT_EQ(Refused([](Q& q) {
              q.x = Expanded(kBF16, {5, 1});
              q.y = Untouchable(kI8, {5, 1});
              q.scale = Untouchable(kF32, {5});
            }),
            "accepted");
  EXPECT_EQ(Refused([](Q& q) {
              q.x = Expanded(kBF16, {1, 2, 1, 2, 1, 2, 1, 16});
              q.y = Untouchable(kI8, {1, 2, 1, 2, 1, 2, 1, 16});
              q.scale = Untouchable(kF32, {1, 2, 1, 2, 1, 2, 1});
            }),
            "accepted");
  EXPECT_EQ(Refused([](Q& q) {
              q.x = Expanded(kBF16, {1, 2, 1, 2, 1, 2, 1, 16});
              q.scale = Untouchable(kF32, {1, 2, 1, 2, 1, 2, 1});
            }),
            "y must be int8 [1, 2, 1, 2, 1, 2, 1, 16]; got int8 [4, 8, 7168]");
}

TEST(CheckDynamicQuant, X) {
  EXPECT_EQ(Refused([](Q& q) {
              q.x = Expanded(kBF16, {128});
              q.y.dtype = kF32;
            }),
            "y must be int8 [..., h]; got float32 [4, 8, 7168]");
  EXPECT_EQ(Refused([](Q& q) { q.x = TensorView(); }), "x must be a tensor; got None");
  EXPECT_EQ(Refused([](Q& q) { q.x = Expanded(kBF16, {128}); }), "x must have at least 2 dimensions; got [128]");
  EXPECT_EQ(Refused([](Q& q) { q.x.rank = 9; }),
            "x must have at most 8 dimensions; got [4, 8, 7168, 0, 0, 0, 0, 0, ...]");
  EXPECT_EQ(Refused([](Q& q) { q.x.dtype = kI8; }), "x must be float16, bfloat16 or float32; got int8");
  EXPECT_EQ(Refused([](Q& q) { q.x = Expanded(kBF16, {kHuge, 2, 8}); }),
            "x must have at most 9223372036854775807 rows; got [9223372036854775807, 2, 8]");
  EXPECT_EQ(Refused([](Q& q) { q.x = Expanded(kBF16, {4, 8, 0}); }), "h must be at least 1; got 0");
  EXPECT_EQ(Refused([](Q& q) {
              q.x = Expanded(kBF16, {4, 8, 12});
              q.dst_type = DType::kInt4;
            }),
            "y must be int32 [4, 8, 1]; got int8 [4, 8, 7168]");
  EXPECT_EQ(Refused([](Q& q) {
              q.x = Expanded(kBF16, {4, 8, 12});
              q.dst_type = DType::kInt4;
              q.y = Untouchable(kI32, {4, 8, 1});
            }),
            "h must be a multiple of 8 for int4; got 12");
  EXPECT_EQ(Refused([](Q& q) { q.x = On(q.x, DeviceType::kCuda); }),
            "x must be on cpu; got cuda:0 (this build has no CUDA)");
  EXPECT_EQ(Refused([](Q& q) { q.x.data = nullptr; }), "x must have memory behind its elements; got a null pointer");
}

TEST(CheckDynamicQuant, SmoothScales) {
  EXPECT_EQ(Refused([](Q& q) { q.smooth_scales = Expanded(kBF16, {8}); }), "smooth_scales must be [7168] (h); got [8]");
  EXPECT_EQ(Refused([](Q& q) { q.smooth_scales = Expanded(kBF16, {2, 7168}); }),
            "smooth_scales must be [7168] (h); got [2, 7168]");
  EXPECT_EQ(Refused([](Q& q) { q.smooth_scales = Expanded(kF16, {7168}); }),
            "smooth_scales must be bfloat16 (like x) or float32; got float16");
  EXPECT_EQ(Refused([](Q& q) {
              q.x.dtype = kF32;
              q.smooth_scales = Expanded(kF16, {7168});
            }),
            "smooth_scales must be float32; got float16");
  EXPECT_EQ(Refused([](Q& q) {
              WithGroups(q);
              q.smooth_scales = Expanded(kF32, {2, 7168});
            }),
            "smooth_scales must be [3, 7168] (g, h); got [2, 7168]");
  EXPECT_EQ(Refused([](Q& q) {
              WithGroups(q);
              q.smooth_scales = Expanded(kF32, {7168});
            }),
            "smooth_scales must be [3, 7168] (g, h); got [7168]");
}

TEST(CheckDynamicQuant, GroupIndex) {
  const auto with = [](const TensorView& index) {
    return Refused([&](Q& q) {
      WithGroups(q);
      q.group_index = index;
      q.smooth_scales.sizes[0] = index.sizes[0];
    });
  };
  const auto values = [&](const std::vector<int64_t>& list) {
    return with(Ends(list.data(), static_cast<int64_t>(list.size())));
  };
  EXPECT_EQ(Refused([](Q& q) { q.group_index = Ends(kGroups, 3); }),
            "group_index must be None without smooth_scales; got int64 [3]");
  EXPECT_EQ(with(Expanded(kF32, {3})), "group_index must be int64 or int32; got float32");
  EXPECT_EQ(with(Expanded(kI64, {3, 1})), "group_index must have one dimension; got [3, 1]");
  EXPECT_EQ(with(Expanded(kI64, {0})), "group_index must have at least 1 entry; got 0");
  EXPECT_EQ(values({10, 30}), "group_index must end at 32 (rows); got 30");
  EXPECT_EQ(values({10, 33}), "group_index must end at 32 (rows); got 33");
  EXPECT_EQ(values({-1, 32}), "group_index must not be negative; got -1 at index 0");
  EXPECT_EQ(values({9, 3, 32}), "group_index (cumsum) must not decrease; got 3 after 9 at index 1");
  EXPECT_EQ(values({32}), "accepted");
}

TEST(CheckDynamicQuant, DstType) {
  EXPECT_EQ(Refused([](Q& q) { q.dst_type = DType::kInt16; }),
            "dst_type must be int8, quint4x2, float8_e4m3fn or float8_e5m2; got int16");
}

TEST(CheckDynamicQuant, Outputs) {
  EXPECT_EQ(Refused([](Q& q) { q.y = TensorView(); }), "y must be a tensor; got None");
  EXPECT_EQ(Refused([](Q& q) { q.y = Untouchable(kI8, {32, 7168}); }),
            "y must be int8 [4, 8, 7168]; got int8 [32, 7168]");
  EXPECT_EQ(Refused([](Q& q) { q.dst_type = DType::kFloat8E4M3; }),
            "y must be float8_e4m3fn [4, 8, 7168]; got int8 [4, 8, 7168]");
  EXPECT_EQ(Refused([](Q& q) { q.scale = Untouchable(kF32, {4, 8, 1}); }),
            "scale must be float32 [4, 8]; got float32 [4, 8, 1]");
  EXPECT_EQ(Refused([](Q& q) { q.scale.strides[0] = 9; }),
            "scale must be contiguous; got [4, 8] with strides [9, 1]");
}

TEST(CheckDynamicQuant, Problem) {
  Q args = Good();
  WithGroups(args);
  args.smooth_scales = View(Forbidden(), kF32, {3, 7168});
  DynamicQuantProblem p = Checked(args);
  EXPECT_EQ(p.row_count, 32);
  EXPECT_EQ(p.h, 7168);
  ASSERT_EQ(p.rows.size(), 2u);
  EXPECT_EQ(p.rows[1].expert, 2);
  EXPECT_EQ(p.rows[1].begin, 10);
  EXPECT_EQ(p.smooth.expert_stride, 7168);
  args = Good();
  args.smooth_scales = View(Forbidden(), kF32, {7168});
  p = Checked(args);
  ASSERT_EQ(p.rows.size(), 1u);
  EXPECT_EQ(p.rows[0].end, 32);
  EXPECT_EQ(p.smooth.expert_stride, 0);
  EXPECT_EQ(p.smooth.column_stride, 1);
  args.x.sizes[0] = args.y.sizes[0] = args.scale.sizes[0] = 0;
  EXPECT_TRUE(Checked(args).rows.empty());
}

}  // namespace
}  // namespace qgmm
