// SPDX-License-Identifier: Apache-2.0
// Every operation: check, then the wing that has the device. This is a good place to start reading.
#include "qgmm/ops.h"

#include "check.h"
#include "cpu/backend.h"
#include "qgmm/moe.h"
#include "reference.h"
#include "verbose.h"

namespace qgmm {
namespace {

template <class P>
void Dispatch(const P& problem, Context& context) {
  if (!context.use_reference) return cpu::Run(problem, context);
  reference::Run(problem);
  context.last_run = {"", {"reference"}, "scalar", 1, 1};
}

void Run(const Problem& problem, Context& context) {
  const Verbose verbose;
  if (verbose.plan()) verbose.Print(cpu::Explain(problem, context));
  if (!problem.warning.empty() && context.warn) context.warn(problem.warning.c_str(), context.warn_state);
  Dispatch(problem, context);
  context.last_run.operation = problem.operation;
  verbose.Report(context.last_run, problem.m, problem.k, problem.n);
}

}  // namespace

void GroupedMatmulSwigluQuant(const SwigluQuantArgs& args, Context& context) { Run(Checked(args), context); }
void WeightQuantGroupedMatmul(const WeightQuantArgs& args, Context& context) { Run(Checked(args), context); }
void GroupedMatmul(const GroupedMatmulArgs& args, Context& context) { Run(Checked(args), context); }

void DynamicQuant(const DynamicQuantArgs& args, Context& context) {
  const Verbose verbose;
  const DynamicQuantProblem problem = Checked(args);
  Dispatch(problem, context);
  context.last_run.operation = "dynamic_quant";
  verbose.Report(context.last_run, problem.row_count, problem.h, problem.h);
}

std::string Explain(const SwigluQuantArgs& args, Context& context) { return cpu::Explain(Checked(args), context); }
std::string Explain(const WeightQuantArgs& args, Context& context) { return cpu::Explain(Checked(args), context); }
std::string Explain(const GroupedMatmulArgs& args, Context& context) { return cpu::Explain(Checked(args), context); }

std::string MachineReport(Context& context) { return cpu::MachineReport(context); }

int64_t PackedBytes(const PackArgs& args) { return cpu::PackedBytes(Checked(args)); }
PackedWeight Pack(const PackArgs& args, uint8_t* out, Context& context) {
  return cpu::Pack(Checked(args), out, context);
}

const char* Version() { return QGMM_VERSION; }

}  // namespace qgmm
