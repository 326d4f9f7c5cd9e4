// SPDX-License-Identifier: Apache-2.0
// NUMA placement with faked topologies: how nodes are read, who becomes which worker, plans that divide every expert's
// pairs among nodes, and results and packed bytes that do not depend on any of it.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "cpu/numa.h"
#include "cpu/plan.h"
#include "kernel_case.h"

namespace qgmm::cpu {
namespace {

using reference::Case;
using reference::MakeCase;

std::vector<int> Cpus(int count) {
  std::vector<int> cpus(static_cast<size_t>(count));
  std::iota(cpus.begin(), cpus.end(), 0);
  return cpus;
}

/// CPU c on node c % nodes; `all_on`: every CPU on that node instead, as if the others' were idle.
Topology Fake(int nodes, int all_on = -1) {
  Topology topology;
  topology.nodes = nodes;
  for (int cpu = 0; cpu < 4096; ++cpu) topology.node_of.push_back(all_on >= 0 ? all_on : cpu % nodes);
  return topology;
}

/// A directory like the system's, gone with the test.
class Nodes : public testing::Test {
 protected:
  void SetUp() override {
    root_ = testing::TempDir() + "qgmm_nodes_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& name, const std::string& text) {
    const std::filesystem::path path = std::filesystem::path(root_) / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text << "\n";
  }
  void Node(int node, const std::string& cpus) { Write("node" + std::to_string(node) + "/cpulist", cpus); }
  Topology Read(int cpus) { return ReadTopology(Cpus(cpus), root_); }

