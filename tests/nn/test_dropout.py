"""Dropout of elements and of channels: masks, moments, gradients, errors."""

import numpy as np
import pytest

import arraynn as ann
from arraynn import Tensor, nn
from arraynn.nn import functional as F

CHANNELS = [
    (nn.Dropout1d, (4, 6, 5), 2),
    (nn.Dropout1d, (60, 5), 1),
    (nn.Dropout2d, (4, 6, 5, 3), 2),
    (nn.Dropout2d, (4, 6, 5), 2),
    (nn.Dropout3d, (4, 6, 5, 3, 2), 2),
    (nn.Dropout3d, (60, 5, 3, 2), 1),
]
LAYERS = [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d]
ALPHAS = [nn.AlphaDropout, nn.FeatureAlphaDropout]


@pytest.mark.parametrize(("layer", "shape", "axes"), CHANNELS)
def test_channels_are_dropped_whole_and_the_others_scaled(layer, shape, axes, dtype):
    ann.manual_seed(0)
    x = Tensor(np.ones(shape, dtype), requires_grad=True)
    module = layer(0.25)
    y = module(x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    flat = y.data.reshape(int(np.prod(shape[:axes])), -1)
    assert (flat == flat[:, :1]).all()
    assert set(flat[:, 0].tolist()) == {0.0, float(dtype.type(1) / dtype.type(0.75))}
    y.backward(np.full(shape, 2, dtype))
    np.testing.assert_array_equal(x.grad, 2 * y.data)
    assert module(x).data.tobytes() != y.data.tobytes()
    ann.manual_seed(0)
    assert module(x).data.tobytes() == y.data.tobytes()


@pytest.mark.parametrize("name", ["dropout1d", "dropout2d", "dropout3d"])
def test_one_channel_in_four_is_dropped(name):
    x = np.ones((400, 50, 2, 1, 1)[: int(name[-2]) + 2], np.float32)
    share = (getattr(F, name)(x, 0.25, seed=1) == 0).mean()
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / 20_000) ** 0.5


def test_alpha_dropout_keeps_mean_and_variance():
    x = np.random.default_rng(0).standard_normal((2000, 500))
    for function in (F.alpha_dropout, F.feature_alpha_dropout):
        y = function(x, 0.3, True, seed=5)
        assert abs(y.mean()) < 0.01
        assert abs(y.var() - 1) < 0.01


@pytest.mark.parametrize("layer", ALPHAS)
def test_alpha_dropout_is_its_equation(layer, dtype):
    ann.manual_seed(1)
    x = Tensor(np.random.default_rng(2).standard_normal((8, 5, 3)).astype(dtype), True)
    y = layer(0.4)(x)
    limit = 1.0507009873554805 * 1.6732632423543772
    a = ((limit**2 * 0.4 + 1) * 0.6) ** -0.5
    dropped = np.isclose(y.data, a * limit * (0.4 - 1), rtol=1e-5)
    assert 0.1 < dropped.mean() < 0.7
    if layer is nn.FeatureAlphaDropout:
        assert (dropped == dropped[:, :, :1]).all()
    expected = np.where(dropped, a * limit * (0.4 - 1), a * x.data + a * limit * 0.4)
    np.testing.assert_allclose(y.data, expected, rtol=1e-5, atol=1e-6)
    assert y.dtype == dtype
    y.backward(np.ones(y.shape, dtype))
    np.testing.assert_allclose(x.grad, np.where(dropped, 0, a), rtol=1e-6)


@pytest.mark.parametrize("layer", [*LAYERS, *ALPHAS])
def test_nothing_happens_outside_training_and_with_p_of_0(layer):
    x = Tensor(np.ones((2, 3, 4, 5)[: 3 if "1d" in layer.__name__ else 4], np.float32))
    assert layer(0.5).eval()(x) is x
    assert layer(0.0)(x) is x
    assert (layer(1.0)(x).data == 0).all()


@pytest.mark.parametrize("layer", [*LAYERS, *ALPHAS])
def test_torchs_names_and_arguments(layer):
    torch = pytest.importorskip("torch")
    name = layer.__name__
    for arguments in ((), (0.3,), (0.3, True)):
        assert repr(layer(*arguments)) == repr(getattr(torch.nn, name)(*arguments))
    for p in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=rf"^\[{name}\] p: expected a probability in \[0, 1\]"):
            layer(p)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: F.dropout1d(x, 0.5), r"\[dropout1d\] input: expected 2 or 3 dimensions, got 1"),
        (lambda x: F.dropout2d(x, 0.5), r"\[dropout2d\] input: expected 3 or 4 dimensions, got 1"),
        (lambda x: F.dropout3d(x, 0.5), r"\[dropout3d\] input: expected 4 or 5 dimensions, got 1"),
        (
            lambda x: F.feature_alpha_dropout(x, 0.5, True),
            r"\[feature_alpha_dropout\] input: expected at least 2 dimensions",
        ),
        (lambda x: F.alpha_dropout(x, 2.0), r"\[alpha_dropout\] p: expected a probability"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones(3, np.float32))


def test_inplace_is_accepted_where_torch_has_it():
    x = np.linspace(-7, 7, 15)
    for name in ("relu", "selu", "relu6", "hardsigmoid", "hardswish", "silu", "mish"):
        function = getattr(F, name)
        assert function(x, True).tobytes() == function(x).tobytes()
    for name in ("leaky_relu", "elu"):
        function = getattr(F, name)
        assert function(x, 0.5, inplace=True).tobytes() == function(x, 0.5).tobytes()
    assert F.hardtanh(x, -2.0, 2.0, True).tobytes() == F.hardtanh(x, -2.0, 2.0).tobytes()
    assert F.dropout(x, 0.5, True, True, seed=1).tobytes() == F.dropout(x, 0.5, seed=1).tobytes()
