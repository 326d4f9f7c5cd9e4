# SPDX-License-Identifier: Apache-2.0
"""How often every case of a list can be repeated, and when the list will end."""
import time

FLOOR = 5  # timed calls of everybody, where time allows
LATE = 3  # of rivals when it does not; ours keep the floor
MOST_SECONDS = 5.0  # of timed calls of one case beyond the floor
# A rival is left out of a case if, at the best rate it showed before, a call took this many times as long as ours, and so long:
# torch's _int_mm reaches 0.4 GMAC/s on CPUs without VNNI, a call of the quick list 6 minutes.
HOPELESS, HOPELESS_SECONDS = 30, 1.0
SPENT_APART = 0.4  # seconds of a case that no call takes: verdicts, tokens
# Multiply-adds and bytes per second of one turn, all implementations one after the other, on two Zen 4 CPUs, and bytes of
# weights per second of setting them up. Only their ratios matter: what is measured corrects them.
COSTS = {("A", "int8"): (30e9, 2.0e9, 30e6), ("A", "int4"): (90e9, 6e9, 80e6), ("B", "int8"): (15e9, 3e9, 75e6),
         ("down", "int8"): (50e9, 3e9, 75e6), ("down", "int4"): (90e9, 6e9, 80e6), ("quant", "none"): (1e12, 0.5e9, 1e9)}


def kind(stack):
    return stack.operator, stack.weights


def turn_seconds(case):
    macs, moved, _ = COSTS[kind(case.stack)]
    return case.macs / macs + case.moved_bytes / moved + 0.002


def setup_seconds(stack):
    return stack.experts * stack.weight_bytes / COSTS[kind(stack)][2] + 0.1


class Pace:
    """Measured over predicted seconds, by kind of stack; of all kinds where a kind was not seen yet."""

    def __init__(self):
        self.seen = {}

    def add(self, of, predicted, measured):
        for key in (of, None):
            before = self.seen.get(key, (0.0, 0.0))
            self.seen[key] = before[0] + predicted, before[1] + measured

    def of(self, key):
        predicted, measured = self.seen.get(key) or self.seen.get(None) or (1.0, 1.0)
        return measured / predicted


class Rates:
    """The most multiply-adds per second that every rival has shown."""

    def __init__(self):
        self.best = {}

    def add(self, name, macs, seconds):
        self.best[name] = max(self.best.get(name, 0.0), macs / seconds)

    def why_left_out(self, name, macs, our_seconds):
        """A sentence where a call would take hopelessly long; empty if not, or nobody knows."""
        if not self.best.get(name):
            return ""
        seconds = macs / self.best[name]
        if seconds < max(HOPELESS_SECONDS, HOPELESS * our_seconds):
            return ""
        return f"left out: a call would take {seconds:.1f} s at {self.best[name] / 1e9:.1f} GMAC/s, its best so far"


class Schedule:
    """`limit`: seconds for the whole list, set-up included; 0: none. `hard`: rivals are left out when it is over, and are
    called less than LATE times when it draws near."""

    def __init__(self, cases, limit, hard, now=time.perf_counter):
        self.left, self.limit, self.hard, self.now = list(cases), limit, hard, now
        self.started, self.stack = now(), None
        self.turns, self.setups = Pace(), Pace()

    def over(self):
        return self.hard and bool(self.limit) and self.now() - self.started > self.limit

    def set_up(self, stack, seconds):
        self.stack = stack
        self.setups.add(kind(stack), setup_seconds(stack), seconds)

    def _needed(self, repeats, cases):
        """Seconds for cases and set-ups of their stacks; a first call comes on top of the repeats."""
        total, stack = 0.0, self.stack
        for case in cases:
            if case.stack != stack:
                stack = case.stack
                total += setup_seconds(stack) * self.setups.of(kind(stack))
            total += turn_seconds(case) * self.turns.of(kind(stack)) * (repeats + 1) + SPENT_APART
        return total

    def seconds_left(self):
        """Of the list, as it looks now."""
        return self._needed(FLOOR, self.left)

    def plan(self, first):
        """(fewest calls of rivals, seconds of timed calls) of the next case, whose first calls took `first` together."""
        case = self.left.pop(0)
        self.turns.add(kind(case.stack), turn_seconds(case), first)
        floor, spare = FLOOR, MOST_SECONDS
        if self.limit:
            time_left = self.limit - (self.now() - self.started)
            for floor in (FLOOR, LATE, 1):
                spare = time_left - floor * first - self._needed(floor, self.left)
                if spare >= 0 or (floor == LATE and not self.hard):
                    break
            spare = max(0.0, spare) / (len(self.left) + 1)
        return floor, floor * first + min(MOST_SECONDS, spare)
