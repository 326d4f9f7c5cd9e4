// SPDX-License-Identifier: Apache-2.0
// The fp32 environment every computation runs in: round to nearest even, subnormals kept, no traps; the caller's is put back.
#pragma once

#include <cstdint>

namespace qgmm {

/// With flush-to-zero and denormals-are-zero set Silu changes for 0.8 % of all inputs, under another rounding for 53 %.
class FloatMode {
 public:
#if defined(__x86_64__)
  FloatMode() : saved_(__builtin_ia32_stmxcsr()) {
    if ((saved_ & ~kSticky) != kDefault) __builtin_ia32_ldmxcsr(kDefault);
  }
  ~FloatMode() {
    if ((saved_ & ~kSticky) != kDefault) __builtin_ia32_ldmxcsr(saved_);
  }

 private:
  static constexpr uint32_t kDefault = 0x1F80, kSticky = 0x3F;  // all exceptions masked; sticky flags do not matter
  uint32_t saved_;
#elif defined(__aarch64__)
  FloatMode() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    if (saved_ != 0) asm volatile("msr fpcr, %0" ::"r"(uint64_t{0}));
  }
  ~FloatMode() {
    if (saved_ != 0) asm volatile("msr fpcr, %0" ::"r"(saved_));
  }

 private:
  uint64_t saved_;
#else
#error "qgmm: FloatMode knows x86-64 and aarch64 only"
#endif
 public:
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;
};

}  // namespace qgmm
