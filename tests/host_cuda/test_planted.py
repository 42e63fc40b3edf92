"""Faults planted in the kernels of csrc: each shows under some schedule, and no other does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import library
import pytest
from planted import FAULTS, Fault

PROBLEMS = sorted({fault.problem for fault in FAULTS})


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return library.build_program("planted")
    except library.MissingTool as error:
        pytest.skip(f"the kernels cannot be compiled for the CPU: {error}")


def outcomes(program: Path, problem: str, number: int) -> list[str]:
    """Return "right", "wrong" or a report for every schedule."""
    command = [str(program), problem, str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.splitlines()


@pytest.mark.parametrize("problem", PROBLEMS)
def test_right_at_every_schedule(program: Path, problem: str) -> None:
    assert outcomes(program, problem, 0) == ["right"] * 8


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_caught(program: Path, fault: Fault) -> None:
    found = outcomes(program, fault.problem, FAULTS.index(fault) + 1)
    assert len(found) == 8
    assert set(found) != {"right"}
