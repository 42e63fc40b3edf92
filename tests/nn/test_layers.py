"""Layers: against PyTorch with the same weights, fusing, initialisation, bad arguments."""

import gc

import numpy as np
import pytest

import arraynn as ann
from arraynn import Tensor, nn
from arraynn.autograd.tape import Node
from arraynn.nn import functional as F
from arraynn.nn import init


def network(n):
    return n.Sequential(
        n.Conv2d(3, 8, 3, padding=1),
        n.ReLU(),
        n.MaxPool2d(2),
        n.Conv2d(8, 6, (3, 2), stride=(1, 2), padding=(1, 0), dilation=(1, 2), groups=2),
        n.LeakyReLU(),
        n.AvgPool2d(2, ceil_mode=True),
        n.Flatten(),
        n.Linear(18, 12),
        n.GELU(),
        n.Linear(12, 12, bias=False),
        n.SiLU(),
        n.Sequential(n.Linear(12, 7), n.Tanh(), n.Softplus()),
        n.LogSoftmax(dim=-1),
    )


def test_state_loads_both_ways_and_gives_torchs_outputs_and_gradients():
    torch = pytest.importorskip("torch")
    ours, theirs = network(nn).double(), network(torch.nn).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 3, 12, 12))
    target = rng.integers(0, 7, 5)

    def compare():
        mine = Tensor(x, requires_grad=True)
        other = torch.tensor(x, requires_grad=True)
        ours.zero_grad()
        theirs.zero_grad()
        out = ours(mine)
        expected = theirs(other)
        np.testing.assert_allclose(out.data, expected.detach().numpy(), rtol=1e-10, atol=1e-12)
        nn.CrossEntropyLoss(label_smoothing=0.1)(out, target).backward()
        torch.nn.CrossEntropyLoss(label_smoothing=0.1)(expected, torch.tensor(target)).backward()
        np.testing.assert_allclose(mine.grad, other.grad.numpy(), rtol=1e-8, atol=1e-12)
        parameters = zip(ours.parameters(), theirs.parameters(), strict=True)
        for a, b in parameters:
            np.testing.assert_allclose(a.grad, b.grad.numpy(), rtol=1e-8, atol=1e-12)

    compare()
    for parameter in ours.parameters():
        init.normal_(parameter, std=0.3)
    result = theirs.load_state_dict(
        {name: torch.from_numpy(array.copy()) for name, array in ours.state_dict().items()}
    )
    assert not result.missing_keys
    compare()


