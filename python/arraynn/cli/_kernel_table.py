"""The demo's last table: the kernels that one training step and a prediction really called.

The calls are recorded by standing in for the functions of ``arraynn.kernels`` while the network
runs, then replayed, ours and the reference's in turn.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import arraynn.kernels
import arraynn.reference
from arraynn._proof import Array
from arraynn.cli import _benchmarks

kernels: Any = arraynn.kernels
reference: Any = arraynn.reference


@dataclass(frozen=True)
class Call:
    """One recorded call."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def title(self) -> str:
        """The kernel's name, with the activation fused into it."""
        activation = self.kwargs.get("activation")
        return f"{self.name} + {activation}" if activation else self.name

    @property
    def shapes(self) -> str:
        """Shapes of its arrays, such as "64x1x8x8 32x1x3x3"; a list of arrays counts them."""
        texts = []
        for value in self.args:
            if isinstance(value, np.ndarray) and value.ndim:
                texts.append("x".join(map(str, value.shape)))
            elif isinstance(value, list | tuple) and any(isinstance(v, np.ndarray) for v in value):
                total = sum(v.size for v in value)
                texts.append(f"{len(value)} arrays, {total}")
                break
        return " ".join(texts[:3])


@dataclass(frozen=True)
class Line:
    """One kernel at one shape: seconds of both and the largest absolute difference."""

    call: Call
    ours: float
    numpy: float
    error: float


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """Record every call of a kernel that has a reference of the same name."""
    calls: list[Call] = []
    depth = 0

    def stand_in(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            # A kernel that calls another one is recorded once; in-place ones need the input as
            # it was.
            if depth == 0:
                calls.append(Call(name, copy.deepcopy(args), copy.deepcopy(kwargs)))
            depth += 1
            try:
                return function(*args, **kwargs)
            finally:
                depth -= 1

        return call

    names = [name for name in kernels.__all__ if callable(getattr(reference, name, None))]
    held = {name: getattr(kernels, name) for name in names}
    try:
        for name, function in held.items():
            setattr(kernels, name, stand_in(name, function))
        yield calls
    finally:
        for name, function in held.items():
            setattr(kernels, name, function)


def distinct(calls: list[Call]) -> list[Call]:
    """Drop repetitions of a kernel at the same shapes."""
    found: dict[tuple[str, str], Call] = {}
    for call in calls:
        found.setdefault((call.name, call.shapes), call)
    return list(found.values())


def _widened(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value.astype(np.float64)
    if isinstance(value, list | tuple):
        return type(value)(_widened(v) for v in value)
    return value


def _answers(module: Any, call: Call, wide: bool = False) -> list[Array]:
    """Arrays that the call returns, or changes in place where it returns none."""
    args, kwargs = copy.deepcopy(call.args), copy.deepcopy(call.kwargs)
    if wide:
        args = _widened(args)
        kwargs = {key: _widened(value) for key, value in kwargs.items() if key != "out"}
    else:
        kwargs.pop("out", None)
    result = getattr(module, call.name)(*args, **kwargs)
    if result is None or isinstance(result, float):
        result = args[0]
    found = result if isinstance(result, list | tuple) else [result]
    return [np.asarray(value) for value in found if value is not None]


def measure(calls: list[Call]) -> list[Line]:
    """Prove and time every call, ours against the reference in the same dtype."""
    timing = _benchmarks.load("timing")
    lines = []
    for call in calls:
        pairs = zip(_answers(kernels, call), _answers(reference, call, wide=True), strict=True)
        error = max(float(np.max(np.abs(a - b), initial=0.0)) for a, b in pairs)
        runs = [
            partial(getattr(module, call.name), *copy.deepcopy(call.args), **call.kwargs)
            for module in (kernels, reference)
        ]
        ours, numpy = timing.measure(runs, timing.QUICK)
        lines.append(Line(call, ours.median, numpy.median, error))
    return lines


def text(lines: list[Line]) -> str:
    """Format the table."""
    rows = [("kernel", "shapes", "ours", "NumPy", "ratio", "max error")]
    rows += [
        (
            line.call.title,
            line.call.shapes,
            f"{1e6 * line.ours:.1f} us",
            f"{1e6 * line.numpy:.1f} us",
            f"{line.numpy / line.ours:.1f}x",
            f"{line.error:.1e}",
        )
        for line in lines
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
