// SPDX-License-Identifier: Apache-2.0
// A random Problem that owns its tensors, and arithmetic independent of the reference to judge it with.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "numeric.h"
#include "problem.h"

namespace qgmm::reference {

// One fp32 operation each, done in long double and rounded once. Exact but for that rounding: products have 48 bits,
// and for sums and quotients 64 bits are more than 2 * 24 + 2. Only Fma could round twice, once in about 2^40.
inline float Mul(float a, float b) { return static_cast<float>(static_cast<long double>(a) * b); }
inline float Add(float a, float b) { return static_cast<float>(static_cast<long double>(a) + b); }
inline float Fma(float a, float b, float c) { return static_cast<float>(static_cast<long double>(a) * b + c); }

struct Sizes {
  std::vector<int64_t> counts;  // rows per expert
  int64_t k = 0, n = 0;
  int64_t slices = 1;
  int64_t tail = 0;  // rows in no group, behind the others
};

/// Plain contiguous tensors with uniform full-range integers; scales make x * w * scale about as large as 1.
/// Movable (vectors keep their storage), not copyable.
struct Case {
  Sizes sizes;
  int64_t m = 0, e = 0;
  std::vector<int8_t> x, w;                              // [m][k], [e][k][n]
  std::vector<int32_t> words;                            // int4: [e][k][n / 8]
  std::vector<float> scale, x_scale;                     // [e][slices][n], [m]
  std::vector<float> assist, smooth, offset, bias;       // [e][n], smooth [e] or [e][n / 2]
  std::vector<int32_t> int_bias;                         // [e][n]
  std::vector<uint8_t> x_bytes;                          // operator B: x in its dtype
  std::vector<float> x_values;                           // operator B: its values, [m][k]
  std::vector<uint8_t> y;                                // poisoned
  std::vector<float> y_scale;
  Problem problem;

  Case() = default;
  Case(Case&&) = default;
  Case& operator=(Case&&) = default;
  Case(const Case&) = delete;
  Case& operator=(const Case&) = delete;

