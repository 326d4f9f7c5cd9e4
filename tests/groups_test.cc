// SPDX-License-Identifier: Apache-2.0
// src/groups.cc and src/check_groups.cc: group_list, its rows, and its sentences.
#include "groups.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <vector>

#include "calls.h"

namespace qgmm {
namespace {

using C = SwigluQuantCall;
using D = WeightQuantCall;

constexpr int64_t kMax = std::numeric_limits<int64_t>::max(), kMin = std::numeric_limits<int64_t>::min();
constexpr int64_t kCumsum = 0, kCounts = 1;

std::string Text(const std::vector<RowRange>& rows) {
  std::string text;
  for (const RowRange& range : rows) {
    text += std::to_string(range.expert) + ":" + std::to_string(range.begin) + "-" + std::to_string(range.end) + " ";
  }
  return text;
}

DecodedGroups Decode(const std::vector<int64_t>& values, int64_t type, int64_t m) {
  return DecodeGroups(Ends(values.data(), static_cast<int64_t>(values.size())), type, m);
}
std::string RowsOf(const std::vector<int64_t>& values, int64_t type, int64_t m) {
  const DecodedGroups groups = Decode(values, type, m);
  EXPECT_EQ(groups.violation, "");
  return Text(groups.rows);
}

TEST(Groups, EmptyFirst) {
  EXPECT_EQ(RowsOf({0, 3, 5}, kCumsum, 5), "1:0-3 2:3-5 ");
  EXPECT_EQ(RowsOf({0, 3, 2}, kCounts, 5), "1:0-3 2:3-5 ");
}
TEST(Groups, EmptyMiddle) {
  EXPECT_EQ(RowsOf({3, 3, 5}, kCumsum, 5), "0:0-3 2:3-5 ");
  EXPECT_EQ(RowsOf({3, 0, 2}, kCounts, 5), "0:0-3 2:3-5 ");
}
TEST(Groups, EmptyLast) {
  EXPECT_EQ(RowsOf({3, 5, 5}, kCumsum, 5), "0:0-3 1:3-5 ");
  EXPECT_EQ(RowsOf({3, 2, 0}, kCounts, 5), "0:0-3 1:3-5 ");
}
TEST(Groups, AllEmpty) {
  EXPECT_EQ(RowsOf({0, 0, 0}, kCumsum, 5), "");
  EXPECT_EQ(RowsOf({0, 0, 0}, kCounts, 0), "");
}
TEST(Groups, AllRowsInOne) {
  EXPECT_EQ(RowsOf({0, 7, 7}, kCumsum, 7), "1:0-7 ");
  EXPECT_EQ(RowsOf({0, 7, 0}, kCounts, 7), "1:0-7 ");
}
TEST(Groups, OneRowEach) {
  EXPECT_EQ(RowsOf({1, 2, 3}, kCumsum, 3), "0:0-1 1:1-2 2:2-3 ");
  EXPECT_EQ(RowsOf({1, 1, 1}, kCounts, 3), "0:0-1 1:1-2 2:2-3 ");
}
TEST(Groups, MoreGroupsThanRows) { EXPECT_EQ(RowsOf({0, 1, 1, 1, 2, 2}, kCumsum, 2), "1:0-1 4:1-2 "); }
TEST(Groups, LengthOne) { EXPECT_EQ(RowsOf({4}, kCumsum, 6), "0:0-4 "); }
TEST(Groups, TailRowsInNoGroup) { EXPECT_EQ(RowsOf({1, 2}, kCounts, 9), "0:0-1 1:1-3 "); }

TEST(Groups, CountsEqualCumsum) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<int64_t> counts(1 + random() % 20), ends(counts.size());
    int64_t sum = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      counts[i] = static_cast<int64_t>(random() % 4);
      ends[i] = sum += counts[i];
    }
    EXPECT_EQ(RowsOf(counts, kCounts, sum + 3), RowsOf(ends, kCumsum, sum + 3)) << "seed 7, round " << round;
  }
}

TEST(Groups, Int32List) {
  const int32_t values[] = {1, 1, 4};
  EXPECT_EQ(Text(DecodeGroups(View(values, kI32, {3}), kCumsum, 4).rows), "0:0-1 2:1-4 ");
  const int32_t negative[] = {1, -2};
  EXPECT_EQ(DecodeGroups(View(negative, kI32, {2}), kCounts, 4).violation, "must not be negative; got -2 at index 1");
  EXPECT_EQ(LastEntry(View(values, kI32, {3})), 4);
}