ACTIVATIONS = [
    ("ReLU", {}),
    ("LeakyReLU", {}),
    ("LeakyReLU", {"negative_slope": 0.3}),
    ("ELU", {}),
    ("ELU", {"alpha": 0.5}),
    ("SELU", {}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("Hardsigmoid", {}),
    ("Hardswish", {}),
    ("SiLU", {}),
    ("GELU", {}),
    ("GELU", {"approximate": "tanh"}),
    ("Mish", {}),
    ("Softplus", {}),
    ("Softplus", {"beta": 2.0, "threshold": 3.0}),
    ("Softmax", {"dim": 1}),
    ("LogSoftmax", {"dim": 1}),
    ("GLU", {"dim": 1}),
]


@pytest.mark.parametrize(("name", "options"), ACTIVATIONS, ids=str)
def test_activation_modules_against_torch(name, options):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((4, 6)) * 3
    mine = Tensor(x, requires_grad=True)
    other = torch.tensor(x, requires_grad=True)
    y = getattr(nn, name)(**options)(mine)
    expected = getattr(torch.nn, name)(**options)(other)
    np.testing.assert_allclose(y.data, expected.detach().numpy(), rtol=1e-9, atol=1e-12)
    (y * y).sum().backward()
    (expected * expected).sum().backward()
    # PyTorch's slope of hardsigmoid is 1/6 rounded to float32, in float64 too.
    rtol = 2**-24 if name == "Hardsigmoid" else 1e-8
    np.testing.assert_allclose(mine.grad, other.grad.numpy(), rtol=rtol, atol=1e-10)


def test_gated_linear_units():
    assert repr(nn.GLU()) == "GLU(dim=-1)"
    assert repr(nn.GLU(1, activation="silu")) == "GLU(dim=1, activation='silu')"
    x = np.random.default_rng(0).standard_normal((3, 8))
    expected = x[:, :4] * F.silu(x[:, 4:])
    np.testing.assert_array_equal(nn.GLU(activation="silu")(x), expected)
    with pytest.raises(ValueError, match=r"\[GLU\] activation: expected None or one of relu"):
        nn.GLU(activation="swish")


@pytest.mark.parametrize(("name", "options"), ACTIVATIONS, ids=str)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_sequential_gives_the_results_of_single_calls(name, options, kind):
    ann.manual_seed(0)
    layer = nn.Linear(5, 4) if kind == "linear" else nn.Conv2d(2, 4, 3, padding=1)
    shape = (3, 5) if kind == "linear" else (2, 2, 4, 5)
    data = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    module = getattr(nn, name)(**options)
    results = []
    for run in (nn.Sequential(layer, module), lambda t: module(layer(t))):
        layer.zero_grad()
        x = Tensor(data, requires_grad=True)
        y = run(x)
        y.sum().backward()
        results.append([y.data, x.grad, layer.weight.grad, layer.bias.grad])
    for fused, single in zip(*results, strict=True):
        np.testing.assert_array_equal(fused, single)


def test_sequential_fuses_only_what_it_may(monkeypatch):
    used = []
    plain = F.linear

    def spy(*args, activation=None, **kwargs):
        used.append(activation)
        return plain(*args, activation=activation, **kwargs)

    monkeypatch.setattr(F, "linear", spy)

    class Doubled(nn.ReLU):
        def forward(self, input):
            return super().forward(input) * 2

    class Halved(nn.Linear):
        def forward(self, input):
            return super().forward(input) * 0.5

    x = Tensor(np.ones((1, 2), np.float32))
    nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))(x)
    assert used == ["relu", None]
    used.clear()
    nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(0.5))(x)
    nn.Sequential(nn.Linear(2, 2), Doubled())(x)
    nn.Sequential(Halved(2, 2), nn.ReLU())(x)
    hooked = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    calls = []
    handles = [m.register_forward_hook(lambda m, *_: calls.append(m)) for m in hooked]
    hooked(x)
    assert calls == list(hooked)
    assert used == [None] * 4
    for handle in handles:
        handle.remove()
    hooked(x)
    assert used[-1] == "relu"
    assert nn.Sequential()(x) is x


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize(("name", "options"), [(None, {}), *ACTIVATIONS], ids=str)
def test_sequential_pools_with_the_bits_of_single_calls(name, options, layout, monkeypatch):
    """One kernel where nothing is recorded; with a tape the three, and their gradients."""
    ann.manual_seed(0)
    convolution = nn.Conv2d(2, 6, 3, padding=1, padding_mode="reflect", layout=layout)
    middle = [] if name is None else [getattr(nn, name)(**options)]
    pooling = nn.MaxPool2d(3, 2, 1, ceil_mode=True, layout=layout)
    net = nn.Sequential(convolution, *middle, pooling, nn.Identity())
    data = np.random.default_rng(1).standard_normal((2, 2, 8, 10)).astype(np.float32)
    if layout == "channels_last":
        data = np.ascontiguousarray(np.moveaxis(data, 1, -1))

    def single(x):
        for module in net:
            x = module(x)
        return x

    calls = []
    fused = ann.kernels.conv2d_pool
    monkeypatch.setattr(
        ann.kernels, "conv2d_pool", lambda *a, **k: calls.append(1) or fused(*a, **k)
    )
    with ann.no_grad():
        for x in (data, data[0]):
            np.testing.assert_array_equal(net(Tensor(x)).data, single(Tensor(x)).data)
    alone = [module for module in middle if getattr(module, "fused_name", lambda: None)() is None]
    assert len(calls) == (0 if alone else 2)
    calls.clear()
    results = []
    for run in (net, single):
        net.zero_grad()
        x = Tensor(data, requires_grad=True)
        y = run(x)
        (y * y).sum().backward()
        results.append([y.data, x.grad, convolution.weight.grad, convolution.bias.grad])
    for together, alone in zip(*results, strict=True):
        np.testing.assert_array_equal(together, alone)
    assert not calls


