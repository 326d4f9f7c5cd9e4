// SPDX-License-Identifier: Apache-2.0
#include "fractal_nz.h"

#include "check.h"

namespace qgmm {

int64_t FractalNzSize(const FractalNzArgs& args) {
  CheckFractalNzSizes(args);
  const int64_t elements = FractalNzBlocks(args).elements();
  return args.dtype == DType::kInt4 ? elements / 2 : elements;
}

}  // namespace qgmm
