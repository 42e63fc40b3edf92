"""Rotary embedding as a function and a layer: values, gradients, errors."""

import numpy as np
import pytest

import arraynn as ann
from arraynn import Tensor, kernels, nn
from arraynn.autograd import gradcheck
from arraynn.nn import functional as F


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("layout", ["bhld", "blhd"])
def test_layer(interleaved, layout, rng):
    layer = nn.RotaryEmbedding(
        6, 20, 500.0, interleaved=interleaved, layout=layout, dtype=np.float64
    )
    how = {"interleaved": interleaved, "layout": layout}
    angles = np.arange(20)[:, None] * 500.0 ** (-np.arange(3) / 3)
    np.testing.assert_allclose(layer.cos.data, np.cos(angles), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(layer.sin.data, np.sin(angles), rtol=1e-13, atol=1e-13)
    x = rng.standard_normal((2, 4, 4, 8))
    for positions in (None, 3, rng.integers(0, 20, 4), rng.integers(0, 20, (2, 4))):
        expected = kernels.rope(x, layer.cos.data, layer.sin.data, positions, **how)
        np.testing.assert_array_equal(layer(x, positions), expected)
        leaf = Tensor(x, requires_grad=True)
        np.testing.assert_array_equal(layer(leaf, positions).data, expected)
        assert gradcheck(lambda v, at=positions: layer(v, at), [leaf])


def test_nothing_is_state_and_dtype_follows(rng):
    layer = nn.RotaryEmbedding(4, 8)
    assert not layer.state_dict()
    assert [name for name, _ in layer.named_buffers()] == ["cos", "sin"]
    assert not list(layer.parameters())
    layer.double()
    assert layer(rng.standard_normal((1, 3, 5))).dtype == np.float64


def test_no_gradient_is_recorded_without_need(rng):
    layer = nn.RotaryEmbedding(4, 8, dtype=np.float64)
    x = Tensor(rng.standard_normal((1, 3, 5)), requires_grad=True)
    with ann.no_grad():
        assert layer(x).node is None
    assert isinstance(F.rope(x.data, layer.cos, layer.sin), np.ndarray)


def test_repr():
    assert repr(nn.RotaryEmbedding(4, 8)) == "RotaryEmbedding(4, max_positions=8, base=10000.0)"
    other = nn.RotaryEmbedding(4, interleaved=True, layout="blhd")
    assert repr(other).endswith("base=10000.0, interleaved=True, layout='blhd')")


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((5,), {}, "dim: expected an even number, got 5"),
        ((0,), {}, "dim: expected an int of at least 1"),
        ((4, 0), {}, "max_positions: expected an int of at least 1"),
        ((4, 8, 0.0), {}, "base: expected a finite value > 0, got 0.0"),
        ((4, 8, float("nan")), {}, "base: expected a finite value > 0"),
        ((4,), {"layout": "lbhd"}, "layout: expected 'bhld' or 'blhd', got 'lbhd'"),
    ],
)
def test_errors(args, options, message):
    with pytest.raises(ValueError, match=rf"\[RotaryEmbedding\] {message}"):
        nn.RotaryEmbedding(*args, **options)


def test_positions_beyond_the_table():
    layer = nn.RotaryEmbedding(4, 8)
    with pytest.raises(ValueError, match=r"\[rope\] positions: expected rows of cos in .*, got 8"):
        layer(np.zeros((1, 9, 4), np.float32))
    with pytest.raises(ValueError, match=r"\[rope\] positions: expected rows of cos in .*, got -1"):
        layer(np.zeros((1, 2, 4), np.float32), np.array([0, -1]))
