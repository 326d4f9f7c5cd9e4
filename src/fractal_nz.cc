// SPDX-License-Identifier: Apache-2.0
// FRACTAL_NZ, the NPU's weight storage, to plain tensors and back (docs/operators.md, section 6).
#include <cstring>

#include "check.h"
#include "qgmm/packed_weight.h"

namespace qgmm {
namespace {

constexpr int64_t kBlockRows = 16;

/// Where elements stand. Axis `outer` is cut into blocks of c0 that come first, `inner` into blocks of 16:
/// storage [ceil(outer / c0), ceil(inner / 16), 16, c0]; outer is n and inner k, or the other way round if transposed.
struct Blocks {
  int64_t c0, outer_blocks, inner_blocks;
  bool transposed;

  explicit Blocks(const FractalNzArgs& args) : c0(args.c0), transposed(args.transposed) {
    if (c0 == 0) c0 = args.dtype == DType::kInt4 ? 64 : Bytes(args.dtype) == 1 ? 32 : 16;
    const int64_t outer = transposed ? args.k : args.n, inner = transposed ? args.n : args.k;
    outer_blocks = (outer + c0 - 1) / c0;
    inner_blocks = (inner + kBlockRows - 1) / kBlockRows;
  }
  int64_t elements() const { return outer_blocks * inner_blocks * kBlockRows * c0; }
  int64_t IndexOf(int64_t kk, int64_t j) const {
    const int64_t outer = transposed ? kk : j, inner = transposed ? j : kk;
    return ((outer / c0 * inner_blocks + inner / kBlockRows) * kBlockRows + inner % kBlockRows) * c0 + outer % c0;
  }
};

void CopyElement(std::byte* to, int64_t to_index, const std::byte* from, int64_t from_index, int64_t bytes) {
  std::memcpy(to + to_index * bytes, from + from_index * bytes, static_cast<size_t>(bytes));
}

/// int4: the even element in the low nibble.
void CopyNibble(std::byte* to, int64_t to_index, const std::byte* from, int64_t from_index) {
  const std::byte value = (from[from_index / 2] >> (4 * (from_index % 2))) & std::byte{15};
  const int shift = static_cast<int>(4 * (to_index % 2));
  to[to_index / 2] = (to[to_index / 2] & ~(std::byte{15} << shift)) | (value << shift);
}

/// Every element, between plain [e, k, n] and the blocks.
void Copy(const FractalNzArgs& args, bool to_nz) {
  const Blocks blocks(args);
  const int64_t e = args.plain.rank == 3 ? args.plain.sizes[0] : 1, bytes = Bytes(args.dtype);
  auto* plain = static_cast<std::byte*>(args.plain.data);
  auto* storage = static_cast<std::byte*>(args.storage.data);
  for (int64_t row = 0; row < e * args.k; ++row) {
    const int64_t expert = row / args.k, kk = row % args.k;
    for (int64_t j = 0; j < args.n; ++j) {
      const int64_t at_plain = row * args.n + j, at_storage = expert * blocks.elements() + blocks.IndexOf(kk, j);
      auto* to = to_nz ? storage : plain;
      const auto* from = to_nz ? plain : storage;
      const int64_t to_index = to_nz ? at_storage : at_plain, from_index = to_nz ? at_plain : at_storage;
      if (args.dtype == DType::kInt4) CopyNibble(to, to_index, from, from_index);
      else CopyElement(to, to_index, from, from_index, bytes);
    }
  }
}

}  // namespace

int64_t FractalNzSize(const FractalNzArgs& args) {
  CheckFractalNzSizes(args);
  const int64_t elements = Blocks(args).elements();
  return args.dtype == DType::kInt4 ? elements / 2 : elements;
}

void FromFractalNz(const FractalNzArgs& args) {
  CheckFractalNz(args, false);
  Copy(args, false);
}

void ToFractalNz(const FractalNzArgs& args) {
  CheckFractalNz(args, true);
  const int64_t e = args.plain.rank == 3 ? args.plain.sizes[0] : 1;
  const int64_t unit = args.dtype == DType::kInt4 ? 1 : Bytes(args.dtype);
  const int64_t bytes = e * FractalNzSize(args) * unit;
  if (bytes > 0) std::memset(args.storage.data, 0, static_cast<size_t>(bytes));  // the padding
  Copy(args, true);
}

}  // namespace qgmm
