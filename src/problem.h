// SPDX-License-Identifier: Apache-2.0
// The watershed: every operation, once checked, is a Problem. Below it nobody examines user input again.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "qgmm/packed_weight.h"
#include "qgmm/types.h"

#ifdef NDEBUG
#define QGMM_DCHECK(condition) ((void)0)
#else
#define QGMM_DCHECK(condition) assert(condition)
#endif

namespace qgmm {

inline constexpr int64_t kMaxIntegerK = 131071;  // 131,071 products of -128 * -128 still fit int32

/// How one slice of k is summed: exactly in int32 (modulo 2^32), or in fp32 by fma, k ascending in one lane. kFixed16: 16-bit
/// floats x as int16 times a power of two per row and slice (docs/operators.md, section 8.2).
enum class Product : uint8_t { kInt8, kInt4, kFloat, kFixed16 };

/// k elements per slice of kFixed16: 512 * 32752 * 128 = 2,146,435,072 still fits int32. The last slice may be shorter.
inline constexpr int64_t kFixedSlice = 512;

/// What becomes of the sums of a row.
enum class Finish : uint8_t {
  kSwigluQuant,  // operator A: y and y_scale
  kAffine,       // operator B: act(scale * (P + offset * X) + bias), narrowed
  kDequantize,   // grouped_matmul: act(t * x_scale + bias), narrowed
  kInt32,        // grouped_matmul with int32 output: the sums themselves
};

enum class Activation : uint8_t { kNone = 0, kRelu = 1, kGeluTanh = 2, kFastGelu = 4, kSilu = 5 };

struct Vector {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t size = 0, stride = 1;  // elements
};

struct Matrix {
  void* data = nullptr;
  DType dtype = DType::kInt8;
  int64_t rows = 0, columns = 0, row_stride = 0, column_stride = 1;  // elements
};

/// Rows [begin, end) of x belong to expert `expert`; never empty, ascending, disjoint.
struct RowRange {
  int64_t expert, begin, end;
};

/// Values per column: one row of n (or h) per expert and slice. Scales, offsets, bias, assist, smooth.
struct Columns {
  struct Source {
    const void* data = nullptr;
    int64_t slice_stride = 0, column_stride = 0;  // elements; column_stride 0: one value for all columns
  };
  DType dtype = DType::kFloat32;  // kInt64 and kUInt64: the low 32 bits are a float32
  const void* data = nullptr;     // one tensor for all experts ...
  int64_t expert_stride = 0;      // elements
  int64_t slice_stride = 0, column_stride = 0;
  std::vector<Source> list;       // ... or one per expert

  bool given() const { return data != nullptr || !list.empty(); }
  Source Of(int64_t expert) const {
    if (!list.empty()) return list[static_cast<size_t>(expert)];
    return {static_cast<const std::byte*>(data) + expert * expert_stride * Bytes(dtype), slice_stride, column_stride};
  }
};

/// Weights [e, k, n] in one of two forms: packed panels, or plain views that the run packs as it goes.
struct Weights {
  struct Plain {
    const void* data = nullptr;  // int8 [k, n], or int32 [k, n / 8] holding int4
    int64_t k_stride = 0, n_stride = 0;  // elements of that dtype
  };
  int64_t e = 0, k = 0, n = 0;
  DType dtype = DType::kInt8;  // kInt8 or kInt4
  bool paired = false;         // panels of gate and up columns alternate (operator A)
  PackedWeight packed;         // given() or ...
  Plain plain;                 // ... one tensor for all experts, expert_stride elements apart, or ...
  int64_t expert_stride = 0;
  std::vector<Plain> list;     // ... one per expert

  Plain Of(int64_t expert) const {
    if (!list.empty()) return list[static_cast<size_t>(expert)];
    Plain p = plain;
    p.data = static_cast<const std::byte*>(p.data) + expert * expert_stride * (dtype == DType::kInt4 ? 4 : 1);
    return p;
  }
};

/// One weight, whatever the form; j in the caller's column order. The only definition of "the value of a weight".
int WeightAt(const Weights& weights, int64_t expert, int64_t k, int64_t j);

struct Epilogue {
  Finish finish = Finish::kDequantize;
  Columns scale;      // [e, slices, n]; absent for kInt32
  Columns int_bias;   // int32 [e, n], added to the sum modulo 2^32; one slice only
  Columns assist;     // float32 [e, n]
  Columns smooth;     // float32 [e] or [e, h]
  Columns offset;     // kAffine: [e, n]
  Columns bias;       // kAffine, kDequantize: float bias [e, n]
  float limit = 0;    // swiglu limit L; acts only if `limited`
  bool limited = false;
  Activation activation = Activation::kNone;

  /// Of what stands per column.
  bool only_scales() const {
    return !int_bias.given() && !assist.given() && !smooth.given() && !offset.given() && !bias.given();
  }
};

struct Problem {
  const char* operation = "";      // the name that was called
  Device device;
  int64_t m = 0, k = 0, n = 0, e = 0;
  Matrix x;                        // [m, k]: int8; float16, bfloat16 (kFixed16 too) or float32 for kFloat
  Vector x_scale;                  // [m] float32; data null: no factor
  Weights w;
  std::vector<RowRange> rows;      // one per expert that has rows
  Product product = Product::kInt8;
  int64_t slice = 0;               // k elements per slice: k / G; kFixedSlice, whatever k is
  Epilogue epilogue;
  Matrix y;                        // [m, n], operator A [m, n / 2]
  Vector y_scale;                  // operator A only
  int64_t expected_rows = 0;       // tuning hint: rows per expert to plan for; 0: none
  std::string warning;             // a vendor list that was clamped, in words; empty: nothing to say

  int64_t slices() const { return (k + slice - 1) / slice; }
  /// Slices with scales of their own in the weights: kFixed16's are scales of x.
  int64_t scale_slices() const { return product == Product::kFixed16 ? 1 : slices(); }
  /// Sums of slices are folded into fp32.
  bool folds() const { return product == Product::kFixed16 || slices() > 1; }
};

}  // namespace qgmm
