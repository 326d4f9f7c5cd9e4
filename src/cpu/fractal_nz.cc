// SPDX-License-Identifier: Apache-2.0
// FRACTAL_NZ to plain tensors and back, on all threads.
#include "fractal_nz.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <type_traits>

#include "cpu/backend.h"
#include "cpu/gather.h"
#include "cpu/huge_pages.h"
#include "cpu/kernel.h"
#include "cpu/pack.h"
#include "cpu/prefetch.h"
#include "cpu/team.h"

namespace qgmm::cpu {
namespace {

constexpr int64_t kChunk = 512;  // of the inner axis
constexpr int64_t kWorkersBytes = 256 << 10;  // 60 us of work

constexpr int64_t kBytesAhead = 4096;  // that the storage is fetched early
constexpr int64_t kTileRows = 64;  // of plain, a cache line each

/// What a task moves of one expert: all of `outer`, [first, end) of `inner`.
struct Chunk {
  std::byte *plain, *storage;  // of the expert
  int64_t outer, inner, first, end;
};

/// Elements [0, count) of `Bytes` bytes each, `step` apart in plain and consecutive in the storage.
template <int kBytes>
void CopyRun(std::byte* plain, int64_t step, std::byte* storage, int64_t count, bool to_nz) {
  if (step == 1) {
    std::memcpy(to_nz ? storage : plain, to_nz ? plain : storage, static_cast<size_t>(count * kBytes));
    return;
  }
  for (int64_t i = 0; i < count; ++i, plain += step * kBytes, storage += kBytes) {
    std::memcpy(to_nz ? storage : plain, to_nz ? plain : storage, kBytes);
  }
}

/// Rows of a block, which are columns of plain: 16 x 16 bytes at once. Returns how many of the rows are done.
int64_t CopyBytesAcross(std::byte* plain, int64_t n, std::byte* storage, int64_t c0, int64_t count, int64_t rows, bool to_nz) {
  auto* const columns = reinterpret_cast<uint8_t*>(plain);
  auto* const blocks = reinterpret_cast<uint8_t*>(storage);
  const int64_t wide = count / 16 * 16, tall = rows / 16 * 16;
  for (int64_t i = 0; i < tall; i += 16) {
    // Each row of plain is a page: a quarter of the rows' next cache lines at a time.
    for (int64_t o = i / 16 % 4; o < count; o += 4) __builtin_prefetch(columns + o * n + i + 64, 1);
    for (int64_t o = 0; o < wide; o += 16) {
      if (to_nz) TransposeBytes(columns + o * n + i, n, 8, blocks + i * c0 + o, c0);
      else TransposeBytes(blocks + i * c0 + o, c0, 8, columns + o * n + i, n);
    }
    for (int64_t row = i; row < i + 16 && wide < count; ++row) {
      CopyRun<1>(plain + wide * n + row, n, storage + row * c0 + wide, count - wide, to_nz);
    }
  }
  return tall;
}

template <int kBytes>
void CopyElements(const FractalNzBlocks& blocks, const Chunk& chunk, bool to_nz) {
  const int64_t outer_step = blocks.transposed ? chunk.inner : 1, inner_step = blocks.transposed ? 1 : chunk.outer;
  for (int64_t o = 0; o < chunk.outer; o += blocks.c0) {
    const int64_t count = std::min(blocks.c0, chunk.outer - o);
    std::byte* const plain = chunk.plain + o * outer_step * kBytes;
    std::byte* const storage = chunk.storage + o * blocks.inner_blocks * FractalNzBlocks::kRows * kBytes;
    int64_t i = chunk.first;
    if (kBytes == 1 && blocks.transposed) {
      i += CopyBytesAcross(plain + i, chunk.inner, storage + i * blocks.c0, blocks.c0, count, chunk.end - i, to_nz);
    }
    for (; i < chunk.end; ++i) {
      CopyRun<kBytes>(plain + i * inner_step * kBytes, outer_step, storage + i * blocks.c0 * kBytes, count, to_nz);
    }
  }
}

using Words4 = uint32_t __attribute__((vector_size(16)));

/// In each of four places, 8 x 8 nibbles: nibble j of word i becomes nibble i of word j.
void TransposeNibbles(Words4 words[8]) {
  constexpr uint32_t kMasks[] = {0x0F0F0F0F, 0x00FF00FF, 0x0000FFFF};
  for (int round = 2; round >= 0; --round) {
    const int apart = 1 << round, shift = 4 * apart;
    for (int i = 0; i < 8; ++i) {
      if ((i & apart) != 0) continue;
      const Words4 swapped = ((words[i] >> shift) ^ words[i + apart]) & kMasks[round];
      words[i + apart] ^= swapped;
      words[i] ^= swapped << shift;
    }
  }
}

/// 8 n and up to 32 k: rows of k, `block_bytes` apart, in the storage; words of eight n, `row_bytes` apart, in plain.
/// kWhole: all of 32.
template <bool kWhole>
void CopyNibbleTile(std::byte* plain, int64_t row_bytes, std::byte* storage, int64_t block_bytes, int64_t count, bool to_nz) {
  const int64_t places = kWhole ? 4 : (count + 7) / 8, bytes = kWhole ? 16 : 4 * places;
  Words4 words[8] = {};
  if (to_nz) {
    for (int64_t place = 0; place < places; ++place) {
      for (int64_t r = 0; r < (kWhole ? 8 : std::min<int64_t>(8, count - 8 * place)); ++r) {
        uint32_t word;
        std::memcpy(&word, plain + (8 * place + r) * row_bytes, sizeof(word));
        words[r][place] = word;
      }
    }
  } else {
    for (int64_t r = 0; r < 8; ++r) std::memcpy(&words[r], storage + r * block_bytes, static_cast<size_t>(bytes));
  }
  TransposeNibbles(words);
  if (to_nz) {
    for (int64_t r = 0; r < 8; ++r) std::memcpy(storage + r * block_bytes, &words[r], static_cast<size_t>(bytes));
    return;
  }
  for (int64_t place = 0; place < places; ++place) {
    for (int64_t r = 0; r < (kWhole ? 8 : std::min<int64_t>(8, count - 8 * place)); ++r) {
      const uint32_t word = words[r][place];
      std::memcpy(plain + (8 * place + r) * row_bytes, &word, sizeof(word));
    }
  }
}

/// Eight n and `rows` k of a block.
void CopyNibbleRows(std::byte* plain, int64_t row_bytes, std::byte* storage, int64_t block_bytes, int64_t rows, bool to_nz) {
  for (int64_t at = 0; at < rows; at += 32) {
    const int64_t count = std::min<int64_t>(32, rows - at);
    (count == 32 ? CopyNibbleTile<true> : CopyNibbleTile<false>)(plain + at * row_bytes, row_bytes, storage + at / 2, block_bytes,
                                                                  count, to_nz);
  }
}

/// LineMakers::transpose_nibbles: nibbles of two rows become bytes, and bytes are transposed.
void TransposeSquare(const uint8_t* from, ptrdiff_t stride, uint8_t* to, ptrdiff_t to_stride) {
  Bytes16 even[16], odd[16];  // of even and of odd k: byte j of vector i is k 2 j (+ 1) of n 2 i and 2 i + 1
  for (int i = 0; i < 16; ++i) {
    Bytes16 low, high;
    std::memcpy(&low, from + 2 * i * stride, sizeof(low));
    std::memcpy(&high, from + (2 * i + 1) * stride, sizeof(high));
    even[i] = (low & 15) | (high << 4);
    odd[i] = (low >> 4) | (high & 0xF0);
  }
  TransposeBytes(even);
  TransposeBytes(odd);
  for (int j = 0; j < 16; ++j) {
    std::memcpy(to + 2 * j * to_stride, &even[j], sizeof(even[j]));
    std::memcpy(to + (2 * j + 1) * to_stride, &odd[j], sizeof(odd[j]));
  }
}

/// int4, transposed: runs of k in the storage, runs of n in plain; n and c0 are whole words.
void CopyNibblesAcross(const FractalNzBlocks& blocks, const Chunk& chunk, bool to_nz) {
  const int64_t k = chunk.outer, row_bytes = chunk.inner / 2, block_bytes = blocks.c0 / 2;
  for (int64_t o = 0; o < k; o += blocks.c0) {
    std::byte* const block = chunk.storage + o * blocks.inner_blocks * FractalNzBlocks::kRows / 2;
    for (int64_t i = chunk.first; i < chunk.end; i += 8) {
      // Each row of plain is a page: a sixteenth of the rows' next cache lines at a time.
      std::byte* const next = chunk.plain + o * row_bytes + i / 2 + 64;
      for (int64_t kk = i / 8 % 16; kk < std::min(blocks.c0, k - o); kk += 16) __builtin_prefetch(next + kk * row_bytes, 1);
      CopyNibbleRows(chunk.plain + o * row_bytes + i / 2, row_bytes, block + i * block_bytes, block_bytes,
                     std::min(blocks.c0, k - o), to_nz);
    }
  }
}

/// From the storage to whole cache lines of plain, through a tile in L1: where they go to memory, pieces of 8 to 32 bytes would
/// have it read their lines first. `bytes` of an element; nibbles: 1, and rows of half as many bytes. `stream`: around the
/// caches.
class Lines {
 public:
  Lines(const FractalNzBlocks& blocks, bool nibbles, int64_t bytes, const LineMakers& makers, bool stream)
      : blocks_(blocks), nibbles_(nibbles), bytes_(bytes), copy_((stream ? makers : StagesFor(Isa::kScalar).lines).copy),
        transpose_nibbles_(makers.transpose_nibbles ? makers.transpose_nibbles : TransposeSquare) {}

