// SPDX-License-Identifier: Apache-2.0
// Certificates: the promise lane by lane, what the bytes lack, the rule that chooses, ways back, and hostile lists.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "cpu/backend.h"
#include "cpu/certify.h"
#include "kernel_case.h"
#include "packed_format.h"

namespace qgmm::cpu {
namespace {

constexpr int64_t kK = 320, kLines = kK / 4, kWeights = kK * kPanelColumns;

using Panel = std::vector<uint8_t>;

int8_t& Byte(Panel& panel, int64_t k, int column) {
  return reinterpret_cast<int8_t&>(panel[static_cast<size_t>(k / 4 * kLineBytes + column * 4 + k % 4)]);
}

Panel Drawn(uint32_t seed, const std::function<int(std::mt19937&)>& draw) {
  std::mt19937 random(seed);
  Panel panel(static_cast<size_t>(kWeights));
  for (uint8_t& byte : panel) byte = static_cast<uint8_t>(draw(random));
  return panel;
}
int Bell(std::mt19937& random, float sigma) {
  return static_cast<int>(std::clamp(std::round(std::normal_distribution<float>(0, sigma)(random)), -128.0f, 127.0f));
}

/// The k of a column that meet in one int16 lane: two of every line, `lines` lines.
std::vector<std::vector<int64_t>> LaneGroups(int lines) {
  std::vector<std::vector<int64_t>> groups;
  for (int64_t k0 = 0; k0 < kK; k0 += 4 * lines) {
    for (const int half : {0, 2}) {
      groups.emplace_back();
      for (int line = 0; line < lines; ++line) {
        for (const int b : {0, 1}) groups.back().push_back(k0 + 4 * line + half + b);
      }
    }
  }
  return groups;
}

/// Fewest entries that bring the sum of these sizes down to the bound, by trying every subset.
int Fewest(const std::vector<int>& sizes) {
  int sum = 0, best = 9;
  for (int size : sizes) sum += size;
  for (unsigned subset = 0; subset < 1u << sizes.size(); ++subset) {
    int removable = 0;
    for (size_t i = 0; i < sizes.size(); ++i) removable += subset >> i & 1 ? sizes[i] : 0;
    if (sum - removable <= 128) best = std::min(best, __builtin_popcount(subset));
  }
  return best;
}

int FewestOf(Panel& panel, int lines) {
  int entries = 0;
  for (int c = 0; c < kPanelColumns; ++c) {
    for (const auto& group : LaneGroups(lines)) {
      std::vector<int> above, below;
      for (int64_t k : group) (Byte(panel, k, c) > 0 ? above : below).push_back(std::abs(int{Byte(panel, k, c)}));
      entries += Fewest(above) + Fewest(below);
    }
  }
  return entries;
}

void ExpectPromise(Panel& panel, int lines, const std::string& what) {
  for (int c = 0; c < kPanelColumns; ++c) {
    for (const auto& group : LaneGroups(lines)) {
      int above = 0, below = 0;
      for (int64_t k : group) (Byte(panel, k, c) > 0 ? above : below) += Byte(panel, k, c);
      ASSERT_LE(above, 128) << what << ", column " << c << ", k " << group[0];
      ASSERT_GE(below, -128) << what << ", column " << c << ", k " << group[0];
    }
  }
}

struct Draw {
  const char* name;
  std::function<int(std::mt19937&)> draw;
};
std::vector<Draw> Draws() {
  return {{"sigma 16", [](std::mt19937& r) { return Bell(r, 16); }},
          {"sigma 20", [](std::mt19937& r) { return Bell(r, 20); }},
          {"sigma 33", [](std::mt19937& r) { return Bell(r, 33); }},
          {"uniform", [](std::mt19937& r) { return static_cast<int>(r() >> 24) - 128; }},
          {"all -128", [](std::mt19937&) { return -128; }},
          {"all 127", [](std::mt19937&) { return 127; }},
          {"extremes", [](std::mt19937& r) { return r() & 1 ? 127 : -128; }},
          {"at the bound", [](std::mt19937& r) { return 32 + static_cast<int>(r() % 3) / 2; }},
          {"zeros", [](std::mt19937&) { return 0; }}};
}

/// The portable lane search and those of ISAs that bring their own.
std::vector<FindBrokenFn> Finds() {
  std::vector<FindBrokenFn> finds;
  for (const Isa isa : MachineIsas()) {
    const FindBrokenFn find = StagesFor(isa).lines.find_broken;
    if (std::find(finds.begin(), finds.end(), find) == finds.end()) finds.push_back(find);
  }
  return finds;
}

/// A panel through its certificate, `stretch` lines at a time.
Certificate CertifyPanel(Panel& panel, int64_t capacity, FindBrokenFn find, std::vector<uint32_t>* residuals,
                         int64_t stretch = 16) {
  PanelCertifier certifier;
  Panel place(panel.size(), 0xAB);
  for (int round = 0; round < 2; ++round) {  // the second time as new
    certifier.Start(place.data(), capacity, find);
    for (int64_t line = 0; line < kLines; line += stretch) {
      const auto first = panel.begin() + line * kLineBytes;
      Panel lines(first, first + std::min<int64_t>(stretch, kLines - line) * kLineBytes);
      certifier.Take(lines.data(), static_cast<int64_t>(lines.size()) / kLineBytes);
      std::copy(lines.begin(), lines.end(), place.begin() + line * kLineBytes);
    }
  }
  panel = place;
  *residuals = certifier.residuals();
  return certifier.certificate();
}

/// The certificate lane by lane, in plain ints: largest weight first, of equals the first in memory.
Certificate PlainCertify(Panel& panel, int64_t capacity, std::vector<uint32_t>* residuals) {
  const Panel before = panel;
  for (const int lines : {2, 1}) {
    panel = before;
    residuals->clear();
    for (int c = 0; c < kPanelColumns; ++c) {
      for (const auto& group : LaneGroups(lines)) {
        for (const int sign : {1, -1}) {
          int sum = 0;
          for (int64_t k : group) sum += std::max(0, sign * Byte(panel, k, c));
          while (sum > 128) {
            int64_t largest = -1;
            for (int64_t k : group) {
              const bool untouched = Byte(panel, k, c) == Byte(const_cast<Panel&>(before), k, c);
              if (untouched && (largest < 0 || sign * Byte(panel, k, c) > sign * Byte(panel, largest, c))) largest = k;
            }
            const int taken = std::min(sign * Byte(panel, largest, c), sum - 128);
            residuals->push_back(MakeResidual(largest, c, sign * taken));
            Byte(panel, largest, c) = static_cast<int8_t>(Byte(panel, largest, c) - sign * taken);
            sum -= taken;
          }
        }
      }
    }
    std::sort(residuals->begin(), residuals->end());
    const int64_t most = lines == 2 ? capacity / 2 : capacity;
    if (static_cast<int64_t>(residuals->size()) <= most) return lines == 2 ? Certificate::kQuads : Certificate::kPairs;
  }
  panel = before;
  residuals->clear();
  return Certificate::kNone;
}

TEST(PanelCertifier, TheBytesAndListsOfAPlainRewrite) {
  for (const Draw& draw : Draws()) {
    for (uint32_t seed = 0; seed < 20; ++seed) {
      for (const int64_t capacity : {int64_t{1}, kWeights / 256, kWeights / 16, kWeights * 2}) {
        const Panel before = Drawn(seed, draw.draw);
        Panel expected = before;
        std::vector<uint32_t> list;
        const Certificate certificate = PlainCertify(expected, capacity, &list);
        for (const FindBrokenFn find : Finds()) {
          for (const int64_t stretch : {int64_t{2}, int64_t{16}, int64_t{kMaxLines}, kLines}) {
            Panel panel = before;
            std::vector<uint32_t> residuals = {77};
            ASSERT_EQ(CertifyPanel(panel, capacity, find, &residuals, stretch), certificate) << draw.name << ", " << seed;
            ASSERT_EQ(residuals, list) << draw.name << ", seed " << seed << ", capacity " << capacity << ", " << stretch;
            ASSERT_EQ(panel, expected) << draw.name << ", seed " << seed << ", capacity " << capacity << ", " << stretch;
          }
        }
      }
    }
  }
}

/// Every lane of every group, one at a time, just within the bound and just beyond, at both ends of int8.
TEST(FindBroken, OneLaneAtATime) {
  constexpr int kWithin[2][4] = {{64, 64, -64, -64}, {1, 127, 0, -128}};
  constexpr int kBeyond[3][4] = {{65, 64, 0, 0}, {-128, -1, 0, 0}, {127, 2, -128, 0}};
  for (const FindBrokenFn find : Finds()) {
    for (const int steps : {1, 2}) {
      for (int64_t lane = 0; lane < kMaxLines / 2 / steps * 32; ++lane) {
        const int64_t group = lane / 32, first = group * steps * kLineBytes + lane % 32 * 2;
        const auto place = [&](int i) { return static_cast<size_t>(first + (steps == 2 ? i / 2 * kLineBytes : 0) + i % 2); };
        std::vector<uint8_t> lines(static_cast<size_t>(kMaxLines / 2 * kLineBytes));
        BrokenLanes found[kMaxLines];
        for (const auto& weights : kWithin) {
          for (int i = 0; i < 2 * steps; ++i) lines[place(i)] = static_cast<uint8_t>(weights[i]);
          ASSERT_EQ(find(lines.data(), kMaxLines / 2 / steps, steps, found), 0) << steps << ", lane " << lane;
        }
        for (const auto& weights : kBeyond) {
          for (int i = 0; i < 2 * steps; ++i) lines[place(i)] = static_cast<uint8_t>(weights[i]);
          ASSERT_EQ(find(lines.data(), kMaxLines / 2 / steps, steps, found), 1) << steps << ", lane " << lane;
          ASSERT_EQ(found[0].group, group);
          ASSERT_EQ(found[0].lanes, 1u << (lane % 32));
        }
      }
    }
  }
}

TEST(PanelCertifier, KeepsThePromiseWithTheFewestEntries) {
  const FindBrokenFn find = StagesFor(ChosenIsa(-1)).lines.find_broken;
  for (const Draw& draw : Draws()) {
    for (const int64_t capacity : {int64_t{1}, kWeights / 256, kWeights / 16, kWeights * 2}) {
      const Panel before = Drawn(3, draw.draw);
      Panel panel = before;
      std::vector<uint32_t> residuals = {77};
      const Certificate certificate = CertifyPanel(panel, capacity, find, &residuals);
      Panel original = before;
      const int quads = FewestOf(original, 2), pairs = FewestOf(original, 1);
      const Certificate expected = quads <= capacity / 2 ? Certificate::kQuads
                                   : pairs <= capacity   ? Certificate::kPairs
                                                         : Certificate::kNone;
      ASSERT_EQ(certificate, expected) << draw.name << ", capacity " << capacity;
      const int entries = certificate == Certificate::kQuads ? quads : certificate == Certificate::kPairs ? pairs : 0;
      ASSERT_EQ(static_cast<int>(residuals.size()), entries) << draw.name;
      ASSERT_TRUE(std::is_sorted(residuals.begin(), residuals.end()));
      if (certificate != Certificate::kNone) {
        ExpectPromise(panel, certificate == Certificate::kQuads ? 2 : 1, draw.name);
      }
      for (uint32_t residual : residuals) {
        const int residue = ResidualValue(residual);
        int8_t& byte = Byte(panel, ResidualK(residual), ResidualColumn(residual));
        ASSERT_NE(residue, 0);
        ASSERT_GE(residue * byte, 0) << "of the weight's sign";
        byte = static_cast<int8_t>(byte + residue);
      }
      ASSERT_EQ(panel, before) << draw.name << ": byte + residue is the weight";
    }
  }
}

TEST(PanelCertifier, RestoreLinesOfAnyStretch) {
  const FindBrokenFn find = StagesFor(ChosenIsa(-1)).lines.find_broken;
  const Panel before = Drawn(4, [](std::mt19937& r) { return static_cast<int>(r() >> 24) - 128; });
  Panel panel = before;
  std::vector<uint32_t> residuals;
  ASSERT_EQ(CertifyPanel(panel, 2 * kWeights, find, &residuals), Certificate::kQuads);
  const PanelPromise promise = {Certificate::kQuads, static_cast<int>(residuals.size()),
                                reinterpret_cast<const uint8_t*>(residuals.data())};
  for (int64_t first = 0; first < kLines; ++first) {
    for (int64_t lines = 1; first + lines <= kLines; lines += 5) {
      Panel stretch(panel.begin() + first * kLineBytes, panel.begin() + (first + lines) * kLineBytes);
      RestoreLines(promise, 4 * first, lines, stretch.data());
      ASSERT_TRUE(std::equal(stretch.begin(), stretch.end(), before.begin() + first * kLineBytes)) << first << ", " << lines;
    }
  }
}

/// Weights [e, k, n] as a problem's, bell-shaped unless uniform.
struct Stack {
  std::vector<int8_t> w;
  Weights weights;

