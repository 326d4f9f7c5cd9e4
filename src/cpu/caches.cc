// SPDX-License-Identifier: Apache-2.0
// The machine's caches, and how it likes to be read.
#include "cpu/caches.h"

#include <unistd.h>

#include <fstream>
#include <string>

#include "cpu/kernel.h"

namespace qgmm::cpu {
namespace {

/// What the kernel says of CPU 0's cache of that level; glibc multiplies a shared L3 by its sharers on some machines.
int64_t CacheBytes(int level, int sysconf_name, int64_t unknown) {
  std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(level) + "/size");
  int64_t size = 0;
  char unit = 0;
  if (file >> size >> unit && size > 0) return size * (unit == 'M' ? 1 << 20 : unit == 'K' ? 1 << 10 : 1);
  const long asked = sysconf(sysconf_name);
  return asked > 0 ? asked : unknown;
}

Ahead MachineAhead() {
#if defined(__x86_64__)
  if (__builtin_cpu_is("intel")) return Ahead::kAsSeveralRows;
#endif
  return AmdFamily() >= kZen5 ? Ahead::kPage : Ahead::kByKernel;
}

}  // namespace

Caches DetectCaches() {
  static const Caches caches = {CacheBytes(2, _SC_LEVEL2_CACHE_SIZE, 512 * 1024), CacheBytes(3, _SC_LEVEL3_CACHE_SIZE, 0),
                                MachineAhead()};
  return caches;
}

}  // namespace qgmm::cpu
