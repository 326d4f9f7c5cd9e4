# SPDX-License-Identifier: Apache-2.0
"""What the benchmark needs to know about the processor, from the files Linux offers."""
import functools
import platform
import re


@functools.cache
def _cpuinfo():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def cpu_name():
    match = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return match.group(1) if match else platform.processor() or platform.machine()


def has_flag(flag):
    match = re.search(r"^flags\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return bool(match) and flag in match.group(1).split()


@functools.cache
def last_level_cache():
    """Bytes; 32 MiB where nothing says."""
    size = 0
    for index in range(5):
        try:
            with open(f"/sys/devices/system/cpu/cpu0/cache/index{index}/size", encoding="ascii") as file:
                text = file.read().strip()
        except OSError:
            continue
        size = max(size, int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[text[-1]])
    return size or 32 << 20
