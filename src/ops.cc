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

namespace {

int64_t ResidualCapacity(const Weights& weights, const PackArgs& args) {
  return cpu::ResidualCapacity(weights.dtype, weights.k, args.certify, args.max_residuals);
}

}  // namespace

int64_t PackedBytes(const PackArgs& args) {
  const Weights weights = Checked(args);
  return cpu::PackedBytes(weights, ResidualCapacity(weights, args));
}
PackedWeight Pack(const PackArgs& args, uint8_t* out, Context& context) {
  const Weights weights = Checked(args);
  return cpu::Pack(weights, ResidualCapacity(weights, args), out, context);
}

int64_t CertifiedBytes(const PackedWeight& weight, Certification certify, double max_residuals) {
  CheckCertify(weight, certify, max_residuals);
  return cpu::CertifiedBytes(weight, cpu::ResidualCapacity(weight.dtype(), weight.k, certify, max_residuals));
}
PackedWeight Certify(const PackedWeight& weight, uint8_t* out, Context& context, Certification certify,
                     double max_residuals) {
  CheckCertify(weight, certify, max_residuals);
  return cpu::Certify(weight, cpu::ResidualCapacity(weight.dtype(), weight.k, certify, max_residuals), out, context);
}

void Unpack(const PackedWeight& weight, void* plain, Context& context) { cpu::Unpack(weight, plain, context); }

void FromFractalNz(const FractalNzArgs& args, Context& context) {
  CheckFractalNz(args, false);
  cpu::ConvertFractalNz(args, false, context);
}
void ToFractalNz(const FractalNzArgs& args, Context& context) {
  CheckFractalNz(args, true);
  cpu::ConvertFractalNz(args, true, context);
}

const char* Version() { return QGMM_VERSION; }

}  // namespace qgmm
