// SPDX-License-Identifier: Apache-2.0
// Expert weights reordered once, for the kernels: format, packing, and the way back to single values.
#pragma once

#include <cstddef>
#include <cstdint>

#include "qgmm/types.h"

namespace qgmm {

class Context;

/// What the bytes of a PackedWeight mean: wing (CPU), dtype, and whether gate and up columns are paired (operator A).
enum class Layout : int32_t { kCpuInt8 = 1, kCpuInt8Paired = 2, kCpuInt4 = 3, kCpuInt4Paired = 4 };

/// A borrowed view of packed expert weights [e, k, n]. The bytes start with a header that repeats layout, e, k and n;
/// docs/packing.md has the format. They may lie at any address; 64-byte alignment is faster.
struct PackedWeight {
  const uint8_t* data = nullptr;
  int64_t bytes = 0;
  Layout layout = Layout::kCpuInt8;
  int64_t e = 0, k = 0, n = 0;
  Device device;

  bool given() const { return data != nullptr || bytes != 0; }
  bool paired() const { return layout == Layout::kCpuInt8Paired || layout == Layout::kCpuInt4Paired; }
  DType dtype() const { return layout >= Layout::kCpuInt4 ? DType::kInt4 : DType::kInt8; }
};

/// Whether int8 weights carry certificates: a promise per panel that makes the fastest exact kernels of AVX2 and AVX-512
/// without VNNI possible, and lists of what the promise cost (docs/packing.md). The weights stay the same, and so do all
/// results; other machines' kernels read such weights a little slower.
enum class Certification : int8_t {
  kAuto = -1,  // as the best kernels of this machine (or of QGMM_MAX_ISA) want it; int4 and k > 131071: no
  kNo = 0,
  kYes = 1,
};

struct PackArgs {
  TensorList weight;    // one [e, k, n] or e [k, n]: int8, or int32 [.., n / 8] holding packed int4; any strides
  bool swiglu = false;  // true: for GroupedMatmulSwigluQuant (gate columns [0, n/2), up columns [n/2, n))
  Certification certify = Certification::kAuto;
  double max_residuals = 1.0 / 256;  // places in a panel's list, as a share of its weights, in (0, 1]
};

/// Bytes that Pack will write. Throws InvalidArgument for what Pack would refuse.
QGMM_EXPORT int64_t PackedBytes(const PackArgs& args);

/// Writes PackedBytes(args) bytes to `out` (64-byte aligned for speed) and returns the view of them.
QGMM_EXPORT PackedWeight Pack(const PackArgs& args, uint8_t* out, Context& context);

/// The same weights with certificates or without them, for bytes that come from another kind of machine; not in place.
QGMM_EXPORT int64_t CertifiedBytes(const PackedWeight& weight, Certification certify, double max_residuals = 1.0 / 256);
QGMM_EXPORT PackedWeight Certify(const PackedWeight& weight, uint8_t* out, Context& context, Certification certify,
                                 double max_residuals = 1.0 / 256);

/// The plain weights again, contiguous: int8 [e, k, n], or int32 [e, k, n / 8] holding packed int4.
QGMM_EXPORT void Unpack(const PackedWeight& weight, void* plain, Context& context);

/// Reads and validates the header of bytes that Pack once wrote (a file, a state_dict). Throws InvalidArgument.
QGMM_EXPORT PackedWeight FromBytes(const uint8_t* data, int64_t bytes);

/// The weight of expert e, inner index k, column j (0 <= j < n, in the caller's order). For tests, reference and tools.
QGMM_EXPORT int At(const PackedWeight& weight, int64_t e, int64_t k, int64_t j);

/// FRACTAL_NZ (the NPU's storage: zero-padded blocks of 16 by c0, the blocks of the c0 axis outermost) to a plain
/// tensor and back. `dtype`: kInt8, kInt4 (bytes or int32 hold nibbles) or any dtype of 1, 2 or 4 bytes.
struct FractalNzArgs {
  TensorView storage;  // any shape, contiguous; holds e * blocks * 16 * c0 elements
  TensorView plain;    // [e, k, n] or [k, n], contiguous; for kInt4 int32 [.., n / 8]
  DType dtype = DType::kInt8;
  int64_t k = 0, n = 0;
  int64_t c0 = 0;  // 0: the usual width, 32 bytes per row (32 int8, 64 int4) or 16 elements for wider dtypes
  bool transposed = false;  // storage [e, ceil(k/c0), ceil(n/16), 16, c0]
};
/// Elements (kInt4: bytes) of the storage of one expert; throws InvalidArgument for sizes that make no sense.
QGMM_EXPORT int64_t FractalNzSize(const FractalNzArgs& args);
QGMM_EXPORT void FromFractalNz(const FractalNzArgs& args, Context& context);
QGMM_EXPORT void ToFractalNz(const FractalNzArgs& args, Context& context);

}  // namespace qgmm
