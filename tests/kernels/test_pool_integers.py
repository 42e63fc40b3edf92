"""Max pooling of integers against the reference, at every ISA, in both layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import kernels, reference
from memory import Guarded, mixed_layouts

from .problems import thread_counts
from .test_pool_family import arranged

pytestmark = pytest.mark.usefixtures("isa")

DTYPES = ["uint8", "int8", "int16", "int32", "int64"]
# Function, shape, arguments, options
CALLS: list[tuple[str, tuple[int, ...], tuple[Any, ...], dict[str, Any]]] = [
    ("max_pool1d", (2, 17, 40), (3, 2, 1), {}),
    ("max_pool1d", (2, 3, 31), (4, 5), {"ceil_mode": True}),
    ("max_pool2d", (2, 3, 8, 8), (2,), {}),
    ("max_pool2d", (1, 33, 9, 70), (3, 2, 1), {}),
    ("max_pool2d", (1, 5, 9, 70), ((2, 3), 1, ((1, 0), (2, 1))), {}),
    ("max_pool2d", (2, 19, 11, 7), (3, 3, "same"), {}),
    ("max_pool2d", (1, 4, 9, 9), (3, 1, 2), {"dilation": 3}),
    ("max_pool3d", (1, 18, 5, 6, 9), (3, 2, 1), {"ceil_mode": True}),
    ("max_pool3d", (1, 2, 5, 6, 40), ((2, 1, 3), 1), {}),
    ("adaptive_max_pool1d", (2, 5, 33), (7,), {}),
    ("adaptive_max_pool2d", (2, 17, 9, 13), ((4, 5),), {}),
    ("adaptive_max_pool3d", (1, 5, 3, 5, 7), ((2, 3, 4),), {}),
    ("global_max_pool", (2, 17, 9, 13), (), {}),
    ("global_max_pool", (2, 3, 4, 5, 6), (), {}),
    ("max_pool2d", (0, 3, 8, 8), (2,), {}),
]


def values(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> list[Any]:
    """Few values, so that maxima are equal, and all of them with the extremes."""
    info = np.iinfo(dtype)
    wide = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    few = rng.integers(0, 3, shape).astype(dtype)
    few.ravel()[::5] = info.min
    wide.ravel()[::7] = info.max
    return [few, wide, np.full(shape, info.min, dtype)]


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize(("name", "shape", "args", "options"), CALLS, ids=str)
def test_values_and_indices(
    kind: str,
    layout: str,
    name: str,
    shape: tuple[int, ...],
    args: tuple[Any, ...],
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    kernel, ref = getattr(kernels, name), getattr(reference, name)
    for numbers in values(rng, kind, shape):
        x = arranged(numbers, layout)
        y, indices = ref(x, *args, **options, return_indices=True, layout=layout)
        assert y.dtype == kind
        got, where = kernel(x, *args, **options, return_indices=True, layout=layout)
        assert (got.dtype, where.dtype) == (kind, np.int64)
        np.testing.assert_array_equal(got, y)
        np.testing.assert_array_equal(where, indices)
        np.testing.assert_array_equal(kernel(x, *args, **options, layout=layout), y)


@pytest.mark.parametrize("kind", DTYPES)
def test_memory_out_and_threads(kind: str, layout: str, rng: np.random.Generator) -> None:
    x = arranged(rng.integers(0, 100, (3, 40, 50, 51)).astype(kind), layout)
    expected = kernels.max_pool2d(x, 3, 2, 1, layout=layout)
    for label, (a,) in mixed_layouts(x):
        np.testing.assert_array_equal(
            kernels.max_pool2d(a, 3, 2, 1, layout=layout), expected, label
        )
    for strided in (False, True):
        guard = Guarded(expected.shape, np.dtype(kind), strided=strided)
        kernels.max_pool2d(x, 3, 2, 1, layout=layout, out=guard.out)
        np.testing.assert_array_equal(guard.out, expected)
        guard.check()
    for _ in thread_counts():
        np.testing.assert_array_equal(kernels.max_pool2d(x, 3, 2, 1, layout=layout), expected)


def test_other_integers_and_gradients_are_refused() -> None:
    for dtype in ("uint16", "bool", "uint32", "uint64"):
        message = f"x: expected float16, .*uint8, int8, int16, int32 or int64, got {dtype}"
        with pytest.raises(TypeError, match=message):
            kernels.max_pool2d(np.zeros((1, 1, 4, 4), dtype), 2)
    x = np.zeros((1, 1, 4, 4), np.uint8)
    with pytest.raises(TypeError, match=r"\[max_pool2d_backward\] grad_out"):
        kernels.max_pool2d_backward(x[..., :2, :2], x, 2)
    with pytest.raises(TypeError, match=r"\[avg_pool2d\] x"):
        kernels.avg_pool2d(x, 2)
    assert ann.nn.functional.max_pool2d(x, 2).dtype == np.uint8
