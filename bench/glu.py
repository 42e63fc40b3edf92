"""Gated linear units over the rows of a hidden layer.

Traffic: both halves read and one written; backward the gradient read and both written as well.
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

NAMES = {"sigmoid": "glu", "silu": "swiglu", "gelu": "geglu", "relu": "reglu"}
GRID = ((4096, 1024), (512, 11008))
TINY = ((3, 5),)


@dataclass(frozen=True)
class Problem:
    """`rows` vectors of two halves of `columns`."""

    rows: int
    columns: int
    activation: str
    backward: bool
    dtype: str

    @property
    def name(self) -> str:
        """Name in tables."""
        way = " bwd" if self.backward else ""
        return f"{NAMES[self.activation]}{way} {self.rows}x{self.columns}"


@dataclass(frozen=True)
class Data:
    """Both halves, and the gradient of the result."""

    x: Array
    grad: Array


def _call(module: Any, p: Problem, d: Data) -> Any:
    if p.backward:
        return partial(module.glu_backward, d.grad, d.x, activation=p.activation)
    return partial(module.glu, d.x, activation=p.activation)


def run_arraynn(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """Our kernels, into a fresh and a reused output."""
    del threads
    call = _call(kernels(), p, d)
    out = np.empty_like(d.x if p.backward else d.grad)
    return [
        Candidate("arraynn", call, group="fresh"),
        Candidate("arraynn", partial(call, out=out), group="reused"),
    ]


def run_numpy(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """The plain NumPy reference."""
    del threads
    return [Candidate("numpy", _call(reference(), p, d), group="fresh")]


def run_torch(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """PyTorch: its glu; its operators one after the other for the activations it does not fuse."""
    del threads
    torch = peers.load("torch")
    aten, functional = torch.ops.aten, torch.nn.functional
    x, grad = torch.from_numpy(d.x), torch.from_numpy(d.grad)
    if p.activation == "sigmoid":
        call = partial(aten.glu_backward, grad, x, -1) if p.backward else partial(aten.glu, x, -1)
        return [Candidate("torch", call, group="fresh")]
    a, b = x.chunk(2, -1)
    forward = getattr(functional, p.activation)
    slope = {
        "silu": aten.silu_backward,
        "gelu": aten.gelu_backward,
        "relu": lambda g, v: aten.threshold_backward(g, v, 0),
    }[p.activation]
    if p.backward:
        call = lambda: torch.cat((grad * forward(b), slope(grad * a, b)), -1)  # noqa: E731
    else:
        call = lambda: a * forward(b)  # noqa: E731
    return [Candidate("torch", call, group="fresh")]


def run_jax(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """JAX, jitted."""
    del threads
    jax = peers.load("jax")
    gate = getattr(jax.nn, p.activation)
    gate = partial(gate, approximate=False) if p.activation == "gelu" else gate

    def forward(v: Any) -> Any:
        a, b = jax.numpy.split(v, 2, -1)
        return a * gate(b)

    x, grad = jax.numpy.asarray(d.x), jax.numpy.asarray(d.grad)
    if p.backward:
        backward = jax.jit(lambda x, g: jax.vjp(forward, x)[1](g)[0])
        return [Candidate("jax", lambda: backward(x, grad).block_until_ready(), group="fresh")]
    jitted = jax.jit(forward)
    return [Candidate("jax", lambda: jitted(x).block_until_ready(), group="fresh")]


RUNNERS = {"arraynn": run_arraynn, "numpy": run_numpy, "torch": run_torch, "jax": run_jax}


def prepare(p: Problem, libraries: Sequence[str], threads: int) -> Prepared:
    """Make the data, the candidates and the reference answer of `p`."""
    x = uniform(p.dtype, p.rows, 2 * p.columns, seed=1) * np.dtype(p.dtype).type(6)
    data = Data(x, uniform(p.dtype, p.rows, p.columns, seed=2))
    wide = Data(x.astype(np.float64), data.grad.astype(np.float64))
    expected = _call(reference(), p, wide)()
    # As of the activations, times a number below 6.
    bound = 6 * 16 * roundoff(p.dtype) * (np.abs(expected) + 7)
    return Prepared(collect(RUNNERS, libraries, p, data, threads), (expected,), [bound])


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return the grid, or its tiny shapes."""
    item = np.dtype(dtype).itemsize
    problems = [
        Problem(*size, activation, backward, dtype)
        for size in (TINY if tiny else GRID)
        for activation in NAMES
        for backward in (False, True)
    ]
    return [
        Case(
            "elementwise",
            p.name,
            dtype,
            partial(prepare, p),
            0.0,
            float(item * p.rows * p.columns * (5 if p.backward else 3)),
            "copy",
        )
        for p in problems
    ]
