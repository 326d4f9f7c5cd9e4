// SPDX-License-Identifier: Apache-2.0
// The specification of the operators: plain loops, formulas in the order of qgmm/ops.h and docs/operators.md.
#include "reference.h"

#include <cmath>
#include <cstddef>
#include <cstring>
#include <vector>

#include "float_mode.h"
#include "numeric.h"
#include "reference_fixed.h"

namespace qgmm::reference {
namespace {

float At(const Columns& columns, int64_t expert, int64_t slice, int64_t j) {
  const Columns::Source source = columns.Of(expert);
  return Load(source.data, columns.dtype, slice * source.slice_stride + j * source.column_stride);
}

int32_t IntAt(const Columns& columns, int64_t expert, int64_t j) {
  const Columns::Source source = columns.Of(expert);
  int32_t value;
  std::memcpy(&value, static_cast<const std::byte*>(source.data) + j * source.column_stride * 4, sizeof(value));
  return value;
}

/// column[kk] = w[expert, kk, j]. Plain weights are read directly: WeightAt divides for every element.
template <class T>
void GatherColumn(const Weights& w, int64_t expert, int64_t j, T* column) {
  if (w.packed.given()) {
    for (int64_t kk = 0; kk < w.k; ++kk) column[kk] = static_cast<T>(WeightAt(w, expert, kk, j));
    return;
  }
  const Weights::Plain plain = w.Of(expert);
  if (w.dtype == DType::kInt8) {
    const auto* value = static_cast<const int8_t*>(plain.data) + j * plain.n_stride;
    for (int64_t kk = 0; kk < w.k; ++kk) column[kk] = value[kk * plain.k_stride];
    return;
  }
  const auto* words = static_cast<const std::byte*>(plain.data) + j / 8 * plain.n_stride * 4;
  for (int64_t kk = 0; kk < w.k; ++kk) {
    uint32_t word;
    std::memcpy(&word, words + kk * plain.k_stride * 4, sizeof(word));
    const int nibble = static_cast<int>((word >> (4 * (j % 8))) & 15);
    column[kk] = static_cast<T>(nibble < 8 ? nibble : nibble - 16);
  }
}

/// Rows [begin, end) of x, one after the other.
template <class T>
std::vector<T> GatherRows(const Problem& p, const RowRange& range) {
  std::vector<T> rows;
  rows.reserve(static_cast<size_t>((range.end - range.begin) * p.k));
  for (int64_t i = range.begin; i < range.end; ++i) {
    for (int64_t kk = 0; kk < p.k; ++kk) {
      const int64_t index = i * p.x.row_stride + kk * p.x.column_stride;
      rows.push_back(static_cast<T>(Load(p.x.data, p.x.dtype, index)));
    }
  }
  return rows;
}

/// The exact sum modulo 2^32.
uint32_t Dot(const int16_t* x, const int16_t* w, int64_t count) {
  uint32_t sum = 0;
  for (int64_t kk = 0; kk < count; ++kk) sum += static_cast<uint32_t>(static_cast<int32_t>(x[kk]) * w[kk]);
  return sum;
}

float ToFloat(uint32_t sum) { return static_cast<float>(static_cast<int32_t>(sum)); }

/// G = 1:  t = f(a + bias) * scale.    G > 1:  t = fma(f(a_p), scale_p, t) over the slices p, ascending from +0.
float Scaled(const int16_t* x, const int16_t* w, const std::vector<float>& scale, int64_t slice, uint32_t bias) {
  if (scale.size() == 1) return ToFloat(Dot(x, w, slice) + bias) * scale[0];
  float t = 0;
  for (size_t p = 0; p < scale.size(); ++p) {
    const int64_t begin = static_cast<int64_t>(p) * slice;
    t = std::fma(ToFloat(Dot(x + begin, w + begin, slice)), scale[p], t);
  }
  return t;
}

/// y[i, j] of grouped_matmul.
void FinishDequantized(const Problem& p, int64_t expert, int64_t i, int64_t j, float t) {
  float z = t;
  if (p.x_scale.data) z = t * Load(p.x_scale.data, p.x_scale.dtype, i * p.x_scale.stride);
  if (p.epilogue.bias.given()) z = z + At(p.epilogue.bias, expert, 0, j);
  z = Activate(p.epilogue.activation, z);
  Store(p.y.data, p.y.dtype, i * p.y.row_stride + j * p.y.column_stride, z);
}

/// y[i, :] and y_scale[i] of operator A, from t[0 .. n).
void FinishSwiglu(const Problem& p, int64_t expert, int64_t i, const float* t) {
  const int64_t h = p.n / 2;
  const float x_scale = Load(p.x_scale.data, p.x_scale.dtype, i * p.x_scale.stride), limit = p.epilogue.limit;
  std::vector<float> s(static_cast<size_t>(h));
  for (int64_t j = 0; j < h; ++j) {
    float gate = t[j] * x_scale;
    float up = t[j + h] * x_scale;
    if (p.epilogue.limited) {
      gate = gate > limit ? limit : gate;
      up = up > limit ? limit : up;
      up = up < -limit ? -limit : up;
    }
    float value = Silu(gate) * up;
    if (p.epilogue.smooth.given()) value = value * At(p.epilogue.smooth, expert, 0, j);
    s[static_cast<size_t>(j)] = value;
  }
  std::vector<uint8_t> q(static_cast<size_t>(h));
  const float scale = QuantizeRow(s.data(), h, p.y.dtype, q.data());
  Store(p.y_scale.data, DType::kFloat32, i * p.y_scale.stride, scale);
  auto* y = static_cast<uint8_t*>(p.y.data) + i * p.y.row_stride;
  for (int64_t j = 0; j < h; ++j) y[j * p.y.column_stride] = q[static_cast<size_t>(j)];
}

void StoreInt(const Problem& p, int64_t i, int64_t j, uint32_t sum) {
  std::memcpy(static_cast<std::byte*>(p.y.data) + (i * p.y.row_stride + j * p.y.column_stride) * 4, &sum, sizeof(sum));
}

/// Operator A and grouped_matmul on the rows of one expert.
void RunInteger(const Problem& p, const RowRange& range) {
  const Epilogue& e = p.epilogue;
  const int64_t rows = range.end - range.begin;
  const std::vector<int16_t> x = GatherRows<int16_t>(p, range);
  const std::vector<int16_t> eights(static_cast<size_t>(p.k), 8);
  std::vector<int16_t> w(static_cast<size_t>(p.k));
  std::vector<float> scale(e.finish == Finish::kInt32 ? 0 : static_cast<size_t>(p.slices()));
  std::vector<float> t(e.finish == Finish::kSwigluQuant ? static_cast<size_t>(rows * p.n) : 0);
  for (int64_t j = 0; j < p.n; ++j) {
    GatherColumn(p.w, range.expert, j, w.data());
    for (size_t s = 0; s < scale.size(); ++s) scale[s] = At(e.scale, range.expert, static_cast<int64_t>(s), j);
    const uint32_t bias = e.int_bias.given() ? static_cast<uint32_t>(IntAt(e.int_bias, range.expert, j)) : 0;
    const bool assisted = e.assist.given();
    const float d = assisted ? Scaled(eights.data(), w.data(), scale, p.slice, 0) : 0;
    const float assist = assisted ? At(e.assist, range.expert, 0, j) : 0;
    for (int64_t row = 0; row < rows; ++row) {
      const int16_t* x_row = x.data() + row * p.k;
      if (e.finish == Finish::kInt32) {
        StoreInt(p, range.begin + row, j, Dot(x_row, w.data(), p.k) + bias);
        continue;
      }
      float value = Scaled(x_row, w.data(), scale, p.slice, bias);
      if (assisted) {
        value = value - d;
        value = value + assist;
      }
      if (e.finish == Finish::kDequantize) FinishDequantized(p, range.expert, range.begin + row, j, value);
      else t[static_cast<size_t>(row * p.n + j)] = value;
    }
  }
  if (e.finish != Finish::kSwigluQuant) return;
  for (int64_t row = 0; row < rows; ++row) FinishSwiglu(p, range.expert, range.begin + row, t.data() + row * p.n);
}

/// P of operator B. kFloat: fp32, fma, k ascending. kFixed16: section 8.2.
float SumOfProducts(const Problem& p, const FixedRow& fixed, const float* x, const std::vector<float>& w) {
  if (p.product == Product::kFixed16) return FixedProduct(fixed, x, w);
  float t = 0;
  for (size_t kk = 0; kk < w.size(); ++kk) t = std::fma(x[kk], w[kk], t);
  return t;
}

/// Operator B on the rows of one expert.
void RunFloat(const Problem& p, const RowRange& range) {
  const Epilogue& e = p.epilogue;
  const int64_t rows = range.end - range.begin;
  const std::vector<float> x = GatherRows<float>(p, range);
  std::vector<float> row_sum(static_cast<size_t>(rows));
  for (int64_t row = 0; row < rows; ++row) {
    double sum = 0;  // in double, rounded once: offset * X must not add an error of its own
    for (int64_t kk = 0; kk < p.k; ++kk) sum += static_cast<double>(x[static_cast<size_t>(row * p.k + kk)]);
    row_sum[static_cast<size_t>(row)] = static_cast<float>(sum);
  }
  std::vector<FixedRow> fixed(static_cast<size_t>(rows));
  for (int64_t row = 0; p.product == Product::kFixed16 && row < rows; ++row) {
    fixed[static_cast<size_t>(row)] = ToFixed(x.data() + row * p.k, p.k);
  }
  std::vector<float> w(static_cast<size_t>(p.k));
  for (int64_t j = 0; j < p.n; ++j) {
    GatherColumn(p.w, range.expert, j, w.data());
    const float scale = At(e.scale, range.expert, 0, j);
    for (int64_t row = 0; row < rows; ++row) {
      float t = SumOfProducts(p, fixed[static_cast<size_t>(row)], x.data() + row * p.k, w);
      if (e.offset.given()) t = std::fma(At(e.offset, range.expert, 0, j), row_sum[static_cast<size_t>(row)], t);
      float z = e.bias.given() ? std::fma(scale, t, At(e.bias, range.expert, 0, j)) : scale * t;
      z = Activate(e.activation, z);
      Store(p.y.data, p.y.dtype, (range.begin + row) * p.y.row_stride + j * p.y.column_stride, z);
    }
  }
}

/// Rows in no group.
void ZeroRows(const Problem& p, int64_t begin, int64_t end) {
  const int64_t bytes = Bytes(p.y.dtype), columns = p.epilogue.finish == Finish::kSwigluQuant ? p.n / 2 : p.n;
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      auto* y = static_cast<std::byte*>(p.y.data) + (i * p.y.row_stride + j * p.y.column_stride) * bytes;
      std::memset(y, 0, static_cast<size_t>(bytes));
    }
    if (p.epilogue.finish == Finish::kSwigluQuant) Store(p.y_scale.data, DType::kFloat32, i * p.y_scale.stride, 0);
  }
}

