// SPDX-License-Identifier: Apache-2.0
// The system's lists of nodes and their CPUs.
#include "cpu/numa.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <sstream>

namespace qgmm::cpu {
namespace {

constexpr int kMostNumber = 1 << 16;  // of a CPU or a node; more is not a list of the system's

/// "0-3,8,10-11" -> its numbers. False if the file is not there or is no such list; an empty line is an empty list.
bool ReadList(const std::string& name, std::vector<int>* numbers) {
  std::ifstream file(name);
  std::string text;
  if (!file) return false;
  std::getline(file, text);
  if (file.bad()) return false;
  numbers->clear();
  std::istringstream ranges(text);
  for (std::string range; std::getline(ranges, range, ',');) {
    std::istringstream in(range);
    int first = -1;
    if (!(in >> first)) return false;
    int last = first;
    char dash = 0;
    if (in >> dash && (dash != '-' || !(in >> last))) return false;
    if (first < 0 || last < first || last >= kMostNumber || in >> dash) return false;
    for (int number = first; number <= last; ++number) numbers->push_back(number);
  }
  return true;
}

bool Has(const std::vector<int>& numbers, int number) {
  return std::find(numbers.begin(), numbers.end(), number) != numbers.end();
}

std::vector<int> AffinityList() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

}  // namespace

int Topology::CurrentNode() const { return nodes == 1 ? 0 : NodeOf(sched_getcpu()); }

Topology ReadTopology(const std::vector<int>& cpus, const std::string& root) {
  std::vector<int> online, with_memory, members;
  if (!ReadList(root + "/online", &online)) return {};
  const bool memory_known = ReadList(root + "/has_memory", &with_memory);
  Topology found;
  found.nodes = 0;
  for (const int node : online) {
    if (!ReadList(root + "/node" + std::to_string(node) + "/cpulist", &members)) return {};
    bool ours = false;
    for (const int cpu : members) {
      if (!Has(cpus, cpu)) continue;
      if (found.node_of.size() <= static_cast<size_t>(cpu)) found.node_of.resize(static_cast<size_t>(cpu) + 1, 0);
      found.node_of[static_cast<size_t>(cpu)] = found.nodes;
      ours = true;
    }
    if (!ours) continue;
    if (memory_known && !Has(with_memory, node)) return {};
    ++found.nodes;
  }
  return found.nodes > 1 ? found : Topology{};
}

const Topology& MachineTopology() {
  static const Topology topology = ReadTopology(AffinityList());
  return topology;
}

}  // namespace qgmm::cpu
