"""Activations and dropout on 4 M elements.

Traffic: one element read and one written forward; two read and one written backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from . import peers
from .case import (
    Array,
    Arrays,
    Candidate,
    Case,
    Prepared,
    collect,
    kernels,
    reference,
    uniform,
    unit_roundoff,
)

FORWARD = (
    *("relu", "leaky_relu", "elu", "selu", "sigmoid", "tanh", "hardsigmoid", "hardswish"),
    *("silu", "gelu", "gelu_tanh", "mish", "softplus"),
)
BACKWARD = ("relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh")
SIZE, TINY_SIZE = 1 << 22, 37
DROPOUT = 0.3

# Operators of ONNX with the defaults of ours.
_ONNX: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
    "elu": ("Elu", {}),
    "selu": ("Selu", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "hardsigmoid": ("HardSigmoid", {"alpha": 1 / 6}),
    "hardswish": ("HardSwish", {}),
    "gelu": ("Gelu", {}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
    "mish": ("Mish", {}),
    "softplus": ("Softplus", {}),
}
_JAX = {"leaky_relu", "elu", "selu", "sigmoid", "tanh", "silu", "mish", "softplus", "relu"}


@dataclass(frozen=True)
class Problem:
    """One function over `size` elements."""

    name: str
    backward: bool
    size: int
    dtype: str


@dataclass(frozen=True)
class Data:
    """x and grad of `size` elements; x spans [-6, 6), where no function is saturated."""

    x: Array
    grad: Array


def _function(module: Any, p: Problem) -> Callable[..., Any]:
    name, extra = ("gelu", {"approximate": "tanh"}) if p.name == "gelu_tanh" else (p.name, {})
    return partial(getattr(module, f"{name}_backward" if p.backward else name), **extra)


def run_arraynn(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """Our kernels, into a fresh and a reused output."""
    del threads
    out = np.empty_like(d.x)
    args: tuple[Any, ...]
    if p.name == "dropout":
        function, args = kernels().dropout, (d.x, DROPOUT, 7)
    else:
        function, args = _function(kernels(), p), (d.grad, d.x) if p.backward else (d.x,)
    return [
        Candidate("arraynn", partial(function, *args), group="fresh"),
        Candidate("arraynn", partial(function, *args, out=out), group="reused"),
    ]


def run_numpy(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """The plain NumPy reference."""
    del threads
    if p.name == "dropout":
        return [Candidate("numpy", partial(reference().dropout, d.x, DROPOUT, 7), group="fresh")]
    function = _function(reference(), p)
    args = (d.grad, d.x) if p.backward else (d.x,)
    return [Candidate("numpy", partial(function, *args), group="fresh")]


def _check_dropout(x: Array, arrays: Arrays) -> str | None:
    """Kept elements are scaled, the share kept is within six deviations: peers' masks differ."""
    kept = arrays[0] != 0
    if not np.allclose(arrays[0][kept], x[kept] / (1 - DROPOUT), rtol=1e-6):
        return "kept elements: expected x / (1 - p)"
    deviation = (DROPOUT * (1 - DROPOUT) / x.size) ** 0.5
    share = float(np.mean(kept))
    if abs(share - (1 - DROPOUT)) > 6 * deviation + 1 / x.size:
        return f"share kept: expected {1 - DROPOUT:.4f}, got {share:.4f}"
    return None