/// Elements from x[0, ..., 0] to the start of a row; rows count all axes but the last.
int64_t RowOffset(const TensorView& x, int64_t row) {
  int64_t offset = 0;
  for (int axis = x.rank - 2; axis >= 0; --axis) {
    offset += row % x.sizes[axis] * x.strides[axis];
    row /= x.sizes[axis];
  }
  return offset;
}

void StoreQuanta(const DynamicQuantProblem& p, int64_t row, const std::vector<uint8_t>& q) {
  auto* y = static_cast<uint8_t*>(p.y);
  if (p.dst_type != DType::kInt4) {
    std::memcpy(y + row * p.h, q.data(), q.size());
    return;
  }
  y += row * p.h / 2;  // h is a multiple of 8; the even element in the low nibble
  for (size_t j = 0; j < q.size(); j += 2) y[j / 2] = static_cast<uint8_t>((q[j] & 15) | (q[j + 1] << 4));
}

}  // namespace

void Run(const Problem& problem) {
  const FloatMode mode;
  int64_t next = 0;
  for (const RowRange& range : problem.rows) {
    ZeroRows(problem, next, range.begin);
    if (problem.epilogue.finish == Finish::kAffine) RunFloat(problem, range);
    else RunInteger(problem, range);
    next = range.end;
  }
  ZeroRows(problem, next, problem.m);
}

void Run(const DynamicQuantProblem& p) {
  const FloatMode mode;
  std::vector<float> v(static_cast<size_t>(p.h));
  std::vector<uint8_t> q(static_cast<size_t>(p.h));
  for (const RowRange& range : p.rows) {
    for (int64_t row = range.begin; row < range.end; ++row) {
      const int64_t begin = RowOffset(p.x_view, row), stride = p.x_view.strides[p.x_view.rank - 1];
      for (int64_t j = 0; j < p.h; ++j) {
        float value = Load(p.x_view.data, p.x_view.dtype, begin + j * stride);
        if (p.smooth.given()) value = value * At(p.smooth, range.expert, 0, j);
        v[static_cast<size_t>(j)] = value;
      }
      Store(p.scale, DType::kFloat32, row, QuantizeRow(v.data(), p.h, p.dst_type, q.data()));
      StoreQuanta(p, row, q);
    }
  }
}

}  // namespace qgmm::reference
