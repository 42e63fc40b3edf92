"""Convolution, ReLU and max pooling: in one pass, and as the two calls it stands for.

The blocks of AlexNet, VGG-16, ResNet-50, LeNet and the demo network that end in a pooling, and a
depthwise one. FLOP are the convolution's; bytes are input, weights and the pooled result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from . import peers
from .case import Array, Candidate, Case, Prepared, collect, dot_bound, kernels, reference, uniform
from .conv import from_last, part_of, to_last

# (samples, input channels, output channels, kernel, stride, padding, size, groups), then the
# pooling's (kernel, stride, padding).
SHAPES = (
    ((1, 3, 64, 7, 2, 3, 224, 1), (3, 2, 1)),
    ((1, 3, 64, 11, 4, 2, 224, 1), (3, 2, 0)),
    ((1, 64, 64, 3, 1, 1, 224, 1), (2, 2, 0)),
    ((1, 128, 128, 3, 1, 1, 112, 1), (2, 2, 0)),
    ((1, 256, 256, 3, 1, 1, 56, 1), (2, 2, 0)),
    ((1, 512, 512, 3, 1, 1, 28, 1), (2, 2, 0)),
    ((1, 512, 512, 3, 1, 1, 14, 1), (2, 2, 0)),
    ((8, 3, 64, 7, 2, 3, 224, 1), (3, 2, 1)),
    ((64, 1, 32, 3, 1, 1, 28, 1), (2, 2, 0)),
    ((64, 1, 32, 3, 1, 1, 8, 1), (2, 2, 0)),
    ((64, 32, 64, 3, 1, 1, 4, 1), (2, 2, 0)),
    ((1, 96, 96, 3, 1, 1, 112, 96), (2, 2, 0)),
)
TINY = (((2, 3, 5, 3, 2, 1, 9, 1), (3, 2, 1)), ((2, 4, 4, 3, 1, 1, 6, 4), (2, 2, 0)))


@dataclass(frozen=True)
class Problem:
    """One block on square images."""

    n: int
    ic: int
    oc: int
    kernel: int
    stride: int
    padding: int
    size: int
    groups: int
    window: tuple[int, int, int]
    dtype: str

    @property
    def geometry(self) -> tuple[int, int, int, int]:
        """Stride, padding, dilation and groups."""
        return self.stride, self.padding, 1, self.groups

    @property
    def conv_size(self) -> int:
        """Height and width of the convolution's result."""
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def out_size(self) -> int:
        """Height and width of the pooled array."""
        kernel, stride, padding = self.window
        return (self.conv_size + 2 * padding - kernel) // stride + 1

    @property
    def name(self) -> str:
        """Name in tables, such as "fwd pooled n1 3->64 7x7/2 224 3x3/2"."""
        stride = f"/{self.stride}" if self.stride > 1 else ""
        k, (p, s, _) = self.kernel, self.window
        kind = "pooled depthwise" if self.groups > 1 else "pooled"
        return f"fwd {kind} n{self.n} {self.ic}->{self.oc} {k}x{k}{stride} {self.size} {p}x{p}/{s}"


@dataclass(frozen=True)
class Data:
    """x (n, ic, h, w), weight (oc, ic / groups, kh, kw), bias (oc,)."""

    x: Array
    weight: Array
    bias: Array


def options(p: Problem) -> dict[str, Any]:
    """Return the pooling and the activation as keywords of `conv2d_pool`."""
    names = ("pool_size", "pool_stride", "pool_padding")
    return {**dict(zip(names, p.window, strict=True)), "activation": "relu"}


