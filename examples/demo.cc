// SPDX-License-Identifier: Apache-2.0
// The main job from C++: operator A (int8 and int4 experts), operator B (bfloat16 tokens) and the down projection on
// real shapes, timed, and judged against the scalar reference. Exit status 1 if any answer is wrong.
//   qgmm_demo [--quick]      --quick: the small cases only
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <utility>

#include "demo_case.h"
#include "qgmm/ops.h"

namespace demo {
namespace {

/// SplitMix64: good bits, eight bytes at a time, so that a gigabyte of weights takes less than a second.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }
  void Fill(const Buffer& buffer) {
    for (size_t i = 0; i < buffer.bytes(); i += 8) {
      const uint64_t bits = Next();
      std::memcpy(buffer.data() + i, &bits, std::min<size_t>(8, buffer.bytes() - i));
    }
  }
  float Between(float low, float high) { return low + (high - low) * static_cast<float>(Next() >> 40) * 0x1p-24f; }

 private:
  uint64_t state_;
};

bool IsB(const Case& c) { return c.operation == Operation::kB; }

qgmm::TensorView PlainWeight(const Case& c, const Experts& experts) {
  if (c.weights == qgmm::DType::kInt8) return View(experts.plain.data(), c.weights, {c.experts, c.k, c.n});
  return View(experts.plain.data(), qgmm::DType::kInt32, {c.experts, c.k, c.n / 8});
}

Experts MakeExperts(const Case& c, Random& random, qgmm::Context& context) {
  Experts experts;
  experts.plain = Buffer(static_cast<size_t>(c.experts * c.k * c.n / (c.weights == qgmm::DType::kInt4 ? 2 : 1)));
  random.Fill(experts.plain);
  experts.scale.resize(static_cast<size_t>(c.experts * c.slices * c.n));
  for (float& scale : experts.scale) scale = random.Between(0.5f, 1.5f) / static_cast<float>(64 * c.k);
  if (!c.packed) return experts;
  const qgmm::TensorView weight = PlainWeight(c, experts);
  const qgmm::PackArgs args = {.weight = weight, .swiglu = c.operation == Operation::kA};
  experts.packed_bytes = Buffer(static_cast<size_t>(qgmm::PackedBytes(args)));
  experts.packed = qgmm::Pack(args, experts.packed_bytes.data(), context);
  return experts;
}

Tokens MakeTokens(const Case& c, Random& random) {
  Tokens tokens;
  tokens.rows = c.tail;
  for (int64_t expert = 0; expert < c.experts; ++expert) {
    const size_t given = std::min(static_cast<size_t>(expert), c.counts.size() - 1);
    tokens.counts.push_back(c.counts[given]);
    tokens.rows += c.counts[given];
  }
  tokens.x = Buffer(static_cast<size_t>(tokens.rows * c.k * (IsB(c) ? 2 : 1)));
  random.Fill(tokens.x);
  for (size_t i = 0; IsB(c) && i < tokens.x.bytes(); i += 2) {  // bfloat16 of any sign, 2^-7 <= magnitude < 2
    uint8_t* bits = tokens.x.data() + i;
    bits[1] = static_cast<uint8_t>((bits[1] & 0x83) | 0x3C);
  }
  for (int64_t i = 0; i < tokens.rows; ++i) tokens.x_scale.push_back(random.Between(0.01f, 0.1f));
  return tokens;
}

void CallA(const Case& c, const Experts& experts, bool packed, const Tokens& tokens, qgmm::Context& context,
           Result& result) {
  const qgmm::TensorView weight = PlainWeight(c, experts);
  const qgmm::TensorView scale = c.slices == 1 ? View(experts.scale.data(), qgmm::DType::kFloat32, {c.experts, c.n})
      : View(experts.scale.data(), qgmm::DType::kFloat32, {c.experts, c.slices, c.n});
  qgmm::SwigluQuantArgs args;
  args.x = View(tokens.x.data(), qgmm::DType::kInt8, {tokens.rows, c.k});
  if (packed) args.packed = experts.packed;
  else args.weight = weight;
  args.weight_scale = scale;
  args.x_scale = View(tokens.x_scale.data(), qgmm::DType::kFloat32, {tokens.rows});
  args.group_list = View(tokens.counts.data(), qgmm::DType::kInt64, {c.experts});
  args.group_list_type = 1;
  args.dequant_mode = c.slices == 1 ? 0 : 1;
  args.y = View(result.y.data(), qgmm::DType::kInt8, {tokens.rows, c.n / 2});
  args.y_scale = View(result.y_scale.data(), qgmm::DType::kFloat32, {tokens.rows});
  qgmm::GroupedMatmulSwigluQuant(args, context);
}

void CallB(const Case& c, const Experts& experts, bool packed, const Tokens& tokens, qgmm::Context& context,
           Result& result) {
  const qgmm::TensorView weight = PlainWeight(c, experts);
  qgmm::WeightQuantArgs args;
  args.x = View(tokens.x.data(), qgmm::DType::kBFloat16, {tokens.rows, c.k});
  if (packed) args.packed = experts.packed;
  else args.weight = weight;
  args.scale = View(experts.scale.data(), qgmm::DType::kFloat32, {c.experts, c.n});
  args.group_list = View(tokens.counts.data(), qgmm::DType::kInt64, {c.experts});
  args.group_list_type = 1;
  args.y = View(result.y.data(), qgmm::DType::kBFloat16, {tokens.rows, c.n});
  qgmm::WeightQuantGroupedMatmul(args, context);
}

void CallDown(const Case& c, const Experts& experts, bool packed, const Tokens& tokens, qgmm::Context& context,
              Result& result) {
  const qgmm::TensorView weight = PlainWeight(c, experts);
  const qgmm::TensorView scale = View(experts.scale.data(), qgmm::DType::kFloat32, {c.experts, c.n});
  qgmm::GroupedMatmulArgs args;
  args.x = View(tokens.x.data(), qgmm::DType::kInt8, {tokens.rows, c.k});
  if (packed) args.packed = experts.packed;
  else args.weight = weight;
  args.weight_scale = scale;
  args.x_scale = View(tokens.x_scale.data(), qgmm::DType::kFloat32, {tokens.rows});
  args.group_list = View(tokens.counts.data(), qgmm::DType::kInt64, {c.experts});
  args.group_list_type = 1;
  args.out_dtype = qgmm::DType::kBFloat16;
  args.y = View(result.y.data(), qgmm::DType::kBFloat16, {tokens.rows, c.n});
  qgmm::GroupedMatmul(args, context);
}

}  // namespace

