// SPDX-License-Identifier: Apache-2.0
// Sentences: their words, and the one throw of the library.
#include "check_refuse.h"

#include <algorithm>
#include <charconv>

#include "check.h"

namespace qgmm {

void RefuseSetting(const std::string& sentence) { QGMM_REFUSE("qgmm", sentence); }

namespace check {

Words::Words(Argument argument) : text(argument.name) {
  if (argument.index >= 0) text.append("[").append(std::to_string(argument.index)).append("]");
}

void Refuse(RefusalSite& site, const char* operation, std::initializer_list<Words> sentence) {
  __atomic_store_n(&site.raised, true, __ATOMIC_RELAXED);
  std::string text = std::string("[") + operation + "] ";
  for (const Words& words : sentence) text += words.text;
  throw InvalidArgument(text);
}

std::string Shape(std::initializer_list<Size> sizes) {
  std::string text;
  for (const Size& size : sizes) {
    text += text.empty() ? "[" : ", ";
    text += size.value < 0 ? size.letter : std::to_string(size.value);
  }
  return text + "]";
}

namespace {

std::string Bracketed(const int64_t* numbers, int rank) {
  std::string text = "[";
  for (int axis = 0; axis < std::min(rank, TensorView::kMaxRank); ++axis) {
    text.append(axis ? ", " : "").append(std::to_string(numbers[axis]));
  }
  return text.append(rank > TensorView::kMaxRank ? ", ...]" : "]");
}

}  // namespace

std::string Shape(const TensorView& view) { return Bracketed(view.sizes, view.rank); }

std::string Came(const TensorView& view) {
  return view.given() ? std::string(Name(view.dtype)) + " " + Shape(view) : "None";
}

std::string Strides(const TensorView& view) { return Bracketed(view.strides, view.rank); }

std::string Spell(double number) {
  char digits[40];
  return std::string(digits, std::to_chars(digits, digits + sizeof(digits), number).ptr);
}

std::string Spell(Device device) {
  if (device.type == DeviceType::kCpu) return "cpu";
  if (device.type == DeviceType::kCuda) return std::string("cuda:").append(std::to_string(device.index));
  return "an unsupported device";
}

}  // namespace check
}  // namespace qgmm
