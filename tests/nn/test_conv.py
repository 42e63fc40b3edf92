"""Convolution layers: against PyTorch with the same weights, borders, single samples, errors."""

import numpy as np
import pytest

import arraynn as ann
from arraynn import Tensor, nn
from arraynn.autograd import gradcheck
from arraynn.nn import functional as F

LAYERS = [
    ("Conv1d", (4, 6, 3), {}, (9,)),
    ("Conv1d", (4, 6, 3, 2, 1, 2, 2, False), {}, (9,)),
    ("Conv1d", (4, 6, 5), {"padding": "same"}, (9,)),
    ("Conv1d", (4, 6, 5), {"padding": 3, "padding_mode": "circular"}, (9,)),
    ("Conv1d", (4, 6, 5), {"padding": 3, "padding_mode": "reflect", "stride": 2}, (9,)),
    ("Conv2d", (4, 6, 3), {"padding": 2, "padding_mode": "reflect"}, (5, 6)),
    ("Conv2d", (4, 6, 3), {"padding": (0, 5), "padding_mode": "circular"}, (5, 6)),
    ("Conv2d", (4, 6, (4, 3)), {"padding": (9, 1), "padding_mode": "replicate"}, (5, 6)),
    ("Conv2d", (4, 6, (4, 3)), {"padding": "same", "padding_mode": "reflect"}, (5, 6)),
    ("Conv2d", (4, 6, 3), {"padding": "valid", "padding_mode": "reflect"}, (5, 6)),
    ("ConvTranspose1d", (4, 6, 3), {}, (9,)),
    ("ConvTranspose1d", (4, 6, 4, 3, 1, 2, 2, False, 2), {}, (9,)),
    ("ConvTranspose2d", (4, 6, 2, 2), {}, (5, 6)),
    ("ConvTranspose2d", (4, 6, (3, 2), (2, 1), (1, 0), (1, 0), 2, True, (1, 2)), {}, (5, 6)),
    ("ConvTranspose2d", (4, 6, 1), {"stride": 3, "output_padding": 1}, (5, 6)),
    ("Conv3d", (4, 6, (2, 3, 3), 1, (1, 0, 2), 1, 2), {}, (4, 5, 6)),
    ("Conv3d", (4, 6, 3), {"padding": (1, 2, 0), "padding_mode": "circular"}, (4, 5, 6)),
    ("ConvTranspose3d", (4, 6, 2, 2), {}, (3, 4, 5)),
    ("ConvTranspose3d", (4, 6, 3, (2, 1, 3), 1, (1, 0, 2), 2, False), {}, (3, 4, 5)),
]


@pytest.mark.parametrize(("name", "args", "options", "sizes"), LAYERS, ids=str)
@pytest.mark.parametrize("batch", [(3,), ()], ids=["batch", "sample"])
def test_layers_against_torch(name, args, options, sizes, batch):
    torch = pytest.importorskip("torch")
    ours = getattr(nn, name)(*args, **options).double()
    theirs = getattr(torch.nn, name)(*args, **options).double()
    assert repr(ours) == repr(theirs)
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
        (k, tuple(v.shape)) for k, v in theirs.state_dict().items()
    ]
    theirs.load_state_dict(
        {key: torch.from_numpy(array.copy()) for key, array in ours.state_dict().items()}
    )
    x = np.random.default_rng(0).standard_normal((*batch, args[0], *sizes))
    mine, other = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, expected = ours(mine), theirs(other)
    np.testing.assert_allclose(y.data, expected.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(F_of(ours)(x), y.data)
    (y * y).sum().backward()
    (expected * expected).sum().backward()
    np.testing.assert_allclose(mine.grad, other.grad.numpy(), rtol=1e-9, atol=1e-11)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(a.grad, b.grad.numpy(), rtol=1e-9, atol=1e-11)


def F_of(layer):
    """Return the layer as a function of an array, without a tape."""

    def run(x):
        with ann.no_grad():
            return layer(Tensor(x)).data

    return run


@pytest.mark.parametrize(("name", "args", "options", "sizes"), LAYERS, ids=str)
def test_layouts_agree(name, args, options, sizes):
    first = getattr(nn, name)(*args, **options, dtype="f8")
    last = getattr(nn, name)(*args, **options, dtype="f8", layout="channels_last")
    last.load_state_dict(first.state_dict())
    x = np.random.default_rng(0).standard_normal((2, args[0], *sizes))
    for data in (x, x[0]):
        channel = data.ndim - len(sizes) - 1
        y = last(Tensor(np.moveaxis(data, channel, -1))).data
        np.testing.assert_allclose(
            np.moveaxis(y, -1, channel), first(Tensor(data)).data, rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_gradients_through_borders(mode, layout):
    ann.manual_seed(0)
    conv = nn.Conv2d(
        2, 3, 3, padding=((3, 0), (1, 2)), padding_mode=mode, dtype="f8", layout=layout
    )
    shape = (2, 2, 4, 5) if layout == "channels_first" else (2, 4, 5, 2)
    x = Tensor(np.random.default_rng(0).standard_normal(shape), requires_grad=True)
    assert gradcheck(conv, [x])
    assert gradcheck(conv, [x[0].detach().requires_grad_()])


def test_output_size_chooses_the_output_padding():
    torch = pytest.importorskip("torch")
    up = nn.ConvTranspose2d(3, 4, 3, stride=(2, 3), padding=1).double()
    theirs = torch.nn.ConvTranspose2d(3, 4, 3, stride=(2, 3), padding=1).double()
    theirs.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in up.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 4))
    for size in ((9, 10), (10, 12), (2, 4, 9, 11)):
        y = up(Tensor(x), output_size=size)
        expected = theirs(torch.tensor(x), output_size=size[-2:])
        np.testing.assert_allclose(y.data, expected.detach().numpy(), rtol=1e-10, atol=1e-12)
    for size in ((8, 10), (11, 10), (9, 13), (9,)):
        with pytest.raises(ValueError, match=r"\[ConvTranspose2d\] output_size: expected from"):
            up(Tensor(x), output_size=size)


