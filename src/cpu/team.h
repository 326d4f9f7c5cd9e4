// SPDX-License-Identifier: Apache-2.0
// The default executor, and how many workers a call gets.
#pragma once

#include <string>
#include <type_traits>

#include "qgmm/context.h"

namespace qgmm::cpu {

/// The team linked in: team_openmp.cc joins the caller's OpenMP runtime (serial inside a parallel region);
/// team_serial.cc runs everything in the caller. Never both, so a process never holds two runtimes because of us.
struct Team {
  const char* name;  // "openmp", "serial"
  int size;          // threads a parallel region would get here and now
};
Team DefaultTeam();
void DefaultParallelFor(int count, void (*body)(int index, void* state), void* state);

/// CPUs in the affinity mask, and ceil(cgroup CPU quota); 0 where unknown. OpenMP honours the first but not the second:
/// a container with 2 of 64 CPUs must not spin 64 threads.
int AffinityCpus();
int QuotaCpus();

/// The quota as the files below `root` (normally "") say it, cgroup v1 and v2: the least of the process's groups and
/// their parents. Files that are missing or make no sense are no limit.
int ReadQuotaCpus(const std::string& root);

/// Workers for a call, at least 1: QGMM_NUM_THREADS, else Context::max_workers, else the smallest of pool size, affinity
/// and quota. `why`, if not null, gets the reason in words.
int WorkersFor(const Context& context, std::string* why);

/// Whether somebody asked for a number of workers (QGMM_NUM_THREADS, Context::max_workers): then a call takes so many,
/// however small it is.
bool WorkersForced(const Context& context);

/// Calls body(index) for index < count on the context's pool or the default team.
template <class Body>
void ParallelFor(const Context& context, int count, Body&& body) {
  if (count == 1) return body(0);
  auto call = [](int index, void* state) { (*static_cast<std::remove_reference_t<Body>*>(state))(index); };
  if (context.parallel_for) return context.parallel_for(count, call, &body, context.pool);
  DefaultParallelFor(count, call, &body);
}

}  // namespace qgmm::cpu
