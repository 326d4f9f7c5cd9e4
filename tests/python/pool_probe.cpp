// SPDX-License-Identifier: Apache-2.0
// The door's pool adapter on torch's own threads, with a body that throws: what test_door.py loads beside call.cpp.
#include <atomic>
#include <cstring>

#include "call.h"

qgmm::Context::~Context() = default;  // the core is not linked here
const char* qgmm::Version() { return "probe"; }

namespace {

struct Body {
  std::atomic<int> calls = 0;
  int throws_at;
};

}  // namespace

// Runs `count` indices of which `throws_at` throws; the text of what arrives, and the number of bodies that ran.
extern "C" __attribute__((visibility("default"))) int pool_probe(int count, int throws_at, char* text, int text_size) {
  Body body;
  body.throws_at = throws_at;
  text[0] = '\0';
  qgmm::Context& context = qgmm::door::ThisThread();
  try {
    context.parallel_for(
        count,
        [](int index, void* state) {
          auto* body = static_cast<Body*>(state);
          ++body->calls;
          if (index == body->throws_at) throw qgmm::InvalidArgument("[probe] the sentence of index 3");
        },
        &body, context.pool);
  } catch (const qgmm::InvalidArgument& error) {
    std::strncpy(text, error.what(), static_cast<size_t>(text_size) - 1);
  }
  return body.calls;
}
