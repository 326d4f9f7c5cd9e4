// SPDX-License-Identifier: Apache-2.0
// src/check_pack.cc: pack_weight, and bytes that claim to be packed weights.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "calls.h"
#include "check.h"
#include "packed_format.h"

namespace qgmm {
namespace {

constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();

std::string PackRefusal(const TensorList& weight, bool swiglu) {
  return RefusalOf([&] { Checked(PackArgs{weight, swiglu}); });
}
std::string PackRefusal(const TensorView& weight, bool swiglu = false) {
  return PackRefusal(TensorList(weight), swiglu);
}

TEST(CheckPack, Forms) {
  const std::vector<TensorView> matrices(8, Expanded(kI8, {7168, 4096}));
  EXPECT_EQ(PackRefusal(Expanded(kI8, {8, 7168, 4095})), "accepted");
  EXPECT_EQ(PackRefusal(TensorList(matrices.data(), 8), true), "accepted");
  EXPECT_EQ(PackRefusal(TensorView()), "[pack_weight] weight must be a tensor; got None");
  EXPECT_EQ(PackRefusal(TensorList(nullptr, 0), false),
            "[pack_weight] weight must be one [e, k, n] tensor or e [k, n] tensors; got an empty list");
  EXPECT_EQ(PackRefusal(Expanded(kF32, {8, 7168, 4096})),
            "[pack_weight] weight must be int8 [e, k, n] or int32 [e, k, n/8] (packed int4); got float32");
  EXPECT_EQ(PackRefusal(Expanded(kI8, {7168, 4096})),
            "[pack_weight] weight must have 3 dimensions; got [7168, 4096]");
  EXPECT_EQ(PackRefusal(On(Expanded(kI8, {8, 16, 16}), DeviceType::kCuda, 2)),
            "[pack_weight] weight must be on cpu; got cuda:2 (this build has no CUDA)");
  EXPECT_EQ(PackRefusal(View(nullptr, kI8, {8, 16, 16})),
            "[pack_weight] weight must have memory behind its elements; got a null pointer");
}

TEST(CheckPack, Certification) {
  const auto refusal = [](const TensorView& weight, Certification certify, double share) {
    return RefusalOf([&] { Checked(PackArgs{weight, false, certify, share}); });
  };
  const TensorView int8 = Expanded(kI8, {2, 16, 16});
  EXPECT_EQ(refusal(int8, Certification::kYes, 1), "accepted");
  EXPECT_EQ(refusal(Expanded(kI32, {2, 16, 2}), Certification::kAuto, 0.5), "accepted");
  EXPECT_EQ(refusal(Expanded(kI32, {2, 16, 2}), Certification::kYes, 1),
            "[pack_weight] certify must not be True for int4 weights: no kernel of theirs needs certificates");
  EXPECT_EQ(refusal(Expanded(kI8, {2, 131072, 16}), Certification::kYes, 1),
            "[pack_weight] certify must not be True for k above 131071; got k 131072");
  for (const double share : {0.0, -1.0, 1.5, std::nan("")}) {
    EXPECT_EQ(refusal(int8, Certification::kNo, share),
              "[pack_weight] max_residuals must be above 0 and at most 1; got " + std::to_string(share));
  }
}

TEST(CheckPack, CertifyOfPackedWeights) {
  Packed int4(Layout::kCpuInt4, 2, 4, 16), int8(Layout::kCpuInt8, 2, 4, 16);
  const auto refusal = [](const PackedWeight& weight, Certification certify, double share = 1) {
    return RefusalOf([&] { CheckCertify(weight, certify, share); });
  };
  EXPECT_EQ(refusal(int8.view, Certification::kYes), "accepted");
  EXPECT_EQ(refusal(int4.view, Certification::kAuto), "accepted");
  EXPECT_EQ(refusal(int4.view, Certification::kYes),
            "[PackedWeight] certify must not be True for int4 weights: no kernel of theirs needs certificates");
  EXPECT_EQ(refusal(int8.view, Certification::kYes, 2),
            "[PackedWeight] max_residuals must be above 0 and at most 1; got 2.000000");
  int8.bytes[0] ^= 1;
  EXPECT_EQ(refusal(int8.view, Certification::kNo),
            "[PackedWeight] data must start with the header that pack_weight writes; got other bytes");
}

TEST(CheckPack, Sizes) {
  EXPECT_EQ(PackRefusal(Expanded(kI8, {8, 16, 15}), true), "[pack_weight] n must be even; got 15");
  EXPECT_EQ(PackRefusal(Expanded(kI8, {8, 0, 16})), "[pack_weight] k must be at least 1; got 0");
  EXPECT_EQ(PackRefusal(Expanded(kI8, {8, 131072, 16}), true),
            "[pack_weight] k must be at most 131071 (int32 sums); got 131072");
  EXPECT_EQ(PackRefusal(Expanded(kI32, {8, 131072, 16})),
            "[pack_weight] k must be at most 131071 (int32 sums); got 131072");
  EXPECT_EQ(PackRefusal(Expanded(kI8, {8, 131072, 16})), "accepted") << "operator B has no upper limit";
  EXPECT_EQ(PackRefusal(Expanded(kI8, {8, 1, 16})), "accepted");
  EXPECT_EQ(PackRefusal(Expanded(kI32, {8, 131071, 16})), "accepted");
  EXPECT_EQ(PackRefusal(Expanded(kI8, {8, 16, kHuge})),
            "[pack_weight] k and n must be at most 1099511627776 to be packed; got k 16 and n 9223372036854775807");
  EXPECT_EQ(PackRefusal(Expanded(kI8, {8, (int64_t{1} << 40) + 1, 1})),
            "[pack_weight] k and n must be at most 1099511627776 to be packed; got k 1099511627777 and n 1");
  EXPECT_EQ(PackRefusal(Expanded(kI8, {8, 1024, int64_t{1} << 40})),
            "[pack_weight] k * (n + 32) must be at most 1125899906842624 to be packed; got k 1024 and n "
            "1099511627776");
  EXPECT_EQ(PackRefusal(Expanded(kI8, {0, 16, 16})), "[pack_weight] e must be at least 1; got 0");
}

/// Whatever passes has a size that fits int64, and a header that ReadHeader takes.
TEST(CheckPack, LargestSizesFitTheHeader) {
  constexpr int64_t kSide = int64_t{1} << 40;
  for (const auto& [k, n] : {std::pair<int64_t, int64_t>{kSide, 992}, {1024, kSide - 32}, {1023, kSide}}) {
    ASSERT_EQ(PackRefusal(Expanded(kI8, {1024, k, n})), "accepted");
    PackedHeader header = MakeHeader(Layout::kCpuInt8, 1024, k, n);
    PackedWeight weight;
    EXPECT_EQ(ReadHeader(reinterpret_cast<const uint8_t*>(&header), header.bytes, &weight), "");
    EXPECT_EQ(weight.n, n);
    EXPECT_GT(header.bytes, 0);
  }
}

TEST(CheckPack, FromBytes) {
  Packed packed(Layout::kCpuInt4, 2, 4, 16);
  const PackedWeight weight = FromBytes(packed.bytes.data(), packed.view.bytes);
  EXPECT_EQ(weight.k, 4);
  EXPECT_EQ(weight.dtype(), DType::kInt4);
  EXPECT_EQ(RefusalOf([&] { FromBytes(packed.bytes.data(), 10); }),
            "[PackedWeight] data must be at least 64 bytes long; got 10");
  packed.bytes[0] ^= 1;
  EXPECT_EQ(RefusalOf([&] { FromBytes(packed.bytes.data(), packed.view.bytes); }).substr(0, 25),
            "[PackedWeight] data must ");
}

}  // namespace
}  // namespace qgmm
