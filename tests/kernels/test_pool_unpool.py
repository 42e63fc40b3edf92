"""Max unpooling against the reference, at every ISA, in both layouts."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from memory import mixed_layouts
from tolerances import assert_gradient, assert_same_bits

from .problems import arranged, check_out, normal, thread_counts

pytestmark = pytest.mark.usefixtures("isa")

# Shape and window of the pooling whose maxima go back
UNPOOL: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1, 1, 1), {"kernel_size": 1}),
    ((2, 3, 8), {"kernel_size": 2}),
    ((2, 17, 34), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((1, 33, 1001), {"kernel_size": (2,), "stride": (2,)}),
    ((2, 3, 8, 8), {"kernel_size": 2}),
    ((2, 17, 9, 8), {"kernel_size": (3, 2), "stride": (3, 1)}),
    ((1, 40, 12, 11), {"kernel_size": 3, "stride": 2, "padding": (1, 0)}),
    ((0, 3, 8, 8), {"kernel_size": 2}),
    ((2, 0, 8, 8), {"kernel_size": 2}),
]


def named(name: str, x: Any, on: Any = kernels) -> tuple[Any, Any, Any, Any]:
    """Return kernel and reference of lp_pool or max_unpool for x, each with its backward."""
    name = name if name.startswith("global") else f"{name}{x.ndim - 2}d"
    back = f"{name}_backward"
    found = (on, name), (reference, name), (on, back), (reference, back)
    return tuple(getattr(*f) for f in found)  # type: ignore[return-value]


def sizes_of(x: Any, layout: str) -> Any:
    return x.shape[1:-1] if layout == "channels_last" else x.shape[2:]


def check_unpool(
    x: Any, layout: str, rng: np.random.Generator, on: Any = kernels, **options: Any
) -> None:
    """Numbers move: every bit is the reference's."""
    pool = getattr(on, f"max_pool{x.ndim - 2}d")
    y, indices = pool(x, **options, return_indices=True, layout=layout)
    kernel, ref, kernel_back, ref_back = named("max_unpool", x, on)
    more = {**options, "output_size": sizes_of(x, layout), "layout": layout}
    got = kernel(y, indices, **more)
    assert got.shape == x.shape
    assert got.flags.c_contiguous
    assert_same_bits(got, ref(y, indices, **more))
    np.testing.assert_array_equal(got[got != 0], x[got != 0])
    grad = normal(rng, x.dtype, *x.shape)
    grad_y = kernel_back(grad, indices, layout=layout)
    assert_same_bits(grad_y, ref_back(grad, indices, layout=layout))


def check_unpool_outs(x: Any, layout: str, strided: bool, rng: np.random.Generator) -> None:
    unpool, _, back, _ = named("max_unpool", x)
    indices = rng.integers(0, 2 * sizes_of(x, layout)[0], x.shape)
    check_out(partial(unpool, x, indices, 2, layout=layout), strided)
    grad = np.cos(unpool(x, indices, 2, layout=layout))
    check_out(partial(back, grad, indices, layout=layout), strided)


@pytest.mark.parametrize(("shape", "options"), UNPOOL, ids=str)
def test_unpool(
    dtype: Any,
    layout: str,
    shape: tuple[int, ...],
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    """max_unpool1d and max_unpool2d."""
    check_unpool(arranged(normal(rng, dtype, *shape), layout), layout, rng, **options)


def test_unpool_without_a_size_and_with_equal_indices(
    dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    for shape in ((2, 19, 7), (2, 19, 4, 3), (1, 1, 30), (3, 700, 2, 2), (1, 2, 70, 50)):
        x = arranged(normal(rng, dtype, *shape), layout)
        kernel, ref, kernel_back, ref_back = named("max_unpool", x)
        indices = rng.integers(0, 6, x.shape)
        got = kernel(x, indices, 3, 2, 1, layout=layout)
        assert sizes_of(got, layout) == tuple(2 * n - 1 for n in sizes_of(x, layout))
        assert_same_bits(got, ref(x, indices, 3, 2, 1, layout=layout))
        assert_same_bits(
            kernel_back(got, indices, layout=layout), ref_back(got, indices, layout=layout)
        )


def test_any_memory(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    for shape in ((2, 5, 17), (2, 5, 9, 17)):
        x = arranged(normal(rng, dtype, *shape), layout)
        unpool, _, unpool_back, _ = named("max_unpool", x)
        indices = rng.integers(0, 2 * sizes_of(x, layout)[0], x.shape)
        up = unpool(x, indices, 2, layout=layout)
        grad = normal(rng, dtype, *up.shape)
        expected = unpool_back(grad, indices, layout=layout)
        for name, (a, g, i) in mixed_layouts(x, grad, indices):
            assert_same_bits(unpool(a, i, 2, layout=layout), up, name)
            assert_same_bits(unpool_back(g, i, layout=layout), expected, name)


@pytest.mark.parametrize("strided", [False, True])
def test_out_is_filled_and_nothing_beside_it(
    dtype: Any, layout: str, strided: bool, rng: np.random.Generator
) -> None:
    for shape in ((2, 5, 17), (1, 3, 5, 70), (2, 5, 9, 17)):
        x = arranged(normal(rng, dtype, *shape), layout)
        check_unpool_outs(x, layout, strided, rng)


def test_unpool_backward_is_the_derivative(layout: str, rng: np.random.Generator) -> None:
    for shape in ((2, 3, 9), (2, 3, 4, 5)):
        x = arranged(normal(rng, np.float64, *shape), layout)
        pool = kernels.max_pool1d if x.ndim == 3 else kernels.max_pool2d
        big = arranged(normal(rng, np.float64, *shape[:2], *(2 * n for n in shape[2:])), layout)
        _, indices = pool(big, 2, return_indices=True, layout=layout)
        kernel, _, back, _ = named("max_unpool", x)
        grad = normal(rng, np.float64, *big.shape)

        def loss(v: Any, args: Any = (kernel, indices, grad)) -> Any:
            return np.sum(args[2] * args[0](v, args[1], 2, layout=layout))

        assert_gradient(loss, x, back(grad, indices, layout=layout), rng)


def test_same_bits_for_every_thread_count(
    dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    for shape in ((5, 33, 1700), (5, 33, 40, 41), (1, 3, 300, 400)):
        x = arranged(normal(rng, dtype, *shape), layout)
        unpool, _, unpool_back, _ = named("max_unpool", x)
        indices = rng.integers(0, 3 * sizes_of(x, layout)[0], x.shape)
        first: list[Any] = []
        for n in thread_counts():
            for run in range(2):
                up = unpool(x, indices, 3, layout=layout)
                results = [up, unpool_back(up, indices, layout=layout)]
                first = first or results
                for got, expected in zip(results, first, strict=True):
                    assert_same_bits(got, expected, f"{n} threads, run {run}")
