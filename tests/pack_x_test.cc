// SPDX-License-Identifier: Apache-2.0
// Packing of x for every row of the kernel table: any strides, every dtype, and the sums that go with it.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cpu/kernel.h"
#include "cpu/plan.h"
#include "numeric.h"
#include "views.h"

namespace qgmm::cpu {
namespace {

class PackX : public testing::TestWithParam<const Kernel*> {
 protected:
  void SetUp() override {
    if (kernel().isa > ChosenIsa(-1)) GTEST_SKIP() << "not run: " << kernel().name << " needs " << Name(kernel().isa);
  }
  const Kernel& kernel() const { return *GetParam(); }
};
class PackXSums : public PackX {};   // sums of slices
class PackXBytes : public PackX {};  // x stays as it is
class PackXFloat : public PackX {};  // 16-bit and fp32 x

std::vector<const Kernel*> Rows(std::initializer_list<Product> products) {
  std::vector<const Kernel*> rows;
  for (const Kernel* kernel : KernelTable()) {
    for (Product product : products) {
      if (kernel->product == product) rows.push_back(kernel);
    }
  }
  return rows;
}
std::vector<const Kernel*> RowsWithSums() {
  std::vector<const Kernel*> rows = Rows({Product::kInt4});
  std::erase_if(rows, [](const Kernel* kernel) { return !kernel->row_sums && kernel->x_tile_k; });
  return rows;
}
std::vector<const Kernel*> RowsOfBytes() {
  std::vector<const Kernel*> rows = Rows({Product::kInt8, Product::kInt4});
  std::erase_if(rows, [](const Kernel* k) { return k->x_bytes != 1 || k->needs != Certificate::kNone; });
  return rows;
}
std::string KernelName(const testing::TestParamInfo<const Kernel*>& info) { return info.param->name; }
INSTANTIATE_TEST_SUITE_P(Kernels, PackX, testing::ValuesIn(Rows({Product::kInt8, Product::kInt4, Product::kFloat})),
                         KernelName);
INSTANTIATE_TEST_SUITE_P(Kernels, PackXSums, testing::ValuesIn(RowsWithSums()), KernelName);
INSTANTIATE_TEST_SUITE_P(Kernels, PackXBytes, testing::ValuesIn(RowsOfBytes()), KernelName);
INSTANTIATE_TEST_SUITE_P(Kernels, PackXFloat, testing::ValuesIn(Rows({Product::kFloat})), KernelName);

/// x with any strides packs to the bytes of the same x with the plain ones, and leaves the same sums.
TEST_P(PackX, AnyStrides) {
  const int rows = 3, k = 45, slices = 9;
  const DType dtype = kernel().product == Product::kFloat ? DType::kFloat32 : DType::kInt8;
  const int64_t packed_stride = PackedStride(k, kernel());
  const auto pack = [&](const Owned& x, std::vector<int32_t>* row_sums, std::vector<float>* x_sums) {
    const int padded_rows = (rows + kernel().row_step - 1) / kernel().row_step * kernel().row_step;
    std::vector<uint8_t> packed(static_cast<size_t>(padded_rows * packed_stride * kernel().x_bytes), 0x55);
    row_sums->assign(rows * slices, -1);
    x_sums->assign(rows, -1.0f);
    kernel().pack_x({x.view().data, dtype, x.view().strides[0], x.view().strides[1], rows, k, PaddedK(k), packed_stride,
                     k / slices, packed.data(), kernel().row_sums ? row_sums->data() : nullptr,
                     kernel().product == Product::kFloat ? x_sums->data() : nullptr});
    return packed;
  };
  std::mt19937 random(3);
  std::vector<uint8_t> values(rows * k * 4);
  for (uint8_t& v : values) v = static_cast<uint8_t>(random() & 0x3F);  // as fp32: positive, finite, below 1
  const auto fill = [&](Owned x) {
    for (int64_t i = 0; i < rows * k; ++i)
      std::memcpy(x.At(i), values.data() + 4 * i, static_cast<size_t>(Bytes(dtype)));
    return x;
  };
  std::vector<int32_t> row_sums, same_row_sums;
  std::vector<float> x_sums, same_x_sums;
  const Owned plain = fill(Owned(dtype, {rows, k}));
  const std::vector<uint8_t> expected = pack(plain, &row_sums, &x_sums);
  for (int i = 0; i < rows; ++i) {
    double sum = 0;
    for (int64_t kk = 0; kk < k; ++kk) sum += static_cast<double>(Load(plain.At(i * k + kk), dtype, 0));
    if (kernel().product == Product::kFloat) {
      EXPECT_EQ(x_sums[static_cast<size_t>(i)], static_cast<float>(sum)) << i;
    }
  }
  for (const std::vector<int64_t>& strides : {std::vector<int64_t>{1, 3}, {-50, 1}, {100, 2}, {k, -1}, {-1, -7}}) {
    for (const Edge edge : {Edge::kFront, Edge::kBack}) {
      EXPECT_EQ(pack(fill(Owned(dtype, {rows, k}, strides, edge)), &same_row_sums, &same_x_sums), expected)
          << strides[0];
      EXPECT_EQ(same_row_sums, row_sums);
      EXPECT_EQ(same_x_sums, x_sums);
    }
  }
}

/// Packed in two parts, as with the row of eights: each element is where PackedAt says, zeros stand behind k.
TEST_P(PackXBytes, RowsAndTiles) {
  const int rows = 37, padded_rows = (rows + kernel().row_step - 1) / kernel().row_step * kernel().row_step;
  for (const int k : {1, 63, 64, 130}) {
    const int64_t stride = PackedStride(k, kernel());
    std::vector<int8_t> x(static_cast<size_t>(rows * k)), packed(static_cast<size_t>(padded_rows * stride), 0x55);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<int8_t>(i * 37 + i / 256);
    std::vector<int32_t> sums(rows);
    PackXArgs args = {x.data(), DType::kInt8, k, 1, 1, k, PaddedK(k), stride, k, packed.data(),
                      kernel().row_sums ? sums.data() : nullptr, nullptr};
    kernel().pack_x(args);
    args.x = x.data() + k;
    args.rows = rows - 1;
    args.packed = packed.data() + PackedAt(kernel(), stride, 1, 0);
    args.first_row = 1;
    kernel().pack_x(args);
    for (int i = 0; i < rows; ++i) {
      for (int64_t kk = 0; kk < PaddedK(k); ++kk) {
        const int expected = kk < k ? x[static_cast<size_t>(i * k + kk)] : 0;
        ASSERT_EQ(packed[static_cast<size_t>(PackedAt(kernel(), stride, i, kk))], expected) << i << ", k " << kk;
      }
    }
  }
}

TEST_P(PackXSums, OneSumPerRowAndSlice) {
  for (const int slices : {1, 2, 6, 66}) {
    const int rows = 2, k = 66, slice = k / slices;
    std::vector<int8_t> x(rows * k);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<int8_t>(i % 5 ? i * 37 : -128);
    std::vector<int8_t> packed(static_cast<size_t>(rows * PackedStride(k, kernel())));
    std::vector<int32_t> sums(static_cast<size_t>(rows * slices), -1);
    kernel().pack_x({x.data(), DType::kInt8, k, 1, rows, k, PaddedK(k), PackedStride(k, kernel()), slice, packed.data(),
                     sums.data(), nullptr});
    for (int i = 0; i < rows; ++i) {
      for (int s = 0; s < slices; ++s) {
        int32_t expected = 0;
        for (int kk = s * slice; kk < (s + 1) * slice; ++kk) expected += x[static_cast<size_t>(i * k + kk)];
        EXPECT_EQ(sums[static_cast<size_t>(i * slices + s)], expected)
            << "row " << i << ", slice " << s << " of " << slices;
      }
    }
  }
}

/// All 2^16 patterns of both 16-bit dtypes, and fp32, become the fp32 of Load; k behind x's becomes zeros.
TEST_P(PackXFloat, EveryValue) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat32}) {
    const int64_t k = (1 << 16) + 5;
    std::vector<uint8_t> x(static_cast<size_t>(k * Bytes(dtype)));
    for (int64_t i = 0; i < k; ++i) {
      const uint32_t bits = static_cast<uint32_t>(dtype == DType::kFloat32 ? i * 65521 : i);
      std::memcpy(x.data() + i * Bytes(dtype), &bits, static_cast<size_t>(Bytes(dtype)));
    }
    std::vector<float> packed(static_cast<size_t>(PackedStride(k, kernel())), -7.0f);
    kernel().pack_x(
        {x.data(), dtype, k, 1, 1, k, PaddedK(k), PackedStride(k, kernel()), k, packed.data(), nullptr, nullptr});
    for (int64_t i = 0; i < PaddedK(k); ++i) {
      const float expected = i < k ? Load(x.data(), dtype, i) : 0.0f, got = packed[static_cast<size_t>(i)];
      if (expected != expected) {
        ASSERT_NE(got, got) << Name(dtype) << " element " << i;
      } else {
        ASSERT_EQ(Bits(got), Bits(expected)) << Name(dtype) << " element " << i;
      }
    }
  }
}

}  // namespace
}  // namespace qgmm::cpu
