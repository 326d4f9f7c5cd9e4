// SPDX-License-Identifier: Apache-2.0
// The order of checks: of any two mistakes the one of the earlier stage is reported, and within a stage the argument
// that comes first in the signature.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "calls.h"
#include "check_arguments.h"

namespace qgmm {
namespace {

using check::Stage;

template <class Call>
struct Mistake {
  Stage stage;
  const char* argument;  // that the sentence is about
  std::function<void(Call&)> make;
};

/// Mistakes stand in the order of the signature; two of the same argument are not combined, as one may hide the other.
template <class Call>
void ExpectOrder(const std::vector<Mistake<Call>>& mistakes) {
  const auto argument_of = [](Call& call) {
    const std::string text = call.Refusal();
    const size_t begin = text.find("] ") + 2;
    return text.substr(begin, text.find_first_of(" [", begin) - begin);
  };
  for (const Mistake<Call>& one : mistakes) {
    Call call;
    one.make(call);
    ASSERT_EQ(argument_of(call), one.argument) << "alone, stage " << static_cast<int>(one.stage);
  }
  for (size_t i = 0; i < mistakes.size(); ++i) {
    for (size_t j = i + 1; j < mistakes.size(); ++j) {
      const Mistake<Call>&a = mistakes[i], &b = mistakes[j];
      if (std::string(a.argument) == b.argument) continue;
      Call call;
      a.make(call);
      b.make(call);
      EXPECT_EQ(argument_of(call), a.stage <= b.stage ? a.argument : b.argument)
          << a.argument << " in stage " << static_cast<int>(a.stage) << ", " << b.argument << " in stage "
          << static_cast<int>(b.stage);
    }
  }
}

/// A mistake made on one view: absent, dtype, rank, last size, device, memory.
template <class Call>
void AddMistakesOf(std::vector<Mistake<Call>>& mistakes, const char* argument, std::function<TensorView&(Call&)> of,
                   bool required) {
  const auto add = [&](Stage stage, std::function<void(TensorView&)> spoil) {
    mistakes.push_back({stage, argument, [=](Call& call) { spoil(of(call)); }});
  };
  if (required) add(Stage::kType, [](TensorView& view) { view = TensorView(); });
  add(Stage::kType, [](TensorView& view) { view.sizes[0] = -1; });
  add(Stage::kDtype, [](TensorView& view) { view.dtype = DType::kBool; });
  add(Stage::kRank, [](TensorView& view) { view.rank = 9; });
  add(Stage::kDevice, [](TensorView& view) { view.device.type = DeviceType::kCuda; });
  add(Stage::kData, [](TensorView& view) { view.data = nullptr; });
}

template <class Call>
auto Option(const char* argument, std::function<void(Call&)> make) {
  return Mistake<Call>{Stage::kOption, argument, make};
}

TEST(CheckOrder, OperatorA) {
  using C = SwigluQuantCall;
  struct Whole : C {
    Whole() {
      smooth_scale = Expanded(kF32, {8});
      assist = Expanded(kF32, {8, 4096});
      bias = Expanded(kI32, {8, 4096});
    }
  };
  std::vector<Mistake<Whole>> all;
  AddMistakesOf<Whole>(all, "x", [](Whole& c) -> TensorView& { return c.x; }, true);
  AddMistakesOf<Whole>(all, "weight", [](Whole& c) -> TensorView& { return c.w; }, true);
  all.push_back({Stage::kShape, "weight", [](Whole& c) { c.w.sizes[1] = 5; }});
  AddMistakesOf<Whole>(all, "weight_scale", [](Whole& c) -> TensorView& { return c.ws; }, true);
  all.push_back({Stage::kShape, "weight_scale", [](Whole& c) { c.ws.sizes[0] = 5; }});
  AddMistakesOf<Whole>(all, "x_scale", [](Whole& c) -> TensorView& { return c.x_scale; }, true);
  all.push_back({Stage::kShape, "x_scale", [](Whole& c) { c.x_scale.sizes[0] = 5; }});
  AddMistakesOf<Whole>(all, "group_list", [](Whole& c) -> TensorView& { return c.group_list; }, true);
  all.push_back({Stage::kShape, "group_list", [](Whole& c) { c.group_list.sizes[0] = 9; }});
  AddMistakesOf<Whole>(all, "smooth_scale", [](Whole& c) -> TensorView& { return c.smooth_scale; }, false);
  all.push_back({Stage::kShape, "smooth_scale", [](Whole& c) { c.smooth_scale.sizes[0] = 9; }});
  AddMistakesOf<Whole>(all, "weight_assist_matrix", [](Whole& c) -> TensorView& { return c.assist; }, false);
  all.push_back({Stage::kShape, "weight_assist_matrix", [](Whole& c) { c.assist.sizes[1] = 9; }});
  AddMistakesOf<Whole>(all, "bias", [](Whole& c) -> TensorView& { return c.bias; }, false);
  all.push_back({Stage::kShape, "bias", [](Whole& c) { c.bias.sizes[1] = 9; }});
  all.push_back(Option<Whole>("dequant_mode", [](Whole& c) { c.dequant_mode = 2; }));
  all.push_back(Option<Whole>("quant_dtype", [](Whole& c) { c.quant_dtype = kF32; }));
  all.push_back(Option<Whole>("group_list_type", [](Whole& c) { c.group_list_type = 2; }));
  all.push_back(Option<Whole>("swiglu_limit", [](Whole& c) { c.swiglu_limit = -1; }));
  AddMistakesOf<Whole>(all, "y", [](Whole& c) -> TensorView& { return c.y; }, true);
  all.push_back({Stage::kShape, "y", [](Whole& c) { c.y.strides[1] = 0; }});
  AddMistakesOf<Whole>(all, "y_scale", [](Whole& c) -> TensorView& { return c.y_scale; }, true);
  ExpectOrder<Whole>(all);
}

TEST(CheckOrder, OperatorAWithLists) {
  struct Lists : SwigluQuantCall {
    std::vector<TensorView> ws_list{8, Expanded(kF32, {4096})}, w_list{8, Expanded(kI8, {7168, 4096})};
    std::vector<TensorView> assist_list{8, Expanded(kF32, {4096})};
    Lists() {
      weight = TensorList(w_list.data(), 8);
      weight_scale = TensorList(ws_list.data(), 8);
      weight_assist_matrix = TensorList(assist_list.data(), 8);
    }
  };
  std::vector<Mistake<Lists>> all;
  AddMistakesOf<Lists>(all, "weight", [](Lists& c) -> TensorView& { return c.w_list[3]; }, true);
  all.push_back({Stage::kShape, "weight", [](Lists& c) { c.w_list[3].sizes[1] = 5; }});
  AddMistakesOf<Lists>(all, "weight_scale", [](Lists& c) -> TensorView& { return c.ws_list[3]; }, true);
  all.push_back({Stage::kShape, "weight_scale", [](Lists& c) { c.ws_list[3].sizes[0] = 5; }});
  all.push_back({Stage::kType, "weight_scale", [](Lists& c) { c.weight_scale.size = 7; }});
  AddMistakesOf<Lists>(all, "x_scale", [](Lists& c) -> TensorView& { return c.x_scale; }, true);
  AddMistakesOf<Lists>(all, "weight_assist_matrix", [](Lists& c) -> TensorView& { return c.assist_list[3]; }, true);
  all.push_back({Stage::kShape, "weight_assist_matrix", [](Lists& c) { c.weight_assist_matrix.size = 7; }});
  all.push_back(Option<Lists>("dequant_mode", [](Lists& c) { c.dequant_mode = 2; }));
  ExpectOrder<Lists>(all);
}

TEST(CheckOrder, OperatorB) {
  struct Whole : WeightQuantCall {
    Whole() {
      offset = Expanded(kF16, {8, 128});
      bias = Expanded(kF16, {8, 128});
    }
  };
  std::vector<Mistake<Whole>> all;
  AddMistakesOf<Whole>(all, "x", [](Whole& c) -> TensorView& { return c.x; }, true);
  AddMistakesOf<Whole>(all, "weight", [](Whole& c) -> TensorView& { return c.w; }, true);
  all.push_back({Stage::kShape, "weight", [](Whole& c) { c.w.sizes[1] = 5; }});
  AddMistakesOf<Whole>(all, "scale", [](Whole& c) -> TensorView& { return c.scale; }, true);
  all.push_back({Stage::kShape, "scale", [](Whole& c) { c.scale.sizes[0] = 5; }});
  AddMistakesOf<Whole>(all, "offset", [](Whole& c) -> TensorView& { return c.offset; }, false);
  all.push_back({Stage::kShape, "offset", [](Whole& c) { c.offset.sizes[0] = 5; }});
  AddMistakesOf<Whole>(all, "bias", [](Whole& c) -> TensorView& { return c.bias; }, false);
  AddMistakesOf<Whole>(all, "group_list", [](Whole& c) -> TensorView& { return c.group_list; }, false);
  all.push_back({Stage::kShape, "group_list", [](Whole& c) { c.group_list = TensorView(); }});
  all.push_back(Option<Whole>("group_list_type", [](Whole& c) { c.group_list_type = 2; }));
  all.push_back(Option<Whole>("act_type", [](Whole& c) { c.act_type = 3; }));
  all.push_back(Option<Whole>("precision", [](Whole& c) { c.precision = static_cast<Precision>(3); }));
  AddMistakesOf<Whole>(all, "y", [](Whole& c) -> TensorView& { return c.y; }, true);
  ExpectOrder<Whole>(all);
}

TEST(CheckOrder, GroupedMatmul) {
  struct Whole : GroupedMatmulCall {
    Whole() {
      x_scale = Expanded(kF32, {32});
      assist = Expanded(kF32, {8, 4096});
      bias = Expanded(kF16, {8, 4096});
    }
  };
  std::vector<Mistake<Whole>> all;
  AddMistakesOf<Whole>(all, "x", [](Whole& c) -> TensorView& { return c.x; }, true);
  AddMistakesOf<Whole>(all, "weight", [](Whole& c) -> TensorView& { return c.w; }, true);
  AddMistakesOf<Whole>(all, "weight_scale", [](Whole& c) -> TensorView& { return c.ws; }, true);
  AddMistakesOf<Whole>(all, "group_list", [](Whole& c) -> TensorView& { return c.group_list; }, true);
  AddMistakesOf<Whole>(all, "x_scale", [](Whole& c) -> TensorView& { return c.x_scale; }, false);
  AddMistakesOf<Whole>(all, "bias", [](Whole& c) -> TensorView& { return c.bias; }, false);
  AddMistakesOf<Whole>(all, "weight_assist_matrix", [](Whole& c) -> TensorView& { return c.assist; }, false);
  all.push_back(Option<Whole>("dequant_mode", [](Whole& c) { c.dequant_mode = 2; }));
  all.push_back(Option<Whole>("group_list_type", [](Whole& c) { c.group_list_type = 2; }));
  all.push_back(Option<Whole>("act_type", [](Whole& c) { c.act_type = 3; }));
  all.push_back(Option<Whole>("out_dtype", [](Whole& c) { c.out_dtype = kI8; }));
  AddMistakesOf<Whole>(all, "y", [](Whole& c) -> TensorView& { return c.y; }, true);
  ExpectOrder<Whole>(all);
}

TEST(CheckOrder, Int32OutComesWithTheDtypes) {
  const auto sums = [](GroupedMatmulCall& c) {
    c.out_dtype = kI32;
    c.y = Untouchable(kI32, {32, 4096});
    c.ws = TensorView();
    c.act_type = 5;
  };
  EXPECT_EQ(G([&](GroupedMatmulCall& c) { sums(c); c.dequant_mode = 2; }),
            "dequant_mode must be 0 (per channel) or 1 (per group of k); got 2");
  EXPECT_EQ(G([&](GroupedMatmulCall& c) { sums(c); c.x.rank = 3; }),
            "act_type must be 0 for out_dtype int32; got 5");
}

TEST(CheckOrder, DynamicQuant) {
  struct Whole : DynamicQuantArgs {
    const int64_t ends[3] = {10, 10, 32};
    Whole() {
      x = Expanded(kBF16, {4, 8, 24});
      smooth_scales = Expanded(kBF16, {3, 24});
      group_index = Ends(ends, 3);
      y = Untouchable(kI8, {4, 8, 24});
      scale = Untouchable(kF32, {4, 8});
    }
    std::string Refusal() {
      return RefusalOf([&] { Checked(static_cast<const DynamicQuantArgs&>(*this)); });
    }
  };
  EXPECT_EQ(Whole().Refusal(), "accepted");
  std::vector<Mistake<Whole>> all;
  AddMistakesOf<Whole>(all, "x", [](Whole& c) -> TensorView& { return c.x; }, true);
  all.push_back({Stage::kRank, "x", [](Whole& c) { c.x.rank = 1; }});
  AddMistakesOf<Whole>(all, "smooth_scales", [](Whole& c) -> TensorView& { return c.smooth_scales; }, false);
  all.push_back({Stage::kShape, "smooth_scales", [](Whole& c) { c.smooth_scales.sizes[0] = 2; }});
  AddMistakesOf<Whole>(all, "group_index", [](Whole& c) -> TensorView& { return c.group_index; }, false);
  all.push_back(Option<Whole>("dst_type", [](Whole& c) { c.dst_type = kF32; }));
  AddMistakesOf<Whole>(all, "y", [](Whole& c) -> TensorView& { return c.y; }, true);
  all.push_back({Stage::kShape, "y", [](Whole& c) { c.y.strides[1] = 25; }});
  AddMistakesOf<Whole>(all, "scale", [](Whole& c) -> TensorView& { return c.scale; }, true);
  ExpectOrder<Whole>(all);

  Whole alone;
  alone.smooth_scales = TensorView();
  alone.dst_type = kF32;
  EXPECT_EQ(alone.Refusal(), "[dynamic_quant] group_index must be None without smooth_scales; got int64 [3]");
  Whole none;
  none.group_index.sizes[0] = none.smooth_scales.sizes[0] = 0;
  none.y.rank = 2;
  EXPECT_EQ(none.Refusal(), "[dynamic_quant] y must be int8 [4, 8, 24]; got int8 [4, 8]");
}

}  // namespace
}  // namespace qgmm
