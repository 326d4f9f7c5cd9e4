# SPDX-License-Identifier: Apache-2.0
"""The benchmark: what its cases consist of, and what it writes."""
import json
import subprocess
import sys
import types
from pathlib import Path

import judge
import markdown
import ops_bench
import plot
import pytest
import roof
import schedule
import torch
import worker

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


@pytest.mark.parametrize(("end", "words"), [("kill -9 $$", "process best: ended by SIGKILL, its list is not complete"),
                                            ("exit 3", "process best: ended with 3, its list is not complete")])
def test_bench_says_that_a_process_ended_early(tmp_path, monkeypatch, capsys, end, words):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{end}\n", encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(ops_bench.sys, "executable", str(python))
    options = types.SimpleNamespace(quick=True, smoke=False, operators="A", repeats=1, extras="", only="")
    assert ops_bench.run_worker("best", options, None, 1) != 0
    assert words in capsys.readouterr().out


def test_bench_is_cold_beyond_the_last_level_cache(monkeypatch):
    for cache, least in ((32 << 20, 600_000_000), (480 << 20, 600 << 20)):
        monkeypatch.setattr(cases, "last_level_cache", lambda size=cache: size)
        assert cases.cold_bytes() == least > cache


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


def test_bench_full_list_has_what_the_design_asks_for():
    full = cases.full_cases()
    a = [case for case in full if case.stack.operator == "A"]

    def rows(chosen, **wanted):
        return {case.rows for case in chosen if all(getattr(case.stack, name) == value for name, value in wanted.items())}
    shapes = {(7168, 4096), (2048, 1536), (2048, 2816), (4096, 28672)}
    for k, n in shapes:
        plain = [case for case in a if (case.stack.k, case.stack.n) == (k, n) and case.groups == "uniform"]
        assert rows(plain, distribution="sigma20", offset=0) == set(cases.ALL_ROWS)
        assert any(case.groups == "zipf" and (case.stack.k, case.stack.n) == (k, n) for case in a)
        assert any((case.stack.k, case.stack.n) == (n // 2, k) for case in full if case.stack.operator == "down")
    assert {case.stack.distribution for case in a if case.stack.weights == "int8"} == {"sigma20", "randn", "uniform"}
    assert {case.stack.slice for case in a if case.stack.weights == "int4"} == {0, 32, 64, 128}
    assert {case.stack.offset for case in full} == {0, 16}
    assert any(case.stack.experts == 2 and case.total_rows == 512 for case in a)  # the document's sample
    for operator in ("B", "quant"):
        assert rows(full, operator=operator) == set(cases.ALL_ROWS)


def test_bench_quick_list_has_the_goal_table_s_rows():
    quick = cases.quick_cases()
    assert any(case.stack.distribution == "randn" and case.stack.k == 7168 and case.rows == 256 for case in quick)
    assert any(case.stack.weights == "int4" and case.stack.slice == 32 and case.rows == 256 for case in quick)
    assert any(case.stack.operator == "A" and case.stack.weights == "int8" and case.rows == 8 and case.cold for case in quick)


def test_bench_cases_have_names_of_their_own():
    for make in cases.LISTS.values():
        names = [case.name for case in make()]
        assert len(set(names)) == len(names)


def simulated(make, limit, hard, slowness):
    """Runs a list against a clock of its own, every call `slowness` times as long as predicted; the fewest calls that
    rivals got, and the seconds that it took. Nobody takes more than what `plan` gives."""
    time, fewest, stack = [0.0], [], None
    plan = schedule.Schedule(make(), limit, hard, now=lambda: time[0])
    for case in make():
        if case.stack != stack:
            stack = case.stack
            time[0] += schedule.setup_seconds(stack) * slowness
            plan.set_up(stack, schedule.setup_seconds(stack) * slowness)
        if plan.over():
            plan.left.pop(0)
            fewest.append(0)
            continue
        turn = schedule.turn_seconds(case) * slowness
        time[0] += turn + schedule.SPENT_APART
        calls, seconds = plan.plan(turn)
        fewest.append(calls)
        time[0] += max(seconds, calls * turn)
    return min(fewest), time[0]


@pytest.mark.parametrize("make", [cases.quick_cases, cases.full_cases])
@pytest.mark.parametrize("hard", [False, True])
def test_bench_time_is_shared_and_kept(make, hard):
    least, _ = simulated(make, 0, hard, 1)
    assert least == schedule.FLOOR  # no limit: everybody is called often
    _, bare = simulated(make, 1e-9, False, 1)  # none: rivals are called LATE times, and no more
    for factor, wanted in ((1.0, schedule.LATE), (2.5, schedule.FLOOR)):
        for slowness in (0.3, 1, 4):
            limit = factor * (bare * slowness + 60)
            least, seconds = simulated(make, limit, hard, slowness)
            assert least >= wanted
            assert seconds <= limit * 1.05


def test_bench_a_soft_limit_never_leaves_a_rival_out():
    assert simulated(cases.full_cases, 60, False, 1)[0] == schedule.LATE


def test_bench_leaves_out_rivals_that_would_take_hopelessly_long():
    def case(rows, macs):
        return types.SimpleNamespace(rows=rows, macs=macs)

    rates = schedule.Rates()
    rates.add("slow", case(1, 6e8), 1.5)
    rates.add("slow", case(1, 6e7), 1.5)  # the best rate counts
    assert rates.why_left_out("new", case(1, 1e12), 0.01) == ""
    assert rates.why_left_out("slow", case(1, 3.9e8), 0.001) == ""  # short
    assert rates.why_left_out("slow", case(1, 1e10), 2.0) == ""  # we are slow, too
    assert rates.why_left_out("slow", case(1, 1e10), 0.1) == "left out: at least 25.0 s a call; its best so far: 0.4 GMAC/s"
    assert rates.why_left_out("slow", case(4, 1.6e10), 0.6) == ""  # four times the rows: perhaps four times as fast
    assert rates.why_left_out("slow", case(64, 3.2e10), 0.4).startswith("left out: at least 10.0 s")  # but never 64 times
    assert rates.why_left_out("slow", case(64, 0), 0.1) == ""  # quantisation has no multiply-adds


def test_bench_a_hard_limit_ends_the_list_soon_after():
    least, seconds = simulated(cases.quick_cases, 60, True, 1)
    assert least == 0
    assert seconds < 90


def test_bench_only_keeps_the_cases_with_the_text(tmp_path):
    file = tmp_path / "one.json"
    command = [sys.executable, BENCH / "ops_bench.py", "--smoke", "--process", "best", "--repeats", "1",
               "--only", "per channel", "--json", file]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert {m["case"] for m in plot.load(file)} == {"A int4 per channel, 6 x 256 x 256, 16 rows"}


def test_bench_packing_counts_clearing_of_fresh_memory_and_copies_of_used(tmp_path):
    file = tmp_path / "packing.json"
    command = [sys.executable, BENCH / "ops_bench.py", "--smoke", "--process", "best", "--operators", "quant", "--repeats", "1",
               "--extras", "packing", "--json", file]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    packed = [m for m in plot.load(file) if m["operator"] == "pack"]
    fresh = [m for m in packed if "used memory" not in m["case"]]
    assert len(fresh) == 15
    assert all(m["exact"] is True and m["roof_share"] > 0 for m in packed)
    assert all(m["share_with_clearing"] > m["roof_share"] for m in fresh)
    assert all(m["copy_share"] is None for m in fresh)
    used = [m for m in packed if m not in fresh]
    assert all(m["share_with_clearing"] is None and m["copy_share"] > 0 for m in used)


class Calls:
    """A candidate of take_turns, and a roof, that write down who was called."""

    def __init__(self, told, name, ours=False, wanted=9):
        self.told, self.name, self.ours, self.wanted, self.kind, self.roofs = told, name, ours, wanted, "loop", []

    def once(self, tokens):
        self.told.append(self.name)

    def read(self):
        self.told.append("read")
        return float(self.told.count("read"))

    def multiply(self, kind):
        self.told.append(kind)
        return 100.0


def test_bench_cold_calls_of_ours_stand_between_roofs():
    told = []
    ours, rival = Calls(told, "ours", ours=True), Calls(told, "rival", wanted=1)
    worker.take_turns([ours, rival], None, Calls(told, "roof"), True, 2)
    assert told == ["read", "ours", "read", "loop", "rival", "read", "ours", "read", "loop"]
    assert ours.roofs == [(1.5, 100.0), (3.5, 100.0)]
    assert rival.roofs == []


def test_bench_warm_calls_have_their_roofs_after_the_turn():
    told = []
    ours, rival = Calls(told, "ours", ours=True), Calls(told, "rival")
    worker.take_turns([ours, rival], None, Calls(told, "roof"), False, 2)
    assert told == ["ours", "rival", "read", "loop", "rival", "ours", "read", "loop"]
    assert ours.roofs == [(1.0, 100.0), (2.0, 100.0)]


def test_bench_an_only_that_fits_nothing_is_refused():
    result = subprocess.run([sys.executable, BENCH / "ops_bench.py", "--smoke", "--only", "no such case"],
                            capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "no case" in result.stderr


class Given:
    """Tokens and weights of one expert, small enough to be multiplied here."""

    def __init__(self, seed=7, rows=5, k=8, h=6):
        draw = torch.Generator().manual_seed(seed)
        self.x = torch.randint(-9, 9, (rows, k), generator=draw)
        self.weight = torch.randint(-9, 9, (1, k, 2 * h), generator=draw)
        self.scale = torch.full((1, 2 * h), 0.25)
        self.h = h

    def groups(self):
        return [(0, 0, len(self.x))]

    def integers(self, expert):
        return self.weight[expert]

    def layer(self, scale):
        sums = self.x.double() @ self.weight[0].double() * scale
        gate, up = sums[:, :self.h], sums[:, self.h:]
        return gate / (1 + torch.exp(-gate)) * up @ self.weight[0, :, :self.h].double().t()


@pytest.mark.parametrize(("scaled", "scale"), [(True, 0.25), (False, 1.0)])
def test_bench_a_layer_s_error_is_its_distance(scaled, scale):
    given = Given()
    right = given.layer(scale)
    assert float(judge.layer_error(Given(), given, right / 64, scaled).split()[1].rstrip(":")) < 1e-12
    noise = torch.randn(right.shape, generator=torch.Generator().manual_seed(8)).double()
    noise *= 0.02 * right.norm() / noise.norm()
    assert float(judge.layer_error(Given(), given, right + noise, scaled).split()[1].rstrip(":")) == pytest.approx(0.02, 0.1)


def test_bench_a_layer_that_is_another_is_wrong():
    given = Given()
    right = given.layer(0.25)
    for wrong in (right.flip(0), right.flip(1), torch.zeros_like(right), right * torch.nan, torch.randn(right.shape)):
        assert judge.layer_error(Given(), given, wrong, True) is False


def test_bench_every_kernel_has_the_roof_of_its_instruction():
    words = {"avx2_wide_unpacked": "vpmaddwd", "avx2_quads": "quads", "avx2_pairs": "pairs", "avx2_int4": "vpmaddubsw",
             "avx2_float": "vfmadd", "avx2_wide_pair": "vpmaddwd", "avx2_quads_pair": "quads",
             "avx512vnni_int8": "vpdpbusd512", "avx512vnni_float": "vfmadd512",
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


def test_bench_tells_what_cores_take_in(measurements):
    assert all(m["clock_ghz"] > 0.3 and 0.3 < m["issue_per_cycle"] < 20 for m in measurements)
    told = [measurements[0] | {"issue_per_cycle": issue, "clock_ghz": clock}
            for issue, clock in ((6.0, 4.0), (2.9, 3.5), (4.0, 3.0))]
    assert markdown.roofs(told).endswith("Cores: 3.5 GHz, instructions that do nothing, per cycle: 2.9 to 6.0, median 4.0.")
    assert "Cores" not in markdown.roofs([m | {"issue_per_cycle": None} for m in told])  # of files from before


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


def test_bench_table_says_where_a_rival_was_called_seldom(measurements):
    own, rivals = next(markdown.cases(measurements))
    rival = min((m for m in rivals if m["exact"] is True), key=lambda m: m["seconds"])
    for calls, said in ((3, True), (4, True), (5, False), (9, False)):
        assert (f"({calls} calls)" in markdown.against(own, [rival | {"repeats": calls}])[1]) == said


def test_bench_colours_are_as_many_as_implementations():
    names = ["qgmm 1 precision=strict", "qgmm 1 precision=fast", *(f"rival {i}" for i in range(12))]
    colours = plot.palette([{"implementation": name} for name in names])
    assert list(colours) == names
    assert len(set(colours.values())) == len(names)


def test_bench_drawings_are_written(measurements, tmp_path):
    pytest.importorskip("matplotlib")
    plot.draw(measurements, tmp_path)
    names = {f"{name}_best.{ending}" for name in ("bars_down", "bars_quant", "roofline") for ending in ("png", "svg")}
    assert {path.name for path in tmp_path.iterdir()} == names
