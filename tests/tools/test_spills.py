# SPDX-License-Identifier: Apache-2.0
"""The check of inner loops finds sums on the stack, loops that were not unrolled, and passes what is right."""
import platform
import shutil
import subprocess

import check_spills
import pytest

TILE = """
#include <immintrin.h>
struct GemmArgs { const float* x; const float* w; float* acc; int k; };
template <int kRows> struct Gemm {
  __attribute__((noinline)) static void Run(const GemmArgs& a) {
    __m256 c[kRows];
    UNROLL for (int i = 0; i < kRows; ++i) c[i] = _mm256_loadu_ps(a.acc + 8 * i);
    for (int k = 0; k < a.k; ++k) {
      const __m256 w = _mm256_loadu_ps(a.w + 8 * k);
      UNROLL for (int i = 0; i < kRows; ++i) c[i] = _mm256_fmadd_ps(_mm256_set1_ps(a.x[k * kRows + i]), w, c[i]);
    }
    UNROLL for (int i = 0; i < kRows; ++i) _mm256_storeu_ps(a.acc + 8 * i, c[i]);
  }
};
void Use(const GemmArgs& a) { Gemm<ROWS>::Run(a); }
"""


@pytest.mark.skipif(not shutil.which("g++") or platform.machine() != "x86_64", reason="no g++ for x86")
@pytest.mark.parametrize(("rows", "unroll", "words"), [
    (12, '_Pragma("GCC unroll 32")', None),
    (20, '_Pragma("GCC unroll 32")', "stack traffic in an inner loop"),
    (2, '_Pragma("GCC unroll 32")', "no inner loop has 8 multiplies"),
    (12, '_Pragma("GCC unroll 1")', ""),
])
def test_tiles(tmp_path, rows, unroll, words):
    source, out = tmp_path / "tile.cc", tmp_path / "tile.cc.o"
    source.write_text(TILE.replace("ROWS", str(rows)).replace("kRows", "kCount").replace("UNROLL", unroll))
    subprocess.run(["g++", "-O2", "-mavx2", "-mfma", "-ffp-contract=off", "-c", source, "-o", out], check=True)
    complaints = check_spills.complaints_of("tile", out)
    if words is None:
        assert complaints == []
    else:
        assert any(words in complaint for complaint in complaints)


def test_an_object_without_kernels_is_a_complaint(tmp_path):
    source = tmp_path / "tile.cc"
    source.write_text("int x;\n")
    subprocess.run(["g++", "-c", source, "-o", f"{source}.o"], check=True)
    assert check_spills.complaints_of("tile", tmp_path / "tile.cc.o") == ["tile: no loop that multiplies"]
