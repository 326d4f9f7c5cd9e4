// SPDX-License-Identifier: Apache-2.0
// Cases for kernels: a reference_case problem, run by the CPU wing on chosen ISA, workers and weight form, and compared
// with the reference's answer, which is computed once per case.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "cpu/backend.h"
#include "cpu/kernel.h"
#include "numeric.h"
#include "qgmm/context.h"
#include "reference.h"
#include "reference_case.h"
#include "rows_ran.h"

namespace qgmm::cpu {

/// An executor of std::thread: `count` real threads, however few cores there are.
inline void OnThreads(int count, void (*body)(int index, void* state), void* state, void* /*pool*/) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back([=] { body(i, state); });
  for (std::thread& thread : threads) thread.join();
}

/// An executor that runs everything in the caller, last index first.
inline void Backwards(int count, void (*body)(int index, void* state), void* state, void* /*pool*/) {
  for (int i = count - 1; i >= 0; --i) body(i, state);
}

/// Both outputs, byte for byte.
struct Answer {
  std::vector<uint8_t> y;
  std::vector<float> y_scale;

  bool operator==(const Answer& other) const {
    return y == other.y && y_scale.size() == other.y_scale.size() &&
           std::memcmp(y_scale.data(), other.y_scale.data(), y_scale.size() * sizeof(float)) == 0;
  }
};

/// Operator B, bfloat16 rows, some of whose values are outliers of their row.
inline reference::Case MakeOutlierCase(int64_t rows, int64_t k, int64_t n, Product product) {
  reference::Case c = reference::MakeCase(Finish::kAffine, {{rows}, k, n}, 8, DType::kInt8, DType::kBFloat16);
  const std::vector<float> x = reference::Uniform(c.m * k, 2, 9);
  c.x_bytes.resize(x.size() * 2);
  for (size_t i = 0; i < x.size(); ++i) {
    Store(c.x_bytes.data(), DType::kBFloat16, static_cast<int64_t>(i), i % 101 == 5 ? 3000.0f * x[i] : x[i]);
  }
  Problem& p = c.problem;
  p.product = product;
  if (product == Product::kFixed16) p.slice = kFixedSlice;
  p.x = {c.x_bytes.data(), DType::kBFloat16, c.m, k, k, 1};
  p.x_scale = {};
  p.y_scale = {};
  return c;
}

inline void Poison(reference::Case& c) {
  std::fill(c.y.begin(), c.y.end(), uint8_t{0xAB});
  std::fill(c.y_scale.begin(), c.y_scale.end(), -77.0f);
}

inline Answer ByReference(reference::Case& c) {
  Poison(c);
  reference::Run(c.problem);
  return {c.y, c.y_scale};
}

/// The problem's weights packed, pairing as the finish wants it; certified if there is room for residual lists.
inline std::vector<uint8_t> Packed(const Problem& p, PackedWeight* view, int64_t residual_capacity = 0) {
  Weights plain = p.w;
  plain.paired = p.epilogue.finish == Finish::kSwigluQuant;
  std::vector<uint8_t> bytes(static_cast<size_t>(PackedBytes(plain, residual_capacity)));
  Context context;
  context.parallel_for = Backwards;
  context.pool_size = 3;
  *view = Pack(plain, residual_capacity, bytes.data(), context);
  return bytes;
}

inline Answer ByKernels(reference::Case& c, Context& context) {
  Poison(c);
  c.problem.w.paired = c.problem.epilogue.finish == Finish::kSwigluQuant;
  Run(c.problem, context);
  for (const std::string& row : context.last_run.kernels) RowRan(row);
  return {c.y, c.y_scale};
}

/// Every ISA that is tested here, plain, packed and certified weights, 1, 2 and 7 workers: all equal to the reference.
inline void ExpectEverywhere(reference::Case& c, const std::string& what) {
  const Answer expected = ByReference(c);
  const Weights plain = c.problem.w;
  // The forms: plain; packed; certified with room for few and for all residues (int8).
  std::vector<PackedWeight> forms(1);
  std::vector<std::vector<uint8_t>> bytes;
  const int64_t weights = PaddedK(c.problem.k) * kPanelColumns;
  for (const int64_t capacity : {int64_t{0}, weights / 256, weights}) {
    if (capacity > 0 && plain.dtype == DType::kInt4) continue;
    forms.emplace_back();
    bytes.push_back(Packed(c.problem, &forms.back(), capacity));
  }
  for (const Isa isa : TestedIsas()) {
    for (size_t form = 0; form < forms.size(); ++form) {
      for (const int workers : {1, 2, 7}) {
        c.problem.w = plain;
        if (form > 0) c.problem.w.packed = forms[form];
        Context context;
        context.parallel_for = workers == 2 ? OnThreads : Backwards;
        context.max_workers = workers;
        context.max_isa = static_cast<int>(isa);
        const Answer got = ByKernels(c, context);
        ASSERT_TRUE(got == expected) << what << ", isa " << Name(isa) << ", form " << form
                                     << ", workers " << workers;
        ASSERT_EQ(context.last_run.isa, Name(isa)) << what;
      }
    }
  }
  c.problem.w = plain;
}

}  // namespace qgmm::cpu
