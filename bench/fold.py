"""Unfold and fold, each the gradient of the other.

Traffic: the image and the columns once each.
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

# (samples, channels, size, kernel, stride, padding): a 3x3 of ResNet-50, patches of a ViT.
SHAPES = ((1, 64, 56, 3, 1, 1), (1, 256, 14, 3, 1, 1), (1, 3, 224, 16, 16, 0))
TINY = ((2, 3, 7, 3, 2, 1),)


@dataclass(frozen=True)
class Problem:
    """Square windows of square images."""

    op: str
    n: int
    c: int
    size: int
    kernel: int
    stride: int
    padding: int
    dtype: str

    @property
    def window(self) -> tuple[int, int, int, int]:
        """Kernel size, dilation, padding and stride."""
        return self.kernel, 1, self.padding, self.stride

    @property
    def windows(self) -> int:
        """Windows of an image."""
        return ((self.size + 2 * self.padding - self.kernel) // self.stride + 1) ** 2

    @property
    def name(self) -> str:
        """Name in tables, such as "unfold n1 64x56 3x3/1"."""
        k = self.kernel
        return f"{self.op} n{self.n} {self.c}x{self.size} {k}x{k}/{self.stride}"


def call_of(p: Problem, module: Any, x: Any) -> Any:
    """Return the call of the kernels, the references or PyTorch's functions."""
    function = getattr(module, p.op)
    if p.op == "fold":
        return partial(function, x, (p.size, p.size), *p.window)
    return partial(function, x, *p.window)


def run_arraynn(p: Problem, x: Array, threads: int) -> list[Candidate]:
    """Our kernels."""
    del threads
    return [Candidate("arraynn", call_of(p, kernels(), x))]


def run_numpy(p: Problem, x: Array, threads: int) -> list[Candidate]:
    """The plain NumPy reference."""
    del threads
    return [Candidate("numpy", call_of(p, reference(), x))]


def run_torch(p: Problem, x: Array, threads: int) -> list[Candidate]:
    """PyTorch eager."""
    del threads
    torch = peers.load("torch")
    return [Candidate("torch", call_of(p, torch.nn.functional, torch.from_numpy(x)))]


RUNNERS = {"arraynn": run_arraynn, "numpy": run_numpy, "torch": run_torch}


def prepare(p: Problem, libraries: Sequence[str], threads: int) -> Prepared:
    """Make the data, the candidates and the reference answer of `p`."""
    shape: tuple[int, ...] = (p.n, p.c, p.size, p.size)
    if p.op == "fold":
        shape = (p.n, p.c * p.kernel**2, p.windows)
    x = uniform(p.dtype, *shape, seed=1)
    expected = call_of(p, reference(), x.astype(np.float64) if p.op == "fold" else x)()
    bound = p.kernel**2 * unit_roundoff(p.dtype) * p.kernel**2 if p.op == "fold" else 0.0
    return Prepared(collect(RUNNERS, libraries, p, x, threads), (expected,), [bound])


def nbytes(p: Problem) -> float:
    """Image and columns."""
    elements = p.n * p.c * (p.size**2 + p.kernel**2 * p.windows)
    return float(np.dtype(p.dtype).itemsize * elements)


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return the grid, or its tiny shapes."""
    problems = [
        Problem(op, *shape, dtype)
        for op in ("unfold", "fold")
        for shape in (TINY if tiny else SHAPES)
    ]
    return [
        Case("conv", p.name, dtype, partial(prepare, p), 0.0, nbytes(p), "copy") for p in problems
    ]
