// SPDX-License-Identifier: Apache-2.0
// Worker counts: environment, affinity mask, cgroup quota.
#include "cpu/team.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "check.h"

namespace qgmm::cpu {
namespace {

constexpr int kMaxWorkers = 1024;

/// CPUs that a quota amounts to, rounded up; 0: no limit. Negated comparisons: NaN is no limit either.
int CpusOf(double quota, double period) {
  if (!(quota > 0) || !(period > 0)) return 0;
  return static_cast<int>(std::min(std::ceil(quota / period), double{kMaxWorkers}));
}

/// That of one cgroup v2 directory.
int QuotaOf(const std::string& directory) {
  std::ifstream file(directory + "/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max") return 0;
  return CpusOf(std::strtod(quota.c_str(), nullptr), period);
}

}  // namespace

int AffinityCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 0;
}

int ReadQuotaCpus(const std::string& root) {
  int least = 0;
  const auto take = [&](int cpus) { least = cpus > 0 && (least == 0 || cpus < least) ? cpus : least; };
  const std::string top = root + "/sys/fs/cgroup";
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    if (line.rfind("0::", 0) != 0) continue;
    for (std::string path = line.substr(3); !path.empty(); path.erase(path.find_last_of('/'))) {
      take(QuotaOf(top + path));
      if (path.find('/') == std::string::npos) break;
    }
  }
  take(QuotaOf(top));
  std::ifstream quota_file(top + "/cpu/cpu.cfs_quota_us"), period_file(top + "/cpu/cpu.cfs_period_us");
  double quota = 0, period = 0;  // cgroup v1
  if (quota_file >> quota && period_file >> period) take(CpusOf(quota, period));
  return least;
}

int QuotaCpus() {
  static const int quota = ReadQuotaCpus("");
  return quota;
}

int WorkersFor(const Context& context, std::string* why) {
  const auto because = [&](int workers, const char* reason) {
    if (why) *why = reason;
    return std::clamp(workers, 1, kMaxWorkers);
  };
  if (const char* text = std::getenv("QGMM_NUM_THREADS"); text && *text) {
    char* end = nullptr;
    const long workers = std::strtol(text, &end, 10);
    if (*end != '\0' || workers < 1 || workers > kMaxWorkers) {
      RefuseSetting(std::string("QGMM_NUM_THREADS must be 1 to 1024; got ") + text);
    }
    return because(static_cast<int>(workers), "QGMM_NUM_THREADS");
  }
  if (context.max_workers > 0) return because(context.max_workers, "Context::max_workers");
  const int pool = context.pool_size > 0 ? context.pool_size : DefaultTeam().size;
  const int quota = QuotaCpus(), affinity = AffinityCpus();
  if (affinity > 0 && affinity < pool && (quota == 0 || affinity <= quota)) return because(affinity, "CPU affinity");
  if (quota > 0 && quota < pool) return because(quota, "cgroup CPU quota");
  return because(pool, context.pool_size > 0 ? "the caller's pool" : "the default team");
}

bool WorkersForced(const Context& context) {
  const char* text = std::getenv("QGMM_NUM_THREADS");
  return context.max_workers > 0 || (text != nullptr && *text != '\0');
}

}  // namespace qgmm::cpu
