// SPDX-License-Identifier: Apache-2.0
// FRACTAL_NZ against storage written block by block, as the format's table says; and through the operators' weights.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "kernel_case.h"
#include "qgmm/context.h"
#include "qgmm/packed_weight.h"
#include "qgmm/types.h"

namespace qgmm {
namespace {

struct Shape {
  int64_t e, k, n, c0;
  bool transposed;
};

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// The storage [e, ceil(outer / c0), ceil(inner / 16), 16, c0], walked place by place; `pad` where no element stands.
template <class T>
std::vector<T> Storage(const Shape& s, const std::vector<T>& plain, T pad) {
  std::vector<T> storage;
  const int64_t outer_size = s.transposed ? s.k : s.n, inner_size = s.transposed ? s.n : s.k;
  for (int64_t expert = 0; expert < s.e; ++expert) {
    for (int64_t outer_block = 0; outer_block < CeilDiv(outer_size, s.c0); ++outer_block) {
      for (int64_t inner_block = 0; inner_block < CeilDiv(inner_size, 16); ++inner_block) {
        for (int64_t row = 0; row < 16; ++row) {
          for (int64_t column = 0; column < s.c0; ++column) {
            const int64_t outer = outer_block * s.c0 + column, inner = inner_block * 16 + row;
            const int64_t kk = s.transposed ? outer : inner, j = s.transposed ? inner : outer;
            const bool real = kk < s.k && j < s.n;
            storage.push_back(real ? plain[static_cast<size_t>((expert * s.k + kk) * s.n + j)] : pad);
          }
        }
      }
    }
  }
  return storage;
}

template <class T>
std::vector<T> RandomPlain(const Shape& s, int low, int high) {
  std::mt19937 random(91);
  std::uniform_int_distribution<int> values(low, high);
  std::vector<T> plain(static_cast<size_t>(s.e * s.k * s.n));
  for (T& value : plain) value = static_cast<T>(values(random));
  return plain;
}

/// Nibbles, the even element low.
std::vector<uint8_t> Nibbles(const std::vector<int8_t>& values) {
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i < values.size(); i += 2) {
    bytes.push_back(static_cast<uint8_t>((values[i] & 15) | ((values[i + 1] & 15) << 4)));
  }
  return bytes;
}

FractalNzArgs Args(const Shape& s, DType dtype, bool name_c0) {
  FractalNzArgs args;
  args.dtype = dtype;
  args.k = s.k, args.n = s.n;
  args.c0 = name_c0 ? s.c0 : 0;
  args.transposed = s.transposed;
  return args;
}

/// On three threads, where that is worth while.
void Convert(void (*convert)(const FractalNzArgs&, Context&), const FractalNzArgs& args, Isa isa) {
  Context context;
  context.max_isa = static_cast<int>(isa);
  context.parallel_for = cpu::OnThreads;
  context.max_workers = 3;
  convert(args, context);
}
void ToNz(const FractalNzArgs& args) { Convert(ToFractalNz, args, cpu::BestIsa()); }

/// Memory that begins with a cache line, between bytes that nobody may touch.
class Fenced {
 public:
  explicit Fenced(size_t bytes) : bytes_(bytes), memory_(bytes + 128, kFence) {
    start_ = 64 - reinterpret_cast<uintptr_t>(memory_.data()) % 64;
  }
  void* data() { return memory_.data() + start_; }
  /// Whether `expected` is in it, and the fence whole.
  bool Holds(const void* expected) const {
    const auto fence = [](uint8_t b) { return b == kFence; };
    return std::memcmp(memory_.data() + start_, expected, bytes_) == 0 &&
           std::all_of(memory_.begin(), memory_.begin() + start_, fence) &&
           std::all_of(memory_.begin() + start_ + static_cast<int64_t>(bytes_), memory_.end(), fence);
  }