  /// Rows of plain are whole lines, and rows or columns of blocks fit a tile.
  static bool Possible(const FractalNzBlocks& blocks, int64_t bytes, int64_t row_bytes) {
    const bool fit = blocks.transposed ? bytes == 1 && blocks.c0 <= kTileRows : kLineBytes % (blocks.c0 * bytes) == 0;
    return fit && row_bytes % kLineBytes == 0;
  }

  void Write(const Chunk& chunk) {
    if (!blocks_.transposed) Rows(chunk);
    else Columns(chunk, nibbles_ ? 2 : 1);
  }

 private:
  void Rows(const Chunk& chunk) {
    const int64_t row_bytes = chunk.outer * bytes_, piece = blocks_.c0 * bytes_;
    const int64_t block_bytes = blocks_.inner_blocks * FractalNzBlocks::kRows * piece;
    for (int64_t at = 0; at < row_bytes; at += kLineBytes) {
      for (int64_t i = chunk.first; i < chunk.end; i += kTileRows) {
        const int64_t rows = std::min(kTileRows, chunk.end - i);
        for (int64_t p = 0; p < kLineBytes; p += piece) {
          const auto* from = reinterpret_cast<const uint8_t*>(chunk.storage) + (at + p) / piece * block_bytes + i * piece;
          FetchRange(from + kBytesAhead, rows * piece);
          if (piece == 32) CopyPieces(from, std::integral_constant<int64_t, 32>(), rows, tile_ + p);
          else CopyPieces(from, piece, rows, tile_ + p);
        }
        copy_(tile_, rows, reinterpret_cast<uint8_t*>(chunk.plain) + i * row_bytes + at, row_bytes);
      }
    }
  }

