# SPDX-License-Identifier: Apache-2.0
"""Seeds printed on failure, poisoned allocations, torch's threads, and the closing list of what did not run."""

import os
import zlib

import numpy as np
import pytest
import torch

# Under this setting torch fills what torch.empty returns with NaN or the largest integer, so an output that a kernel
# forgot to write cannot look like a result.
torch.use_deterministic_algorithms(True, warn_only=True)
torch.utils.deterministic.fill_uninitialized_memory = True


def seed_of(node):
    forced = os.environ.get("QGMM_TEST_SEED")
    return int(forced) if forced else zlib.crc32(node.nodeid.encode())


@pytest.fixture
def rng(request):
    return np.random.default_rng(seed_of(request.node))


@pytest.fixture(autouse=True)
def threads_restored():
    before, number = torch.get_num_threads(), os.environ.get("QGMM_NUM_THREADS")
    yield
    torch.set_num_threads(before)
    if number is None:
        os.environ.pop("QGMM_NUM_THREADS", None)
    else:
        os.environ["QGMM_NUM_THREADS"] = number


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed and "rng" in getattr(item, "fixturenames", ()):
        report.sections.append(("seed", f"QGMM_TEST_SEED={seed_of(item)} repeats this failure"))


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    terminalreporter.section("not run")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.write_line(
            f"not run: {report.nodeid}: {reason.removeprefix('Skipped: ').removeprefix('not run: ')}"
        )
