"""Products of 16-bit elements on a Hopper: a ring of stages and wgmma (gemm/cuda_hopper.hpp)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from tolerances import (
    assert_close_to_reference,
    assert_same_bits,
    assert_within,
    dot_bound,
    storage_bound,
    widen,
)


def normal(rng: np.random.Generator, dtype: Any, *shape: int) -> Any:
    return rng.standard_normal(shape).astype(dtype)


def check(a: Any, b: Any, got: Any, label: str) -> None:
    ref = np.matmul(*widen(a, b))
    scale = np.matmul(*(np.abs(v) for v in widen(a, b)))
    bound = dot_bound(a.shape[-1], np.float32, scale)
    assert_within(got, ref, bound + storage_bound(np.abs(ref) + bound, a.dtype), label)


def columns(device: Any, a: Any) -> Any:
    """Put a matrix on the device column by column."""
    return device.put(np.ascontiguousarray(a.T)).T


#: (m, k, n) whose tiles have 64, 128 and 256 columns on the two multiprocessors of the emulated
#: device: one stage and part of one, more stages than the ring has, edges on every side.
SIZES = [
    (1, 8, 8),
    (3, 72, 40),
    (130, 64, 64),
    (64, 576, 96),
    (200, 520, 136),
    (264, 328, 520),
]


@pytest.mark.parametrize(("m", "k", "n"), SIZES)
def test_every_layout(
    half: Any, m: int, k: int, n: int, hopper: Any, rng: np.random.Generator
) -> None:
    a, b = normal(rng, half, m, k), normal(rng, half, k, n)
    first = hopper.get(kernels.matmul(hopper.put(a), hopper.put(b)))
    check(a, b, first, f"{m} x {k} x {n}")
    for x in (hopper.put(a), columns(hopper, a)):
        for y in (hopper.put(b), columns(hopper, b)):
            assert_same_bits(hopper.get(kernels.matmul(x, y)), first)


def test_boxes_are_what_is_copied(half: Any, hopper: Any, rng: np.random.Generator) -> None:
    """One of A and one of B a stage, where both are along k; two and one else, of 64 columns."""
    a, b = normal(rng, half, 100, 200), normal(rng, half, 200, 64)
    for x, y, each in (
        (hopper.put(a), columns(hopper, b), 2),
        (hopper.put(a), hopper.put(b), 2),
        (columns(hopper, a[:96]), hopper.put(b), 3),
    ):
        before = hopper.copies()
        kernels.matmul(x, y)
        assert hopper.copies() - before == 4 * each


def test_a_row_alone_is_a_row_among_others(
    half: Any, hopper: Any, rng: np.random.Generator
) -> None:
    x, weight = normal(rng, half, 300, 136), normal(rng, half, 200, 136)
    dx, dweight = hopper.put(x), hopper.put(weight)
    together = hopper.get(kernels.linear(dx, dweight))
    for rows in (slice(0, 1), slice(131, 140)):
        assert_same_bits(hopper.get(kernels.linear(dx[rows], dweight)), together[rows])


def test_what_maps_cannot_tell_goes_the_other_way(
    half: Any, hopper: Any, rng: np.random.Generator
) -> None:
    """No whole 16 bytes of k or of a row, and slices that begin beside them."""
    for m, k, n in ((40, 35, 64), (40, 64, 33)):
        a, b = normal(rng, half, m, k), normal(rng, half, k, n)
        check(a, b, hopper.get(kernels.matmul(hopper.put(a), hopper.put(b))), f"{m}, {k}, {n}")
    a, b = normal(rng, half, 40, 72), normal(rng, half, 65, 64)
    got = kernels.matmul(hopper.put(a)[:, 1:65], hopper.put(b)[1:])
    check(a[:, 1:65], b[1:], hopper.get(got), "slices")


@pytest.mark.parametrize(
    ("a_shape", "b_shape"),
    [
        ((3, 40, 72), (3, 72, 80)),
        ((3, 40, 72), (72, 80)),
        ((40, 72), (2, 72, 80)),
        ((2, 3, 40, 72), (2, 3, 72, 80)),
        ((2, 1, 40, 72), (3, 72, 80)),  # moves unevenly: the portable kernel
    ],
)
def test_batches(
    half: Any, a_shape: Any, b_shape: Any, hopper: Any, rng: np.random.Generator
) -> None:
    a, b = normal(rng, half, *a_shape), normal(rng, half, *b_shape)
    got = hopper.get(kernels.matmul(hopper.put(a), hopper.put(b)))
    check(a, b, got, f"{a_shape} @ {b_shape}")


def test_integers_are_exact_at_every_schedule(
    half: Any, hopper: Any, rng: np.random.Generator
) -> None:
    for m, k, n in ((140, 600, 72), (20, 64, 300)):
        a = rng.integers(-1, 2, (m, k)).astype(half)
        b = rng.integers(-1, 2, (k, n)).astype(half)
        for schedule in hopper.schedules():
            got = hopper.get(kernels.matmul(hopper.put(a), hopper.put(b)))
            assert_same_bits(got + 0, np.matmul(*widen(a, b)).astype(half) + 0, schedule)


def test_nan_and_infinity_stay_in_their_row_and_column(
    half: Any, hopper: Any, rng: np.random.Generator
) -> None:
    a, b = normal(rng, half, 31, 40), normal(rng, half, 40, 72)
    a[7, 3], a[30, 39], b[11, 66], b[0, 1] = np.nan, np.inf, np.nan, -np.inf
    got = hopper.get(kernels.matmul(hopper.put(a), hopper.put(b)))
    with np.errstate(invalid="ignore"):
        ref = np.matmul(*widen(a, b))
    assert_within(got, ref, 1e-3 + storage_bound(ref, half), "matmul")


@pytest.mark.parametrize("activation", [None, *reference.ACTIVATIONS])
def test_epilogues(
    half: Any, activation: str | None, hopper: Any, rng: np.random.Generator
) -> None:
    for rows, features in ((1, 8), (131, 75)):  # rows of 75 are no whole packs
        x, weight = normal(rng, half, rows, 24), normal(rng, half, features, 24)
        bias, residual = normal(rng, half, features), normal(rng, half, rows, features)
        scale = np.matmul(*(np.abs(v) for v in widen(x, weight.T))) + 8
        for b, r in ((None, None), (bias, residual)):
            given: list[Any] = [None if v is None else hopper.put(v) for v in (x, weight, b, r)]
            got = hopper.get(kernels.linear(*given[:3], residual=given[3], activation=activation))
            wide: list[Any] = [None if v is None else widen(v) for v in (x, weight, b, r)]
            ref = reference.linear(*wide[:3], residual=wide[3], activation=activation)
            single: list[Any] = [None if v is None else v.astype(np.float32) for v in wide]
            near = reference.linear(*single[:3], residual=single[3], activation=activation)
            label = f"{rows} x {features} {activation}"
            assert_close_to_reference(got, ref, near, scale=scale, label=label)


def test_gradients(half: Any, hopper: Any, rng: np.random.Generator) -> None:
    """Of few samples, and of a weight in two parts of them, which are rounded once."""
    for rows in (72, 2104):
        x, weight = normal(rng, half, rows, 16), normal(rng, half, 40, 16)
        grad = normal(rng, half, rows, 40)
        given = [hopper.put(v) for v in (grad, x, weight)]
        got = [hopper.get(g) for g in kernels.linear_backward(*given)]
        check(grad, weight, got[0], "grad_x")
        check(np.ascontiguousarray(grad.T), x, got[1], "grad_weight")