def run_arraynn(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """Our kernel in both layouts, and our two calls."""
    del threads
    k = kernels()
    found = []
    for layout in ("channels_first", "channels_last"):
        last = layout == "channels_last"
        x = to_last(d.x) if last else d.x
        arrays = (lambda y: (from_last(y),)) if last else (lambda y: (y,))

        def both(x: Array = x, layout: str = layout) -> Array:
            y = k.conv2d(x, d.weight, d.bias, *p.geometry, activation="relu", layout=layout)
            pooled: Array = k.max_pool2d(y, *p.window, layout=layout)
            return pooled

        one: Callable[[], Any] = partial(
            k.conv2d_pool, x, d.weight, d.bias, *p.geometry, **options(p), layout=layout
        )
        found.append(Candidate("arraynn", one, layout, arrays=arrays))
        found.append(Candidate("arraynn", both, f"{layout} two calls", arrays=arrays))
    return found


def run_numpy(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """The plain NumPy reference."""
    del threads
    call = partial(reference().conv2d_pool, d.x, d.weight, d.bias, *p.geometry, **options(p))
    return [Candidate("numpy", call)]


def run_torch(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """PyTorch eager in both memory formats: convolution, ReLU in place, pooling."""
    del threads
    torch = peers.load("torch")
    f = torch.nn.functional
    found = []
    for variant in ("contiguous_format", "channels_last"):
        form = getattr(torch, variant)
        x, weight = (torch.from_numpy(a).contiguous(memory_format=form) for a in (d.x, d.weight))
        bias = torch.from_numpy(d.bias)

        def call(x: Any = x, weight: Any = weight, bias: Any = bias) -> Any:
            return f.max_pool2d(f.conv2d(x, weight, bias, *p.geometry).relu_(), *p.window)

        found.append(Candidate("torch", call, variant.replace("_format", "")))
    return found


def run_jax(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """JAX, jitted as one function, in both layouts."""
    del threads
    jax = peers.load("jax")
    found = []
    for layout in ("NCHW", "NHWC"):
        last = layout == "NHWC"
        x = jax.numpy.asarray(to_last(d.x) if last else d.x)
        w = d.weight.transpose(2, 3, 1, 0) if last else d.weight
        bias = jax.numpy.asarray(d.bias if last else d.bias[:, None, None])
        numbers = (layout, "HWIO" if last else "OIHW", layout)

        def block(x: Any, w: Any, b: Any, numbers: Any = numbers, last: bool = last) -> Any:
            y = b + jax.lax.conv_general_dilated(
                x,
                w,
                [p.stride] * 2,
                [(p.padding, p.padding)] * 2,
                dimension_numbers=numbers,
                feature_group_count=p.groups,
            )
            kernel, stride, padding = (
                (one, v, v, one) if last else (one, one, v, v)
                for v, one in zip(p.window, (1, 1, 0), strict=True)
            )
            y = jax.numpy.maximum(y, 0)
            pads = [(v, v) for v in padding]
            return jax.lax.reduce_window(y, -jax.numpy.inf, jax.lax.max, kernel, stride, pads)

        function, args = jax.jit(block), (x, jax.numpy.asarray(np.ascontiguousarray(w)), bias)

        def call(function: Any = function, args: Any = args) -> Any:
            return jax.block_until_ready(function(*args))

        arrays = (lambda y: (from_last(y),)) if last else (lambda y: (np.asarray(y),))
        found.append(Candidate("jax", call, layout, arrays=arrays))
    return found


RUNNERS = {"arraynn": run_arraynn, "numpy": run_numpy, "torch": run_torch, "jax": run_jax}


def prepare(p: Problem, libraries: Sequence[str], threads: int) -> Prepared:
    """Make the data, the candidates and the reference answer of `p`."""
    per_group = p.ic // p.groups
    d = Data(
        uniform(p.dtype, p.n, p.ic, p.size, p.size, seed=1),
        uniform(p.dtype, p.oc, per_group, p.kernel, p.kernel, seed=2),
        uniform(p.dtype, p.oc, seed=3),
    )
    x, weight, bias = (a.astype(np.float64) for a in (d.x, d.weight, d.bias))
    expected = (reference().conv2d_pool(x, weight, bias, *p.geometry, **options(p)),)
    bound = dot_bound(per_group * p.kernel**2 + 1, p.dtype)
    return Prepared(collect(RUNNERS, libraries, p, d, threads), expected, [bound])


def flops(p: Problem) -> float:
    """Multiply-adds of the convolution count two."""
    return 2.0 * p.n * p.conv_size**2 * p.oc * p.ic // p.groups * p.kernel**2


def nbytes(p: Problem) -> float:
    """Input, weights and the pooled result."""
    x, y = p.n * p.ic * p.size**2, p.n * p.oc * p.out_size**2
    weight = p.oc * p.ic // p.groups * p.kernel**2
    return float(np.dtype(p.dtype).itemsize * (x + weight + y))


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return these blocks, or their tiny ones."""
    problems = [Problem(*sizes, window, dtype) for sizes, window in (TINY if tiny else SHAPES)]
    return [
        Case(
            "conv", p.name, dtype, partial(prepare, p), flops(p), nbytes(p), "fma", part_of(p.name)
        )
        for p in problems
    ]
