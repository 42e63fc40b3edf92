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
    ((2, 70, 6, 5), 40, 2, 2, 0, 1, 1),
    ((2, 130, 4, 5), 40, 4, 2, 1, 1, 1),  # transposed: units of all residues
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


NETWORKS = {"rnn": 1, "lstm": 4, "gru": 3}


def network(
    kind: str, size: int, hidden: int, *, layers: int = 1, out: int = 0, dtype: Any = np.float32
) -> list[Any]:
    """The list of weights, small enough for states in the middle of their range."""
    rows, arrays = NETWORKS[kind] * hidden, []
    for layer in range(layers):
        width = size if layer == 0 else out or hidden
        shapes = [(rows, width), (rows, out or hidden), (rows,), (rows,)]
        shapes += [(out, hidden)] if out else []
        arrays += [numbers(10 * layer + i, *s, dtype=dtype) / 8 for i, s in enumerate(shapes)]
    return [a.astype(dtype) for a in arrays]


def flat(value: Any) -> list[Any]:
    return [a for v in value for a in flat(v)] if isinstance(value, tuple) else [value]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(
    ("steps", "batch", "size", "hidden"),
    [(1, 1, 7, 33), (1, 9, 530, 40), (5, 1, 3, 100), (4, 7, 6, 520), (3, 5, 4, 1), (0, 2, 3, 4)],
)
def test_networks(dtype: Any, kind: str, steps: int, batch: int, size: int, hidden: int) -> None:
    """One step and more, few samples and more, k beyond a block, units that fill no vector."""
    weights = network(kind, size, hidden, dtype=dtype)
    x, function = numbers(1, steps, batch, size, dtype=dtype), getattr(kernels, kind)
    state: Any = numbers(2, 1, batch, hidden, dtype=dtype)
    if kind == "lstm":
        state = (state, numbers(3, 1, batch, hidden, dtype=dtype))
    packed = kernels.pack(weights, kind)
    options: list[dict[str, Any]] = [{}, {"weight_dropout": 0.5, "seed": 3}]
    options += [{"reset_after": False}] if kind == "gru" else []
    for how in options:
        for start in (None, state):
            expected = flat(function(x, weights, start, **how))
            for _ in range(2):
                for a, b in zip(flat(function(x, packed, start, **how)), expected, strict=True):
                    assert np.array_equal(a, b)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("kind", NETWORKS)
def test_layers_of_networks(kind: str) -> None:
    """Layers, a projection, layer norms, cells, and gradients of the arrays that were packed."""
    out = 17 if kind == "lstm" else 0
    weights = network(kind, 5, 40, layers=2, out=out)
    packed, x = kernels.pack(weights, kind), numbers(4, 6, 3, 5)
    function = getattr(kernels, kind)
    wide = NETWORKS[kind] * 40
    norms = [numbers(5, wide), numbers(6, wide)]
    norms += [numbers(7, 40), numbers(8, 40)] if kind == "lstm" else []
    for how in ({}, {"lengths": [6, 0, 2]}, {"layer_norm": norms * 2}):
        expected = flat(function(x, weights, num_layers=2, **how))
        for a, b in zip(flat(function(x, packed, num_layers=2, **how)), expected, strict=True):
            assert np.array_equal(a, b)
    grad = numbers(9, 6, 3, out or 40)
    results = []
    for given in (weights, packed):
        *_, kept = function(x, given, num_layers=2, return_workspace=True)
        results.append(getattr(kernels, f"{kind}_backward")(grad, None, kept))
    assert np.array_equal(results[0][0], results[1][0])
    for a, b in zip(results[0][2], results[1][2], strict=True):
        assert np.array_equal(a, b)
    one = weights[: len(weights) // 2]
    cell = getattr(kernels, f"{kind}_cell")
    for a, b in zip(flat(cell(x[0], kernels.pack(one, kind))), flat(cell(x[0], one)), strict=True):
        assert np.array_equal(a, b)


def test_forms_of_networks() -> None:
    weights, x = network("gru", 5, 40), numbers(1, 3, 6, 5)
    packed = kernels.pack(weights, "gru")
    assert (packed.op, packed.dtype) == ("gru", np.float32)
    assert packed.shapes == [w.shape for w in weights]
    plain = sum(w.nbytes for w in weights)
    assert packed.nbytes == plain
    kernels.gru(x, packed)
    once = packed.nbytes
    assert plain + weights[0].nbytes + weights[1].nbytes <= once
    for steps in (1, 3):  # the cell reads the panels of the sequence
        kernels.gru(x[:steps], packed)
    kernels.gru_cell(x[0], packed)
    assert packed.nbytes == once
    kernels.gru(x, packed, reset_after=False)
    assert packed.nbytes > once
    expected = kernels.gru(x, weights)[0]
    weights[1][:] = 0
    assert np.array_equal(kernels.gru(x, packed)[0], expected)


def test_networks_for_any_team_and_level() -> None:
    weights, x = network("lstm", 64, 256), numbers(1, 5, 3, 64)
    packed, former = kernels.pack(weights, "lstm"), _core.isa()
    try:
        for level in _core.available_isas():
            _core.set_isa(level)
            expected = kernels.lstm(x, weights)[0]
            for threads in (1, 2, 3):
                with ann.threads(threads):
                    assert np.array_equal(kernels.lstm(x, packed)[0], expected)
    finally:
        _core.set_isa(former)


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
    steps, lstm = numbers(6, 2, 1, 3), kernels.pack(network("lstm", 3, 5), "lstm")
    with pytest.raises(ValueError, match=r"\[gru\] weights: .* packed for gru, got .* lstm"):
        kernels.gru(steps, lstm)
    with pytest.raises(ValueError, match=r"\[rnn_cell\] weights: .* packed for rnn, got .* lstm"):
        kernels.rnn_cell(x, lstm)
    with pytest.raises(TypeError, match=r"\[lstm\] weights: expected float64 .*, got float32"):
        kernels.lstm(steps.astype(np.float64), lstm)
    with pytest.raises(ValueError, match=r"\[lstm\] weights\[0\]: expected shape \(20, 4\)"):
        kernels.lstm(numbers(7, 2, 1, 4), lstm)
    with pytest.raises(TypeError, match=r"\[lstm\] weights: "):
        kernels.lstm(steps, packed)
