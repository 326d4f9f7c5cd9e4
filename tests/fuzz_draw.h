// SPDX-License-Identifier: Apache-2.0
// Random arguments: tensors of any strides in guarded, read-only memory, and the ways of spoiling them.
#pragma once

#include <bit>
#include <cstdint>
#include <deque>
#include <limits>
#include <random>
#include <vector>

#include "numeric.h"
#include "qgmm/ops.h"
#include "views.h"

namespace qgmm {

inline constexpr int64_t kMost = std::numeric_limits<int64_t>::max(), kLeast = std::numeric_limits<int64_t>::min();

class Draw {
 public:
  explicit Draw(uint64_t seed) : random_(seed) {}
  int64_t Below(int64_t count) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(count)); }
  int64_t Between(int64_t low, int64_t high) { return low + Below(high - low + 1); }
  bool OneIn(int64_t count) { return Below(count) == 0; }
  uint64_t Bits() { return random_(); }
  template <class T>
  T Of(std::initializer_list<T> choices) {
    return choices.begin()[Below(static_cast<int64_t>(choices.size()))];
  }

 private:
  std::mt19937_64 random_;
};

/// Axes in any order, gaps, negative strides; distinct elements unless `overlap`.
inline std::vector<int64_t> RandomStrides(Draw& draw, const std::vector<int64_t>& sizes, bool overlap) {
  std::vector<size_t> order(sizes.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  for (size_t i = order.size(); i > 1; --i) {
    std::swap(order[i - 1], order[static_cast<size_t>(draw.Below(static_cast<int64_t>(i)))]);
  }
  std::vector<int64_t> strides = Contiguous(sizes);
  if (draw.OneIn(2)) return strides;
  int64_t stride = draw.Of({1, 1, 2, 3});
  for (size_t axis : order) {
    strides[axis] = draw.OneIn(4) ? -stride : stride;
    if (overlap && draw.OneIn(6)) strides[axis] = 0;
    else stride *= std::max<int64_t>(sizes[axis], 1) + draw.Of({0, 0, 1});
  }
  return strides;
}

/// Bytes of one element: moderate numbers, or, where `wild`, any bits.
inline void FillElement(Draw& draw, DType dtype, bool wild, uint8_t* element) {
  const float moderate = static_cast<float>(draw.Between(-1000, 1000)) / 256;
  uint64_t bits = draw.Bits();
  if (!wild) {
    if (dtype == DType::kFloat32 || dtype == DType::kInt64 || dtype == DType::kUInt64) {
      bits = (bits & 0xFFFFFFFF00000000u) | Bits(moderate);  // int64: any high word over the float's pattern
    } else if (dtype == DType::kFloat16) {
      bits = ToHalf(moderate);
    } else if (dtype == DType::kBFloat16) {
      bits = ToBFloat16(moderate);
    }
  }
  std::memcpy(element, &bits, static_cast<size_t>(Bytes(dtype)));
}

/// Everything one call borrows.
class Memory {
 public:
  explicit Memory(Draw& draw) : draw_(draw) {}

  TensorView Input(DType dtype, const std::vector<int64_t>& sizes) {
    return Input(dtype, sizes, RandomStrides(draw_, sizes, true));
  }
  TensorView Dense(DType dtype, const std::vector<int64_t>& sizes) { return Input(dtype, sizes, Contiguous(sizes)); }
  TensorView Input(DType dtype, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
    Owned tensor(dtype, sizes, strides, draw_.Of({Edge::kFront, Edge::kBack}));
    const bool wild = draw_.OneIn(8);
    for (int64_t i = 0; i < tensor.Count(); ++i) FillElement(draw_, dtype, wild, tensor.At(i));
    return Keep(std::move(tensor));
  }
  TensorView Numbers(DType dtype, const std::vector<int64_t>& values) {
    const std::vector<int64_t> sizes = {static_cast<int64_t>(values.size())};
    Owned tensor(dtype, sizes, RandomStrides(draw_, sizes, false), draw_.Of({Edge::kFront, Edge::kBack}));
    for (size_t i = 0; i < values.size(); ++i) {  // little endian: an int32 is the front of its int64
      std::memcpy(tensor.At(static_cast<int64_t>(i)), &values[i], static_cast<size_t>(Bytes(dtype)));
    }
    return Keep(std::move(tensor));
  }
  /// Bytes at any address; the end lies on a guard page.
  const uint8_t* Shifted(const uint8_t* bytes, int64_t count) {
    Owned copy(DType::kUInt8, {count + draw_.Below(8)});
    uint8_t* start = copy.bytes() + copy.byte_count() - count;
    std::memcpy(start, bytes, static_cast<size_t>(count));
    Keep(std::move(copy));
    return start;
  }
  TensorView Output(DType dtype, const std::vector<int64_t>& sizes, bool contiguous = false) {
    const std::vector<int64_t> strides = contiguous ? Contiguous(sizes) : RandomStrides(draw_, sizes, false);
    outputs.emplace_back(dtype, sizes, strides, draw_.Of({Edge::kFront, Edge::kBack}));
    return outputs.back().view();
  }
  /// One tensor [e, ...] as a list of e tensors of strides of their own.
  TensorList Split(DType dtype, int64_t e, const std::vector<int64_t>& sizes) {
    std::vector<TensorView>& list = lists.emplace_back();
    for (int64_t i = 0; i < e; ++i) list.push_back(Input(dtype, sizes));
    return TensorList(list.data(), e);
  }
  TensorList One(const TensorView& view) {
    lists.push_back({view});
    return TensorList(lists.back().data(), 1);
  }

  std::deque<Owned> outputs;
  std::deque<std::vector<TensorView>> lists;

 private:
  TensorView Keep(Owned tensor) {
    inputs_.push_back(std::move(tensor));
    inputs_.back().MakeReadOnly();
    return inputs_.back().view();
  }
  Draw& draw_;
  std::deque<Owned> inputs_;
};

/// Sixteen zero bytes: what a view shows once its dtype or sizes no longer fit the memory it had.
inline void* Zeros() {
  alignas(16) static uint8_t zeros[16];
  return zeros;
}

/// Makes one thing about the view wrong, or at least different. Its memory stays large enough.
inline void Spoil(Draw& draw, TensorView& view) {
  const int axis = static_cast<int>(draw.Below(3));
  switch (draw.Below(7)) {
    case 0: {
      view.data = Zeros();
      view.rank = static_cast<int>(draw.Between(-1, 10));
      for (int64_t& stride : view.strides) stride = 0;
      break;
    }
    case 1: {
      view.data = Zeros();
      for (int64_t& stride : view.strides) stride = 0;
      const int64_t more = std::min(view.sizes[axis], kMost - 1) + 1;
      view.sizes[axis] = draw.Of({kLeast, int64_t{-1}, int64_t{0}, int64_t{1}, more,
                                  int64_t{1} << 31, int64_t{1} << 60, (kMost - 7) / 8, kMost - 1, kMost});
      break;
    }
    case 2:
      view.data = Zeros();
      for (int64_t& stride : view.strides) stride = 0;
      view.dtype = static_cast<DType>(draw.OneIn(10) ? 200 : draw.Below(15));
      break;
    case 3: view.data = nullptr; break;
    case 4: view.device = {draw.Of({DeviceType::kCuda, DeviceType::kOther}), static_cast<int>(draw.Below(3))}; break;
    case 5: view = TensorView(); break;
    default:
      view.strides[axis] = 0;
  }
}

inline int64_t OddNumber(Draw& draw) {
  return draw.Of<int64_t>({kLeast, -1, 0, 1, 2, 3, 4, 5, 6, 7, 16, 1024, int64_t{1} << 40, kMost});
}

}  // namespace qgmm
