"""linear, linear_backward, matmul and packed weights on a device, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from tolerances import (
    assert_close_to_reference,
    assert_gradient,
    assert_same_bits,
    assert_within,
    compute_dtype,
    dot_bound,
    native,
    storage_bound,
    widen,
)

#: (m, k, n) around the small tiles of 32 x 32 and 64 x 64, the large ones of 128 x 128, 128 x 64
#: and 64 x 64, their 16 or 32 of k, and the 16 bytes of a copy; primes.
SIZES = [
    (1, 1, 1),
    (1, 37, 33),
    (5, 4, 1),
    (31, 31, 32),
    (32, 32, 31),
    (33, 33, 33),
    (67, 8, 97),
    (3, 130, 2),
    (128, 16, 256),
    (129, 17, 257),
    (131, 35, 127),
    (64, 32, 64),
    (65, 64, 63),
    (13, 257, 66),
    (128, 48, 130),
]


def normal(rng: np.random.Generator, dtype: Any, *shape: int) -> Any:
    return rng.standard_normal(shape).astype(dtype)


def check(a: Any, b: Any, got: Any, label: str) -> None:
    """Hold a product of matrices against both bounds."""
    ref, plain = np.matmul(*widen(a, b)), np.matmul(*native(a, b))
    scale = np.matmul(*(np.abs(v) for v in widen(a, b)))
    got = np.asarray(got)
    bound = dot_bound(a.shape[-1], compute_dtype(a.dtype), scale)
    bound = bound + storage_bound(np.abs(ref) + bound, a.dtype)
    assert_within(got, np.asarray(ref), bound, label)
    assert_close_to_reference(got, np.asarray(ref), np.asarray(plain), scale=scale, label=label)


@pytest.mark.parametrize(("m", "k", "n"), SIZES)
def test_matmul_in_every_order(
    storage: Any, m: int, k: int, n: int, device: Any, rng: np.random.Generator
) -> None:
    """Rows or columns in order, slices that begin beside 16 bytes, the same bits for all."""
    dtype = storage
    a, b = normal(rng, dtype, m, k), normal(rng, dtype, k, n)
    first = device.get(kernels.matmul(device.put(a), device.put(b)))
    check(a, b, first, f"{m} x {k} x {n}")
    wide_a, wide_b = np.zeros((m + 1, k + 3), dtype), np.zeros((k + 1, n + 5), dtype)
    wide_a[1:, 2 : k + 2], wide_b[1:, 1 : n + 1] = a, b
    tall_a, tall_b = np.zeros((k, m + 1), dtype), np.zeros((n, k + 1), dtype)
    tall_a[:, 1:], tall_b[:, :k] = a.T, b.T
    put = device.put
    orders_a = [put(a), transposed(device, a), put(wide_a)[1:, 2 : k + 2]]
    orders_b = [put(b), transposed(device, b), put(wide_b)[1:, 1 : n + 1]]
    orders_a += [put(tall_a)[:, 1:].T]
    orders_b += [put(tall_b)[:, :k].T]
    for i, da in enumerate(orders_a):
        for j, db in enumerate(orders_b):
            assert_same_bits(device.get(kernels.matmul(da, db)), first, f"orders {i}, {j}")


def transposed(device: Any, a: Any) -> Any:
    """Put a matrix on the device column by column."""
    return device.put(np.ascontiguousarray(a.T)).T


@pytest.mark.parametrize(
    ("a_shape", "b_shape"),
    [
        ((5,), (5,)),
        ((5,), (5, 3)),
        ((4, 5), (5,)),
        ((2, 4, 5), (5, 3)),
        ((4, 5), (2, 5, 3)),
        ((2, 1, 4, 5), (3, 5, 3)),
        ((2, 1, 3, 4, 8), (3, 1, 8, 4)),
        ((2, 4, 5), (5,)),
        ((4, 70, 5), (4, 5, 130)),
        ((0, 4, 5), (5, 3)),
        ((2, 0, 5), (2, 5, 3)),
        ((2, 4, 0), (2, 0, 3)),
        ((4, 5), (5, 0)),
        ((0,), (0,)),
    ],
)
def test_matmul_shapes_are_numpys(
    dtype: Any, a_shape: Any, b_shape: Any, device: Any, rng: np.random.Generator
) -> None:
    a, b = normal(rng, dtype, *a_shape), normal(rng, dtype, *b_shape)
    got = device.get(kernels.matmul(device.put(a), device.put(b)))
    assert got.dtype == dtype
    check(a, b, got, f"{a_shape} @ {b_shape}")


def test_matmul_of_strided_batches_and_vectors(
    dtype: Any, device: Any, rng: np.random.Generator
) -> None:
    a, b = normal(rng, dtype, 6, 8, 5), normal(rng, dtype, 6, 5, 7)
    got = kernels.matmul(device.put(a)[::2], device.put(b)[::-2])
    check(a[::2], b[::-2], device.get(got), "strided batches")
    v = normal(rng, dtype, 10)
    got = kernels.matmul(device.put(v)[::2], device.put(b)[0])
    check(v[::2], b[0], device.get(got), "every second element")
    got = kernels.matmul(device.put(a)[0], device.put(v)[::-2])
    check(a[0], v[::-2], device.get(got), "backwards")


def test_integers_are_exact_at_every_schedule(
    storage: Any, device: Any, rng: np.random.Generator
) -> None:
    """Few stages and many; 16 bits have room for fewer integers."""
    most = 1 if storage.itemsize == 2 else 8
    for m, k, n in ((45, 61, 77), (131, 35, 260), (3, 200, 70)):
        a = rng.integers(-most, most + 1, (m, k)).astype(storage)
        b = rng.integers(-most, most + 1, (k, n)).astype(storage)
        da, db = device.put(a), device.put(b)
        ta, tb = transposed(device, a), transposed(device, b)
        for schedule in device.schedules():
            for x, y in ((da, db), (ta, tb)):
                got = device.get(kernels.matmul(x, y))
                assert_same_bits(got + 0, np.matmul(*widen(a, b)).astype(storage) + 0, schedule)


def test_nan_and_infinity_stay_in_their_row_and_column(
    storage: Any, device: Any, rng: np.random.Generator
) -> None:
    a, b = normal(rng, storage, 31, 40), normal(rng, storage, 40, 67)
    a[7, 3], a[30, 39], b[11, 66], b[0, 1] = np.nan, np.inf, np.nan, -np.inf
    for x, y in ((device.put(a), device.put(b)), (transposed(device, a), transposed(device, b))):
        got = device.get(kernels.matmul(x, y))
        with np.errstate(invalid="ignore"):
            ref = np.matmul(*widen(a, b))
        assert_within(got, ref, 1e-3 + storage_bound(ref, storage), "matmul")


@pytest.mark.parametrize("activation", [None, *reference.ACTIVATIONS])
def test_linear_epilogues(
    dtype: Any, activation: str | None, device: Any, rng: np.random.Generator
) -> None:
    for rows, features in ((1, 1), (37, 35), (129, 131)):
        x, weight = normal(rng, dtype, rows, 19), normal(rng, dtype, features, 19)
        bias, residual = normal(rng, dtype, features), normal(rng, dtype, rows, features)
        scale = np.matmul(*(np.abs(v) for v in widen(x, weight.T))) + 8
        for b, r in ((None, None), (bias, None), (None, residual), (bias, residual)):
            options = {"activation": activation}
            given = [None if v is None else device.put(v) for v in (x, weight, b, r)]
            got = device.get(kernels.linear(*given[:3], residual=given[3], **options))
            wide = [None if v is None else widen(v) for v in (x, weight, b, r)]
            ref = reference.linear(*wide[:3], residual=wide[3], **options)
            native = reference.linear(x, weight, b, residual=r, **options)
            label = f"{rows} x {features} {activation}"
            assert_close_to_reference(got, ref, native, scale=scale, label=label)


@pytest.mark.parametrize("shape", [(7,), (0, 7), (1, 7), (5, 7), (2, 3, 7), (1500, 7), (40, 130)])
def test_linear_and_backward(dtype: Any, shape: Any, device: Any, rng: np.random.Generator) -> None:
    """Also more rows than a chunk of the sums of the bias has."""
    x, weight = normal(rng, dtype, *shape), normal(rng, dtype, 35, shape[-1])
    grad = normal(rng, dtype, *shape[:-1], 35)
    dx, dweight, dgrad = device.put(x), device.put(weight), device.put(grad)
    y = device.get(kernels.linear(dx, dweight))
    assert y.shape == (*shape[:-1], 35)
    check(x, weight.T, y, "linear")
    got = kernels.linear_backward(dgrad, dx, dweight)
    ref = reference.linear_backward(*widen(grad, x, weight))
    native = reference.linear_backward(grad, x, weight)
    scales = reference.linear_backward(*(np.abs(v) for v in widen(grad, x, weight)))
    for name, g, r, n, s in zip("xwb", got, ref, native, scales, strict=True):
        assert_close_to_reference(device.get(g), r, n, scale=s, label=f"grad_{name}")
    for schedule in device.schedules():
        again = kernels.linear_backward(dgrad, dx, dweight)
        for a, b in zip(again, got, strict=True):
            assert_same_bits(device.get(a), device.get(b), schedule)
    only = kernels.linear_backward(dgrad, dx, dweight, needs=("weight",))
    assert only[0] is None
    assert only[2] is None
    assert_same_bits(device.get(only[1]), device.get(got[1]))


def test_finite_differences(device: Any, rng: np.random.Generator) -> None:
    x, weight = normal(rng, np.float64, 5, 7), normal(rng, np.float64, 3, 7)
    bias, grad = normal(rng, np.float64, 3), normal(rng, np.float64, 5, 3)
    got = kernels.linear_backward(*(device.put(v) for v in (grad, x, weight)))

    def loss(*values: Any) -> float:
        return float((device.get(kernels.linear(*(device.put(v) for v in values))) * grad).sum())

    assert_gradient(lambda v: loss(v, weight, bias), x, device.get(got[0]), rng)
    assert_gradient(lambda v: loss(x, v, bias), weight, device.get(got[1]), rng)
    assert_gradient(lambda v: loss(x, weight, v), bias, device.get(got[2]), rng)


def test_a_gradient_by_weight_is_added_in_parts(
    dtype: Any, device: Any, rng: np.random.Generator
) -> None:
    """Of a thousand rows at least; two of them here, for few features."""
    rows, first = 2100, 1088
    x, grad = normal(rng, dtype, rows, 9), normal(rng, dtype, rows, 33)
    dx, dgrad, weight = device.put(x), device.put(grad), device.put(normal(rng, dtype, 33, 9))
    parts = [
        device.get(kernels.matmul(device.put(grad[s].T.copy()), dx[s]))
        for s in (slice(0, first), slice(first, rows))
    ]
    for schedule in device.schedules():
        got = device.get(kernels.linear_backward(dgrad, dx, weight, needs=("weight",))[1])
        assert_same_bits(got, parts[0] + parts[1], schedule)
    whole = device.get(kernels.matmul(device.put(grad.T.copy()), dx))
    assert not np.array_equal(whole, got)


def test_a_row_alone_has_the_bits_of_the_batch(
    dtype: Any, device: Any, rng: np.random.Generator
) -> None:
    """In every tile, whatever else is computed beside it."""
    x, weight = normal(rng, dtype, 259, 45), normal(rng, dtype, 131, 45)
    dweight, whole = device.put(weight), device.put(x)
    y = device.get(kernels.linear(whole, dweight, activation="gelu"))
    for rows in (slice(0, 1), slice(100, 133), slice(258, 259), slice(3, 68)):
        part = device.get(kernels.linear(whole[rows], dweight, activation="gelu"))
        assert_same_bits(part, y[rows], str(rows))
    batch = device.get(kernels.matmul(whole[:, None, :], dweight.T))
    plain = device.get(kernels.linear(whole, dweight))
    assert_same_bits(batch[:, 0], plain, "as a batch")


def test_out_is_filled_and_nothing_beside_it(
    dtype: Any, device: Any, rng: np.random.Generator
) -> None:
    x, weight = normal(rng, dtype, 33, 9), normal(rng, dtype, 34, 9)
    dx, dweight = device.put(x), device.put(weight)
    expected = device.get(kernels.linear(dx, dweight))
    host = np.full((37, 41), 7, dtype)
    whole = device.put(host)
    for top, left in ((0, 0), (1, 3), (4, 7)):
        inside = (slice(top, top + 33), slice(left, left + 34))
        whole[:] = device.put(np.full((37, 41), 7, dtype))
        out = whole[inside]
        assert kernels.linear(dx, dweight, out=out) is out
        filled = host.copy()
        filled[inside] = expected
        assert_same_bits(device.get(whole), filled, f"{top}, {left}")
    flat = device.put(np.full(33 * 34 + 7, 7, dtype))
    for offset in (0, 1, 4):
        out = flat[offset : offset + 33 * 34].reshape(33, 34)
        flat[:] = device.put(np.full(33 * 34 + 7, 7, dtype))
        assert kernels.matmul(dx, dweight.T, out=out) is out
        got = device.get(flat)
        assert_same_bits(got[offset : offset + 33 * 34].reshape(33, 34), expected)
        assert (got[:offset] == 7).all()
        assert (got[offset + 33 * 34 :] == 7).all()


def test_packed_weights(dtype: Any, device: Any, rng: np.random.Generator) -> None:
    x, weight = normal(rng, dtype, 6, 9), normal(rng, dtype, 34, 9)
    dx, dweight = device.put(x), device.put(weight)
    packed = kernels.pack(dweight, "linear")
    assert (packed.op, packed.shape, packed.dtype) == ("linear", (34, 9), np.dtype(dtype))
    assert packed.nbytes == weight.nbytes
    expected = device.get(kernels.linear(dx, dweight))
    dweight[:] = device.put(np.zeros_like(weight))
    assert_same_bits(device.get(kernels.linear(dx, packed)), expected)
    turned = kernels.pack(device.put(np.ascontiguousarray(weight.T)), "matmul")
    assert_same_bits(device.get(kernels.matmul(dx, turned)), expected)
    with pytest.raises(ValueError, match=r"\[matmul\] b: .* packed for matmul, got .* linear"):
        kernels.matmul(dx, packed)
    with pytest.raises(TypeError, match="weight"):
        kernels.linear(dx, kernels.pack(weight, "linear"))
    with pytest.raises(TypeError, match="weight"):
        kernels.linear(x, packed)


def test_errors(device: Any) -> None:
    def zeros(*shape: int, dtype: Any = np.float32) -> Any:
        return device.put(np.zeros(shape, dtype))

    linear, matmul = kernels.linear, kernels.matmul
    wrong: list[tuple[type[Exception], str, Any]] = [
        (
            ValueError,
            r"\[linear\] weight: expected 3 input",
            lambda: linear(zeros(2, 3), zeros(4, 5)),
        ),
        (ValueError, r"\[linear\] bias", lambda: linear(zeros(2, 3), zeros(4, 3), zeros(3))),
        (TypeError, r"\[linear\] weight", lambda: linear(zeros(2, 3), zeros(4, 3, dtype=float))),
        (TypeError, r"\[linear\] x", lambda: linear(zeros(2, 3, dtype=int), zeros(4, 3))),
        (
            ValueError,
            r"\[linear\] activation",
            lambda: linear(zeros(2, 3), zeros(4, 3), activation="nothing"),
        ),
        (ValueError, r"\[matmul\] b: expected 3 rows", lambda: matmul(zeros(2, 3), zeros(4, 5))),
        (ValueError, r"\[matmul\] b: .* broadcast", lambda: matmul(zeros(2, 2, 3), zeros(3, 3, 5))),
        (ValueError, r"\[matmul\] a", lambda: matmul(zeros(), zeros(3, 3))),
        (TypeError, r"\[matmul\] b", lambda: matmul(zeros(2, 3), np.zeros((3, 4), np.float32))),
        (
            ValueError,
            r"\[linear_backward\] grad_out",
            lambda: kernels.linear_backward(zeros(2, 5), zeros(2, 3), zeros(4, 3)),
        ),
    ]
    for kind, message, call in wrong:
        with pytest.raises(kind, match=message):
            call()


class TestSixteenBits:
    """Exact products, sums of float32, rounded once."""

    @pytest.mark.parametrize(("m", "k", "n"), [(1, 9, 5), (33, 40, 31), (131, 35, 130)])
    def test_same_bits_at_every_schedule(
        self, half: Any, m: int, k: int, n: int, device: Any, rng: np.random.Generator
    ) -> None:
        a, b = normal(rng, half, m, k), normal(rng, half, k, n)
        da, db = device.put(a), device.put(b)
        expected = device.get(kernels.matmul(da, db))
        check(a, b, expected, "matmul")
        for x in (da, transposed(device, a)):
            for y in (db, transposed(device, b)):
                for schedule in device.schedules():
                    assert_same_bits(device.get(kernels.matmul(x, y)), expected, schedule)

    def test_linear_and_backward(self, half: Any, device: Any, rng: np.random.Generator) -> None:
        """More rows than a part of the weight's and a chunk of the bias's sums, in float32."""
        given = [normal(rng, half, *shape) for shape in ((2100, 21), (34, 21), (34,), (2100, 34))]
        x, weight, bias, residual = (device.put(a) for a in given)
        wide, plain = widen(*given), native(*given)
        scale = [np.abs(a) for a in wide]
        sums = scale[0] @ scale[1].T + scale[2] + scale[3]
        for activation in (None, "gelu"):
            y = kernels.linear(x, weight, bias, activation=activation, residual=residual)
            ref, numpy = (
                reference.linear(*v[:3], activation=activation, residual=v[3])
                for v in (wide, plain)
            )
            assert_close_to_reference(
                device.get(y), ref, numpy, scale=sums + 8, label=f"{activation}"
            )
        got = kernels.linear_backward(residual, x, weight)
        of = [reference.linear_backward(v[3], *v[:2]) for v in (wide, plain, scale)]
        for name, g, r, p, s in zip("xwb", got, *of, strict=True):
            assert_close_to_reference(device.get(g), r, p, scale=s, label=f"grad_{name}")
        packed = kernels.pack(weight, "linear")
        assert_same_bits(
            device.get(kernels.linear(x, packed)), device.get(kernels.linear(x, weight))
        )
