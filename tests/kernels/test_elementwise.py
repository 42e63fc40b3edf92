"""Activations and dropout against the reference, at every ISA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from activations import VANISH_AT_MINUS_INFINITY, every_variant, functions, scale_of, sweep
from arraynn import kernels, reference
from memory import LAYOUTS, Guarded, in_layout, mixed_layouts
from tolerances import (
    assert_close_to_reference,
    assert_gradient,
    assert_same_bits,
    widen,
)

from .problems import LENGTHS, normal, thread_counts

pytestmark = pytest.mark.usefixtures("isa")


@every_variant
def test_forward(name: str, options: dict[str, Any], dtype: Any) -> None:
    kernel, _, formula, _ = functions(name)
    x = sweep(dtype)
    ref, native = formula(widen(x), **options), formula(x, **options)
    scale = scale_of(name, options, x, ref)
    assert_close_to_reference(kernel(x, **options), ref, native, scale=scale, label=name)


@every_variant
def test_backward(name: str, options: dict[str, Any], dtype: Any, rng: np.random.Generator) -> None:
    _, kernel, _, formula = functions(name)
    x = sweep(dtype)
    # At its kinks a function has no derivative; each system picks a side.
    kinks = [0.0, 3.0, -3.0, 20.0, 4.0 / 3.0]
    x = x[~np.isin(x, np.asarray(kinks, dtype))]
    grad = normal(rng, dtype, x.size)
    ref = formula(widen(grad), widen(x), **options)
    native = formula(grad, x, **options)
    scale = 2 * np.abs(widen(grad))  # slopes are below 2 (elu with alpha 2.5 just at 0)
    got = kernel(grad, x, **options)
    assert_close_to_reference(got, ref, native, scale=scale, label=f"{name}_backward")


@every_variant
def test_infinities_and_nan(name: str, options: dict[str, Any], dtype: Any) -> None:
    kernel, backward, formula, _ = functions(name)
    x = np.array([np.inf, np.nan, -np.inf] * 11, dtype)
    got, expected = kernel(x, **options), formula(x, **options)
    if name in VANISH_AT_MINUS_INFINITY:
        assert (np.isnan(got[2::3]) | (got[2::3] == 0)).all()
        got[2::3] = expected[2::3]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    if name not in ("relu", "leaky_relu", "hardsigmoid", "hardswish"):
        nan = np.full(33, np.nan, dtype)
        assert np.isnan(backward(np.ones(33, dtype), nan, **options)).all()
    assert np.isnan(backward(np.full(33, np.nan, dtype), np.ones(33, dtype), **options)).all()


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_rectifiers_by_output_and_bits(name: str, dtype: Any, rng: np.random.Generator) -> None:
    kernel, backward, formula, backward_formula = functions(name)
    x, grad = normal(rng, dtype, 1000), normal(rng, dtype, 1000)
    np.testing.assert_array_equal(kernel(x), formula(x))
    np.testing.assert_array_equal(backward(grad, x), backward_formula(grad, x))
    assert_same_bits(backward(grad, kernel(x)), backward(grad, x))


def test_relu_moves_denormals_unchanged(dtype: Any) -> None:
    x = np.arange(1, 70).astype(dtype) * np.finfo(dtype).smallest_subnormal
    assert_same_bits(kernels.relu(x), x)
    assert_same_bits(kernels.relu_backward(x, np.ones_like(x)), x)


@every_variant
def test_denormals_give_finite_results(name: str, options: dict[str, Any], dtype: Any) -> None:
    kernel, backward, formula, backward_formula = functions(name)
    x = np.arange(-40, 41).astype(dtype) * np.finfo(dtype).smallest_subnormal
    ref, native = formula(widen(x), **options), formula(x, **options)
    assert_close_to_reference(kernel(x, **options), ref, native, label=name)
    x = x[x != 0]
    ones = np.ones_like(x)
    # A flushed input is 0, which has the derivative of either side.
    sides = [backward_formula(np.ones(2), np.array([-1e-30, 1e-30]), **options)]
    low, high = np.min(sides), np.max(sides)
    slack = 4 * np.finfo(dtype).eps * max(abs(low), abs(high))
    got = backward(ones, x, **options)
    assert ((got >= low - slack) & (got <= high + slack)).all()


@every_variant
def test_a_value_has_the_same_bits_anywhere(
    name: str, options: dict[str, Any], dtype: Any, rng: np.random.Generator
) -> None:
    """In the body of a vector loop, in its remainder, alone, and in any memory."""
    kernel, backward, _, _ = functions(name)
    x, grad = 3 * normal(rng, dtype, LENGTHS[-1]), normal(rng, dtype, LENGTHS[-1])
    y, dx = kernel(x, **options), backward(grad, x, **options)
    assert y.dtype == dx.dtype == dtype
    for n in LENGTHS:
        for start in (0, 1, len(x) - n):
            part = slice(start, start + n)
            assert_same_bits(kernel(x[part], **options), y[part], f"{part}")
            assert_same_bits(backward(grad[part], x[part], **options), dx[part], f"{part}")
    shape = (4, 9, 28)
    x, grad, y, dx = (a[: 4 * 9 * 28].reshape(shape) for a in (x, grad, y, dx))
    for memory, (a, g) in mixed_layouts(x, grad):
        assert_same_bits(kernel(a, **options), y, memory)
        assert_same_bits(backward(g, a, **options), dx, memory)


@every_variant
def test_shapes(name: str, options: dict[str, Any], dtype: Any) -> None:
    kernel, backward, _, _ = functions(name)
    for shape in ((), (0,), (3, 0, 2), (1,), (2, 3, 4, 5)):
        x = np.ones(shape, dtype)
        assert kernel(x, **options).shape == shape
        assert backward(x, x, **options).shape == shape


@pytest.mark.parametrize("strided", [False, True])
@every_variant
def test_out_is_filled_and_nothing_beside_it(
    name: str, options: dict[str, Any], dtype: Any, strided: bool, rng: np.random.Generator
) -> None:
    kernel, backward, _, _ = functions(name)
    for n in LENGTHS:
        x, grad = normal(rng, dtype, n), normal(rng, dtype, n)
        guard = Guarded((n,), dtype, strided=strided)
        assert kernel(x, **options, out=guard.out) is guard.out
        assert_same_bits(guard.out, kernel(x, **options))
        guard.check()
        assert backward(grad, x, **options, out=guard.out) is guard.out
        assert_same_bits(guard.out, backward(grad, x, **options))
        guard.check()


@every_variant
def test_backward_is_the_derivative(
    name: str, options: dict[str, Any], rng: np.random.Generator
) -> None:
    kernel, backward, _, _ = functions(name)
    x = rng.uniform(-6, 6, 300)
    kinks = np.array([-3.0, 0.0, 3.0, 4.0 / 3.0])
    x = x[np.abs(x[:, None] - kinks).min(axis=1) > 1e-3]
    grad = rng.standard_normal(x.shape)
    gradient = backward(grad, x, **options)
    assert_gradient(lambda v: np.sum(grad * kernel(v, **options)), x, gradient, rng)


@every_variant
def test_same_bits_for_every_thread_count(
    name: str, options: dict[str, Any], dtype: Any, rng: np.random.Generator
) -> None:
    kernel, backward, _, _ = functions(name)
    x, grad = 3 * normal(rng, dtype, 200_003), normal(rng, dtype, 200_003)
    y, dx = kernel(x, **options), backward(grad, x, **options)
    for n in thread_counts():
        assert_same_bits(kernel(x, **options), y, f"{n} threads")
        assert_same_bits(backward(grad, x, **options), dx, f"{n} threads")


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**32, 2**40 + 7, 2**64 - 1])
@pytest.mark.parametrize("p", [0.0, 1e-9, 0.1, 0.5, 0.999, 1.0])
def test_dropout(dtype: Any, p: float, seed: int, rng: np.random.Generator) -> None:
    for n in LENGTHS:
        x = normal(rng, dtype, n)
        x[x == 0] = 1
        got, keep = kernels.dropout(x, p, seed), reference.dropout_mask((n,), p, seed)
        np.testing.assert_array_equal(got != 0, keep)
        ref, native = (reference.dropout(v, p, seed) for v in (widen(x), x))
        assert_close_to_reference(got, ref, native, label="dropout")
        assert_same_bits(kernels.dropout_backward(x, p, seed), got)


def test_dropout_counts_elements_in_c_order(dtype: Any, rng: np.random.Generator) -> None:
    x = normal(rng, dtype, 7, 5, 9)
    y = kernels.dropout(x, 0.4, 99)
    assert_same_bits(kernels.dropout(x.reshape(-1), 0.4, 99), y.reshape(-1))
    for memory in LAYOUTS:
        assert_same_bits(kernels.dropout(in_layout(memory, x), 0.4, 99), y, memory)
    guard = Guarded(x.shape, dtype, strided=True)
    kernels.dropout(x, 0.4, 99, out=guard.out)
    assert_same_bits(guard.out, y)
    guard.check()


def test_dropout_has_the_same_bits_for_every_thread_count(dtype: Any) -> None:
    x = np.ones(300_001, dtype)
    keep = reference.dropout_mask(x.shape, 0.25, 5)
    for n in thread_counts():
        got = kernels.dropout(x, 0.25, 5)
        np.testing.assert_array_equal(got != 0, keep, err_msg=f"{n} threads")
