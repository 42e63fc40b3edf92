"""Normalisation layers: PyTorch's outputs, gradients and state, fusion, errors."""

import inspect

import numpy as np
import pytest

from arraynn import Tensor, kernels, nn
from arraynn.autograd import gradcheck
from arraynn.nn import functional as F

# Layer, arguments, shape of a batch.
LAYERS = [
    ("LayerNorm", {"normalized_shape": 7}, (3, 5, 7)),
    ("LayerNorm", {"normalized_shape": (5, 7), "eps": 0.1}, (3, 5, 7)),
    ("LayerNorm", {"normalized_shape": 7, "bias": False}, (3, 7)),
    ("LayerNorm", {"normalized_shape": 7, "elementwise_affine": False}, (3, 7)),
    ("RMSNorm", {"normalized_shape": (5, 7)}, (3, 5, 7)),
    ("RMSNorm", {"normalized_shape": 7, "eps": 0.1, "elementwise_affine": False}, (3, 7)),
    ("GroupNorm", {"num_groups": 3, "num_channels": 6}, (2, 6, 4, 5)),
    ("GroupNorm", {"num_groups": 2, "num_channels": 6, "affine": False, "eps": 0.1}, (2, 6, 5)),
    ("BatchNorm1d", {"num_features": 6}, (4, 6)),
    ("BatchNorm1d", {"num_features": 6, "momentum": None}, (4, 6, 3)),
    ("BatchNorm2d", {"num_features": 6, "eps": 0.1, "momentum": 0.3}, (3, 6, 4, 5)),
    ("BatchNorm2d", {"num_features": 6, "affine": False}, (3, 6, 4, 5)),
    ("BatchNorm2d", {"num_features": 6, "track_running_stats": False}, (3, 6, 4, 5)),
    ("BatchNorm3d", {"num_features": 6}, (2, 6, 2, 3, 4)),
    ("InstanceNorm1d", {"num_features": 6}, (3, 6, 5)),
    ("InstanceNorm1d", {"num_features": 6, "affine": True}, (6, 5)),
    ("InstanceNorm2d", {"num_features": 6, "track_running_stats": True}, (3, 6, 4, 5)),
    (
        "InstanceNorm2d",
        {"num_features": 6, "track_running_stats": True, "affine": True, "momentum": 0.3},
        (6, 4, 5),
    ),
    ("InstanceNorm3d", {"num_features": 6, "affine": True}, (2, 6, 2, 3, 4)),
    ("GroupNorm", {"num_groups": 2, "num_channels": 6, "bias": False}, (2, 6, 5)),
    ("BatchNorm2d", {"num_features": 6, "bias": False}, (3, 6, 4, 5)),
    ("BatchNorm1d", {"num_features": 6, "affine": False, "bias": False}, (4, 6)),
    ("InstanceNorm1d", {"num_features": 6, "affine": True, "bias": False}, (3, 6, 5)),
]


@pytest.mark.parametrize(("name", "options", "shape"), LAYERS, ids=str)
def test_layers_give_torchs_outputs_gradients_and_state(name, options, shape, rng):
    torch = pytest.importorskip("torch")
    ours = getattr(nn, name)(**options, dtype=np.float64)
    layer = getattr(torch.nn, name)
    if not set(options) <= set(inspect.signature(layer).parameters):
        pytest.skip("this torch has no such option")
    theirs = layer(**options, dtype=torch.float64)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    for training in (True, True, False):
        ours.train(training)
        theirs.train(training)
        x, grad = 2 * rng.standard_normal((2, *shape)) + 1
        t, tt = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        y, ty = ours(t), theirs(tt)
        np.testing.assert_allclose(y.data, ty.detach().numpy(), rtol=1e-10, atol=1e-11)
        ours.zero_grad()
        theirs.zero_grad()
        y.backward(grad)
        ty.backward(torch.tensor(grad))
        np.testing.assert_allclose(t.grad, tt.grad.numpy(), rtol=1e-9, atol=1e-10)
        for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            np.testing.assert_allclose(a.grad, b.grad.numpy(), rtol=1e-9, atol=1e-10, err_msg=key)
        for key, value in theirs.state_dict().items():
            got = ours.state_dict()[key]
            assert got.dtype == value.numpy().dtype
            np.testing.assert_allclose(got, value.numpy(), rtol=1e-12, err_msg=key)
    np.testing.assert_array_equal(ours(x), y.data)  # an array gives an array


