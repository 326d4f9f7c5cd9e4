// SPDX-License-Identifier: Apache-2.0
// Tensors for tests: any strides, memory between guard pages that is exactly as long as the strides need, poison.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "qgmm/types.h"

namespace qgmm {

/// Which end of the memory lies on a guard page; the other end is less than a page away from one.
enum class Edge { kFront, kBack };

/// `bytes` of memory between two pages that nobody may touch.
class GuardedBytes {
 public:
  explicit GuardedBytes(size_t bytes, Edge edge = Edge::kBack) : bytes_(bytes) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t inside = (bytes + page - 1) / page * page;
    mapped_ = inside + 2 * page;
    void* base = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) throw std::runtime_error("mmap failed");
    base_ = static_cast<uint8_t*>(base);
    if (inside > 0 && mprotect(base_ + page, inside, PROT_READ | PROT_WRITE) != 0) {
      throw std::runtime_error("mprotect failed");
    }
    inside_ = inside;
    data_ = edge == Edge::kFront ? base_ + page : base_ + page + inside - bytes;
  }
  GuardedBytes(GuardedBytes&& other) noexcept { *this = std::move(other); }
  GuardedBytes& operator=(GuardedBytes&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(inside_, other.inside_);
    std::swap(mapped_, other.mapped_);
    return *this;
  }
  ~GuardedBytes() {
    if (base_) munmap(base_, mapped_);
  }

  uint8_t* data() const { return data_; }
  size_t size() const { return bytes_; }
  /// From now on whoever writes crashes.
  void MakeReadOnly() const {
    if (inside_ > 0) mprotect(base_ + (mapped_ - inside_) / 2, inside_, PROT_READ);
  }

 private:
  uint8_t *base_ = nullptr, *data_ = nullptr;
  size_t bytes_ = 0, inside_ = 0, mapped_ = 0;
};

/// Row-major strides.
inline std::vector<int64_t> Contiguous(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t axis = sizes.size(); axis-- > 0;) {
    strides[axis] = stride;
    stride *= std::max<int64_t>(sizes[axis], 1);
  }
  return strides;
}

/// A tensor and its memory. Elements may lie anywhere the strides say, negative ones included.
class Owned {
 public:
  Owned() = default;  // absent
  Owned(DType dtype, const std::vector<int64_t>& sizes, Edge edge = Edge::kBack)
      : Owned(dtype, sizes, Contiguous(sizes), edge) {}
  Owned(DType dtype, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, Edge edge = Edge::kBack)
      : memory_(0) {
    int64_t first = 0, last = 0;
    bool empty = false;
    for (size_t axis = 0; axis < sizes.size(); ++axis) {
      empty |= sizes[axis] == 0;
      (strides[axis] < 0 ? first : last) += strides[axis] * (sizes[axis] - 1);
      view_.sizes[axis] = sizes[axis];
      view_.strides[axis] = strides[axis];
    }
    const int64_t bytes = Bytes(dtype);
    memory_ = GuardedBytes(empty ? 0 : static_cast<size_t>((last - first + 1) * bytes), edge);
    view_.data = memory_.data() - (empty ? 0 : first * bytes);
    view_.dtype = dtype;
    view_.rank = static_cast<int>(sizes.size());
  }

  const TensorView& view() const { return view_; }
  operator const TensorView&() const { return view_; }  // NOLINT: an owner stands wherever its view does
  uint8_t* bytes() const { return memory_.data(); }
  size_t byte_count() const { return memory_.size(); }
  void MakeReadOnly() const { memory_.MakeReadOnly(); }

  /// Every byte of the memory, also those between elements.
  void Poison(uint8_t pattern) {
    if (memory_.size() > 0) std::memset(memory_.data(), pattern, memory_.size());
  }
  bool IsPoisoned(uint8_t pattern) const {
    return std::all_of(bytes(), bytes() + byte_count(), [&](uint8_t byte) { return byte == pattern; });
  }

  /// Element `flat` in row-major order of the sizes.
  uint8_t* At(int64_t flat) const {
    int64_t offset = 0;
    for (int axis = view_.rank - 1; axis >= 0; --axis) {
      offset += flat % view_.sizes[axis] * view_.strides[axis];
      flat /= view_.sizes[axis];
    }
    return static_cast<uint8_t*>(view_.data) + offset * Bytes(view_.dtype);
  }
  int64_t Count() const {
    int64_t count = 1;
    for (int axis = 0; axis < view_.rank; ++axis) count *= view_.sizes[axis];
    return count;
  }
  template <class T>
  Owned& Set(std::initializer_list<T> values) {
    return Set(std::vector<T>(values));
  }
  template <class T>
  Owned& Set(const std::vector<T>& values) {
    EXPECT_EQ(sizeof(T), static_cast<size_t>(Bytes(view_.dtype)));
    for (size_t i = 0; i < values.size(); ++i) std::memcpy(At(static_cast<int64_t>(i)), &values[i], sizeof(T));
    return *this;
  }

 private:
  TensorView view_;
  GuardedBytes memory_{0};
};

/// An address that nobody may touch: views of it show that a check looks at sizes only.
inline void* Forbidden() {
  static const GuardedBytes nothing(0);
  return nothing.data();
}

/// Sizes in braces. No initializer_list: in constructors GCC 12 at -O3 takes its array for uninitialized.
struct Extents {
  int64_t values[TensorView::kMaxRank];
  int rank;
  template <class... Int>
  Extents(Int... sizes) : values{static_cast<int64_t>(sizes)...}, rank(sizeof...(sizes)) {}  // NOLINT: written as braces
};

/// A tensor of any sizes without memory: with zero strides, as torch's expand makes it, or contiguous.
inline TensorView Expanded(DType dtype, const Extents& sizes) {
  TensorView view;
  view.data = Forbidden();
  view.dtype = dtype;
  view.rank = sizes.rank;
  std::copy(sizes.values, sizes.values + sizes.rank, view.sizes);
  return view;
}
inline TensorView Untouchable(DType dtype, const Extents& sizes) {
  TensorView view = Expanded(dtype, sizes);
  int64_t stride = 1;
  for (int axis = view.rank - 1; axis >= 0; --axis) {
    view.strides[axis] = stride;
    stride *= view.sizes[axis];
  }
  return view;
}

}  // namespace qgmm
