// SPDX-License-Identifier: Apache-2.0
// The loop of docs/operators.md, section 1.3, and what is wrong with a list that needed its clamps.
#include "groups.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace qgmm {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

template <class T>
int64_t Read(const TensorView& list, int64_t index) {
  T value;  // copied, as the list may lie at any address
  std::memcpy(&value, static_cast<const char*>(list.data) + index * list.strides[0] * static_cast<int64_t>(sizeof(T)),
              sizeof(T));
  return value;
}

struct Walk {
  DecodedGroups groups;
  int64_t m, start = 0;

  void Add(int64_t expert, int64_t end) {
    if (end > start) groups.rows.push_back({expert, start, end});
    start = end;
  }
  void Violation(std::string text) {
    if (groups.violation.empty()) groups.violation = std::move(text);
  }
  void PastM(const std::string& text) {
    if (!groups.violation.empty()) return;
    groups.violation = text;
    groups.only_past_m = true;
  }
};

template <class T>
DecodedGroups FromEnds(const TensorView& list, int64_t m) {
  Walk walk{{}, m};
  int64_t last = 0;
  for (int64_t i = 0; i < list.sizes[0]; ++i) {
    const int64_t end = Read<T>(list, i);
    if (end < 0) {
      walk.Violation("must not be negative; got " + std::to_string(end) + " at index " + std::to_string(i));
    } else if (end < last) {
      walk.Violation("(cumsum) must not decrease; got " + std::to_string(end) + " after " + std::to_string(last) +
                     " at index " + std::to_string(i));
    }
    last = end;
    walk.Add(i, std::min(std::max(end, walk.start), m));
  }
  if (last > m) {
    walk.PastM("(cumsum) must end at or below " + std::to_string(m) + " (m); got " + std::to_string(last));
  }
  return std::move(walk.groups);
}

template <class T>
DecodedGroups FromCounts(const TensorView& list, int64_t m) {
  Walk walk{{}, m};
  int64_t sum = 0;
  bool overflow = false;
  for (int64_t i = 0; i < list.sizes[0]; ++i) {
    const int64_t count = Read<T>(list, i);
    if (count < 0) {
      walk.Violation("must not be negative; got " + std::to_string(count) + " at index " + std::to_string(i));
    } else if (count > kMax - sum) {
      overflow = true;
      sum = kMax;
    } else {
      sum += count;
    }
    walk.Add(i, walk.start + std::min(std::max<int64_t>(count, 0), m - walk.start));
  }
  if (sum > m || overflow) {
    walk.PastM("(counts) must sum to at most " + std::to_string(m) + " (m); got " +
               (overflow ? "more than " : "") + std::to_string(sum));
  }
  return std::move(walk.groups);
}

}  // namespace

DecodedGroups DecodeGroups(const TensorView& list, int64_t type, int64_t m) {
  const bool narrow = list.dtype == DType::kInt32;
  if (type == 0) return narrow ? FromEnds<int32_t>(list, m) : FromEnds<int64_t>(list, m);
  return narrow ? FromCounts<int32_t>(list, m) : FromCounts<int64_t>(list, m);
}

int64_t LastEntry(const TensorView& list) {
  const int64_t last = list.sizes[0] - 1;
  return list.dtype == DType::kInt32 ? Read<int32_t>(list, last) : Read<int64_t>(list, last);
}

}  // namespace qgmm
