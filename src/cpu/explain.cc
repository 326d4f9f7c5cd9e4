// SPDX-License-Identifier: Apache-2.0
// Plans and the machine in words and numbers.
#include <algorithm>
#include <string>
#include <vector>

#include "cpu/backend.h"
#include "cpu/huge_pages.h"
#include "cpu/json.h"
#include "cpu/plan.h"
#include "cpu/team.h"

namespace qgmm::cpu {
namespace {

const char* Name(Product product) {
  if (product == Product::kFloat) return "float";
  if (product == Product::kFixed16) return "fixed16";
  return product == Product::kInt4 ? "int4" : "int8";
}

/// The kernels that panels of a block get, each once: by the certificates that its expert's panels have.
std::vector<const Kernel*> KernelsOf(const Plan& plan, const RowBlock& b) {
  std::vector<const Kernel*> kernels;
  for (int64_t pair = 0; pair < plan.pairs; ++pair) {
    const auto certificate = [&](int64_t panel) { return plan.promises.Of(b.expert, panel).certificate; };
    const auto [first, second] = b.KernelsOf(certificate(2 * pair), certificate(2 * pair + 1));
    for (const Kernel* kernel : {first, second}) {
      if (std::find(kernels.begin(), kernels.end(), kernel) == kernels.end()) kernels.push_back(kernel);
    }
    if (!plan.promises.given()) break;  // all alike
  }
  return kernels;
}

/// One object per kernel: its blocks, their rows, the stretches of k.
std::string KernelList(const Plan& plan) {
  struct Use {
    const Kernel* kernel;
    int64_t blocks, rows, least, most, k_block;
    bool meanwhile;
  };
  std::vector<Use> uses;
  for (const RowBlock& b : plan.blocks) {
    for (const Kernel* kernel : KernelsOf(plan, b)) {
      auto found = std::find_if(uses.begin(), uses.end(), [&](const Use& u) { return u.kernel == kernel; });
      if (found == uses.end()) found = uses.insert(uses.end(), {kernel, 0, 0, b.rows, b.rows, b.k_block, b.meanwhile});
      ++found->blocks;
      found->rows += b.rows;
      found->least = std::min<int64_t>(found->least, b.rows);
      found->most = std::max<int64_t>(found->most, b.rows);
    }
  }
  std::vector<std::string> objects;
  for (const Use& u : uses) {
    objects.push_back(Json()
                          .Add("name", u.kernel->name)
                          .Add("isa", qgmm::Name(u.kernel->isa))
                          .Add("blocks", u.blocks)
                          .Add("rows", u.rows)
                          .Add("least_rows", u.least)
                          .Add("most_rows", u.most)
                          .Add("k_block", u.k_block)
                          .Add("overlapped", u.meanwhile)
                          .Text());
  }
  return Json::List(objects);
}

std::vector<std::string> Notes(const Problem& p, const Plan& plan) {
  std::vector<std::string> notes;
  if (!p.w.packed.given()) notes.push_back("weights are packed during the call, every time; pack_weight does it once");
  const bool scalar = std::any_of(plan.blocks.begin(), plan.blocks.end(),
                                  [](const RowBlock& b) { return b.kernel->isa == Isa::kScalar; });
  if (scalar && plan.isa != Isa::kScalar && p.product != Product::kFixed16) {
    const int step = p.product == Product::kInt4 ? 8 : 4;
    notes.push_back("slices of " + std::to_string(p.slice) +
                    " k run on the scalar kernel: faster ones want multiples of " + std::to_string(step));
  }
  const bool certifiable = p.product == Product::kInt8 && p.slice == p.k && p.w.packed.given() && !plan.promises.given();
  if (certifiable && ResidualCapacity(DType::kInt8, p.k, Certification::kAuto, 1) > 0) {
    notes.push_back("the weights have no certificates: PackedWeight.certified() (C++ Certify) allows faster kernels");
  }
  if (p.product == Product::kFixed16)
    notes.push_back("x runs as int16 with a power of two per 512 k; precision=\"strict\" sums in fp32, slower");
  if (p.product == Product::kFloat && p.x.dtype != DType::kFloat32)
    notes.push_back("x is summed in fp32; precision=\"fast\" allows fixed point, about twice as fast");
  if (plan.isa < BestIsa())
    notes.push_back(std::string("the ISA is limited to ") + qgmm::Name(plan.isa) + "; this machine has " +
                    qgmm::Name(BestIsa()));
  for (Isa isa : IsasNotBuilt()) {  // such ISAs multiply int8 only
    if (p.product == Product::kInt8 && plan.isa == BestIsa() && isa > plan.isa)
      notes.push_back(std::string("this machine has ") + qgmm::Name(isa) + ", " + kNotBuilt);
  }
  const bool floats = p.product == Product::kFloat || p.product == Product::kFixed16;
  if (floats && plan.promises.given()) {
    notes.push_back("the weights carry certificates, which operator B has no use for: pack_weight(certify=False) or "
                    "certified(False) makes few rows faster");
  }
  if (HugePageSetting() == "never") notes.push_back("the system grants no 2 MiB pages: few rows per expert lose about 20 %");
  if (p.expected_rows > 0)
    notes.push_back("planned for " + std::to_string(p.expected_rows) + " rows per expert (tuning_config)");
  return notes;
}

#if defined(__x86_64__)
std::vector<std::string> Features() {
  std::vector<std::string> found;
#define QGMM_FEATURE(name) \
  if (__builtin_cpu_supports(name)) found.push_back(name);
  QGMM_FEATURE("sse4.2") QGMM_FEATURE("avx2") QGMM_FEATURE("fma") if (HasF16c()) found.push_back("f16c");
  QGMM_FEATURE("avx512f")
  QGMM_FEATURE("avx512bw") QGMM_FEATURE("avx512vl") QGMM_FEATURE("avx512vnni")
#undef QGMM_FEATURE
      return found;
}
#else
std::vector<std::string> Features() {
  std::vector<std::string> found;
  for (Isa isa : MachineIsas()) {
    if (isa != Isa::kScalar) found.push_back(qgmm::Name(isa));
  }
  return found;
}
#endif

}  // namespace

std::string Explain(const Problem& p, Context& context) {
  const Plan plan = MakePlan(p, context);
  int64_t grouped = 0, split = 0;
  for (const RowRange& range : p.rows) grouped += range.end - range.begin;
  for (const RowBlock& b : plan.blocks) split += b.tasks > 1;
  Json json;
  json.Add("operation", p.operation)
      .Add("backend", context.use_reference ? "reference" : "cpu")
      .Add("isa", qgmm::Name(plan.isa));
  json.Add("m", p.m).Add("k", p.k).Add("n", p.n).Add("e", p.e).Add("product", Name(p.product)).Add("slice", p.slice);
  json.Add("groups", static_cast<int64_t>(p.rows.size()))
      .Add("rows_in_groups", grouped)
      .Add("rows_zeroed", p.m - grouped);
  json.Add("packed", p.w.packed.given()).Raw("kernels", KernelList(plan));
  json.Add("blocks", static_cast<int64_t>(plan.blocks.size()))
      .Add("split_blocks", split)
      .Add("tasks", static_cast<int64_t>(plan.tasks.size()));
  json.Add("workers", static_cast<int64_t>(plan.workers)).Add("workers_why", plan.workers_why);
  json.Add("numa_nodes", static_cast<int64_t>(plan.nodes));
  json.Add("workspace_bytes", static_cast<int64_t>(plan.workspace_bytes())).Add("expected_rows", p.expected_rows);
  return json.Add("notes", Notes(p, plan)).Text();
}

std::string MachineReport(Context& context) {
  std::string why;
  const int workers = WorkersFor(context, &why);
  const Isa isa = ChosenIsa(context.max_isa);
  std::vector<std::string> rows;
  for (const Kernel* kernel : KernelTable()) {
    if (kernel->isa <= isa && CanRun(*kernel)) rows.push_back(kernel->name);
  }
  std::vector<std::string> isas, not_built;
  for (Isa each : MachineIsas()) isas.push_back(qgmm::Name(each));
  for (Isa each : IsasNotBuilt()) not_built.push_back(qgmm::Name(each));
  Json json;
  json.Add("version", QGMM_VERSION).Add("compiler", __VERSION__).Add("features", Features());
  json.Add("isas", isas).Add("isa_best", qgmm::Name(BestIsa())).Add("isa", qgmm::Name(isa));
  json.Add("isa_why", isa == BestIsa() ? "the best that qgmm has kernels for on this machine"
                                       : "limited by QGMM_MAX_ISA or Context::max_isa");
  json.Add("isas_not_built", not_built);
  if (!not_built.empty()) json.Add("isas_not_built_why", kNotBuilt);
  json.Add("team", context.parallel_for ? "the caller's pool" : DefaultTeam().name);
  json.Add("workers", static_cast<int64_t>(workers)).Add("workers_why", why);
  json.Add("cpus_affinity", static_cast<int64_t>(AffinityCpus())).Add("cpus_quota", static_cast<int64_t>(QuotaCpus()));
  json.Add("numa_nodes", static_cast<int64_t>(MachineTopology().nodes));
  json.Add("l2_bytes", DetectCaches().l2).Add("l3_bytes", DetectCaches().l3);
  json.Add("huge_pages", HugePageSetting());
  return json.Add("kernels", rows).Text();
}

}  // namespace qgmm::cpu
