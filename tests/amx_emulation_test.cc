// SPDX-License-Identifier: Apache-2.0
// The emulated tiles against plain loops, and their refusals: what the processor would answer with a fault.
#if defined(__x86_64__)
#include <gtest/gtest.h>

#include <cstring>
#include <initializer_list>
#include <random>
#include <thread>
#include <tuple>
#include <vector>

#include "emulation/amx.h"

namespace qgmm::emulation {
namespace {

struct Shape {
  int tile, rows, row_bytes;
};

/// ldtilecfg with these tiles.
void Configure(std::initializer_list<Shape> shapes) {
  uint8_t config[64] = {1};
  for (const Shape& s : shapes) {
    config[16 + 2 * s.tile] = static_cast<uint8_t>(s.row_bytes);
    config[48 + s.tile] = static_cast<uint8_t>(s.rows);
  }
  _tile_loadconfig(config);
}

std::vector<uint8_t> RandomBytes(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> bytes(count);
  for (uint8_t& b : bytes) b = random() % 4 ? static_cast<uint8_t>(random()) : (random() % 2 ? 0x80 : 0x7F);
  return bytes;
}

int Value(uint8_t byte, bool is_signed) { return is_signed ? static_cast<int8_t>(byte) : byte; }

class AmxEmulation : public testing::Test {
 protected:
  void TearDown() override { _tile_release(); }
};
using AmxEmulationDeathTest = AmxEmulation;

/// All four products, tiles of several sizes; sums that start anywhere wrap.
TEST_F(AmxEmulation, ProductsAreThoseOfPlainLoops) {
  for (const auto& [rows, depth, columns] : {std::tuple{16, 16, 16}, {1, 1, 1}, {5, 16, 3}, {16, 2, 7}}) {
    for (const bool signed_a : {false, true}) {
      for (const bool signed_b : {false, true}) {
        const std::vector<uint8_t> a = RandomBytes(static_cast<size_t>(rows) * depth * 4, 1);
        const std::vector<uint8_t> b = RandomBytes(static_cast<size_t>(depth) * columns * 4, 2);
        std::vector<uint8_t> c = RandomBytes(static_cast<size_t>(rows) * columns * 4, 3);
        std::vector<uint32_t> expected(static_cast<size_t>(rows) * columns), got(expected.size());
        std::memcpy(expected.data(), c.data(), c.size());
        for (int i = 0; i < rows; ++i) {
          for (int j = 0; j < columns; ++j) {
            for (int k = 0; k < 4 * depth; ++k) {
              const int x = Value(a[static_cast<size_t>(i * depth * 4 + k)], signed_a);
              const int w = Value(b[static_cast<size_t>((k / 4 * columns + j) * 4 + k % 4)], signed_b);
              expected[static_cast<size_t>(i * columns + j)] += static_cast<uint32_t>(x * w);
            }
          }
        }
        Configure({{0, rows, columns * 4}, {1, rows, depth * 4}, {2, depth, columns * 4}});
        _tile_loadd(0, c.data(), columns * 4);
        _tile_loadd(1, a.data(), depth * 4);
        _tile_stream_loadd(2, b.data(), columns * 4);
        if (signed_a && signed_b) _tile_dpbssd(0, 1, 2);
        if (signed_a && !signed_b) _tile_dpbsud(0, 1, 2);
        if (!signed_a && signed_b) _tile_dpbusd(0, 1, 2);
        if (!signed_a && !signed_b) _tile_dpbuud(0, 1, 2);
        _tile_stored(0, got.data(), columns * 4);
        EXPECT_EQ(got, expected) << rows << " rows, " << signed_a << signed_b;
      }
    }
  }
}

TEST_F(AmxEmulation, LoadsAndStoresKeepToRowsAndStrides) {
  Configure({{3, 3, 8}});
  const std::vector<uint8_t> from = RandomBytes(100, 4);
  std::vector<uint8_t> to(100, 0xAB), expected(100, 0xAB);
  _tile_loadd(3, from.data(), 20);
  _tile_stored(3, to.data(), 33);
  for (int i = 0; i < 3; ++i) std::memcpy(expected.data() + 33 * i, from.data() + 20 * i, 8);
  EXPECT_EQ(to, expected);
  _tile_stored(3, to.data() + 66, -33);  // backwards
  for (int i = 0; i < 3; ++i) std::memcpy(expected.data() + 33 * (2 - i), from.data() + 20 * i, 8);
  EXPECT_EQ(to, expected);
}

TEST_F(AmxEmulation, ZeroAndANewConfigurationClear) {
  const std::vector<uint8_t> from(1024, 0x11);
  std::vector<uint8_t> to(1024), zeros(1024);
  Configure({{0, 16, 64}, {1, 16, 64}});
  _tile_loadd(0, from.data(), 64);
  _tile_zero(0);
  _tile_stored(0, to.data(), 64);
  EXPECT_EQ(to, zeros);
  _tile_loadd(1, from.data(), 64);
  Configure({{1, 16, 64}});
  _tile_stored(1, to.data(), 64);
  EXPECT_EQ(to, zeros);
}

TEST_F(AmxEmulation, EveryThreadHasTilesOfItsOwn) {
  Configure({{0, 16, 64}});
  bool configured = true;
  std::thread([&] { configured = tile_registers.configured; }).join();
  EXPECT_FALSE(configured);
  EXPECT_TRUE(tile_registers.configured);
}

TEST_F(AmxEmulationDeathTest, UseWithoutAConfiguration) {
  uint8_t memory[1024] = {};
  EXPECT_DEATH(_tile_zero(0), "tilezero of tile 0: no configuration is loaded");
  Configure({{0, 16, 64}});
  EXPECT_DEATH(_tile_loadd(1, memory, 64), "tileloadd of tile 1: its configuration has no rows");
  _tile_release();
  EXPECT_DEATH(_tile_stored(0, memory, 64), "tilestored of tile 0: no configuration is loaded");
  const uint8_t none[64] = {};
  Configure({{0, 16, 64}});
  _tile_loadconfig(none);  // palette 0 is the state after a release
  EXPECT_DEATH(_tile_zero(0), "no configuration is loaded");
}

TEST_F(AmxEmulationDeathTest, ConfigurationsThatDoNotExist) {
  const auto change = [](int at, int value) {
    uint8_t config[64] = {1};
    config[at] = static_cast<uint8_t>(value);
    _tile_loadconfig(config);
  };
  EXPECT_DEATH(change(0, 2), "there are palettes 0 and 1");
  EXPECT_DEATH(change(1, 1), "a start row");
  EXPECT_DEATH(change(2, 1), "a reserved byte");
  EXPECT_DEATH(change(15, 1), "a reserved byte");
  EXPECT_DEATH(change(16, 65), "tile 0: more than 64 bytes per row");
  EXPECT_DEATH(change(31, 1), "tile 7: more than 64 bytes per row");
  EXPECT_DEATH(change(32, 4), "tile 8: palette 1 has tiles 0 to 7");
  EXPECT_DEATH(change(50, 17), "tile 2: more than 16 rows");
  EXPECT_DEATH(change(63, 1), "tile 15: palette 1 has tiles 0 to 7");
}

TEST_F(AmxEmulationDeathTest, ProductsOfTilesThatDoNotFit) {
  Configure({{0, 4, 12}, {1, 4, 8}, {2, 2, 12}, {3, 3, 8}, {4, 2, 16}, {5, 3, 12}, {6, 4, 6}});
  _tile_dpbssd(0, 1, 2);
  EXPECT_DEATH(_tile_dpbssd(0, 1, 1), "its three tiles must differ");
  EXPECT_DEATH(_tile_dpbssd(0, 0, 2), "its three tiles must differ");
  EXPECT_DEATH(_tile_dpbusd(0, 3, 2), "tdpbusd of tile 0: the left tile must have as many rows as the sums");
  EXPECT_DEATH(_tile_dpbsud(0, 1, 4), "the right tile must have as many columns as the sums");
  EXPECT_DEATH(_tile_dpbuud(0, 1, 5), "the right tile must have a row per word of the left one's");
  EXPECT_DEATH(_tile_dpbssd(0, 6, 2), "its rows are no whole 32-bit words");
  EXPECT_DEATH(_tile_dpbssd(0, 1, 8), "palette 1 has tiles 0 to 7");
}

}  // namespace
}  // namespace qgmm::emulation
#endif