def test_sequential_pools_only_what_it_may(monkeypatch):
    calls = []
    fused = ann.kernels.conv2d_pool
    monkeypatch.setattr(
        ann.kernels, "conv2d_pool", lambda *a, **k: calls.append(1) or fused(*a, **k)
    )

    class Doubled(nn.MaxPool2d):
        def forward(self, input):
            return super().forward(input) * 2

    x = Tensor(np.random.default_rng(0).standard_normal((1, 2, 6, 6)).astype(np.float32))
    conv, relu, pool = nn.Conv2d(2, 2, 1), nn.ReLU(), nn.MaxPool2d(2)
    with ann.no_grad():
        nn.Sequential(conv, relu, Doubled(2))(x)
        nn.Sequential(conv, relu, nn.AvgPool2d(2))(x)
        nn.Sequential(conv, relu, relu, pool)(x)
        nn.Sequential(nn.ConvTranspose2d(2, 2, 1), relu, pool)(x)
        nn.Sequential(conv, relu, nn.MaxPool2d(2, layout="channels_last"))(x)
        y, indices = nn.Sequential(conv, relu, nn.MaxPool2d(2, return_indices=True))(x)
        assert indices.shape == y.shape
        for module in (conv, relu, pool):
            seen = []
            handle = module.register_forward_hook(lambda *_, seen=seen: seen.append(1))
            nn.Sequential(conv, relu, pool)(x)
            assert seen == [1]
            handle.remove()
        assert not calls
        nn.Sequential(conv, relu, pool, conv, pool, conv)(x)
        assert len(calls) == 2
        for parameter in conv.parameters():
            parameter.requires_grad_(False)
    nn.Sequential(conv, relu, pool)(x)
    assert len(calls) == 3


def test_layouts_agree():
    ann.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.AvgPool2d(2))
    last = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, layout="channels_last"),
        nn.MaxPool2d(2, layout="channels_last"),
        nn.AvgPool2d(2, layout="channels_last"),
    )
    last.load_state_dict(first.state_dict())
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(
        first(Tensor(x)).data,
        last(Tensor(x.transpose(0, 2, 3, 1))).data.transpose(0, 3, 1, 2),
        rtol=1e-5,
        atol=1e-6,
    )


def test_default_initialisation_is_torchs_distribution():
    ann.manual_seed(1)
    for layer, fan_in in ((nn.Linear(400, 300), 400), (nn.Conv2d(40, 60, 5, groups=4), 250)):
        bound = fan_in**-0.5
        for parameter in (layer.weight, layer.bias):
            values = parameter.data
            assert abs(values).max() <= bound
            assert abs(values).max() > 0.9 * bound
            assert abs(values.mean()) < 4 * bound / 3**0.5 / values.size**0.5
        assert abs(layer.weight.data.std() * 3**0.5 / bound - 1) < 0.01


def test_initialisation_follows_the_seed():
    ann.manual_seed(3)
    a = nn.Linear(3, 3).weight.data
    b = nn.Linear(3, 3).weight.data
    ann.manual_seed(3)
    np.testing.assert_array_equal(nn.Linear(3, 3).weight.data, a)
    assert (a != b).any()
    with pytest.raises(ValueError, match=r"\[manual_seed\] seed: expected an int of at least 0"):
        ann.manual_seed(-1)


