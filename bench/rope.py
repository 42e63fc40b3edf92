"""Rotary embedding of the queries of a layer, forward and backward.

Traffic: every element read and written once; the angles are small beside them.
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

# (batch, heads, length, dim), turned elements, neighbours instead of halves, layout
GRID = (
    ((4, 32, 1024, 128), 128, False, "bhld"),
    ((4, 1024, 32, 128), 128, False, "blhd"),
    ((4, 32, 1024, 128), 128, True, "bhld"),
    ((4, 1024, 12, 64), 64, False, "blhd"),
    ((4, 32, 1024, 80), 32, False, "bhld"),
    ((8, 32, 1, 128), 128, False, "bhld"),
)
TINY = (((2, 3, 5, 8), 6, False, "bhld"), ((2, 5, 3, 8), 8, True, "blhd"))


@dataclass(frozen=True)
class Problem:
    """Vectors of one layer."""

    shape: tuple[int, int, int, int]
    turned: int
    interleaved: bool
    layout: str
    backward: bool
    dtype: str

    @property
    def name(self) -> str:
        """Name in tables."""
        way = "rope bwd" if self.backward else "rope"
        pairs = " interleaved" if self.interleaved else ""
        sizes = "x".join(map(str, self.shape))
        return f"{way} {sizes} {self.layout} {self.turned} turned{pairs}"

    @property
    def length(self) -> int:
        """Positions."""
        return self.shape[2 if self.layout == "bhld" else 1]


@dataclass(frozen=True)
class Data:
    """The vectors and the angles of their positions."""

    x: Array
    cos: Array
    sin: Array


def _call(module: Any, p: Problem, d: Data) -> Any:
    function = module.rope_backward if p.backward else module.rope
    return partial(function, d.x, d.cos, d.sin, interleaved=p.interleaved, layout=p.layout)


def run_arraynn(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """Our kernels, into a fresh and a reused output."""
    del threads
    call = _call(kernels(), p, d)
    out = np.empty_like(d.x)
    return [
        Candidate("arraynn", call, group="fresh"),
        Candidate("arraynn", partial(call, out=out), group="reused"),
    ]


def run_numpy(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """The plain NumPy reference."""
    del threads
    return [Candidate("numpy", _call(reference(), p, d), group="fresh")]


def _formula(p: Problem, stack: Any, join: Any, x: Any, cos: Any, sin: Any) -> Any:
    """The rotation in the operators of a framework."""
    turned, rest = x[..., : p.turned], x[..., p.turned :]
    if p.interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        y = stack((a * cos - b * sin, b * cos + a * sin), -1).reshape(turned.shape)
    else:
        a, b = turned[..., : p.turned // 2], turned[..., p.turned // 2 :]
        y = join((a * cos - b * sin, b * cos + a * sin), -1)
    return y if p.turned == x.shape[-1] else join((y, rest), -1)


def _broadcast(p: Problem, table: Array) -> Array:
    return table[:, None] if p.layout == "blhd" else table


def run_torch(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """PyTorch eager, in its own operators: it has none for this."""
    del threads
    torch = peers.load("torch")
    cos, sin = (torch.from_numpy(_broadcast(p, t)) for t in (d.cos, d.sin))
    x = torch.from_numpy(d.x)
    call = partial(_formula, p, torch.stack, torch.cat, x, cos, -sin if p.backward else sin)
    return [Candidate("torch", call, group="fresh")]


def run_jax(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """JAX, jitted."""
    del threads
    jax = peers.load("jax")
    np_ = jax.numpy
    cos, sin = (np_.asarray(_broadcast(p, t)) for t in (d.cos, d.sin))
    x = np_.asarray(d.x)
    function = jax.jit(partial(_formula, p, np_.stack, np_.concatenate))
    sin = -sin if p.backward else sin
    return [Candidate("jax", lambda: function(x, cos, sin).block_until_ready(), group="fresh")]


RUNNERS = {"arraynn": run_arraynn, "numpy": run_numpy, "torch": run_torch, "jax": run_jax}


def prepare(p: Problem, libraries: Sequence[str], threads: int) -> Prepared:
    """Make the data, the candidates and the reference answer of `p`."""
    angles = np.arange(p.length)[:, None] * 1e4 ** (-np.arange(0, p.turned, 2) / p.turned)
    data = Data(
        uniform(p.dtype, *p.shape, seed=1),
        np.cos(angles).astype(p.dtype),
        np.sin(angles).astype(p.dtype),
    )
    wide = Data(*(a.astype(np.float64) for a in (data.x, data.cos, data.sin)))
    # Two products of numbers of at most 1 and their sum: three roundings of at most 2.
    bound = 6 * roundoff(p.dtype)
    found = collect(RUNNERS, libraries, p, data, threads)
    return Prepared(found, (_call(reference(), p, wide)(),), [bound])


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return the family's grid, or its tiny shapes."""
    item = np.dtype(dtype).itemsize
    problems = [
        Problem(*row, backward, dtype)
        for row in (TINY if tiny else GRID)
        for backward in (False, True)
    ]
    return [
        Case(
            "rope",
            p.name,
            dtype,
            partial(prepare, p),
            0.0,
            2.0 * item * float(np.prod(p.shape)),
            "copy",
        )
        for p in problems
    ]
