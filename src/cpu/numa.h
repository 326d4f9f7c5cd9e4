// SPDX-License-Identifier: Apache-2.0
// NUMA nodes: which CPU belongs to which, what each node's workers own, and which worker a thread becomes.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace qgmm::cpu {

/// Nodes that have CPUs in the affinity mask, numbered from 0 without gaps. One node where nothing certain is known.
struct Topology {
  int nodes = 1;
  std::vector<int> node_of;  // by CPU; empty with one node

  int NodeOf(int cpu) const {
    return cpu >= 0 && cpu < static_cast<int>(node_of.size()) ? node_of[static_cast<size_t>(cpu)] : 0;
  }
  int CurrentNode() const;  // of the CPU that runs the caller at this moment
};

/// `cpus`: of the affinity mask. A node with CPUs and no memory cannot hold a share, so there is one node then.
Topology ReadTopology(const std::vector<int>& cpus, const std::string& root = "/sys/devices/system/node");

/// This machine's, as the first call finds it.
const Topology& MachineTopology();

/// The first worker of a node; a node's workers are neighbours. nodes <= workers.
inline int FirstWorker(int node, int workers, int nodes) { return (node * workers + nodes - 1) / nodes; }
inline int NodeOfWorker(int worker, int workers, int nodes) {
  return static_cast<int>(static_cast<int64_t>(worker) * nodes / workers);
}

/// A node's share of every expert's pairs: [FirstPair(node), FirstPair(node + 1)). Packing and plans both follow it.
inline int64_t FirstPair(int node, int64_t pairs, int nodes) { return pairs * node / nodes; }

/// Nodes that so many workers and pairs are divided among: everyone gets some, or it is as if there were one.
inline int NodesFor(int nodes, int workers, int64_t pairs) { return workers >= nodes && pairs >= nodes ? nodes : 1; }

/// A pool's threads run anywhere, so a body takes a worker of its own node, or any that is left. Each worker is claimed
/// exactly once in `workers` calls, whatever the order of the calls and wherever they run.
class Slots {
 public:
  Slots(int workers, int nodes) : workers_(workers), nodes_(nodes), taken_(nodes > 1 ? new std::atomic<int>[nodes] : nullptr) {
    for (int node = 0; node < nodes && taken_; ++node) taken_[node].store(0, std::memory_order_relaxed);
  }

  /// `index`: of the executor's; the answer where there is one node.
  int Claim(int index, const Topology& topology) { return nodes_ == 1 ? index : ClaimFrom(topology.CurrentNode()); }

  int ClaimFrom(int node) {
    for (int i = 0; i < nodes_; ++i, node = (node + 1) % nodes_) {
      const int worker = FirstWorker(node, workers_, nodes_) + taken_[node].fetch_add(1, std::memory_order_relaxed);
      if (worker < FirstWorker(node + 1, workers_, nodes_)) return worker;
    }
    return -1;  // more calls than workers
  }

 private:
  int workers_, nodes_;
  std::unique_ptr<std::atomic<int>[]> taken_;
};

}  // namespace qgmm::cpu
