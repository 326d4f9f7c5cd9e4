// SPDX-License-Identifier: Apache-2.0
// The words of the C++ demo: a case (what is multiplied), its experts and tokens, and what a call left behind.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "qgmm/context.h"
#include "qgmm/packed_weight.h"
#include "qgmm/types.h"

namespace demo {

enum class Operation { kA, kB, kDown };

struct Case {
  const char* title;
  Operation operation;
  int64_t experts, k, n;
  std::vector<int64_t> counts;  // rows per expert; a shorter list repeats its last entry
  int64_t tail;                 // rows behind the last group: they must become zeros
  qgmm::DType weights;          // kInt8 or kInt4
  int64_t slices;               // scales per column: 1, or k / 128
  bool packed;                  // multiply packed weights, or plain [e, k, n] that are packed during the call
  int64_t judged_rows;          // at most so many rows are recomputed by the reference; 0: all
};

/// 64-byte aligned memory; contents undefined.
class Buffer {
 public:
  explicit Buffer(size_t bytes = 0)
      : bytes_(bytes), data_(bytes ? std::aligned_alloc(64, (bytes + 63) / 64 * 64) : nullptr, std::free) {}
  uint8_t* data() const { return static_cast<uint8_t*>(data_.get()); }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_;
  std::unique_ptr<void, decltype(&std::free)> data_;
};

struct Experts {
  Buffer plain;               // int8 [e, k, n], or int4: int32 [e, k, n / 8]
  Buffer packed_bytes;
  qgmm::PackedWeight packed;  // given() if the case wants packed weights
  std::vector<float> scale;   // [e, slices, n]
};

struct Tokens {
  int64_t rows = 0;             // all rows, those in no group included
  std::vector<int64_t> counts;  // [e]
  Buffer x;                     // int8 or bfloat16 [rows, k]
  std::vector<float> x_scale;   // [rows]
};

struct Result {
  int64_t row_bytes = 0;
  Buffer y;
  std::vector<float> y_scale;  // operator A only
};

/// One call of the case's operation; outputs are poisoned before it.
void Call(const Case& c, const Experts& experts, bool packed, const Tokens& tokens, qgmm::Context& context,
          Result& result);

struct Verdict {
  bool right;
  std::string text;  // "bits equal, 64 rows"
};

/// Recomputes rows of the result by the scalar reference, from the plain weights. Operator B may differ from it within
/// the bound of docs/operators.md, section 8.2.
Verdict Judge(const Case& c, const Experts& experts, const Tokens& tokens, const Result& result);

}  // namespace demo
