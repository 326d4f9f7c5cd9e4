// SPDX-License-Identifier: Apache-2.0
// Whole problems through the CPU wing, on every ISA of this machine, plain and packed, with 1, 2 and 7 workers, on
// executors of std::thread and in reverse order: equal to the reference, byte for byte.
#include <gtest/gtest.h>

#include <chrono>
#include <limits>

#include "cpu/plan.h"
#include "float_mode.h"
#include "kernel_case.h"

namespace qgmm::cpu {
namespace {

using reference::Case;
using reference::MakeCase;
using reference::SetColumns;
using reference::Sizes;
using reference::Uniform;

std::string Words(const Sizes& s) {
  std::string text = "rows";
  for (int64_t count : s.counts) text += " " + std::to_string(count);
  return text + ", k " + std::to_string(s.k) + ", n " + std::to_string(s.n) + ", slices " + std::to_string(s.slices) +
         ", tail " + std::to_string(s.tail);
}

void ExpectSwiglu(const Sizes& sizes, DType weights = DType::kInt8, DType y = DType::kInt8) {
  Case c = MakeCase(Finish::kSwigluQuant, sizes, 1, weights, y);
  ExpectEverywhere(c, Words(sizes));
}

/// Operator B of `dtype`, with offset and bias.
Case AffineCase(const Sizes& sizes, DType dtype, bool offset, bool bias) {
  Case c = MakeCase(Finish::kAffine, sizes, 2, DType::kInt8, dtype);
  c.x_values = Uniform(c.m * sizes.k, 2, 3);
  c.x_bytes.resize(c.x_values.size() * static_cast<size_t>(Bytes(dtype)));
  for (size_t i = 0; i < c.x_values.size(); ++i) Store(c.x_bytes.data(), dtype, static_cast<int64_t>(i), c.x_values[i]);
  Problem& p = c.problem;
  p.product = Product::kFloat;
  p.x = {c.x_bytes.data(), dtype, c.m, sizes.k, sizes.k, 1};
  p.x_scale = {};
  p.y_scale = {};
  if (offset) {
    c.offset = Uniform(c.e * sizes.n, 3, 4);
    SetColumns(&p.epilogue.offset, c.offset, c.e, 1, sizes.n);
  }
  if (bias) {
    c.bias = Uniform(c.e * sizes.n, 1, 5);
    SetColumns(&p.epilogue.bias, c.bias, c.e, 1, sizes.n);
  }
  return c;
}

TEST(Run, EveryRowCountAroundTiles) {
  for (int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 59, 60, 61, 63, 64, 65, 67}) {
    ExpectSwiglu({{rows}, 67, 34});
    if (HasFatalFailure()) return;
  }
}

TEST(Run, EveryRowCountAroundBlocks) {
  for (int64_t rows : {127, 128, 129, 255, 256, 257, 300, 1009}) {
    ExpectSwiglu({{rows, 1, 0, 3}, 5, 6, 1, 2});
    if (HasFatalFailure()) return;
  }
}

TEST(Run, EveryK) {
  for (int64_t k : {1, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1023, 1024, 1025, 1040, 2049}) {
    ExpectSwiglu({{13, 2}, k, 6});
    ExpectSwiglu({{13, 2}, k, 8}, DType::kInt4);
    if (HasFatalFailure()) return;
  }
}

TEST(Run, EveryN) {
  for (int64_t n : {2, 6, 30, 32, 34, 62, 64, 66, 126, 130, 1056}) {
    ExpectSwiglu({{2, 0, 10}, 20, n, 1, 1});
    if (HasFatalFailure()) return;
  }
  for (int64_t n : {8, 24, 40, 56, 72, 136, 264}) {
    ExpectSwiglu({{2, 0, 10}, 20, n, 1, 1}, DType::kInt4);
    if (HasFatalFailure()) return;
  }
}

TEST(Run, ManyExperts) {
  std::vector<int64_t> counts(300);
  for (size_t i = 0; i < counts.size(); ++i) counts[i] = static_cast<int64_t>(i * 7 % 4);
  ExpectSwiglu({counts, 24, 40, 1, 5});
}

TEST(Run, SlicesOfInt8) {
  for (const auto& [k, slices] :
       std::vector<std::pair<int64_t, int64_t>>{{64, 2}, {60, 60}, {1200, 4}, {100, 25}, {2400, 2}, {7168, 56}}) {
    ExpectSwiglu({{9, 1, 5}, k, 34, slices});
    if (HasFatalFailure()) return;
  }
}

TEST(Run, SlicesOfInt4) {
  for (const auto& [k, slices] : std::vector<std::pair<int64_t, int64_t>>{
           {64, 2}, {60, 60}, {1200, 4}, {256, 8}, {4800, 2}, {2688, 21}, {40, 5}}) {
    ExpectSwiglu({{9, 1, 5}, k, 40, slices}, DType::kInt4);
    if (HasFatalFailure()) return;
  }
}

TEST(Run, Fp8Results) {
  for (DType y : {DType::kFloat8E4M3, DType::kFloat8E5M2}) ExpectSwiglu({{3, 9}, 40, 70, 1, 1}, DType::kInt8, y);
}

TEST(Run, OptionsOfA) {
  for (const int slices : {1, 4}) {
    for (DType weights : {DType::kInt8, DType::kInt4}) {
      const Sizes sizes = {{70, 0, 5, 300}, 64, 72, slices, 2};
      Case c = MakeCase(Finish::kSwigluQuant, sizes, 7, weights);
      Epilogue& e = c.problem.epilogue;
      c.assist = Uniform(c.e * sizes.n, 2, 8);
      SetColumns(&e.assist, c.assist, c.e, 1, sizes.n);
      c.smooth = Uniform(c.e * sizes.n / 2, 2, 9);
      e.smooth = {};
      e.smooth.data = c.smooth.data();
      e.smooth.expert_stride = sizes.n / 2;
      e.smooth.column_stride = 1;
      e.limited = true;
      e.limit = 0.75f;
      if (slices == 1) {
        for (int64_t i = 0; i < c.e * sizes.n; ++i) c.int_bias.push_back(static_cast<int32_t>(i * 2654435761u));
        e.int_bias.data = c.int_bias.data();
        e.int_bias.dtype = DType::kInt32;
        e.int_bias.expert_stride = sizes.n;
        e.int_bias.column_stride = 1;
      }
      ExpectEverywhere(c, Words(sizes));
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Run, IntegerExtremes) {
  const std::pair<int, int> values[] = {{-128, -128}, {127, 127}, {-128, 127}, {127, -128}};
  for (const auto& [x, w] : values) {
    Case c = MakeCase(Finish::kInt32, {{10, 3}, 4099, 34}, 1, DType::kInt8, DType::kInt32);
    std::fill(c.x.begin(), c.x.end(), static_cast<int8_t>(x));
    std::fill(c.w.begin(), c.w.end(), static_cast<int8_t>(w));
    ExpectEverywhere(c, "x " + std::to_string(x) + ", w " + std::to_string(w));
    if (HasFatalFailure()) return;
  }
}

TEST(Run, Int4Extremes) {
  for (const int x : {-128, 127}) {
    for (const int w : {-8, 7}) {
      Case c = MakeCase(Finish::kInt32, {{10, 3}, 4096, 40}, 1, DType::kInt4, DType::kInt32);
      std::fill(c.x.begin(), c.x.end(), static_cast<int8_t>(x));
      std::fill(c.w.begin(), c.w.end(), static_cast<int8_t>(w));
      reference::Connect(&c, DType::kInt4);
      ExpectEverywhere(c, "x " + std::to_string(x) + ", w " + std::to_string(w));
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Run, SumAtInt32Edge) {
  Case c = MakeCase(Finish::kInt32, {{9, 1}, 131071, 2}, 1, DType::kInt8, DType::kInt32);
  std::fill(c.x.begin(), c.x.end(), int8_t{-128});
  std::fill(c.w.begin(), c.w.end(), int8_t{-128});
  ExpectEverywhere(c, "k 131071");
  EXPECT_EQ(reinterpret_cast<const int32_t*>(c.y.data())[0], 2147467264);
}

TEST(Run, GroupedMatmul) {
  for (DType y : {DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kInt32}) {
    const Sizes sizes = {{70, 0, 5, 9}, 72, 70, 1, 3};
    Case c = MakeCase(y == DType::kInt32 ? Finish::kInt32 : Finish::kDequantize, sizes, 7, DType::kInt8, y);
    c.problem.y_scale = {};
    if (y != DType::kInt32) {
      c.bias = Uniform(c.e * sizes.n, 1, 5);
      SetColumns(&c.problem.epilogue.bias, c.bias, c.e, 1, sizes.n);
      c.problem.epilogue.activation = Activation::kGeluTanh;
    }
    ExpectEverywhere(c, Words(sizes));
    if (HasFatalFailure()) return;
  }
}

TEST(Run, OperatorB) {
  for (DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat32}) {
    for (int64_t k : {1, 3, 64, 259}) {
      const Sizes sizes = {{9, 0, 2, 70}, k, 37, 1, 1};
      for (const bool extras : {false, true}) {
        Case c = AffineCase(sizes, dtype, extras, extras);
        ExpectEverywhere(c, Words(sizes));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Run, EveryActWithLargeAndNanZ) {
  for (Activation act : {Activation::kRelu, Activation::kGeluTanh, Activation::kFastGelu, Activation::kSilu}) {
    Case c = AffineCase({{12, 3}, 20, 33}, DType::kFloat32, false, true);
    c.problem.epilogue.activation = act;
    const float special[] = {0.0f,
                             -0.0f,
                             1e30f,
                             -1e30f,
                             std::numeric_limits<float>::infinity(),
                             -std::numeric_limits<float>::infinity(),
                             std::numeric_limits<float>::quiet_NaN(),
                             1e-40f};
    for (size_t i = 0; i < c.bias.size(); ++i) c.bias[i] = i % 3 ? c.bias[i] * 40 : special[i / 3 % 8];
    ExpectEverywhere(c, "activation " + std::to_string(static_cast<int>(act)));
    if (HasFatalFailure()) return;
  }
}

TEST(Run, NanAndInfStayInTheirRow) {
  Case c = MakeCase(Finish::kSwigluQuant, {{20, 2}, 33, 34}, 3);
  c.x_scale[3] = std::numeric_limits<float>::quiet_NaN();
  c.x_scale[5] = std::numeric_limits<float>::infinity();
  c.x_scale[6] = 0;
  c.x_scale[7] = 1e-43f;
  c.x_scale[8] = 3e38f;
  c.x_scale[21] = -std::numeric_limits<float>::infinity();
  ExpectEverywhere(c, "special x_scale");
}

TEST(Run, StridedTensors) {
  Case c = MakeCase(Finish::kSwigluQuant, {{10, 0, 7}, 36, 40, 1, 1}, 3);
  const Sizes& s = c.sizes;
  // x and w stored with k and n exchanged, y column-major, scales every third.
  std::vector<int8_t> x(c.x.size()), w(c.w.size());
  for (int64_t i = 0; i < c.m; ++i) {
    for (int64_t k = 0; k < s.k; ++k) x[static_cast<size_t>(k * c.m + i)] = c.x[static_cast<size_t>(i * s.k + k)];
  }
  for (int64_t e = 0; e < c.e; ++e) {
    for (int64_t k = 0; k < s.k; ++k) {
      for (int64_t j = 0; j < s.n; ++j)
        w[static_cast<size_t>((e * s.n + j) * s.k + k)] = c.w[static_cast<size_t>((e * s.k + k) * s.n + j)];
    }
  }
  const Answer straight = ByReference(c);
  c.problem.x = {x.data(), DType::kInt8, c.m, s.k, 1, c.m};
  c.problem.w.plain = {w.data(), 1, s.k};
  const Answer same = ByReference(c);
  ASSERT_TRUE(same == straight);
  c.problem.y.row_stride = 1;
  c.problem.y.column_stride = c.m;
  ExpectEverywhere(c, "strided");
}

TEST(Run, RowAloneAndInCompany) {
  Case c = MakeCase(Finish::kSwigluQuant, {{100}, 130, 70}, 11);
  c.problem.w.paired = true;
  Context context;
  context.parallel_for = Backwards;
  context.max_workers = 1;
  const Answer all = ByKernels(c, context);
  const Problem whole = c.problem;
  for (int64_t row = 0; row < c.m; row += 7) {
    c.problem = whole;
    c.problem.m = 1;
    c.problem.rows = {{0, 0, 1}};
    c.problem.x.data = c.x.data() + row * c.sizes.k;
    c.problem.x_scale.data = c.x_scale.data() + row;
    Poison(c);
    cpu::Run(c.problem, context);
    EXPECT_EQ(0, std::memcmp(c.y.data(), all.y.data() + row * 35, 35)) << "row " << row;
    EXPECT_EQ(c.y_scale[0], all.y_scale[static_cast<size_t>(row)]);
  }
}

TEST(Run, CallerFloatModeDoesNotMatterAndComesBack) {
#if defined(__x86_64__)
  Case c = MakeCase(Finish::kSwigluQuant, {{20}, 64, 64}, 13);
  for (size_t i = 0; i < c.x_scale.size(); ++i) c.x_scale[i] *= i % 2 ? 1e-38f : 1e-19f;
  const Answer expected = ByReference(c);
  const uint32_t before = __builtin_ia32_stmxcsr();
  for (const uint32_t mode : {0x9FC0u, 0x7F80u}) {  // flush-to-zero with denormals-are-zero; towards zero
    Context context;
    context.parallel_for = Backwards;
    __builtin_ia32_ldmxcsr(mode);
    const Answer got = ByKernels(c, context);
    const uint32_t after = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(before);
    EXPECT_TRUE(got == expected);
    EXPECT_EQ(after & ~0x3Fu, mode & ~0x3Fu);
  }
#elif defined(__aarch64__)
  Case c = MakeCase(Finish::kSwigluQuant, {{20}, 64, 64}, 13);
  for (size_t i = 0; i < c.x_scale.size(); ++i) c.x_scale[i] *= i % 2 ? 1e-38f : 1e-19f;
  const Answer expected = ByReference(c);
  for (const uint64_t mode : {uint64_t{1} << 24, uint64_t{3} << 22}) {  // flush-to-zero; towards zero
    Context context;
    context.parallel_for = Backwards;
    uint64_t before = 0, after = 0;
    asm volatile("mrs %0, fpcr" : "=r"(before));
    asm volatile("msr fpcr, %0" ::"r"(mode));
    const Answer got = ByKernels(c, context);
    asm volatile("mrs %0, fpcr" : "=r"(after));
    asm volatile("msr fpcr, %0" ::"r"(before));
    EXPECT_TRUE(got == expected);
    EXPECT_EQ(after, mode);
  }
#endif
}

/// Eight workers on few cores, one of them slow: the others take its tasks, the bits are the same.
TEST(Run, EightWorkersOneSlow) {
  Case c = MakeCase(Finish::kSwigluQuant, {{40, 3, 1, 0, 90}, 130, 330, 1, 3}, 17);
  const Answer expected = ByReference(c);
  Context context;
  context.max_workers = 8;
  context.parallel_for = [](int count, void (*body)(int, void*), void* state, void*) {
    std::vector<std::thread> threads;
    for (int i = 0; i < count; ++i) {
      threads.emplace_back([=] {
        if (i == 0) std::this_thread::sleep_for(std::chrono::milliseconds(30));
        body(i, state);
      });
    }
    for (std::thread& thread : threads) thread.join();
  };
  for (int repeat = 0; repeat < 5; ++repeat) {
    ASSERT_TRUE(ByKernels(c, context) == expected);
    ASSERT_EQ(context.last_run.workers, 8);
  }
}

/// A group of many rows runs its row of the table; few rows may do better with a weaker ISA's.
TEST(Run, ForcedIsaRan) {
  for (const Isa isa : TestedIsas()) {
    Case c = MakeCase(Finish::kSwigluQuant, {{40, 1}, 64, 64}, 17);
    Context context;
    context.parallel_for = Backwards;
    context.max_isa = static_cast<int>(isa);
    ByKernels(c, context);
    const std::string prefix = std::string(Name(isa)) + "_";
    int of_isa = 0;
    for (const std::string& kernel : context.last_run.kernels) of_isa += kernel.rfind(prefix, 0) == 0;
    EXPECT_GE(of_isa, 1) << Name(isa);
  }
}

}  // namespace
}  // namespace qgmm::cpu
