# SPDX-License-Identifier: Apache-2.0
"""Whether the system gave 2 MiB pages to a packed weight: 4 KiB pages cost about 20 % of decode."""

from __future__ import annotations

import re

import torch


def huge_share(tensor: torch.Tensor, smaps: str = "/proc/self/smaps") -> float | None:
    """The share of 2 MiB pages in the resident memory of the mappings that ``tensor`` lies in; None if nothing says.

    A mapping can hold more than the tensor; memory that was asked to have 2 MiB pages lies in one of its own."""
    first = tensor.data_ptr()
    last = first + tensor.numel() * tensor.element_size()
    resident = huge = 0
    inside = False
    try:
        with open(smaps, encoding="ascii", errors="replace") as file:
            for line in file:
                if range_ := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
                    inside = int(range_[1], 16) < last and first < int(range_[2], 16)
                elif inside and (field := re.match(r"(Rss|AnonHugePages): +(\d+) kB", line)):
                    if field[1] == "Rss":
                        resident += int(field[2])
                    else:
                        huge += int(field[2])
    except OSError:
        return None
    return huge / resident if resident else None
