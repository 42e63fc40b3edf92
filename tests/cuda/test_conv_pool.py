"""conv2d_pool on a device: the bits of the two calls it stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import Tensor, kernels, nn, reference
from device_conv import arranged, normal
from tolerances import assert_same_bits

#: x, weight, options of the convolution and of the pooling.
CASES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any], dict[str, Any]]] = [
    ((2, 3, 9, 8), (16, 3, 3, 3), {"padding": 1}, {}),
    ((2, 16, 8, 7), (24, 16, 1, 1), {}, {"size": 3, "stride": 2, "padding": 1}),
    ((1, 9, 12, 10), (9, 1, 3, 3), {"groups": 9, "padding": 1}, {"size": (2, 3), "stride": 1}),
    ((2, 32, 9, 7), (16, 16, 3, 3), {"groups": 2, "stride": 2}, {"size": 2, "ceil_mode": True}),
    ((1, 8, 7, 6), (5, 8, 2, 2), {"flip_kernel": True}, {"size": (6, 5)}),
    ((1, 0, 6, 6), (4, 0, 3, 3), {"padding": 1}, {}),
    ((0, 3, 8, 8), (5, 3, 3, 3), {}, {}),
    ((2, 3, 8, 8), (0, 3, 3, 3), {}, {}),
]
AVERAGES: list[dict[str, Any]] = [{}, {"count_include_pad": False}, {"divisor_override": 5}]


def pooled(pool: dict[str, Any]) -> dict[str, Any]:
    """Name options of a pooling as `conv2d_pool` does."""
    return {name if name == "ceil_mode" else f"pool_{name}": v for name, v in pool.items()}


def check(
    device: Any, rng: np.random.Generator, dtype: Any, layout: str, case: Any, activation: Any
) -> None:
    x_shape, w_shape, conv, pool = case
    x = device.put(arranged(normal(rng, dtype, *x_shape), layout))
    weight = device.put(normal(rng, dtype, *w_shape))
    bias = device.put(normal(rng, dtype, w_shape[0]))
    options = {**conv, "activation": activation, "layout": layout}
    y = kernels.conv2d(x, weight, bias, **options)
    window = {"kernel_size" if name == "size" else name: v for name, v in pool.items()}
    window = {"kernel_size": 2} | window
    expected = kernels.max_pool2d(y, **window, layout=layout)
    got = kernels.conv2d_pool(x, weight, bias, **options, **pooled(pool))
    assert type(got) is device.ndarray
    assert_same_bits(device.get(got), device.get(expected), f"max of {case}")
    for more in AVERAGES:
        expected = kernels.avg_pool2d(y, **window, **more, layout=layout)
        got = kernels.conv2d_pool(x, weight, bias, pool="avg", **options, **pooled(pool), **more)
        assert_same_bits(device.get(got), device.get(expected), f"mean of {case} {more}")


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_as_two_calls(
    storage: Any, layout: str, case: Any, device: Any, rng: np.random.Generator
) -> None:
    check(device, rng, storage, layout, case, "relu")


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("case", CASES[1:5], ids=str)
def test_on_a_hopper(
    half: Any, layout: str, case: Any, hopper: Any, rng: np.random.Generator
) -> None:
    check(hopper, rng, half, layout, case, None)


def test_against_the_reference(device: Any, rng: np.random.Generator) -> None:
    x, weight = normal(rng, np.float64, 2, 6, 11, 9), normal(rng, np.float64, 8, 3, 3, 2)
    bias = normal(rng, np.float64, 8)
    for pool in ("max", "avg"):
        options = {"groups": 2, "padding": 1, "pool": pool, "pool_size": 3, "activation": "tanh"}
        options |= {"pool_stride": 2, "pool_padding": 1}
        expected = reference.conv2d_pool(x, weight, bias, **options)
        got = kernels.conv2d_pool(*map(device.put, (x, weight, bias)), **options)
        np.testing.assert_allclose(device.get(got), expected, 1e-12, 1e-12)


def test_one_launch_more_than_the_convolution(device: Any, rng: np.random.Generator) -> None:
    if device.name != "host_cuda":
        pytest.skip("counted by the emulated device only")
    x = device.put(normal(rng, np.float32, 2, 8, 8, 8))
    weight = device.put(normal(rng, np.float32, 8, 8, 3, 3))
    counts = [device.launches()]
    kernels.conv2d(x, weight)
    counts.append(device.launches())
    kernels.conv2d_pool(x, weight)
    counts.append(device.launches())
    assert counts[2] - counts[1] == counts[1] - counts[0] + 1


def test_out_packed_weights_and_errors(device: Any, rng: np.random.Generator) -> None:
    x, weight = normal(rng, np.float32, 2, 3, 8, 8), normal(rng, np.float32, 4, 3, 3, 3)
    there, w = device.put(x), device.put(weight)
    out = device.put(np.zeros((2, 4, 3, 3), np.float32))
    expected = device.get(kernels.conv2d_pool(there, w))
    assert kernels.conv2d_pool(there, w, out=out) is out
    assert_same_bits(device.get(out), expected)
    packed = kernels.pack(w, "conv2d")
    assert_same_bits(device.get(kernels.conv2d_pool(there, packed)), expected)
    with pytest.raises(ValueError, match=r"\[conv2d_pool\] pool: expected 'max' or 'avg'"):
        kernels.conv2d_pool(there, w, pool="min")
    with pytest.raises(ValueError, match=r"\[conv2d_pool\] groups"):
        kernels.conv2d_pool(there, w, groups=2)
    with pytest.raises(TypeError, match=r"\[conv2d_pool\] weight"):
        kernels.conv2d_pool(there, weight)
    with pytest.raises(NotImplementedError, match=r"\[conv2d_pool\] algorithm: .* on a GPU"):
        kernels.conv2d_pool(there, w, algorithm="winograd")


def test_a_sequence_of_layers(device: Any, rng: np.random.Generator) -> None:
    """What `nn.Sequential` pools in one call on the CPU."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    x = Tensor(normal(rng, np.float32, 2, 3, 8, 8))
    with ann.no_grad():
        expected = net(x)
        got = net.to(device.place)(x.to(device.place))
    assert type(got.data) is device.ndarray
    np.testing.assert_allclose(got.numpy(), expected.data, 1e-5, 1e-5)
