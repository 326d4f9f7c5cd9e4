# SPDX-License-Identifier: Apache-2.0
"""Runs test suites and keeps what they report: counts, seconds, failures, and what did not run and why."""
import re
import shutil
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from checkout import BUILD, ROOT, STATE, VENV_PYTHON, child_environment
from rows import RowsRan
from steps import show

RESULTS = STATE / "results"


@dataclass
class Suite:
    name: str
    passed: int = 0
    failed: int = 0
    seconds: float = 0.0
    not_run: Counter = field(default_factory=Counter)  # reason -> how many


class Session:
    """One ./run test or ./run sanitize: suites in the order they ran, and the closing table."""

    def __init__(self):
        self.suites: list[Suite] = []
        self.notes: list[str] = []  # what this machine or setting leaves out altogether
        self.rows = RowsRan()
        self.show_rows = False  # the table of kernel rows

    def ctest(self, name: str, preset: str, *, label: str = "", without: str = "", wrapper: tuple[str, ...] = (),
              emulated: tuple[str, ...] = (), **environment: str) -> None:
        """Every binary of build/<preset>, or those with a label, or without one. `emulated`: the ISAs made of software."""
        results = self._results(name)
        command = [*wrapper, "ctest", "--test-dir", BUILD / preset, "--output-on-failure", "--no-tests=error"]
        if label:
            command += ["--label-regex", f"^{label}$"]
        if without:
            command += ["--label-exclude", f"^{without}$"]
        suite = self._show(name, command, child_environment(GTEST_OUTPUT=f"xml:{results}/", **environment))
        for report in sorted(results.glob("*.xml")):
            _read_junit(report, suite, lambda test, failed: self.rows.count(test, failed=failed, emulated=emulated))
        crashed = _ctest_failures(BUILD / preset)
        if suite.status != 0 and suite.failed == 0:  # a binary that died has written no report
            suite.failed = max(1, crashed)

    def pytest(self, name: str, arguments: list, **environment: str) -> None:
        report = self._results(name) / "report.xml"
        command = [VENV_PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml", report, *arguments]
        suite = self._show(name, command, child_environment(PYTHONDONTWRITEBYTECODE="1", **environment))
        if report.exists():
            _read_junit(report, suite)
        if suite.status != 0 and suite.failed == 0:
            suite.failed = 1

    def check(self, name: str, command: list) -> None:
        """A command that counts as one test."""
        suite = self._show(name, command, child_environment())
        suite.passed, suite.failed = int(suite.status == 0), int(suite.status != 0)

    def _results(self, name: str) -> Path:
        folder = RESULTS / name.replace(" ", "_").replace("/", "_")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _show(self, name: str, command: list, env: dict) -> Suite:
        print(f"\n== {name}", flush=True)
        suite = Suite(name)
        self.suites.append(suite)
        start = time.monotonic()
        suite.status = show(command, cwd=ROOT, env=env)
        suite.seconds = time.monotonic() - start
        return suite

    def close(self) -> int:
        """The table, what did not run, the plain closing line; the exit status."""
        width = max([len(suite.name) for suite in self.suites] + [5])
        print(f"\n{'suite':<{width}}  passed  failed  not run  seconds")
        for suite in self.suites:
            counts = f"{suite.passed:6}  {suite.failed:6}  {suite.not_run.total():7}"
            print(f"{suite.name:<{width}}  {counts}  {suite.seconds:7.1f}")
        reasons = [f"{suite.name}: {reason}" + (f" ({count} tests)" if count > 1 else "")
                   for suite in self.suites for reason, count in sorted(_by_isa(suite.not_run).items())]
        for line in [*self.notes, *reasons]:
            print(f"not run: {line}")
        if self.show_rows:
            print("\n" + "\n".join(self.rows.lines()))
        passed = sum(suite.passed for suite in self.suites)
        failed = sum(suite.failed for suite in self.suites)
        skipped = sum(suite.not_run.total() for suite in self.suites)
        print(f"\n{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""), flush=True)
        return 1 if failed or not passed else 0


def _by_isa(not_run: Counter) -> Counter:
    """Kernel rows and stages that a run's instruction set leaves out, dozens of reasons, as one: the table of rows says what
    ran elsewhere."""
    merged = Counter()
    for reason, count in not_run.items():
        row = re.fullmatch(r"\w+ (needs \w+(, this run has \w+)?|stages, this run has \w+)", reason)
        merged["rows and stages of other instruction sets" if row else reason] += count
    return merged


def _ctest_failures(folder: Path) -> int:
    log = folder / "Testing" / "Temporary" / "LastTestsFailed.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def _read_junit(report: Path, suite: Suite, each: Callable = lambda test, failed: None) -> None:
    """Of pytest and of GoogleTest."""
    for test in ElementTree.parse(report).iter("testcase"):
        if test.get("status") == "notrun":  # GoogleTest: filtered out or disabled
            continue
        failed = test.find("failure") is not None or test.find("error") is not None
        each(test, failed)
        skipped = test.find("skipped")
        if skipped is not None:
            reason = skipped.get("message", "").strip().splitlines()  # GoogleTest: the place, then the words
            suite.not_run[reason[-1].removeprefix("not run: ") if reason else "no reason given"] += 1
        elif failed:
            suite.failed += 1
        else:
            suite.passed += 1
