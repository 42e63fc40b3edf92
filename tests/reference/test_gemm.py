"""The gemm references against hand-worked cases and finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from arraynn import reference
from tolerances import assert_gradient


def test_linear_by_hand() -> None:
    x = np.array([[1.0, 2.0], [3.0, 4.0], [0.0, -1.0]])
    weight = np.array([[1.0, -1.0], [0.5, 2.0]])
    bias = np.array([10.0, -1.0])
    residual = np.array([[0.0, 1.0], [-20.0, 0.0], [0.0, 0.0]])
    np.testing.assert_array_equal(
        reference.linear(x, weight, bias), [[9.0, 3.5], [9.0, 8.5], [11.0, -3.0]]
    )
    np.testing.assert_array_equal(
        reference.linear(x, weight, bias, residual=residual, activation="relu"),
        [[9.0, 4.5], [0.0, 8.5], [11.0, 0.0]],
    )


def test_matmul_broadcasts_like_numpy() -> None:
    a = np.arange(12.0).reshape(2, 1, 2, 3)
    b = np.arange(18.0).reshape(3, 3, 2)
    out = reference.matmul(a, b)
    assert out.shape == (2, 3, 2, 2)
    assert out[1, 2, 0, 1] == 6 * 13 + 7 * 15 + 8 * 17


@pytest.mark.parametrize("shape", [(5, 4), (4,), (2, 3, 4), (0, 4), (3, 0)])
def test_linear_backward(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x = rng.standard_normal(shape)
    weight = rng.standard_normal((3, shape[-1]))
    grad = rng.standard_normal((*shape[:-1], 3))
    grad_x, grad_weight, grad_bias = reference.linear_backward(grad, x, weight)
    assert grad_x is not None
    assert grad_weight is not None
    assert grad_bias is not None
    assert_gradient(lambda v: np.sum(grad * reference.linear(v, weight)), x, grad_x, rng)
    assert_gradient(lambda v: np.sum(grad * reference.linear(x, v)), weight, grad_weight, rng)
    zero = np.zeros(3)
    assert_gradient(lambda v: np.sum(grad * reference.linear(x, weight, v)), zero, grad_bias, rng)


def test_linear_backward_computes_only_what_is_needed() -> None:
    ones = np.ones((2, 2))
    assert reference.linear_backward(ones, ones, ones, needs=("weight",))[0] is None
    assert reference.linear_backward(ones, ones, ones, needs=("x",))[1:] == (None, None)


def test_the_dtype_of_the_input_is_kept() -> None:
    x = np.ones((2, 3), np.float32)
    assert reference.linear(x, x, np.ones(2, np.float32), activation="gelu").dtype == np.float32


def test_unknown_activation_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"activation: .*gelu_tanh.*got 'swoosh'"):
        reference.linear(np.ones((1, 1)), np.ones((1, 1)), activation="swoosh")