TEST(Groups, StridedList) {
  const int64_t values[] = {1, 99, 3, 99, 4};
  TensorView list = View(values, kI64, {3});
  list.strides[0] = 2;
  EXPECT_EQ(Text(DecodeGroups(list, kCumsum, 4).rows), "0:0-1 1:1-3 2:3-4 ");
  EXPECT_EQ(LastEntry(list), 4);
  list.data = const_cast<int64_t*>(values) + 4;
  list.strides[0] = -2;
  EXPECT_EQ(Text(DecodeGroups(list, kCounts, 8).rows), "0:0-4 1:4-7 2:7-8 ");
  list.strides[0] = 0;
  EXPECT_EQ(Text(DecodeGroups(list, kCounts, 12).rows), "0:0-4 1:4-8 2:8-12 ");
}

TEST(Groups, UnalignedList) {
  std::vector<uint8_t> bytes(8 * 2 + 1);
  const int64_t values[] = {2, 5};
  std::memcpy(bytes.data() + 1, values, sizeof(values));
  EXPECT_EQ(Text(DecodeGroups(View(bytes.data() + 1, kI64, {2}), kCumsum, 5).rows), "0:0-2 1:2-5 ");
}

TEST(Groups, Violations) {
  const auto violation = [](const std::vector<int64_t>& values, int64_t type) {
    const DecodedGroups groups = Decode(values, type, 32);
    return groups.violation + (groups.only_past_m ? " | only past m" : "");
  };
  EXPECT_EQ(violation({1, 2, -3}, kCumsum), "must not be negative; got -3 at index 2");
  EXPECT_EQ(violation({1, 2, -3}, kCounts), "must not be negative; got -3 at index 2");
  EXPECT_EQ(violation({1, 5, 9, 15, 10}, kCumsum), "(cumsum) must not decrease; got 10 after 15 at index 4");
  EXPECT_EQ(violation({3, 33}, kCumsum), "(cumsum) must end at or below 32 (m); got 33 | only past m");
  EXPECT_EQ(violation({3, 30}, kCounts), "(counts) must sum to at most 32 (m); got 33 | only past m");
  EXPECT_EQ(violation({kMax}, kCounts), "(counts) must sum to at most 32 (m); got 9223372036854775807 | only past m");
  EXPECT_EQ(violation({40, -1}, kCumsum), "must not be negative; got -1 at index 1") << "past m comes last";
  EXPECT_EQ(violation({40, 2}, kCumsum), "(cumsum) must not decrease; got 2 after 40 at index 1");
  EXPECT_EQ(violation({9, 3, -1}, kCumsum), "(cumsum) must not decrease; got 3 after 9 at index 1");
  EXPECT_EQ(violation({kMin}, kCounts), "must not be negative; got -9223372036854775808 at index 0");
}

TEST(Groups, HugeCounts) {
  const std::string more = "(counts) must sum to at most 32 (m); got more than 9223372036854775807";
  EXPECT_EQ(Decode({kMax, 1}, kCounts, 32).violation, more);
  EXPECT_EQ(Decode({kMax, kMax, kMax, 0}, kCounts, 32).violation, more);
  EXPECT_EQ(Text(Decode({kMax, kMax}, kCounts, 32).rows), "0:0-32 ");
  EXPECT_EQ(RowsOf({kMax - 1, 1}, kCounts, kMax), "0:0-" + std::to_string(kMax - 1) + " 1:" +
                                                      std::to_string(kMax - 1) + "-" + std::to_string(kMax) + " ");
  EXPECT_EQ(Decode({kMax, 1}, kCounts, kMax).violation,
            "(counts) must sum to at most 9223372036854775807 (m); got more than 9223372036854775807");
}

/// The loop of docs/operators.md, section 1.3, word for word.
std::vector<RowRange> AsWritten(const std::vector<int64_t>& list, bool cumsum, int64_t m) {
  std::vector<RowRange> rows;
  int64_t start = 0;
  for (size_t i = 0; i < list.size(); ++i) {
    const int64_t end = cumsum ? std::min(std::max(list[i], start), m)
                               : start + std::min(std::max(list[i], int64_t{0}), m - start);
    if (end > start) rows.push_back({static_cast<int64_t>(i), start, end});
    start = end;
  }
  return rows;
}

TEST(Groups, AnyListBecomesTheRowsOfTheLoop) {
  std::mt19937_64 random(11);
  const int64_t special[] = {kMin, -1, 0, 1, 7, kMax - 1, kMax};
  for (int round = 0; round < 2000; ++round) {
    std::vector<int64_t> list(1 + random() % 12);
    for (int64_t& value : list) {
      value = random() % 4 == 0 ? special[random() % 7] : static_cast<int64_t>(random() % 12) - 2;
    }
    const int64_t m = static_cast<int64_t>(random() % 20);
    for (int64_t type : {kCumsum, kCounts}) {
      const DecodedGroups groups = Decode(list, type, m);
      ASSERT_EQ(Text(groups.rows), Text(AsWritten(list, type == kCumsum, m))) << "seed 11, round " << round;
      if (groups.violation.empty()) {
        EXPECT_FALSE(groups.only_past_m);
      }
    }
  }
}

