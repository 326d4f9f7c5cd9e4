# SPDX-License-Identifier: Apache-2.0
"""A machine without the cross compiler, or without SIMDe: ./run test says in its closing table what it left out and why, and
does not fail for it."""
import os
import platform

import arm
import checkout
import emulation
import pytest
import rows
import steps
import suites

from conftest import ROOT

NEON = [f"{isa}_int8" for isa in arm.ISAS]


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """An x86 with an empty PATH and nothing built; the session of a run in which one test passed."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("QGMM_NO_SYSTEM_PACKAGES", raising=False)
    monkeypatch.delenv("QGMM_EMULATE_ALL", raising=False)
    (tmp_path / "bin").mkdir()
    for module in (checkout, steps):
        monkeypatch.setattr(module, "STATE", tmp_path)
    for module in (emulation, suites):
        monkeypatch.setattr(module, "BUILD", tmp_path / "build")
    monkeypatch.setattr(steps, "LOGS", tmp_path)
    monkeypatch.setattr(steps, "ROOT", tmp_path)
    monkeypatch.setattr(rows, "TABLE", ROOT / "src/cpu/kernels.inc")
    monkeypatch.setattr(arm, "build", lambda *words, **more: pytest.fail("nothing may be built"))
    session = suites.Session()
    session.suites.append(suites.Suite("C++ tests", passed=1))
    session.show_rows = True
    return session


def program(folder, name, text):
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def closing(session, capsys):
    """(lines that say "not run", row of the kernel table -> its line); the run has passed."""
    assert session.close() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "1 passed, 0 failed"
    return [line for line in lines if line.startswith("not run")], {line.split()[0]: line for line in lines if line.split()}


def expect_no_arm(bare, capsys, words):
    arm.Arm().run(bare)
    notes, table = closing(bare, capsys)
    assert len(notes) == 1
    assert notes[0].startswith("not run: 64-bit Arm under qemu: g++-aarch64-linux-gnu, qemu-user")
    assert words in notes[0]
    for row in NEON:
        assert "not run: g++-aarch64-linux-gnu, qemu-user" in table[row], row
        assert words in table[row], row


def test_no_cross_compiler_and_no_apt(bare, capsys):
    expect_no_arm(bare, capsys, "must be installed")


def test_no_cross_compiler_and_packages_are_forbidden(bare, tmp_path, capsys, monkeypatch):
    program(tmp_path / "bin", "apt-get", "touch \"$0.called\"")
    monkeypatch.setenv("QGMM_NO_SYSTEM_PACKAGES", "1")
    expect_no_arm(bare, capsys, "must be installed")
    assert not (tmp_path / "bin" / "apt-get.called").exists()


def test_no_cross_compiler_and_an_apt_that_fails(bare, tmp_path, capsys, monkeypatch):
    program(tmp_path / "bin", "apt-get", "echo 'E: Unable to locate package' >&2\nexit 100")
    program(tmp_path / "bin", "sudo", "shift\nexec \"$@\"")
    for name in ("env", "true"):
        os.symlink(f"/usr/bin/{name}", tmp_path / "bin" / name)
    expect_no_arm(bare, capsys, "could not be installed")


def test_no_cross_compiler_for_the_second_compiler(bare, capsys):
    arm.compile_by(None, bare)
    notes, _ = closing(bare, capsys)
    assert notes[0].startswith("not run: 64-bit Arm compiled by clang: g++-aarch64-linux-gnu, qemu-user")


def test_no_simde(bare, capsys):
    emulation.run(bare, ["scalar", "avx2", "avx512"])
    notes, table = closing(bare, capsys)
    reason = "the emulation was not built (it needs libsimde-dev and g++)"
    assert notes == [f"not run: avxvnni, avxvnniint8, avx512vnni, amx emulated: {reason}"]
    for row in ("avxvnni_int8", "avxvnniint8_int8", "avx512vnni_int4", "amx_int8"):
        assert table[row].endswith(f"not run: {reason}"), row
    assert table["avx512_wide"].endswith("not run: no test multiplied by it"), "the machine's own is no matter of SIMDe"


def test_no_avx2_to_emulate_with(bare, tmp_path, capsys):
    binary = tmp_path / "build/release/tests/emulation/gemm_test_emulated"
    binary.parent.mkdir(parents=True)
    binary.write_text("")
    emulation.run(bare, ["scalar"])
    notes, _ = closing(bare, capsys)
    assert notes == ["not run: avxvnni, avxvnniint8, avx512, avx512vnni, amx emulated: emulated instructions need AVX2"]


def test_nothing_is_said_of_what_the_machine_has(bare, capsys):
    emulation.run(bare, ["scalar", *rows.X86])
    assert closing(bare, capsys)[0] == []
