# SPDX-License-Identifier: Apache-2.0
"""The benchmark: what its cases consist of, and what it writes."""
import json
import subprocess
import sys
from pathlib import Path

import markdown
import plot
import pytest
import roof

import cases

BENCH = Path(__file__).resolve().parents[2] / "bench"
ISSUE_FIELDS = {"operator", "case", "machine", "isa", "experts", "k", "n", "rows_per_expert", "groups", "distribution",
                "weights", "slice", "threads", "implementation", "kernel", "fused", "gmac_per_s", "best_gmac_per_s",
                "gbyte_per_s", "roof_share", "roof", "exact", "repeats"}


@pytest.fixture(scope="module")
def measurements(tmp_path_factory):
    """Of a small run of two operators."""
    file = tmp_path_factory.mktemp("bench") / "measurements.json"
    command = [sys.executable, BENCH / "ops_bench.py", "--smoke", "--operators", "down,quant", "--process", "best",
               "--repeats", "2", "--extras", "", "--json", file]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return plot.load(file)


def test_bench_zipf_groups_hold_every_row():
    for groups in (1, 2, 7, 8, 21, 128, 256):
        for rows in (1, 3, 64, 1000, 1 << 16):
            counts = cases.zipf(groups, rows)
            assert sum(counts) == rows
            assert len(counts) == groups
            assert min(counts) >= 0


def test_bench_zipf_groups_are_skewed():
    counts = sorted(cases.zipf(64, 64 * 64), reverse=True)
    assert counts[0] > 10 * 64
    assert abs(counts[0] - 2 * counts[1]) <= 2
    assert abs(counts[0] - 64 * counts[63]) <= 64


def test_bench_quick_list_is_cold_for_every_operator():
    found = {(case.stack.operator, case.stack.weights, case.rows) for case in cases.quick_cases() if case.cold}
    for kind in (("A", "int8"), ("A", "int4"), ("B", "int8"), ("down", "int8"), ("quant", "none")):
        for rows in (1, 16, 64, 256):
            assert (*kind, rows) in found


def test_bench_cold_cases_read_more_than_600_megabytes():
    for case in cases.quick_cases() + cases.full_cases():
        if case.cold and case.stack.operator != "quant":
            assert case.active * case.stack.k * case.stack.n * (1 if case.stack.weights == "int8" else 0.5) > 600e6


def test_bench_every_kernel_has_the_roof_of_its_instruction():
    words = {"avx2_wide_unpacked": "vpmaddwd", "avx2_quads": "quads", "avx2_pairs": "pairs", "avx2_int4": "vpmaddubsw",
             "avx2_float": "vfmadd", "avx512vnni_int8": "vpdpbusd512", "avx512vnni_float": "vfmadd512",
             "avxvnni_int8": "vpdpbusd256", "avxvnniint8_int8": "vpdpbusd256", "amx_int8": "tdpbusd", "neon_int8": ""}
    assert {name: roof.instruction(name) for name in words} == words


def test_bench_json_has_the_fields_of_a_measurement(measurements):
    assert {m["operator"] for m in measurements} == {"down", "quant"}
    for m in measurements:
        assert set(m) >= ISSUE_FIELDS
        assert m["exact"] is True or isinstance(m["exact"], (bool, str))
        assert m["roof"] in ("compute", "memory")
        assert m["groups"] in ("uniform", "zipf")
        if m["repeats"]:
            assert m["best_gmac_per_s"] >= m["gmac_per_s"] >= 0
            assert m["gbyte_per_s"] > 0


def test_bench_our_answers_are_exact(measurements):
    own = [m for m in measurements if plot.ours(m)]
    assert len(own) == 2
    assert all(m["exact"] is True for m in own)


def test_bench_table_names_case_and_rival(measurements):
    text = markdown.document(measurements, short=False)
    own, rivals = next(markdown.cases(measurements))
    assert own["case"] in text
    assert min((m for m in rivals if m["exact"] is True), key=lambda m: m["seconds"])["implementation"] in text
    assert json.dumps(own["kernel"]).strip('"') in text
