"""Pooling layers and functions: PyTorch's results, samples without a batch, gradients, errors."""

import numpy as np
import pytest

from arraynn import Tensor, nn, reference
from arraynn.autograd import gradcheck
from arraynn.nn import functional as F

# Layer, arguments, shape of a batch.
LAYERS = [
    ("MaxPool1d", {"kernel_size": 3, "stride": 2, "padding": 1}, (2, 3, 17)),
    ("MaxPool1d", {"kernel_size": 2, "dilation": 2, "ceil_mode": True}, (2, 3, 18)),
    ("MaxPool2d", {"kernel_size": (3, 2), "stride": 2, "padding": (1, 0)}, (2, 3, 9, 8)),
    ("AvgPool1d", {"kernel_size": 3, "stride": 2, "padding": 1}, (2, 3, 18)),
    (
        "AvgPool1d",
        {"kernel_size": 4, "padding": 2, "ceil_mode": True, "count_include_pad": False},
        (2, 3, 17),
    ),
    ("AvgPool2d", {"kernel_size": 2, "divisor_override": 3}, (2, 3, 9, 8)),
    ("AdaptiveMaxPool1d", {"output_size": 5}, (2, 3, 17)),
    ("AdaptiveMaxPool2d", {"output_size": (5, None)}, (2, 3, 9, 8)),
    ("AdaptiveMaxPool2d", {"output_size": 1}, (2, 3, 9, 8)),
    ("AdaptiveAvgPool1d", {"output_size": 5}, (2, 3, 17)),
    ("AdaptiveAvgPool2d", {"output_size": (None, 3)}, (2, 3, 9, 8)),
    ("AdaptiveAvgPool2d", {"output_size": 4}, (2, 3, 8, 8)),
    ("AdaptiveAvgPool2d", {"output_size": (12, 7)}, (2, 3, 9, 8)),
    ("LPPool1d", {"norm_type": 2, "kernel_size": 3, "stride": 2}, (2, 3, 17)),
    ("LPPool1d", {"norm_type": 2.0, "kernel_size": 3, "ceil_mode": True}, (2, 3, 17)),
    ("LPPool2d", {"norm_type": 1, "kernel_size": 2, "ceil_mode": True}, (2, 3, 9, 7)),
    ("LPPool2d", {"norm_type": 4, "kernel_size": (3, 2), "stride": (2, 1)}, (2, 3, 9, 8)),
    ("MaxPool3d", {"kernel_size": (3, 2, 2), "stride": 2, "padding": (1, 0, 1)}, (2, 3, 5, 6, 7)),
    ("AvgPool3d", {"kernel_size": 2, "padding": 1, "ceil_mode": True}, (2, 3, 5, 6, 7)),
    ("AvgPool3d", {"kernel_size": (1, 2, 2), "divisor_override": 3}, (2, 3, 5, 6, 7)),
    ("AdaptiveMaxPool3d", {"output_size": (2, None, 3)}, (2, 3, 5, 6, 7)),
    ("AdaptiveAvgPool3d", {"output_size": (2, 4, 7)}, (2, 3, 5, 6, 7)),
    ("LPPool3d", {"norm_type": 2, "kernel_size": (2, 3, 2), "ceil_mode": True}, (2, 3, 5, 6, 7)),
]
# Pooling and its unpooling, sizes of the signal or image.
UNPOOLED = [
    ("1d", {"kernel_size": 2}, (17,)),
    ("1d", {"kernel_size": 3, "stride": 2, "padding": 1}, (18,)),
    ("2d", {"kernel_size": 2}, (8, 9)),
    ("2d", {"kernel_size": (2, 3), "stride": (2, 3), "padding": (1, 1)}, (9, 10)),
    ("3d", {"kernel_size": (2, 3, 2), "stride": (2, 3, 3), "padding": (1, 1, 0)}, (5, 9, 10)),
]


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(("name", "options", "shape"), LAYERS, ids=str)
def test_layers_give_torchs_outputs_and_gradients(name, options, shape, batched, rng):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal(shape if batched else shape[1:])
    ours, theirs = getattr(nn, name)(**options), getattr(torch.nn, name)(**options)
    t, tt = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, ty = ours(t), theirs(tt)
    np.testing.assert_allclose(y.data, ty.detach().numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(ours(x), y.data)
    grad = rng.standard_normal(y.shape)
    y.backward(grad)
    ty.backward(torch.tensor(grad))
    np.testing.assert_allclose(t.grad, tt.grad.numpy(), rtol=1e-12, atol=1e-12)
    if "Max" in name:
        ours, theirs = (getattr(m, name)(**options, return_indices=True) for m in (nn, torch.nn))
        y, indices = ours(t)
        _, torch_indices = theirs(tt)
        assert not indices.requires_grad
        np.testing.assert_array_equal(indices.data, torch_indices.numpy())
        np.testing.assert_array_equal(ours(x)[1], indices.data)
        t.grad = None
        y.backward(grad)
        np.testing.assert_allclose(t.grad, tt.grad.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(("axes", "options", "sizes"), UNPOOLED, ids=str)
def test_unpooling_is_torchs(axes, options, sizes, batched, rng):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, 3, *sizes) if batched else (3, *sizes))
    pool = getattr(nn, f"MaxPool{axes}")(**options, return_indices=True)
    ours, theirs = (getattr(m, f"MaxUnpool{axes}")(**options) for m in (nn, torch.nn))
    y, indices = pool(x)
    where = torch.from_numpy(indices)
    for size in (None, sizes, x.shape):
        if size is not None and len(size) > len(sizes) and not batched:
            continue
        t, tt = Tensor(y, requires_grad=True), torch.tensor(y, requires_grad=True)
        try:
            expected = theirs(tt, where, output_size=None if size is None else list(size))
        except ValueError:
            with pytest.raises(ValueError, match=r"\[max_unpool.d\] output_size"):
                ours(t, indices, size)
            continue
        except RuntimeError:  # an index beyond the smaller plane
            with pytest.raises(ValueError, match=r"\[max_unpool.d\] indices"):
                ours(t, indices, size)
            continue
        got = ours(t, Tensor(indices), size)
        np.testing.assert_array_equal(got.data, expected.detach().numpy())
        np.testing.assert_array_equal(ours(y, indices, size), got.data)
        grad = rng.standard_normal(got.shape)
        got.backward(grad)
        expected.backward(torch.tensor(grad))
        np.testing.assert_array_equal(t.grad, tt.grad.numpy())


