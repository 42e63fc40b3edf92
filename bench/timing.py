"""Interleaved timing with the other libraries' threads asleep.

Libraries keep their pool threads spinning for milliseconds after a call (OpenMP, MKL, OpenBLAS).
With as many libraries as cores in one process that spinning is most of the noise. Each round
therefore visits every candidate in turn: wait until no other thread of the process runs, one
untimed call that wakes the candidate's own pool, then a burst of timed calls. Ratios are formed
within a round, so a slow second of the machine hits both sides. On a machine with other users a
visit also waits for the other processes to stop, and a burst that the scheduler interrupted, or
after which the cores were not at full speed, is taken again.
"""

from __future__ import annotations

import gc
import os
import resource
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Call = Callable[[], Any]


@dataclass(frozen=True)
class Settings:
    """How long to measure.

    Attributes
    ----------
    rounds : visits to each candidate
    burst_seconds : length of one burst of timed calls
    least_calls, most_calls : calls of one burst
    pause : shortest wait between two candidates, seconds
    patience : longest wait for other threads to sleep, seconds
    budget : seconds one candidate may take in all; slow ones get fewer rounds (3 at least)
    retakes : how often a disturbed burst is taken again; the least disturbed one counts
    """

    rounds: int = 15
    burst_seconds: float = 0.03
    least_calls: int = 3
    most_calls: int = 100
    pause: float = 0.01
    patience: float = 0.25
    budget: float = 4.0
    retakes: int = 6


QUICK = Settings(rounds=3, burst_seconds=0.005, least_calls=2, most_calls=10, budget=0.5, retakes=1)


@dataclass
class Samples:
    """Seconds per call of one candidate: one median per round, None where it sat out."""

    rounds: list[float | None] = field(default_factory=list)

    @property
    def taken(self) -> list[float]:
        """The rounds it took part in."""
        return [value for value in self.rounds if value is not None]

    @property
    def median(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.taken)

    def quantile(self, q: float) -> float:
        """Quantile over the rounds, linear between neighbours."""
        return quantile(self.taken, q)


def quantile(values: Sequence[float], q: float) -> float:
    """Return the `q` quantile of `values`, linear between neighbours.

    >>> quantile([1.0, 2.0, 3.0], 0.25)
    1.5
    """
    if not values:
        raise ValueError("[quantile] values: expected at least one, got none")
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def ratios(ours: Samples, peer: Samples) -> list[float]:
    """Peer's time over ours in every round that both took part in (above 1: ours is faster)."""
    pairs = zip(ours.rounds, peer.rounds, strict=False)
    return [p / o for o, p in pairs if o is not None and p is not None]


def busy_threads() -> int | None:
    """Threads of this process other than the caller that run now; None where unknown."""
    me = threading.get_native_id()
    running = 0
    try:
        for name in os.listdir("/proc/self/task"):
            if int(name) == me:
                continue
            with open(f"/proc/self/task/{name}/stat", "rb") as file:
                # The state follows the command name, which may itself hold ")" or spaces.
                running += file.read().rpartition(b") ")[2][:1] == b"R"
    except (OSError, ValueError):
        return None
    return running


def busy_system() -> int | None:
    """Runnable threads of the whole machine other than the caller; None where unknown."""
    try:
        with open("/proc/loadavg", encoding="ascii") as file:
            return int(file.read().split()[3].partition("/")[0]) - 1
    except (OSError, ValueError, IndexError):
        return None


def wait_for_quiet(pause: float, patience: float) -> None:
    """Sleep `pause` seconds, then until nothing else runs, `patience` seconds at most."""
    end = time.perf_counter() + patience
    time.sleep(pause)
    while time.perf_counter() < end and (busy_threads() or busy_system()):
        time.sleep(pause / 4)


def preemptions() -> int:
    """How often the scheduler has taken a core from this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def burst_plan(seconds: float, settings: Settings) -> tuple[int, int]:
    """Return (samples, calls per sample) for a call of `seconds`.

    Calls shorter than 20 us are timed in blocks, since reading the clock costs 0.05 us.
    """
    seconds = max(seconds, 1e-9)
    inner = max(1, min(1000, round(20e-6 / seconds)))
    samples = int(settings.burst_seconds / (seconds * inner))
    return max(settings.least_calls, min(settings.most_calls, samples)), inner


def burst(call: Call, samples: int, inner: int, self_timed: bool) -> float:
    """Median seconds per call over `samples` samples of `inner` calls."""
    if self_timed:
        return statistics.median(float(call()) for _ in range(samples))
    clock = time.perf_counter_ns
    taken = []
    for _ in range(samples):
        start = clock()
        for _ in range(inner):
            call()
        taken.append((clock() - start) / inner)
    return statistics.median(taken) * 1e-9


def visit(
    call: Call,
    plan: tuple[int, int],
    self_timed: bool,
    settings: Settings,
    full_speed: Callable[[], bool] | None = None,
) -> float:
    """Wait, wake the candidate, and time a burst that was disturbed as little as possible."""
    best, least = float("inf"), (True, 0)
    for _ in range(settings.retakes + 1):
        wait_for_quiet(settings.pause, settings.patience)
        if not self_timed:
            call()
        before = preemptions()
        seconds = burst(call, *plan, self_timed)
        switches = preemptions() - before
        slowed = full_speed is not None and not full_speed()
        if best == float("inf") or (slowed, switches) < least:
            best, least = seconds, (slowed, switches)
        # A long call is disturbed by something every time; its rounds average that out.
        if least == (False, 0) or seconds > settings.burst_seconds:
            break
    return best


def estimate(call: Call, self_timed: bool) -> float:
    """Seconds of one call: the faster of two."""
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        result = call()
        best = min(best, float(result) if self_timed else time.perf_counter() - start)
    return best


def measure(
    calls: Sequence[Call],
    settings: Settings,
    *,
    self_timed: Sequence[bool] | None = None,
    full_speed: Callable[[], bool] | None = None,
) -> list[Samples]:
    """Time `calls` interleaved.

    Parameters
    ----------
    calls : one function per candidate
    settings : how long to measure
    self_timed : which functions return their own seconds
    full_speed : whether the cores give their full rate now; None where it is not asked

    Returns
    -------
    list of Samples, one per candidate, all with the same number of rounds
    """
    own = list(self_timed or [False] * len(calls))
    plans, rounds = [], []
    for call, timed in zip(calls, own, strict=True):
        wait_for_quiet(settings.pause, settings.patience)
        seconds = estimate(call, timed)
        samples, inner = burst_plan(seconds, settings) if not timed else (1, 1)
        if seconds > settings.burst_seconds * 4:
            samples = 1
        length = seconds * (samples * inner + 1)
        plans.append((samples, inner))
        rounds.append(
            max(min(3, settings.rounds), min(settings.rounds, int(settings.budget / length)))
        )
    results = [Samples() for _ in calls]
    collecting = gc.isenabled()
    gc.disable()
    try:
        for r in range(max(rounds, default=0)):
            order = range(len(calls)) if r % 2 == 0 else range(len(calls) - 1, -1, -1)
            for i in order:
                if r >= rounds[i]:
                    results[i].rounds.append(None)
                    continue
                seconds = visit(calls[i], plans[i], own[i], settings, full_speed)
                results[i].rounds.append(seconds)
            gc.collect(0)
    finally:
        if collecting:
            gc.enable()
    return results
