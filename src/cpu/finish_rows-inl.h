// SPDX-License-Identifier: Apache-2.0
// The stages of plain strips (StripArgs::plain) a row at a time, with all that does not change from row to row in registers: by
// the stages themselves, and by kernels that finish other rows between their own instructions.
#pragma once

#include <cstdint>

#include "cpu/kernel.h"
#include "cpu/math-inl.h"
#include "cpu/prefetch.h"
#include "numeric.h"

namespace qgmm::cpu {
namespace {

/// Vectors of a panel's 16 columns.
template <class V>
constexpr int kVectors = kPanelColumns / V::kLanes;

/// How many rows before it is written a row of y is fetched. Stores reach caches in order, and those of sums that kernels leave
/// are most of what a core can hold back: with y in memory each line was waited for (Granite Rapids, down projection, 256 rows,
/// finished a few at a time: 0.94 of the speed of strips without, 1.12 with). Results of operator A stay in L2.
constexpr int kRowsAhead = 8;

/// Stores either way: a maximum rises a few times per row at places nobody foresees, and each time a branch threw away the
/// rows begun after it, half of the time of SwiGLU (two Zen 5 cores, VNNI, k 2048, 256 rows: whole calls 1.04 x).
inline void Raise(uint32_t* maximum, uint32_t value) {
  const uint32_t before = *maximum;
  *maximum = value > before ? value : before;
}

/// t of a row: both panels' columns, folded slices or f(a) * ws.
template <class V>
class DequantizedRows {
 public:
  using F = typename V::F;

  DequantizedRows(const StripArgs& s, int row)
      : acc_(static_cast<const int32_t*>(s.acc) + row * kPairColumns),
        folded_(s.folded ? s.folded + row * kPairColumns : nullptr),
        x_scale_(static_cast<const float*>(s.problem->x_scale.data) + (s.first_row + row) * s.problem->x_scale.stride),
        x_scale_stride_(s.problem->x_scale.stride) {
    for (int j = 0; j < kPairColumns; j += V::kLanes) scale_[j / V::kLanes] = V::Load(s.scale + j);
  }
  /// Columns j .., t * x_scale.
  F At(int j) const {
    const F t = folded_ ? V::Load(folded_ + j) : V::Mul(V::ToFloat(V::LoadInt(acc_ + j)), scale_[j / V::kLanes]);
    return V::Mul(t, V::Set(*x_scale_));
  }
  void Next() {
    acc_ += kPairColumns;
    if (folded_) folded_ += kPairColumns;
    x_scale_ += x_scale_stride_;
  }

 private:
  const int32_t* acc_;
  const float* folded_;
  const float* x_scale_;
  int64_t x_scale_stride_;
  F scale_[2 * kVectors<V>];
};

/// Operator A: s = Silu(c[gate]) * c[up], and the maximum of the bits of |s|.
template <class V>
class SwigluRows {
 public:
  SwigluRows(const StripArgs& s, int row)
      : t_(s, row), results_(s.results + row * kPanelColumns), row_max_(s.row_max + row) {}

  void Finish() {
    typename V::I top = V::SetInt(0);
    for (int j = 0; j < kPanelColumns; j += V::kLanes) {
      const auto v = V::Mul(Silu<V>(t_.At(j)), t_.At(j + kPanelColumns));
      V::Store(results_ + j, v);
      top = V::MaxInt(top, V::AndInt(V::Bits(v), V::SetInt(0x7FFFFFFF)));
    }
    Raise(row_max_, static_cast<uint32_t>(V::MaxLane(top)));
    t_.Next();
    results_ += kPanelColumns;
    ++row_max_;
  }

 private:
  DequantizedRows<V> t_;
  float* results_;
  uint32_t* row_max_;
};

/// Rows of y, whose panels each are 16 columns side by side.
template <class V>
class StoredRows {
 public:
  StoredRows(const StripArgs& s, int row) : dtype_(s.problem->y.dtype) {
    const int64_t bytes = dtype_ == DType::kFloat32 ? 4 : 2;  // Bytes is of another file: a call, twice per row once
    stride_ = s.problem->y.row_stride * bytes;
    to_ = static_cast<std::byte*>(s.problem->y.data) + (s.first_row + row) * stride_ + s.first_column[0] * bytes;
    second_ = (s.first_column[1] - s.first_column[0]) * bytes;
  }
  void Store(int h, typename V::F (&z)[kVectors<V>]) {
    std::byte* const to = h == 0 ? to_ : to_ + second_;
    FetchLineToWrite(to + kRowsAhead * stride_);
    for (auto& vector : z) vector = CanonicalNan<V>(vector);
    V::StoreNarrow16(to, dtype_, 0, z);
  }
  void Next() { to_ += stride_; }

 private:
  DType dtype_;
  int64_t stride_, second_;  // bytes from row to row, and to the second panel's columns
  std::byte* to_;
};

/// y = t * x_scale, narrowed.
template <class V>
class PlainRows {
 public:
  PlainRows(const StripArgs& s, int row) : t_(s, row), y_(s, row) {}

  void Finish() {
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      typename V::F z[kVectors<V>];
      for (int l = 0; l < kVectors<V>; ++l) z[l] = t_.At(h * kPanelColumns + l * V::kLanes);
      y_.Store(h, z);
    }
    t_.Next();
    y_.Next();
  }

 private:
  DequantizedRows<V> t_;
  StoredRows<V> y_;
};

/// Operator B: t = offset ? fma(offset, X, P) : P;  y = bias ? fma(scale, t, bias) : scale * t, narrowed.
template <class V>
class AffineRows {
 public:
  AffineRows(const StripArgs& s, int row)
      : p_(static_cast<const float*>(s.acc) + row * kPairColumns), x_sums_(s.offset ? s.x_sums + row : nullptr), y_(s, row),
        bias_(s.bias != nullptr) {
    for (int j = 0; j < kPairColumns; j += V::kLanes) {
      scales_[j / V::kLanes] = V::Load(s.scale + j);
      offsets_[j / V::kLanes] = V::Load((s.offset ? s.offset : s.scale) + j);
      biases_[j / V::kLanes] = V::Load((bias_ ? s.bias : s.scale) + j);
    }
  }

  void Finish() {
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      typename V::F z[kVectors<V>];
      for (int l = 0; l < kVectors<V>; ++l) {
        const int i = h * kVectors<V> + l;
        auto t = V::Load(p_ + i * V::kLanes);
        if (x_sums_) t = V::Fma(offsets_[i], V::Set(*x_sums_), t);
        z[l] = bias_ ? V::Fma(scales_[i], t, biases_[i]) : V::Mul(scales_[i], t);
      }
      y_.Store(h, z);
    }
    p_ += kPairColumns;
    if (x_sums_) ++x_sums_;
    y_.Next();
  }

 private:
  const float* p_;
  const float* x_sums_;  // null: no offset
  StoredRows<V> y_;
  const bool bias_;
  typename V::F scales_[2 * kVectors<V>], offsets_[2 * kVectors<V>], biases_[2 * kVectors<V>];
};

}  // namespace
}  // namespace qgmm::cpu
