"""Activations and dropout on a device, against the reference and against the CPU's mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from activations import VANISH_AT_MINUS_INFINITY, every_variant, functions, scale_of, sweep
from arraynn import kernels
from tolerances import assert_close_to_reference, assert_same_bits, widen

#: Around the 16 bytes of a pack, the threads of a block, a tile of 4096 float32, and all tiles that
#: the emulated device's blocks take at once.
LENGTHS = [0, 1, 3, 4, 5, 31, 255, 1024, 1025, 4095, 4096, 4097, 40_003]


def normal(rng: np.random.Generator, dtype: Any, *shape: int) -> Any:
    return (3 * rng.standard_normal(shape)).astype(dtype)


@every_variant
def test_forward(name: str, options: dict[str, Any], dtype: Any, device: Any) -> None:
    kernel, _, formula, _ = functions(name)
    x = sweep(dtype)
    ref, native = formula(widen(x), **options), formula(x, **options)
    got = device.get(kernel(device.put(x), **options))
    scale = scale_of(name, options, x, ref)
    assert_close_to_reference(got, ref, native, scale=scale, label=name)


@every_variant
def test_backward(
    name: str, options: dict[str, Any], dtype: Any, device: Any, rng: np.random.Generator
) -> None:
    _, kernel, _, formula = functions(name)
    x = sweep(dtype)
    kinks = [0.0, 3.0, -3.0, 20.0, 4.0 / 3.0]  # no derivative there: each system picks a side
    x = x[~np.isin(x, np.asarray(kinks, dtype))]
    grad = normal(rng, dtype, x.size)
    ref = formula(widen(grad), widen(x), **options)
    native = formula(grad, x, **options)
    got = device.get(kernel(device.put(grad), device.put(x), **options))
    scale = 2 * np.abs(widen(grad))
    assert_close_to_reference(got, ref, native, scale=scale, label=f"{name}_backward")


@every_variant
def test_infinities_and_nan(name: str, options: dict[str, Any], dtype: Any, device: Any) -> None:
    kernel, backward, formula, _ = functions(name)
    x = np.array([np.inf, np.nan, -np.inf] * 11, dtype)
    got, expected = device.get(kernel(device.put(x), **options)), formula(x, **options)
    if name in VANISH_AT_MINUS_INFINITY:
        assert (np.isnan(got[2::3]) | (got[2::3] == 0)).all()
        got[2::3] = expected[2::3]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    nan, ones = device.put(np.full(33, np.nan, dtype)), device.put(np.ones(33, dtype))
    if name not in ("relu", "leaky_relu", "hardsigmoid", "hardswish"):
        assert np.isnan(device.get(backward(ones, nan, **options))).all()
    assert np.isnan(device.get(backward(nan, ones, **options))).all()


@every_variant
def test_a_value_has_the_same_bits_anywhere(
    name: str, options: dict[str, Any], storage: Any, device: Any, rng: np.random.Generator
) -> None:
    """In a pack, in the remainder, in a slice that begins beside 16 bytes, at every schedule."""
    kernel, backward, _, _ = functions(name)
    x, grad = normal(rng, storage, LENGTHS[-1]), normal(rng, storage, LENGTHS[-1])
    dx, dgrad = device.put(x), device.put(grad)
    y, dy = device.get(kernel(dx, **options)), device.get(backward(dgrad, dx, **options))
    for n in LENGTHS[:-1]:
        for start in (0, 1, len(x) - n):
            part = slice(start, start + n)
            assert_same_bits(device.get(kernel(dx[part], **options)), y[part], f"{part}")
            got = device.get(backward(dgrad[part], dx[part], **options))
            assert_same_bits(got, dy[part], f"{part}")
    for schedule in device.schedules():
        assert_same_bits(device.get(kernel(dx, **options)), y, schedule)
        assert_same_bits(device.get(backward(dgrad, dx, **options)), dy, schedule)


@every_variant
def test_shapes_and_strides(
    name: str, options: dict[str, Any], storage: Any, device: Any, rng: np.random.Generator
) -> None:
    kernel, backward, _, _ = functions(name)
    for shape in ((), (0,), (3, 0, 2), (1,), (2, 3, 4, 5)):
        x = device.put(np.ones(shape, storage))
        assert kernel(x, **options).shape == shape
        assert backward(x, x, **options).shape == shape
    x = normal(rng, storage, 14, 22)
    dx = device.put(x)
    views = [
        (slice(None, None, 2), slice(1, None, 3)),
        (slice(None, None, -1), slice(None)),
        (slice(2, 9), slice(5, 21)),
    ]
    for view in views:
        expected = device.get(kernel(device.put(x[view]), **options))
        assert_same_bits(device.get(kernel(dx[view], **options)), expected, str(view))


@pytest.mark.parametrize("strided", [False, True])
def test_out_is_filled_and_nothing_beside_it(
    storage: Any, strided: bool, device: Any, rng: np.random.Generator
) -> None:
    for n in LENGTHS:
        x, grad = normal(rng, storage, n), normal(rng, storage, n)
        dx, dgrad = device.put(x), device.put(grad)
        step = 2 if strided else 1
        for offset in (0, 1, 4):
            host = np.full(step * n + 9, 7, storage)
            whole = device.put(host)
            inside = slice(offset, offset + step * n, step)
            out = whole[inside]
            assert kernels.silu(dx, out=out) is out
            host[inside] = device.get(kernels.silu(dx))
            assert_same_bits(device.get(whole), host, f"n {n}, offset {offset}")
            kernels.silu_backward(dgrad, dx, out=out)
            host[inside] = device.get(kernels.silu_backward(dgrad, dx))
            assert_same_bits(device.get(whole), host, f"n {n}, offset {offset}, backward")
            kernels.dropout(dx, 0.5, 3, out=out)
            host[inside] = device.get(kernels.dropout(dx, 0.5, 3))
            assert_same_bits(device.get(whole), host, f"n {n}, offset {offset}, dropout")


@pytest.mark.parametrize("seed", [0, 12345, 2**40 + 7, 2**64 - 1])
@pytest.mark.parametrize("p", [0.0, 1e-9, 0.1, 0.5, 0.999, 1.0])
def test_dropout_is_that_of_the_cpu(
    dtype: Any, p: float, seed: int, device: Any, rng: np.random.Generator
) -> None:
    for n in LENGTHS:
        x = normal(rng, dtype, n)
        expected = kernels.dropout(x, p, seed)
        assert_same_bits(device.get(kernels.dropout(device.put(x), p, seed)), expected, f"n {n}")
        got = kernels.dropout_backward(device.put(x), p, seed)
        assert_same_bits(device.get(got), expected, f"n {n}")
