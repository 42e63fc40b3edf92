"""Normalisation of rows and of channels, forward and backward; channels in both layouts.

Traffic: the forward reads and writes each element once, the backward reads two arrays and writes
one. What does not fit a cache is read once more for its statistics, which is not counted.
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
from .conv import from_last, to_last

# (rows, columns)
ROWS = ((4096, 768), (512, 4096), (65536, 64), (128, 50257))
# (samples, channels, height and width)
IMAGES = ((8, 64, 112), (8, 256, 14), (8, 512, 7), (1, 64, 56))
TINY_ROWS, TINY_IMAGES = ((5, 7),), ((2, 4, 3),)
ROW_KINDS = ("layer_norm", "rms_norm")
IMAGE_KINDS = ("batch_norm", "batch_norm fixed", "group_norm", "instance_norm")
EPS = 1e-5


@dataclass(frozen=True)
class Problem:
    """One normalisation of (rows, columns) or (samples, channels, height, width)."""

    kind: str
    shape: tuple[int, ...]
    backward: bool
    dtype: str

    @property
    def rows(self) -> bool:
        """Whether rows are normalised."""
        return len(self.shape) == 2

    @property
    def groups(self) -> int:
        """Groups of group_norm: 32, or what a tiny shape has."""
        return min(32, self.shape[1])

    @property
    def name(self) -> str:
        """Name in tables."""
        way = "bwd" if self.backward else "fwd"
        return f"{self.kind} {way} {'x'.join(map(str, self.shape))}"


@dataclass(frozen=True)
class Data:
    """x and grad; weight, bias, running mean and variance over the columns or channels."""

    x: Array
    grad: Array
    weight: Array
    bias: Array
    mean: Array
    var: Array


def bound(module: Any, p: Problem, d: Data, x: Array, grad: Array, **how: Any) -> Any:
    """Return the forward or the backward of `module` with all but ``out`` and ``stats`` bound."""
    name = p.kind.removesuffix(" fixed")
    function = getattr(module, f"{name}_backward" if p.backward else name)
    first: tuple[Any, ...] = (grad, x) if p.backward else (x,)
    vectors = (d.weight,) if p.backward or p.kind == "rms_norm" else (d.weight, d.bias)
    if p.rows:
        return partial(function, *first, p.shape[1], *vectors, eps=EPS, **how)
    if p.kind == "group_norm":
        return partial(function, *first, p.groups, *vectors, eps=EPS, **how)
    own = not p.kind.endswith("fixed")
    # The running statistics are not updated, so that every call does the same.
    running = (None, None) if own else (d.mean, d.var)
    return partial(function, *first, *running, *vectors, own, eps=EPS, **how)


def statistics(p: Problem, d: Data, x: Array, **how: Any) -> Any:
    """What the forward call keeps for the backward one."""
    forward = Problem(p.kind, p.shape, False, p.dtype)
    _, *found = bound(kernels(), forward, d, x, x, return_stats=True, **how)()
    return found[0] if len(found) == 1 else tuple(found)


def run_arraynn(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """Our kernels, into a fresh and a reused output; images in both layouts."""
    del threads
    found = []
    for layout in ("",) if p.rows else ("channels_first", "channels_last"):
        last = layout == "channels_last"
        how = {"layout": layout} if layout else {}
        x, grad = (to_last(a) if last else a for a in (d.x, d.grad))

        def arrays(result: Any, last: bool = last) -> Any:
            parts = result if isinstance(result, tuple) else (result,)
            return (from_last(parts[0]) if last else parts[0], *parts[1:])

        one = partial(Candidate, "arraynn", variant=layout, arrays=arrays, group="fresh")
        call = bound(kernels(), p, d, x, grad, **how)
        if p.backward:
            found.append(one(partial(call, stats=statistics(p, d, x, **how))))
        else:
            out = np.empty_like(x)
            found += [one(call), one(partial(call, out=out), group="reused")]
    return found


def run_numpy(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """The plain NumPy reference."""
    del threads
    return [Candidate("numpy", bound(reference(), p, d, d.x, d.grad), group="fresh")]


def run_torch(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """PyTorch eager; images in both memory formats."""
    del threads
    torch = peers.load("torch")
    aten, f = torch.ops.aten, torch.nn.functional
    w, b, mean, var = (peers.tensor(a) for a in (d.weight, d.bias, d.mean, d.var))
    mask = [True, True, True]
    found = []
    for layout in ("",) if p.rows else ("channels_first", "channels_last"):
        x, g = peers.tensor(d.x), peers.tensor(d.grad)
        if layout == "channels_last":
            x, g = (a.contiguous(memory_format=torch.channels_last) for a in (x, g))
        own = not p.kind.endswith("fixed")
        running = (None, None) if own else (mean, var)
        n, c = p.shape[:2]
        pixels = int(np.prod(p.shape[2:]))
        if p.kind == "layer_norm":
            call = partial(f.layer_norm, x, (c,), w, b, EPS)
            if p.backward:
                _, m, r = aten.native_layer_norm(x, (c,), w, b, EPS)
                call = partial(aten.native_layer_norm_backward, g, x, (c,), m, r, w, b, mask)
        elif p.kind.startswith("batch_norm"):
            call = partial(f.batch_norm, x, *running, w, b, own, 0.0, EPS)
            if p.backward:
                _, m, r = aten.native_batch_norm(x, w, b, *running, own, 0.0, EPS)
                saved = (m, r, own, EPS, mask)
                call = partial(aten.native_batch_norm_backward, g, x, w, *running, *saved)
        elif p.kind == "group_norm":
            call = partial(f.group_norm, x, p.groups, w, b, EPS)
            if p.backward:
                sizes = (n, c, pixels, p.groups)
                _, m, r = aten.native_group_norm(x, w, b, *sizes, EPS)
                call = partial(aten.native_group_norm_backward, g, x, m, r, w, *sizes, mask)
        else:
            leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
            if p.kind == "rms_norm":
                call = partial(f.rms_norm, x, (c,), w, EPS)
                result = f.rms_norm(leaves[0], (c,), leaves[1], EPS)
            else:
                call = partial(f.instance_norm, x, None, None, w, b, True, 0.0, EPS)
                leaves.append(b.clone().requires_grad_())
                result = f.instance_norm(leaves[0], None, None, *leaves[1:], True, 0.0, EPS)
            if p.backward:
                call = partial(torch.autograd.grad, result, leaves, g, retain_graph=True)
        found.append(Candidate("torch", call, variant=layout, group="fresh"))
    return found


def run_jax(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """JAX, jitted, channels first; a backward is the pullback of the forward, which it repeats."""
    del threads
    jax = peers.load("jax")
    jnp = jax.numpy
    x, grad, w, b, mean, var = (jnp.asarray(a) for a in vars(d).values())
    column = (p.shape[1],) + (1,) * (len(p.shape) - 2)

    def scaled(x: Any, axes: tuple[int, ...], centred: bool = True) -> Any:
        shifted = x - x.mean(axes, keepdims=True) if centred else x
        return shifted * jax.lax.rsqrt((shifted**2).mean(axes, keepdims=True) + EPS)

    def forward(x: Any, w: Any, *b: Any) -> Any:
        if p.rows:
            y = scaled(x, (1,), p.kind == "layer_norm")
        elif p.kind == "batch_norm fixed":
            y = (x - mean.reshape(column)) * jax.lax.rsqrt(var.reshape(column) + EPS)
        elif p.kind == "batch_norm":
            y = scaled(x, (0, 2, 3))
        elif p.kind == "instance_norm":
            y = scaled(x, (2, 3))
        else:
            parts = x.reshape(p.shape[0], p.groups, -1)
            y = scaled(parts, (2,)).reshape(p.shape)
        y = y * w.reshape(column)
        return y + b[0].reshape(column) if b else y

    args = (x, w) if p.kind == "rms_norm" else (x, w, b)
    if not p.backward:
        compiled = jax.jit(forward)
        return [Candidate("jax", lambda: jax.block_until_ready(compiled(*args)), group="fresh")]
    pull = jax.jit(lambda grad, *args: jax.vjp(forward, *args)[1](grad))
    return [Candidate("jax", lambda: jax.block_until_ready(pull(grad, *args)), group="fresh")]


def run_onnxruntime(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """ONNX Runtime, forward only."""
    operators = {
        "layer_norm": "LayerNormalization",
        "rms_norm": "RMSNormalization",
        "batch_norm fixed": "BatchNormalization",
        "instance_norm": "InstanceNormalization",
        "group_norm": "GroupNormalization",
    }
    op = operators.get(p.kind)
    if op is None or p.backward:
        return []
    if p.dtype == "float64" and p.kind in ("rms_norm", "group_norm"):
        return []  # it computes them in float32
    inputs = {"x": d.x, "scale": d.weight, "b": d.bias}
    how: dict[str, Any] = {"epsilon": EPS}
    if p.kind == "rms_norm":
        del inputs["b"]
        how["opset"] = 23
    if p.kind == "group_norm":
        how |= {"opset": 21, "num_groups": p.groups}
    if p.kind == "batch_norm fixed":
        inputs |= {"mean": d.mean, "var": d.var}
    constants = [name for name in inputs if name != "x"]
    call = peers.onnx_call(op, inputs, threads, constants=constants, **how)
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
    c = p.shape[1]
    x, grad = (uniform(p.dtype, *p.shape, seed=s) for s in (1, 2))
    w, b, mean, var = (uniform(p.dtype, c, seed=s) for s in (3, 4, 5, 6))
    data = Data(x, grad, w, b, mean, var + np.dtype(p.dtype).type(1.5))
    wide = Data(*(a.astype(np.float64) for a in vars(data).values()))
    result = bound(reference(), p, wide, wide.x, wide.grad)()
    expected = result if isinstance(result, tuple) else (result,)
    # Uniform numbers have rstd < 3 (rows of few up to 1 / sqrt(eps)), so xhat and the terms of the
    # sums stay below `size`. A sum of k rounds 8 sqrt(k) times (Higham and Mary 2019), a mean by
    # at most 8 u of its terms; a dozen roundings beside them.
    u, size = unit_roundoff(p.dtype), 4.0 if x.size > 100 else EPS**-0.5
    terms = x.size // c
    total = (8 * terms**0.5 + 16) * u * size * terms
    bounds = [32 * u * size * (1 + size), total, total][: len(expected)]
    return Prepared(collect(RUNNERS, libraries, p, data, threads), expected, bounds)


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return the family's grid, or its tiny shapes."""
    grid = [(k, s) for k in ROW_KINDS for s in (TINY_ROWS if tiny else ROWS)]
    grid += [
        (k, (n, c, s, s)) for k in IMAGE_KINDS for n, c, s in (TINY_IMAGES if tiny else IMAGES)
    ]
    problems = [Problem(k, s, backward, dtype) for k, s in grid for backward in (False, True)]
    item = np.dtype(dtype).itemsize
    return [
        Case(
            "norm",
            p.name,
            dtype,
            partial(prepare, p),
            0.0,
            float(item * int(np.prod(p.shape)) * (3 if p.backward else 2)),
            "copy",
        )
        for p in problems
    ]