 private:
  static constexpr uint8_t kFence = 0xAB;
  const size_t bytes_;
  std::vector<uint8_t> memory_;
  int64_t start_;
};

/// From storage whose padding is poison, and back to storage whose padding is zero.
template <class T>
void CheckBothWays(const Shape& s, DType dtype, bool name_c0 = false) {
  SCOPED_TRACE(testing::Message() << Name(dtype) << " [" << s.e << ", " << s.k << ", " << s.n << "] by " << s.c0
                                  << (s.transposed ? ", transposed" : ""));
  const std::vector<T> plain = RandomPlain<T>(s, -128, 127);
  const std::vector<T> poisoned = Storage<T>(s, plain, 99), padded = Storage<T>(s, plain, 0);
  FractalNzArgs args = Args(s, dtype, name_c0);
  ASSERT_EQ(FractalNzSize(args) * s.e, static_cast<int64_t>(padded.size()));
  Fenced got(plain.size() * sizeof(T));
  args.storage = View(poisoned.data(), dtype, {static_cast<int64_t>(poisoned.size())});
  args.plain = View(got.data(), dtype, {s.e, s.k, s.n});
  for (const Isa isa : cpu::MachineIsas()) {
    std::memset(got.data(), 0x5A, plain.size() * sizeof(plain[0]));
    Convert(FromFractalNz, args, isa);
    EXPECT_TRUE(got.Holds(plain.data())) << Name(isa);
  }
  std::vector<T> back(padded.size(), 55);
  args.storage = View(back.data(), dtype, {s.e, static_cast<int64_t>(padded.size()) / s.e});
  ToNz(args);
  EXPECT_EQ(back, padded);
}

/// int4 through byte or int32 storage; plain is int32 [e, k, n / 8].
void CheckInt4(const Shape& s, DType storage_dtype, bool name_c0 = false) {
  SCOPED_TRACE(testing::Message() << "int4 in " << Name(storage_dtype) << " [" << s.e << ", " << s.k << ", " << s.n
                                  << "] by " << s.c0 << (s.transposed ? ", transposed" : ""));
  const std::vector<int8_t> values = RandomPlain<int8_t>(s, -8, 7);
  const std::vector<uint8_t> plain = Nibbles(values), poisoned = Nibbles(Storage<int8_t>(s, values, 5)),
                             padded = Nibbles(Storage<int8_t>(s, values, 0));
  FractalNzArgs args = Args(s, DType::kInt4, name_c0);
  ASSERT_EQ(FractalNzSize(args) * s.e, static_cast<int64_t>(padded.size()));  // bytes
  const int64_t elements = static_cast<int64_t>(padded.size()) / Bytes(storage_dtype);
  Fenced got(plain.size());
  args.storage = View(poisoned.data(), storage_dtype, {elements});
  args.plain = View(got.data(), DType::kInt32, {s.e, s.k, s.n / 8});
  for (const Isa isa : cpu::MachineIsas()) {
    std::memset(got.data(), 0x5A, plain.size() * sizeof(plain[0]));
    Convert(FromFractalNz, args, isa);
    EXPECT_TRUE(got.Holds(plain.data())) << Name(isa);
  }
  std::vector<uint8_t> back(padded.size(), 0xAB);
  args.storage = View(back.data(), storage_dtype, {elements});
  ToNz(args);
  EXPECT_EQ(back, padded);
}

TEST(FractalNz, NzInt8) {
  CheckBothWays<int8_t>({2, 32, 64, 32, false}, DType::kInt8);
  CheckBothWays<int8_t>({1, 256, 128, 32, false}, DType::kInt8);
}

TEST(FractalNz, NzInt4) {
  for (const DType storage : {DType::kInt8, DType::kUInt8, DType::kInt32}) CheckInt4({2, 32, 128, 64, false}, storage);
}

TEST(FractalNz, NzPadded) {
  for (const int64_t k : {1, 15, 17}) {
    for (const int64_t n : {1, 31, 33, 100}) CheckBothWays<int8_t>({3, k, n, 32, false}, DType::kInt8);
    for (const int64_t n : {8, 72}) CheckInt4({3, k, n, 64, false}, DType::kInt32);
  }
}

TEST(FractalNz, NzTransposed) {
  for (const int64_t k : {31, 32, 33, 64}) {
    for (const int64_t n : {8, 16, 40}) {
      CheckBothWays<int8_t>({2, k, n, 32, true}, DType::kInt8);
      CheckInt4({2, k, n, 64, true}, DType::kUInt8);
    }
  }
}

TEST(FractalNz, WiderDTypes) {
  for (const bool transposed : {false, true}) {
    const Shape s = {2, 18, 35, 16, transposed};
    CheckBothWays<int16_t>(s, DType::kFloat16);
    CheckBothWays<int16_t>(s, DType::kBFloat16);
    CheckBothWays<int32_t>(s, DType::kFloat32);
    CheckBothWays<int32_t>(s, DType::kInt32);
  }
}

TEST(FractalNz, LargeEnoughForThreads) {
  for (const bool transposed : {false, true}) {
    CheckBothWays<int8_t>({3, 601, 523, 32, transposed}, DType::kInt8);
    CheckInt4({3, 601, 1048, 64, transposed}, DType::kInt32);
    CheckBothWays<int16_t>({2, 700, 331, 16, transposed}, DType::kBFloat16);
  }
}

TEST(FractalNz, RowsOfWholeCacheLines) {
  for (const int64_t k : {1, 31, 64, 77, 600}) {
    for (const int64_t c0 : {8, 16, 32, 64}) {
      for (const bool transposed : {false, true}) {
        CheckBothWays<int8_t>({2, k, 192, c0, transposed}, DType::kInt8, true);
        CheckInt4({2, k, 384, c0, transposed}, DType::kInt32, true);
        if (!transposed) CheckBothWays<int16_t>({2, k, 96, c0 / 2, false}, DType::kFloat16, true);
      }
    }
    CheckBothWays<int32_t>({2, k, 64, 16, false}, DType::kFloat32);
    CheckInt4({2, k, 384, 40, true}, DType::kInt32, true);
    CheckBothWays<int8_t>({2, k, 128, 96, true}, DType::kInt8, true);  // more rows than a tile has
  }
}

TEST(FractalNz, LargerThanCaches) {  // of most machines: written around them
  CheckBothWays<int8_t>({1, 4224, 8192, 32, false}, DType::kInt8);
  CheckBothWays<int8_t>({1, 4224, 8192, 32, true}, DType::kInt8);
  CheckInt4({2, 4224, 8192, 64, true}, DType::kInt32);
}

TEST(FractalNz, NamedC0) {  // weights cast while they were fp32 and quantised afterwards keep blocks of 16 or 8
  CheckBothWays<int8_t>({2, 40, 40, 16, false}, DType::kInt8, true);
  CheckBothWays<int8_t>({2, 40, 40, 8, true}, DType::kInt8, true);
  CheckInt4({2, 40, 40, 16, false}, DType::kInt32, true);
  CheckInt4({2, 43, 40, 8, true}, DType::kInt32, true);
  CheckInt4({2, 43, 40, 40, true}, DType::kInt32, true);
}

TEST(FractalNz, KnownPlaces) {
  // int8 [1, 17, 33]: blocks of 16 x 32, two by two. (0, 0) first; (0, 32) opens the second column of blocks, 2 * 512
  // on; (16, 0) the second block, 512 on; (15, 31) closes the first; (16, 32) is the last block's first.
  std::vector<int8_t> plain(17 * 33, 0), storage(2048, 77);
  plain[0] = 1, plain[32] = 2, plain[16 * 33] = 3, plain[15 * 33 + 31] = 4, plain[16 * 33 + 32] = 5;
  FractalNzArgs args;
  args.k = 17, args.n = 33;
  args.plain = View(plain.data(), DType::kInt8, {17, 33});
  args.storage = View(storage.data(), DType::kInt8, {2, 2, 16, 32});
  ToNz(args);
  std::vector<int8_t> expected(2048, 0);
  expected[0] = 1, expected[1024] = 2, expected[512] = 3, expected[511] = 4, expected[1536] = 5;
  EXPECT_EQ(storage, expected);
}

TEST(FractalNz, Int4BytesAreInt8Bytes) {  // packing two int4 to a byte first and casting the bytes as int8: same memory
  const Shape s = {1, 32, 128, 64, false};
  std::vector<uint8_t> packed = Nibbles(RandomPlain<int8_t>(s, -8, 7)), as_int4(2048), as_int8(2048);
  FractalNzArgs args = Args(s, DType::kInt4, false);
  args.plain = View(packed.data(), DType::kInt32, {1, 32, 16});
  args.storage = View(as_int4.data(), DType::kUInt8, {2048});
  ToNz(args);
  args = Args({1, 32, 64, 32, false}, DType::kInt8, false);
  args.plain = View(packed.data(), DType::kInt8, {1, 32, 64});
  args.storage = View(as_int8.data(), DType::kInt8, {2048});
  ToNz(args);
  EXPECT_EQ(as_int4, as_int8);
}

TEST(FractalNz, RefusedSizesTouchNothing) {
  std::vector<int8_t> plain(16, 1), storage(511, 77);
  FractalNzArgs args;
  args.k = 4, args.n = 4;
  args.plain = View(plain.data(), DType::kInt8, {4, 4});
  args.storage = View(storage.data(), DType::kInt8, {511});
  EXPECT_THROW(ToNz(args), InvalidArgument);
  EXPECT_EQ(storage, std::vector<int8_t>(511, 77));
  EXPECT_THROW(Convert(FromFractalNz, args, cpu::BestIsa()), InvalidArgument);
  EXPECT_EQ(plain, std::vector<int8_t>(16, 1));
  args.c0 = -1;
  EXPECT_THROW(FractalNzSize(args), InvalidArgument);
}

}  // namespace
}  // namespace qgmm
