"""A fault of planted.py."""

from __future__ import annotations

from dataclasses import dataclass

BARRIER = "__syncthreads();"


@dataclass(frozen=True)
class Fault:
    """A change of one file; PLANTED in `wrong` is whether the fault is wanted."""

    name: str
    problem: str  # of planted.cpp
    file: str
    right: str
    wrong: str


def no_barrier(name: str, problem: str, file: str, around: str) -> Fault:
    """Remove the first barrier in a text that tells which one it is."""
    return Fault(
        name, problem, file, around, around.replace(BARRIER, f"if (!PLANTED) {BARRIER}", 1)
    )
