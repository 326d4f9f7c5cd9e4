# SPDX-License-Identifier: Apache-2.0
"""How often every case of a list can be repeated, and when the list will end."""
import time

FLOOR = 5  # timed calls of everybody, where time allows
LATE = 3  # of rivals when it does not; ours keep the floor
MOST_SECONDS = 5.0  # of timed calls of one case beyond the floor
# A rival is left out of a case if a call would take this many times as long as ours, and so many seconds, at the best rate it
# showed before. More rows per expert are taken to raise that in proportion, up to so many times. torch's _int_mm reaches 0.4
# GMAC/s on CPUs without VNNI: calls of the quick list would take up to 6 minutes.
HOPELESS, HOPELESS_SECONDS, MOST_GROWTH = 20, 1.0, 8
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
    """Multiply-adds per second that every rival has shown, by rows per expert."""

    def __init__(self):
        self.seen = {}

    def add(self, name, case, seconds):
        self.seen.setdefault(name, []).append((case.rows, case.macs / seconds))

    def why_left_out(self, name, case, our_seconds):
        """A sentence where a call would take hopelessly long; empty if not, or nobody knows."""
        hoped = max((rate * min(MOST_GROWTH, max(1, case.rows / rows)) for rows, rate in self.seen.get(name, ())), default=0)
        if hoped == 0 or case.macs / hoped < max(HOPELESS_SECONDS, HOPELESS * our_seconds):
            return ""
        best = max(rate for _, rate in self.seen[name])
        return f"left out: at least {case.macs / hoped:.1f} s a call; its best so far: {best / 1e9:.1f} GMAC/s"


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
