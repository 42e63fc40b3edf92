"""2-D pooling, forward and backward, in both layouts.

Traffic: the forward reads the input and writes the output; the backward of max pooling reads
the output's gradient and the input (or int64 indices) and writes the input's gradient, that of
average pooling reads only the gradient.

The gradient of a maximum needs to know where it was, so its rows are of three groups, and within
one everybody is given the same:

- "indices": those of the forward, which it took the time to find and to write;
- "from x": x alone. JAX does the same; PyTorch, which has no such kernel, calls its forward first;
- "with forward": nothing. What a training step pays, by either of our ways.
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
    distinct,
    kernels,
    reference,
    uniform,
    unit_roundoff,
)
from .conv import from_last, to_last

# (kind, kernel, stride, padding, channels, input height and width)
GRID = (
    ("max", 2, 2, 0, 64, 224),
    ("max", 3, 2, 1, 64, 112),
    ("avg", 2, 2, 0, 64, 112),
    ("avg", 7, 7, 0, 2048, 7),
)
DEMO = (("max", 2, 2, 0, 32, 8), ("max", 2, 2, 0, 64, 4))
TINY = (("max", 3, 2, 1, 3, 7), ("avg", 2, 2, 0, 5, 6))


@dataclass(frozen=True)
class Problem:
    """One square pooling."""

    n: int
    kind: str
    kernel: int
    stride: int
    padding: int
    c: int
    size: int
    backward: bool
    dtype: str

    @property
    def out_size(self) -> int:
        """Height and width of the output."""
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def name(self) -> str:
        """Name in tables, such as "max 3x3/2 fwd n8 64x112"."""
        way = "bwd" if self.backward else "fwd"
        k = self.kernel
        return f"{self.kind} {k}x{k}/{self.stride} {way} n{self.n} {self.c}x{self.size}"


@dataclass(frozen=True)
class Data:
    """x (n, c, h, w) of distinct values, grad (n, c, oh, ow), flat indices of the maxima."""

    x: Array
    grad: Array
    indices: Array


def last_array(last: bool, result: Any) -> Arrays:
    """Return the only array of `result`, or the last of several, channels first."""
    array = result[-1] if isinstance(result, tuple) else result
    return (from_last(array) if last else np.asarray(array),)


def max_backward(
    op: str, args: tuple[Any, ...], layout: str, x: Array, grad: Array, indices: Array
) -> list[Candidate]:
    """Our gradients of a maximum: from x, from its indices, and both with the forward."""
    forward = partial(getattr(kernels(), op), x, *args, layout=layout)
    backward = partial(getattr(kernels(), f"{op}_backward"), grad, x, *args, layout=layout)

    def step() -> tuple[Array, Array]:
        return forward(), backward()

    def step_by_indices() -> tuple[Array, Array]:
        y, where = forward(return_indices=True)
        return y, backward(indices=where)

    one = partial(Candidate, "arraynn", arrays=partial(last_array, layout == "channels_last"))
    arrays = x.nbytes + grad.nbytes  # read by the forward and written by it, or the other way
    moved = (arrays + x.nbytes, arrays + indices.nbytes)
    given, name = partial(backward, indices=indices), f"{layout} indices"
    return [
        one(backward, layout, "from x", nbytes=moved[0]),
        one(given, name, "indices", nbytes=moved[1]),
        one(step, layout, "with forward", nbytes=arrays + moved[0]),
        one(step_by_indices, name, "with forward", nbytes=arrays + indices.nbytes + moved[1]),
    ]


def run_arraynn(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """Our kernels in both layouts."""
    del threads
    k = kernels()
    found = []
    for layout in ("channels_first", "channels_last"):
        last = layout == "channels_last"
        x, grad, indices = (to_last(a) if last else a for a in (d.x, d.grad, d.indices))
        arrays = (lambda y: (from_last(y),)) if last else (lambda y: (np.asarray(y),))
        one = partial(Candidate, "arraynn", variant=layout, arrays=arrays)
        where = {"layout": layout}
        args = (p.kernel, p.stride, p.padding)
        if p.backward and p.kind == "max":
            found += max_backward("max_pool2d", args, layout, x, grad, indices)
        elif p.backward:
            found.append(one(call=partial(k.avg_pool2d_backward, grad, x.shape, *args, **where)))
        else:
            function = k.max_pool2d if p.kind == "max" else k.avg_pool2d
            out = np.empty_like(grad)
            found.append(one(call=partial(function, x, *args, **where), group="fresh"))
            found.append(one(call=partial(function, x, *args, out=out, **where), group="reused"))
    return found


def run_numpy(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """The plain NumPy reference."""
    del threads
    ref = reference()
    args = (p.kernel, p.stride, p.padding)
    if p.backward and p.kind == "max":
        call = partial(ref.max_pool2d_backward, d.grad, d.x, *args)
        return [Candidate("numpy", call, group="from x")]
    if p.backward:
        return [Candidate("numpy", partial(ref.avg_pool2d_backward, d.grad, d.x.shape, *args))]
    function = ref.max_pool2d if p.kind == "max" else ref.avg_pool2d
    return [Candidate("numpy", partial(function, d.x, *args), group="fresh")]


def run_torch(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """PyTorch eager in both memory formats."""
    del threads
    torch = peers.load("torch")
    aten, functional = torch.ops.aten, torch.nn.functional
    kernel, stride, padding = [p.kernel] * 2, [p.stride] * 2, [p.padding] * 2
    found = []
    for variant in ("contiguous_format", "channels_last"):
        form = getattr(torch, variant)
        x, grad, indices = (
            torch.from_numpy(a).contiguous(memory_format=form) for a in (d.x, d.grad, d.indices)
        )
        one = partial(Candidate, "torch", variant=variant.replace("_format", ""))
        if p.backward and p.kind == "max":
            window = (kernel, stride, padding, [1, 1], False)
            backward = partial(aten.max_pool2d_with_indices_backward, grad, x, *window)
            forward = partial(aten.max_pool2d_with_indices, x, *window)

            def step(forward: Any = forward, backward: Any = backward) -> Any:
                y, where = forward()
                return y, backward(where)

            found.append(one(call=partial(backward, indices), group="indices"))
            arrays = partial(last_array, False)
            found += [one(call=step, arrays=arrays, group=g) for g in ("from x", "with forward")]
        elif p.backward:
            call = partial(
                aten.avg_pool2d_backward, grad, x, kernel, stride, padding, False, True, None
            )
            found.append(one(call=call))
        elif p.kind == "max":
            call = partial(functional.max_pool2d, x, kernel, stride, padding)
            found.append(one(call=call, group="fresh"))
            outs = {"out": torch.empty_like(grad), "indices": torch.empty_like(indices)}
            call = partial(
                aten.max_pool2d_with_indices.out,
                *(x, kernel, stride, padding, [1, 1], False),
                **outs,
            )
            found.append(one(call=call, group="reused", arrays=lambda r: (np.asarray(r[0]),)))
        else:
            call = partial(functional.avg_pool2d, x, kernel, stride, padding)
            found.append(one(call=call, group="fresh"))
            call = partial(
                aten.avg_pool2d.out, x, kernel, stride, padding, out=torch.empty_like(grad)
            )
            found.append(one(call=call, group="reused"))
    return found


def run_jax(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """JAX, jitted, in both layouts."""
    del threads
    jax = peers.load("jax")
    found = []
    for layout in ("NCHW", "NHWC"):
        last = layout == "NHWC"
        x, grad = (jax.numpy.asarray(to_last(a) if last else a) for a in (d.x, d.grad))

        def spread(v: Any, rest: Any, last: bool = last) -> Any:
            return (rest, v, v, rest) if last else (rest, rest, v, v)

        def forward(x: Any, spread: Any = spread) -> Any:
            window, strides = spread(p.kernel, 1), spread(p.stride, 1)
            pads = spread((p.padding, p.padding), (0, 0))
            if p.kind == "max":
                return jax.lax.reduce_window(x, -np.inf, jax.lax.max, window, strides, pads)
            total = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, pads)
            return total / p.kernel**2

        def step(x: Any, g: Any, forward: Any = forward) -> Any:
            y, gradient = jax.vjp(forward, x)
            return y, gradient(g)[0]

        def backward(x: Any, g: Any, step: Any = step) -> Any:
            return step(x, g)[1]

        functions: dict[str, Callable[..., Any]] = {"fresh": forward}
        if p.backward:
            functions = {"": backward}
            if p.kind == "max":
                functions = {"from x": backward, "with forward": step}
        args = (x, grad) if p.backward else (x,)
        for group, function in functions.items():
            jitted = jax.jit(function)

            def call(jitted: Any = jitted, args: Any = args) -> Any:
                return jax.block_until_ready(jitted(*args))

            found.append(Candidate("jax", call, layout, group, partial(last_array, last)))
    return found


def run_onnxruntime(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """ONNX Runtime, forward only."""
    if p.backward:
        return []
    call = peers.onnx_call(
        "MaxPool" if p.kind == "max" else "AveragePool",
        {"x": d.x},
        threads,
        kernel_shape=[p.kernel] * 2,
        strides=[p.stride] * 2,
        pads=[p.padding] * 4,
    )
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
    shape = (p.n, p.c, p.size, p.size)
    # With equal maxima in a window libraries may pick different ones.
    x = distinct(p.dtype, *shape, seed=1)
    grad = uniform(p.dtype, p.n, p.c, p.out_size, p.out_size, seed=2)
    ref = reference()
    args = (p.kernel, p.stride, p.padding)
    indices = np.zeros(grad.shape, np.int64)
    if p.kind == "max":
        best, indices = ref.max_pool2d(x, *args, 1, False, True)
    data = Data(x, grad, indices)
    u = unit_roundoff(p.dtype)
    # Windows over one element: as many terms are summed in its gradient.
    overlap = (-(-p.kernel // p.stride)) ** 2
    if p.kind == "max":
        expected = (
            ref.max_pool2d_backward(grad.astype(np.float64), x, *args) if p.backward else best
        )
        bound = overlap * overlap * u if overlap > 1 and p.backward else 0.0
    elif p.backward:
        expected = ref.avg_pool2d_backward(grad.astype(np.float64), shape, *args)
        bound = overlap * 3 * u
    else:
        expected = ref.avg_pool2d(x.astype(np.float64), *args)
        bound = p.kernel**2 * u
    return Prepared(collect(RUNNERS, libraries, p, data, threads), (expected,), [bound])


def nbytes(p: Problem) -> float:
    """Input and output once each; the backward of max pooling reads the input again."""
    x, y = p.n * p.c * p.size**2, p.n * p.c * p.out_size**2
    times = 2 if p.kind == "max" and p.backward else 1
    return float(np.dtype(p.dtype).itemsize * (times * x + y))


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return the family's grid, or its tiny shapes."""
    grid = [(2, *s) for s in TINY] if tiny else [(n, *s) for n in (1, 4) for s in GRID]
    if not tiny:
        grid += [(64, *shape) for shape in DEMO]
    problems = [Problem(*shape, backward, dtype) for backward in (False, True) for shape in grid]
    return [
        Case("pool", p.name, dtype, partial(prepare, p), 0.0, nbytes(p), "copy") for p in problems
    ]