  Stack(int64_t e, int64_t k, int64_t n, bool paired, float sigma) : w(static_cast<size_t>(e * k * n)) {
    std::mt19937 random(8);
    for (int8_t& v : w) v = static_cast<int8_t>(sigma > 0 ? Bell(random, sigma) : static_cast<int>(random() >> 24) - 128);
    weights.e = e, weights.k = k, weights.n = n, weights.paired = paired;
    weights.plain = {w.data(), n, 1};
    weights.expert_stride = k * n;
  }
  std::vector<uint8_t> Packed(int64_t capacity, PackedWeight* view) const {
    std::vector<uint8_t> bytes(static_cast<size_t>(PackedBytes(weights, capacity)), 0xAB);
    Context context;
    *view = Pack(weights, capacity, bytes.data(), context);
    return bytes;
  }
};

/// With certificates and back: the bytes that Pack writes at once, and no weight changes.
TEST(Certify, UpAndDown) {
  for (const float sigma : {20.0f, 33.0f, 0.0f}) {
    for (const bool paired : {false, true}) {
      const Stack stack(3, 131, 70, paired, sigma);
      const int64_t capacity = PaddedK(131) * kPanelColumns / 64;
      PackedWeight plain, certified, up, down;
      const auto plain_bytes = stack.Packed(0, &plain), certified_bytes = stack.Packed(capacity, &certified);
      Context context;
      context.parallel_for = Backwards;
      context.pool_size = 5;
      std::vector<uint8_t> up_bytes(static_cast<size_t>(CertifiedBytes(plain, capacity)), 0xCD);
      up = Certify(plain, capacity, up_bytes.data(), context);
      std::vector<uint8_t> down_bytes(static_cast<size_t>(CertifiedBytes(up, 0)), 0xEF);
      down = Certify(up, 0, down_bytes.data(), context);
      ASSERT_EQ(down_bytes, plain_bytes);
      ASSERT_EQ(up_bytes, certified_bytes);
      std::vector<int8_t> unpacked(stack.w.size());
      qgmm::Unpack(up, unpacked.data(), context);
      ASSERT_EQ(unpacked, stack.w);
      PackedWeight read;
      ASSERT_EQ(ReadHeader(up_bytes.data(), static_cast<int64_t>(up_bytes.size()), &read), "");
      for (int64_t i = 0; i < 3 * 131 * 70; ++i) {
        const int64_t e = i / (131 * 70), k = i / 70 % 131, j = i % 70;
        ASSERT_EQ(At(up, e, k, j), stack.w[static_cast<size_t>(i)]) << i;
        ASSERT_EQ(At(certified, e, k, j), stack.w[static_cast<size_t>(i)]) << i;
      }
    }
  }
}

TEST(Certify, BellShapedWeightsGetQuadsAndUniformOnesNone) {
  PackedWeight view;
  for (const auto& [sigma, least, most] : {std::tuple{16.0f, 2, 2}, {20.0f, 2, 2}, {28.0f, 1, 1}, {0.0f, 0, 0}}) {
    const Stack stack(1, 512, 64, true, sigma);
    const auto bytes = stack.Packed(PaddedK(512) * kPanelColumns / 256, &view);
    for (int64_t p = 0; p < 4; ++p) {
      const int certificate = static_cast<int>(Promises(view).Of(0, p).certificate);
      EXPECT_GE(certificate, least) << "sigma " << sigma;
      EXPECT_LE(certificate, most) << "sigma " << sigma;
    }
  }
}

/// Numbers that Pack never writes: results may be anything, memory stays its own.
TEST(Certify, HostileListsReadNothingElse) {
  reference::Case c = reference::MakeCase(Finish::kSwigluQuant, {{5, 12}, 80, 64}, 5);
  PackedWeight packed;
  const std::vector<uint8_t> good = Packed(c.problem, &packed, 40);
  const int64_t first = MakeHeader(packed.layout, packed.e, packed.k, packed.n, 40).certificates_offset();
  std::mt19937 random(6);
  for (int round = 0; round < 60; ++round) {
    std::vector<uint8_t> bytes = good;
    for (size_t i = static_cast<size_t>(first); i + 4 <= bytes.size(); i += 4) {
      const uint32_t words[] = {0, 1, 2, 3, 40, 41, 0xFFFFFFFFu, static_cast<uint32_t>(random())};
      if (random() % 3) std::memcpy(&bytes[i], &words[random() % 8], 4);
    }
    ASSERT_EQ(ReadHeader(bytes.data(), static_cast<int64_t>(bytes.size()), &c.problem.w.packed), "");
    for (const Isa isa : MachineIsas()) {
      Context context;
      context.max_isa = static_cast<int>(isa);
      ByKernels(c, context);
    }
    At(c.problem.w.packed, 1, 79, 63);
    std::vector<int8_t> plain(2 * 80 * 64);
    Context context;
    qgmm::Unpack(c.problem.w.packed, plain.data(), context);
    const int64_t sums = MakeHeader(packed.layout, packed.e, packed.k, packed.n, 40).column_sums_offset();
    std::memset(&bytes[static_cast<size_t>(sums)], round % 2 ? 0x7F : 0x80, 64);  // of the first panel
    for (const int64_t capacity : {0, 40}) {
      std::vector<uint8_t> out(static_cast<size_t>(CertifiedBytes(c.problem.w.packed, capacity)));
      Certify(c.problem.w.packed, capacity, out.data(), context);
    }
  }
}

TEST(ResidualCapacity, AsTheMachinesKernelsWantIt) {
  EXPECT_EQ(ResidualCapacity(DType::kInt8, 256, Certification::kNo, 1), 0);
  EXPECT_EQ(ResidualCapacity(DType::kInt8, 256, Certification::kYes, 1.0 / 256), 16);
  EXPECT_EQ(ResidualCapacity(DType::kInt8, 1, Certification::kYes, 1e-9), 1);
  EXPECT_EQ(ResidualCapacity(DType::kInt4, 256, Certification::kAuto, 1), 0);
  EXPECT_EQ(ResidualCapacity(DType::kInt8, 131072, Certification::kAuto, 1), 0);
  const Kernel& best = ChooseKernel(Product::kInt8, 256, 256, 256, ChosenIsa(-1), Certificate::kQuads);
  EXPECT_EQ(ResidualCapacity(DType::kInt8, 256, Certification::kAuto, 1) > 0, best.needs != Certificate::kNone);
}

}  // namespace
}  // namespace qgmm::cpu
