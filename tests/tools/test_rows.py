# SPDX-License-Identifier: Apache-2.0
"""The table of kernel rows: names from the table's constants, counts from test reports, reasons for what did not run."""
import xml.etree.ElementTree as ElementTree

import pytest
import rows
import suites

INC = """
QGMM_KERNEL(kScalar, kScalarInt8)
QGMM_KERNEL(kAvx2, kAvx2WideUnpacked)  // words
QGMM_KERNEL(kAvx512Vnni, kAvx512VnniInt8)
QGMM_KERNEL(kNeonI8mm, kNeonI8mmInt4Zipped)
QGMM_STAGES(kAvx2, kAvx2Stages)
"""
REPORT = """<testsuites><testsuite name="Gemm">
<testcase name="A"><properties><property name="rows_native" value="scalar_int8,avx2_wide_unpacked"/></properties></testcase>
<testcase name="B"><properties><property name="rows_native" value="scalar_int8"/>
<property name="rows_emulated" value="avx512vnni_int8"/></properties></testcase>
<testcase name="C"><properties><property name="rows_native" value="avx2_wide_unpacked"/></properties>
<failure message="sad"/></testcase>
<testcase name="D"><skipped message="place&#10;not run: needs neoni8mm"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "TABLE", tmp_path / "kernels.inc")
    rows.TABLE.write_text(INC)
    (tmp_path / "report.xml").write_text(REPORT)
    return tmp_path


def test_names_follow_from_constants():
    assert rows.known(INC) == {"scalar_int8": "scalar", "avx2_wide_unpacked": "avx2", "avx512vnni_int8": "avx512vnni",
                               "neoni8mm_int4_zipped": "neoni8mm"}


def test_counts_come_from_reports_and_failures_are_no_passes(table):
    session = suites.Session()
    suite = suites.Suite("C++ tests")
    suites._read_junit(table / "report.xml", suite,
                       lambda test, failed: session.rows.count(test, failed=failed))
    session.rows.why_not["neoni8mm"] = "no qemu"
    assert (suite.passed, suite.failed, suite.not_run.total()) == (2, 1, 1)
    assert [line.split() for line in session.rows.lines()] == [
        ["kernel", "row", "native", "emulated"],
        ["scalar_int8", "2", "-"],
        ["avx2_wide_unpacked", "1", "-", "1", "FAILED"],
        ["avx512vnni_int8", "-", "1"],
        ["neoni8mm_int4_zipped", "-", "-", "not", "run:", "no", "qemu"]]


def test_all_of_an_emulated_machine_is_emulated():
    ran = rows.RowsRan()
    for test in ElementTree.fromstring(REPORT).iter("testcase"):
        ran.count(test, failed=False, emulated=("scalar", "avx2"))
    assert ran.passed["emulated"]["scalar_int8"] == 2
    assert not ran.passed["native"]


def test_a_row_that_an_emulated_run_falls_back_to_is_emulated_too():
    """amx_int8 is tried, and blocks of few rows get avx512vnni_int8: of the same binary, so no instruction of the machine."""
    ran = rows.RowsRan()
    for test in ElementTree.fromstring(REPORT.replace("rows_emulated", "rows_native")).iter("testcase"):
        ran.count(test, failed=False, emulated=rows.X86[1:])
    assert ran.passed["emulated"] == {"avx512vnni_int8": 1}
    assert set(ran.passed["native"]) == {"scalar_int8", "avx2_wide_unpacked"}


def test_a_row_that_nothing_ran_says_so(table):
    assert rows.RowsRan().lines()[1].endswith("not run: no test multiplied by it")
