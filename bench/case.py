"""The vocabulary of a benchmark: case, candidate, proof."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from arraynn._proof import Array, Arrays, compare, distinct, dot_bound, uniform, unit_roundoff

__all__ = [
    "HALVES",
    "Array",
    "Arrays",
    "Candidate",
    "Case",
    "Limit",
    "Prepared",
    "as_arrays",
    "collect",
    "compare",
    "distinct",
    "dot_bound",
    "first_line",
    "kernels",
    "prove",
    "reference",
    "uniform",
    "unit_roundoff",
]

Limit = Literal["fma", "copy", "read", ""]

#: Units of the last place of 1 in the dtypes of 16 bits, which are computed in float32.
HALVES = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


def as_arrays(result: Any) -> Arrays:
    """Return `result` (an array of any library, or a nest of them) as a flat tuple of ndarrays."""
    if result is None:
        return ()
    if isinstance(result, tuple | list):
        return tuple(array for item in result for array in as_arrays(item))
    if hasattr(result, "detach"):
        result = result.detach()
        if str(result.dtype) == "torch.bfloat16":  # which it does not give to NumPy
            result = result.float()
    return (np.asarray(result),)


#: The "library" that is our own kernel without the option of a case: what the option costs.
PLAIN = "plain"


@dataclass(frozen=True)
class Candidate:
    """One library doing the work of a case in one way.

    Attributes
    ----------
    library : "arraynn", "numpy", "torch", "jax" or "onnxruntime"
    call : the timed function, without arguments
    variant : what tells it from the library's other candidates, such as a memory layout
    group : candidates are compared within a group ("fresh" and "reused" outputs, for example)
    arrays : turns the result of `call` into arrays comparable with the reference
    answer : computes those arrays itself where one `call` does not give them
    check : replaces the comparison with the reference; returns a complaint or None
    self_timed : `call` returns the seconds to record
    nbytes : bytes moved, where they differ from the case's
    kept : bytes that a forward call keeps for its backward call, beside its arguments and result;
        in `bench.memory` those that the process grows by
    """

    library: str
    call: Callable[[], Any]
    variant: str = ""
    group: str = ""
    arrays: Callable[[Any], Arrays] = as_arrays
    answer: Callable[[], Arrays] | None = None
    check: Callable[[Arrays], str | None] | None = None
    self_timed: bool = False
    nbytes: float | None = None
    kept: int | None = None

    @property
    def label(self) -> str:
        """Library and variant in one word."""
        return f"{self.library}:{self.variant}" if self.variant else self.library


@dataclass(frozen=True)
class Prepared:
    """A case with its data in memory.

    Attributes
    ----------
    candidates : who takes part
    expected : the reference's answer
    bounds : the error allowed for each array of `expected`, a scalar or of its shape
    """

    candidates: Sequence[Candidate]
    expected: Arrays
    bounds: Sequence[Any]


@dataclass(frozen=True)
class Case:
    """One problem of one family.

    Attributes
    ----------
    family, name, dtype : what is measured
    prepare : ``prepare(libraries, threads)`` makes the data and the candidates
    flops, nbytes : work and traffic of one call, 0 where the number has no meaning
    limit : which limit of the machine the case is held against
    part : of the family, with geometric means of its own
    """

    family: str
    name: str
    dtype: str
    prepare: Callable[[Sequence[str], int], Prepared]
    flops: float = 0.0
    nbytes: float = 0.0
    limit: Limit = ""
    part: str = ""


Runner = Callable[..., list[Candidate]]


def collect(runners: Mapping[str, Runner], libraries: Sequence[str], *args: Any) -> list[Candidate]:
    """Candidates of every library in `libraries` that has a runner.

    A peer that cannot do the problem (an operator it lacks for the dtype) is left out with a
    line on stderr; an error of ours is raised.
    """
    found = []
    for name in libraries:
        if name not in runners:
            continue
        try:
            found += runners[name](*args)
        except Exception as error:
            if name == "arraynn":
                raise
            print(f"bench: {name} left out: {first_line(error)}", file=sys.stderr)
    return found


def first_line(error: BaseException) -> str:
    """The error's type and the first line of its message."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def stored_bounds(prepared: Prepared, dtype: str, peer: bool) -> Sequence[Any]:
    """The bounds, with the rounding of every result to the dtype it is stored in.

    Of a peer in 16 bits, which may round in between as well, it is asked that it does the same
    problem: within `eps` of the largest number.
    """
    if dtype not in HALVES:
        return prepared.bounds
    eps = HALVES[dtype]
    least = 2.0**-25 if dtype == "float16" else 0.0  # half of a denormal
    found = []
    for expected, bound in zip(prepared.expected, prepared.bounds, strict=True):
        size = np.abs(expected)
        most = np.max(size, initial=0.0) if peer else size / 2
        found.append(bound + (most + bound) * eps + least)
    return found


def prove(
    candidate: Candidate, prepared: Prepared, dtype: str = "float32"
) -> tuple[str | None, float]:
    """Compare a candidate's answer with the reference.

    Returns
    -------
    complaint : str or None
    worst : the largest error as a share of its bound (0 where both are 0)
    """
    got = candidate.answer() if candidate.answer else candidate.arrays(candidate.call())
    if candidate.check is not None:
        return candidate.check(got), 0.0
    peer = candidate.library != "arraynn"
    return compare(got, prepared.expected, stored_bounds(prepared, dtype, peer))


class _NoAnswer:
    """In place of the reference where no answer is asked for."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


# Set in a process that measures memory, which the reference's own would hide.
answerless = False


def reference() -> Any:
    """The module of reference functions."""
    import arraynn.reference

    return _NoAnswer() if answerless else arraynn.reference


@functools.cache
def kernels() -> Any:
    """The module of compiled kernels."""
    import arraynn.kernels

    return arraynn.kernels
