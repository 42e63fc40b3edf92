"""softmax, log_softmax, cross entropy and nll_loss over the last axis.

Traffic: the forward reads and writes each element once; the backward reads two arrays and
writes one; cross entropy with its gradient reads the logits twice and writes the gradient,
nll_loss writes its gradient alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from . import peers
from .case import (
    Array,
    Candidate,
    Case,
    Prepared,
    collect,
    kernels,
    reference,
    uniform,
    unit_roundoff,
)

GRID = ((4096, 4096), (64, 10), (128, 50257))
TINY = ((5, 7),)
LOSSES = ("cross_entropy", "nll_loss")
KINDS = ("softmax", "log_softmax", "softmax_backward", "log_softmax_backward", *LOSSES)


@dataclass(frozen=True)
class Problem:
    """One function over (rows, columns)."""

    kind: str
    rows: int
    columns: int
    dtype: str

    @property
    def backward(self) -> bool:
        """Whether it takes a gradient and the forward's output."""
        return self.kind.endswith("_backward")


@dataclass(frozen=True)
class Data:
    """x, y = forward(x), grad, all (rows, columns); target (rows,)."""

    x: Array
    y: Array
    grad: Array
    target: Array


def loss_and_gradient(module: Any, p: Problem, d: Data) -> tuple[Array, Array]:
    """Call a loss of `module` and its gradient."""
    loss = getattr(module, p.kind)(d.x, d.target)
    one = np.ones((), d.x.dtype)
    return loss, getattr(module, f"{p.kind}_backward")(one, d.x, d.target)


