# SPDX-License-Identifier: Apache-2.0
"""The door itself: what the library needs and shows, frozen schemas, loading, leaks, exceptions, warnings."""
import ctypes
import doctest
import importlib
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import agree
import cases
import qgmm
import subprocesses
from qgmm import library

ROOT = Path(__file__).resolve().parents[2]
OPS = torch.ops.qgmm


def tool(*command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run([*command, library.LIBRARY_PATH], check=True, capture_output=True, text=True).stdout


# ---- the library

def test_no_unstable_symbol_of_torch_is_needed():
    needed = tool("nm", "-DC", "--undefined-only")
    assert "aoti_torch_" in needed
    assert re.findall(r"\b(?:at|c10|torch)::.*", needed) == []


def test_only_libtorch_and_the_runtime_are_needed():
    dynamic = tool("readelf", "-d")
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", dynamic))
    assert "libtorch.so" in needed
    runtime = {"libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6"}
    loader_or_sanitizer = {name for name in needed if re.match(r"ld-linux|lib(a|ub|clang_rt).*san", name)}
    assert needed - runtime - loader_or_sanitizer == {"libtorch.so"}
    assert "RUNPATH" not in dynamic and "RPATH" not in dynamic


def test_no_names_of_the_core_are_shown():
    shown = {line.split()[-1] for line in tool("nm", "-D", "--defined-only").splitlines()}
    assert shown == {"qgmm_version", "qgmm_torch_namespace", "qgmm_set_warning_callback"}


SWIGLU_QUANT = (
    "(Tensor x, Tensor[] weight, Tensor[] weight_scale, Tensor x_scale, Tensor group_list, Tensor? smooth_scale=None, "
    "Tensor[]? weight_assist_matrix=None, Tensor? bias=None, *, int dequant_mode=0, ScalarType? quant_dtype=None, "
    "int group_list_type=0, float swiglu_limit=0., int[]? tuning_config=None, int[]? packed=None, int spelling=0)")
WEIGHT_QUANT = (
    "(Tensor x, Tensor weight, Tensor scale, Tensor? offset=None, Tensor? bias=None, Tensor? group_list=None, *, "
    "int group_list_type=0, int act_type=0, int precision=0, int[]? packed=None, int spelling=0)")
GROUPED_MATMUL = (
    "(Tensor x, Tensor[] weight, Tensor[]? weight_scale, Tensor group_list, Tensor? x_scale=None, Tensor? bias=None, "
    "Tensor[]? weight_assist_matrix=None, *, int dequant_mode=0, int group_list_type=0, int act_type=0, "
    "ScalarType? out_dtype=None, int[]? packed=None, int spelling=0)")
PACKED_SWIGLU_QUANT = (
    "(Tensor x, Tensor data, Tensor weight_scale, Tensor x_scale, Tensor group_list, int spelling=0, "
    "int group_list_type=0, int dequant_mode=0, Tensor? smooth_scale=None, Tensor? weight_assist_matrix=None, "
    "Tensor? bias=None, float swiglu_limit=0.)")
PACKED_WEIGHT_QUANT = (
    "(Tensor x, Tensor data, Tensor scale, Tensor? group_list=None, int spelling=0, int group_list_type=0, "
    "int act_type=0, int precision=0, Tensor? offset=None, Tensor? bias=None)")
PACKED_GROUPED_MATMUL = (
    "(Tensor x, Tensor data, Tensor group_list, Tensor? weight_scale=None, Tensor? x_scale=None, "
    "int group_list_type=0, int dequant_mode=0, int act_type=0, Tensor? bias=None, "
    "Tensor? weight_assist_matrix=None, ScalarType? out_dtype=None)")
SCHEMAS = {
    "grouped_matmul_swiglu_quant": f"{SWIGLU_QUANT} -> (Tensor, Tensor)",
    "grouped_matmul_swiglu_quant.packed": f"{PACKED_SWIGLU_QUANT} -> (Tensor, Tensor)",
    "explain_grouped_matmul_swiglu_quant": f"{SWIGLU_QUANT} -> str",
    "weight_quant_grouped_matmul": f"{WEIGHT_QUANT} -> Tensor",
    "weight_quant_grouped_matmul.packed": f"{PACKED_WEIGHT_QUANT} -> Tensor",
    "explain_weight_quant_grouped_matmul": f"{WEIGHT_QUANT} -> str",
    "grouped_matmul": f"{GROUPED_MATMUL} -> Tensor",
    "grouped_matmul.packed": f"{PACKED_GROUPED_MATMUL} -> Tensor",
    "explain_grouped_matmul": f"{GROUPED_MATMUL} -> str",
    "dynamic_quant": "(Tensor x, Tensor? smooth_scales=None, Tensor? group_index=None, *, int dst_type=1)"
                     " -> (Tensor, Tensor)",
    "pack_weight": "(Tensor[] weight, *, bool swiglu=False, int certify=-1) -> Tensor",
    "certify_weight": "(Tensor data, *, int certify=-1) -> Tensor",
    "packed_header": "(Tensor data) -> Tensor",
    "unpack_weight": "(Tensor data, int[] packed) -> Tensor",
    "from_fractal_nz": "(Tensor data, int k, int n, int dtype, int c0=0, bool transposed=False) -> Tensor",
    "to_fractal_nz": "(Tensor weight, int dtype, int c0=0, bool transposed=False) -> Tensor",
    "no_backward": "(Tensor like, int operation) -> Tensor",
    "machine": "() -> str",
    "last_run": "() -> str",
    "set_reference": "(bool on) -> ()",
}


def test_schemas_are_frozen():
    """A compiled, exported or packaged graph holds these texts: a change breaks what others have saved."""
    found = {str(schema).split("(")[0].removeprefix("qgmm::"): "(" + str(schema).split("(", 1)[1]
             for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("qgmm::")}
    assert found == SCHEMAS


def test_the_version_has_one_source():
    declared = re.search(r"project\(qgmm VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text()).group(1)
    assert qgmm.__version__ == library.VERSION == declared


# ---- importing

def test_import_takes_less_than_a_second_beyond_torch():
    text = subprocesses.python("-c", "import time, torch; t = time.perf_counter(); import qgmm\n"
                               "print(time.perf_counter() - t)").stdout
    assert float(text) < 1


@pytest.mark.parametrize("version", ["2.9.1+cpu", "1.13.0", "2.9.0a0+git"])
def test_an_older_torch_is_one_sentence(tmp_path, version):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(f"__version__ = {version!r}\n")
    assert import_error(tmp_path) == f"qgmm needs torch 2.10 or newer; found torch {version}"


def test_no_torch_is_one_sentence(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    assert import_error(tmp_path) == ("qgmm needs torch 2.10 or newer; torch is not installed (pip install torch)")


def test_a_missing_library_is_one_sentence(tmp_path):
    assert re.fullmatch(r"qgmm: _torch\.so is not in \[.*\]; reinstall with pip install \.", import_error(tmp_path))


def test_a_broken_library_is_one_sentence(tmp_path):
    broken = tmp_path / "_torch.so"
    broken.write_text("no library")
    message = import_error(tmp_path, QGMM_TORCH_LIBRARY=broken)
    assert message.startswith(f"qgmm: {broken} does not load with torch {torch.__version__} (")
    assert message.endswith("); reinstall with pip install .")


def import_error(folder, QGMM_TORCH_LIBRARY=None):
    """The message of the ImportError of a package whose .py files alone lie in `folder`."""
    package = folder / "qgmm"
    package.mkdir()
    for source in Path(qgmm.ops.__file__).parent.glob("*.py"):
        shutil.copy(source, package)
    code = (f"import sys; sys.path.insert(0, {str(folder)!r})\n"
            "try:\n    import qgmm\nexcept ImportError as error:\n    print(error)")
    return subprocesses.python("-c", code, QGMM_TORCH_LIBRARY=QGMM_TORCH_LIBRARY).stdout.strip()


def test_commands_are_listed_and_unknown_ones_refused():
    assert "doctor" in subprocesses.python("-m", "qgmm").stdout
    assert subprocesses.python("-m", "qgmm", "cure", check=False).returncode == 2


def test_the_package_is_typed():
    assert (Path(qgmm.ops.__file__).parent / "py.typed").exists()


def test_everything_public_is_documented():
    for name in qgmm.__all__:
        assert name == "__version__" or getattr(qgmm, name).__doc__, name


@pytest.mark.parametrize("module", ["ops", "weights", "packed", "explain", "vendor"])
def test_examples_in_docstrings_run(module):
    results = doctest.testmod(importlib.import_module(f"qgmm.{module}"))
    assert results.attempted > 0 and results.failed == 0


# ---- leaks

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def leak_calls():
    rng = np.random.default_rng(3)
    a, (b, b_options) = cases.swiglu(rng), cases.weight_quant(rng)
    packed, paired = qgmm.pack_weight(b[1]), qgmm.pack_weight(a[1], swiglu=True)
    row = b[0].float()
    return {
        "lists": lambda: qgmm.grouped_matmul_swiglu_quant(a[0], [a[1]], [a[2]], *a[3:], tuning_config=[3]),
        "packed": lambda: qgmm.grouped_matmul_swiglu_quant(a[0], paired, *a[2:], group_list_type=0),
        "packed, options": lambda: qgmm.grouped_matmul_swiglu_quant(a[0], paired, *a[2:], smooth_scale=torch.ones(2)),
        "optional tensors": lambda: qgmm.weight_quant_grouped_matmul(b[0], packed, b[2], **b_options),
        "refused": lambda: pytest.raises(ValueError, qgmm.grouped_matmul, *a[:3], [99]),
        "two outputs": lambda: qgmm.dynamic_quant(row),
        "packing": lambda: qgmm.PackedWeight.from_data(qgmm.pack_weight(a[1]).data),
        "format": lambda: qgmm.from_fractal_nz(qgmm.to_fractal_nz(a[1]), 24, 16, torch.int8),
    }


@pytest.mark.parametrize("name", leak_calls())
def test_thousands_of_calls_leave_nothing_behind(name):
    call = leak_calls()[name]
    for _ in range(500):
        call()
    before = resident_bytes()
    for _ in range(4000):
        call()
    # The smallest leak of a boxed argument is 16 bytes, 64 KB here; the allocator's own breathing stays below.
    growth = resident_bytes() - before
    assert growth < 4000 * 64, f"{growth / 4000} bytes a call"


# ---- exceptions, threads, warnings

@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """call.cpp with a body that throws, as a library that has torch's pool but not the core."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("pool")
    stub, probe = folder / "libtorch.so", folder / "probe.so"
    (folder / "stub.cpp").write_text("extern int stub; int stub;\n")
    flags = [*compiler.split(), "-std=c++20", "-fPIC", "-shared"]
    subprocess.run([*flags, "-Wl,-soname,libtorch.so", folder / "stub.cpp", "-o", stub], check=True)
    subprocess.run([*flags, "-O1", "-DTORCH_TARGET_VERSION=0x020a000000000000ULL", "-DQGMM_TORCH_NAMESPACE=probe",
                    "-isystem", Path(torch.__file__).parent / "include", f"-I{ROOT / 'include'}", f"-I{ROOT / 'torch'}",
                    ROOT / "torch" / "call.cpp", ROOT / "tests" / "python" / "pool_probe.cpp",
                    "-Wl,--no-as-needed", stub, "-o", probe], check=True)
    return ctypes.CDLL(str(probe)).pool_probe


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 4, 9])
def test_an_exception_keeps_its_sentence_through_the_pool(pool, threads, count):
    torch.set_num_threads(threads)
    text = ctypes.create_string_buffer(200)
    assert pool(count, -1, text, 200) == count and text.value == b""
    for throws_at in range(count):
        pool(count, throws_at, text, 200)
        assert text.value == b"[probe] the sentence of index 3"


def test_an_unstable_header_of_torch_does_not_compile(tmp_path):
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    (tmp_path / "unstable.cpp").write_text("#include <ATen/core/TensorBody.h>\n")
    done = subprocess.run([*compiler.split(), "-std=c++20", "-fsyntax-only", "-isystem",
                           Path(torch.__file__).parent / "include", "-DTORCH_TARGET_VERSION=0x020a000000000000ULL",
                           tmp_path / "unstable.cpp"], capture_output=True, text=True)
    assert done.returncode != 0 and "TORCH_TARGET_VERSION" in done.stderr


def test_calls_from_several_python_threads(rng):
    args = cases.swiglu(rng, m=40, k=64, n=96)
    wanted, results = qgmm.grouped_matmul_swiglu_quant(*args), []
    threads = [threading.Thread(target=lambda: [results.append(qgmm.grouped_matmul_swiglu_quant(*args))
                                                for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80
    for result in results:
        agree.assert_same_bits(result, wanted, "from another thread")


WARNING = """
import warnings, torch, qgmm
x, w = torch.ones(3, 8, dtype=torch.float16), torch.ones(2, 8, 4, dtype=torch.int8)
s = torch.ones(2, 4, dtype=torch.float16)
{filter}
with warnings.catch_warnings(record={record}) as caught:
    for name in ("npu_weight_quant_gmm", "npu_weight_quant_gmm", "npu_weight_quant_gmm_v2"):
        try:
            getattr(qgmm, name)(x, w, s, group_list=torch.tensor([1, 7]))
        except RuntimeError as error:
            print("RuntimeError", error)
for one in caught or []:
    print(one.category.__name__, one.filename, one.message)
"""


def test_a_clamped_list_warns_once_per_name_at_the_callers_line():
    lines = subprocesses.python("-c", WARNING.format(filter="", record=True)).stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("UserWarning <string> [npu_weight_quant_gmm] group_list (cumsum)")
    assert lines[1].startswith("UserWarning <string> [npu_weight_quant_gmm_v2] group_list (counts)")
    assert "3 (m)" in lines[0] and "got 7" in lines[0] and "3 (m)" in lines[1] and "got 8" in lines[1]


def test_a_warning_that_is_an_error_stops_the_call():
    code = WARNING.format(filter="warnings.simplefilter('error')", record=False)
    lines = subprocesses.python("-W", "error::UserWarning", "-c", code).stdout.splitlines()
    assert [line.split("]")[0] for line in lines] == ["RuntimeError [npu_weight_quant_gmm",
                                                      "RuntimeError [npu_weight_quant_gmm_v2"]


# ---- absurd arguments

def test_a_claim_beyond_memory_gives_the_sentence_of_the_wrong_argument():
    x, x_scale = torch.ones(4, 8, dtype=torch.int8), torch.ones(4)
    wide, wide_half = torch.ones(1, 1).expand(1, 2**60), torch.ones(1, 1, dtype=torch.float16).expand(1, 2**60)
    with pytest.raises(ValueError, match=r"weight_scale must be \[1, 6\] \(e, n\); got \[1, 1152921504606846976\]"):
        qgmm.grouped_matmul_swiglu_quant(x, torch.ones(1, 8, 6, dtype=torch.int8), wide, x_scale, [4])
    with pytest.raises(ValueError, match=r"scale must be \[1, 6\] \(e, n\)"):
        qgmm.weight_quant_grouped_matmul(x.half(), torch.ones(1, 8, 6, dtype=torch.int8), wide_half, group_list=[4])


@pytest.mark.parametrize("rows", [2**44, 2**50, 2**58], ids=["asked of the allocator", "2^50", "beyond int64"])
def test_right_arguments_beyond_memory_are_a_memory_error(rows):
    x = torch.ones(1, 8, dtype=torch.int8).expand(rows, 8)
    with pytest.raises(MemoryError):
        qgmm.grouped_matmul(x, torch.ones(1, 8, 64, dtype=torch.int8), torch.ones(1, 64), [0])


def test_sparse_tensors_and_nine_dimensions_are_sentences(rng):
    x, *rest = cases.swiglu(rng)
    with pytest.raises(ValueError, match=r"x must be int8 \[m, k\]; got an unsupported dtype"):
        qgmm.grouped_matmul_swiglu_quant(x.to_sparse(), *rest)
    with pytest.raises(ValueError, match=r"x must be \[m, k\]"):
        qgmm.grouped_matmul_swiglu_quant(x.reshape(5, 1, 1, 1, 1, 1, 1, 1, 24), *rest)
    with pytest.raises(ValueError, match="x must have"):
        qgmm.dynamic_quant(torch.ones(2, 1, 1, 1, 1, 1, 1, 1, 8))


@pytest.mark.parametrize("options, sentence", [
    (dict(packed=[1, 2, 3]), r"packed must be \[layout, e, k, n\]"),
    (dict(packed=[1, 2, 24, 16]), "a PackedWeight must hold one contiguous row of uint8"),
    (dict(spelling=9), "spelling must be 0 to 4; got 9"),
])
def test_the_operator_itself_refuses_what_python_never_passes(rng, options, sentence):
    x, weight, scale, x_scale, group_list = cases.swiglu(rng)
    with pytest.raises(ValueError, match=sentence):
        OPS.grouped_matmul_swiglu_quant(x, [weight], [scale], x_scale, group_list, **options)