INITS = [
    ("uniform_", {"a": -2.0, "b": 1.0}, -0.5, 3 / 12**0.5),
    ("normal_", {"mean": 1.0, "std": 2.0}, 1.0, 2.0),
    ("trunc_normal_", {"std": 1.0, "a": -1.0, "b": 1.0}, 0.0, 0.5396),
    ("xavier_uniform_", {"gain": 2.0}, 0.0, 2 * (2 / 700) ** 0.5),
    ("xavier_normal_", {}, 0.0, (2 / 700) ** 0.5),
    ("kaiming_uniform_", {"nonlinearity": "relu"}, 0.0, (2 / 400) ** 0.5),
    ("kaiming_uniform_", {"mode": "fan_out", "a": 1.0}, 0.0, (1 / 300) ** 0.5),
    ("kaiming_normal_", {}, 0.0, (2 / 400) ** 0.5),
    ("zeros_", {}, 0.0, 0.0),
    ("ones_", {}, 1.0, 0.0),
    ("constant_", {"val": 3.0}, 3.0, 0.0),
]


@pytest.mark.parametrize(("name", "options", "mean", "std"), INITS, ids=str)
def test_init_distributions(name, options, mean, std):
    draws = {} if std == 0 else {"generator": np.random.default_rng(0)}
    for target in (nn.Parameter(np.empty((300, 400), np.float32)), np.empty((300, 400))):
        result = getattr(init, name)(target, **options, **draws)
        assert result is target
        values = result.data if isinstance(result, Tensor) else result
        # Five standard errors of the mean and of the standard deviation of 120,000 draws.
        assert abs(values.mean() - mean) <= 5 * std / values.size**0.5 + 1e-6
        assert abs(values.std() - std) <= 5 * std / values.size**0.5