def run_arraynn(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """Our kernels, into a fresh and a reused output."""
    del threads
    k = kernels()
    if p.kind in LOSSES:
        return [Candidate("arraynn", partial(loss_and_gradient, k, p, d), group="fresh")]
    function, out = getattr(k, p.kind), np.empty_like(d.x)
    args = (d.grad, d.y) if p.backward else (d.x,)
    return [
        Candidate("arraynn", lambda: function(*args), group="fresh"),
        Candidate("arraynn", lambda: function(*args, out=out), group="reused"),
    ]


def run_numpy(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """The plain NumPy reference."""
    del threads
    ref = reference()
    if p.kind in LOSSES:
        return [Candidate("numpy", partial(loss_and_gradient, ref, p, d), group="fresh")]
    args = (d.grad, d.y) if p.backward else (d.x,)
    return [Candidate("numpy", partial(getattr(ref, p.kind), *args), group="fresh")]


def run_torch(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """PyTorch eager; losses with their gradients through autograd."""
    del threads
    torch = peers.load("torch")
    aten = torch.ops.aten
    x, y, grad, target = (peers.tensor(a) for a in (d.x, d.y, d.grad, d.target))
    if p.kind in LOSSES:
        leaf, function = x.clone().requires_grad_(), getattr(torch.nn.functional, p.kind)

        def both() -> Any:
            loss = function(leaf, target)
            return loss.detach(), *torch.autograd.grad(loss, leaf)

        return [Candidate("torch", both, group="fresh")]
    out = torch.empty_like(x)
    args: tuple[Any, ...]
    if p.backward:
        operator = getattr(aten, f"_{p.kind}_data")
        args, into = (grad, y, -1, x.dtype), {"grad_input" if p.kind[0] == "s" else "out": out}
    else:
        operator = getattr(aten, f"_{p.kind}")
        args, into = (x, -1, False), {"out": out}
    return [
        Candidate("torch", lambda: operator(*args), group="fresh"),
        Candidate("torch", lambda: operator.out(*args, **into), group="reused"),
    ]


def run_jax(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """JAX, jitted."""
    del threads
    jax = peers.load("jax")
    x, y, grad, target = (jax.numpy.asarray(a) for a in (d.x, d.y, d.grad, d.target))

    def nll(x: Any, target: Any) -> Any:
        return -x[jax.numpy.arange(p.rows), target].mean()

    def loss(x: Any, target: Any) -> Any:
        return nll(jax.nn.log_softmax(x), target)

    def softmax_backward(g: Any, y: Any) -> Any:
        return y * (g - (g * y).sum(-1, keepdims=True))

    def log_softmax_backward(g: Any, y: Any) -> Any:
        return g - jax.numpy.exp(y) * g.sum(-1, keepdims=True)

    function, args = {
        "softmax": (jax.nn.softmax, (x,)),
        "log_softmax": (jax.nn.log_softmax, (x,)),
        "softmax_backward": (softmax_backward, (grad, y)),
        "log_softmax_backward": (log_softmax_backward, (grad, y)),
        "cross_entropy": (jax.value_and_grad(loss), (x, target)),
        "nll_loss": (jax.value_and_grad(nll), (x, target)),
    }[p.kind]
    compiled = jax.jit(function)
    return [Candidate("jax", lambda: jax.block_until_ready(compiled(*args)), group="fresh")]


def run_onnxruntime(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """ONNX Runtime, forward only."""
    op = {"softmax": "Softmax", "log_softmax": "LogSoftmax"}.get(p.kind)
    if op is None:
        return []
    return [Candidate("onnxruntime", peers.onnx_call(op, {"x": d.x}, threads), group="fresh")]


RUNNERS = {
    "arraynn": run_arraynn,
    "numpy": run_numpy,
    "torch": run_torch,
    "jax": run_jax,
    "onnxruntime": run_onnxruntime,
}


def prepare(p: Problem, libraries: Sequence[str], threads: int) -> Prepared:
    """Make the data, the candidates and the reference answer of `p`."""
    shape = (p.rows, p.columns)
    spread = 8.0
    x = uniform(p.dtype, *shape, seed=1) * np.dtype(p.dtype).type(spread)
    grad = uniform(p.dtype, *shape, seed=2)
    target = np.random.default_rng(3).integers(0, p.columns, p.rows)
    ref = reference()
    wide, wide_grad = x.astype(np.float64), grad.astype(np.float64)
    forward = "log_softmax" if p.kind.startswith("log") else "softmax"
    y = getattr(ref, forward)(wide).astype(p.dtype) if p.backward else x
    u = unit_roundoff(p.dtype)
    # exp(x - max) carries the rounding of its argument, at most 2 * spread, and a few ULP of its
    # own; the sum of `columns` terms 8 sqrt(columns) u (Higham and Mary 2019).
    relative = (2 * spread + 8 + 8 * p.columns**0.5) * u
    expected: tuple[Array, ...]
    bounds: list[Any]
    if p.kind in LOSSES:
        expected = loss_and_gradient(ref, p, Data(wide, wide, wide_grad, target))
        bounds = [
            relative * (1 + np.abs(expected[0])) + 8 * p.rows**0.5 * u * np.abs(expected[0]),
            # (softmax - target) / rows: the error of the probability, and of values up to 1 the
            # roundings of the difference, of 1 / rows and of the product.
            (relative * ref.softmax(wide) + 3 * u) / p.rows,
        ]
    elif p.backward:
        wide_y = y.astype(np.float64)
        expected = (getattr(ref, p.kind)(wide_grad, wide_y),)
        # The row's sum of grad * y (or of grad) is of `columns` terms with |grad| <= 1.
        weight = wide_y if p.kind == "softmax_backward" else np.exp(wide_y)
        total = 1.0 if p.kind == "softmax_backward" else p.columns
        bounds = [(8 * p.columns**0.5 + 16) * u * (weight * total + np.abs(expected[0])) + u * 4]
    else:
        expected = (getattr(ref, p.kind)(wide),)
        scale = np.abs(expected[0]) if p.kind == "softmax" else 1 + np.abs(expected[0])
        bounds = [relative * scale]
    found = collect(RUNNERS, libraries, p, Data(x, y, grad, target), threads)
    return Prepared(found, expected, bounds)


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return the family's grid, or its tiny shapes."""
    item = np.dtype(dtype).itemsize
    problems = [
        Problem(kind, *shape, dtype) for kind in KINDS for shape in (TINY if tiny else GRID)
    ]
    passes = {"softmax": 2, "log_softmax": 2, "nll_loss": 1}
    return [
        Case(
            "softmax",
            f"{p.kind} {p.rows}x{p.columns}",
            dtype,
            partial(prepare, p),
            0.0,
            float(item * p.rows * p.columns * passes.get(p.kind, 3)),
            "copy",
        )
        for p in problems
    ]