  void Columns(const Chunk& chunk, int64_t per_byte) {
    const int64_t row_bytes = chunk.inner / per_byte, line = kLineBytes * per_byte, block_row = blocks_.c0 / per_byte;
    for (int64_t o = 0; o < chunk.outer; o += blocks_.c0) {
      const int64_t rows = std::min(blocks_.c0, chunk.outer - o);
      std::byte* const block = chunk.storage + o / per_byte * blocks_.inner_blocks * FractalNzBlocks::kRows;
      for (int64_t i = chunk.first; i < chunk.end; i += line) {
        std::byte* const from = block + i * block_row;
        FetchRange(reinterpret_cast<const uint8_t*>(from) + kBytesAhead, line * block_row);
        if (nibbles_ && blocks_.c0 % 32 == 0) {
          for (int64_t c = 0; c < line; c += 32) {
            for (int64_t at = 0; at < rows; at += 32) {
              transpose_nibbles_(reinterpret_cast<uint8_t*>(from) + c * block_row + at / 2, block_row,
                                 tile_ + at * kLineBytes + c / 2, kLineBytes);
            }
          }
        } else if (nibbles_) {
          for (int64_t c = 0; c < line; c += 8) {
            CopyNibbleRows(Tile() + c / 2, kLineBytes, from + c * block_row, block_row, rows, false);
          }
        } else {
          CopyBytesAcross(Tile(), kLineBytes, from, blocks_.c0, rows, line, false);
        }
        copy_(tile_, rows, reinterpret_cast<uint8_t*>(chunk.plain) + o * row_bytes + i / per_byte, row_bytes);
      }
    }
  }

