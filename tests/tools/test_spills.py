# SPDX-License-Identifier: Apache-2.0
"""The check of inner loops finds sums on the stack, loops that were not unrolled, and passes what is right."""
import platform
import shutil
import subprocess

import check_spills
import pytest

TILE = """
#if defined(__aarch64__)
#include <arm_neon.h>
using Vector = float32x4_t;
inline Vector Load(const float* p) { return vld1q_f32(p); }
inline Vector Add(Vector c, float x, Vector w) { return vfmaq_f32(c, vdupq_n_f32(x), w); }
inline void Store(float* p, Vector v) { vst1q_f32(p, v); }
#else
#include <immintrin.h>
using Vector = __m256;
inline Vector Load(const float* p) { return _mm256_loadu_ps(p); }
inline Vector Add(Vector c, float x, Vector w) { return _mm256_fmadd_ps(_mm256_set1_ps(x), w, c); }
inline void Store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
#endif
struct GemmArgs { const float* x; const float* w; float* acc; int k; };
template <int kCount> struct Gemm {
  __attribute__((noinline)) static void Run(const GemmArgs& a) {
    Vector c[kCount];
    UNROLL for (int i = 0; i < kCount; ++i) c[i] = Load(a.acc + 8 * i);
    for (int k = 0; k < a.k; ++k) {
      const Vector w = Load(a.w + 8 * k);
      UNROLL for (int i = 0; i < kCount; ++i) c[i] = Add(c[i], a.x[k * kCount + i], w);
    }
    UNROLL for (int i = 0; i < kCount; ++i) Store(a.acc + 8 * i, c[i]);
  }
};
void Use(const GemmArgs& a) { Gemm<ROWS>::Run(a); }
"""
# Pointers of one loop: few stay in registers, many do not.
TILES = """
#include <immintrin.h>
void Elsewhere();
void Product(const char* const* from, const long* step, int k) {
  const char* p[POINTERS];
  long by[POINTERS];
  _Pragma("GCC unroll 32") for (int i = 0; i < POINTERS; ++i) p[i] = from[i], by[i] = step[i];
  for (; k > 0; --k) {
    _Pragma("GCC unroll 32") for (int i = 0; i < POINTERS; ++i) {
      _mm_prefetch(p[i], _MM_HINT_T1);
      p[i] += by[i];
    }
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    MORE
  }
}
"""
FOUR = "_tile_dpbssd(2, 5, 6); _tile_dpbusd(3, 5, 7);"
UNROLL = '_Pragma("GCC unroll 64")'
NONE = '_Pragma("GCC unroll 1")'
ON_STACK = "stack traffic in an inner loop"
FLAGS = {"tile": ["g++", "-mavx2", "-mfma"], "neon": ["aarch64-linux-gnu-g++", "-fno-schedule-insns"],
         "amx": ["g++", "-mamx-tile", "-mamx-int8"]}


def complaints(folder, isa, text):
    """Of the object that a compiler makes of `text`."""
    if not shutil.which(FLAGS[isa][0]) or (isa != "neon" and platform.machine() != "x86_64"):
        pytest.skip(f"no {FLAGS[isa][0]} for this")
    source, out = folder / "tile.cc", folder / "tile.cc.o"
    source.write_text(text)
    subprocess.run([*FLAGS[isa], "-O2", "-ffp-contract=off", "-c", source, "-o", out], check=True)
    return check_spills.complaints_of(isa, out)


@pytest.mark.parametrize(("isa", "rows", "unroll", "words"), [
    ("tile", 12, UNROLL, None),
    ("tile", 20, UNROLL, ON_STACK),
    ("tile", 2, UNROLL, "no inner loop has 8 multiplies"),
    ("tile", 12, NONE, ""),
    ("neon", 24, UNROLL, None),
    ("neon", 40, UNROLL, ON_STACK),
    ("neon", 4, UNROLL, "no inner loop has 16 multiplies"),
    ("neon", 24, NONE, ""),
])
def test_tiles(tmp_path, isa, rows, unroll, words):
    found = complaints(tmp_path, isa, TILE.replace("ROWS", str(rows)).replace("UNROLL", unroll))
    if words is None:
        assert found == []
    else:
        assert any(words in complaint for complaint in found)


