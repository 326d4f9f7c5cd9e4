// SPDX-License-Identifier: Apache-2.0
// The header of packed bytes: damaged ones are refused.
#include "packed_format.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "cpu/backend.h"

namespace qgmm::cpu {
namespace {

std::string RefusalOf(const uint8_t* data, int64_t bytes) {
  try {
    FromBytes(data, bytes);
  } catch (const InvalidArgument& refusal) {
    return refusal.what();
  }
  return "accepted";
}

TEST(FromBytes, DamagedHeadersAreRefused) {
  const std::vector<int8_t> plain(2 * 9 * 34, 7);
  Weights weights;
  weights.e = 2, weights.k = 9, weights.n = 34, weights.paired = true;
  weights.plain = {plain.data(), 34, 1};
  weights.expert_stride = 9 * 34;
  std::vector<uint8_t> good(static_cast<size_t>(PackedBytes(weights, 0)));
  Context context;
  Pack(weights, 0, good.data(), context);
  const int64_t size = static_cast<int64_t>(good.size());
  const auto damaged = [&](const std::function<void(PackedHeader&)>& damage) {
    std::vector<uint8_t> bytes = good;
    PackedHeader header;
    std::memcpy(&header, bytes.data(), sizeof(header));
    damage(header);
    std::memcpy(bytes.data(), &header, sizeof(header));
    return RefusalOf(bytes.data(), size);
  };
  const std::string who = "[PackedWeight] data must ";
  EXPECT_EQ(damaged([](PackedHeader&) {}), "accepted");
  EXPECT_EQ(RefusalOf(nullptr, 0), who + "be at least 64 bytes long; got 0");
  EXPECT_EQ(RefusalOf(good.data(), 63), who + "be at least 64 bytes long; got 63");
  EXPECT_EQ(RefusalOf(good.data(), size - 1),
            who + "be " + std::to_string(size) + " bytes long by its header; got " + std::to_string(size - 1));
  EXPECT_EQ(damaged([](PackedHeader& h) { h.magic[7] = 'K'; }),
            who + "start with the header that pack_weight writes; got other bytes");
  EXPECT_EQ(damaged([](PackedHeader& h) { h.version = 1; }), who + "have format version 2; got 1");
  for (const int layout : {0, 5, -1}) {
    EXPECT_EQ(damaged([&](PackedHeader& h) { h.layout = layout; }),
              who + "have a CPU layout, 1 to 4; got " + std::to_string(layout));
  }
  const std::string sizes = who + "have sensible sizes; got ";
  EXPECT_EQ(damaged([](PackedHeader& h) { h.e = 0; }), sizes + "e 0, k 9, n 34");
  EXPECT_EQ(damaged([](PackedHeader& h) { h.e = 1025; }), sizes + "e 1025, k 9, n 34");
  EXPECT_EQ(damaged([](PackedHeader& h) { h.k = 0; }), sizes + "e 2, k 0, n 34");
  EXPECT_EQ(damaged([](PackedHeader& h) { h.n = -34; }), sizes + "e 2, k 9, n -34");
  EXPECT_EQ(damaged([](PackedHeader& h) { h.n = 33; }), sizes + "e 2, k 9, n 33") << "gate and up halves";
  EXPECT_EQ(damaged([](PackedHeader& h) { h.layout = 3; }), sizes + "e 2, k 9, n 34") << "int4 comes in eights";
  EXPECT_EQ(damaged([](PackedHeader& h) { h.k = INT64_MAX; }), sizes + "e 2, k 9223372036854775807, n 34");
  EXPECT_EQ(damaged([](PackedHeader& h) { h.k = h.n = int64_t{1} << 40; }),
            sizes + "e 2, k 1099511627776, n 1099511627776");
  for (int64_t PackedHeader::* size_field : {&PackedHeader::bytes, &PackedHeader::reserved}) {
    EXPECT_EQ(damaged([&](PackedHeader& h) { h.*size_field += 64; }), who + "have the size of its sizes; got others");
  }
  EXPECT_EQ(damaged([](PackedHeader& h) { h.k = 65; }), who + "have the size of its sizes; got others");
  EXPECT_EQ(damaged([](PackedHeader& h) { h.residual_capacity = 1; }), who + "have the size of its sizes; got others");
  for (const int64_t capacity : {int64_t{-1}, int64_t{64 * 16 + 1}, INT64_MAX}) {
    EXPECT_EQ(damaged([&](PackedHeader& h) { h.residual_capacity = capacity; }),
              who + "have residual lists that fit its panels; got a capacity of " + std::to_string(capacity));
  }
}

}  // namespace
}  // namespace qgmm::cpu
