// SPDX-License-Identifier: Apache-2.0
// Random calls of every operation, right ones and spoiled ones, between guard pages: each is refused with its outputs
// untouched, or writes every element of them, the same bits as before, and nothing between the elements.
// QGMM_FUZZ_SEED and QGMM_FUZZ_ROUNDS choose other runs; a failure prints its seed.
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>

#include "fuzz_draw.h"
#include "qgmm/moe.h"
#include "qgmm/ops.h"

namespace qgmm {
namespace {

constexpr DType kI8 = DType::kInt8, kI32 = DType::kInt32, kF32 = DType::kFloat32;

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

struct Tally {
  int64_t accepted = 0, refused = 0;
};

/// An executor that is as odd as allowed: one thread, the last index first.
void Backwards(int count, void (*body)(int index, void* state), void* state, void*) {
  for (int index = count - 1; index >= 0; --index) body(index, state);
}

/// One to three workers, seldom on real threads: on a busy machine waiting for them takes most of the time.
void RandomTeam(Draw& draw, Context* context) {
  context->max_workers = static_cast<int>(draw.Between(1, 3));
  if (draw.OneIn(40)) return;
  context->parallel_for = Backwards;
  context->pool_size = context->max_workers;
}

/// One call in the making.
class Round {
 public:
  explicit Round(uint64_t seed) : draw(seed), memory(draw), e(draw.Of({1, 1, 2, 3, 5, 9})), m(draw.Below(12)),
                                  k(draw.Of({1, 3, 4, 8, 12, 16, 33, 64, 70})), n(draw.Between(1, 40)) {}

  Draw draw;
  Memory memory;
  int64_t e, m, k, n;
  bool int4 = false;
  std::vector<TensorView*> views;      // what Spoil may touch
  std::vector<int64_t*> options;
  std::vector<TensorList*> tensor_lists;
  PackedWeight* packed = nullptr;
  std::vector<const TensorView*> outputs;  // beside memory.outputs
  bool spoiled = false;

  DType Float() { return draw.Of({kF32, DType::kFloat16, DType::kBFloat16}); }

  /// Weights of a random form; packed ones only where the pack is given.
  void Weight(TensorList* list, PackedWeight* pack, bool paired, bool may_split) {
    const DType dtype = int4 ? kI32 : kI8;
    const int64_t columns = int4 ? n / 8 : n;
    const int64_t form = draw.Below(3);
    if (form == 0 && may_split && e > 1) {
      *list = memory.Split(dtype, e, {k, columns});
      return;
    }
    *list = memory.One(memory.Input(dtype, {e, k, columns}));
    if (form != 1) return;
    PackArgs args = {*list, paired};
    if (!int4) args.certify = draw.Of({Certification::kAuto, Certification::kNo, Certification::kYes});
    args.max_residuals = draw.Of({1.0 / 256, 1.0 / 16, 1.0});
    Owned bytes(DType::kUInt8, {PackedBytes(args)});
    Context context;
    RandomTeam(draw, &context);
    *pack = Pack(args, bytes.bytes(), context);
    pack->data = memory.Shifted(pack->data, pack->bytes);
    packed = pack;
    *list = TensorList();
  }

  /// Scales or other values per column, in the form of the weights.
  TensorList Columns(DType dtype, int64_t slices, bool split) {
    std::vector<int64_t> sizes = slices > 0 ? std::vector<int64_t>{slices, n} : std::vector<int64_t>{n};
    if (split) return memory.Split(dtype, e, sizes);
    sizes.insert(sizes.begin(), e);
    return memory.One(memory.Input(dtype, sizes));
  }
  int64_t Slices() {
    int64_t slices = draw.Of({int64_t{1}, int64_t{2}, int64_t{4}, k});
    while (k % slices != 0) --slices;
    return slices;
  }

