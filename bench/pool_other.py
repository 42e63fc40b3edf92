"""Pooling beyond square windows of images: signals, volumes, adaptive, global, Lp and unpooling.

Traffic: the forward reads the input and writes the output; unpooling also reads int64 indices. The
backward of max pooling reads the output's gradient and the input and writes the input's gradient,
that of Lp pooling reads the output as well, the others only gradients (and indices). The groups of
the gradients of maxima are those of `bench.pool`.
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
    distinct,
    kernels,
    reference,
    uniform,
    unit_roundoff,
)
from .conv import to_last
from .pool import last_array, max_backward

# (function, samples, channels, sizes, arguments): the front of an audio network, the heads of
# ResNet-50 and of a pyramid, the pools of C3D and of I3D, and a decoder by unpooling.
SHAPES: tuple[tuple[str, int, int, tuple[int, ...], tuple[Any, ...]], ...] = (
    ("max_pool1d", 8, 128, (4000,), (4, 4)),
    ("avg_pool1d", 8, 128, (4000,), (3, 2, 1)),
    ("adaptive_avg_pool2d", 4, 2048, (7, 7), (1,)),
    ("adaptive_avg_pool2d", 4, 256, (56, 56), (6,)),
    ("adaptive_max_pool2d", 4, 256, (56, 56), (6,)),
    ("global_avg_pool", 8, 1280, (7, 7), ()),
    ("global_lp_pool", 8, 1280, (7, 7), (2.0,)),
    ("lp_pool2d", 4, 64, (112, 112), (2.0, 2)),
    ("max_unpool2d", 4, 64, (56, 56), (2,)),
    ("max_pool3d", 1, 64, (16, 112, 112), ((1, 2, 2),)),
    ("max_pool3d", 1, 128, (16, 56, 56), (2,)),
    ("max_pool3d", 1, 192, (8, 28, 28), (3, 1, 1)),
    ("avg_pool3d", 1, 128, (16, 56, 56), (2,)),
    ("adaptive_avg_pool3d", 4, 512, (4, 7, 7), (1,)),
)
TINY: tuple[tuple[str, int, int, tuple[int, ...], tuple[Any, ...]], ...] = (
    ("max_pool1d", 2, 3, (11,), (3, 2, 1)),
    ("avg_pool1d", 2, 3, (11,), (2,)),
    ("adaptive_max_pool2d", 2, 3, (7, 5), (3,)),
    ("global_avg_pool", 2, 3, (4, 5), ()),
    ("global_lp_pool", 2, 3, (4, 5), (2.0,)),
    ("lp_pool2d", 2, 3, (6, 7), (2.0, 2)),
    ("max_unpool2d", 2, 3, (4, 5), (2,)),
    ("max_pool3d", 2, 3, (4, 5, 6), (3, 2, 1)),
    ("avg_pool3d", 2, 3, (4, 5, 6), (2,)),
)


@dataclass(frozen=True)
class Problem:
    """One pooling."""

    op: str
    n: int
    c: int
    sizes: tuple[int, ...]
    args: tuple[Any, ...]
    backward: bool
    dtype: str

    @property
    def name(self) -> str:
        """Name in tables, such as "max_pool3d fwd n1 128x16x56x56 2"."""
        way = "bwd" if self.backward else "fwd"
        args = "/".join("x".join(map(str, np.atleast_1d(a))) for a in self.args)
        return f"{self.op} {way} n{self.n} {'x'.join(map(str, (self.c, *self.sizes)))} {args}"


@dataclass(frozen=True)
class Data:
    """x, y and its gradient, channels first, and indices where there are some."""

    x: Array
    y: Array
    grad: Array
    indices: Array | None


def make_data(p: Problem) -> Data:
    """Inputs of distinct values: with equal maxima libraries may pick different ones."""
    x, ref = distinct(p.dtype, p.n, p.c, *p.sizes, seed=1), reference()
    indices = None
    if p.op.startswith("max_unpool"):
        planes = distinct(p.dtype, p.n, p.c, *(2 * size for size in p.sizes), seed=3)
        x, indices = kernels().max_pool2d(planes, *p.args, return_indices=True)
        y = ref.max_unpool2d(x, indices, *p.args)
    else:
        y = getattr(ref, p.op)(x, *p.args)
    return Data(x, y, uniform(p.dtype, *y.shape, seed=2), indices)


def our_call(p: Problem, d: Data, module: Any, last: bool = False) -> Any:
    """Return the call of the kernels or of the references."""
    x, y, grad = (to_last(a) if last else a for a in (d.x, d.y, d.grad))
    indices = None if d.indices is None else to_last(d.indices) if last else d.indices
    where = {"layout": "channels_last" if last else "channels_first"}
    function = getattr(module, f"{p.op}_backward" if p.backward else p.op)
    if indices is not None:
        first = (grad, indices) if p.backward else (x, indices, *p.args)
        return partial(function, *first, **where)
    if not p.backward:
        return partial(function, x, *p.args, **where)
    if "lp_pool" in p.op:
        return partial(function, grad, x, y, *p.args, **where)
    return partial(function, grad, x if "max" in p.op else x.shape, *p.args, **where)


def is_max_backward(p: Problem) -> bool:
    """Whether somebody has to know where the maxima were."""
    return p.backward and "max_pool" in p.op


def run_arraynn(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """Our kernels in both layouts."""
    del threads
    found = []
    for last in (False, True):
        layout = "channels_last" if last else "channels_first"
        if is_max_backward(p):
            x, grad = (to_last(a) if last else a for a in (d.x, d.grad))
            forward = getattr(kernels(), p.op)
            indices = forward(x, *p.args, return_indices=True, layout=layout)[1]
            found += max_backward(p.op, p.args, layout, x, grad, indices)
            continue
        arrays = partial(last_array, last)
        found.append(Candidate("arraynn", our_call(p, d, kernels(), last), layout, arrays=arrays))
    return found


def run_numpy(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """The plain NumPy reference."""
    del threads
    group = "from x" if is_max_backward(p) else ""
    return [Candidate("numpy", our_call(p, d, reference()), group=group)]


def _first(result: Any) -> tuple[Array, ...]:
    """Return the output, or the only gradient."""
    return (np.asarray(result[0] if isinstance(result, tuple) else result),)


def run_torch(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """PyTorch eager; the backward alone, of a graph that is kept, with the indices in it."""
    del threads
    torch = peers.load("torch")
    name, args = p.op, p.args
    if p.op == "global_lp_pool":
        name, args = f"lp_pool{len(p.sizes)}d", (*p.args, p.sizes)
    elif p.op.startswith("global"):
        name, args = f"adaptive_avg_pool{len(p.sizes)}d", (1,)
    function = getattr(torch.nn.functional, name)
    forms = ["contiguous_format"]
    if len(p.sizes) > 1:
        forms.append("channels_last" if len(p.sizes) == 2 else "channels_last_3d")
    found = []
    for form in forms:

        def as_torch(a: Array, form: str = form) -> Any:
            return torch.from_numpy(a).contiguous(memory_format=getattr(torch, form))

        x = as_torch(d.x).requires_grad_(p.backward)
        more = () if d.indices is None else (as_torch(d.indices),)
        forward = partial(function, x, *more, *args)
        one = partial(Candidate, "torch", variant=form, arrays=_first)
        if not p.backward:
            found.append(one(call=forward))
            continue
        grad = as_torch(d.grad)
        backward = partial(torch.autograd.grad, forward(), x, grad, retain_graph=True)
        if not is_max_backward(p):
            found.append(one(call=backward))
            continue

        def step(forward: Any = forward, x: Any = x, grad: Any = grad) -> Any:
            return torch.autograd.grad(forward(), x, grad)

        found.append(one(call=backward, group="indices"))
        found += [one(call=step, group=group) for group in ("from x", "with forward")]
    return found


RUNNERS = {"arraynn": run_arraynn, "numpy": run_numpy, "torch": run_torch}


def prepare(p: Problem, libraries: Sequence[str], threads: int) -> Prepared:
    """Make the data, the candidates and the reference answer of `p`."""
    d = make_data(p)
    wide = Data(d.x, d.y.astype(np.float64), d.grad.astype(np.float64), d.indices)
    if "max" not in p.op:
        wide = Data(d.x.astype(np.float64), *(a for a in (wide.y, wide.grad)), d.indices)
    if "max" in p.op and not p.backward:
        expected, bound = d.y, 0.0
    else:
        expected = our_call(p, wide, reference())()
        # Taps of a window, and windows over an element: sums of numbers in [-1, 1].
        terms = max(d.x.size, d.y.size) / min(d.x.size, d.y.size) if d.y.size else 1
        bound = (64 + 8 * terms) * unit_roundoff(p.dtype)
    return Prepared(collect(RUNNERS, libraries, p, d, threads), (expected,), [bound])


def nbytes(p: Problem) -> float:
    """Every array once."""
    x = p.n * p.c * int(np.prod(p.sizes))
    out = getattr(reference(), p.op)
    item = np.dtype(p.dtype).itemsize
    if p.op.startswith("max_unpool"):
        return float((x + 4 * x) * item + 8 * x)
    y = p.n * p.c * int(np.prod(out(np.zeros((1, 1, *p.sizes), p.dtype), *p.args).shape))
    if not p.backward:
        return float((x + y) * item)
    lp = 1 if "lp_pool" in p.op else 0
    reads_x = 1 if "max" in p.op or lp else 0
    return float(((1 + reads_x) * x + (1 + lp) * y) * item)


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return the grid, or its tiny shapes."""
    problems = [
        Problem(*shape, backward, dtype)
        for backward in (False, True)
        for shape in (TINY if tiny else SHAPES)
    ]
    return [
        Case("pool", p.name, dtype, partial(prepare, p), 0.0, nbytes(p), "copy") for p in problems
    ]
