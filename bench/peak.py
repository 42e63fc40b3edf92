"""Memory that a call takes: the growth of a process' peak, measured in a process of its own.

A child makes the data and one candidate, runs a tiny problem of the same family first (pools of
threads, code that is compiled once), resets the peak that the kernel keeps for it, and runs the
candidate's first calls. What the peak then exceeds the memory in use before is the call's: its
result, its scratch and whatever the library keeps. A reference answer is made there only where the
data need it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import case as case_module
from . import peers
from .case import Candidate, Case, first_line

# JAX compiles in its first call, which would be most of what is seen.
LIBRARIES = ("arraynn", "numpy", "torch", "onnxruntime")
_CALLS = 2


def status_bytes(key: str) -> int:
    """Return a size of /proc/self/status, such as that of "VmRSS"."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == key:
            return int(rest.split()[0]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def growth_of(call: Callable[[], Any], calls: int = _CALLS) -> tuple[int, Any]:
    """Bytes by which some calls raise the peak of this process, and the last result.

    Memory that was freed before goes back to the system first, or it would be used unseen.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = status_bytes("VmRSS")
    result = None
    for _ in range(calls):
        result = None  # lives no longer than the next call begins
        result = call()
    return max(0, status_bytes("VmHWM") - before), result


def candidates_of(case: Case, library: str, threads: int) -> Sequence[Candidate]:
    """Candidates of one library, without a reference answer where they can be made without."""
    case_module.answerless = True
    try:
        return case.prepare([library], threads).candidates
    except Exception:  # their data are made of answers, such as indices or a state
        case_module.answerless = False
        return case.prepare([library], threads).candidates


def measure_here(case: Case, tiny: Case, library: str, index: int, threads: int) -> int:
    """Measure candidate `index` of `library` in this process, which does nothing else."""
    peers.set_threads([library], threads)
    for candidate in candidates_of(tiny, library, threads):
        candidate.call()
    return growth_of(candidates_of(case, library, threads)[index].call)[0]


def peaks_of(
    args: argparse.Namespace, case: Case, candidates: Sequence[Candidate], threads: int
) -> list[int | None]:
    """Peak growth of every candidate of a case, each in a process of its own; None if unknown."""
    seen: dict[str, int] = {}
    found: list[int | None] = []
    for candidate in candidates:
        index = seen.setdefault(candidate.library, 0)
        seen[candidate.library] += 1
        if candidate.library not in LIBRARIES or candidate.self_timed:
            found.append(None)
            continue
        command = [sys.executable, "-m", __package__ or "bench", case.family, "--in-process"]
        command += [
            "--threads",
            str(threads),
            "--dtype",
            args.dtype,
            "--filter",
            re.escape(case.name),
        ]
        command += ["--tiny"] if args.tiny else []
        command += ["--memory-of", f"{candidate.library}:{index}"]
        found.append(_child(command, f"{case.name}: {candidate.label}"))
    return found


def _child(command: list[str], what: str) -> int | None:
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    words = done.stdout.split()
    if done.returncode == 0 and words:
        return int(words[-1])
    print(f"bench: no memory of {what}: {done.stderr.strip()[-200:]}", file=sys.stderr)
    return None


def run_child(
    cases: Sequence[Case], tiny: Case, spec: str, name: re.Pattern[str], threads: int
) -> int:
    """Print the bytes of candidate "LIBRARY:INDEX" of the case whose whole name `name` matches."""
    library, _, index = spec.partition(":")
    try:
        (case,) = [case for case in cases if name.fullmatch(case.name)]
        print(measure_here(case, tiny, library, int(index), threads))
    except Exception as error:
        print(first_line(error), file=sys.stderr)
        return 1
    return 0