  int64_t W(int64_t expert, int64_t kk, int64_t j) const {
    return w[static_cast<size_t>((expert * sizes.k + kk) * sizes.n + j)];
  }
  int64_t X(int64_t i, int64_t kk) const { return x[static_cast<size_t>(i * sizes.k + kk)]; }
  float Scale(int64_t expert, int64_t slice, int64_t j) const {
    return scale[static_cast<size_t>((expert * sizes.slices + slice) * sizes.n + j)];
  }
  float Of(const std::vector<float>& columns, int64_t expert, int64_t j) const {  // [e][n]
    return columns[static_cast<size_t>(expert * sizes.n + j)];
  }
};

inline void SetColumns(Columns* columns, const std::vector<float>& values, int64_t e, int64_t slices, int64_t n) {
  columns->dtype = DType::kFloat32;
  columns->data = values.data();
  columns->expert_stride = slices * n;
  columns->slice_stride = n;
  columns->column_stride = 1;
  ASSERT_EQ(static_cast<int64_t>(values.size()), e * slices * n);
}

inline std::vector<int32_t> PackNibbles(const std::vector<int8_t>& w) {
  std::vector<int32_t> words(w.size() / 8);
  for (size_t word = 0; word < words.size(); ++word) {
    uint32_t bits = 0;
    for (size_t i = 0; i < 8; ++i) bits |= (static_cast<uint32_t>(w[8 * word + i]) & 15) << (4 * i);
    words[word] = static_cast<int32_t>(bits);
  }
  return words;
}

/// (Re)connects the problem to x, w, scales and outputs after a test has changed their values.
inline void Connect(Case* c, DType weight_dtype) {
  Problem& p = c->problem;
  const int64_t k = c->sizes.k, n = c->sizes.n;
  p.m = c->m, p.k = k, p.n = n, p.e = c->e;
  p.slice = k / c->sizes.slices;
  p.x = {c->x.data(), DType::kInt8, c->m, k, k, 1};
  p.x_scale = {c->x_scale.data(), DType::kFloat32, c->m, 1};
  p.w = {};
  p.w.e = c->e, p.w.k = k, p.w.n = n, p.w.dtype = weight_dtype;
  if (weight_dtype == DType::kInt4) {
    c->words = PackNibbles(c->w);
    p.w.plain = {c->words.data(), n / 8, 1};
    p.w.expert_stride = k * n / 8;
    p.product = Product::kInt4;
  } else {
    p.w.plain = {c->w.data(), n, 1};
    p.w.expert_stride = k * n;
  }
  SetColumns(&p.epilogue.scale, c->scale, c->e, c->sizes.slices, n);
}

inline Case MakeCase(Finish finish, const Sizes& sizes, uint32_t seed, DType weight_dtype = DType::kInt8,
                     DType y_dtype = DType::kInt8) {
  Case c;
  c.sizes = sizes;
  c.e = static_cast<int64_t>(sizes.counts.size());
  for (int64_t expert = 0; expert < c.e; ++expert) {
    const int64_t count = sizes.counts[static_cast<size_t>(expert)];
    if (count > 0) c.problem.rows.push_back({expert, c.m, c.m + count});
    c.m += count;
  }
  c.m += sizes.tail;
  std::mt19937 random(seed);
  const int low = weight_dtype == DType::kInt4 ? -8 : -128;
  std::uniform_int_distribution<int> bytes(-128, 127), weights(low, -low - 1);
  std::uniform_real_distribution<float> around(0.5f, 2.0f);
  c.x.resize(static_cast<size_t>(c.m * sizes.k));
  for (int8_t& value : c.x) value = static_cast<int8_t>(bytes(random));
  c.w.resize(static_cast<size_t>(c.e * sizes.k * sizes.n));
  for (int8_t& value : c.w) value = static_cast<int8_t>(weights(random));
  const float spread = 74.0f * static_cast<float>(-low) * 0.58f * std::sqrt(static_cast<float>(sizes.k));
  c.scale.resize(static_cast<size_t>(c.e * sizes.slices * sizes.n));
  for (float& value : c.scale) value = around(random) * 8 / spread;
  c.x_scale.resize(static_cast<size_t>(c.m));
  for (float& value : c.x_scale) value = around(random) / 4;
  Problem& p = c.problem;
  p.operation = "test";
  p.epilogue.finish = finish;
  Connect(&c, weight_dtype);
  const int64_t columns = finish == Finish::kSwigluQuant ? sizes.n / 2 : sizes.n;
  c.y.assign(static_cast<size_t>(c.m * columns * Bytes(y_dtype)), 0xAB);
  c.y_scale.assign(static_cast<size_t>(c.m), -77.0f);
  p.y = {c.y.data(), y_dtype, c.m, columns, columns, 1};
  p.y_scale = {c.y_scale.data(), DType::kFloat32, c.m, 1};
  return c;
}

/// Random [size] values in [-range, range].
inline std::vector<float> Uniform(int64_t size, float range, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> values(-range, range);
  std::vector<float> v(static_cast<size_t>(size));
  for (float& value : v) value = values(random);
  return v;
}

/// The exact sum of one output over k in [begin, end); i < 0: of a row whose x are all 8.
inline int64_t Sum(const Case& c, int64_t expert, int64_t i, int64_t j, int64_t begin, int64_t end) {
  int64_t sum = 0;
  for (int64_t kk = begin; kk < end; ++kk) sum += (i < 0 ? 8 : c.X(i, kk)) * c.W(expert, kk, j);
  return sum;
}

/// Modulo 2^32, as int32.
inline int64_t Wrapped(int64_t sum) { return static_cast<int32_t>(static_cast<uint64_t>(sum) & 0xFFFFFFFF); }

/// t of section 3.1 without assist; i < 0: d.
inline float ScaledSum(const Case& c, int64_t expert, int64_t i, int64_t j) {
  const int64_t slice = c.sizes.k / c.sizes.slices;
  if (c.sizes.slices == 1) {
    int64_t sum = Sum(c, expert, i, j, 0, c.sizes.k);
    if (i >= 0 && !c.int_bias.empty()) sum = Wrapped(sum + c.int_bias[static_cast<size_t>(expert * c.sizes.n + j)]);
    return Mul(static_cast<float>(sum), c.Scale(expert, 0, j));
  }
  float t = 0;
  for (int64_t p = 0; p < c.sizes.slices; ++p) {
    const float sum = static_cast<float>(Sum(c, expert, i, j, p * slice, (p + 1) * slice));
    t = Fma(sum, c.Scale(expert, p, j), t);
  }
  return t;
}

inline float ExpectedT(const Case& c, int64_t expert, int64_t i, int64_t j) {
  const float t = ScaledSum(c, expert, i, j);
  if (c.assist.empty()) return t;
  return Add(Add(t, -ScaledSum(c, expert, -1, j)), c.Of(c.assist, expert, j));
}

/// The t of float64: every product scaled by itself.
inline double TrueT(const Case& c, int64_t expert, int64_t i, int64_t j) {
  double t = 0;
  const int64_t slice = c.sizes.k / c.sizes.slices;
  for (int64_t kk = 0; kk < c.sizes.k; ++kk) {
    const auto x = static_cast<double>(c.X(i, kk) - (c.assist.empty() ? 0 : 8));
    t += x * static_cast<double>(c.W(expert, kk, j)) * static_cast<double>(c.Scale(expert, kk / slice, j));
  }
  if (!c.int_bias.empty()) {
    t += static_cast<double>(c.int_bias[static_cast<size_t>(expert * c.sizes.n + j)]) *
         static_cast<double>(c.Scale(expert, 0, j));
  }
  return c.assist.empty() ? t : t + static_cast<double>(c.Of(c.assist, expert, j));
}

}  // namespace qgmm::reference
