"""Matrix products: ``matmul`` with a row-major B, ``linear`` with PyTorch's (out, in) weights.

A problem m x k x n multiplies (m, k) by (k, n): 2 m k n FLOP, and at least
m k + k n + m n elements of traffic. The backward of ``linear`` is two such products and a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from . import peers
from .case import Array, Candidate, Case, Prepared, collect, dot_bound, kernels, reference, uniform

FORWARD = (
    (512, 512, 512),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (1, 4096, 4096),
    (64, 784, 128),
    (32, 256, 1024),
    (8, 1024, 4096),
    (128, 768, 3072),
    (4096, 64, 64),
    (64, 64, 4096),
)
BACKWARD = ((64, 784, 128), (128, 768, 3072), (1024, 1024, 1024))
TINY = ((5, 7, 3),)

# Below as many FLOP per byte, memory limits a core of today: 100 GFLOP/s over 20 GB/s.
_BALANCE = 5.0


@dataclass(frozen=True)
class Problem:
    """One product of (m, k) and (k, n)."""

    kind: Literal["linear", "matmul", "linear_backward"]
    m: int
    k: int
    n: int
    dtype: str


@dataclass(frozen=True)
class Data:
    """x (m, k); w (n, k) for linear and (k, n) for matmul; grad (m, n)."""

    x: Array
    w: Array
    grad: Array


def run_arraynn(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """Our kernels, into a fresh and a reused output."""
    del threads
    k = kernels()
    if p.kind == "linear_backward":
        return [Candidate("arraynn", lambda: k.linear_backward(d.grad, d.x, d.w))]
    function = k.linear if p.kind == "linear" else k.matmul
    out = np.empty((p.m, p.n), p.dtype)
    found = [
        Candidate("arraynn", lambda: function(d.x, d.w), group="fresh"),
        Candidate("arraynn", lambda: function(d.x, d.w, out=out), group="reused"),
    ]
    packed = k.pack(d.w, p.kind)
    found.append(Candidate("arraynn", lambda: function(d.x, packed), group="prepacked"))
    return found


def run_numpy(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """NumPy with its BLAS."""
    del threads
    if p.kind == "linear_backward":
        return [Candidate("numpy", lambda: (d.grad @ d.w, d.grad.T @ d.x, d.grad.sum(0)))]
    w = d.w.T if p.kind == "linear" else d.w
    out = np.empty((p.m, p.n), p.dtype)
    return [
        Candidate("numpy", lambda: np.matmul(d.x, w), group="fresh"),
        Candidate("numpy", lambda: np.matmul(d.x, w, out=out), group="reused"),
    ]


def run_torch(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """PyTorch eager (MKL)."""
    del threads
    torch = peers.load("torch")
    x, w, grad = (peers.tensor(a) for a in (d.x, d.w, d.grad))
    if p.kind == "linear_backward":
        return [Candidate("torch", lambda: (grad @ w, grad.T @ x, grad.sum(0)))]
    out = torch.empty(p.m, p.n, dtype=x.dtype)
    if p.kind == "linear":
        linear, wt = torch.nn.functional.linear, w.T
        return [
            Candidate("torch", lambda: linear(x, w), group="fresh"),
            Candidate("torch", lambda: torch.mm(x, wt, out=out), group="reused"),
        ]
    return [
        Candidate("torch", lambda: torch.mm(x, w), group="fresh"),
        Candidate("torch", lambda: torch.mm(x, w, out=out), group="reused"),
    ]


def run_jax(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """JAX, jitted."""
    del threads
    jax = peers.load("jax")
    x, w, grad = (jax.numpy.asarray(a) for a in (d.x, d.w, d.grad))
    if p.kind == "linear_backward":
        back = jax.jit(lambda g, x, w: (g @ w, g.T @ x, g.sum(0)))
        return [Candidate("jax", lambda: jax.block_until_ready(back(grad, x, w)))]
    function = jax.jit(lambda x, w: x @ (w.T if p.kind == "linear" else w))
    return [Candidate("jax", lambda: function(x, w).block_until_ready(), group="fresh")]


def run_onnxruntime(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """ONNX Runtime, with the weights as an input and packed when the model is loaded."""
    if p.kind == "linear_backward":
        return []
    inputs = {"x": d.x, "w": d.w}
    op = "Gemm" if p.kind == "linear" else "MatMul"
    attributes: dict[str, Any] = {"transB": 1} if p.kind == "linear" else {}
    plain = peers.onnx_call(op, inputs, threads, **attributes)
    packed = peers.onnx_call(op, inputs, threads, constants=("w",), **attributes)
    return [
        Candidate("onnxruntime", plain, group="fresh"),
        Candidate("onnxruntime", packed, group="prepacked"),
    ]


RUNNERS = {
    "arraynn": run_arraynn,
    "numpy": run_numpy,
    "torch": run_torch,
    "jax": run_jax,
    "onnxruntime": run_onnxruntime,
}


def prepare(p: Problem, libraries: Sequence[str], threads: int) -> Prepared:
    """Make the data, the candidates and the reference answer of `p`."""
    w_shape = (p.k, p.n) if p.kind == "matmul" else (p.n, p.k)
    d = Data(
        uniform(p.dtype, p.m, p.k, seed=1),
        uniform(p.dtype, *w_shape, seed=2),
        uniform(p.dtype, p.m, p.n, seed=3),
    )
    x, w, grad = (a.astype(np.float64) for a in (d.x, d.w, d.grad))
    ref = reference()
    if p.kind == "linear_backward":
        expected = ref.linear_backward(grad, x, w)
        bounds = [
            dot_bound(p.n, p.dtype),
            dot_bound(p.m, p.dtype),
            dot_bound(p.m, p.dtype, factors=1),
        ]
    else:
        expected = ((ref.linear if p.kind == "linear" else ref.matmul)(x, w),)
        bounds = [dot_bound(p.k, p.dtype)]
    return Prepared(collect(RUNNERS, libraries, p, d, threads), expected, bounds)


def flops(p: Problem) -> float:
    """Multiply-adds count two."""
    return (4.0 if p.kind == "linear_backward" else 2.0) * p.m * p.k * p.n


def nbytes(p: Problem) -> float:
    """Each operand read once and each result written once."""
    size = np.dtype(p.dtype).itemsize
    times = 2 if p.kind == "linear_backward" else 1
    return float(size * (times * (p.m * p.k + p.k * p.n) + p.m * p.n))


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return the family's grid, or its tiny shapes."""
    forward, backward = (TINY, TINY) if tiny else (FORWARD, BACKWARD)
    problems = [Problem("linear", *shape, dtype) for shape in forward]
    problems += [Problem("matmul", *shape, dtype) for shape in forward]
    problems += [Problem("linear_backward", *shape, dtype) for shape in backward]
    return [
        Case(
            "gemm",
            f"{p.kind} {p.m}x{p.k}x{p.n}",
            dtype,
            partial(prepare, p),
            flops(p),
            nbytes(p),
            "copy" if flops(p) < _BALANCE * nbytes(p) else "fma",
        )
        for p in problems
    ]
