"""The pooling references against hand-worked cases and finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import reference
from tolerances import assert_gradient

NAN, INF = np.nan, np.inf


def image(rows: list[list[float]]) -> Any:
    return np.array(rows, dtype=float)[None, None]


def test_max_by_hand() -> None:
    x = image([[1, 2, 2], [2, 0, 5], [7, 7, 3]])
    y, indices = reference.max_pool2d(x, 2, 1, return_indices=True)
    np.testing.assert_array_equal(y[0, 0], [[2, 5], [7, 7]])
    np.testing.assert_array_equal(indices[0, 0], [[1, 5], [6, 7]])
    assert indices.dtype == np.int64
    grad = reference.max_pool2d_backward(image([[1, 10], [100, 1000]]), x, 2, 1)
    np.testing.assert_array_equal(grad[0, 0], [[0, 1, 0], [0, 0, 10], [100, 1000, 0]])


def test_max_of_nan_and_infinities() -> None:
    x = image([[-INF, -INF, 1, NAN], [-INF, -INF, NAN, INF]])
    y, indices = reference.max_pool2d(x, 2, return_indices=True)
    np.testing.assert_array_equal(y[0, 0], [[-INF, NAN]])
    np.testing.assert_array_equal(indices[0, 0], [[0, 3]])
    # Padding counts as less than -inf: the index is that of an input element.
    indices = reference.max_pool2d(x[..., :2], 2, 1, 1, return_indices=True)[1]
    np.testing.assert_array_equal(indices[0, 0], [[0, 0, 1], [0, 0, 1], [2, 2, 3]])


def test_window_without_an_element() -> None:
    x = np.ones((1, 1, 1, 1))
    y, indices = reference.max_pool2d(x, 2, 1, ((2, 2), (2, 2)), 3, return_indices=True)
    assert y.shape == (1, 1, 2, 2)
    np.testing.assert_array_equal(y, -INF)
    np.testing.assert_array_equal(indices, -1)
    grad = reference.max_pool2d_backward(np.ones_like(y), x, 2, 1, ((2, 2), (2, 2)), 3)
    np.testing.assert_array_equal(grad, 0)
    y = reference.avg_pool2d(x, 2, 1, ((2, 2), (2, 2)), count_include_pad=False, dilation=3)
    np.testing.assert_array_equal(y, 0)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "floor", "ceil"),
    [
        (5, 2, 2, 0, 2, 3),
        (4, 2, 2, 1, 3, 3),
        (5, 3, 2, 1, 3, 3),
        (6, 1, 4, 0, 2, 2),
        (3, 1, 5, 0, 1, 1),
    ],
)
def test_output_size(
    size: int, kernel: int, stride: int, padding: int, floor: int, ceil: int
) -> None:
    x = np.ones((1, 1, size, size))
    for mode, expected in ((False, floor), (True, ceil)):
        y = reference.max_pool2d(x, kernel, stride, padding, ceil_mode=mode)
        assert y.shape == (1, 1, expected, expected)


def test_average_divisors_by_hand() -> None:
    x = image([[1, 2, 3], [4, 5, 6], [7, 8, 9]])

    def pool(**options: Any) -> Any:
        return reference.avg_pool2d(x, 2, 2, **options)[0, 0]

    np.testing.assert_array_equal(pool(), [[3]])
    # ceil_mode: windows beyond the input count only what is inside.
    np.testing.assert_array_equal(pool(ceil_mode=True), [[3, 4.5], [7.5, 9]])
    np.testing.assert_array_equal(pool(padding=1), [[0.25, 1.25], [2.75, 7]])
    np.testing.assert_array_equal(pool(padding=1, count_include_pad=False), [[1, 2.5], [5.5, 7]])
    np.testing.assert_array_equal(pool(padding=1, divisor_override=2), [[0.5, 2.5], [5.5, 14]])
    with pytest.raises(ValueError, match="divisor_override"):
        pool(divisor_override=0)


CASES: list[dict[str, Any]] = [
    {"kernel_size": 2},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": 1, "ceil_mode": True},
    {"kernel_size": 3, "stride": 2, "padding": "same", "dilation": 2},
    {"kernel_size": 2, "stride": 3, "padding": ((0, 1), (1, 0)), "layout": "channels_last"},
    {"kernel_size": 2, "stride": 2, "padding": "same_lower", "ceil_mode": True},
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_backward_is_the_derivative(options: dict[str, Any], rng: np.random.Generator) -> None:
    # Distinct values far apart: a step of the finite difference changes no maximum.
    x = rng.permutation(2 * 3 * 7 * 6).reshape(2, 3, 7, 6).astype(np.float64)
    y, indices = reference.max_pool2d(x, **options, return_indices=True)
    grad = rng.standard_normal(y.shape)
    grad_x = reference.max_pool2d_backward(grad, x, **options)
    assert_gradient(
        lambda v: np.sum(grad * reference.max_pool2d(v, **options)), x, grad_x, rng, step=1e-3
    )
    np.testing.assert_array_equal(
        reference.max_pool2d_backward(grad, x, **options, indices=indices), grad_x
    )
    for more in ({}, {"count_include_pad": False}, {"divisor_override": 3}):
        y = reference.avg_pool2d(x, **options, **more)
        grad = rng.standard_normal(y.shape)
        grad_x = reference.avg_pool2d_backward(grad, x.shape, **options, **more)

        def loss(v: Any, grad: Any = grad, more: Any = more) -> Any:
            return np.sum(grad * reference.avg_pool2d(v, **options, **more))

        assert_gradient(loss, x, grad_x, rng, step=1e-3)
