"""The norms on a device, against the reference."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest

from arraynn import kernels
from kernels.problems import normal
from norm_checks import (
    IMAGES,
    ROW_NORMS,
    Problem,
    check,
    check_constant_data,
    check_nothing,
    check_rows,
    check_specials,
)
from tolerances import assert_same_bits

CHANNEL_NORMS = ("batch_norm", "group_norm", "instance_norm")


@pytest.mark.parametrize("name", ROW_NORMS)
@pytest.mark.parametrize("n", [1, 7, 8, 33, 64, 130, 260, 513, 1028, 2051, 4100])
def test_rows(name: str, n: int, dtype: Any, device: Any, rng: np.random.Generator) -> None:
    """Around groups of 8 threads, warps and blocks of a row, whole packs and not."""
    check_rows(device.kernels, name, n, dtype, rng, rows=19 if n < 500 else 3)


@pytest.mark.parametrize("name", ROW_NORMS)
@pytest.mark.parametrize("n", [9001, 16_400])
def test_long_rows(name: str, n: int, dtype: Any, device: Any, rng: np.random.Generator) -> None:
    check_rows(device.kernels, name, n, dtype, rng, rows=2)


@pytest.mark.parametrize("name", ROW_NORMS)
@pytest.mark.parametrize("n", [8, 33, 264, 1026, 8200])
def test_rows_in_sixteen_bits(
    name: str, n: int, half: Any, device: Any, rng: np.random.Generator
) -> None:
    check_rows(device.kernels, name, n, half, rng, rows=2 if n > 500 else 19)


@pytest.mark.parametrize("shape", [*IMAGES, (3, 6, (4, 130)), (2, 40, (600,))], ids=str)
@pytest.mark.parametrize("name", CHANNEL_NORMS)
def test_channels(
    name: str, shape: Any, layout: str, dtype: Any, device: Any, rng: np.random.Generator
) -> None:
    if name == "instance_norm" and not shape[2]:
        shape = (*shape[:2], (2,))
    check(device.kernels, Problem(name, shape, layout, rng, dtype), "silu")
    if name != "group_norm":
        check(device.kernels, Problem(name, shape, layout, rng, dtype, fixed=True), "relu")


@pytest.mark.parametrize("shape", [(3, 6, (2,)), (2, 8, (40,)), (1, 12, (65,))], ids=str)
@pytest.mark.parametrize("name", CHANNEL_NORMS)
def test_channels_in_sixteen_bits(
    name: str, shape: Any, layout: str, half: Any, device: Any, rng: np.random.Generator
) -> None:
    for fixed in (False, True) if name != "group_norm" else (False,):
        check(device.kernels, Problem(name, shape, layout, rng, half, fixed=fixed), "relu")


def test_an_activation_of_what_was_rounded(
    layout: str, half: Any, device: Any, rng: np.random.Generator
) -> None:
    on, x = device.kernels, normal(rng, half, 3, 8, 34)
    calls = [(on.layer_norm, (34,), {}), (on.rms_norm, (34,), {})]
    for norm, args, options in [*calls, (on.group_norm, (2,), {"layout": layout})]:
        y = norm(x, *args, activation="silu", **options)
        assert_same_bits(y, on.silu(norm(x, *args, **options)))


def test_a_large_mean_costs_no_precision(
    layout: str, dtype: Any, device: Any, rng: np.random.Generator
) -> None:
    # x is exact: the output's error must be that of a few roundings of y, not of x.
    k, offset = device.kernels, dtype.type(2.0**12)
    x = (rng.integers(-1000, 1000, (2, 6, 1500)) * 2.0**-8).astype(dtype) + offset
    if layout == "channels_last":
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    exact = x.astype(np.longdouble) - offset
    first = np.moveaxis(exact, -1, 1) if layout == "channels_last" else exact
    for name, values, axes, y in (
        ("layer_norm", exact, -1, k.layer_norm(x, x.shape[-1])),
        ("batch_norm", first, (0, 2), k.batch_norm(x, training=True, layout=layout)),
        ("group_norm", first, (2, 3), k.group_norm(x, 2, layout=layout)),
        ("instance_norm", first, 2, k.instance_norm(x, layout=layout)),
    ):
        grouped = values.reshape(2, 2, 3, -1) if name == "group_norm" else values
        spread = grouped.var(axes, keepdims=True)
        expected = (grouped - grouped.mean(axes, keepdims=True)) / np.sqrt(spread + 1e-5)
        if name != "layer_norm" and layout == "channels_last":
            y = np.moveaxis(y, -1, 1)
        error = np.abs(y.reshape(grouped.shape) - expected)
        # In float64 the mean is rounded whenever parts are merged.
        rounded = 64 * float(offset / np.sqrt(spread).min()) if dtype == np.float64 else 0
        assert error.max() < (64 + rounded) * np.finfo(dtype).eps, name


def test_constant_data(storage: Any, layout: str, device: Any) -> None:
    check_constant_data(device.kernels, storage, layout)


def test_nan_and_infinity_stay_in_their_statistic(storage: Any, device: Any) -> None:
    check_specials(device.kernels, storage)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)], ids=str)
def test_nothing_in_nothing_out(storage: Any, shape: Any, layout: str, device: Any) -> None:
    check_nothing(device.kernels, shape, storage, layout)


def test_same_bits_at_every_schedule_and_in_any_batch(
    storage: Any, layout: str, device: Any, rng: np.random.Generator
) -> None:
    for name, shape in itertools.product(CHANNEL_NORMS, [(3, 8, (5, 7)), (2, 6, (700,))]):
        problem = Problem(name, shape, layout, rng, storage)
        there = tuple(map(device.put, problem.operands()))
        first: Any = None
        for schedule in device.schedules():
            y = problem.forward(kernels, there, return_stats=True)
            results = [device.get(a) for a in (*y, *problem.backward(kernels, there))]
            first = first or results
            for got, expected in zip(results, first, strict=True):
                assert_same_bits(got, expected, f"{name}, {schedule}")
        if name != "batch_norm":
            alone = problem.forward(kernels, (there[0][1:2], *there[1:]))
            assert_same_bits(device.get(alone), first[0][1:2], f"{name} of one sample")


@pytest.mark.parametrize("name", ROW_NORMS)
def test_rows_have_the_same_bits_at_every_schedule_and_in_any_batch(
    name: str, storage: Any, device: Any, rng: np.random.Generator
) -> None:
    forward, backward = getattr(kernels, name), getattr(kernels, f"{name}_backward")
    for rows, n in ((70, 12), (40, 65), (20, 300), (3, 8500)):
        x, grad, w = (device.put(normal(rng, storage, *s)) for s in ((rows, n), (rows, n), (n,)))
        first: Any = None
        for schedule in device.schedules():
            results = [device.get(a) for a in (forward(x, n, w), *backward(grad, x, n, w))]
            first = first or results
            for got, expected in zip(results, first, strict=True):
                assert_same_bits(got, expected, f"{name} of {n}, {schedule}")
        assert_same_bits(device.get(forward(x[1:2], n, w)), first[0][1:2], f"{name} of one row")
        dx = backward(grad[1:2], x[1:2], n, w, needs=("x",))[0]
        assert_same_bits(device.get(dx), first[1][1:2], f"{name}_backward of one row")


def test_slices_strides_and_out(storage: Any, layout: str, device: Any, rng: Any) -> None:
    """Strided operands and results, and arrays that begin beside 16 bytes."""
    x, w = normal(rng, storage, 3, 8, 8), normal(rng, storage, 8)
    expected = {
        "layer_norm": device.kernels.layer_norm(x, 8, w),
        "batch_norm": device.kernels.batch_norm(x, None, None, w, None, True, layout=layout),
        "group_norm": device.kernels.group_norm(x, 2, w, layout=layout),
    }

    def window(a: Any, step: int) -> tuple[Any, Any]:
        if step == 1:
            flat = np.full(a.size + 3, 7, storage)
            flat[1 : 1 + a.size] = a.reshape(-1)
            return flat, slice(1, 1 + a.size)
        big = np.full([step * n + 3 for n in a.shape], 7, storage)
        inside = tuple(slice(1, step * n + 1, step) for n in a.shape)
        big[inside] = a
        return big, inside

    big_x, inside_x = window(x, 2)
    big_w, inside_w = window(w, 1)
    a, v = device.put(big_x)[inside_x], device.put(big_w)[inside_w]
    for name, y in expected.items():
        host, inside = window(np.zeros_like(x), 2)
        whole = device.put(host)
        out = whole[inside]
        if name == "layer_norm":
            assert kernels.layer_norm(a, 8, v, out=out) is out
        elif name == "batch_norm":
            kernels.batch_norm(a, None, None, v, None, True, layout=layout, out=out)
        else:
            kernels.group_norm(a, 2, v, layout=layout, out=out)
        host[inside] = y
        assert_same_bits(device.get(whole), host, name)
    flat, inside = window(x[0, 0], 1)
    one = kernels.layer_norm(device.put(flat)[inside], 8, v)
    assert_same_bits(device.get(one), expected["layer_norm"][0, 0], "one row beside 16 bytes")


def test_running_statistics_in_any_memory(storage: Any, device: Any, rng: Any) -> None:
    x = normal(rng, storage, 4, 5, 3)
    for name in ("batch_norm", "instance_norm"):
        plain = np.zeros(5, storage), np.ones(5, storage)
        getattr(device.kernels, name)(x, *plain, None, None, True)
        host = np.full((2, 16), 7, storage)
        host[0, 1:11:2], host[1, 4:14:2] = 0, 1
        big = device.put(host)
        getattr(kernels, name)(device.put(x), big[0, 1:11:2], big[1, 4:14:2], None, None, True)
        got = device.get(big)
        assert_same_bits(got[0, 1:11:2], plain[0])
        assert_same_bits(got[1, 4:14:2], plain[1])
        assert (np.delete(got[0], range(1, 11, 2)) == 7).all()


def test_wrong_calls(device: Any, rng: np.random.Generator) -> None:
    x = normal(rng, np.float32, 2, 6, 4)
    there, vector = device.put(x), device.put(x[0, 0])
    cases: list[tuple[Any, Any, str]] = [
        (
            lambda: kernels.layer_norm(there, 5),
            ValueError,
            "[layer_norm] normalized_shape: expected the last sizes of x",
        ),
        (
            lambda: kernels.layer_norm(there, 4, x[0, 0]),
            TypeError,
            "[layer_norm] weight: expected an array on the GPU",
        ),
        (
            lambda: kernels.rms_norm_backward(there, there, 4, vector, stats=vector),
            TypeError,
            "[rms_norm_backward] stats: expected float64, got float32",
        ),
        (
            lambda: kernels.batch_norm(there),
            ValueError,
            "[batch_norm] running_mean: expected running statistics",
        ),
        (
            lambda: kernels.batch_norm(there, vector, vector),
            ValueError,
            "[batch_norm] running_mean: expected shape (6,)",
        ),
        (
            lambda: kernels.group_norm(there, 4),
            ValueError,
            "[group_norm] num_groups: expected a divisor of 6 channels, got 4",
        ),
    ]
    for call, exception, message in cases:
        with pytest.raises(exception, match=re.escape(message)):
            call()