def run_torch(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """PyTorch eager; backwards are the operators its autograd calls."""
    del threads
    torch = peers.load("torch")
    aten = torch.ops.aten
    x, grad = torch.from_numpy(d.x), torch.from_numpy(d.grad)
    out = torch.empty_like(x)
    if p.name == "dropout":
        call = partial(torch.nn.functional.dropout, x, DROPOUT, True)
        return [Candidate("torch", call, group="fresh", check=partial(_check_dropout, d.x))]
    if p.backward:
        # sigmoid and tanh keep their output, the others their input.
        saved = {"sigmoid": torch.sigmoid, "tanh": torch.tanh}.get(p.name, lambda v: v)(x)
        operator, args, extra = {
            "relu": (aten.threshold_backward, (0,), {}),
            "sigmoid": (aten.sigmoid_backward, (), {}),
            "tanh": (aten.tanh_backward, (), {}),
            "silu": (aten.silu_backward, (), {}),
            "gelu": (aten.gelu_backward, (), {}),
            "gelu_tanh": (aten.gelu_backward, (), {"approximate": "tanh"}),
        }[p.name]
        into = operator.grad_input
        return [
            Candidate("torch", partial(operator, grad, saved, *args, **extra), group="fresh"),
            Candidate(
                "torch", partial(into, grad, saved, *args, grad_input=out, **extra), group="reused"
            ),
        ]
    name, extra = ("gelu", {"approximate": "tanh"}) if p.name == "gelu_tanh" else (p.name, {})
    found = [Candidate("torch", partial(getattr(aten, name), x, **extra), group="fresh")]
    if name == "relu":
        # relu with out= computes into a temporary first; this is the same function without it.
        call = partial(torch.clamp_min, x, 0, out=out)
        found.append(Candidate("torch", call, "clamp_min", "reused"))
    elif "out" in getattr(aten, name).overloads():
        call = partial(getattr(aten, name).out, x, out=out, **extra)
        found.append(Candidate("torch", call, group="reused"))
    return found


def run_jax(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """JAX, jitted."""
    del threads
    if p.name not in _JAX and not p.name.startswith("gelu"):
        return []
    jax = peers.load("jax")
    if p.name.startswith("gelu"):
        function = partial(jax.nn.gelu, approximate=p.name == "gelu_tanh")
    else:
        function = getattr(jax.nn, p.name)
    x, grad = jax.numpy.asarray(d.x), jax.numpy.asarray(d.grad)
    if p.backward:
        backward = jax.jit(lambda x, g: jax.vjp(function, x)[1](g)[0])
        return [Candidate("jax", lambda: backward(x, grad).block_until_ready(), group="fresh")]
    forward = jax.jit(function)
    return [Candidate("jax", lambda: forward(x).block_until_ready(), group="fresh")]


def run_onnxruntime(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """ONNX Runtime, forward only."""
    # Its Mish, HardSwish and Gelu exist as functions of other operators for float64 at best.
    if p.backward or p.name not in _ONNX or p.dtype != "float32":
        return []
    op, attributes = _ONNX[p.name]
    call = peers.onnx_call(op, {"x": d.x}, threads, **attributes)
    return [Candidate("onnxruntime", call, group="fresh")]


RUNNERS = {
    "arraynn": run_arraynn,
    "numpy": run_numpy,
    "torch": run_torch,
    "jax": run_jax,
    "onnxruntime": run_onnxruntime,
}


def prepare(p: Problem, libraries: Sequence[str], threads: int) -> Prepared:
    """Make the data, the candidates and the reference answer of `p`."""
    x = uniform(p.dtype, p.size, seed=1) * np.dtype(p.dtype).type(6)
    data = Data(x, uniform(p.dtype, p.size, seed=2))
    wide = x.astype(np.float64)
    grad = data.grad.astype(np.float64)
    if p.name == "dropout":
        expected = reference().dropout(x, DROPOUT, 7)
    else:
        expected = _function(reference(), p)(*((grad, wide) if p.backward else (wide,)))
    # A few ULP of the result; 1 + erf(x) and exp(x) - 1, which libraries form, lose a rounding
    # of 1, and the product with x one of |x|.
    u = unit_roundoff(p.dtype)
    bound = 16 * u * (np.abs(expected) + np.abs(wide) + 1)
    return Prepared(collect(RUNNERS, libraries, p, data, threads), (expected,), [bound])


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return the family's grid, or its tiny shapes."""
    size = TINY_SIZE if tiny else SIZE
    item = np.dtype(dtype).itemsize
    found = [(name, False) for name in (*FORWARD, "dropout")] + [(name, True) for name in BACKWARD]
    return [
        Case(
            "elementwise",
            f"{name}{' bwd' if backward else ''} {size}",
            dtype,
            partial(prepare, Problem(name, backward, size, dtype)),
            0.0,
            float(item * size * (3 if backward else 2)),
            "copy",
        )
        for name, backward in found
    ]
