// SPDX-License-Identifier: Apache-2.0
// The stages between integer sums and results, over one ISA's vocabulary. Each is the formula of docs/operators.md in its
// written order; reference.cc has the same formulas. A stage not in use is one predictable branch per row.
#pragma once

#include <cstdint>

#include "cpu/finish_rows-inl.h"
#include "cpu/fixed-inl.h"
#include "cpu/kernel.h"
#include "cpu/lines-inl.h"
#include "cpu/math-inl.h"
#include "cpu/quantize-inl.h"
#include "cpu/residual-inl.h"
#include "numeric.h"

namespace qgmm::cpu {
namespace {

constexpr int kRow = kPairColumns;  // a row of a strip: 16 columns of the pair's first panel, 16 of the second

/// c = fma(f(a_p), ws_p, c), slices ascending, from c = +0.
template <class V>
void Fold(const int32_t* acc, const float* scale, bool first, int rows, float* c) {
  for (int i = 0; i < rows; ++i, acc += kRow, c += kRow) {
    for (int j = 0; j < kRow; j += V::kLanes) {
      const auto sum = first ? V::Set(0.0f) : V::Load(c + j);
      V::Store(c + j, V::Fma(V::ToFloat(V::LoadInt(acc + j)), V::Load(scale + j), sum));
    }
  }
}

/// t of row i, columns j ..: folded slices, or f(a + bias) * ws.
template <class V>
inline typename V::F Dequantize(const StripArgs& s, int i, int j, bool with_bias) {
  if (s.folded) return V::Load(s.folded + i * kRow + j);
  auto a = V::LoadInt(static_cast<const int32_t*>(s.acc) + i * kRow + j);
  if (with_bias && s.int_bias) a = V::AddInt(a, V::LoadInt(s.int_bias + j));
  return V::Mul(V::ToFloat(a), V::Load(s.scale + j));
}

/// t of a real row: with assist t = t - d;  t = t + assist.
template <class V>
inline typename V::F RowT(const StripArgs& s, int i, int j) {
  auto t = Dequantize<V>(s, i, j, true);
  if (s.assist) t = V::Add(V::Sub(t, V::Load(s.d + j)), V::Load(s.assist + j));
  return t;
}

/// d: the t, without bias, of the row of eights that stands first.
template <class V>
void KeepD(const StripArgs& s) {
  for (int j = 0; j < kRow; j += V::kLanes) V::Store(s.d + j, Dequantize<V>(s, 0, j, false));
}

/// Of rows from `begin` on: the row of eights has no result.
inline int FirstReal(const StripArgs& s, int begin) { return begin < s.assist_row ? s.assist_row : begin; }

inline float XScale(const StripArgs& s, int row) {
  const Vector& scale = s.problem->x_scale;
  return static_cast<const float*>(scale.data)[(s.first_row + row) * scale.stride];
}

template <class Rows>
void FinishRows(const StripArgs& s, int begin, int end) {
  Rows rows(s, begin);
  for (int i = begin; i < end; ++i) rows.Finish();
}

/// c = t * x_scale;  limit;  s = Silu(gate) * up;  s = s * smooth;  row maximum of bits |s| over real columns.
/// Here and below the arguments are copied first: a store of results might change what they point from, so that everything
/// was read again for each vector (a third of the time of FinishDequantize on a Zen 4).
template <class V>
void FinishSwiglu(const StripArgs& args, int begin, int end) {
  using I = typename V::I;
  if (args.plain) return FinishRows<SwigluRows<V>>(args, begin, end);
  const StripArgs s = args;
  if (begin < s.assist_row) KeepD<V>(s);
  const bool limited = s.problem->epilogue.limited;
  const auto limit = V::Set(s.problem->epilogue.limit), low = V::Set(-s.problem->epilogue.limit);
  for (int i = FirstReal(s, begin); i < end; ++i) {
    const int row = i - s.assist_row;
    const auto x_scale = V::Set(XScale(s, row));
    float* out = s.results + row * kPanelColumns;
    I top = V::SetInt(0);
    for (int j = 0; j < kPanelColumns; j += V::kLanes) {
      auto gate = V::Mul(RowT<V>(s, i, j), x_scale);
      auto up = V::Mul(RowT<V>(s, i, j + kPanelColumns), x_scale);
      if (limited) {
        gate = V::Min(gate, limit);
        up = V::Max(V::Min(up, limit), low);
      }
      auto v = V::Mul(Silu<V>(gate), up);
      if (s.smooth) v = V::Mul(v, V::Load(s.smooth + j));
      V::Store(out + j, v);
      top = V::MaxInt(top, V::AndInt(V::Bits(v), V::SetInt(0x7FFFFFFF)));
    }
    uint32_t highest = 0;
    if (s.columns[0] == kPanelColumns) {
      highest = static_cast<uint32_t>(V::MaxLane(top));
    } else {  // padding is left out by index: an infinite x_scale turned its zeros into NaN
      for (int j = 0; j < s.columns[0]; ++j) {
        const uint32_t bits = Bits(out[j]) & 0x7FFFFFFFu;
        highest = bits > highest ? bits : highest;
      }
    }
    Raise(s.row_max + row, highest);
  }
}

/// Narrows the z of one panel once and stores its real columns.
template <class V>
inline void StoreRow(const Matrix& y, int64_t row, int64_t column, int count, typename V::F (&z)[kVectors<V>]) {
  for (auto& vector : z) vector = CanonicalNan<V>(vector);
  const int64_t at = row * y.row_stride + column * y.column_stride;
  if (y.column_stride == 1 && count == kPanelColumns && V::StoreNarrow16(y.data, y.dtype, at, z)) return;
  alignas(64) float each[kPanelColumns];
  for (int l = 0; l < kVectors<V>; ++l) V::Store(each + l * V::kLanes, z[l]);
  for (int j = 0; j < count; ++j) Store(y.data, y.dtype, at + j * y.column_stride, each[j]);
}

/// t = offset ? fma(offset, X, P) : P;  z = bias ? fma(scale, t, bias) : scale * t;  y = act(z).
template <class V>
void FinishAffine(const StripArgs& args, int begin, int end) {
  if (V::kLanes > 1 && args.plain) return FinishRows<AffineRows<V>>(args, begin, end);
  const StripArgs s = args;
  const Matrix y = s.problem->y;
  const Activation activation = s.problem->epilogue.activation;
  for (int i = begin; i < end; ++i) {
    for (int h = 0; h < 2; ++h) {
      typename V::F z[kVectors<V>];
      for (int l = 0; l < kVectors<V>; ++l) {
        const int j = h * kPanelColumns + l * V::kLanes;
        auto t = V::Load(static_cast<const float*>(s.acc) + i * kRow + j);
        if (s.offset) t = V::Fma(V::Load(s.offset + j), V::Set(s.x_sums[i]), t);
        const auto scale = V::Load(s.scale + j);
        t = s.bias ? V::Fma(scale, t, V::Load(s.bias + j)) : V::Mul(scale, t);
        z[l] = Activate<V>(activation, t);
      }
      StoreRow<V>(y, s.first_row + i, s.first_column[h], s.columns[h], z);
    }
  }
}

/// y = a + bias.
inline void FinishIntegers(const StripArgs& s, int begin, int end) {
  const Matrix& y = s.problem->y;
  for (int i = FirstReal(s, begin); i < end; ++i) {
    const int64_t row = s.first_row + i - s.assist_row;
    for (int h = 0; h < 2; ++h) {
      const int32_t* a = static_cast<const int32_t*>(s.acc) + i * kRow + h * kPanelColumns;
      int32_t* out = static_cast<int32_t*>(y.data) + row * y.row_stride + s.first_column[h] * y.column_stride;
      for (int j = 0; j < s.columns[h]; ++j) {
        const uint32_t bias = s.int_bias ? static_cast<uint32_t>(s.int_bias[h * kPanelColumns + j]) : 0;
        out[j * y.column_stride] = static_cast<int32_t>(static_cast<uint32_t>(a[j]) + bias);
      }
    }
  }
}

/// z = t * x_scale;  z = z + bias;  y = act(z). kInt32: y = a + bias.
template <class V>
void FinishDequantize(const StripArgs& args, int begin, int end) {
  if (V::kLanes > 1 && args.plain) return FinishRows<PlainRows<V>>(args, begin, end);
  const StripArgs s = args;
  const Epilogue& e = s.problem->epilogue;
  if (e.finish == Finish::kInt32) return FinishIntegers(s, begin, end);
  if (begin < s.assist_row) KeepD<V>(s);
  const Matrix y = s.problem->y;
  const Activation activation = e.activation;
  const bool scaled = s.problem->x_scale.data != nullptr;
  for (int i = FirstReal(s, begin); i < end; ++i) {
    const auto x_scale = V::Set(scaled ? XScale(s, i - s.assist_row) : 1.0f);
    for (int h = 0; h < 2; ++h) {
      typename V::F z[kVectors<V>];
      for (int l = 0; l < kVectors<V>; ++l) {
        const int j = h * kPanelColumns + l * V::kLanes;
        z[l] = RowT<V>(s, i, j);
        if (scaled) z[l] = V::Mul(z[l], x_scale);
        if (s.bias) z[l] = V::Add(z[l], V::Load(s.bias + j));
        z[l] = Activate<V>(activation, z[l]);
      }
      StoreRow<V>(y, s.first_row + i - s.assist_row, s.first_column[h], s.columns[h], z);
    }
  }
}

template <class V>
void ExpSilu(const float* t, int count, float* exp, float* silu) {
  int j = 0;
  for (; j + V::kLanes <= count; j += V::kLanes) {
    V::Store(exp + j, Exp<V>(V::Load(t + j)));
    V::Store(silu + j, Silu<V>(V::Load(t + j)));
  }
  alignas(64) float rest[V::kLanes] = {}, e[V::kLanes], s[V::kLanes];
  for (int l = j; l < count; ++l) rest[l - j] = t[l];
  V::Store(e, Exp<V>(V::Load(rest)));
  V::Store(s, Silu<V>(V::Load(rest)));
  for (int l = j; l < count; ++l) exp[l] = e[l - j], silu[l] = s[l - j];
}

/// `Reader`: the vocabulary of row_max, which waits for memory.
template <class V, class Reader = V>
constexpr Stages MakeStages(Isa isa, LineMakers lines = kPortableLines) {
  return {isa, Fold<V>, FoldRows<V>, AddOutliers<V>, FinishSwiglu<V>, FinishAffine<V>, FinishDequantize<V>, Quantize<V>,
          RowMax<Reader>, AddResiduals, TransposeX, lines, ExpSilu<V>};
}

}  // namespace
}  // namespace qgmm::cpu
