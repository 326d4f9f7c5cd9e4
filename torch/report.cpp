// SPDX-License-Identifier: Apache-2.0
// What the machine is, what ran last on this thread, and reference mode, for torch.
#include <sstream>

#include "call.h"
#include "kernels.h"

namespace qgmm::door {

std::string Machine() { return MachineReport(ThisThread()); }

// Names of operations, kernels and instruction sets are identifiers: nothing in them needs escaping.
std::string LastRun() {
  const RunReport& run = ThisThread().last_run;
  std::ostringstream json;
  json << "{\"operation\": \"" << run.operation << "\", \"kernels\": [";
  for (size_t i = 0; i < run.kernels.size(); ++i) json << (i == 0 ? "\"" : ", \"") << run.kernels[i] << '"';
  json << "], \"isa\": \"" << run.isa << "\", \"workers\": " << run.workers << ", \"tasks\": " << run.tasks << "}";
  return json.str();
}

void SetReference(bool on) { UseReference(on); }

}  // namespace qgmm::door
