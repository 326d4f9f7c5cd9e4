// SPDX-License-Identifier: Apache-2.0
// What a kernel is: one row of THE table (kernels.inc), and the float stages that go with an ISA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "packed_format.h"
#include "problem.h"
#include "qgmm/context.h"

namespace qgmm::cpu {

struct WaitingRows;

/// acc[i * kPairColumns + j] (+)= sum over k of x[i][k] * w[k][j], for i < rows <= tile_m, j < 16 * panels. int32 modulo
/// 2^32; kFloat: fp32 fma, k ascending in one lane per output.
struct GemmArgs {
  const void* x;         // row tile of packed x at the first k
  ptrdiff_t x_stride;    // packed elements from row to row
  const uint8_t* w[2];   // lines of a panel, as packed or as `widen` left them, at the line that holds the first k; the
                         // second one only for kernels of two panels, whose outputs are columns 16..31 of acc
  const int32_t* column_sums[2];  // of the panels' bytes over the whole k, 16 each; kernels that need a certificate
  const int32_t* row_sums;     // sum of x over the slice, one per row, `row_sums_stride` apart: takes out what was added
                               // to weights to make them unsigned; null unless the kernel asks for it
  ptrdiff_t row_sums_stride;
  int rows;
  int k;                 // kernels other than scalar round it up to whole lines: x and panels are padded with zeros
  int k_offset;          // first k within the line; 0 unless slice_step is 1
  const uint8_t* prefetch[2];  // what is read next, per panel: kernels may fetch a cache line from
  int prefetch_step;           // prefetch[h] + i * prefetch_step while they work on line i; 0: nothing comes
  bool add;              // acc holds the sums of an earlier part of the slice
  void* acc;             // int32 or float
  const float* scales;   // kernels that fold, else null: `slices` slices of k each follow one another in x and w, row_sums of
  int slices;            // theirs too; acc is fp32: c = fma(float(sum), scales[slice][j], c), from +0 unless `add`.
                         // Rows of scales are kPairColumns apart
  WaitingRows* waiting;  // of other sums, for Kernel::meanwhile to finish between its own instructions; null: none
};
using GemmFn = void (*)(const GemmArgs&);

/// kFixed16: what a row is besides its int16 X, which are 0 for outliers.
struct FixedRows {
  float* scales;       // [rows][slices]: s, a power of two
  uint64_t* outliers;  // [rows][slices][kOutlierWords]: bit k of a slice: x[k] is set aside
  int32_t* counts;     // [rows]: outliers of the row
};
inline constexpr int kOutlierWords = kFixedSlice / 64;

/// Copies rows of x into the kernel's form and leaves the sums its product needs.
struct PackXArgs {
  const void* x;          // element [0, 0] of the rows to pack
  DType dtype;
  int64_t row_stride, k_stride;  // elements
  int rows;
  int64_t k, padded_k;
  int64_t packed_stride;  // packed elements from row to row
  int64_t slice;          // k elements per slice
  void* packed;           // where the first of the rows goes
  int32_t* row_sums;      // [rows][slices], if the kernel asks for them; else null
  float* x_sums;          // kFloat, kFixed16 with offset: [rows], summed in fp64, rounded once; else null
  int first_row = 0;      // among the packed rows; kernels with `x_tile_k` look at it
  FixedRows fixed = {};   // kFixed16
};
using PackXFn = void (*)(const PackXArgs&);

/// Expands `lines` lines of a packed panel to the form the kernel reads, w_bytes bytes per k and column.
using WidenFn = void (*)(const uint8_t* lines, int line_count, uint8_t* out);

/// `ahead_bytes_of_one` of loops that wait for nothing but memory. One core of a Zen 4, against 4096: 15 % (VNNI), 20 % (quads).
/// Two of a Granite Rapids: -11 to -13 % (VNNI), 0 (quads), so plans for Intel's take `ahead_bytes` (Caches).
inline constexpr int kAheadOfOne = 512;

struct Kernel {
  const char* name;
  Isa isa;
  Product product;
  Certificate needs = Certificate::kNone;  // of every panel it multiplies
  int panels = 1;  // per call: 1, or both of a pair
  int tile_m;      // rows per call, at most
  int row_step = 1;  // packed x and acc hold a multiple of so many rows; what the rows behind the last hold is ignored
  int min_rows;    // rows of a block from which this row is preferred
  int min_rows_amd = 0;  // the same on AMD's machines where that differs, else 0
  bool two_ports = false;  // for machines that issue two 512-bit products a cycle: not for AMD's before Zen 5
  bool two_streams = false;  // both panels of a pair so that memory is read in two places: for blocks of at most tile_m rows,
                             // on machines that read faster so (HasTwoStreams)
  int slice_step;  // slices shorter than k, and parts of a slice but the last, are multiples of it
  int k_block;     // most k per call when a block has several row tiles; 0: all
  int ahead_bytes = 7168;  // how far ahead in its own stream the call of an only row tile fetches: one core of a Zen 4 reads
                           // 10 to 30 % faster than with 4096, a page, for 2 to 8 rows of bytes and of nibbles
  int ahead_bytes_of_one = 0;  // the same for a call of one row where that differs, else 0: loops of three or four
                               // instructions a line get more from the machine's own prefetchers, which far fetches disturb
  int x_bytes;     // bytes per packed x element
  int x_tile_k = 0;  // not 0: packed x is [rows / row_step][k / x_tile_k][row_step][x_tile_k] bytes, not rows
  bool row_sums;   // reads GemmArgs::row_sums
  bool folds = false;  // takes GemmArgs::scales
  bool meanwhile = false;  // leaves the units of the stages idle: sums are finished in the calls that come after, or between
  PackXFn pack_x;
  int widened_bytes;  // bytes per line after `widen`; 0: lines are read as packed
  WidenFn widen;
  GemmFn gemm;
  void (*enter)() = nullptr;  // called by a thread before the first gemm of a task and after the last: tile registers
  void (*leave)() = nullptr;
};

/// All rows of kernels.inc that were compiled in, slowest first.
std::span<const Kernel* const> KernelTable();

/// Of AMD's processors (25: Zen 3 and 4); 0: somebody else's.
int AmdFamily();
inline constexpr int kZen5 = 26;

/// Whether the machine issues two 512-bit products a cycle, as far as its name tells: all do but AMD's before Zen 5.
bool HasTwoPorts();

/// Whether the machine reads memory faster in two places per core than in one, as far as its name tells: AMD's from Zen 5 on do
/// not. Two Zen 5 cores, AVX2, a panel after the other instead of both of a pair together, one row: quads 1.04 to 1.27 x, pairs
/// 1.03 to 1.13, uniform weights 1.02 to 1.08, int4 0.95 to 1.2; two rows 0.95 to 1.2. Each pair begins both streams anew.
bool HasTwoStreams();

/// Whether the machine has the kernel's ISA and is what it is for: others are never chosen.
bool CanRun(const Kernel& kernel);

/// The last row that can run: the machine has its ISA, which is at most `isa`, and the ports it is for, its product is
/// `product`, `slice` (of k in all) fits its step, `rows` (of the block) reach its minimum, and panels have the certificate it
/// needs. There is always one: the scalar rows take everything.
const Kernel& ChooseKernel(Product product, int64_t slice, int64_t k, int64_t rows, Isa isa,
                           Certificate certificate = Certificate::kNone);

/// One strip of finished sums (rows x one pair of panels) on its way to the result.
struct alignas(64) StripArgs {
  const Problem* problem;
  void* acc;             // int32 or float [rows][kPairColumns]: the sums of the only slice, else scratch
  const float* folded;   // [rows][kPairColumns], null if there is one slice: t, folded over the slices
  int rows;
  int assist_row;        // 1: row 0 is the row of eights whose t is d, and is kept in `d`; 0: none
  int64_t first_row;     // of x: row `assist_row` of the strip
  int columns[2];        // real columns of the first and the second panel, 0..16
  int64_t first_column[2];  // the caller's first column of each
  const float* scale;    // [kPairColumns] of the only slice (padding: 0)
  const int32_t* int_bias;  // [kPairColumns] or null
  const float* assist;   // [kPairColumns] or null
  float* d;              // [kPairColumns] or null
  const float* smooth;   // [16] or null
  const float* offset;   // [kPairColumns] or null
  const float* bias;     // [kPairColumns] or null
  const float* x_sums;   // [rows] or null
  bool plain;            // IsPlain
  float* results;        // kSwigluQuant: s of the pair's 16 columns, [rows][16], first real row
  uint32_t* row_max;     // kSwigluQuant: running maximum of bits |s| per real row
};

/// Both panels whole, each side by side in y; no row of eights, activation, limit or smooth; of bias only operator B's.
bool IsPlain(const StripArgs& strip);

/// Rows [row, end) of a plain strip, of which a kernel that finishes some moves `row` on.
struct WaitingRows {
  const StripArgs* strip = nullptr;
  int row = 0, end = 0;
};

/// Rows [begin, end) of a strip, 0 <= begin < end <= rows, in ascending order where the first is a row of eights. Rows that are
/// finished apart share one StripArgs that nobody changes between them: stages copy it by wide loads, which wait for narrow
/// stores that went before, and for all stores before those; a Granite Rapids took 2.5 times as long, its y being in memory.
using FinishFn = void (*)(const StripArgs&, int begin, int end);

/// Rows of a strip in transposed x: few are worth a narrow form, and one stays in L1 beside the weights that pass.
inline constexpr int kFewRows = 8, kManyRows = 64;

/// acc[i * kPairColumns + c] += sum over the list's entries (k, c) of x[i][k] * residue, modulo 2^32.
struct ResidualArgs {
  PanelPromise promise;
  const int8_t* x;  // [k][width]
  int width;        // 1, kFewRows or kManyRows
  int rows;
  int64_t k;
  int32_t* acc;     // of the panel
  int32_t* sums;    // scratch: [kPanelColumns][width]
};

/// Whole lines of plain weights: of 4 panels, 64 adjacent columns, from rows of k; or of one panel from its columns.
struct LinesArgs {
  const uint8_t* source;  // at the first k and the first column
  ptrdiff_t stride;       // bytes from k to k; columns: from column to column (int4: from eight columns to the next eight)
  ptrdiff_t ahead;        // bytes from a row, or a column's 64 bytes, to what is read later, to be fetched meanwhile; 0: none
  int lines;              // at most kMaxLines; int8 columns: a multiple of kColumnLines
  uint8_t* out[4];        // where each panel's lines go; columns: out[0] only
  int32_t* sums[4];       // of the weights, per column, added to modulo 2^32; null: not asked for
  bool stream;            // around the caches; every out is aligned to 32 bytes
};
using LinesFn = void (*)(const LinesArgs&);
inline constexpr int kMaxLines = 64;     // sums of so many lines fit 16 bits
inline constexpr int kColumnLines = 16;  // a cache line of each column

/// Lanes of `steps` consecutive lines (1: pairs, 2: quads; docs/packing.md) that break the promise of certificates.
struct BrokenLanes {
  int group;       // the first line is steps * group
  uint32_t lanes;  // bit i: bytes 2 i and 2 i + 1 of its lines
};
/// Of groups [0, groups), at most kMaxLines, those with such lanes, ascending; returns how many.
using FindBrokenFn = int (*)(const uint8_t* lines, int groups, int steps, BrokenLanes* found);

/// One line of each of `panels` panels, adjacent columns, for each of `experts` experts whose weights are neighbours in memory.
struct ExpertsArgs {
  const uint8_t* source;    // at the first k, column and expert
  ptrdiff_t k_stride;       // bytes from k to k
  ptrdiff_t column_stride;  // from column to column (int4: from eight columns to the next eight); all experts fit between
  ptrdiff_t ahead;          // to what is read a little later, to be fetched meanwhile
  int panels;
  int experts;              // at least kExpertsAtOnce
  uint8_t* out;
  ptrdiff_t panel_stride, expert_stride;  // from line to line, bytes
};
using ExpertsFn = void (*)(const ExpertsArgs&);
inline constexpr int kExpertsAtOnce = 8;

/// Packing, one function per kind of source: bytes or nibbles that are neighbours along n (rows) or along k (columns).
struct LineMakers {
  LinesFn rows, columns, nibble_rows, nibble_columns;
  FindBrokenFn find_broken;
  ExpertsFn experts, nibble_experts;  // null: by way of rows
  ExpertsFn seconds, nibble_seconds;  // one expert, columns (int4: words) two elements apart, a multiple of four panels; or null
  LinesFn lines, nibble_lines;        // that are lines already: copied to out[0], and summed; null where `experts` is
  // Around the caches, `stride` bytes from line to line; every one is aligned to 32 bytes.
  void (*copy)(const uint8_t* lines, int64_t count, uint8_t* out, int64_t stride);
  // 32 x 32 nibbles, rows of 16 bytes: nibble j of row i at `from` becomes nibble i of row j at `to`; null: done without the ISA.
  void (*transpose_nibbles)(const uint8_t* from, ptrdiff_t stride, uint8_t* to, ptrdiff_t to_stride);
  void (*drain)();  // orders streamed lines before what follows; null: nothing is streamed. Once at the end: after every
                    // tile it cost a third of the speed
};

/// c[i][j] = fma(f(x[i][k]), f(w[k][j]), c[i][j]) over the outliers k of every row, ascending.
struct OutlierArgs {
  const void* x;            // as the caller gave it, at the strip's first row
  DType dtype;
  int64_t row_stride, k_stride;
  FixedRows fixed;          // at the strip's first row
  int64_t slices;
  const uint8_t* lines[2];  // true weights of both panels from k 0 on
  int rows;
  float* c;                 // [rows][kPairColumns]
};

/// q[j * q_stride] = QuantizeRow codes of f(x[j]) (* smooth[j]), j < count, for up to kQuantizeRows rows, whose 16 elements
/// follow one another in each panel: element j of row i is x[j / 16 * panel_stride + i * 16 + j % 16].
struct QuantizeArgs {
  const void* x;
  DType dtype;  // float32, float16 or bfloat16
  int64_t panel_stride;  // 16: one row, as it lies
  const float* smooth;  // [count] or null
  int64_t count;
  int rows;
  const float* scales;  // [rows], finite and > 0: what the maxima of the rows gave
  DType code;           // kInt8, kInt4 (a byte each) or fp8
  uint8_t* q;
  int64_t q_row_stride, q_stride;
};
inline constexpr int kQuantizeRows = 8;

/// The float side of one ISA; every function computes what its formula in docs/operators.md says, bit for bit.
struct Stages {
  Isa isa;
  /// c[i][j] = fma(float(acc[i][j]), scale[j], c[i][j]); the first slice starts from c = +0.
  void (*fold)(const int32_t* acc, const float* scale, bool first, int rows, float* c);
  /// c[i][j] = fma(float(acc[i][j]), scale[i * scale_stride], c[i][j]): a scale per row.
  void (*fold_rows)(const int32_t* acc, const float* scale, int64_t scale_stride, bool first, int rows, float* c);
  void (*add_outliers)(const OutlierArgs&);
  /// Dequantize, limit, SwiGLU, smooth, row maximum (operator A).
  FinishFn finish_swiglu;
  /// Affine, activation, narrowing store (operator B).
  FinishFn finish_affine;
  /// Dequantize, bias, activation, narrowing store; or the int32 sums (grouped_matmul).
  FinishFn finish_dequantize;
  void (*quantize)(const QuantizeArgs&);
  /// The maximum of the bits of |f(x[j])|, or of |f(x[j]) * smooth[j]|.
  uint32_t (*row_max)(const void* x, DType dtype, const float* smooth, int64_t count);
  /// Residual lists of certified panels; and x of a strip, packed + 128, transposed for it.
  void (*add_residuals)(const ResidualArgs&);
  void (*transpose_x)(const uint8_t* x, int64_t x_stride, int rows, int width, int64_t k, int8_t* out);
  LineMakers lines;
  /// For the checksum tests of Exp and Silu, and the companions.
  void (*exp_silu)(const float* t, int count, float* exp, float* silu);
};
const Stages& StagesFor(Isa isa);

bool HasIsa(Isa isa);

/// Every ISA that this machine has, weakest first; and those it has besides, whose rows were not compiled in.
std::span<const Isa> MachineIsas();
std::span<const Isa> IsasNotBuilt();
inline constexpr char kNotBuilt[] = "which this build has no kernels for, as its assembler does not know the instructions";

/// The best ISA this machine has; `limit` (Context::max_isa), then QGMM_MAX_ISA lower it. Asking for more than the
/// machine has is refused (InvalidArgument).
Isa BestIsa();
Isa ChosenIsa(int limit);

#if defined(__x86_64__)
/// By the bit itself: __builtin_cpu_supports of clang 14 does not know the name.
bool HasF16c();
#endif

}  // namespace qgmm::cpu
