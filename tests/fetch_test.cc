// SPDX-License-Identifier: Apache-2.0
// What the worker tells kernels to fetch while they multiply: of many rows the stretch that comes next, in passes too; of one row
// what lies as far ahead as the machine likes it.
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "cpu/numa.h"
#include "cpu/plan.h"
#include "kernel_case.h"

namespace qgmm::cpu {
namespace {

using reference::Case;
using reference::MakeCase;

constexpr Caches kSmall = {32 << 10, 0}, kLarge = {1 << 20, 0};  // several passes; one

/// What a kernel call read and fetched, of its first panel.
struct Call {
  const uint8_t *read, *fetched;
  int64_t read_bytes, fetched_bytes;
};
std::vector<Call> calls;
const Kernel* wrapped = nullptr;

/// Of a plan of one block, carried out.
std::vector<Call> CallsOf(Plan& plan, const Problem& problem) {
  RowBlock& b = plan.blocks[0];
  wrapped = b.kernel;
  Kernel spy = *wrapped;
  spy.gemm = [](const GemmArgs& a) {
    const int64_t lines = a.k / 4;
    calls.push_back({a.w[0], a.prefetch[0], lines * kLineBytes, lines * a.prefetch_step});
    wrapped->gemm(a);
  };
  b.kernel = &spy;
  for (const Kernel*& certified : b.by_certificate) certified = &spy;
  calls.clear();
  Context context;
  Execute(problem, plan, context, MachineTopology());
  return calls;
}

/// All of the stretch that comes next: of the span's next pair, else of the next stretch of k, span, pass or pairs that wait.
TEST(Fetch, TheNextStretch) {
  if (!IsTested(Isa::kAmx)) GTEST_SKIP() << "not run: this machine has no amx";
  Case c = MakeCase(Finish::kSwigluQuant, {{64}, 3072, 32 * 6}, 1);
  c.problem.w.paired = true;
  PackedWeight packed;
  const std::vector<uint8_t> bytes = Packed(c.problem, &packed);
  c.problem.w.packed = packed;
  for (const Caches& caches : {kSmall, kLarge}) {
    Plan plan = MakePlan(c.problem, Isa::kAmx, 1, caches);
    EXPECT_EQ(plan.blocks[0].k_pass < 3072, caches.l2 == kSmall.l2);
    const std::vector<Call> found = CallsOf(plan, c.problem);
    ASSERT_EQ(found.size(), 2u * 6 * 3);  // row tiles, pairs, stretches
    for (size_t i = 0; i < found.size(); i += 2) {
      const Call &first = found[i], &second = found[i + 1];
      ASSERT_EQ(first.read, second.read);
      if (i + 2 == found.size()) {
        EXPECT_EQ(first.fetched_bytes + second.fetched_bytes, 0);
        continue;
      }
      EXPECT_EQ(first.fetched, found[i + 2].read) << "call " << i;
      EXPECT_EQ(first.fetched + first.fetched_bytes, second.fetched) << "call " << i;
      EXPECT_EQ(first.fetched_bytes + second.fetched_bytes, found[i + 2].read_bytes) << "call " << i;
    }
  }
}

/// Returns how many calls that was.
int ExpectFetchedAsTheMachineLikes(int64_t rows) {
  int calls = 0;
  for (const Isa isa : TestedIsas()) {
    Case c = MakeCase(Finish::kSwigluQuant, {{rows}, 640, 32 * 3}, 1);
    c.problem.w.paired = true;
    PackedWeight packed;
    const std::vector<uint8_t> bytes = Packed(c.problem, &packed);
    c.problem.w.packed = packed;
    for (const Ahead ahead : {Ahead::kByKernel, Ahead::kAsSeveralRows, Ahead::kPage}) {
      Plan plan = MakePlan(c.problem, isa, 1, {1 << 20, 0, ahead});
      const Kernel& kernel = *plan.blocks[0].kernel;
      if (rows > kernel.tile_m) continue;  // the next stretch is fetched, above
      const bool near = rows == 1 && ahead == Ahead::kByKernel && kernel.ahead_bytes_of_one != 0;
      const int wanted = ahead == Ahead::kPage && rows <= 4 ? 4096 : near ? kernel.ahead_bytes_of_one : kernel.ahead_bytes;
      for (const Call& call : CallsOf(plan, c.problem)) {
        ++calls;
        EXPECT_EQ(call.fetched - call.read, wanted) << Name(isa) << ", " << static_cast<int>(ahead);
      }
    }
  }
  return calls;
}

TEST(Fetch, AFewRowsAsFarAsTheMachineLikes) {
  EXPECT_GT(ExpectFetchedAsTheMachineLikes(1), 0);
  for (const int64_t rows : {2, 4, 5}) ExpectFetchedAsTheMachineLikes(rows);
}

}  // namespace
}  // namespace qgmm::cpu