// ---- src/check_groups.cc

TEST(CheckGroups, Type) {
  EXPECT_EQ(A([](C& c) { c.group_list_type = 2; }), "group_list_type must be 0 (cumsum) or 1 (counts); got 2");
  EXPECT_EQ(B([](D& c) { c.group_list_type = -1; }), "group_list_type must be 0 (cumsum) or 1 (counts); got -1");
}

TEST(CheckGroups, Form) {
  EXPECT_EQ(A([](C& c) { c.group_list = Expanded(kF32, {8}); }), "group_list must be int64 or int32; got float32");
  EXPECT_EQ(B([](D& c) { c.group_list = Expanded(DType::kInt16, {8}); }),
            "group_list must be int64 or int32; got int16");
  EXPECT_EQ(A([](C& c) { c.group_list = Expanded(kI64, {8, 2}); }), "group_list must have one dimension; got [8, 2]");
  EXPECT_EQ(A([](C& c) { c.group_list = Expanded(kI64, {}); }), "group_list must have one dimension; got []");
  EXPECT_EQ(A([](C& c) { c.group_list = Expanded(kI64, {9}); }), "group_list must have 1 to 8 (e) entries; got 9");
  EXPECT_EQ(B([](D& c) { c.group_list = Expanded(kI64, {0}); }), "group_list must have 1 to 8 (e) entries; got 0");
}

TEST(CheckGroups, Values) {
  const auto refusal = [](const std::vector<int64_t>& values, int64_t type) {
    return A([&](C& c) {
      c.group_list = Ends(values.data(), static_cast<int64_t>(values.size()));
      c.group_list_type = type;
    });
  };
  EXPECT_EQ(refusal({1, 2, -3}, kCumsum), "group_list must not be negative; got -3 at index 2");
  EXPECT_EQ(refusal({1, 2, 3, 15, 10}, kCumsum), "group_list (cumsum) must not decrease; got 10 after 15 at index 4");
  EXPECT_EQ(refusal({30, 3}, kCounts), "group_list (counts) must sum to at most 32 (m); got 33");
  EXPECT_EQ(refusal({30, 33}, kCumsum), "group_list (cumsum) must end at or below 32 (m); got 33");
  EXPECT_EQ(refusal({kMax, 2}, kCounts),
            "group_list (counts) must sum to at most 32 (m); got more than 9223372036854775807");
}

TEST(CheckGroups, ShorterThanExperts) {
  const int64_t ends[] = {5, 9};
  C call;
  call.weight = call.w;
  call.weight_scale = call.ws;
  call.group_list = Ends(ends, 2);
  EXPECT_EQ(Text(Checked(static_cast<const SwigluQuantArgs&>(call)).rows), "0:0-5 1:5-9 ");
}

/// The vendor's own v2 example: counts that sum to 33 for 32 rows.
TEST(CheckGroups, VendorNamesClamp) {
  const int64_t counts[] = {1, 3, 3, 4, 5, 6, 7, 4};
  D call;
  call.weight = call.w;
  call.group_list = Ends(counts, 8);
  call.group_list_type = kCounts;
  EXPECT_EQ(call.Refusal(),
            "[weight_quant_grouped_matmul] group_list (counts) must sum to at most 32 (m); got 33");
  call.spelling = Spelling::kVendorWeightQuantGmmV2;
  const Problem p = Checked(static_cast<const WeightQuantArgs&>(call));
  EXPECT_EQ(Text(p.rows), "0:0-1 1:1-4 2:4-7 3:7-11 4:11-16 5:16-22 6:22-29 7:29-32 ");
  EXPECT_EQ(p.warning,
            "[npu_weight_quant_gmm_v2] group_list (counts) must sum to at most 32 (m); got 33; clamped, as the NPU "
            "computes the rows that exist");
}

TEST(CheckGroups, VendorNamesClampNothingElse) {
  const int64_t negative[] = {-1, 40};
  C call;
  call.group_list = Ends(negative, 2);
  call.spelling = Spelling::kVendorSwigluQuantV2;
  EXPECT_EQ(call.Refusal(), "[npu_grouped_matmul_swiglu_quant_v2] group_list must not be negative; got -1 at index 0");
}

}  // namespace
}  // namespace qgmm
