// SPDX-License-Identifier: Apache-2.0
// What every call from torch runs with: torch's thread pool, this thread's workspace, reference mode, warnings.
#pragma once

#include <new>
#include <optional>
#include <utility>

#include "qgmm/ops.h"
#include "views.h"

namespace qgmm::door {

/// This thread's Context, set for a call now: pool size as torch.set_num_threads left it.
Context& ThisThread();

/// Process-wide: every later call runs the scalar specification instead of the kernels.
void UseReference(bool on);

/// Throws where `number` is no Spelling.
Spelling SpellingOf(int64_t number);

/// The name that `spelling` gives an operation in its sentences.
const char* CalledName(const char* native, Spelling spelling);

/// Allocates the one result that `call` claims, and runs the operation.
template <class Call>
Tensor OneResult(const Tensor& x, Call& call, void (*operation)(const decltype(call.args)&, Context&)) {
  std::optional<Tensor> y = TryEmpty(x, call.y_sizes, call.y_type);
  if (!y) {
    Explain(call.args, ThisThread());  // a wrong argument is the better answer than too little memory
    throw std::bad_alloc();
  }
  call.args.y.data = y->mutable_data_ptr();
  operation(call.args, ThisThread());
  return std::move(*y);
}

/// Hands `text` to the Python callback; a warning that was turned into an error becomes std::runtime_error.
void Warn(const char* text);

}  // namespace qgmm::door
