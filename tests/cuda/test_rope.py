"""rope on a device, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import kernels, reference
from kernels.problems import normal
from tolerances import assert_same_bits, assert_within, dot_bound, widen

HALVES = [0, 1, 2, 4, 7, 8, 16, 17, 64]


def tables(dtype: Any, positions: int, half: int) -> tuple[Any, Any]:
    """Return cosines and sines as a layer has them."""
    angles = np.arange(positions)[:, None] * 10000.0 ** (-np.arange(half) / max(half, 1))
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)


def moved(device: Any, *arguments: Any) -> list[Any]:
    return [device.put(a) if isinstance(a, np.ndarray) else a for a in arguments]


def check(device: Any, x: Any, cos: Any, sin: Any, positions: Any = None, **how: Any) -> Any:
    """Hold both directions against the reference and return the forward."""
    there = moved(device, x, cos, sin, positions)
    y = device.get(kernels.rope(*there, **how))
    dx = device.get(kernels.rope_backward(*there, **how))
    # Two products of an element each: both are at most what they are for |x| and all angles 1.
    ones = np.ones_like(cos)
    wide, angles = widen(x), widen(cos, sin)
    magnitude = np.abs(reference.rope(np.abs(wide), ones, -ones, positions, **how))
    size = np.maximum(magnitude, reference.rope(np.abs(wide), ones, ones, positions, **how))
    bound = dot_bound(2, x.dtype, size)
    assert_within(y, reference.rope(wide, *angles, positions, **how), bound)
    assert_within(dx, reference.rope_backward(wide, *angles, positions, **how), bound)
    turned = 2 * cos.shape[-1]
    assert_same_bits(y[..., turned:], x[..., turned:])
    return y


@pytest.mark.parametrize("interleaved", [False, True])
def test_values(dtype: Any, interleaved: bool, device: Any, rng: np.random.Generator) -> None:
    for half in HALVES:
        cos, sin = tables(dtype, 40, half)
        for more in (0, 1, 16, 19):
            x = normal(rng, dtype, 2, 3, 5, 2 * half + more)
            y = check(device, x, cos, sin, interleaved=interleaved)
            swapped = moved(device, np.ascontiguousarray(x.swapaxes(1, 2)), cos, sin)
            other = kernels.rope(*swapped, interleaved=interleaved, layout="blhd")
            assert_same_bits(device.get(other), y.swapaxes(1, 2))
            strided = swapped[0].swapaxes(1, 2) if device.name == "cupy" else None
            if strided is not None:
                got = kernels.rope(strided, *swapped[1:], interleaved=interleaved)
                assert_same_bits(device.get(got), y)


@pytest.mark.parametrize("layout", ["bhld", "blhd"])
@pytest.mark.parametrize("kind", [np.int64, np.int32])
def test_positions(
    dtype: Any, layout: str, kind: Any, device: Any, rng: np.random.Generator
) -> None:
    cos, sin = tables(dtype, 50, 8)
    x = normal(rng, dtype, 3, 4, 4, 20)
    own = rng.integers(0, 50, (3, 4)).astype(kind)
    y = check(device, x, cos, sin, own, layout=layout)
    for b in range(3):
        one = check(device, x[b], cos, sin, own[b], layout=layout)
        assert_same_bits(one, y[b], "a sample alone")
    got = kernels.rope(*moved(device, x, cos[own], sin[own]), layout=layout)
    assert_same_bits(device.get(got), y, "tables of samples")
    shared = np.arange(7, 11, dtype=kind)
    y = check(device, x, cos, sin, shared, layout=layout)
    there = moved(device, x, cos, sin)
    assert_same_bits(device.get(kernels.rope(*there, 7, layout=layout)), y, "an offset")


@pytest.mark.parametrize("interleaved", [False, True])
def test_same_bits_in_any_memory_at_every_schedule(
    storage: Any, interleaved: bool, device: Any, rng: np.random.Generator
) -> None:
    how = {"interleaved": interleaved, "layout": "blhd"}
    for half, more in ((8, 0), (5, 3), (16, 8)):
        dim = 2 * half + more
        cos, sin = tables(storage, 9, half)
        packed = rng.standard_normal((2, 6, 3, 3, dim)).astype(storage)
        angles, everything = moved(device, cos, sin), device.put(packed)
        for i in range(3):  # slices of a projection are read where they lie
            x = device.put(np.ascontiguousarray(packed[:, :, i]))
            y = device.get(kernels.rope(x, *angles, **how))
            dx = device.get(kernels.rope_backward(x, *angles, **how))
            for schedule in device.schedules():
                part = everything[:, :, i]
                assert_same_bits(device.get(kernels.rope(part, *angles, **how)), y, schedule)
                got = kernels.rope_backward(part, *angles, **how)
                assert_same_bits(device.get(got), dx, schedule)
            for offset in (0, 1, 8):
                hole = device.put(np.full((2, 6, 3, dim + 9), 7, storage))
                inside = hole[..., offset : offset + dim]
                assert kernels.rope(x, *angles, out=inside, **how) is inside
                assert_same_bits(device.get(inside), y)
                inside[...] = device.put(np.full(y.shape, 7, storage))
                assert (device.get(hole).astype(np.float32) == 7).all()


@pytest.mark.parametrize("interleaved", [False, True])
def test_sixteen_bits_are_rounded_once(
    half: Any, interleaved: bool, device: Any, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((2, 3, 6, 37)).astype(half)
    cos, sin = tables(half, 6, 16)
    wide = moved(device, *(a.astype(np.float32) for a in (x, cos, sin)))
    for function in (kernels.rope, kernels.rope_backward):
        got = device.get(function(*moved(device, x, cos, sin), interleaved=interleaved))
        expected = device.get(function(*wide, interleaved=interleaved))
        assert_same_bits(got, expected.astype(half))


def test_a_position_without_a_row(dtype: Any, device: Any) -> None:
    """NaN, as nothing is read back to check it; under debug(True) an error."""
    x = np.ones((1, 1, 3, 5), dtype)
    cos, sin = tables(dtype, 4, 2)
    there = moved(device, x, cos, sin, np.array([1, 4, -1]))
    y = device.get(kernels.rope(*there))
    good = device.get(kernels.rope(*there[:3], 1))[:, :, :1]
    assert_same_bits(y[:, :, :1], good)
    assert np.isnan(y[:, :, 1:, :4]).all()
    assert (y[..., 4:] == 1).all()
    with pytest.raises(ValueError, match=r"\[rope\] positions: expected rows of cos in \[0, 4\)"):
        kernels.rope(*there[:3], 2)
    set_debug = ann.cuda.debug if device.name == "cupy" else device.module.set_debug
    set_debug(True)
    try:
        with pytest.raises(ValueError, match=r"\[rope\] positions: .* in \[0, 4\), got 4"):
            kernels.rope(*there)
    finally:
        set_debug(False)


def test_wrong_calls(device: Any) -> None:
    cos, sin = tables(np.float32, 4, 2)
    x, c, s = moved(device, np.ones((1, 1, 3, 5), np.float32), cos, sin)
    with pytest.raises(TypeError, match=r"\[rope\] cos: expected float32 \(the dtype of x\)"):
        kernels.rope(x, device.put(cos.astype(np.float16)), s)
    with pytest.raises(TypeError, match=r"\[rope\] cos: expected an array on the GPU"):
        kernels.rope(x, cos, s)
    with pytest.raises(TypeError, match=r"\[rope\] positions: expected int64 or int32, got float3"):
        kernels.rope(x, c, s, device.put(np.zeros(3, np.float32)))
    with pytest.raises(TypeError, match=r"\[rope_backward\] grad_out: expected float16, bfloat16"):
        kernels.rope_backward(device.put(np.ones((1, 1, 3, 5), np.int32)), c, s)