@pytest.mark.parametrize("name", ["Conv1d", "ConvTranspose1d", "ConvTranspose2d"])
@pytest.mark.parametrize("activation", ["ReLU", "GELU"])
def test_sequential_gives_the_results_of_single_calls(name, activation):
    layer, module = getattr(nn, name)(2, 4, 3, stride=2), getattr(nn, activation)()
    shape = (3, 2, 6, 5) if name.endswith("2d") else (3, 2, 6)
    data = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    results = []
    for run in (nn.Sequential(layer, module), lambda t: module(layer(t))):
        layer.zero_grad()
        x = Tensor(data, requires_grad=True)
        y = run(x)
        y.sum().backward()
        with ann.no_grad():
            plain = run(Tensor(data)).data
        results.append([y.data, plain, x.grad, layer.weight.grad, layer.bias.grad])
    for fused, single in zip(*results, strict=True):
        np.testing.assert_array_equal(fused, single)


@pytest.mark.parametrize(
    ("op", "x_shape", "w_shape", "options"),
    [
        ("conv1d", (4, 7), (6, 2, 3), {"padding": 1, "groups": 2}),
        ("conv2d", (4, 5, 6), (6, 4, 3, 2), {"padding": "same", "stride": 2}),
        ("conv_transpose1d", (4, 7), (4, 3, 3), {"stride": 2, "groups": 2}),
        ("conv_transpose2d", (4, 3, 2), (4, 5, 2, 2), {"stride": 3, "output_padding": 1}),
    ],
)
def test_functions_of_one_sample_and_with_every_epilogue(op, x_shape, w_shape, options):
    rng = np.random.default_rng(0)
    function = getattr(F, op)
    x, w = rng.standard_normal(x_shape), rng.standard_normal(w_shape)
    y = function(x, w, **options)
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(function(x[None], w, **options)[0], y)
    channels = y.shape[0]
    for residual in (None, rng.standard_normal(y.shape)):
        for activation in (None, "relu", "gelu"):
            leaves = [Tensor(a, requires_grad=True) for a in (x, w, rng.standard_normal(channels))]
            if residual is not None:
                leaves.append(Tensor(residual, requires_grad=True))

            def layer(x, w, b, r=None, activation=activation):
                return function(x, w, b, **options, activation=activation, residual=r)

            assert gradcheck(layer, leaves)