  std::string root_;
};

TEST_F(Nodes, OneNode) {
  Write("online", "0");
  Node(0, "0-7");
  EXPECT_EQ(Read(8).nodes, 1);
  EXPECT_EQ(Read(8).NodeOf(5), 0);
}

TEST_F(Nodes, TwoNodesOfUnevenCpusInSeveralRanges) {
  Write("online", "0-1");
  Node(0, "0-3,8,10-11");
  Node(1, "4-7,9");
  const Topology topology = Read(12);
  EXPECT_EQ(topology.nodes, 2);
  const int expected[12] = {0, 0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 0};
  for (int cpu = 0; cpu < 12; ++cpu) EXPECT_EQ(topology.NodeOf(cpu), expected[cpu]) << cpu;
  EXPECT_EQ(topology.NodeOf(-1), 0);
  EXPECT_EQ(topology.NodeOf(5000), 0);
}

TEST_F(Nodes, FourNodesWithGapsInTheirNumbers) {
  Write("online", "0,2,8-9");
  Node(0, "0");
  Node(2, "1");
  Node(8, "2");
  Node(9, "3");
  const Topology topology = Read(4);
  EXPECT_EQ(topology.nodes, 4);
  for (int cpu = 0; cpu < 4; ++cpu) EXPECT_EQ(topology.NodeOf(cpu), cpu);
}

TEST_F(Nodes, OnlyNodesOfTheAffinityMaskCount) {
  Write("online", "0-2");
  Node(0, "0-3");
  Node(1, "4-7");
  Node(2, "8-11");
  EXPECT_EQ(Read(4).nodes, 1);
  EXPECT_EQ(Read(8).nodes, 2);
  const Topology last = ReadTopology({5, 9}, root_);
  EXPECT_EQ(last.nodes, 2);
  EXPECT_EQ(last.NodeOf(5), 0);
  EXPECT_EQ(last.NodeOf(9), 1);
  EXPECT_EQ(ReadTopology({}, root_).nodes, 1);
}

TEST_F(Nodes, MemoryOfNoCpusAndCpusOfNoMemory) {
  Write("online", "0-2");
  Node(0, "0-1");
  Node(1, "");
  Node(2, "2-3");
  Write("has_memory", "0-2");
  EXPECT_EQ(Read(4).nodes, 2) << "a node of memory alone has no workers";
  EXPECT_EQ(Read(4).NodeOf(3), 1);
  Write("has_memory", "0-1");
  EXPECT_EQ(Read(4).nodes, 1) << "a node without memory holds no share";
}

TEST_F(Nodes, MissingFilesAreOneNode) {
  EXPECT_EQ(Read(4).nodes, 1);
  Write("online", "0-1");
  Node(0, "0-1");
  EXPECT_EQ(Read(4).nodes, 1);
  Node(1, "2-3");
  EXPECT_EQ(Read(4).nodes, 2);
}

TEST_F(Nodes, GarbageIsOneNode) {
  Node(0, "0-1");
  Node(1, "2-3");
  for (const char* online : {"zero", "0-", "1-0", "0,,1", "0-1x", "0-99999999", "-1"}) {
    Write("online", online);
    EXPECT_EQ(Read(4).nodes, 1) << online;
  }
  Write("online", "0-1");
  for (const char* cpus : {"two", "2-", "3-2", "2,,3", "2-3x", "2-99999999999"}) {
    Node(1, cpus);
    EXPECT_EQ(Read(4).nodes, 1) << cpus;
  }
}

TEST(Slots, EveryWorkerIsClaimedOnceWhereverThreadsRun) {
  for (const int nodes : {1, 2, 4}) {
    for (const int workers : {4, 5, 7, 64}) {
      for (const int all_on : {-1, 0, nodes - 1}) {
        for (const auto executor : {OnThreads, Backwards}) {
          Slots slots(workers, nodes);
          const Topology topology = Fake(nodes, all_on);
          std::vector<std::atomic<int>> claimed(static_cast<size_t>(workers));
          auto claim = [&](int index) { claimed.at(static_cast<size_t>(slots.Claim(index, topology)))++; };
          executor(workers, [](int index, void* state) { (*static_cast<decltype(claim)*>(state))(index); }, &claim,
                   nullptr);
          for (const auto& times : claimed) EXPECT_EQ(times, 1) << nodes << " nodes, " << workers << " workers";
        }
      }
    }
  }
}

TEST(Slots, AThreadGetsAWorkerOfItsNodeWhileThereIsOne) {
  Slots slots(5, 2);  // workers 0 1 2 of node 0, 3 4 of node 1
  EXPECT_EQ(slots.ClaimFrom(1), 3);
  EXPECT_EQ(slots.ClaimFrom(0), 0);
  EXPECT_EQ(slots.ClaimFrom(1), 4);
  EXPECT_EQ(slots.ClaimFrom(1), 1) << "node 1 has none left";
  EXPECT_EQ(slots.ClaimFrom(0), 2);
}

TEST(Slots, WorkersOfNodesAreNeighboursAndEveryNodeHasSome) {
  for (int nodes = 1; nodes <= 8; ++nodes) {
    for (int workers = nodes; workers <= 40; ++workers) {
      for (int node = 0; node < nodes; ++node) {
        ASSERT_LT(FirstWorker(node, workers, nodes), FirstWorker(node + 1, workers, nodes));
        for (int w = FirstWorker(node, workers, nodes); w < FirstWorker(node + 1, workers, nodes); ++w) {
          ASSERT_EQ(NodeOfWorker(w, workers, nodes), node);
        }
      }
    }
  }
}

Problem Draft(const std::vector<int64_t>& counts, int64_t n, int64_t tail) {
  static const uint8_t packed[kHeaderBytes] = {};  // a header of zeros: no certificates
  Problem p;
  for (const int64_t count : counts) {
    if (count > 0) p.rows.push_back({p.e, p.m, p.m + count});
    p.m += count;
    ++p.e;
  }
  p.m += tail;
  p.k = p.slice = 2048, p.n = n, p.product = Product::kInt8;
  p.w.e = p.e, p.w.k = p.k, p.w.n = n, p.w.dtype = DType::kInt8, p.w.paired = true;
  p.w.packed.data = packed;
  p.epilogue.finish = Finish::kSwigluQuant;
  return p;
}

/// Every pair of every block once, no split block's task outside a node's share, tasks and workers by node.
void ExpectDivided(const Plan& plan) {
  std::vector<std::set<int64_t>> pairs(plan.blocks.size());
  int64_t covered = 0;
  ASSERT_EQ(plan.bounds.size(), static_cast<size_t>(plan.workers) + 1);
  ASSERT_EQ(plan.bounds.front(), 0);
  ASSERT_EQ(plan.bounds.back(), static_cast<int32_t>(plan.tasks.size()));
  for (int w = 0; w < plan.workers; ++w) {
    const int node = NodeOfWorker(w, plan.workers, plan.nodes);
    const int64_t begin = FirstPair(node, plan.pairs, plan.nodes), end = FirstPair(node + 1, plan.pairs, plan.nodes);
    for (int32_t i = plan.bounds[static_cast<size_t>(w)]; i < plan.bounds[static_cast<size_t>(w) + 1]; ++i) {
      const Task& t = plan.tasks[static_cast<size_t>(i)];
      if (t.block < 0) continue;
      const RowBlock& b = plan.blocks[static_cast<size_t>(t.block)];
      for (int64_t pair = t.first_pair; pair < t.first_pair + t.pairs; ++pair) {
        ASSERT_TRUE(pairs[static_cast<size_t>(t.block)].insert(pair).second) << "twice";
      }
      covered += t.pairs;
      if (b.tasks == 1) {
        ASSERT_GE(b.rows, 64) << "few rows are divided";
      } else {
        ASSERT_EQ(b.tasks % plan.nodes, 0);
        ASSERT_GE(t.first_pair, begin) << "worker " << w;
        ASSERT_LE(t.first_pair + t.pairs, end) << "worker " << w;
      }
    }
  }
  ASSERT_EQ(covered, plan.pairs * static_cast<int64_t>(plan.blocks.size()));
}

TEST(NumaPlan, TasksStayInANodesShareAndFollowNodes) {
  for (const int nodes : {2, 4}) {
    for (const int workers : {4, 7, 16, 64}) {
      for (const int64_t n : {128, 134, 352, 4096}) {
        for (const auto& counts : {std::vector<int64_t>{1}, std::vector<int64_t>(100, 3), {1000, 0, 3, 70},
                                   std::vector<int64_t>(300, 100)}) {
          SCOPED_TRACE(std::to_string(nodes) + " nodes, workers " + std::to_string(workers) + ", n " +
                       std::to_string(n) + ", experts " + std::to_string(counts.size()));
          const Plan plan = MakePlan(Draft(counts, n, 5), Isa::kScalar, workers, {1 << 20, 0}, nodes);
          ASSERT_EQ(plan.nodes, nodes);
          ExpectDivided(plan);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(NumaPlan, OneNodeWhereNotEveryNodeGetsAPart) {
  const auto nodes = [](const Problem& p, int workers) {
    return MakePlan(p, Isa::kScalar, workers, {1 << 20, 0}, 4).nodes;
  };
  EXPECT_EQ(nodes(Draft({8}, 4096, 0), 4), 4);
  EXPECT_EQ(nodes(Draft({8}, 4096, 0), 3), 1) << "a node without workers";
  EXPECT_EQ(nodes(Draft({8}, 96, 0), 8), 1) << "three pairs";
  Problem plain = Draft({8}, 4096, 0);
  plain.w.packed = {};
  EXPECT_EQ(nodes(plain, 4), 1) << "plain weights lie where the caller put them";
}

void ExpectSameOnAllNodes(Case c) {
  const Answer expected = ByReference(c);
  PackedWeight packed;
  const std::vector<uint8_t> bytes = Packed(c.problem, &packed);
  c.problem.w.packed = packed;
  c.problem.w.paired = c.problem.epilogue.finish == Finish::kSwigluQuant;
  for (const int nodes : {1, 2, 4}) {
    for (const int workers : {1, 2, 7}) {
      for (const auto executor : {OnThreads, Backwards}) {
        for (const int all_on : {-1, nodes - 1}) {
          Poison(c);
          Context context;
          context.parallel_for = executor;
          context.max_workers = workers;
          Run(c.problem, context, Fake(nodes, all_on));
          ASSERT_TRUE((Answer{c.y, c.y_scale}) == expected) << nodes << " nodes, " << workers << " workers";
        }
      }
    }
  }
}

TEST(NumaRun, ResultsAreThoseOfOneNode) {
  ExpectSameOnAllNodes(MakeCase(Finish::kSwigluQuant, {{13, 0, 300, 1, 70, 2}, 200, 352, 1, 3}, 21));
  ExpectSameOnAllNodes(MakeCase(Finish::kSwigluQuant, {{1}, 64, 130}, 22));
  ExpectSameOnAllNodes(MakeCase(Finish::kSwigluQuant, {{5, 90}, 128, 320, 2}, 23, DType::kInt4));
  ExpectSameOnAllNodes(MakeCase(Finish::kDequantize, {{5, 90, 1}, 96, 288}, 24, DType::kInt8, DType::kFloat32));
}

TEST(NumaPack, BytesAreThoseOfOneNode) {
  for (const DType dtype : {DType::kInt8, DType::kInt4}) {
    Case c = MakeCase(Finish::kSwigluQuant, {{1, 1, 1}, 72, 336}, 25, dtype);
    Weights w = c.problem.w;
    w.paired = true;
    for (const int64_t capacity : {0, dtype == DType::kInt8 ? 40 : 0}) {
      PackedWeight view;
      const std::vector<uint8_t> expected = Packed(c.problem, &view, capacity);
      for (const int nodes : {2, 4}) {
        for (const int workers : {1, 4, 7, 100}) {
          for (const auto executor : {OnThreads, Backwards}) {
            Context context;
            context.parallel_for = executor;
            context.max_workers = workers;
            std::vector<uint8_t> got(expected.size(), 0xCD), again(expected.size(), 0xCD);
            const PackedWeight packed = Pack(w, capacity, got.data(), context, Fake(nodes));
            ASSERT_TRUE(got == expected) << nodes << " nodes, " << workers << " workers";
            if (capacity == 0) continue;
            Certify(packed, capacity, again.data(), context, Fake(nodes));
            ASSERT_TRUE(again == expected) << nodes << " nodes, " << workers << " workers";
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace qgmm::cpu
