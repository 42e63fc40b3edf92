"""linear, linear_backward and matmul against the reference, at every ISA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arraynn import kernels, reference
from memory import LAYOUTS, Guarded, in_layout, mixed_layouts
from tolerances import (
    assert_close_to_reference,
    assert_gradient,
    assert_same_bits,
    assert_within,
    dot_bound,
    widen,
)

from .problems import DEPTHS, around, normal, register_tile, thread_counts

pytestmark = pytest.mark.usefixtures("isa")


def magnitude(*terms: Any, product: tuple[Any, Any] | None = None) -> Any:
    """Return |a| . |b| plus the magnitudes of what is added to it."""
    total: Any = 0.0
    if product is not None:
        a, b = (np.abs(widen(v)) for v in product)
        total = np.matmul(a, b)
    for term in terms:
        if term is not None:
            total = total + np.abs(widen(term))
    return total


def check_matmul(a: Any, b: Any, got: Any) -> None:
    """Hold a product of finite matrices against both bounds."""
    wide, scale = reference.matmul(*widen(a, b)), magnitude(product=(a, b))
    assert got.flags.c_contiguous
    assert_within(got, wide, dot_bound(a.shape[-1], a.dtype, scale), "matmul")
    assert_close_to_reference(got, wide, reference.matmul(a, b), scale=scale, label="matmul")


@pytest.mark.parametrize("k", DEPTHS)
def test_matmul_around_the_register_tile(
    isa: str, dtype: Any, k: int, rng: np.random.Generator
) -> None:
    tile_m, tile_n = register_tile("matmul", isa, dtype)
    orders = list(LAYOUTS)
    for i, m in enumerate(around(tile_m)):
        for j, n in enumerate(around(tile_n)):
            a, b = normal(rng, dtype, m, k), normal(rng, dtype, k, n)
            a, b = in_layout(orders[(i + j) % 7], a), in_layout(orders[(2 * i + j) % 7], b)
            check_matmul(a, b, kernels.matmul(a, b))


@pytest.mark.parametrize(
    ("m", "k", "n"), [(1, 512, 1500), (1500, 300, 1), (3, 2100, 70), (200, 5, 411), (301, 263, 389)]
)
def test_matmul_across_cache_blocks(
    dtype: Any, m: int, k: int, n: int, rng: np.random.Generator
) -> None:
    a, b = normal(rng, dtype, m, k), normal(rng, dtype, k, n)
    product = kernels.matmul(a, b)
    check_matmul(a, b, product)
    check_matmul(np.asfortranarray(a), b.T.copy().T, kernels.matmul(np.asfortranarray(a), b))


@pytest.mark.parametrize(
    ("a_shape", "b_shape"),
    [
        ((5,), (5,)),
        ((5,), (5, 3)),
        ((4, 5), (5,)),
        ((2, 4, 5), (5, 3)),
        ((4, 5), (2, 5, 3)),
        ((2, 1, 4, 5), (3, 5, 3)),
        ((2, 4, 5), (5,)),
        ((0, 4, 5), (5, 3)),
        ((2, 0, 5), (2, 5, 3)),
        ((2, 4, 0), (2, 0, 3)),
        ((4, 5), (5, 0)),
    ],
)
def test_matmul_shapes_are_numpys(
    dtype: Any, a_shape: Any, b_shape: Any, rng: np.random.Generator
) -> None:
    a, b = normal(rng, dtype, *a_shape), normal(rng, dtype, *b_shape)
    got = np.asarray(kernels.matmul(a, b))
    expected = np.asarray(np.matmul(*widen(a, b)))
    assert got.dtype == dtype
    scale = np.matmul(*(np.abs(v) for v in widen(a, b)))
    assert_within(got, expected, dot_bound(a_shape[-1], dtype, scale), "matmul")


def test_matmul_of_broadcast_operands(dtype: Any, rng: np.random.Generator) -> None:
    a = np.broadcast_to(normal(rng, dtype, 1, 17), (9, 17))
    b = np.broadcast_to(normal(rng, dtype, 17, 1), (3, 17, 5))
    check_matmul(a, b, kernels.matmul(a, b))


def test_matmul_integers_are_exact(dtype: Any, rng: np.random.Generator) -> None:
    a = rng.integers(-8, 9, (45, 61)).astype(dtype)
    b = rng.integers(-8, 9, (61, 77)).astype(dtype)
    np.testing.assert_array_equal(kernels.matmul(a, b), np.matmul(a, b))


def test_nan_and_infinity_stay_in_their_row_and_column(
    dtype: Any, rng: np.random.Generator
) -> None:
    a, b = normal(rng, dtype, 31, 40), normal(rng, dtype, 40, 67)
    a[7, 3], a[30, 39], b[11, 66], b[0, 1] = np.nan, np.inf, np.nan, -np.inf
    got = kernels.matmul(a, b)
    assert np.isnan(got[7]).all()
    assert np.isnan(got[:, 66]).all()
    with np.errstate(invalid="ignore"):
        assert_within(got, np.matmul(*widen(a, b)), 1e-3, "matmul")


@pytest.mark.parametrize(
    "activation",
    [None, *reference.ACTIVATIONS],
)
def test_linear_epilogues(
    isa: str, dtype: Any, activation: str | None, rng: np.random.Generator
) -> None:
    tile_m, tile_n = register_tile("linear", isa, dtype)
    for rows, features in (
        (1, 1),
        (tile_m, tile_n),
        (tile_m + 1, tile_n - 1),
        (37, 2 * tile_n + 3),
    ):
        x, weight = normal(rng, dtype, rows, 19), normal(rng, dtype, features, 19)
        bias, residual = normal(rng, dtype, features), normal(rng, dtype, rows, features)
        for b, r in ((None, None), (bias, None), (None, residual), (bias, residual)):
            got = kernels.linear(x, weight, b, activation=activation, residual=r)
            ref = reference.linear(*widen(x, weight, b), activation=activation, residual=widen(r))
            native = reference.linear(x, weight, b, activation=activation, residual=r)
            # Slopes of all activations are below 2.
            scale = 2 * magnitude(b, r, product=(x, weight.T))
            assert_close_to_reference(got, ref, native, scale=scale, label=str(activation))


@pytest.mark.parametrize(
    ("x_shape", "features"),
    [
        ((19,), 5),
        ((2, 3, 19), 7),
        ((0, 19), 4),
        ((3, 0), 4),
        ((3, 5), 0),
        ((0, 0), 0),
        ((2, 0, 5), 3),
    ],
)
def test_linear_shapes(
    dtype: Any, x_shape: tuple[int, ...], features: int, rng: np.random.Generator
) -> None:
    x, weight = normal(rng, dtype, *x_shape), normal(rng, dtype, features, x_shape[-1])
    bias, residual = normal(rng, dtype, features), normal(rng, dtype, *x_shape[:-1], features)
    got = kernels.linear(x, weight, bias, residual=residual, activation="relu")
    assert got.dtype == dtype
    ref = reference.linear(*widen(x, weight, bias), residual=widen(residual), activation="relu")
    scale = magnitude(bias, residual, product=(x, weight.T))
    assert_within(got, ref, dot_bound(x_shape[-1], dtype, scale), "linear")
    grad = normal(rng, dtype, *got.shape)
    for g, r, a in zip(
        kernels.linear_backward(grad, x, weight),
        reference.linear_backward(*widen(grad, x, weight)),
        (x, weight, bias),
        strict=True,
    ):
        assert g is not None
        assert g.shape == a.shape
        np.testing.assert_allclose(g, r, rtol=1e-4, atol=1e-4)


def test_linear_takes_any_memory(dtype: Any, rng: np.random.Generator) -> None:
    arrays = [normal(rng, dtype, *s) for s in ((9, 21), (35, 21), (35,), (9, 35))]
    expected = kernels.linear(*arrays[:3], residual=arrays[3])
    for name, (x, weight, bias, residual) in mixed_layouts(*arrays):
        got = kernels.linear(x, weight, bias, residual=residual)
        assert_same_bits(got, expected, name)


@pytest.mark.parametrize("k", DEPTHS)
def test_linear_backward(isa: str, dtype: Any, k: int, rng: np.random.Generator) -> None:
    tile_m, tile_n = register_tile("linear_backward", isa, dtype)
    for rows, features, inner in ((1, 1, k), (tile_m + 1, tile_n + 1, k), (k, 5, 7), (37, k, 3)):
        x, weight = normal(rng, dtype, rows, inner), normal(rng, dtype, features, inner)
        grad = normal(rng, dtype, rows, features)
        got = kernels.linear_backward(grad, x, weight)
        ref = reference.linear_backward(*widen(grad, x, weight))
        native = reference.linear_backward(grad, x, weight)
        scales = (
            magnitude(product=(grad, weight)),
            magnitude(product=(grad.T, x)),
            np.abs(widen(grad)).sum(axis=0),
        )
        for name, g, r, n, scale in zip("xwb", got, ref, native, scales, strict=True):
            label = f"grad_{name} of rows {rows}, features {features}, inner {inner}"
            assert_close_to_reference(g, r, n, scale=scale, label=label)


def test_linear_backward_needs(dtype: Any, rng: np.random.Generator) -> None:
    grad, x, weight = (normal(rng, dtype, *s) for s in ((6, 5), (6, 7), (5, 7)))
    every = kernels.linear_backward(grad, x, weight)
    for i, name in enumerate(("x", "weight", "bias")):
        only = kernels.linear_backward(grad, x, weight, needs=(name,))
        assert [g is not None for g in only] == [j == i for j in range(3)]
        assert_same_bits(only[i], every[i], name)
    assert kernels.linear_backward(grad, x, weight, needs=()) == (None, None, None)


def test_linear_backward_takes_any_memory(dtype: Any, rng: np.random.Generator) -> None:
    arrays = [normal(rng, dtype, *s) for s in ((9, 35), (9, 21), (35, 21))]
    expected = kernels.linear_backward(*arrays)
    for name, views in mixed_layouts(*arrays):
        for got, e in zip(kernels.linear_backward(*views), expected, strict=True):
            assert_same_bits(got, e, name)


def test_linear_backward_is_the_derivative(rng: np.random.Generator) -> None:
    x, weight, bias = (normal(rng, np.float64, *s) for s in ((17, 23), (9, 23), (9,)))
    grad = normal(rng, np.float64, 17, 9)
    grad_x, grad_weight, grad_bias = kernels.linear_backward(grad, x, weight)
    assert_gradient(lambda v: np.sum(grad * kernels.linear(v, weight, bias)), x, grad_x, rng)
    assert_gradient(lambda v: np.sum(grad * kernels.linear(x, v, bias)), weight, grad_weight, rng)
    assert_gradient(lambda v: np.sum(grad * kernels.linear(x, weight, v)), bias, grad_bias, rng)


@pytest.mark.parametrize("strided", [False, True])
def test_out_is_filled_and_nothing_beside_it(
    isa: str, dtype: Any, strided: bool, rng: np.random.Generator
) -> None:
    tile_m, tile_n = register_tile("linear", isa, dtype)
    for m in around(tile_m):
        for n in around(tile_n):
            x, weight, bias = (normal(rng, dtype, *s) for s in ((m, 33), (n, 33), (n,)))
            guard = Guarded((m, n), dtype, strided=strided)
            assert kernels.linear(x, weight, bias, activation="tanh", out=guard.out) is guard.out
            assert_same_bits(guard.out, kernels.linear(x, weight, bias, activation="tanh"))
            guard.check()
            guard = Guarded((m, n), dtype, strided=strided)
            assert kernels.matmul(x, weight.T, out=guard.out) is guard.out
            assert_same_bits(guard.out, kernels.matmul(x, weight.T))
            guard.check()


@pytest.mark.parametrize(
    ("rows", "inner", "features"), [(1, 300, 1000), (64, 784, 128), (500, 40, 30), (3, 1100, 2)]
)
def test_same_bits_for_every_thread_count(
    dtype: Any, rows: int, inner: int, features: int, rng: np.random.Generator
) -> None:
    x, weight = normal(rng, dtype, rows, inner), normal(rng, dtype, features, inner)
    bias, grad = normal(rng, dtype, features), normal(rng, dtype, rows, features)
    first: list[Any] = []
    for n in thread_counts():
        for run in range(2):
            results = [
                kernels.linear(x, weight, bias, activation="gelu"),
                kernels.matmul(x, weight.T),
                *kernels.linear_backward(grad, x, weight),
            ]
            first = first or results
            for got, expected in zip(results, first, strict=True):
                assert_same_bits(got, expected, f"{n} threads, run {run}")


def test_a_row_alone_has_the_bits_it_has_in_a_batch(dtype: Any, rng: np.random.Generator) -> None:
    for inner, features in ((300, 70), (64, 10), (1100, 33)):
        x, weight = normal(rng, dtype, 45, inner), normal(rng, dtype, features, inner)
        bias = normal(rng, dtype, features)
        batch = kernels.linear(x, weight, bias, activation="silu")
        for rows in ([0], [44], [13, 14], range(7, 30)):
            alone = kernels.linear(x[rows], weight, bias, activation="silu")
            assert_same_bits(alone, batch[rows], f"rows {rows}")


@given(data=st.data())
def test_matmul_property(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    size = st.integers(0, 40)
    m, k, n = data.draw(size), data.draw(size), data.draw(size)
    batch_a = data.draw(st.lists(st.integers(1, 3), max_size=2))
    batch_b = [1 if data.draw(st.booleans()) else b for b in batch_a]
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    layouts = st.sampled_from(sorted(LAYOUTS))
    a = in_layout(data.draw(layouts), normal(rng, dtype, *batch_a, m, k))
    b = in_layout(data.draw(layouts), normal(rng, dtype, *batch_b, k, n))
    got = kernels.matmul(a, b)
    scale = np.matmul(np.abs(widen(a)), np.abs(widen(b)))
    assert_within(got, np.matmul(*widen(a, b)), dot_bound(k, dtype, scale), "matmul")


@given(data=st.data())
def test_linear_property(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    size = st.integers(0, 40)
    inner, features = data.draw(size), data.draw(size)
    batch = data.draw(st.lists(st.integers(0, 9), max_size=2))
    activation = data.draw(st.sampled_from([None, *reference.ACTIVATIONS]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    layouts = st.sampled_from(sorted(LAYOUTS))
    x = in_layout(data.draw(layouts), normal(rng, dtype, *batch, inner))
    weight = in_layout(data.draw(layouts), normal(rng, dtype, features, inner))
    bias = normal(rng, dtype, features) if data.draw(st.booleans()) else None
    residual = normal(rng, dtype, *batch, features) if data.draw(st.booleans()) else None
    got = kernels.linear(x, weight, bias, activation=activation, residual=residual)
    ref = reference.linear(*widen(x, weight, bias), activation=activation, residual=widen(residual))
    native = reference.linear(x, weight, bias, activation=activation, residual=residual)
    scale = 2 * magnitude(bias, residual, product=(x, weight.T))
    assert_close_to_reference(got, ref, native, scale=scale + np.abs(ref), label="linear")
    grad = normal(rng, dtype, *got.shape)
    for g, r in zip(
        kernels.linear_backward(grad, x, weight),
        reference.linear_backward(*widen(grad, x, weight)),
        strict=True,
    ):
        assert g is not None
        tolerance = 1e-4 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(g, r.astype(dtype), rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("m", [1, 3, 8, 30])
@pytest.mark.parametrize("offset", [0, 1, 7, 15])
def test_linear_with_rows_that_share_cache_sets(
    dtype: Any, m: int, offset: int, rng: np.random.Generator
) -> None:
    """Rows 2 KiB apart are read by whole cache lines wherever they begin."""
    stride = 2048 // np.dtype(dtype).itemsize
    x = normal(rng, dtype, m, stride)
    base = normal(rng, dtype, 37 * stride + 16)
    weight = base[offset : offset + 37 * stride].reshape(37, stride)
    check_matmul(x, weight.T, kernels.linear(x, weight))
    shorter = weight[:, : stride - 5]
    check_matmul(x[:, : stride - 5], shorter.T, kernels.linear(x[:, : stride - 5], shorter))


@pytest.mark.parametrize("n", [31, 64, 127, 129, 200, 300])
def test_matmul_of_few_rows_and_several_panels(
    dtype: Any, n: int, rng: np.random.Generator
) -> None:
    for m, k in ((5, 40), (15, 530), (40, 1100)):
        a, b = normal(rng, dtype, m, k), normal(rng, dtype, k, n)
        check_matmul(a, b, kernels.matmul(a, b))


def test_sums_of_columns_have_the_order_of_rows(dtype: Any, rng: np.random.Generator) -> None:
    """The gradient by the bias, however many columns wait for the next rows."""
    for rows in (1, 7, 8, 9, 33):
        for columns in (1, 17, 64, 128, 129, 300):
            grad = normal(rng, dtype, rows, columns)
            x, weight = np.zeros((rows, 1), dtype), np.zeros((columns, 1), dtype)
            expected = np.cumsum(grad, axis=0, dtype=dtype)[-1]
            for n in thread_counts():
                got = kernels.linear_backward(grad, x, weight, needs=("bias",))[2]
                assert_same_bits(got, expected, f"{rows} x {columns}, {n} threads")
