"""The vocabulary of a benchmark: case, candidate, proof."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = tuple[Array, ...]
Limit = Literal["fma", "copy", ""]


def as_arrays(result: Any) -> Arrays:
    """Return `result` (an array of any library, or a nest of them) as a flat tuple of ndarrays."""
    if result is None:
        return ()
    if isinstance(result, tuple | list):
        return tuple(array for item in result for array in as_arrays(item))
    if hasattr(result, "detach"):
        result = result.detach()
    return (np.asarray(result),)


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
    """

    family: str
    name: str
    dtype: str
    prepare: Callable[[Sequence[str], int], Prepared]
    flops: float = 0.0
    nbytes: float = 0.0
    limit: Limit = ""


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


def prove(candidate: Candidate, prepared: Prepared) -> tuple[str | None, float]:
    """Compare a candidate's answer with the reference.

    Returns
    -------
    complaint : str or None
    worst : the largest error as a share of its bound (0 where both are 0)
    """
    got = candidate.answer() if candidate.answer else candidate.arrays(candidate.call())
    if candidate.check is not None:
        return candidate.check(got), 0.0
    return compare(got, prepared.expected, prepared.bounds)


def compare(got: Arrays, expected: Arrays, bounds: Sequence[Any]) -> tuple[str | None, float]:
    """Largest error of `got` as a share of the bound, and a complaint where it is over 1."""
    if len(got) != len(expected):
        return f"expected {len(expected)} arrays, got {len(got)}", np.inf
    worst = 0.0
    for i, (g, e, b) in enumerate(zip(got, expected, bounds, strict=True)):
        if g.shape != e.shape:
            return f"array {i}: expected shape {e.shape}, got {g.shape}", np.inf
        if not g.size:
            continue
        error = np.abs(np.subtract(g, e, dtype=np.float64))
        # 0/0 is an exact answer where an exact answer is asked for.
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(error == 0, 0.0, error / b)
        if not np.all(share <= 1):
            at = tuple(int(v) for v in np.unravel_index(np.argmax(~(share <= 1)), share.shape))
            bound = float(np.broadcast_to(b, e.shape)[at])
            return (
                f"array {i} at {at}: expected {float(e[at]):.9g}, got {float(g[at]):.9g}"
                f" (bound {bound:.3g})",
                float(np.max(share)),
            )
        worst = max(worst, float(np.max(share)))
    return None, worst


def unit_roundoff(dtype: str) -> float:
    """Half the machine epsilon of `dtype`."""
    return float(np.finfo(dtype).eps) / 2


def dot_bound(terms: int, dtype: str, *, factors: int = 2, deviations: float = 8.0) -> float:
    """Error bound of a sum of `terms` products of uniform numbers in [-1, 1].

    ``lambda * sqrt(terms) * u * sum |a||b|`` (Higham and Mary, "A new approach to probabilistic
    rounding error analysis", 2019, theorem 3.1, to first order), with the sum of magnitudes
    taken at its mean plus `deviations` standard deviations. `factors` is the number of random
    factors in a term: 1 for a plain sum, 2 for a dot product.
    """
    mean = 0.5**factors
    deviation = (3.0**-factors - mean**2) ** 0.5
    magnitude = terms * mean + deviations * deviation * terms**0.5
    return deviations * (terms + 1) ** 0.5 * unit_roundoff(dtype) * magnitude


def uniform(dtype: str, *shape: int, seed: int = 0) -> Array:
    """Uniform numbers in [-1, 1); the seed is mixed with the shape."""
    rng = np.random.default_rng([seed, *shape])
    return rng.uniform(-1, 1, shape).astype(dtype)


@functools.cache
def reference() -> Any:
    """The module of reference functions."""
    import arraynn.reference

    return arraynn.reference


@functools.cache
def kernels() -> Any:
    """The module of compiled kernels."""
    import arraynn.kernels

    return arraynn.kernels
