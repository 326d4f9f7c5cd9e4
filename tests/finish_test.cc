// SPDX-License-Identifier: Apache-2.0
// How a strip of sums is finished, on every ISA: the formulas of operator A, operator B and grouped_matmul, written out
// here one operation at a time, for every combination of options, panel widths, strides and special values.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cpu/kernel.h"
#include "numeric.h"
#include "reference.h"
#include "stage_isas.h"

namespace qgmm::cpu {
namespace {

constexpr int kRows = 7, kRow = kPairColumns;
constexpr int64_t kFirstRow = 2;

std::vector<float> Values(size_t count, std::mt19937& random, bool special) {
  static const float kSpecial[] = {0.0f, -0.0f, FromBits(1), 3.4e38f, -3.4e38f, std::numeric_limits<float>::infinity(),
                                   -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()};
  std::normal_distribution<float> bell(0.0f, 2.0f);
  std::vector<float> v(count);
  for (float& value : v) value = special && random() % 8 == 0 ? kSpecial[random() % 8] : bell(random);
  return v;
}

/// Which optional parts a strip has.
struct Options {
  bool folded, assist, int_bias, extra, bias, special;  // extra: limit and smooth, offset, or x_scale
  explicit Options(int bits)
      : folded(bits & 1), assist(bits & 2), int_bias(bits & 4), extra(bits & 8), bias(bits & 16), special(bits & 32) {}
};

/// A strip with all its arrays; the test's formulas read the same arrays.
struct Strip {
  Problem p;
  StripArgs s = {};
  std::vector<int32_t> acc, int_bias;
  std::vector<float> sums, folded, scale, assist, d, smooth, offset, bias, x_sums, x_scale, results;
  std::vector<uint32_t> row_max;
  std::vector<uint8_t> y;

  Strip(Finish finish, const Options& o, uint32_t seed) {
    std::mt19937 random(seed);
    const auto values = [&](int count) { return Values(static_cast<size_t>(count), random, o.special); };
    acc.resize(kRows * kRow), int_bias.resize(kRow);
    for (int32_t& a : acc)
      a = o.special ? static_cast<int32_t>(random()) : static_cast<int32_t>(random() % 20001) - 10000;
    for (int32_t& a : int_bias)
      a = o.special ? static_cast<int32_t>(random()) : static_cast<int32_t>(random() % 2001) - 1000;
    sums = values(kRows * kRow), folded = values(kRows * kRow);
    scale = values(kRow), assist = values(kRow), smooth = values(16), offset = values(kRow), bias = values(kRow);
    for (float& v : scale) v /= 4096;
    x_sums = values(kRows), x_scale = values(3 * (kRows + 2)), d.assign(kRow, -7.0f);
    results.assign((kRows + 1) * 16, -7.0f), row_max.assign(kRows + 1, 3);
    p.epilogue.finish = finish;
    p.x_scale = {x_scale.data(), DType::kFloat32, kRows + 2, 3};
    s.problem = &p;
    s.acc = finish == Finish::kAffine ? static_cast<void*>(sums.data()) : static_cast<void*>(acc.data());
    s.folded = o.folded ? folded.data() : nullptr;
    s.rows = kRows;
    s.assist_row = o.assist ? 1 : 0;
    s.first_row = kFirstRow;
    s.scale = scale.data();
    s.int_bias = o.int_bias && !o.folded ? int_bias.data() : nullptr;
    s.assist = o.assist ? assist.data() : nullptr;
    s.d = d.data();
    s.x_sums = x_sums.data();
    s.results = results.data();
    s.row_max = row_max.data();
  }

  int real_rows() const { return kRows - s.assist_row; }
  float XScale(int row) const { return x_scale[static_cast<size_t>(3 * (kFirstRow + row))]; }