def test_init_moments_as_in_torch():
    torch = pytest.importorskip("torch")
    for name in ("linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"):
        assert init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name))
    assert init.calculate_gain("leaky_relu", 0.3) == pytest.approx(
        torch.nn.init.calculate_gain("leaky_relu", 0.3)
    )
    values = init.trunc_normal_(np.empty(1000), 0.5, 1.0, 0.0, 0.7)
    assert values.min() >= 0.0
    assert values.max() <= 0.7
    np.testing.assert_array_equal(init.eye_(np.empty((2, 3))), np.eye(2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.Linear(0, 3), ValueError, r"\[Linear\] in_features: expected an int of at le"),
        (lambda: nn.Linear(3, 2.5), TypeError, r"\[Linear\] out_features: expected an int, got f"),
        (lambda: nn.Linear(3, 2, dtype=np.int32), TypeError, r"\[Linear\] dtype: expected float"),
        (
            lambda: nn.Conv2d(3, 4, 3, groups=2),
            ValueError,
            r"\[Conv2d\] in_channels: expected a multiple of groups \(2\), got 3",
        ),
        (lambda: nn.Conv2d(3, 4, 0), ValueError, r"\[Conv2d\] kernel_size: expected at least 1"),
        (lambda: nn.Conv2d(3, 4, (3, 3, 3)), ValueError, r"\[Conv2d\] kernel_size: expected an in"),
        (lambda: nn.Conv2d(3, 4, 3, stride=0), ValueError, r"\[Conv2d\] stride: expected at least"),
        (lambda: nn.Conv2d(3, 4, 3, padding=-1), ValueError, r"\[Conv2d\] padding: expected at le"),
        (lambda: nn.Conv2d(3, 4, 3, padding="full"), ValueError, r"\[Conv2d\] padding: expected "),
        (lambda: nn.Conv2d(3, 4, 3, dilation=0), ValueError, r"\[Conv2d\] dilation: expected at l"),
        (
            lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"),
            ValueError,
            r"\[Conv2d\] padding_mode: expected one of zeros reflect replicate circular, got 'mi",
        ),
        (lambda: nn.Conv2d(3, 4, 3, layout="NHWC"), ValueError, r"\[Conv2d\] layout: expected"),
        (lambda: nn.MaxPool2d(0), ValueError, r"\[MaxPool2d\] kernel_size: expected at least 1"),
        (lambda: nn.AvgPool2d(2, 0), ValueError, r"\[AvgPool2d\] stride: expected at least 1"),
        (lambda: nn.Dropout(-0.1), ValueError, r"\[Dropout\] p: expected a probability"),
        (lambda: nn.GELU("exact"), ValueError, r"\[GELU\] approximate: expected none or tanh"),
        (
            lambda: nn.CrossEntropyLoss(reduction="avg"),
            ValueError,
            r"\[CrossEntropyLoss\] reduction: expected one of none sum mean, got 'avg'",
        ),
        (
            lambda: nn.CrossEntropyLoss(label_smoothing=2),
            ValueError,
            r"\[CrossEntropyLoss\] label_smoothing: expected a number in \[0, 1\], got 2",
        ),
        (lambda: nn.MSELoss("avg"), ValueError, r"\[MSELoss\] reduction: expected one of"),
        (lambda: nn.NLLLoss(reduction="avg"), ValueError, r"\[NLLLoss\] reduction: expected one"),
        (
            lambda: init.kaiming_uniform_(np.empty(3)),
            ValueError,
            r"\[init\] tensor: expected at least two axes for a fan",
        ),
        (
            lambda: init.kaiming_normal_(np.empty((3, 3)), mode="in"),
            ValueError,
            r"\[kaiming_normal_\] mode: expected fan_in or fan_out, got 'in'",
        ),
        (
            lambda: init.calculate_gain("swish"),
            ValueError,
            r"\[calculate_gain\] nonlinearity: expected one of linear",
        ),
        (
            lambda: init.trunc_normal_(np.empty(3), a=5.0, b=6.0),
            ValueError,
            r"\[trunc_normal_\] a, b: expected an interval with at least 1 %",
        ),
        (lambda: init.eye_(np.empty(3)), ValueError, r"\[eye_\] tensor: expected two axes"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_losses_against_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits, target = rng.standard_normal((6, 4)), np.array([0, 1, 3, 3, 1, 2])
    weight = np.array([0.2, 1.0, 3.0, 0.5])
    for options in ({}, {"reduction": "sum"}, {"ignore_index": 3}, {"label_smoothing": 0.3}):
        mine = nn.CrossEntropyLoss(weight, **options)(Tensor(logits), target)
        other = torch.nn.CrossEntropyLoss(torch.tensor(weight), **options)(
            torch.tensor(logits), torch.tensor(target)
        )
        assert mine.item() == pytest.approx(other.item(), rel=1e-12)
        if "label_smoothing" not in options:
            mine = nn.NLLLoss(weight, **options)(Tensor(logits), target)
            other = torch.nn.NLLLoss(torch.tensor(weight), **options)(
                torch.tensor(logits), torch.tensor(target)
            )
            assert mine.item() == pytest.approx(other.item(), rel=1e-12)
    other_loss = torch.nn.MSELoss()(torch.tensor(logits), torch.tensor(logits * 2))
    mine_loss = nn.MSELoss()(Tensor(logits), logits * 2)
    assert mine_loss.item() == pytest.approx(other_loss.item())
    assert list(nn.CrossEntropyLoss(weight).state_dict()) == ["weight"]
    assert list(nn.NLLLoss(weight).state_dict()) == ["weight"]


def test_a_training_step_leaves_no_cycles_behind():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.GELU(),
        nn.Dropout(0.5),
        nn.Linear(8, 3),
    )
    optimizer = ann.optim.Adam(model.parameters())
    x = np.random.default_rng(0).standard_normal((5, 1, 4, 4)).astype(np.float32)

    def step():
        optimizer.zero_grad()
        nn.CrossEntropyLoss()(model(Tensor(x)), np.array([0, 1, 2, 0, 1])).backward()
        optimizer.step()
        model(Tensor(x))  # a graph that is never gone through

    def nodes():
        return [o for o in gc.get_objects() if issubclass(type(o), Node)]

    step()
    gc.collect()
    gc.disable()
    try:
        before = {id(node) for node in nodes()}
        step()
        assert not [node for node in nodes() if id(node) not in before]
    finally:
        gc.enable()
