// SPDX-License-Identifier: Apache-2.0
// src/check_fractal_nz.cc: sizes of the NPU's storage, and the two tensors of an import or export.
#include <gtest/gtest.h>

#include <limits>

#include "calls.h"
#include "check.h"

namespace qgmm {
namespace {

constexpr DType kInt4 = DType::kInt4, kU8 = DType::kUInt8;
constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();

/// int8 weights [3, 20, 40]: 2 blocks of 32 columns, 2 of 16 rows.
FractalNzArgs Good() {
  FractalNzArgs args;
  args.storage = Untouchable(kI8, {3, 2, 2, 16, 32});
  args.plain = Untouchable(kI8, {3, 20, 40});
  args.k = 20;
  args.n = 40;
  return args;
}

template <class Change>
std::string Refused(Change change, bool to_nz = false) {
  FractalNzArgs args = Good();
  change(args);
  return RefusalOf([&] { CheckFractalNz(args, to_nz); });
}
std::string From(const std::string& sentence) { return "[from_fractal_nz] " + sentence; }

using F = FractalNzArgs;

TEST(CheckFractalNz, ValidCallsPass) {
  EXPECT_EQ(Refused([](F&) {}), "accepted");
  EXPECT_EQ(Refused([](F&) {}, true), "accepted");
  EXPECT_EQ(Refused([](F& f) {
              f.dtype = kInt4;
              f.storage = Untouchable(kI32, {3, 1, 2, 16, 8});
              f.plain = Untouchable(kI32, {3, 20, 5});
            }),
            "accepted");
  EXPECT_EQ(Refused([](F& f) {
              f.transposed = true;
              f.storage = Untouchable(kI8, {3, 1, 3, 16, 32});
            }),
            "accepted");
  EXPECT_EQ(Refused([](F& f) {
              f.storage = Untouchable(kI8, {2, 2, 16, 32});
              f.plain = Untouchable(kI8, {20, 40});
            }),
            "accepted");
  EXPECT_EQ(Refused([](F& f) {
              f.c0 = 16;
              f.storage = Untouchable(kI8, {3 * 3 * 2 * 16 * 16});
            }),
            "accepted");
}

TEST(CheckFractalNz, Sizes) {
  EXPECT_EQ(Refused([](F& f) { f.dtype = DType::kFloat64; }),
            From("dtype must be int4 or a dtype of 1, 2 or 4 bytes; got float64"));
  EXPECT_EQ(Refused([](F& f) { f.dtype = DType::kOther; }),
            From("dtype must be int4 or a dtype of 1, 2 or 4 bytes; got an unsupported dtype"));
  EXPECT_EQ(Refused([](F& f) { f.k = 0; }), From("k must be at least 1; got 0"));
  EXPECT_EQ(Refused([](F& f) { f.n = -4; }, true), "[to_fractal_nz] n must be at least 1; got -4");
  const std::string huge = "k and n must be below 2^40, and k * n below 2^56; got k ";
  EXPECT_EQ(Refused([](F& f) { f.k = kHuge; }), From(huge + "9223372036854775807 and n 40"));
  EXPECT_EQ(Refused([](F& f) { f.n = int64_t{1} << 40; }), From(huge + "20 and n 1099511627776"));
  EXPECT_EQ(Refused([](F& f) { f.k = f.n = int64_t{1} << 28; }), From(huge + "268435456 and n 268435456"));
  EXPECT_EQ(Refused([](F& f) {
              f.dtype = kInt4;
              f.n = 12;
            }),
            From("n must be a multiple of 8 for packed int4; got 12"));
  EXPECT_EQ(Refused([](F& f) { f.c0 = -1; }), From("c0 must be 0 (the usual width) to 65535; got -1"));
  EXPECT_EQ(Refused([](F& f) { f.c0 = kHuge; }),
            From("c0 must be 0 (the usual width) to 65535; got 9223372036854775807"));
  EXPECT_EQ(Refused([](F& f) {
              f.dtype = kInt4;
              f.c0 = 12;
            }),
            From("c0 must be a multiple of 8 for int4; got 12"));
  EXPECT_EQ(RefusalOf([] { CheckFractalNzSizes(FractalNzArgs()); }), "[FractalNzSize] k must be at least 1; got 0");
}

TEST(CheckFractalNz, SizesAtTheLimits) {
  const auto sizes = [](int64_t k, int64_t n, int64_t c0) {
    F args;
    args.k = k;
    args.n = n;
    args.c0 = c0;
    return RefusalOf([&] { CheckFractalNzSizes(args); });
  };
  constexpr int64_t kSide = (int64_t{1} << 40) - 1;
  EXPECT_EQ(sizes(1, 1, 65535), "accepted");
  EXPECT_EQ(sizes(kSide, 1, 0), "accepted");
  EXPECT_EQ(sizes(1, kSide, 65535), "accepted");
  EXPECT_EQ(sizes((int64_t{1} << 28) - 1, int64_t{1} << 28, 65535), "accepted");
  EXPECT_NE(sizes(kSide + 1, 1, 0), "accepted");
  EXPECT_NE(sizes(1, 1, 65536), "accepted");
  F largest;
  largest.k = kSide;
  largest.n = 65535;
  largest.c0 = 65535;
  EXPECT_EQ(FractalNzSize(largest), (int64_t{1} << 40) * 65535);
}

TEST(CheckFractalNz, StagesInOrder) {
  EXPECT_EQ(Refused([](F& f) {
              f.storage.rank = 9;
              f.plain.dtype = kF16;
            }),
            From("weight must be int8; got float16"));
  EXPECT_EQ(Refused([](F& f) {
              f.plain = Untouchable(kI8, {20});
              f.storage.dtype = kF16;
            }),
            From("data must be int8; got float16"));
  EXPECT_EQ(Refused([](F& f) {
              f.plain = Untouchable(kI8, {20});
              f.storage = On(f.storage, DeviceType::kCuda);
            }),
            From("weight must be [e, k, n] or [k, n]; got [20]"));
  EXPECT_EQ(Refused([](F& f) { f.storage = Untouchable(kI8, {3, 2, 1, 2, 1, 16, 16, 2}); }), "accepted") << "rank 8";
}

TEST(CheckFractalNz, Tensors) {
  EXPECT_EQ(Refused([](F& f) { f.storage = TensorView(); }), From("data must be a tensor; got None"));
  EXPECT_EQ(Refused([](F& f) { f.plain = TensorView(); }, true), "[to_fractal_nz] weight must be a tensor; got None");
  EXPECT_EQ(Refused([](F& f) { f.storage.dtype = kF16; }), From("data must be int8; got float16"));
  EXPECT_EQ(Refused([](F& f) { f.plain.dtype = kF16; }, true), "[to_fractal_nz] weight must be int8; got float16");
  EXPECT_EQ(Refused([](F& f) {
              f.dtype = kInt4;
              f.storage.dtype = kF32;
            }),
            From("data must be int8, uint8 or int32 (holding int4); got float32"));
  EXPECT_EQ(Refused([](F& f) {
              f.dtype = kInt4;
              f.storage.dtype = kU8;
            }),
            From("weight must be int32 (holding int4); got int8"));
  EXPECT_EQ(Refused([](F& f) { f.storage = On(f.storage, DeviceType::kCuda); }),
            From("data must be on cpu; got cuda:0 (this build has no CUDA)"));
  EXPECT_EQ(Refused([](F& f) { f.storage = On(f.storage, DeviceType::kCuda); }, true),
            "[to_fractal_nz] data must be on cpu like weight; got cuda:0");
  EXPECT_EQ(Refused([](F& f) { f.plain.data = nullptr; }),
            From("weight must have memory behind its elements; got a null pointer"));
}

TEST(CheckFractalNz, Shapes) {
  EXPECT_EQ(Refused([](F& f) { f.plain = Untouchable(kI8, {20}); }),
            From("weight must be [e, k, n] or [k, n]; got [20]"));
  EXPECT_EQ(Refused([](F& f) { f.storage.rank = 9; }),
            From("data must have at most 8 dimensions; got [3, 2, 2, 16, 32, 0, 0, 0, ...]"));
  EXPECT_EQ(Refused([](F& f) { f.plain = Untouchable(kI8, {3, 40, 20}); }),
            From("weight must be [e, 20, 40]; got [3, 40, 20]"));
  EXPECT_EQ(Refused([](F& f) { f.plain = Untouchable(kI8, {3, 21, 40}); }),
            From("weight must be [e, 20, 40]; got [3, 21, 40]"));
  EXPECT_EQ(Refused([](F& f) { f.plain = Untouchable(kI8, {3, 20, 41}); }),
            From("weight must be [e, 20, 40]; got [3, 20, 41]"));
  const std::string rule = "data must hold e * 2048 elements for e [20, 40] weights; got ";
  EXPECT_EQ(Refused([](F& f) { f.storage = Untouchable(kI8, {2, 2, 2, 16, 32}); }),
            From(rule + "int8 [2, 2, 2, 16, 32] for e 3"));
  EXPECT_EQ(Refused([](F& f) {
              f.storage = Untouchable(kI8, {100});
              f.plain = Untouchable(kI8, {0, 20, 40});
            }),
            From(rule + "int8 [100] for e 0"));
  EXPECT_EQ(Refused([](F& f) {
              f.storage = Expanded(kI8, {kHuge, kHuge});
              f.plain = Expanded(kI8, {kHuge, 20, 40});
            }),
            From(rule + "int8 [9223372036854775807, 9223372036854775807] for e 9223372036854775807"));
  EXPECT_EQ(Refused([](F& f) {
              f.dtype = kInt4;
              f.storage = Untouchable(kI32, {3, 1, 2, 16, 7});
              f.plain = Untouchable(kI32, {3, 20, 5});
            }),
            From("data must hold e * 1024 bytes of int4 for e [20, 40] weights; got int32 [3, 1, 2, 16, 7] for e 3"));
}

TEST(CheckFractalNz, StridesMustBeContiguous) {
  EXPECT_EQ(Refused([](F& f) { f.storage.strides[3] = 64; }),
            From("data must be contiguous; got [3, 2, 2, 16, 32] with strides [2048, 1024, 512, 64, 1]"));
  EXPECT_EQ(Refused([](F& f) { f.plain.strides[1] = 41; }),
            From("weight must be contiguous; got [3, 20, 40] with strides [800, 41, 1]"));
}

}  // namespace
}  // namespace qgmm