  float Dequantized(int i, int j, bool with_bias) const {
    const size_t at = static_cast<size_t>(i * kRow + j), c = static_cast<size_t>(j);
    if (s.folded) return folded[at];
    uint32_t a = static_cast<uint32_t>(acc[at]);
    if (with_bias && s.int_bias) a += static_cast<uint32_t>(int_bias[c]);
    return static_cast<float>(static_cast<int32_t>(a)) * scale[c];
  }
  /// t of real row `row`, column j of the pair.
  float T(int row, int j) const {
    float t = Dequantized(row + s.assist_row, j, true);
    if (!s.assist) return t;
    t = t - Dequantized(0, j, false);
    return t + assist[static_cast<size_t>(j)];
  }
};

/// Rows may come a few at a time, the row of eights alone. A plain strip's first row goes the way of those with options.
void InPieces(FinishFn finish, StripArgs s) {
  static_assert(kRows > 4);
  finish(s, 0, 1);
  s.plain = IsPlain(s);
  finish(s, 1, 4);
  finish(s, 4, s.rows);
}

class FinishStrips : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (GetParam() > ChosenIsa(-1) || !HasIsa(GetParam())) GTEST_SKIP() << "not run: " << Name(GetParam()) << " stages";
    ASSERT_EQ(stages().isa, GetParam());
  }
  const Stages& stages() const { return StagesFor(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Stages, FinishStrips, testing::ValuesIn(kStageIsas),
                         [](const testing::TestParamInfo<Isa>& info) { return std::string(Name(info.param)); });

float Clamp(float v, float low, float high) {  // compare and select: NaN passes
  v = v > high ? high : v;
  return v < low ? low : v;
}

void ExpectSame(float got, float expected, const std::string& what) {
  if (std::isnan(expected)) {
    ASSERT_TRUE(std::isnan(got)) << what;
  } else {
    ASSERT_EQ(Bits(got), Bits(expected)) << what;
  }
}

void CheckSwiglu(const Stages& stages, const Options& o, int columns, uint32_t seed, const std::string& what) {
  Strip strip(Finish::kSwigluQuant, o, seed);
  const float limit = 0.75f, infinite = std::numeric_limits<float>::infinity();
  strip.p.epilogue.limited = o.extra;
  strip.p.epilogue.limit = limit;
  strip.s.smooth = o.extra ? strip.smooth.data() : nullptr;
  strip.s.columns[0] = strip.s.columns[1] = columns;
  for (int row = 0; row < kRows; ++row) strip.row_max[static_cast<size_t>(row)] = row % 2 ? 3u : Bits(1.0f);
  const std::vector<uint32_t> before = strip.row_max;
  InPieces(stages.finish_swiglu, strip.s);
  for (int row = 0; row < strip.real_rows(); ++row) {
    uint32_t top = before[static_cast<size_t>(row)];
    for (int j = 0; j < columns; ++j) {
      const float x_scale = strip.XScale(row);
      float gate = strip.T(row, j) * x_scale, up = strip.T(row, j + 16) * x_scale;
      if (o.extra) gate = Clamp(gate, -infinite, limit), up = Clamp(up, -limit, limit);
      float v = reference::Silu(gate) * up;
      if (o.extra) v = v * strip.smooth[static_cast<size_t>(j)];
      ExpectSame(strip.results[static_cast<size_t>(row * 16 + j)], v,
                 what + ", row " + std::to_string(row) + ", column " + std::to_string(j));
      top = std::max(top, (std::isnan(v) ? kNanBits : Bits(v)) & 0x7FFFFFFFu);
    }
    const uint32_t got = strip.row_max[static_cast<size_t>(row)];
    ASSERT_TRUE(got == top || (got > 0x7F800000u && top > 0x7F800000u)) << what << ", maximum of row " << row;
  }
  for (size_t i = static_cast<size_t>(strip.real_rows()) * 16; i < strip.results.size(); ++i)
    ASSERT_EQ(strip.results[i], -7.0f);
  ASSERT_EQ(strip.row_max[static_cast<size_t>(strip.real_rows())], before[static_cast<size_t>(strip.real_rows())]);
}

TEST_P(FinishStrips, SwigluWithEveryOption) {
  for (int bits = 0; bits < 64; ++bits) {
    if (bits & 16) continue;  // no float bias here
    for (const int columns : {16, 15, 9, 8, 1}) {
      const std::string what = "options " + std::to_string(bits) + ", columns " + std::to_string(columns);
      CheckSwiglu(stages(), Options(bits), columns, static_cast<uint32_t>(bits), what);
      if (HasFatalFailure()) return;
    }
  }
}

/// The later strips of a block take d from the first.
TEST_P(FinishStrips, LaterStripsUseTheKeptD) {
  Strip first(Finish::kSwigluQuant, Options(2), 5);
  first.s.columns[0] = first.s.columns[1] = 16;
  InPieces(stages().finish_swiglu, first.s);
  Strip later(Finish::kSwigluQuant, Options(2), 6);
  later.s.columns[0] = later.s.columns[1] = 16;
  later.s.assist_row = 0;
  later.s.d = first.d.data();
  InPieces(stages().finish_swiglu, later.s);
  for (int row = 0; row < kRows; ++row) {
    for (int j = 0; j < 16; ++j) {
      const auto t = [&](int column) {
        const float shifted = later.Dequantized(row, column, true) - first.Dequantized(0, column, false);
        return (shifted + later.assist[static_cast<size_t>(column)]) * later.XScale(row);
      };
      const float v = reference::Silu(t(j)) * t(j + 16);
      ASSERT_NO_FATAL_FAILURE(
          ExpectSame(later.results[static_cast<size_t>(row * 16 + j)], v, "row " + std::to_string(row)));
    }
  }
}

/// y of `dtype` behind poison: row kFirstRow first, `columns` real ones per panel, at the caller's columns 3 and 40.
struct Output {
  Matrix y;
  std::vector<uint8_t> bytes, expected;

  Output(Strip& strip, DType dtype, int first, int second, int64_t column_stride) {
    constexpr int64_t kColumns = 64;
    bytes.assign(static_cast<size_t>((kFirstRow + kRows + 1) * kColumns * column_stride * Bytes(dtype)), 0xAB);
    expected = bytes;
    y = {bytes.data(), dtype, kFirstRow + kRows + 1, kColumns, kColumns * column_stride, column_stride};
    strip.p.y = y;
    strip.s.columns[0] = first, strip.s.columns[1] = second;
    strip.s.first_column[0] = 3, strip.s.first_column[1] = 40;
  }
  int64_t At(int row, int column) const { return (kFirstRow + row) * y.row_stride + column * y.column_stride; }
};

/// Calls f(row, column of the pair, element of y) for every real output.
template <class F>
void ForOutputs(const Strip& strip, const Output& out, F f) {
  for (int row = 0; row < strip.real_rows(); ++row) {
    for (int half = 0; half < 2; ++half) {
      for (int j = 0; j < strip.s.columns[half]; ++j) {
        f(row, 16 * half + j, out.At(row, static_cast<int>(strip.s.first_column[half]) + j));
      }
    }
  }
}

constexpr struct {
  int first, second;
  int64_t stride;
} kShapes[] = {{16, 16, 1}, {16, 16, 2}, {16, 5, 1}, {1, 0, 1}, {9, 8, 3}};
constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
constexpr Activation kActivations[] = {Activation::kNone, Activation::kRelu, Activation::kGeluTanh,
                                       Activation::kFastGelu, Activation::kSilu};

TEST_P(FinishStrips, AffineWithEveryOption) {
  for (int bits = 0; bits < 64; bits += 8) {  // extra (offset), bias, special
    const Options o(bits);
    for (const auto& shape : kShapes) {
      for (const DType dtype : kTypes) {
        for (const Activation activation : kActivations) {
          Strip strip(Finish::kAffine, o, static_cast<uint32_t>(bits) + 1);
          Output out(strip, dtype, shape.first, shape.second, shape.stride);
          strip.p.epilogue.activation = activation;
          strip.s.offset = o.extra ? strip.offset.data() : nullptr;
          strip.s.bias = o.bias ? strip.bias.data() : nullptr;
          InPieces(stages().finish_affine, strip.s);
          ForOutputs(strip, out, [&](int row, int j, int64_t at) {
            const size_t c = static_cast<size_t>(j), r = static_cast<size_t>(row);
            float t = strip.sums[r * kRow + c];
            if (o.extra) t = std::fma(strip.offset[c], strip.x_sums[r], t);
            const float z = o.bias ? std::fma(strip.scale[c], t, strip.bias[c]) : strip.scale[c] * t;
            Store(out.expected.data(), dtype, at, reference::Activate(activation, z));
          });
          ASSERT_EQ(out.bytes, out.expected) << "options " << bits << ", " << Name(dtype) << ", act_type "
                                             << static_cast<int>(activation) << ", stride " << shape.stride;
        }
      }
    }
  }
}

/// Every upper half of an fp32, with lower halves at and around the ties of bfloat16 and float16: one rounding, to
/// even.
TEST_P(FinishStrips, NarrowingTies) {
  constexpr uint32_t kLow[] = {0, 1, 0x0FFF, 0x1000, 0x1001, 0x2000, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF};
  for (const DType dtype : kTypes) {
    for (uint64_t next = 0; next < (uint64_t{11} << 16); next += kRows * kRow) {
      Strip strip(Finish::kAffine, Options(0), 1);
      Output out(strip, dtype, 16, 16, 1);
      std::fill(strip.scale.begin(), strip.scale.end(), 1.0f);
      for (size_t i = 0; i < strip.sums.size(); ++i) {
        const uint64_t at = (next + i) % (uint64_t{11} << 16);
        strip.sums[i] = FromBits(static_cast<uint32_t>(at / 11 << 16) | kLow[at % 11]);
      }
      InPieces(stages().finish_affine, strip.s);
      ForOutputs(strip, out, [&](int row, int j, int64_t at) {
        Store(out.expected.data(), dtype, at, strip.sums[static_cast<size_t>(row * kRow + j)]);
      });
      ASSERT_EQ(out.bytes, out.expected) << Name(dtype) << " from pattern " << next;
    }
  }
}

TEST_P(FinishStrips, DequantizeWithEveryOption) {
  for (int bits = 0; bits < 64; ++bits) {
    const Options o(bits);
    for (const auto& shape : kShapes) {
      for (const DType dtype : kTypes) {
        const Activation activation = kActivations[static_cast<size_t>(bits) % 5];
        Strip strip(Finish::kDequantize, o, static_cast<uint32_t>(bits) + 100);
        Output out(strip, dtype, shape.first, shape.second, shape.stride);
        strip.p.epilogue.activation = activation;
        if (!o.extra) strip.p.x_scale = {};
        strip.s.bias = o.bias ? strip.bias.data() : nullptr;
        InPieces(stages().finish_dequantize, strip.s);
        ForOutputs(strip, out, [&](int row, int j, int64_t at) {
          float z = strip.T(row, j);
          if (o.extra) z = z * strip.XScale(row);
          if (o.bias) z = z + strip.bias[static_cast<size_t>(j)];
          Store(out.expected.data(), dtype, at, reference::Activate(activation, z));
        });
        ASSERT_EQ(out.bytes, out.expected) << "options " << bits << ", " << Name(dtype) << ", stride " << shape.stride;
      }
    }
  }
}

TEST_P(FinishStrips, Int32SumsWrap) {
  for (const int bits : {32, 32 + 4}) {  // full-range sums, without and with bias
    for (const auto& shape : kShapes) {
      Strip strip(Finish::kInt32, Options(bits), 9);
      Output out(strip, DType::kInt32, shape.first, shape.second, shape.stride);
      InPieces(stages().finish_dequantize, strip.s);
      ForOutputs(strip, out, [&](int row, int j, int64_t at) {
        uint32_t a = static_cast<uint32_t>(strip.acc[static_cast<size_t>(row * kRow + j)]);
        if (strip.s.int_bias) a += static_cast<uint32_t>(strip.int_bias[static_cast<size_t>(j)]);
        std::memcpy(out.expected.data() + at * 4, &a, 4);
      });
      ASSERT_EQ(out.bytes, out.expected) << "options " << bits << ", stride " << shape.stride;
    }
  }
}

}  // namespace
}  // namespace qgmm::cpu
