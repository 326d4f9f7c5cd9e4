// SPDX-License-Identifier: Apache-2.0
// Packed weights and FRACTAL_NZ bytes from torch.
#include <algorithm>
#include <stdexcept>

#include "call.h"
#include "kernels.h"

namespace qgmm::door {
namespace {

// -1: as the machine's kernels want it; 0, 1: no, yes.
Certification CertificationOf(int64_t certify) {
  return certify < 0 ? Certification::kAuto : certify == 0 ? Certification::kNo : Certification::kYes;
}

// Sizes beyond this are no weights: the claim stays empty and the core says what is wrong.
constexpr int64_t kLargest = int64_t{1} << 40;
bool Plausible(const FractalNzArgs& args) {
  return args.k > 0 && args.k < kLargest && args.n > 0 && args.n < kLargest && args.c0 >= 0 && args.c0 < (1 << 16) &&
         args.k < (int64_t{1} << 56) / args.n && (args.dtype == DType::kInt4 || Bytes(args.dtype) > 0);
}

int64_t Width(const FractalNzArgs& args) { return args.dtype == DType::kInt4 ? args.n / 8 : args.n; }

int64_t Count(const TensorView& view) {
  int64_t count = 1;
  for (int axis = 0; axis < view.rank && axis < TensorView::kMaxRank; ++axis) count *= view.sizes[axis];
  return count;
}

// [n blocks, k blocks, 16, c0] per expert, in elements of the storage: c0 elements, or 8 int4 to an int32.
std::vector<int64_t> StorageSizes(const FractalNzArgs& args, bool one_expert) {
  const int64_t c0 = args.c0 > 0                      ? args.c0
                     : args.dtype == DType::kInt4     ? 64
                     : Bytes(args.dtype) == 1         ? 32
                                                      : 16;
  const int64_t outer = args.transposed ? args.k : args.n, inner = args.transposed ? args.n : args.k;
  std::vector<int64_t> sizes = {(outer + c0 - 1) / c0, (inner + 15) / 16, 16,
                                args.dtype == DType::kInt4 ? c0 / 8 : c0};
  if (!one_expert) sizes.insert(sizes.begin(), args.plain.sizes[0]);
  return sizes;
}

}  // namespace

Tensor CertifyWeight(const Tensor& data, int64_t certify) {
  const PackedWeight weight = PackedIn(data);
  const Certification certification = CertificationOf(certify);
  Tensor out = Empty(data, {CertifiedBytes(weight, certification)}, ScalarType::Byte);
  Certify(weight, static_cast<uint8_t*>(out.mutable_data_ptr()), ThisThread(), certification);
  return out;
}

Tensor PackWeight(const Tensors& weight, bool swiglu, int64_t certify) {
  const Views views(weight);
  PackArgs args;
  args.weight = views.list();
  args.swiglu = swiglu;
  args.certify = CertificationOf(certify);
  const int64_t bytes = PackedBytes(args);  // refuses an empty list
  Tensor data = Empty(weight[0], {bytes}, ScalarType::Byte);
  Pack(args, static_cast<uint8_t*>(data.mutable_data_ptr()), ThisThread());
  return data;
}

Tensor PackedHeader(const Tensor& data) {
  const std::vector<int64_t> integers = IntegersOf(data);
  Tensor header = Empty(data, {static_cast<int64_t>(integers.size())}, ScalarType::Long);
  std::copy(integers.begin(), integers.end(), static_cast<int64_t*>(header.mutable_data_ptr()));
  return header;
}

Tensor UnpackWeight(const Tensor& data, const std::vector<int64_t>& packed) {
  const PackedWeight weight = PackedIn(data);
  if (packed != IntegersOf(data)) {
    throw std::invalid_argument("[PackedWeight] the integers must be those of the header in data");
  }
  const bool int4 = weight.dtype() == DType::kInt4;
  Tensor plain = Empty(data, {weight.e, weight.k, int4 ? weight.n / 8 : weight.n},
                       int4 ? ScalarType::Int : ScalarType::Char);
  Unpack(weight, plain.mutable_data_ptr(), ThisThread());
  return plain;
}

Tensor FromFractalNz(const Tensor& data, int64_t k, int64_t n, int64_t dtype, int64_t c0, bool transposed) {
  FractalNzArgs args;
  args.storage = ViewOf(data);
  args.dtype = DTypeOfNumber(dtype);
  args.k = k;
  args.n = n;
  args.c0 = c0;
  args.transposed = transposed;
  std::vector<int64_t> sizes = {0, 0, 0};
  if (Plausible(args)) {
    int64_t units = Count(args.storage);  // elements; bytes for int4
    if (args.dtype == DType::kInt4) units *= Bytes(args.storage.dtype);
    sizes = {units / FractalNzSize(args), k, Width(args)};
    if (args.storage.rank == 4) sizes.erase(sizes.begin());  // an element of a list: no axis of experts
  }
  const ScalarType type = args.dtype == DType::kInt4 ? ScalarType::Int : ScalarTypeOf(args.dtype);
  Tensor plain = Empty(data, sizes, type);
  args.plain = ViewOf(plain);
  qgmm::FromFractalNz(args, ThisThread());
  return plain;
}

Tensor ToFractalNz(const Tensor& weight, int64_t dtype, int64_t c0, bool transposed) {
  FractalNzArgs args;
  args.plain = ViewOf(weight);
  args.dtype = DTypeOfNumber(dtype);
  const bool one_expert = args.plain.rank == 2;
  if (args.plain.rank == 2 || args.plain.rank == 3) {
    args.k = args.plain.sizes[args.plain.rank - 2];
    args.n = args.plain.sizes[args.plain.rank - 1];
    if (args.dtype == DType::kInt4) args.n = args.n < kLargest ? args.n * 8 : 0;
  }
  args.c0 = c0;
  args.transposed = transposed;
  std::vector<int64_t> sizes = {0};
  if (Plausible(args)) sizes = StorageSizes(args, one_expert);
  const ScalarType type = args.dtype == DType::kInt4 ? ScalarType::Int : ScalarTypeOf(args.dtype);
  Tensor storage = Empty(weight, sizes, type);
  args.storage = ViewOf(storage);
  qgmm::ToFractalNz(args, ThisThread());
  return storage;
}

}  // namespace qgmm::door