@pytest.mark.parametrize(("name", "options", "shape"), LAYERS, ids=str)
def test_channels_last_layers_agree(name, options, shape, rng):
    x = rng.standard_normal(shape)
    first = getattr(nn, name)(**options)
    last = getattr(nn, name)(**options, layout="channels_last")
    for a in (x, x[0]):
        axis = a.ndim - len(shape) + 1
        np.testing.assert_allclose(
            np.moveaxis(last(np.moveaxis(a, axis, -1)), -1, axis), first(a), rtol=1e-12, atol=1e-15
        )


@pytest.mark.parametrize(
    "function",
    [
        lambda t: F.max_pool1d(t, 3, 2, 1),
        lambda t: F.max_pool1d(t, 2, return_indices=True),
        lambda t: F.avg_pool1d(t, 3, 2, 1, True, False),
        lambda t: F.avg_pool1d(t, 2, 1, dilation=3),
        lambda t: F.adaptive_max_pool1d(t, 4),
        lambda t: F.adaptive_avg_pool1d(t, 4),
        lambda t: F.adaptive_max_pool2d(t[None], (1, 3)),
        lambda t: F.adaptive_max_pool2d(t[None], (2, 5), True),
        lambda t: F.adaptive_avg_pool2d(t[None], (2, 5), layout="channels_last"),
        lambda t: F.lp_pool1d(t + 1, 3, 2),
        lambda t: F.lp_pool2d(t[None] + 1, 2, 2, 1, layout="channels_last"),
        lambda t: F.max_pool3d(t[None], (1, 2, 3), 2, (0, 0, 1)),
        lambda t: F.avg_pool3d(t[None], (1, 2, 3), 1),
        lambda t: F.lp_pool3d(t[None] + 1, 2, (1, 2, 2), 1, layout="channels_last"),
        lambda t: F.lp_pool1d(t + 1, 2, 3, 2, padding=1, dilation=2),
        lambda t: F.lp_pool2d(t[None] + 1, 3, 2, 1, padding=((1, 0), (0, 1))),
        lambda t: F.lp_pool3d(t[None] + 1, 2, 2, 1, padding="same", layout="channels_last"),
        lambda t: F.max_unpool1d(t, np.arange(66).reshape(2, 3, 11) % 11 * 2, 2),
    ],
)
def test_gradients_on_the_tape(function, rng):
    x = Tensor(rng.permutation(66).reshape(2, 3, 11).astype(np.float64), requires_grad=True)
    assert gradcheck(function, x)


