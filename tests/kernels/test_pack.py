"""`kernels.pack`: weights packed once give the bits of weights that are not."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import _core, kernels

from .problems import arranged, normal

FLOATS = (np.float32, np.float64)


def numbers(seed: int, *shape: int, dtype: Any = np.float32) -> Any:
    return normal(np.random.default_rng(seed), dtype, *shape)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("m", "k", "n"),
    [
        (1, 1, 1),
        (1, 600, 33),
        (3, 5, 7),
        (4, 513, 64),
        (5, 1030, 100),
        (30, 64, 97),
        (300, 1100, 130),
        (0, 3, 4),
        (3, 0, 4),
    ],
)
def test_linear(dtype: Any, m: int, k: int, n: int) -> None:
    """Few rows, panels and blocks, with k beyond a block of every dtype and columns to spare."""
    x, weight = numbers(1, m, k, dtype=dtype), numbers(2, n, k, dtype=dtype)
    bias, residual = numbers(3, n, dtype=dtype), numbers(4, m, n, dtype=dtype)
    packed = kernels.pack(weight, "linear")
    options = {"activation": "tanh", "residual": residual}
    expected = kernels.linear(x, weight, bias, **options)
    for _ in range(2):  # the first call makes the panels
        assert np.array_equal(kernels.linear(x, packed, bias, **options), expected)
    packed = kernels.pack(weight.T, "matmul")
    for a in (x, numbers(5, 2, 3, m, k, dtype=dtype)):
        expected = kernels.matmul(a, weight.T)
        for _ in range(2):
            assert np.array_equal(kernels.matmul(a, packed), expected)


# shape of x, oc, kernel, stride, padding, dilation, groups
IMAGES = [
    ((1, 16, 14, 14), 40, 3, 1, 1, 1, 1),  # winograd, packed at use
    ((3, 16, 30, 29), 20, 3, 1, 1, 1, 1),  # winograd, packed for all strips
    ((2, 16, 9, 9), 40, 3, 2, 1, 1, 1),
    ((1, 64, 20, 20), 70, 1, 1, 0, 1, 1),  # a matrix product
    ((3, 8, 7, 7), 12, 1, 1, 0, 1, 1),  # a small plane
    ((2, 6, 9, 8), 12, 3, 1, 1, 2, 3),  # groups
    ((1, 70, 5, 5), 33, 3, 1, 1, 1, 1),  # units of channels
    ((2, 5, 6, 6), 5, 3, 1, 1, 1, 5),  # depthwise: nothing to pack
    ((1, 600, 4, 4), 35, 1, 2, 0, 1, 1),
    ((2, 4, 6, 6), 4, 1, 3, 0, 1, 1),  # transposed: positions that no tap meets
    ((0, 4, 6, 6), 4, 3, 1, 0, 1, 1),
]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("problem", IMAGES, ids=str)
def test_images(dtype: Any, layout: str, problem: Any) -> None:
    shape, oc, size, stride, padding, dilation, groups = problem
    x = arranged(numbers(1, *shape, dtype=dtype), layout)
    weight = numbers(2, oc, shape[1] // groups, size, size, dtype=dtype)
    packed = kernels.pack(weight, "conv2d")
    args = (numbers(3, oc, dtype=dtype), stride, padding, dilation, groups)
    expected = kernels.conv2d(x, weight, *args, layout=layout)
    for _ in range(2):
        assert np.array_equal(kernels.conv2d(x, packed, *args, layout=layout), expected)
    weight = numbers(4, shape[1], oc // groups, size, size, dtype=dtype)
    packed = kernels.pack(weight, "conv_transpose2d")
    args = (None, stride, padding, 0, groups, dilation)
    expected = kernels.conv_transpose2d(x, weight, *args, layout=layout)
    for _ in range(2):
        assert np.array_equal(kernels.conv_transpose2d(x, packed, *args, layout=layout), expected)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("axes", [1, 3])
def test_lengths_and_volumes(axes: int) -> None:
    x, weight = numbers(1, 2, 6, *[7] * axes), numbers(2, 8, 6, *[3] * axes)
    expected = getattr(kernels, f"conv{axes}d")(x, weight, None, 2, 1)
    packed = kernels.pack(weight, f"conv{axes}d")
    for _ in range(2):
        assert np.array_equal(getattr(kernels, f"conv{axes}d")(x, packed, None, 2, 1), expected)
    weight = np.ascontiguousarray(np.moveaxis(weight, 0, 1))
    expected = getattr(kernels, f"conv_transpose{axes}d")(x, weight, None, 2, 1)
    packed = kernels.pack(weight, f"conv_transpose{axes}d")
    for _ in range(2):
        got = getattr(kernels, f"conv_transpose{axes}d")(x, packed, None, 2, 1)
        assert np.array_equal(got, expected)


def test_one_weight_for_every_call() -> None:
    """Shapes, options, layouts, algorithms, levels and teams may change from call to call."""
    weight = numbers(1, 24, 16, 3, 3)
    packed = kernels.pack(weight, "conv2d")
    former = _core.isa()
    try:
        for level in _core.available_isas():
            _core.set_isa(level)
            for size, n, threads in ((8, 1, 1), (30, 2, 2), (8, 5, 3)):
                x = numbers(size, n, 16, size, size)
                for options in (
                    {"padding": 1},
                    {"padding": 1, "algorithm": "direct"},
                    {"stride": 2},
                    {"flip_kernel": True},
                    {"padding": 3, "dilation": 2},
                ):
                    with ann.threads(threads):
                        got = kernels.conv2d(x, packed, **options)
                    assert np.array_equal(got, kernels.conv2d(x, weight, **options))
    finally:
        _core.set_isa(former)


def test_forms_are_made_once() -> None:
    x, weight = numbers(1, 1, 16, 20, 20), numbers(2, 24, 16, 3, 3)
    packed = kernels.pack(weight, "conv2d")
    assert (packed.op, packed.shape, packed.dtype) == ("conv2d", weight.shape, weight.dtype)
    assert packed.nbytes == weight.nbytes
    kernels.conv2d(x, packed, padding=1)
    once = packed.nbytes
    assert once > weight.nbytes
    kernels.conv2d(x[:, :, :16], packed, padding=1)
    assert packed.nbytes == once
    kernels.conv2d(x, packed, padding=1, algorithm="direct")
    assert packed.nbytes > once


def test_weight_is_copied() -> None:
    x, weight = numbers(1, 3, 5), numbers(2, 4, 5)
    packed, expected = kernels.pack(weight, "linear"), kernels.linear(x, weight)
    weight[:] = 0
    assert np.array_equal(kernels.linear(x, packed), expected)


def test_strided_weights() -> None:
    x, wide = numbers(1, 3, 6), numbers(2, 8, 12)
    for weight in (wide[::2, ::2], wide[::-2, 5::-1], wide.T[:4:, :6], wide[:1, :6][[0] * 4]):
        expected = kernels.linear(x, np.ascontiguousarray(weight))
        assert np.array_equal(kernels.linear(x, kernels.pack(weight, "linear")), expected)


def test_threads_share_a_weight() -> None:
    x, weight = numbers(1, 1, 32, 14, 14), numbers(2, 48, 32, 3, 3)
    expected = kernels.conv2d(x, weight, padding=1)
    packed = kernels.pack(weight, "conv2d")
    results: list[Any] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        results.extend(kernels.conv2d(x, packed, padding=1) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    assert all(np.array_equal(result, expected) for result in results)


def test_wrong_places() -> None:
    x, packed = numbers(1, 2, 3), kernels.pack(numbers(2, 4, 3), "linear")
    with pytest.raises(ValueError, match=r"\[conv1d\] weight: .* packed for conv1d, got .*linear"):
        kernels.conv1d(numbers(3, 1, 3, 5), packed)
    with pytest.raises(TypeError, match=r"\[linear\] weight: expected float64 .*, got float32"):
        kernels.linear(x.astype(np.float64), packed)
    with pytest.raises(ValueError, match=r"\[linear\] weight: expected 5 input features"):
        kernels.linear(numbers(4, 2, 5), packed)
    with pytest.raises(ValueError, match=r"\[matmul\] b: .* packed for matmul, got .* linear"):
        kernels.matmul(x, packed)
    with pytest.raises(TypeError, match=r"\[linear_backward\] weight: "):
        kernels.linear_backward(numbers(5, 2, 4), x, packed)
