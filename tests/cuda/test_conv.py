"""Convolutions of one to three axes, plain and transposed, on a device, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from device_conv import arranged, axes_of, both, check, magnitudes, normal
from tolerances import (
    assert_close_to_reference,
    assert_gradient,
    assert_same_bits,
)

# x, weight, options of conv1d, conv2d and conv3d: tiles and stages with rests, whole packs of
# channels and of planes and none, stencils, every option.
CASES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    ((2, 3, 8, 8), (16, 3, 3, 3), {"padding": 1}),
    ((2, 8, 6, 6), (12, 8, 3, 3), {"padding": "same"}),
    ((1, 3, 23, 19), (8, 3, 7, 7), {"stride": 2, "padding": 3}),
    ((2, 17, 9, 7), (33, 17, 1, 1), {}),
    ((2, 16, 8, 7), (32, 16, 1, 1), {"stride": 2}),
    ((1, 9, 16, 20), (130, 9, 2, 2), {}),
    ((2, 4, 13, 11), (6, 4, 5, 3), {"stride": (3, 2), "padding": "same"}),
    ((2, 4, 13, 12), (6, 4, 4, 2), {"stride": (1, 3), "padding": "same_lower"}),
    ((1, 6, 12, 10), (4, 6, 2, 4), {"dilation": (3, 2), "stride": 2, "padding": 3}),
    ((2, 3, 6, 5), (5, 3, 3, 2), {"padding": ((0, 3), (2, 0))}),
    ((2, 20, 7, 7), (15, 4, 3, 3), {"groups": 5, "padding": 1}),
    ((1, 16, 7, 6), (16, 8, 3, 3), {"groups": 2, "padding": 1}),
    ((1, 35, 8, 8), (35, 1, 3, 3), {"groups": 35, "padding": 1}),
    ((1, 6, 8, 8), (18, 1, 3, 3), {"groups": 6, "stride": 2, "padding": "same"}),
    ((1, 8, 9, 9), (12, 2, 3, 2), {"groups": 4, "dilation": 2, "flip_kernel": True}),
    ((1, 2, 2, 2), (3, 2, 3, 3), {"padding": 4}),
    ((1, 2, 5, 5), (3, 2, 2, 2), {"stride": 7}),
    ((2, 3, 9, 9), (5, 3, 3, 2), {"flip_kernel": True, "padding": 1, "stride": 2}),
    ((3, 2, 27, 27), (4, 2, 3, 3), {"padding": 1}),  # pixels in two parts
    ((2, 4, 37), (6, 4, 5), {"padding": 2, "stride": 2}),
    ((2, 12, 40), (12, 1, 3), {"groups": 12, "dilation": 3}),
    ((1, 3, 5, 6, 7), (5, 3, 3, 2, 3), {"padding": 1, "stride": (2, 1, 2)}),
    ((2, 4, 4, 5, 3), (6, 4, 2, 1, 1), {"flip_kernel": True}),
    ((1, 4, 5, 4, 4), (8, 2, 3, 3, 3), {"groups": 2, "dilation": (1, 2, 1), "padding": 2}),
    ((0, 3, 8, 8), (5, 3, 3, 3), {"padding": 1}),
    ((2, 3, 8, 8), (0, 3, 3, 3), {"padding": 1}),
    ((2, 0, 8, 8), (5, 0, 3, 3), {"padding": 1}),
]
TRANSPOSED: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 5, 6), (3, 7, 3, 3), {}),
    ((2, 8, 5, 6), (8, 4, 2, 2), {"stride": 2}),
    ((1, 6, 5, 4), (6, 5, 3, 4), {"stride": (2, 3), "padding": 1, "output_padding": (1, 2)}),
    ((1, 8, 4, 4), (8, 3, 3, 3), {"groups": 2, "dilation": 2}),
    ((1, 5, 6, 6), (5, 2, 3, 3), {"groups": 5, "stride": 2, "padding": 1}),
    ((2, 4, 9), (4, 6, 4), {"stride": 3}),
    ((1, 3, 3, 4, 3), (3, 4, 2, 3, 2), {"stride": 2, "padding": (0, 1, 0)}),
]


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize(("x_shape", "w_shape", "options"), CASES, ids=str)
def test_conv(
    dtype: Any,
    layout: str,
    x_shape: Any,
    w_shape: Any,
    options: dict[str, Any],
    device: Any,
    rng: np.random.Generator,
) -> None:
    x = arranged(normal(rng, dtype, *x_shape), layout)
    weight, bias = normal(rng, dtype, *w_shape), normal(rng, dtype, w_shape[0])
    name = f"conv{axes_of(x_shape)}d"
    check(device, name, x, weight, bias, {**options, "layout": layout}, rng)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize(("x_shape", "w_shape", "options"), TRANSPOSED, ids=str)
def test_conv_transpose(
    dtype: Any,
    layout: str,
    x_shape: Any,
    w_shape: Any,
    options: dict[str, Any],
    device: Any,
    rng: np.random.Generator,
) -> None:
    x = arranged(normal(rng, dtype, *x_shape), layout)
    weight = normal(rng, dtype, *w_shape)
    bias = normal(rng, dtype, w_shape[1] * options.get("groups", 1))
    name = f"conv_transpose{axes_of(x_shape)}d"
    check(device, name, x, weight, bias, {**options, "layout": layout}, rng)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize(("x_shape", "w_shape", "options"), CASES[1::3], ids=str)
def test_sixteen_bits(
    half: Any,
    layout: str,
    x_shape: Any,
    w_shape: Any,
    options: dict[str, Any],
    device: Any,
    rng: np.random.Generator,
) -> None:
    x = arranged(normal(rng, half, *x_shape), layout)
    weight, bias = normal(rng, half, *w_shape), normal(rng, half, w_shape[0])
    name = f"conv{axes_of(x_shape)}d"
    check(device, name, x, weight, bias, {**options, "layout": layout}, rng)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_transposed_sixteen_bits(
    half: Any, layout: str, device: Any, rng: np.random.Generator
) -> None:
    for x_shape, w_shape, options in TRANSPOSED[1:]:
        x, weight = arranged(normal(rng, half, *x_shape), layout), normal(rng, half, *w_shape)
        bias = normal(rng, half, w_shape[1] * options.get("groups", 1))
        name = f"conv_transpose{axes_of(x_shape)}d"
        check(device, name, x, weight, bias, {**options, "layout": layout}, rng)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("groups", [1, 8])
def test_epilogues(
    storage: Any, layout: str, groups: int, device: Any, rng: np.random.Generator
) -> None:
    """Through tiles and through the stencil, in slices that begin beside 16 bytes."""
    dtype = storage
    x = arranged(normal(rng, dtype, 2, 8, 7, 6), layout)
    weight, bias = normal(rng, dtype, 16, 8 // groups, 3, 3), normal(rng, dtype, 16)
    residual = arranged(normal(rng, dtype, 2, 16, 7, 6), layout)
    options = {"padding": 1, "groups": groups, "layout": layout}
    scale = reference.conv2d(*magnitudes(x, weight), **options) + 8
    held = device.put(np.zeros(residual.size + 1, dtype))
    beside = held[1:].reshape(*residual.shape)
    beside[...] = device.put(residual)
    dx, dweight, dbias, dresidual = (device.put(a) for a in (x, weight, bias, residual))
    for activation in (None, "relu", "gelu"):
        extra = {**options, "activation": activation}
        got = device.get(kernels.conv2d(dx, dweight, dbias, residual=dresidual, **extra))
        ref, plain = (
            reference.conv2d(*given[:3], residual=given[3], **extra)
            for given in both(x, weight, bias, residual)
        )
        assert_close_to_reference(got, ref, plain, scale=scale, label=str(activation))
        again = device.get(kernels.conv2d(dx, dweight, dbias, residual=beside, **extra))
        assert_same_bits(again, got, "a residual beside 16 bytes")
        out = held[1:].reshape(*residual.shape)
        kernels.conv2d(dx, dweight, dbias, residual=dresidual, **extra, out=out)
        assert_same_bits(device.get(out), got, "out beside 16 bytes")
        assert device.get(held)[0] == 0
        beside[...] = device.put(residual)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("channels", [3, 8])
def test_the_same_bits_at_every_schedule(
    storage: Any, layout: str, channels: int, device: Any, rng: np.random.Generator
) -> None:
    x = arranged(normal(rng, storage, 3, channels, 21, 20), layout)
    weight = normal(rng, storage, 6, channels, 3, 3)
    options = {"padding": 1, "layout": layout}
    dx, dweight = device.put(x), device.put(weight)
    y = kernels.conv2d(dx, dweight, **options)
    grads = kernels.conv2d_backward(y, dx, dweight, **options)
    for schedule in device.schedules():
        assert_same_bits(
            device.get(kernels.conv2d(dx, dweight, **options)), device.get(y), schedule
        )
        again = kernels.conv2d_backward(y, dx, dweight, **options)
        for a, b in zip(again, grads, strict=True):
            assert_same_bits(device.get(a), device.get(b), schedule)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("groups", [1, 5])
def test_a_sample_alone_has_the_bits_of_the_batch(
    storage: Any, layout: str, groups: int, device: Any, rng: np.random.Generator
) -> None:
    x = arranged(normal(rng, storage, 5, 5, 9, 11), layout)
    weight = normal(rng, storage, 70, 5 // groups, 3, 3)
    options = {"stride": 2, "groups": groups, "layout": layout}
    dx, dweight = device.put(x), device.put(weight)
    y = device.get(kernels.conv2d(dx, dweight, **options))
    grad = device.put(normal(rng, storage, *y.shape))
    by_x = device.get(kernels.conv2d_backward(grad, dx, dweight, **options, needs=("x",))[0])
    for i in range(5):
        alone = device.get(kernels.conv2d(dx[i : i + 1], dweight, **options))
        assert_same_bits(alone[0], y[i], f"sample {i}")
        one = kernels.conv2d_backward(
            grad[i : i + 1], dx[i : i + 1], dweight, **options, needs=("x",)
        )
        assert_same_bits(device.get(one[0])[0], by_x[i], f"gradient of sample {i}")


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_nan_stays_in_what_reads_it(layout: str, device: Any, rng: np.random.Generator) -> None:
    x = normal(rng, np.float32, 2, 3, 12, 12)
    x[1, 2, 5, 6] = np.nan
    x = arranged(x, layout)
    weight = normal(rng, np.float32, 40, 3, 3, 3)
    options = {"padding": 1, "layout": layout}
    got = device.get(kernels.conv2d(device.put(x), device.put(weight), **options))
    expected = reference.conv2d(x, weight, **options)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_finite_differences(layout: str, device: Any, rng: np.random.Generator) -> None:
    x = arranged(normal(rng, np.float64, 2, 4, 5, 6), layout)
    weight = normal(rng, np.float64, 6, 2, 3, 2)
    options = {"groups": 2, "stride": 2, "padding": 1, "layout": layout}

    def forward(x: Any, weight: Any) -> Any:
        return device.get(kernels.conv2d(device.put(x), device.put(weight), **options))

    grad = normal(rng, np.float64, *forward(x, weight).shape)
    got = kernels.conv2d_backward(*(device.put(v) for v in (grad, x, weight)), **options)

    def loss(x: Any, weight: Any) -> float:
        return float((forward(x, weight) * grad).sum())

    assert_gradient(lambda v: loss(v, weight), x, device.get(got[0]), rng)
    assert_gradient(lambda v: loss(x, v), weight, device.get(got[1]), rng)


def test_strided_arrays_and_packed_weights(device: Any, rng: np.random.Generator) -> None:
    x, weight = normal(rng, np.float32, 4, 3, 10, 9), normal(rng, np.float32, 5, 3, 3, 3)
    dx, dweight = device.put(x), device.put(weight)
    expected = device.get(kernels.conv2d(device.put(x[::2, :, 1:, ::-1].copy()), dweight))
    assert_same_bits(device.get(kernels.conv2d(dx[::2, :, 1:, ::-1], dweight)), expected)
    packed = kernels.pack(dweight, "conv2d")
    expected = device.get(kernels.conv2d(dx, dweight))
    assert_same_bits(device.get(kernels.conv2d(dx, packed)), expected)


def test_plans_and_errors(device: Any) -> None:
    def zeros(*shape: int, dtype: Any = np.float32) -> Any:
        return device.put(np.zeros(shape, dtype))

    x, weight = zeros(2, 3, 8, 8), zeros(4, 3, 3, 3)
    turned, grad = zeros(3, 4, 3, 3), zeros(2, 4, 6, 6)
    forward = [kernels.plan("conv2d", x, weight), kernels.plan("conv_transpose2d", x, turned)]
    backward = kernels.plan("conv2d_backward", grad, x, weight)
    transposed = kernels.plan("conv_transpose2d_backward", zeros(2, 4, 10, 10), x, turned)
    plans = [*forward, *backward, *transposed]
    gemm = "implicit gemm"
    assert [plan and plan.algorithm for plan in plans] == [gemm] * 4 + [None] + [gemm] * 2 + [None]
    conv, transpose = kernels.conv2d, kernels.conv_transpose2d
    wrong: list[tuple[type[Exception], str, Any]] = [
        (ValueError, r"\[conv2d\] weight", lambda: conv(x, zeros(4, 2, 3, 3))),
        (ValueError, r"\[conv2d\] groups", lambda: conv(x, weight, groups=2)),
        (ValueError, r"\[conv2d\] bias", lambda: conv(x, weight, zeros(3))),
        (TypeError, r"\[conv2d\] weight", lambda: conv(x, zeros(4, 3, 3, 3, dtype=float))),
        (TypeError, r"\[conv2d\] weight", lambda: conv(x, np.zeros((4, 3, 3, 3), np.float32))),
        (ValueError, r"\[conv_transpose2d\] weight", lambda: transpose(x, weight)),
        (
            NotImplementedError,
            r"\[conv2d\] algorithm: .* on a GPU, got 'winograd'",
            lambda: conv(x, weight, algorithm="winograd"),
        ),
    ]
    for kind, message, call in wrong:
        with pytest.raises(kind, match=message):
            call()