def test_initialisation_is_torchs_distribution():
    ann.manual_seed(1)
    # The second axis of the weight counts as the inputs, in transposed layers too.
    layers = (
        (nn.Conv1d(40, 60, 25, groups=4), 250),
        (nn.ConvTranspose1d(60, 40, 25, groups=4), 250),
        (nn.ConvTranspose2d(60, 40, 5, groups=4), 250),
    )
    for layer, fan_in in layers:
        bound = fan_in**-0.5
        for parameter in (layer.weight, layer.bias):
            values = parameter.data
            assert abs(values).max() <= bound
            assert abs(values).max() > 0.9 * bound
            assert abs(values.mean()) < 4 * bound / 3**0.5 / values.size**0.5


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: nn.Conv1d(3, 4, (3, 3)),
            ValueError,
            r"\[Conv1d\] kernel_size: expected an int or",
        ),
        (lambda: nn.Conv1d(3, 4, 3, padding=((1, 2), (0, 0))), ValueError, r"\[Conv1d\] padding: "),
        (lambda: nn.Conv1d(3, 4, 3, padding=((1, -2),)), ValueError, r"\[Conv1d\] padding: "),
        (lambda: nn.Conv2d(3, 4, 3, padding=((1, 2), 0)), ValueError, r"\[Conv2d\] padding: "),
        (
            lambda: nn.ConvTranspose1d(3, 4, 3, groups=2),
            ValueError,
            r"\[ConvTranspose1d\] in_channels: expected a multiple of groups \(2\), got 3",
        ),
        (
            lambda: nn.ConvTranspose2d(3, 4, 3, padding="same"),
            ValueError,
            r"\[ConvTranspose2d\] padding: expected an int or a pair of ints, got 'same'",
        ),
        (
            lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=2),
            ValueError,
            r"\[ConvTranspose2d\] output_padding: expected less than stride or dilation, got 2",
        ),
        (
            lambda: nn.ConvTranspose2d(3, 4, 3, padding_mode="circular"),
            NotImplementedError,
            r"\[ConvTranspose2d\] padding_mode: only 'zeros' is supported, got 'circular'",
        ),
        (
            lambda: nn.Conv1d(3, 4, 3, padding=5, padding_mode="reflect")(Tensor(np.ones((3, 5)))),
            ValueError,
            r"\[Conv1d\] padding: expected at most 4 elements of a reflect border for a length of",
        ),
        (
            lambda: nn.Conv1d(3, 4, 3, padding=6, padding_mode="circular")(Tensor(np.ones((3, 5)))),
            ValueError,
            r"\[Conv1d\] padding: expected at most 5 elements of a circular border for a length o",
        ),
        (
            lambda: nn.Conv1d(3, 4, 3, padding=1, padding_mode="reflect")(Tensor(np.ones((5,)))),
            ValueError,
            r"\[conv1d\] x: expected 3 dimensions, got 1",
        ),
        (
            lambda: F.conv_transpose2d(np.ones((2, 3)), np.ones((2, 3, 1, 1))),
            ValueError,
            r"\[conv_transpose2d\] x: expected 4 dimensions, got 2",
        ),
        (
            lambda: F.conv_transpose1d(
                Tensor(np.ones((1, 2, 3)), requires_grad=True),
                np.ones((2, 3, 1)),
                activation="cube",
            ),
            ValueError,
            r"\[conv_transpose1d\] activation: expected None or one of relu",
        ),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_layers_name_their_operation_when_a_weight_changes_too_late():
    layer = nn.ConvTranspose1d(2, 3, 3)
    y = layer(Tensor(np.ones((1, 2, 4), np.float32), requires_grad=True)).sum()
    with ann.no_grad():
        layer.weight += 1
    with pytest.raises(RuntimeError, match="conv_transpose1d"):
        y.backward()


def test_unfold_and_fold_are_torchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    window = {"kernel_size": (3, 2), "dilation": (1, 2), "padding": (1, 0), "stride": (2, 1)}
    ours, theirs = nn.Unfold(**window), torch.nn.Unfold(**window)
    assert repr(ours) == repr(theirs)
    x = rng.standard_normal((2, 3, 7, 9))
    columns = theirs(torch.from_numpy(x)).numpy()
    for a in (x, x[1]):
        expected = columns if a is x else columns[1]
        np.testing.assert_array_equal(ours(a), expected)
        np.testing.assert_array_equal(ours(Tensor(a)).data, expected)
    back, torchs = nn.Fold((7, 9), **window), torch.nn.Fold((7, 9), **window)
    assert repr(back) == repr(torchs)
    image = torchs(torch.from_numpy(columns)).numpy()
    np.testing.assert_allclose(back(columns), image, rtol=1e-12)
    np.testing.assert_allclose(back(Tensor(columns[0])).data, image[0], rtol=1e-12)
    assert gradcheck(lambda t: F.unfold(t, 2, 1, 1, 2), Tensor(x[:1, :1], requires_grad=True))
    small = Tensor(rng.standard_normal((1, 8, 6)), requires_grad=True)
    assert gradcheck(lambda t: F.fold(t, (3, 4), 2), small)
