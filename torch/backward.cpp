// SPDX-License-Identifier: Apache-2.0
// The backward that does not exist, as an operator: a compiled graph may hold it for as long as nobody runs it.
#include <stdexcept>

#include "kernels.h"

namespace qgmm::door {

Tensor NoBackward(const Tensor& /*like*/, int64_t operation) {
  constexpr const char* kSentences[] = {
      "grouped_matmul_swiglu_quant has no backward: its output is quantised",
      "grouped_matmul has no backward: its input is quantised",
      "dynamic_quant has no backward: its output is quantised",
      "weight_quant_grouped_matmul has no backward yet",
  };
  constexpr int64_t kCount = sizeof(kSentences) / sizeof(kSentences[0]);
  throw std::runtime_error(operation >= 0 && operation < kCount ? kSentences[operation] : "no backward");
}

}  // namespace qgmm::door
