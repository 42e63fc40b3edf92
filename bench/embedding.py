"""Rows of a table by random index, and the gradient of the table.

Traffic: the forward reads and writes the rows; the backward reads the gradient, reads and writes
a row for each, and clears the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from . import peers
from .case import Array, Candidate, Case, Prepared, collect, kernels, reference, uniform
from .case import unit_roundoff as roundoff

# (indices, rows, columns)
GRID = ((4096, 50257, 768), (65536, 256, 64), (512, 32000, 4096))
TINY = ((5, 4, 3),)


@dataclass(frozen=True)
class Problem:
    """`count` rows of a table of (rows, columns)."""

    count: int
    rows: int
    columns: int
    backward: bool
    dtype: str

    @property
    def name(self) -> str:
        """Name in tables."""
        way = "embedding_backward" if self.backward else "embedding"
        return f"{way} {self.count} of {self.rows}x{self.columns}"


@dataclass(frozen=True)
class Data:
    """The table, or the gradient of what was looked up; and the indices."""

    values: Array
    indices: Array


def _calls(module: Any, p: Problem, d: Data) -> Any:
    if p.backward:
        return partial(module.embedding_backward, d.values, d.indices, p.rows)
    return partial(module.embedding, d.indices, d.values)


def run_arraynn(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """Our kernels, into a fresh and a reused output."""
    del threads
    call = _calls(kernels(), p, d)
    found = [Candidate("arraynn", call, group="fresh")]
    if not p.backward:
        out = np.empty((p.count, p.columns), p.dtype)
        found.append(Candidate("arraynn", partial(call, out=out), group="reused"))
    return found


def run_numpy(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """The plain NumPy reference."""
    del threads
    return [Candidate("numpy", _calls(reference(), p, d), group="fresh")]


def run_torch(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """PyTorch eager."""
    del threads
    torch = peers.load("torch")
    values, indices = torch.from_numpy(d.values), torch.from_numpy(d.indices)
    if p.backward:
        dense = torch.ops.aten.embedding_dense_backward
        call = partial(dense, values, indices, p.rows, -1, False)
    else:
        call = partial(torch.nn.functional.embedding, indices, values)
    return [Candidate("torch", call, group="fresh")]


RUNNERS = {"arraynn": run_arraynn, "numpy": run_numpy, "torch": run_torch}


def prepare(p: Problem, libraries: Sequence[str], threads: int) -> Prepared:
    """Make the data, the candidates and the reference answer of `p`."""
    indices = np.random.default_rng(1).integers(0, p.rows, p.count)
    values = uniform(p.dtype, p.count if p.backward else p.rows, p.columns, seed=2)
    data = Data(values, indices)
    bound: Any = 0.0
    if p.backward:
        # A row is a sum of its occurrences: 8 sqrt(k) roundings (Higham and Mary 2019) of numbers
        # that sum to at most k.
        terms = np.bincount(indices, minlength=p.rows)[:, None].astype(float)
        bound = 8 * roundoff(p.dtype) * terms**1.5
    wide = Data(values.astype(np.float64), indices)
    found = collect(RUNNERS, libraries, p, data, threads)
    return Prepared(found, (_calls(reference(), p, wide)(),), [bound])


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return the family's grid, or its tiny shapes."""
    item = np.dtype(dtype).itemsize
    problems = [
        Problem(*size, backward, dtype)
        for size in (TINY if tiny else GRID)
        for backward in (False, True)
    ]
    return [
        Case(
            "embedding",
            p.name,
            dtype,
            partial(prepare, p),
            0.0,
            float(item * p.columns * (3 * p.count + p.rows if p.backward else 2 * p.count)),
            "copy",
        )
        for p in problems
    ]