@pytest.mark.parametrize(("pointers", "more", "words"), [
    (4, FOUR, None),
    (20, FOUR, ON_STACK),
    (20, FOUR + " Elsewhere();", None),  # a call may want its pointers on the stack
    (4, "", "no inner loop has 4 multiplies"),
])
def test_amx(tmp_path, pointers, more, words):
    found = complaints(tmp_path, "amx", TILES.replace("POINTERS", str(pointers)).replace("MORE", more))
    if words is None:
        assert found == []
    else:
        assert [words in complaint for complaint in found] == [True]


@pytest.mark.parametrize(("name", "operands", "framed", "spilt"), [
    ("ldr", "q1, [sp, #64]", False, True),
    ("ldp", "q1, q2, [x29, #-32]", True, True),
    ("ldp", "q1, q2, [x29, #-32]", False, False),  # any register, without a frame
    ("ldr", "x1, [sp, #64]", False, False),
    ("ldr", "q1, [x2], #16", False, False),
    ("stp", "q13, q6, [sp, #32]", False, True),
    ("stp", "q13, q6, [x3]", False, False),  # a store: below
    ("ld1", "{v0.16b}, [sp]", False, True),
    ("ld4", "{v0.16b-v3.16b}, [x1], #64", False, False),
    ("mov", "v1.16b, v2.16b", False, False),
])
def test_what_is_a_spill_on_arm(name, operands, framed, spilt):
    assert check_spills.ARM.spills(name, operands, framed) == spilt


@pytest.mark.parametrize(("machine", "name", "operands", "stored"), [
    (check_spills.ARM, "stp", "q13, q6, [x3]", True),
    (check_spills.ARM, "st1", "{v0.2d-v3.2d}, [x14]", True),
    (check_spills.ARM, "ldp", "q13, q6, [x3]", False),
    (check_spills.X86, "vmovdqu", "%ymm0,0x20(%rsi)", True),
    (check_spills.X86, "vmovdqu", "0x20(%rsi),%ymm0", False),
    (check_spills.X86, "mov", "%rax,0x20(%rsi)", False),
])
def test_what_is_a_store(machine, name, operands, stored):
    assert machine.stores(name, operands) == stored


@pytest.mark.parametrize(("multiplies", "words"), [(16, None), (8, ON_STACK)])
def test_sums_in_memory_get_many_products(tmp_path, multiplies, words):
    """Two stores in each turn of a loop."""
    body = "".join(f"t{i % 8} = Add(t{i % 8}, a.x[{i}], w);" for i in range(multiplies))
    first, second = ("+".join(f"t{i}" for i in half) for half in (range(4), range(4, 8)))
    starts = "".join(f"Vector t{i} = w;" for i in range(8))
    stores = f"Store(a.acc, Load(a.acc) + {first}); Store(a.acc + 8, Load(a.acc + 8) + {second});"
    loop = f"for (int k = 0; k < a.k; ++k) {{ const Vector w = Load(a.w + 8 * k); {starts} {body} {stores} }}"
    types, arguments = TILE.split("struct GemmArgs")[0], TILE[TILE.index("struct GemmArgs"):TILE.index("template")]
    text = f"{types}{arguments}void Gemm(const GemmArgs& a) {{ {loop} }}\n"
    found = complaints(tmp_path, "tile", text)
    assert [words in complaint for complaint in found] == ([True] if words else [])


def test_arm_without_a_build_is_said_and_no_complaint(tmp_path):
    assert check_spills.why_not("neon", tmp_path / "aarch64", "").startswith(f"there is no {tmp_path / 'aarch64'}")
    assert check_spills.why_not("avx2", tmp_path, "") == ""


def test_an_object_without_kernels_is_a_complaint(tmp_path):
    source = tmp_path / "tile.cc"
    source.write_text("int x;\n")
    subprocess.run(["g++", "-c", source, "-o", f"{source}.o"], check=True)
    assert check_spills.complaints_of("tile", tmp_path / "tile.cc.o") == ["tile: no loop that multiplies"]
