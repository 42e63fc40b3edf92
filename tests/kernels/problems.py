"""What the kernel tests share: register tiles, sizes around them, thread counts, wide operands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import arraynn as ann
from arraynn import _core
from memory import Guarded
from tolerances import assert_same_bits, widen

#: Lengths of a sum around the unrolling and the cache block of any plan.
DEPTHS = [0, 1, 2, 15, 16, 17, 33, 255, 256, 257, 511, 512, 513, 600, 1100]

#: Lengths of a vector around the widths 4, 8, 16 and their unrolled multiples.
LENGTHS = [0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 131, 1009]

THREADS = (1, 2, 3, 4)


def register_tile(name: str, isa: str, dtype: Any) -> tuple[int, int]:
    """Return (MR, NR) of a registered gemm kernel."""
    for row in _core.kernels():
        if (row["name"], row["isa"]) == (name, isa):
            tile = row["tile"].split()[row["dtypes"].index(np.dtype(dtype).name)]
            rows, cols = tile.split("x")
            return int(rows), int(cols)
    raise AssertionError(f"{name} is not registered at {isa}")


def around(tile: int) -> list[int]:
    """Return 1, tile - 1, tile, tile + 1, and a prime beyond two tiles."""
    prime = next(p for p in (11, 17, 37, 67, 131) if p > 2 * tile)
    return sorted({1, max(tile - 1, 1), tile, tile + 1, prime})


def thread_counts() -> Iterator[int]:
    """Run the body of a loop under each thread count."""
    for n in THREADS:
        with ann.threads(n):
            yield n


def normal(rng: np.random.Generator, dtype: Any, *shape: int) -> Any:
    """Return standard normal numbers."""
    return rng.standard_normal(shape).astype(dtype)


def arranged(x: Any, layout: str) -> Any:
    """Give a channels-first array the layout under test, contiguous."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)) if layout == "channels_last" else x


def check_out(call: Callable[..., Any], strided: bool) -> None:
    """Into ``out=`` go the bits of a call without, and nothing beside it."""
    expected = call()
    guard = Guarded(expected.shape, expected.dtype, strided=strided)
    assert call(out=guard.out) is guard.out
    assert_same_bits(guard.out, expected)
    guard.check()


def absolute(*arrays: Any) -> Any:
    """Return absolute values in the wide dtype: what the roundings of a sum are relative to."""
    return tuple(None if a is None else np.abs(widen(a)) for a in arrays)