def test_representations_are_torchs():
    torch = pytest.importorskip("torch")
    for name, options, _ in LAYERS:
        if name != "AvgPool1d":  # PyTorch prints its sizes as tuples of one
            assert repr(getattr(nn, name)(**options)) == repr(getattr(torch.nn, name)(**options))
    assert repr(nn.AvgPool1d(3, 2, 1)) == "AvgPool1d(kernel_size=3, stride=2, padding=1)"
    text = "LPPool2d(norm_type=2, kernel_size=3, stride=2, ceil_mode=False, padding=1, dilation=2)"
    assert repr(nn.LPPool2d(2, 3, 2, padding=1, dilation=2)) == text


def test_padding_and_dilation_of_lp_layers(rng):
    """What PyTorch's layers do not have goes to the functions."""
    for axes, size in (("1d", (9,)), ("2d", (9, 8)), ("3d", (5, 6, 7))):
        x = rng.standard_normal((2, 3, *size))
        layer = getattr(nn, f"LPPool{axes}")(2, 2, 1, padding=1, dilation=2)
        expected = getattr(reference, f"lp_pool{axes}")(x, 2, 2, 1, padding=1, dilation=2)
        np.testing.assert_allclose(layer(x), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.MaxPool1d(0), r"\[MaxPool1d\] kernel_size: expected at least 1"),
        (lambda: nn.MaxPool1d((2, 2)), r"\[MaxPool1d\] kernel_size: expected an int"),
        (lambda: nn.MaxPool1d(2, dilation=0), r"\[MaxPool1d\] dilation: expected at least 1"),
        (lambda: nn.AvgPool1d(2, 0), r"\[AvgPool1d\] stride: expected at least 1"),
        (lambda: nn.AvgPool1d(2, layout="NWC"), r"\[AvgPool1d\] layout: expected"),
        (lambda: nn.LPPool1d(0, 2), r"\[LPPool1d\] norm_type: expected a finite value > 0"),
        (lambda: nn.LPPool1d(2, 2, dilation=0), r"\[LPPool1d\] dilation: expected at least 1"),
        (lambda: nn.LPPool2d(2, 0), r"\[LPPool2d\] kernel_size: expected at least 1"),
        (lambda: nn.MaxUnpool2d(2, 0), r"\[MaxUnpool2d\] stride: expected at least 1"),
        (lambda: nn.AdaptiveAvgPool1d(-1), r"\[AdaptiveAvgPool1d\] output_size: expected an int"),
        (lambda: nn.AdaptiveMaxPool1d((1, 2)), r"\[AdaptiveMaxPool1d\] output_size: expected"),
        (lambda: nn.AdaptiveMaxPool2d(1.5), r"\[AdaptiveMaxPool2d\] output_size: expected"),
        (lambda: nn.AdaptiveAvgPool2d((1, 2, 3)), r"\[AdaptiveAvgPool2d\] output_size: expected"),
        (lambda: nn.MaxPool3d((2, 2)), r"\[MaxPool3d\] kernel_size: expected an int or three"),
        (lambda: nn.AvgPool3d(2, (1, 1, 0)), r"\[AvgPool3d\] stride: expected at least 1"),
        (lambda: nn.AdaptiveMaxPool3d((1, 2)), r"\[AdaptiveMaxPool3d\] output_size: expected"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_number_of_axes():
    for axes, function in ((1, F.max_pool1d), (2, F.max_pool2d), (1, F.adaptive_avg_pool1d)):
        for ndim in (axes, axes + 3):
            with pytest.raises(ValueError, match=f"expected {axes + 2} dimensions, got {ndim}"):
                function(np.ones((3,) * ndim), 2)
