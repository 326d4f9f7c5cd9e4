// SPDX-License-Identifier: Apache-2.0
// Weights to be packed, in any layout, and what Pack makes of them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cpu/backend.h"
#include "cpu/pack.h"
#include "kernel_case.h"
#include "packed_format.h"
#include "views.h"

namespace qgmm::cpu {

struct Shape {
  int64_t e, k, n;
  DType dtype;
  bool paired;
};

inline std::string Words(const Shape& s) {
  return std::string(Name(s.dtype)) + (s.paired ? " paired" : "") + ", e " + std::to_string(s.e) + ", k " +
         std::to_string(s.k) + ", n " + std::to_string(s.n);
}

/// Random weights [e][k][n], the extremes among them.
inline std::vector<int> RandomValues(const Shape& s, uint32_t seed) {
  std::mt19937 random(seed);
  const int low = s.dtype == DType::kInt4 ? -8 : -128;
  std::uniform_int_distribution<int> weights(low, -low - 1);
  std::vector<int> values(static_cast<size_t>(s.e * s.k * s.n));
  for (size_t i = 0; i < values.size(); ++i) values[i] = i % 11 == 0 ? low : weights(random);
  return values;
}

inline int ValueAt(const Shape& s, const std::vector<int>& values, int64_t e, int64_t k, int64_t j) {
  return values[static_cast<size_t>((e * s.k + k) * s.n + j)];
}

inline int64_t Elements(const Shape& s) { return s.dtype == DType::kInt4 ? s.n / 8 : s.n; }  // of the tensor, along n

/// The tensor [e, k, n] or [e, k, n / 8] of those values with any strides (elements), between guard pages.
inline Owned Tensor(const Shape& s, const std::vector<int>& values, const std::vector<int64_t>& strides, Edge edge,
             int64_t first_expert = 0, int64_t experts = -1) {
  const int64_t width = Elements(s), per = s.n / width;
  const int64_t count = experts < 0 ? s.e : experts;
  Owned tensor(s.dtype == DType::kInt4 ? DType::kInt32 : DType::kInt8, {count, s.k, width}, strides, edge);
  for (int64_t flat = 0; flat < count * s.k * width; ++flat) {
    const int64_t j = flat % width * per, k = flat / width % s.k, e = first_expert + flat / width / s.k;
    uint32_t word = 0;
    for (int64_t i = 0; i < per; ++i) {
      word |= (static_cast<uint32_t>(ValueAt(s, values, e, k, j + i)) & (per == 8 ? 15u : 255u)) << (4 * i);
    }
    std::memcpy(tensor.At(flat), &word, per == 8 ? 4 : 1);
  }
  return tensor;
}

inline Weights WeightsOf(const Shape& s, const Owned& tensor) {
  Weights w;
  w.e = s.e, w.k = s.k, w.n = s.n, w.dtype = s.dtype, w.paired = s.paired;
  const TensorView& view = tensor.view();
  w.plain = {view.data, view.strides[1], view.strides[2]};
  w.expert_stride = view.strides[0];
  return w;
}

/// This machine's ISAs that pack each in their own way.
inline std::vector<Isa> PackingIsas() {
  std::vector<Isa> isas;
  for (const Isa isa : MachineIsas()) {
    if (StagesFor(isa).isa == isa) isas.push_back(isa);
  }
  return isas;
}

/// Bytes of Pack, `shift` bytes off an aligned address, with poison around them.
inline std::vector<uint8_t> PackedBytesOf(const Weights& w, int workers = 1, size_t shift = 0, int64_t residual_capacity = 0,
                                   int isa = -1) {
  const size_t bytes = static_cast<size_t>(PackedBytes(w, residual_capacity));
  std::vector<uint8_t> memory(bytes + 256, 0xAB);
  uint8_t* out = memory.data() + 64 + shift;
  Context context;
  context.parallel_for = workers > 1 ? OnThreads : Backwards;
  context.max_workers = workers;
  context.max_isa = isa;
  const PackedWeight packed = Pack(w, residual_capacity, out, context);
  EXPECT_EQ(packed.data, out);
  EXPECT_EQ(packed.bytes, static_cast<int64_t>(bytes));
  const auto poisoned = [](uint8_t byte) { return byte == 0xAB; };
  EXPECT_TRUE(std::all_of(memory.data(), out, poisoned)) << "written before the output";
  EXPECT_TRUE(std::all_of(out + bytes, memory.data() + memory.size(), poisoned)) << "written behind the output";
  return {out, out + bytes};
}

/// Bytes of Unpack, on two threads, with poison around them.
inline std::vector<uint8_t> UnpackedOf(const PackedWeight& packed) {
  const size_t bytes = static_cast<size_t>(packed.e * packed.k * packed.n / (packed.dtype() == DType::kInt4 ? 2 : 1));
  std::vector<uint8_t> memory(bytes + 64, 0xAB);
  Context context;
  context.parallel_for = OnThreads;
  context.max_workers = 2;
  qgmm::Unpack(packed, memory.data() + 32, context);
  const auto poisoned = [](uint8_t byte) { return byte == 0xAB; };
  EXPECT_TRUE(std::all_of(memory.begin(), memory.begin() + 32, poisoned)) << "written before the tensor";
  EXPECT_TRUE(std::all_of(memory.end() - 32, memory.end(), poisoned)) << "written behind the tensor";
  return {memory.begin() + 32, memory.end() - 32};
}

inline std::vector<uint8_t> BytesOf(const Owned& contiguous) {
  const auto* data = static_cast<const uint8_t*>(contiguous.view().data);
  return {data, data + contiguous.byte_count()};
}

}  // namespace qgmm::cpu
