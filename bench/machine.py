"""What the machine can do: the limits that measured rates are held against."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from . import peers


def cpu_name() -> str:
    """Name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith(("model name", "Model")):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """Commit of the checkout this file lies in, with "+changes" where it has any; or None."""
    here = Path(__file__).resolve().parent
    try:
        head = subprocess.run(
            ["git", "describe", "--always", "--dirty=+changes", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name],
            cwd=here,
            capture_output=True,
            timeout=10,
            check=False,
        ).returncode
    except (OSError, subprocess.SubprocessError):
        return None
    # An installed copy may lie inside somebody else's repository.
    return head if tracked == 0 else None


def describe() -> dict[str, Any]:
    """Processor, cores, versions and commit of this run."""
    from arraynn import _core

    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "isa": _core.isa(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": peers.versions(),
        "commit": commit(),
    }


def fma_rate(dtype: str, threads: int) -> float | None:
    """Fused multiply-add rate in FLOP/s, measured now: the best of three; None if unknown."""
    return _best_of_three("measure_fma_rate", dtype, threads)


class FullSpeed:
    """Whether the cores give their full rate now.

    On a virtual machine a core may be one of two threads that share a physical core with another
    guest; it then loses a third of its rate for a second or so, which no count of the system shows.

    Parameters
    ----------
    threads : cores that must all be at full rate

    Notes
    -----
    The best rate seen in this process stands for the full one. A call takes 3 ms.
    """

    # Rates come in two kinds here, 0.97 to 1.00 and below 0.75 of the best.
    share = 0.93

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.best = fma_rate("float32", threads) or 0.0

    def __call__(self) -> bool:
        from arraynn import _core

        rate = _core.measure_fma_rate("float32", self.threads, 2)
        self.best = max(self.best, rate)
        return rate >= self.share * self.best


@functools.cache
def copy_bandwidth(size: int, threads: int) -> float | None:
    """Read plus write bytes per second of a copy that moves `size` bytes; None if unknown."""
    # The kernel's argument is the length of one buffer; a copy reads one and writes another.
    return _best_of_three("measure_copy_bandwidth", max(1, size // 2), threads)


@functools.cache
def read_bandwidth(size: int, threads: int) -> float | None:
    """Bytes per second of adding up `size` bytes; None if unknown."""
    return _best_of_three("measure_read_bandwidth", max(64, size), threads)


def _best_of_three(name: str, *args: Any) -> float | None:
    from arraynn import _core

    function = getattr(_core, name, None)
    if function is None:
        return None
    return max(float(function(*args)) for _ in range(3))
