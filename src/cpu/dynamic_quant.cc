// SPDX-License-Identifier: Apache-2.0
// dynamic_quant: rows widened, scaled, quantised, shared out in contiguous stretches.
#include <algorithm>
#include <cstring>

#include "cpu/backend.h"
#include "cpu/huge_pages.h"
#include "cpu/kernel.h"
#include "cpu/row_scale.h"
#include "cpu/team.h"
#include "float_mode.h"
#include "numeric.h"

namespace qgmm::cpu {
namespace {

/// Elements from x's first to the first of row `row` of the leading axes, whatever their strides.
int64_t RowOffset(const TensorView& x, int64_t row) {
  int64_t offset = 0;
  for (int axis = x.rank - 2; axis >= 0; --axis) {
    offset += row % x.sizes[axis] * x.strides[axis];
    row /= x.sizes[axis];
  }
  return offset;
}

/// One worker's rows.
class Rows {
 public:
  Rows(const DynamicQuantProblem& p, const Stages& stages, float* scratch)
      : p_(p), stages_(stages), v_(scratch), smooth_(v_ + p.h), q_(reinterpret_cast<uint8_t*>(smooth_ + p.h)) {}

  void Quantize(int64_t row) {
    const TensorView& x = p_.x_view;
    const int64_t stride = x.strides[x.rank - 1];
    const std::byte* from = static_cast<const std::byte*>(x.data) + RowOffset(x, row) * Bytes(x.dtype);
    QuantizeArgs args = {};
    args.x = from;
    args.dtype = x.dtype;
    if (stride != 1) {
      for (int64_t j = 0; j < p_.h; ++j) v_[j] = Load(from, x.dtype, j * stride);
      args.x = v_;
      args.dtype = DType::kFloat32;
    }
    args.smooth = Smooth(row);
    const auto [scale, zeros] = ScaleOf(stages_.row_max(args.x, args.dtype, args.smooth, p_.h), p_.dst_type);
    p_.scale[row] = scale;
    const bool int4 = p_.dst_type == DType::kInt4;
    args.q = int4 ? q_ : static_cast<uint8_t*>(p_.y) + row * p_.h;
    if (zeros) {
      std::memset(args.q, 0, static_cast<size_t>(p_.h));
    } else {
      args.panel_stride = kPanelColumns;
      args.count = p_.h;
      args.rows = 1;
      args.scales = &p_.scale[row];
      args.code = p_.dst_type;
      args.q_stride = 1;
      stages_.quantize(args);
    }
    if (int4) PackNibbles(static_cast<uint8_t*>(p_.y) + row * p_.h / 2);
  }

 private:
  /// The smooth row of the range that holds `row`, gathered when it changes.
  const float* Smooth(int64_t row) {
    if (!p_.smooth.given()) return nullptr;
    while (range_ < 0 || row >= p_.rows[static_cast<size_t>(range_)].end) {
      ++range_;
      gathered_ = false;
    }
    if (gathered_) return smooth_;
    const Columns::Source source = p_.smooth.Of(p_.rows[static_cast<size_t>(range_)].expert);
    for (int64_t j = 0; j < p_.h; ++j) smooth_[j] = Load(source.data, p_.smooth.dtype, j * source.column_stride);
    gathered_ = true;
    return smooth_;
  }

  void PackNibbles(uint8_t* out) const {
    for (int64_t j = 0; j < p_.h; j += 2) out[j / 2] = static_cast<uint8_t>((q_[j] & 15) | q_[j + 1] << 4);
  }

  const DynamicQuantProblem& p_;
  const Stages& stages_;
  float* v_;
  float* smooth_;
  uint8_t* q_;
  int64_t range_ = -1;
  bool gathered_ = false;
};

}  // namespace

void Run(const DynamicQuantProblem& p, Context& context) {
  const Isa isa = ChosenIsa(context.max_isa);
  const Stages& stages = StagesFor(isa);
  const int64_t worth = std::max<int64_t>(1, p.row_count * p.h / 65536);  // 12 us of work; a worker's start costs about 5
  const int workers =
      static_cast<int>(std::clamp<int64_t>(std::min<int64_t>(worth, p.row_count), 1, WorkersFor(context, nullptr)));
  const int64_t floats = (p.h * 2 + (p.h + 3) / 4 + 15) / 16 * 16;
  float* scratch = static_cast<float*>(context.Workspace(static_cast<size_t>(workers * floats) * sizeof(float)));
  AskForHugeResults(p.y, static_cast<size_t>(p.row_count * p.h / (p.dst_type == DType::kInt4 ? 2 : 1)));
  ParallelFor(context, workers, [&](int worker) {
    const FloatMode mode;
    Rows rows(p, stages, scratch + worker * floats);
    for (int64_t r = p.row_count * worker / workers; r < p.row_count * (worker + 1) / workers; ++r) rows.Quantize(r);
  });
  context.last_run = {"dynamic_quant", {"quantize"}, Name(isa), workers, workers};
}

}  // namespace qgmm::cpu