  TensorView Groups(int64_t type) {
    std::vector<int64_t> list(static_cast<size_t>(draw.Between(1, e)));
    int64_t start = 0;
    for (int64_t& value : list) {
      const int64_t rows = draw.OneIn(3) ? 0 : draw.Between(0, m - start);
      start += rows;
      value = type == 0 ? start : rows;
    }
    if (draw.OneIn(12)) {
      list[static_cast<size_t>(draw.Below(static_cast<int64_t>(list.size())))] = OddNumber(draw);
      spoiled = true;
    }
    return memory.Numbers(draw.OneIn(3) && !spoiled ? kI32 : DType::kInt64, list);
  }
  void Maybe(TensorView* view, DType dtype, const std::vector<int64_t>& sizes, int64_t one_in = 2) {
    if (draw.OneIn(one_in)) *view = memory.Input(dtype, sizes);
  }
  void Output(TensorView* view, DType dtype, const std::vector<int64_t>& sizes, bool contiguous = false) {
    *view = memory.Output(dtype, sizes, contiguous);
    outputs.push_back(view);
    views.push_back(view);
  }

  void SpoilSome() {
    for (std::vector<TensorView>& list : memory.lists) {
      for (TensorView& view : list) views.push_back(&view);
    }
    if (draw.OneIn(2)) return;
    spoiled = true;
    for (int64_t times = draw.Of({1, 1, 1, 2, 4}); times > 0; --times) SpoilOne();
  }

