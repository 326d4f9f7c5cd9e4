# SPDX-License-Identifier: Apache-2.0
"""One measurement as a JSON object: every object has every field, null where it has no meaning."""
import json
import os

import torch
from machine import cpu_name

import qgmm

FIELDS = ("operator", "case", "machine", "isa", "experts", "k", "n", "rows_per_expert", "groups", "distribution", "weights",
          "slice", "threads", "implementation", "kernel", "fused", "gmac_per_s", "best_gmac_per_s", "gbyte_per_s",
          "roof_share", "roof", "exact", "repeats",
          # beyond what comparisons need
          "process", "model", "active", "offset", "cold", "seconds", "roof_read_gbyte_per_s", "roof_multiply_gmac_per_s",
          "roof_instruction", "share_with_clearing", "copy_share", "clock_ghz", "issue_per_cycle")


_events = None


def take_standard_output():
    """Standard output becomes the events' alone: what rivals print there goes nowhere."""
    global _events
    _events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def say(**fields):
    """One event for the parent process, on a line of standard output."""
    print(json.dumps(fields), flush=True, file=_events)


def measured(**given):
    unknown = set(given) - set(FIELDS)
    assert not unknown, unknown
    fields = dict.fromkeys(FIELDS) | dict(machine=cpu_name(), isa=qgmm.machine()["isa"], threads=torch.get_num_threads())
    say(event="measured", **(fields | given))