  /// `piece`: bytes, a constant for the usual width.
  template <class Piece>
  static void CopyPieces(const uint8_t* from, Piece piece, int64_t rows, uint8_t* to) {
    for (int64_t r = 0; r < rows; ++r) std::memcpy(to + r * kLineBytes, from + r * piece, static_cast<size_t>(piece));
  }
  std::byte* Tile() { return reinterpret_cast<std::byte*>(tile_); }

  const FractalNzBlocks& blocks_;
  const bool nibbles_;
  const int64_t bytes_;
  decltype(LineMakers::copy) copy_;
  decltype(LineMakers::transpose_nibbles) transpose_nibbles_;
  alignas(64) uint8_t tile_[kTileRows * kLineBytes];
};

}  // namespace

void ConvertFractalNz(FractalNzArgs args, bool to_nz, Context& context) {
  FractalNzBlocks blocks(args);
  const bool nibbles = args.dtype == DType::kInt4 && args.transposed;
  if (args.dtype == DType::kInt4 && !nibbles) {  // pairs of columns stay together: bytes
    args.dtype = DType::kInt8;
    args.n /= 2;
    args.c0 = blocks.c0 / 2;
    blocks = FractalNzBlocks(args);
  }
  const int64_t e = args.plain.rank == 3 ? args.plain.sizes[0] : 1, bytes = nibbles ? 1 : Bytes(args.dtype);
  const int64_t plain_bytes = args.k * args.n * bytes / (nibbles ? 2 : 1);
  const int64_t storage_bytes = blocks.elements() * bytes / (nibbles ? 2 : 1);  // both of one expert
  void* const out = to_nz ? args.storage.data : args.plain.data;
  AskForHugePages(out, static_cast<size_t>(e * (to_nz ? storage_bytes : plain_bytes)));
  if (to_nz && storage_bytes > plain_bytes) std::memset(out, 0, static_cast<size_t>(e * storage_bytes));  // the padding
  const int64_t outer = args.transposed ? args.k : args.n, inner = args.transposed ? args.n : args.k;
  const int64_t chunks = (inner + kChunk - 1) / kChunk;
  const int64_t worth = std::clamp<int64_t>(e * plain_bytes / kWorkersBytes, 1, e * chunks);
  const int workers = static_cast<int>(std::min<int64_t>(worth, WorkersFor(context, nullptr)));
  const bool lines = !to_nz && Lines::Possible(blocks, bytes, args.n * bytes / (nibbles ? 2 : 1));
  const bool stream = reinterpret_cast<uintptr_t>(out) % kLineBytes == 0 && Streams(e * plain_bytes, out);
  const LineMakers& makers = StagesFor(ChosenIsa(context.max_isa)).lines;
  ParallelFor(context, workers, [&](int worker) {
    Lines writer(blocks, nibbles, bytes, makers, stream);
    for (int64_t i = e * chunks * worker / workers; i < e * chunks * (worker + 1) / workers; ++i) {
      const int64_t expert = i / chunks, first = i % chunks * kChunk;
      const Chunk chunk = {static_cast<std::byte*>(args.plain.data) + expert * plain_bytes,
                           static_cast<std::byte*>(args.storage.data) + expert * storage_bytes,
                           outer, inner, first, std::min(inner, first + kChunk)};
      if (lines) writer.Write(chunk);
      else if (nibbles) CopyNibblesAcross(blocks, chunk, to_nz);
      else if (bytes == 1) CopyElements<1>(blocks, chunk, to_nz);
      else if (bytes == 2) CopyElements<2>(blocks, chunk, to_nz);
      else CopyElements<4>(blocks, chunk, to_nz);
    }
    if (lines && stream && makers.drain) makers.drain();
  });
}

}  // namespace qgmm::cpu
