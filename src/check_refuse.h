// SPDX-License-Identifier: Apache-2.0
// How a sentence is written and thrown. Every refusal goes through QGMM_REFUSE, so that a test can list all of them.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "qgmm/types.h"

namespace qgmm::check {

/// One place that refuses. They lie side by side in a section of their own (the linker marks its ends), which costs
/// nothing at run time; tests walk it and fail if a place was never reached.
struct alignas(16) RefusalSite {
  const char* file;
  int line;
  bool raised;
};

/// An argument by name; `index` for one tensor of a list.
struct Argument {
  const char* name;
  int64_t index = -1;
};

/// A piece of a sentence: words, a number, an argument ("weight[3]").
struct Words {
  std::string text;
  Words(const char* words) : text(words) {}                // NOLINT: pieces are written as they are
  Words(std::string words) : text(std::move(words)) {}     // NOLINT
  Words(int64_t number) : text(std::to_string(number)) {}  // NOLINT
  Words(Argument argument);                                // NOLINT
};

[[noreturn]] void Refuse(RefusalSite& site, const char* operation, std::initializer_list<Words> sentence);

/// QGMM_REFUSE(operation, "n must be even; got ", n) throws `[operation] n must be even; got 7`.
/// Not in templates or inline functions: their data cannot share the section.
#define QGMM_REFUSE(operation, ...)                                                                        \
  do {                                                                            \
    __attribute__((section("qgmm_refusals"), used)) static check::RefusalSite site = \
        {__FILE_NAME__, __LINE__, false};                                         \
    check::Refuse(site, operation, {__VA_ARGS__});                                \
  } while (false)

/// A size in a sentence: its number, or its letter while it is unknown (negative).
struct Size {
  int64_t value;
  const char* letter;
};
std::string Shape(std::initializer_list<Size> sizes);  // "[8, n]"
std::string Shape(const TensorView& view);             // "[8, 4096]"
std::string Came(const TensorView& view);              // "float32 [8, 4096]", or "None"
std::string Strides(const TensorView& view);
std::string Spell(double number);                      // the shortest digits that give it back
std::string Spell(Device device);                      // "cpu", "cuda:0"

}  // namespace qgmm::check
