// SPDX-License-Identifier: Apache-2.0
// AMX tiles on a machine without them: included before the first line of src/cpu/isa/amx.cc, whose tile intrinsics then
// mean the functions below. What the processor would refuse (#GP, #UD) ends the process with a sentence; memory is read
// and written row by row, so guard pages bound it as they would bound the processor. Checked by amx_emulation_test.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define QGMM_EMULATED_TILES

namespace qgmm::emulation {

inline constexpr int kTiles = 8, kTileRows = 16, kTileRowBytes = 64;

struct Tile {
  int rows = 0, row_bytes = 0;
  uint8_t data[kTileRows][kTileRowBytes] = {};
};

/// What one thread's tile registers hold.
struct TileRegisters {
  bool configured = false;
  Tile tile[kTiles];
};
inline thread_local TileRegisters tile_registers;

[[noreturn]] inline void TileFault(const char* instruction, int tile, const char* why) {
  std::fprintf(stderr, "AMX: %s of tile %d: %s\n", instruction, tile, why);
  std::abort();
}

/// A tile that an instruction may name: registers are configured and this one has rows and columns of whole words.
inline Tile& NamedTile(const char* instruction, int index) {
  if (index < 0 || index >= kTiles) TileFault(instruction, index, "palette 1 has tiles 0 to 7");
  if (!tile_registers.configured) TileFault(instruction, index, "no configuration is loaded");
  Tile& tile = tile_registers.tile[index];
  if (tile.rows == 0 || tile.row_bytes == 0) TileFault(instruction, index, "its configuration has no rows or no columns");
  if (tile.row_bytes % 4 != 0) TileFault(instruction, index, "its rows are no whole 32-bit words");
  return tile;
}

/// The 64 bytes of ldtilecfg: palette, start row, 14 reserved, bytes per row of 16 tiles, rows of 16 tiles. Tiles 8 to 15
/// are reserved in palette 1.
inline void TileLoadConfig(const void* memory) {
  uint8_t bytes[64];
  std::memcpy(bytes, memory, sizeof(bytes));
  if (bytes[0] > 1) TileFault("ldtilecfg", -1, "there are palettes 0 and 1");
  tile_registers = {};
  if (bytes[0] == 0) return;
  for (int at = 2; at < 16; ++at) {
    if (bytes[at] != 0) TileFault("ldtilecfg", -1, "a reserved byte is not zero");
  }
  for (int i = 0; i < 16; ++i) {
    const int row_bytes = bytes[16 + 2 * i] | bytes[17 + 2 * i] << 8, rows = bytes[48 + i];
    if (i >= kTiles && (row_bytes != 0 || rows != 0)) TileFault("ldtilecfg", i, "palette 1 has tiles 0 to 7");
    if (row_bytes > kTileRowBytes) TileFault("ldtilecfg", i, "more than 64 bytes per row");
    if (rows > kTileRows) TileFault("ldtilecfg", i, "more than 16 rows");
    if (i < kTiles) tile_registers.tile[i].rows = rows, tile_registers.tile[i].row_bytes = row_bytes;
  }
  if (bytes[1] != 0) TileFault("ldtilecfg", -1, "a start row resumes an interrupted load: nobody sets one by hand");
  tile_registers.configured = true;
}

inline void TileRelease() { tile_registers = {}; }

inline void TileZero(int index) {
  Tile& tile = NamedTile("tilezero", index);
  std::memset(tile.data, 0, sizeof(tile.data));
}

/// What lies outside the tile's rows and columns becomes zero.
inline void TileLoad(int index, const void* base, int64_t stride) {
  Tile& tile = NamedTile("tileloadd", index);
  std::memset(tile.data, 0, sizeof(tile.data));
  for (int row = 0; row < tile.rows; ++row) {
    std::memcpy(tile.data[row], static_cast<const char*>(base) + row * stride, static_cast<size_t>(tile.row_bytes));
  }
}

inline void TileStore(int index, void* base, int64_t stride) {
  const Tile& tile = NamedTile("tilestored", index);
  for (int row = 0; row < tile.rows; ++row) {
    std::memcpy(static_cast<char*>(base) + row * stride, tile.data[row], static_cast<size_t>(tile.row_bytes));
  }
}

/// c[m][n] += the four products of a[m]'s word k and b[k]'s word n, for all k, modulo 2^32. A, B: int8_t or uint8_t.
template <class A, class B>
void TileDot(const char* instruction, int index, int index_a, int index_b) {
  Tile& c = NamedTile(instruction, index);
  const Tile &a = NamedTile(instruction, index_a), &b = NamedTile(instruction, index_b);
  if (index == index_a || index == index_b || index_a == index_b) {
    TileFault(instruction, index, "its three tiles must differ");
  }
  if (a.rows != c.rows) TileFault(instruction, index, "the left tile must have as many rows as the sums");
  if (b.row_bytes != c.row_bytes) TileFault(instruction, index, "the right tile must have as many columns as the sums");
  if (b.rows * 4 != a.row_bytes) TileFault(instruction, index, "the right tile must have a row per word of the left one's");
  constexpr int kWords = kTileRowBytes / 4;
  for (int m = 0; m < c.rows; ++m) {
    uint32_t sum[kWords];
    std::memcpy(sum, c.data[m], sizeof(sum));
    for (int k = 0; k < b.rows; ++k) {
      for (int n = 0; n < kWords; ++n) {  // columns that the tile has not are zero and stay it
        int products = 0;
        for (int i = 0; i < 4; ++i) {
          products += static_cast<A>(a.data[m][4 * k + i]) * static_cast<B>(b.data[k][4 * n + i]);
        }
        sum[n] += static_cast<uint32_t>(products);
      }
    }
    std::memcpy(c.data[m], sum, sizeof(sum));
  }
}

}  // namespace qgmm::emulation

// Macros of the compilers' headers, or functions that these names now hide.
#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_dpbssd
#undef _tile_dpbsud
#undef _tile_dpbusd
#undef _tile_dpbuud
#define _tile_loadconfig(memory) qgmm::emulation::TileLoadConfig(memory)
#define _tile_release() qgmm::emulation::TileRelease()
#define _tile_zero(tile) qgmm::emulation::TileZero(tile)
#define _tile_loadd(tile, base, stride) qgmm::emulation::TileLoad(tile, base, stride)
#define _tile_stream_loadd(tile, base, stride) qgmm::emulation::TileLoad(tile, base, stride)
#define _tile_stored(tile, base, stride) qgmm::emulation::TileStore(tile, base, stride)
#define _tile_dpbssd(c, a, b) (qgmm::emulation::TileDot<int8_t, int8_t>("tdpbssd", c, a, b))
#define _tile_dpbsud(c, a, b) (qgmm::emulation::TileDot<int8_t, uint8_t>("tdpbsud", c, a, b))
#define _tile_dpbusd(c, a, b) (qgmm::emulation::TileDot<uint8_t, int8_t>("tdpbusd", c, a, b))
#define _tile_dpbuud(c, a, b) (qgmm::emulation::TileDot<uint8_t, uint8_t>("tdpbuud", c, a, b))
