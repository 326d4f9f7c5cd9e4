// SPDX-License-Identifier: Apache-2.0
// FRACTAL_NZ, the NPU's weight storage, to plain tensors and back (docs/operators.md, section 6).
#include <algorithm>
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

/// int4: the even element in the low nibble.
void CopyNibble(std::byte* to, int64_t to_index, const std::byte* from, int64_t from_index) {
  const std::byte value = (from[from_index / 2] >> (4 * (from_index % 2))) & std::byte{15};
  const int shift = static_cast<int>(4 * (to_index % 2));
  to[to_index / 2] = (to[to_index / 2] & ~(std::byte{15} << shift)) | (value << shift);
}

/// Elements [0, count) of `Bytes` bytes each, `step` apart in plain and consecutive in the storage.
template <int kBytes>
void CopyRun(std::byte* plain, int64_t step, std::byte* storage, int64_t count, bool to_nz) {
  if (step == 1) {
    std::memcpy(to_nz ? storage : plain, to_nz ? plain : storage, static_cast<size_t>(count * kBytes));
    return;
  }
  for (int64_t i = 0; i < count; ++i, plain += step * kBytes, storage += kBytes) {
    std::memcpy(to_nz ? storage : plain, to_nz ? plain : storage, kBytes);
  }
}

/// Rows of blocks, c0 elements each, which are neighbours in plain unless the storage is transposed.
template <int kBytes>
void CopyRows(const FractalNzArgs& args, const Blocks& blocks, int64_t e, bool to_nz) {
  const int64_t outer = args.transposed ? args.k : args.n, inner = args.transposed ? args.n : args.k;
  const int64_t outer_step = args.transposed ? args.n : 1, inner_step = args.transposed ? 1 : args.n;
  for (int64_t expert = 0; expert < e; ++expert) {
    auto* plain = static_cast<std::byte*>(args.plain.data) + expert * args.k * args.n * kBytes;
    auto* storage = static_cast<std::byte*>(args.storage.data) + expert * blocks.elements() * kBytes;
    for (int64_t o = 0; o < outer; o += blocks.c0) {
      std::byte* row = storage + o * blocks.inner_blocks * kBlockRows * kBytes;
      for (int64_t i = 0; i < inner; ++i, row += blocks.c0 * kBytes) {
        std::byte* first = plain + (o * outer_step + i * inner_step) * kBytes;
        CopyRun<kBytes>(first, outer_step, row, std::min(blocks.c0, outer - o), to_nz);
      }
    }
  }
}

void CopyNibbles(const FractalNzArgs& args, const Blocks& blocks, int64_t e, bool to_nz) {
  auto* plain = static_cast<std::byte*>(args.plain.data);
  auto* storage = static_cast<std::byte*>(args.storage.data);
  for (int64_t row = 0; row < e * args.k; ++row) {
    const int64_t expert = row / args.k, kk = row % args.k;
    for (int64_t j = 0; j < args.n; ++j) {
      const int64_t at_plain = row * args.n + j, at_storage = expert * blocks.elements() + blocks.IndexOf(kk, j);
      if (to_nz) CopyNibble(storage, at_storage, plain, at_plain);
      else CopyNibble(plain, at_plain, storage, at_storage);
    }
  }
}

/// Every element, between plain [e, k, n] and the blocks.
void Copy(const FractalNzArgs& args, bool to_nz) {
  const Blocks blocks(args);
  const int64_t e = args.plain.rank == 3 ? args.plain.sizes[0] : 1;
  if (args.dtype == DType::kInt4) {
    if (args.transposed || args.n % 2 != 0 || blocks.c0 % 2 != 0) return CopyNibbles(args, blocks, e, to_nz);
    FractalNzArgs pairs = args;  // of columns, which stay together: bytes
    pairs.dtype = DType::kInt8;
    pairs.n = args.n / 2;
    pairs.c0 = blocks.c0 / 2;
    return CopyRows<1>(pairs, Blocks(pairs), e, to_nz);
  }
  switch (Bytes(args.dtype)) {
    case 1: return CopyRows<1>(args, blocks, e, to_nz);
    case 2: return CopyRows<2>(args, blocks, e, to_nz);
    default: return CopyRows<4>(args, blocks, e, to_nz);
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