 private:
  void SpoilOne() {
    const int64_t kind = draw.Below(10);
    if (kind == 0 && !options.empty()) {
      *options[static_cast<size_t>(draw.Below(static_cast<int64_t>(options.size())))] = OddNumber(draw);
    } else if (kind == 1 && !tensor_lists.empty()) {
      TensorList& list = *tensor_lists[static_cast<size_t>(draw.Below(static_cast<int64_t>(tensor_lists.size())))];
      if (draw.OneIn(2)) list.size = draw.Of({kLeast, int64_t{-1}, int64_t{0}, list.size / 2});
      else if (draw.OneIn(2)) list.data = nullptr;
      else list = TensorList();
    } else if (kind == 2 && packed) {
      SpoilPacked(*packed);
    } else {
      Spoil(draw, *views[static_cast<size_t>(draw.Below(static_cast<int64_t>(views.size())))]);
    }
  }
  void SpoilPacked(PackedWeight& weight) {
    switch (draw.Below(5)) {
      case 0: weight.layout = static_cast<Layout>(draw.Between(-1, 6)); break;
      case 1: *draw.Of({&weight.e, &weight.k, &weight.n}) = OddNumber(draw); break;
      case 2: weight.bytes = draw.Of({kLeast, int64_t{-1}, int64_t{0}, int64_t{63}, weight.bytes / 2, kMost}); break;
      case 3: weight.data = nullptr; break;
      default: weight.device.type = DeviceType::kCuda;
    }
  }
};

/// The bytes of every output, element by element.
std::vector<uint8_t> Contents(const Round& round) {
  std::vector<uint8_t> contents;
  for (const Owned& output : round.memory.outputs) {
    const int64_t bytes = Bytes(output.view().dtype);
    for (int64_t i = 0; i < output.Count(); ++i) contents.insert(contents.end(), output.At(i), output.At(i) + bytes);
  }
  return contents;
}

/// Runs the call over outputs full of `poison`. False: refused, and untouched.
bool RunOver(Round& round, uint8_t poison, const std::function<void()>& call) {
  for (Owned& output : round.memory.outputs) output.Poison(poison);
  try {
    call();
  } catch (const InvalidArgument& refusal) {
    EXPECT_EQ(refusal.what()[0], '[');
    for (const Owned& output : round.memory.outputs) EXPECT_TRUE(output.IsPoisoned(poison)) << refusal.what();
    EXPECT_TRUE(round.spoiled) << "a right call was refused: " << refusal.what();
    return false;
  }
  return true;
}

/// Elements overwritten by `poison`: what is left must still hold it, so nothing was written between elements.
void ExpectGapsUntouched(Round& round, uint8_t poison) {
  for (Owned& output : round.memory.outputs) {
    for (int64_t i = 0; i < output.Count(); ++i) {
      std::memset(output.At(i), poison, static_cast<size_t>(Bytes(output.view().dtype)));
    }
    EXPECT_TRUE(output.IsPoisoned(poison)) << "written between elements";
  }
}

/// `exact`: the reference gives the same bits.
template <class Args>
void Try(Round& round, Tally* tally, void (*operation)(const Args&, Context&), const Args& args, bool exact) {
  round.SpoilSome();
  Context context;
  RandomTeam(round.draw, &context);
  const auto call = [&] { operation(args, context); };
  if (!RunOver(round, 0xA5, call)) {
    ++tally->refused;
    return;
  }
  ++tally->accepted;
  for (size_t i = 0; i < round.outputs.size(); ++i) {
    if (round.outputs[i]->data != round.memory.outputs[i].view().data) return;  // spoiled, and yet right
  }
  const std::vector<uint8_t> first = Contents(round);
  ExpectGapsUntouched(round, 0xA5);
  ASSERT_TRUE(RunOver(round, 0x5A, call));
  EXPECT_EQ(Contents(round), first) << "an element was left as it was, or two runs differ";
  ExpectGapsUntouched(round, 0x5A);
  if (!exact) return;
  context.use_reference = true;
  ASSERT_TRUE(RunOver(round, 0xA5, call));
  EXPECT_EQ(Contents(round), first) << "the reference differs";
}

void FuzzSwigluQuant(Round& r, Tally* tally) {
  SwigluQuantArgs args;
  r.int4 = r.draw.OneIn(2);
  r.n = r.int4 ? r.draw.Of({8, 16, 40}) : 2 * r.draw.Between(1, 20);
  args.spelling = r.draw.Of({Spelling::kNative, Spelling::kVendorSwigluQuantV2});
  args.x = r.memory.Input(kI8, {r.m, r.k});
  r.Weight(&args.weight, &args.packed, true, true);
  const bool split = args.weight.size > 1, sliced = r.draw.OneIn(2);
  const int64_t slices = sliced ? r.Slices() : 0;
  args.dequant_mode = sliced;
  const DType scale = r.int4 && r.draw.OneIn(3) ? r.draw.Of({DType::kInt64, DType::kUInt64}) : r.Float();
  args.weight_scale = r.Columns(scale, slices, split);
  args.x_scale = r.memory.Input(kF32, {r.m});
  args.group_list_type = r.draw.Below(2);
  args.group_list = r.Groups(args.group_list_type);
  r.Maybe(&args.smooth_scale, kF32, r.draw.OneIn(2) ? std::vector<int64_t>{r.e} : std::vector<int64_t>{r.e, r.n / 2});
  if (r.draw.OneIn(3)) args.weight_assist_matrix = r.Columns(kF32, 0, r.e > 1 && r.draw.OneIn(2));
  if (slices < 2) r.Maybe(&args.bias, kI32, {r.e, r.n}, 3);
  args.quant_dtype = r.draw.Of({kI8, kI8, DType::kFloat8E4M3, DType::kFloat8E5M2});
  args.swiglu_limit = r.draw.Of({0.0, 0.0, 1e-50, 7.0, 1e300});
  if (r.draw.OneIn(2)) args.tuning_config = &r.m;
  args.tuning_config_size = 1;
  r.Output(&args.y, args.quant_dtype, {r.m, r.n / 2});
  r.Output(&args.y_scale, kF32, {r.m});
  r.views.insert(r.views.end(), {&args.x, &args.x_scale, &args.group_list, &args.smooth_scale, &args.bias});
  r.options = {&args.dequant_mode, &args.group_list_type};
  r.tensor_lists = {&args.weight, &args.weight_scale, &args.weight_assist_matrix};
  Try(r, tally, GroupedMatmulSwigluQuant, args, true);
}

void FuzzGroupedMatmul(Round& r, Tally* tally) {
  GroupedMatmulArgs args;
  r.int4 = r.draw.OneIn(2);
  if (r.int4) r.n = r.draw.Of({8, 16, 40});
  args.out_dtype = r.draw.OneIn(4) ? kI32 : r.Float();
  const bool sums = args.out_dtype == kI32;
  args.x = r.memory.Input(kI8, {r.m, r.k});
  r.Weight(&args.weight, &args.packed, false, true);
  const bool sliced = !sums && r.draw.OneIn(2);
  const int64_t slices = sliced ? r.Slices() : 0;
  args.dequant_mode = sliced;
  if (!sums) {
    args.weight_scale = r.Columns(r.Float(), slices, args.weight.size > 1);
    r.Maybe(&args.x_scale, kF32, {r.m});
    if (r.draw.OneIn(3)) args.weight_assist_matrix = r.Columns(kF32, 0, r.e > 1 && r.draw.OneIn(2));
    args.act_type = r.draw.Of({0, 0, 1, 2, 4, 5});
  }
  r.Maybe(&args.bias, sums || (slices < 2 && r.draw.OneIn(2)) ? kI32 : r.Float(), {r.e, r.n});
  args.group_list_type = r.draw.Below(2);
  args.group_list = r.Groups(args.group_list_type);
  r.Output(&args.y, args.out_dtype, {r.m, r.n});
  r.views.insert(r.views.end(), {&args.x, &args.x_scale, &args.group_list, &args.bias});
  r.options = {&args.dequant_mode, &args.group_list_type, &args.act_type};
  r.tensor_lists = {&args.weight, &args.weight_scale, &args.weight_assist_matrix};
  Try(r, tally, GroupedMatmul, args, true);
}

void FuzzWeightQuant(Round& r, Tally* tally) {
  WeightQuantArgs args;
  const DType x = r.Float();
  const auto like_x = [&] { return r.draw.OneIn(2) ? x : kF32; };
  args.spelling = r.draw.Of({Spelling::kNative, Spelling::kVendorWeightQuantGmm, Spelling::kVendorWeightQuantGmmV2});
  args.x = r.memory.Input(x, {r.m, r.k});
  r.Weight(&args.weight, &args.packed, false, false);
  args.scale = r.memory.Input(like_x(), {r.e, r.n});
  r.Maybe(&args.offset, like_x(), {r.e, r.n});
  r.Maybe(&args.bias, like_x(), {r.e, r.n});
  args.group_list_type = r.draw.Below(2);
  if (r.e > 1 || r.draw.OneIn(2)) args.group_list = r.Groups(args.group_list_type);
  args.act_type = r.draw.Of({0, 0, 1, 2, 4, 5});
  args.precision = r.draw.Of({Precision::kDefault, Precision::kStrict, Precision::kFast});
  r.Output(&args.y, x, {r.m, r.n});
  r.views.insert(r.views.end(), {&args.x, &args.scale, &args.offset, &args.bias, &args.group_list});
  r.options = {&args.group_list_type, &args.act_type};
  r.tensor_lists = {&args.weight};
  Try(r, tally, WeightQuantGroupedMatmul, args, false);
}

void FuzzDynamicQuant(Round& r, Tally* tally) {
  DynamicQuantArgs args;
  args.dst_type = r.draw.Of({kI8, DType::kInt4, DType::kFloat8E4M3, DType::kFloat8E5M2});
  const bool int4 = args.dst_type == DType::kInt4;
  const int64_t h = int4 ? 8 * r.draw.Between(1, 5) : r.n;
  std::vector<int64_t> sizes(static_cast<size_t>(r.draw.Between(1, 3)));
  int64_t rows = 1;
  for (int64_t& size : sizes) rows *= size = r.draw.Below(5);
  const std::vector<int64_t> leading = sizes;
  sizes.push_back(h);
  const DType x = r.Float();
  args.x = r.memory.Input(x, sizes);
  if (r.draw.OneIn(2)) {
    const DType smooth = r.draw.OneIn(2) ? x : kF32;
    args.smooth_scales = r.memory.Input(smooth, {h});
    if (r.draw.OneIn(2)) {
      args.smooth_scales = r.memory.Input(smooth, {r.e, h});
      std::vector<int64_t> ends(static_cast<size_t>(r.e), rows);
      for (size_t i = ends.size() - 1; i > 0; --i) ends[i - 1] = r.draw.Between(0, ends[i]);
      args.group_index = r.memory.Numbers(r.draw.Of({kI32, DType::kInt64}), ends);
    }
  }
  if (int4) sizes.back() /= 8;
  r.Output(&args.y, int4 ? kI32 : args.dst_type, sizes, true);
  r.Output(&args.scale, kF32, leading, true);
  r.views.insert(r.views.end(), {&args.x, &args.smooth_scales, &args.group_index});
  Try(r, tally, DynamicQuant, args, true);
}

void FuzzFractalNz(Round& r, Tally* tally) {
  FractalNzArgs args;
  args.dtype = r.draw.Of({kI8, DType::kInt4, DType::kFloat16, kF32});
  const bool int4 = args.dtype == DType::kInt4, to_nz = r.draw.OneIn(2);
  args.k = r.k;
  args.n = int4 ? 8 * r.draw.Between(1, 9) : r.n;
  args.c0 = int4 ? r.draw.Of({0, 8, 64}) : r.draw.Of({0, 1, 7, 16, 32});
  args.transposed = r.draw.OneIn(2);
  const std::vector<int64_t> plain = {r.e, args.k, int4 ? args.n / 8 : args.n};
  const DType plain_type = int4 ? kI32 : args.dtype;
  const DType storage_type = int4 ? r.draw.Of({DType::kUInt8, kI8, kI32}) : args.dtype;
  const std::vector<int64_t> storage = {r.e, FractalNzSize(args) / (int4 ? Bytes(storage_type) : 1)};
  if (to_nz) {
    args.plain = r.memory.Dense(plain_type, plain);
    r.Output(&args.storage, storage_type, storage, true);
  } else {
    args.storage = r.memory.Dense(storage_type, storage);
    r.Output(&args.plain, plain_type, plain, true);
  }
  r.views.push_back(to_nz ? &args.plain : &args.storage);
  r.options = {&args.k, &args.n, &args.c0};
  const auto convert = to_nz ? ToFractalNz : FromFractalNz;
  Try(r, tally, convert, args, false);
}

void Fuzz(void (*round)(Round&, Tally*), uint64_t rounds) {
  const uint64_t seed = FromEnvironment("QGMM_FUZZ_SEED", 20261124);
  Tally tally;
  rounds = FromEnvironment("QGMM_FUZZ_ROUNDS", rounds);
  for (uint64_t i = 0; i < rounds; ++i) {
    Round r(seed + i);
    round(r, &tally);
    ASSERT_FALSE(testing::Test::HasFailure()) << "QGMM_FUZZ_SEED=" << seed + i << " QGMM_FUZZ_ROUNDS=1 shows it alone";
  }
  if (rounds < 100) return;
  EXPECT_GT(tally.accepted * 10, static_cast<int64_t>(rounds) * 3) << "too few right calls to say anything";
  EXPECT_GT(tally.refused * 10, static_cast<int64_t>(rounds) * 2) << "too few wrong calls to say anything";
}

TEST(Fuzz, GroupedMatmulSwigluQuant) { Fuzz(FuzzSwigluQuant, 1500); }
TEST(Fuzz, GroupedMatmul) { Fuzz(FuzzGroupedMatmul, 1500); }
TEST(Fuzz, WeightQuantGroupedMatmul) { Fuzz(FuzzWeightQuant, 1500); }
TEST(Fuzz, DynamicQuant) { Fuzz(FuzzDynamicQuant, 1500); }
TEST(Fuzz, FractalNz) { Fuzz(FuzzFractalNz, 1000); }

}  // namespace
}  // namespace qgmm
