// SPDX-License-Identifier: Apache-2.0
// What every call from torch runs with: torch's thread pool, this thread's workspace, reference mode, warnings.
#include "call.h"

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <exception>
#include <stdexcept>
#include <string>

namespace qgmm::door {
namespace {

std::atomic<bool> use_reference = false;

// Returns 0, or 1 where Python's filters turned the warning into an exception.
using WarningCallback = int (*)(const char* text);
std::atomic<WarningCallback> warning_callback = nullptr;

// Torch hands out ranges and keeps only the fact of an exception; the sentence has to be carried around it.
void OnTorchPool(int count, void (*body)(int index, void* state), void* state, void* /*pool*/) {
  std::exception_ptr first;
  std::atomic_flag taken = ATOMIC_FLAG_INIT;
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    try {
      for (int64_t i = begin; i < end; ++i) body(static_cast<int>(i), state);
    } catch (...) {
      if (!taken.test_and_set()) first = std::current_exception();
    }
  });
  if (first) std::rethrow_exception(first);
}

}  // namespace

Context& ThisThread() {
  static thread_local Context context;
  context.parallel_for = &OnTorchPool;
  context.pool_size = static_cast<int>(torch::stable::get_num_threads());
  context.use_reference = use_reference.load(std::memory_order_relaxed);
  context.warn = [](const char* text, void* /*state*/) { Warn(text); };
  return context;
}

void UseReference(bool on) { use_reference.store(on, std::memory_order_relaxed); }

Spelling SpellingOf(int64_t number) {
  if (number < 0 || number > static_cast<int64_t>(Spelling::kVendorWeightQuantGmmV2)) {
    throw std::invalid_argument("[qgmm] spelling must be 0 to 4; got " + std::to_string(number));
  }
  return static_cast<Spelling>(number);
}

const char* CalledName(const char* native, Spelling spelling) {
  switch (spelling) {
    case Spelling::kVendorSwigluQuantV1:
      return "npu_grouped_matmul_swiglu_quant";
    case Spelling::kVendorSwigluQuantV2:
      return "npu_grouped_matmul_swiglu_quant_v2";
    case Spelling::kVendorWeightQuantGmm:
      return "npu_weight_quant_gmm";
    case Spelling::kVendorWeightQuantGmmV2:
      return "npu_weight_quant_gmm_v2";
    case Spelling::kNative:
      break;
  }
  return native;
}

void Warn(const char* text) {
  const WarningCallback callback = warning_callback.load(std::memory_order_acquire);
  if (callback && callback(text) != 0) throw std::runtime_error(text);
}

}  // namespace qgmm::door

#define QGMM_TORCH_STRING_(name) #name
#define QGMM_TORCH_STRING(name) QGMM_TORCH_STRING_(name)

// What Python reads through ctypes, once, at import: these three names are all that the library exports.
extern "C" {

QGMM_EXPORT const char* qgmm_version() { return qgmm::Version(); }

QGMM_EXPORT const char* qgmm_torch_namespace() { return QGMM_TORCH_STRING(QGMM_TORCH_NAMESPACE); }

QGMM_EXPORT void qgmm_set_warning_callback(int (*callback)(const char* text)) {
  qgmm::door::warning_callback.store(callback, std::memory_order_release);
}

}  // extern "C"
