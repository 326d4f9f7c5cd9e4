// SPDX-License-Identifier: Apache-2.0
// Is the answer right? Rows are picked from every part of the batch and recomputed in reference mode with the same
// experts; every column of every picked row is compared.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "demo_case.h"

namespace demo {
namespace {

/// Row indices to recompute, ascending: all of them, or `limit` spread over the groups and up to 8 rows in no group.
std::vector<int64_t> PickRows(const Tokens& tokens, int64_t limit) {
  std::vector<int64_t> rows;
  int64_t grouped = 0;
  for (int64_t count : tokens.counts) grouped += count;
  const bool all = limit == 0 || limit >= tokens.rows;
  const int64_t inside = all ? grouped : std::min(grouped, limit);
  const int64_t tails = all ? tokens.rows - grouped : std::min<int64_t>(tokens.rows - grouped, 8);
  for (int64_t i = 0; i + 1 < inside; ++i) rows.push_back(i * grouped / inside);
  if (inside > 0) rows.push_back(grouped - 1);  // the very last row is where an edge tile goes wrong
  for (int64_t i = 0; i < tails; ++i) rows.push_back(tokens.rows - tails + i);
  return rows;
}

/// The batch that consists of these rows only.
Tokens Select(const Tokens& all, const std::vector<int64_t>& rows) {
  Tokens some;
  const size_t row_bytes = all.x.bytes() / static_cast<size_t>(all.rows);
  some.rows = static_cast<int64_t>(rows.size());
  some.x = Buffer(rows.size() * row_bytes);
  size_t next = 0;
  int64_t end = 0;
  for (int64_t count : all.counts) {
    const size_t begin = next;
    end += count;
    while (next < rows.size() && rows[next] < end) ++next;
    some.counts.push_back(static_cast<int64_t>(next - begin));
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(some.x.data() + i * row_bytes, all.x.data() + static_cast<size_t>(rows[i]) * row_bytes, row_bytes);
    some.x_scale.push_back(all.x_scale[static_cast<size_t>(rows[i])]);
  }
  return some;
}

float FromBFloat16(const uint8_t* data, int64_t index) {
  uint16_t bits;
  std::memcpy(&bits, data + 2 * index, sizeof(bits));
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

/// docs/operators.md, section 8.2, for bfloat16 without offset, bias and activation: the largest share of the allowed
/// error that an element of row `row` takes up.
double ShareOfBound(const Case& c, const Experts& experts, int64_t expert, const uint8_t* x, const uint8_t* y) {
  const auto* w = reinterpret_cast<const int8_t*>(experts.plain.data()) + expert * c.k * c.n;
  std::vector<double> sum(static_cast<size_t>(c.n)), magnitude(static_cast<size_t>(c.n)), weights(sum.size());
  double largest = 0;
  for (int64_t kk = 0; kk < c.k; ++kk) {
    const double value = FromBFloat16(x, kk);
    largest = std::max(largest, std::abs(value));
    for (int64_t j = 0; j < c.n; ++j) {
      const double product = value * w[kk * c.n + j];
      sum[static_cast<size_t>(j)] += product;
      magnitude[static_cast<size_t>(j)] += std::abs(product);
      weights[static_cast<size_t>(j)] += std::abs(w[kk * c.n + j]);
    }
  }
  const double k = static_cast<double>(c.k), u = 0x1p-24;
  double worst = 0;
  for (int64_t j = 0; j < c.n; ++j) {
    const double scale = experts.scale[static_cast<size_t>(expert * c.n + j)];
    const double right = sum[static_cast<size_t>(j)] * scale;
    const double steps = 0x1p-15 * largest * weights[static_cast<size_t>(j)];  // of fixed point
    const double e =
        std::abs(scale) * ((std::min(k, 8 * std::sqrt(k)) + 8) * u * magnitude[static_cast<size_t>(j)] + steps);
    const double ulp = std::ldexp(1.0, std::max(std::ilogb(std::abs(right) + e), -126) - 7);
    worst = std::max(worst, std::abs(FromBFloat16(y, j) - right) / (e + ulp / 2));
  }
  return worst;
}

/// Index of the first of the picked rows whose bytes differ, or -1.
int64_t FirstDifference(const std::vector<int64_t>& rows, const Result& all, const Result& some) {
  const size_t bytes = static_cast<size_t>(all.row_bytes);
  for (size_t i = 0; i < rows.size(); ++i) {
    const size_t row = static_cast<size_t>(rows[i]);
    if (std::memcmp(all.y.data() + row * bytes, some.y.data() + i * bytes, bytes) != 0) return static_cast<int64_t>(i);
    if (all.y_scale.empty()) continue;
    if (std::memcmp(&all.y_scale[row], &some.y_scale[i], sizeof(float)) != 0) return static_cast<int64_t>(i);
  }
  return -1;
}

int64_t ExpertOf(const Tokens& tokens, int64_t row) {
  for (size_t expert = 0; expert < tokens.counts.size(); ++expert) {
    if (row < tokens.counts[expert]) return static_cast<int64_t>(expert);
    row -= tokens.counts[expert];
  }
  return -1;
}

}  // namespace

Verdict Judge(const Case& c, const Experts& experts, const Tokens& tokens, const Result& result) {
  const std::vector<int64_t> rows = PickRows(tokens, c.judged_rows);
  const Tokens picked = Select(tokens, rows);
  qgmm::Context context;
  context.use_reference = true;
  Result right;
  Call(c, experts, false, picked, context, right);
  const int64_t difference = FirstDifference(rows, result, right);
  const bool all = static_cast<int64_t>(rows.size()) == tokens.rows;
  const std::string judged = std::to_string(rows.size()) + (all ? " (all)" : "");
  if (difference < 0) return {true, "bits equal, rows: " + judged};
  const std::string where = "row " + std::to_string(rows[static_cast<size_t>(difference)]);
  if (c.operation != Operation::kB) return {false, "WRONG in " + where};
  double worst = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const int64_t row = static_cast<int64_t>(i), expert = ExpertOf(picked, row);
    const uint8_t* y = result.y.data() + rows[i] * result.row_bytes;
    if (expert < 0 && std::any_of(y, y + result.row_bytes, [](uint8_t byte) { return byte != 0; })) {
      return {false, "WRONG: row " + std::to_string(rows[i]) + " is in no group and not zero"};
    }
    if (expert < 0) continue;
    const double share = ShareOfBound(c, experts, expert, picked.x.data() + row * c.k * 2, y);
    if (!(share <= worst)) worst = share;  // a NaN is kept and fails below
  }
  if (!(worst <= 1)) return {false, "WRONG beyond the bound, first in " + where};
  return {true, "within the bound, rows: " + judged};
}

}  // namespace demo