def test_a_weight_without_a_bias_is_told():
    for layer in (nn.GroupNorm(2, 6, bias=False), nn.BatchNorm1d(6, bias=False)):
        assert layer.bias is None
        assert layer.weight is not None
        assert "affine=True, bias=False" in repr(layer)
    for layer in (nn.GroupNorm(2, 6, affine=False, bias=False), nn.BatchNorm1d(6)):
        assert "bias" not in repr(layer)


def test_channels_last_is_the_same_function(rng):
    x = rng.standard_normal((2, 6, 4, 5))
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    for make in (
        lambda **o: nn.BatchNorm2d(6, **o, dtype=np.float64),
        lambda **o: nn.GroupNorm(3, 6, **o, dtype=np.float64),
        lambda **o: nn.InstanceNorm2d(6, **o, dtype=np.float64),
    ):
        y = make(layout="channels_last")(Tensor(last)).data
        expected = make()(Tensor(x)).data
        np.testing.assert_allclose(np.moveaxis(y, -1, 1), expected, rtol=1e-11, atol=1e-12)
    y = nn.InstanceNorm2d(6, layout="channels_last", dtype=np.float64)(last[0])
    expected = nn.InstanceNorm2d(6, dtype=np.float64)(x)[0]
    np.testing.assert_allclose(np.moveaxis(y, -1, 0), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "silu"])
def test_gradients(activation, rng):
    x, w, b = (Tensor(a, requires_grad=True) for a in rng.standard_normal((3, 4, 6)))
    w, b = Tensor(w.data[0], requires_grad=True), Tensor(b.data[0], requires_grad=True)
    mean, var = rng.standard_normal(6), rng.uniform(0.5, 2, 6)
    how = {"activation": activation}
    for function in (
        lambda x, w, b: F.layer_norm(x, 6, w, b, **how),
        lambda x, w, b: F.batch_norm(x, None, None, w, b, True, **how),
        lambda x, w, b: F.batch_norm(x, mean, var, w, b, **how),
        lambda x, w, b: F.group_norm(x, 3, w, b, **how),
        lambda x, w, b: F.rms_norm(x, 6, w, **how) * b,
        lambda x, w, b: F.instance_norm(x.reshape(2, 6, 2), None, None, w, b, **how),
    ):
        assert gradcheck(function, (x, w, b))


def test_sequential_applies_the_activation_in_the_same_pass(rng, monkeypatch):
    seen = []
    real = kernels.batch_norm
    monkeypatch.setattr(
        kernels, "batch_norm", lambda *a, **k: (seen.append(k["activation"]), real(*a, **k))[1]
    )
    x = rng.standard_normal((3, 6, 4, 5))
    norm = nn.BatchNorm2d(6, dtype=np.float64)
    block = nn.Sequential(norm, nn.ReLU())
    t = Tensor(x, requires_grad=True)
    y = block(t)
    assert seen == ["relu"]
    plain = nn.BatchNorm2d(6, dtype=np.float64)(Tensor(x)).relu()
    np.testing.assert_array_equal(y.data, plain.data)
    y.sum().backward()
    assert t.grad.shape == x.shape
    np.testing.assert_array_equal(norm.num_batches_tracked.data, 1)