void Call(const Case& c, const Experts& experts, bool packed, const Tokens& tokens, qgmm::Context& context,
          Result& result) {
  const bool a = c.operation == Operation::kA;
  result.row_bytes = a ? c.n / 2 : c.n * 2;
  const size_t bytes = static_cast<size_t>(tokens.rows * result.row_bytes);
  if (result.y.bytes() != bytes) result.y = Buffer(bytes);
  std::memset(result.y.data(), 0x5A, bytes);
  result.y_scale.assign(a ? static_cast<size_t>(tokens.rows) : 0, -1.0f);
  if (a) CallA(c, experts, packed, tokens, context, result);
  else if (IsB(c)) CallB(c, experts, packed, tokens, context, result);
  else CallDown(c, experts, packed, tokens, context, result);
}

namespace {

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Best time of a call: at least two runs, then until half a second is spent or twenty runs are done.
double BestTime(const Case& c, const Experts& experts, const Tokens& tokens, qgmm::Context& context, Result& result) {
  double best = 1e30, spent = 0;
  for (int run = 0; run < 2 || (run < 20 && spent < 0.5); ++run) {
    const double start = Now();
    Call(c, experts, c.packed, tokens, context, result);
    const double time = Now() - start;
    best = std::min(best, time);
    spent += time;
  }
  return best;
}

bool RunCase(const Case& c, uint64_t seed) {
  Random random(seed);
  qgmm::Context context;
  const Experts experts = MakeExperts(c, random, context);
  const Tokens tokens = MakeTokens(c, random);
  Result result;
  const double time = BestTime(c, experts, tokens, context, result);
  const Verdict verdict = Judge(c, experts, tokens, result);
  const int64_t active = std::count_if(tokens.counts.begin(), tokens.counts.end(), [](int64_t n) { return n > 0; });
  const double macs = static_cast<double>((tokens.rows - c.tail) * c.k * c.n);
  const double weights = static_cast<double>(active * c.k * c.n) / (c.weights == qgmm::DType::kInt4 ? 2 : 1);
  std::string kernels;
  for (const std::string& kernel : context.last_run.kernels) kernels += (kernels.empty() ? "" : "+") + kernel;
  char sizes[64];
  std::snprintf(sizes, sizeof(sizes), "%lld x %lld x %lld", static_cast<long long>(c.experts),
                static_cast<long long>(c.k), static_cast<long long>(c.n));
  std::printf("%-30s %-18s %5lld  %-7s %-31s %7d %9.2f %8.1f %7.1f  %s\n", c.title, sizes,
              static_cast<long long>(tokens.rows), c.packed ? "packed" : "plain", kernels.c_str(),
              context.last_run.workers, time * 1e3, macs / time * 1e-9, weights / time * 1e-9, verdict.text.c_str());
  std::fflush(stdout);
  return verdict.right;
}

std::vector<Case> SmallCases() {
  using enum Operation;
  using enum qgmm::DType;
  return {
      {"A int8, odd sizes", kA, 5, 77, 62, {7, 0, 1, 12, 3}, 4, kInt8, 1, true, 0},
      {"A int8, odd sizes", kA, 5, 77, 62, {7, 0, 1, 12, 3}, 4, kInt8, 1, false, 0},
      {"A int4 per channel", kA, 3, 96, 48, {0, 9, 5}, 2, kInt4, 1, true, 0},
      {"A int4 groups of 32", kA, 3, 96, 48, {2, 0, 15}, 1, kInt4, 3, true, 0},
      {"B bf16, its document's shape", kB, 8, 256, 128, {4}, 0, kInt8, 1, true, 0},
      {"B bf16, odd sizes", kB, 4, 131, 45, {3, 0, 14, 1}, 3, kInt8, 1, false, 0},
      {"down int8 to bf16", kDown, 4, 96, 70, {6, 1, 0, 13}, 2, kInt8, 1, true, 0},
  };
}

/// The document's shape of operator A, and the experts of a model with 128 of them, k 2048, two projections of 768.
std::vector<Case> LargeCases() {
  using enum Operation;
  using enum qgmm::DType;
  return {
      {"A int8, its document's shape", kA, 2, 7168, 4096, {256, 248}, 8, kInt8, 1, true, 64},
      {"A int8, its document's shape", kA, 2, 7168, 4096, {256, 248}, 8, kInt8, 1, false, 64},
      {"A int4 per channel", kA, 2, 7168, 4096, {256, 248}, 8, kInt4, 1, true, 64},
      {"A int4 groups of 128", kA, 2, 7168, 4096, {256, 248}, 8, kInt4, 56, true, 64},
      {"A int8, 1 row per expert", kA, 128, 2048, 1536, {1}, 1, kInt8, 1, true, 64},
      {"A int8, 16 rows per expert", kA, 128, 2048, 1536, {16}, 5, kInt8, 1, true, 64},
      {"A int4 g128, 1 row per expert", kA, 128, 2048, 1536, {1}, 1, kInt4, 16, true, 64},
      {"B bf16, 1 row per expert", kB, 128, 2048, 1536, {1}, 1, kInt8, 1, true, 64},
      {"B bf16, 16 rows per expert", kB, 128, 2048, 1536, {16}, 5, kInt8, 1, true, 64},
      {"down int8, 16 rows per expert", kDown, 128, 768, 2048, {16}, 5, kInt8, 1, true, 64},
  };
}

int Main(bool quick) {
  std::printf("%-30s %-18s %5s  %-7s %-31s %7s %9s %8s %7s  %s\n", "case", "experts x k x n", "rows", "weights",
              "kernels", "threads", "ms", "GMAC/s", "GB/s", "verdict");
  std::vector<Case> cases = SmallCases();
  if (!quick) {
    for (Case& c : LargeCases()) cases.push_back(std::move(c));
  }
  int wrong = 0;
  uint64_t seed = 1;
  for (const Case& c : cases) wrong += !RunCase(c, seed++);
  if (wrong) std::printf("%d of %zu cases are WRONG\n", wrong, cases.size());
  else std::printf("all %zu cases are right; best times; GB/s are bytes of weights\n", cases.size());
  std::printf("next: include/qgmm/ops.h has the formula of every operation; find_package(qgmm) links it to yours\n");
  return wrong ? 1 : 0;
}

}  // namespace
}  // namespace demo

int main(int argc, char** argv) {
  const bool quick = argc == 2 && std::strcmp(argv[1], "--quick") == 0;
  if (argc > 1 && !quick) {
    std::fprintf(stderr, "usage: %s [--quick]\n", argv[0]);
    return 2;
  }
  try {
    return demo::Main(quick);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "qgmm_demo: %s\n", error.what());
    return 1;
  }
}
