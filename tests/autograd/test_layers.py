"""Gradients through the kernels: layers, activations, pooling, softmax and losses."""

import numpy as np
import pytest

import arraynn as ann
import arraynn.nn.functional as F
from arraynn import Tensor, kernels
from arraynn.autograd import gradcheck
from arraynn.autograd.elementwise import ACTIVATIONS


def leaf(*shape, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return Tensor(scale * rng.standard_normal(shape), requires_grad=True)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("residual", [False, True])
def test_linear(activation, residual):
    args = [leaf(2, 3, 4), leaf(5, 4, seed=1), leaf(5, seed=2)]
    if residual:
        args.append(leaf(2, 3, 5, seed=3))

    def layer(x, w, b, r=None):
        return F.linear(x, w, b, activation=activation, residual=r)

    assert gradcheck(layer, args)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("residual", [False, True])
def test_conv2d_epilogues(activation, residual):
    args = [leaf(2, 3, 4, 4), leaf(2, 3, 3, 3, seed=1), leaf(2, seed=2)]
    if residual:
        args.append(leaf(2, 2, 4, 4, seed=3))

    def layer(x, w, b, r=None):
        return F.conv2d(x, w, b, padding=1, activation=activation, residual=r)

    assert gradcheck(layer, args)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"stride": (1, 2), "dilation": (2, 1), "padding": ((1, 0), (2, 1))},
        {"padding": "same", "stride": 2},
        {"padding": "same_lower"},
        {"padding": "valid", "flip_kernel": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("groups", [1, 2])
def test_conv2d_geometry(options, layout, groups):
    shape = (2, 4, 5, 6) if layout == "channels_first" else (2, 5, 6, 4)
    args = [leaf(*shape), leaf(6, 4 // groups, 3, 2, seed=1), leaf(6, seed=2)]
    assert gradcheck(
        lambda x, w, b: F.conv2d(x, w, b, groups=groups, layout=layout, **options), args
    )


@pytest.mark.parametrize("which", range(3))
def test_only_needed_gradients_are_computed(which, monkeypatch):
    asked = []
    plain = kernels.linear_backward

    def spy(*args, needs, **kwargs):
        asked.append(needs)
        return plain(*args, needs=needs, **kwargs)

    monkeypatch.setattr(kernels, "linear_backward", spy)
    args = [leaf(2, 3), leaf(4, 3, seed=1), leaf(4, seed=2)]
    for i, arg in enumerate(args):
        arg.requires_grad = i == which
    F.linear(*args, activation="relu").sum().backward()
    assert asked == [(("x", "weight", "bias")[which],)]
    assert [arg.grad is not None for arg in args] == [i == which for i in range(3)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_and_separate_activations_agree(activation):
    x, w, b = leaf(3, 4), leaf(5, 4, seed=1), leaf(5, seed=2)
    kind = ACTIVATIONS[activation]
    y = F.linear(x, w, b, activation=activation)
    np.testing.assert_array_equal(y.data, kind.forward(F.linear(x, w, b).data, **kind.options))
    with ann.no_grad():
        np.testing.assert_array_equal(F.linear(x, w, b, activation=activation).data, y.data)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_simple_activations_stay_fused_when_recorded(activation, monkeypatch):
    monkeypatch.setattr(
        kernels, activation, lambda *_: pytest.fail("the activation ran on its own")
    )
    used = []
    plain = kernels.linear

    def spy(*args, activation, **kwargs):
        used.append(activation)
        return plain(*args, activation=activation, **kwargs)

    monkeypatch.setattr(kernels, "linear", spy)
    F.linear(leaf(2, 3), leaf(4, 3), activation=activation).sum().backward()
    assert used == [activation]


def test_residual_and_output_gradients_share_no_memory():
    x, w, r = leaf(2, 3), leaf(4, 3, seed=1), leaf(2, 4, seed=2)
    seed = np.ones((2, 4))
    F.linear(x, w, residual=r).backward(seed)
    assert not np.shares_memory(r.grad, seed)
    np.testing.assert_array_equal(r.grad, seed)


def test_unknown_activation():
    with pytest.raises(ValueError, match=r"\[linear\] activation: expected None or one of relu"):
        F.linear(leaf(2, 3), leaf(4, 3), activation="cube")
    with pytest.raises(ValueError, match=r"\[conv2d\] activation: expected None or one of relu"):
        F.conv2d(leaf(1, 1, 3, 3), leaf(1, 1, 2, 2), activation="cube")


def test_a_fused_weight_changed_before_backward_is_noticed():
    x, w = leaf(2, 3), leaf(4, 3)
    y = F.linear(x, w, activation="relu").sum()
    with ann.no_grad():
        w += 1
    with pytest.raises(RuntimeError, match=r"\[backward\] linear: expected its saved array"):
        y.backward()


POOLS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (2, 3), "stride": (1, 2), "padding": (1, 0)},
    {"kernel_size": 2, "stride": 2, "ceil_mode": True},
]


@pytest.mark.parametrize("options", POOLS, ids=str)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_pooling(options, layout):
    shape = (2, 3, 5, 6) if layout == "channels_first" else (2, 5, 6, 3)
    x = leaf(*shape)
    assert gradcheck(lambda t: F.max_pool2d(t, layout=layout, **options), x)
    assert gradcheck(lambda t: F.max_pool2d(t, return_indices=True, layout=layout, **options), x)
    for extra in ({}, {"count_include_pad": False}, {"divisor_override": 3}):
        both = {**options, **extra}
        assert gradcheck(lambda t, both=both: F.avg_pool2d(t, layout=layout, **both), x)


def test_dilated_pooling_and_indices():
    x = leaf(1, 2, 6, 6)
    assert gradcheck(lambda t: F.max_pool2d(t, 2, 1, dilation=2), x)
    assert gradcheck(lambda t: F.avg_pool2d(t, 2, 1, dilation=2), x)
    y, indices = F.max_pool2d(x, 2, return_indices=True)
    assert indices.dtype == np.int64
    assert not indices.requires_grad
    np.testing.assert_array_equal(
        np.take_along_axis(x.data.reshape(2, 36), indices.data.reshape(2, 9), 1),
        y.data.reshape(2, 9),
    )


@pytest.mark.parametrize(
    ("op", "window", "first", "last"),
    [
        ("max_pool2d", (2,), False, False),
        ("max_pool2d", ((2, 3), (2, 3)), False, False),
        ("max_pool2d", (3, 2, 1), True, False),
        ("max_pool2d", (4, 2), True, True),
        ("max_pool1d", (3, 2), True, False),
        ("max_pool3d", (2,), True, True),
        ("max_pool3d", ((1, 2, 2),), False, False),
        ("adaptive_max_pool2d", (3,), True, True),
    ],
    ids=str,
)
def test_a_maximum_keeps_its_indices_where_finding_it_again_takes_longer(op, window, first, last):
    axes = int(op[-2])
    sizes = tuple(7 - axis for axis in range(axes))
    x = np.round(np.random.default_rng(5).standard_normal((2, 3, *sizes)), 1)  # with ties
    for layout, kept in (("channels_first", first), ("channels_last", last)):
        data = x if layout == "channels_first" else np.moveaxis(x, 1, -1).copy()
        t = Tensor(data, requires_grad=True)
        y = getattr(F, op)(t, *window, layout=layout)
        assert (y.node.saved[1] is not None) == kept
        grad = np.arange(y.size, dtype=float).reshape(y.shape)  # sums are exact in any order
        y.backward(grad)
        expected = getattr(kernels, f"{op}_backward")(grad, data, *window, layout=layout)
        np.testing.assert_array_equal(t.grad, expected)
        with ann.no_grad():
            assert getattr(F, op)(t, *window, layout=layout).node is None


PARAMETRIC = {
    "leaky_relu": lambda x: F.leaky_relu(x, 0.3),
    "leaky_relu_negative": lambda x: F.leaky_relu(x, -0.5),
    "leaky_relu_zero": lambda x: F.leaky_relu(x, 0.0),
    "elu": lambda x: F.elu(x, 0.7),
    "softplus": lambda x: F.softplus(x, 2.0, 1.5),
    "gelu": lambda x: F.gelu(x, "tanh"),
    "dropout": lambda x: F.dropout(x, 0.4, seed=3),
    **{name: getattr(F, name) for name in ACTIVATIONS if name != "gelu_tanh"},
}


@pytest.mark.parametrize("name", PARAMETRIC)
def test_activations(name):
    assert gradcheck(PARAMETRIC[name], leaf(4, 5))


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_glu(activation):
    x = leaf(2, 4, 6)
    assert gradcheck(lambda v: F.glu(v, activation=activation), [x])
    assert gradcheck(lambda v: F.glu(v, 1, activation=activation), [x])
    expected = kernels.glu(x.data, 1, activation=activation)
    np.testing.assert_array_equal(F.glu(x, 1, activation=activation).data, expected)
    np.testing.assert_array_equal(F.glu(x.data, 1, activation=activation), expected)


def test_softmax_over_every_axis():
    for dim in (0, 1, 2, -1):
        assert gradcheck(lambda x, dim=dim: F.softmax(x, dim), leaf(2, 3, 4))
        assert gradcheck(lambda x, dim=dim: F.log_softmax(x, dim), leaf(2, 3, 4))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(reduction, smoothing, weighted):
    weight = np.array([0.5, 1.0, 2.0, 0.1]) if weighted else None
    target = np.array([0, 3, -100, 1, 1])
    rng = np.random.default_rng(0)
    soft = rng.dirichlet(np.ones(4), 5)
    for wanted in (target, soft, Tensor(target)):
        assert gradcheck(
            lambda x, wanted=wanted: F.cross_entropy(
                x, wanted, weight, reduction=reduction, label_smoothing=smoothing
            ),
            leaf(5, 4),
        )
    assert gradcheck(
        lambda x: F.cross_entropy(x, np.array([[0, 1], [2, 3]]), weight, reduction=reduction),
        leaf(2, 4, 2),
    )


def test_cross_entropy_refuses_gradients_it_does_not_have():
    with pytest.raises(NotImplementedError, match=r"\[cross_entropy\] target: a gradient is supp"):
        F.cross_entropy(leaf(2, 3), leaf(2, 3, seed=1))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nll_loss(reduction):
    x, target, weight = leaf(5, 4, 2), np.arange(10).reshape(5, 2) % 4, np.array([0.5, 1.0, 2, 0.1])
    target[3, 1] = -100
    for wanted in (target, Tensor(target)):
        for w in (None, weight):
            assert gradcheck(lambda x, t=wanted, w=w: F.nll_loss(x, t, w, reduction=reduction), x)
    both = F.nll_loss(F.log_softmax(x, 1), target, weight, reduction=reduction)
    np.testing.assert_allclose(both.data, F.cross_entropy(x, target, weight, -100, reduction).data)
    with pytest.raises(NotImplementedError, match=r"\[nll_loss\] weight: a gradient is supp"):
        F.nll_loss(x, target, leaf(4))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mse_loss(reduction):
    a, b = leaf(3, 4), leaf(3, 4, seed=1)
    assert gradcheck(lambda a, b: F.mse_loss(a, b, reduction), [a, b])
    assert gradcheck(lambda a: F.mse_loss(a, b.data, reduction), [a])
    assert gradcheck(lambda b: F.mse_loss(a.detach(), b, reduction), [b])


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((np.ones(2), np.ones(3)), ValueError, r"\[mse_loss\] target: expected shape \(2,\)"),
        ((np.ones(2), np.ones(2, "f4")), TypeError, r"\[mse_loss\] target: expected float64"),
        ((np.ones(2), np.ones(2), "max"), ValueError, r"\[mse_loss\] reduction: expected one of"),
    ],
)
def test_mse_loss_errors(args, error, message):
    with pytest.raises(error, match=message):
        F.mse_loss(*args)