def test_running_statistics_are_guarded_and_counted_once():
    layer = nn.BatchNorm1d(3)
    before = layer.running_mean.version[0]
    x = Tensor(np.ones((1, 3), np.float32))
    with pytest.raises(ValueError, match=r"\[batch_norm\] x: expected more than 1 value"):
        layer(x)
    assert layer.num_batches_tracked.item() == 0
    layer(Tensor(np.ones((2, 3), np.float32)))
    assert layer.num_batches_tracked.item() == 1
    assert layer.running_mean.version[0] > before
    layer.reset_parameters()
    assert layer.num_batches_tracked.item() == 0
    np.testing.assert_array_equal(layer.running_var.data, 1)
    np.testing.assert_array_equal(layer.running_mean.data, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.BatchNorm2d(0), r"\[BatchNorm2d\] num_features: expected an int of at least 1"),
        (lambda: nn.GroupNorm(4, 6), r"\[GroupNorm\] num_channels: expected a multiple"),
        (lambda: nn.LayerNorm(()), r"\[LayerNorm\] normalized_shape: expected at least one"),
        (lambda: nn.RMSNorm((3, 0)), r"\[RMSNorm\] normalized_shape: expected an int of at least"),
        (lambda: nn.BatchNorm2d(3, layout="NHWC"), r"\[BatchNorm2d\] layout: expected"),
        (
            lambda: nn.BatchNorm2d(3)(np.zeros((2, 3, 4), np.float32)),
            r"\[BatchNorm2d\] input: expected 4 dimensions, got 3",
        ),
        (
            lambda: nn.InstanceNorm1d(3)(np.zeros(3, np.float32)),
            r"\[InstanceNorm1d\] input: expected 2 or 3 dimensions, got 1",
        ),
        (
            lambda: nn.BatchNorm1d(3)(np.zeros((2, 4), np.float32)),
            r"\[BatchNorm1d\] input: expected 3 channels, got 4",
        ),
        (
            lambda: nn.LayerNorm(3)(np.zeros((2, 4), np.float32)),
            r"\[layer_norm\] normalized_shape: expected the last sizes of x",
        ),
        (lambda: F.hardtanh(np.zeros(3), 1.0, 1.0), r"\[hardtanh\] max_val: expected more than"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize(
    ("kind", "bias", "affine"),
    [
        ("Conv1d", True, True),
        ("Conv2d", False, True),
        ("Conv2d", True, False),
        ("ConvTranspose1d", False, True),
        ("ConvTranspose2d", True, True),
    ],
)
def test_fuse_conv_bn(kind, bias, affine, layout, rng):
    axes = int(kind[-2])
    conv = getattr(nn, kind)(4, 6, 3, bias=bias, groups=2, layout=layout, dtype=np.float64)
    norm = getattr(nn, f"BatchNorm{axes}d")(6, affine=affine, layout=layout, dtype=np.float64)
    for _, value in norm._named_state("", None):
        if value.data.ndim:
            value.data[...] = rng.uniform(0.5, 2, 6)
    conv.eval()
    norm.eval()
    before = {key: value.copy() for key, value in conv.state_dict().items()}
    fused = nn.utils.fuse_conv_bn(conv, norm)
    assert type(fused) is type(conv)
    shape = (3, *(9,) * axes, 4) if layout == "channels_last" else (3, 4, *(9,) * axes)
    x = rng.standard_normal(shape)
    np.testing.assert_allclose(fused(x), norm(conv(x)), rtol=1e-11, atol=1e-12)
    assert fused.bias is not None
    for key, value in conv.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_fuse_conv_bn_errors():
    conv, norm = nn.Conv2d(3, 6, 3).eval(), nn.BatchNorm2d(6).eval()
    fuse = nn.utils.fuse_conv_bn
    for a, b, error, message in (
        (nn.Linear(3, 6), norm, TypeError, "conv: expected a convolution, got Linear"),
        (conv, nn.BatchNorm1d(6), TypeError, "bn: expected a BatchNorm2d, got BatchNorm1d"),
        (nn.Conv2d(3, 6, 3), norm, ValueError, "conv: expected evaluation mode"),
        (conv, nn.BatchNorm2d(6), ValueError, "bn: expected evaluation mode"),
        (conv, nn.BatchNorm2d(5).eval(), ValueError, "bn: expected 6 channels"),
        (conv, nn.BatchNorm2d(6, dtype=np.float64).eval(), ValueError, "bn: expected float32"),
        (conv, nn.BatchNorm2d(6, layout="channels_last").eval(), ValueError, "bn: expected layout"),
        (
            conv,
            nn.BatchNorm2d(6, track_running_stats=False).eval(),
            ValueError,
            "bn: expected running statistics",
        ),
    ):
        with pytest.raises(error, match=rf"\[fuse_conv_bn\] {message}"):
            fuse(a, b)


def test_hardtanh_and_relu6(rng):
    torch = pytest.importorskip("torch")
    x = np.concatenate([10 * rng.standard_normal(50), [-1, 0, 1, 2, 6]])
    for ours, theirs in (
        (nn.ReLU6(), torch.nn.ReLU6()),
        (nn.Hardtanh(), torch.nn.Hardtanh()),
        (nn.Hardtanh(-2.0, 1.5), torch.nn.Hardtanh(-2.0, 1.5)),
    ):
        t, tt = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        y, ty = ours(t), theirs(tt)
        np.testing.assert_array_equal(y.data, ty.detach().numpy())
        np.testing.assert_array_equal(ours(x), y.data)
        y.sum().backward()
        ty.sum().backward()
        np.testing.assert_array_equal(t.grad, tt.grad.numpy())