def test_arrays_in_arrays_out():
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((2, 3)), rng.standard_normal((4, 3)), rng.standard_normal(4)
    image, kernel = rng.standard_normal((1, 2, 4, 4)), rng.standard_normal((3, 2, 3, 3))
    calls = [
        lambda t: F.linear(t(x), w, b, activation="gelu"),
        lambda t: F.matmul(t(x), w.T),
        lambda t: F.conv2d(t(image), kernel, padding=1, activation="relu"),
        lambda t: F.max_pool2d(t(image), 2),
        lambda t: F.max_pool2d(t(image), 2, return_indices=True)[1],
        lambda t: F.avg_pool2d(t(image), 2),
        lambda t: F.softmax(t(x)),
        lambda t: F.log_softmax(t(x), 0),
        lambda t: F.dropout(t(x), 0.5, seed=1),
        lambda t: F.flatten(t(image), 1),
        lambda t: F.cross_entropy(t(x), np.array([0, 2])),
        lambda t: F.nll_loss(t(x), np.array([0, 2])),
        lambda t: F.mse_loss(t(x), x + 1),
        lambda t: F.leaky_relu(t(x), 0.2),
        lambda t: F.elu(t(x), 0.5),
        lambda t: F.softplus(t(x), 2.0, 5.0),
        *[
            lambda t, name=name: getattr(F, name)(t(x))
            for name in ACTIVATIONS
            if name != "gelu_tanh"
        ],
    ]
    for call in calls:
        array, tensor = call(np.asarray), call(Tensor)
        assert type(array) is np.ndarray
        assert isinstance(tensor, Tensor)
        assert not tensor.requires_grad
        np.testing.assert_array_equal(array, tensor.data)


def test_dropout_scales_masks_and_repeats():
    x = Tensor(np.ones(10_000, np.float32), requires_grad=True)
    ann.manual_seed(5)
    y = F.dropout(x, 0.25)
    z = F.dropout(x, 0.25)
    ann.manual_seed(5)
    again = F.dropout(x, 0.25)
    np.testing.assert_array_equal(y.data, again.data)
    assert (y.data != z.data).any()
    assert set(np.unique(y.data)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((y.data == 0).mean() - 0.25) < 0.02
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, y.data)
    assert F.dropout(x, 0.25, training=False) is x
    assert F.dropout(x, 0.0) is x
    with pytest.raises(ValueError, match=r"\[dropout\] p: expected a probability in \[0, 1\]"):
        F.dropout(x, 1.5)
