"""Recurrent layers: PyTorch with the same weights, lengths, states, gradients, errors."""

import warnings

import numpy as np
import pytest

import arraynn as ann
from arraynn import Tensor, nn, reference
from arraynn.autograd import gradcheck
from arraynn.nn import functional as F

LAYERS = [
    ("RNN", (4, 6), {}),
    ("RNN", (4, 6, 2, "relu", False, True, 0.0, True), {}),
    ("RNN", (4, 6, 3), {"nonlinearity": "relu"}),
    ("LSTM", (4, 6), {}),
    ("LSTM", (4, 6, 2, True, True, 0.0, True), {}),
    ("LSTM", (4, 6, 2), {"proj_size": 3, "bidirectional": True}),
    ("LSTM", (4, 6, 1, False), {}),
    ("GRU", (4, 6), {}),
    ("GRU", (4, 6, 2, True, True, 0.0, True), {}),
    ("GRU", (4, 6, 3, False), {}),
]


def parts(state):
    return list(state) if isinstance(state, tuple) else [state]


def make_pair(name, args, options):
    """Return our layer and PyTorch's with the same weights; states load both ways."""
    torch = pytest.importorskip("torch")
    ours = getattr(nn, name)(*args, **options).double()
    theirs = getattr(torch.nn, name)(*args, **options).double()
    theirs.load_state_dict(
        {key: torch.from_numpy(array.copy()) for key, array in ours.state_dict().items()}
    )
    again = getattr(nn, name)(*args, **options).double()
    again.load_state_dict(theirs.state_dict())
    for one, other in zip(again.parameters(), ours.parameters(), strict=True):
        np.testing.assert_array_equal(one.data, other.data)
    return torch, ours, theirs


@pytest.mark.parametrize(("name", "args", "options"), LAYERS, ids=str)
@pytest.mark.parametrize("batched", [True, False], ids=["batch", "sample"])
@pytest.mark.parametrize("with_state", [True, False])
def test_layers_against_torch(name, args, options, batched, with_state):
    torch, ours, theirs = make_pair(name, args, options)
    assert repr(ours) == repr(theirs)
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
        (k, tuple(v.shape)) for k, v in theirs.state_dict().items()
    ]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 5, 4) if batched else (5, 4))
    leaves = [Tensor(x, requires_grad=True)]
    if with_state:
        _, last = theirs(torch.from_numpy(x))
        leaves += [Tensor(rng.standard_normal(s.shape), requires_grad=True) for s in parts(last)]
    others = [torch.tensor(leaf.data, requires_grad=True) for leaf in leaves]

    def run(layer, arrays):
        state = tuple(arrays[1:]) if name == "LSTM" else arrays[1] if with_state else None
        y, last = layer(arrays[0], state) if with_state else layer(arrays[0])
        return [y, *parts(last)]

    outputs, expected = run(ours, leaves), run(theirs, others)
    for a, b in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(a.data, b.detach().numpy(), rtol=1e-10, atol=1e-12)
    sum(((a * a).sum() for a in outputs), Tensor(0.0, dtype=float)).backward()
    sum((b * b).sum() for b in expected).backward()
    for a, b in zip([*leaves, *ours.parameters()], [*others, *theirs.parameters()], strict=True):
        np.testing.assert_allclose(a.grad, b.grad.numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("bias", [True, False])
def test_cells_against_torch(name, bias):
    torch, ours, theirs = make_pair(name, (4, 6), {"bias": bias})
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    rng = np.random.default_rng(1)
    x = rng.standard_normal((5, 3, 4))
    leaf, other = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    state = expected = None
    for t in range(5):
        state, expected = ours(leaf[t], state), theirs(other[t], expected)
    for a, b in zip(parts(state), parts(expected), strict=True):
        np.testing.assert_allclose(a.data, b.detach().numpy(), rtol=1e-10, atol=1e-12)
    parts(state)[0].sum().backward()
    parts(expected)[0].sum().backward()
    np.testing.assert_allclose(leaf.grad, other.grad.numpy(), rtol=1e-9, atol=1e-11)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(a.grad, b.grad.numpy(), rtol=1e-9, atol=1e-11)
    alone = ours(Tensor(x[0, 0]))
    np.testing.assert_allclose(
        parts(alone)[0].data, parts(theirs(torch.from_numpy(x[0, 0])))[0].detach().numpy()
    )


def test_cells_of_other_activations():
    cell = nn.RNNCell(4, 6, nonlinearity="relu", dtype=np.float64)
    x = np.ones((2, 4))
    weights = [p.data for p in cell.parameters()]
    expected = reference.rnn_cell(x, weights, nonlinearity="relu")
    np.testing.assert_allclose(cell(x).data, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RNNCell", {"nonlinearity": "softplus", "clip": 0.5, "layer_norm": True}),
        (
            "LSTMCell",
            {"recurrent_activation": "hardsigmoid", "output_activation": "relu"}
            | {"peepholes": True, "input_forget": True, "clip": 0.7, "cell_clip": 0.4},
        ),
        ("LSTMCell", {"peepholes": True, "layer_norm": True, "layer_norm_eps": 1e-3}),
        ("GRUCell", {"reset_after": False, "activation": "relu", "clip": 0.6}),
        ("GRUCell", {"recurrent_activation": "hardsigmoid", "layer_norm": True}),
    ],
)
def test_options_of_cells_reach_the_kernel_and_its_gradient(name, options):
    cell = getattr(nn, name)(4, 6, dtype=float, **options)
    assert ("layer_norm=True" in repr(cell)) is ("layer_norm" in options)
    rng = np.random.default_rng(12)
    for parameter in cell.parameters():
        parameter.data = rng.standard_normal(parameter.shape)
    x, named = rng.standard_normal((3, 4)), {k: p.data for k, p in cell.named_parameters()}
    how = dict(options)
    if "peepholes" in options:
        how["peepholes"] = named["weight_peephole"]
    if "layer_norm" in options:
        how["layer_norm"] = [a for key, a in named.items() if "norm" in key]
    weights = [named[key] for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    state = [rng.standard_normal((3, 6)) for _ in range(2 if name == "LSTMCell" else 1)]
    state = tuple(state) if len(state) > 1 else state[0]
    op = name.lower().replace("cell", "_cell")
    expected, kept = getattr(reference, op)(x, weights, state, **how, return_workspace=True)
    new = cell(x, state)
    for a, b in zip(parts(new), parts(expected), strict=True):
        np.testing.assert_allclose(a.data, b, rtol=1e-11)
    parts(new)[0].sum().backward()
    ones = np.ones((3, 6))
    grad = (ones, None) if name == "LSTMCell" else ones
    _, _, of_weights, *more = getattr(reference, f"{op}_backward")(grad, kept)
    extra = [g for part in more for g in (part if isinstance(part, list | tuple) else [part])]
    grads = dict(zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), of_weights, strict=True))
    keys = [key for key in named if "peephole" in key] + [key for key in named if "norm" in key]
    grads |= dict(zip(keys, extra, strict=True))
    for key, parameter in cell.named_parameters():
        np.testing.assert_allclose(parameter.grad, grads[key], rtol=1e-8, atol=1e-10, err_msg=key)


def test_initial_parameters_are_torchs_distribution():
    _ = ann.manual_seed(0)
    for layer in (nn.GRU(3, 100), nn.LSTMCell(3, 100)):
        values = np.concatenate([p.data.reshape(-1) for p in layer.parameters()])
        assert np.abs(values).max() <= 0.1
        assert abs(values.std() - 0.1 / np.sqrt(3)) < 1e-3


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
class TestLengths:
    def test_padding_does_not_matter(self, name):
        layer = getattr(nn, name)(4, 6, 2, bidirectional=True, batch_first=True, dtype=float)
        x = np.random.default_rng(2).standard_normal((3, 5, 4))
        lengths = [5, 0, 2]
        x[1], x[2, 2:] = np.nan, np.nan
        leaf = Tensor(x, requires_grad=True)
        y, last = layer(leaf, lengths=lengths)
        (y.sum() + parts(last)[0].sum()).backward()
        assert np.all(y.data[1] == 0)
        assert np.all(y.data[2, 2:] == 0)
        assert np.all(leaf.grad[1] == 0)
        assert np.all(leaf.grad[2, 2:] == 0)
        assert all(np.isfinite(p.grad).all() for p in layer.parameters())
        alone, ended = layer(x[2, :2])
        np.testing.assert_allclose(y.data[2, :2], alone.data, rtol=1e-12)
        for a, b in zip(parts(last), parts(ended), strict=True):
            np.testing.assert_allclose(a.data[:, 2], b.data, rtol=1e-12)
            np.testing.assert_array_equal(a.data[:, 1], 0)

    def test_reverse_runs_from_the_end(self, name):
        layer = getattr(nn, name)(4, 6, reverse=True, dtype=float)
        x = np.random.default_rng(3).standard_normal((5, 2, 4))
        forward = getattr(nn, name)(4, 6, dtype=float)
        forward.load_state_dict(layer.state_dict())
        np.testing.assert_allclose(
            layer(x)[0].data, forward(x[::-1].copy())[0].data[::-1], rtol=1e-12
        )


OPTIONS = [
    ("RNN", {"nonlinearity": "gelu", "clip": 2.0}),
    ("LSTM", {"peepholes": True, "proj_size": 2, "bidirectional": True, "num_layers": 2}),
    ("LSTM", {"activation": "softplus", "recurrent_activation": "hardsigmoid", "cell_clip": 9.0}),
    ("LSTM", {"output_activation": "silu", "input_forget": True, "bias": False}),
    ("GRU", {"reset_after": False, "activation": "elu", "clip": 3.0, "num_layers": 2}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_options_reach_the_kernel_and_its_gradient(name, options):
    _ = ann.manual_seed(3)
    layer = getattr(nn, name)(3, 4, dtype=np.float64, **options)
    arrays = layer.state_dict()
    weights = [a for key, a in arrays.items() if "peephole" not in key]
    call = {k: v for k, v in options.items() if k not in ("proj_size", "bias", "peepholes")}
    if options.get("peepholes"):
        call["peepholes"] = [a for key, a in arrays.items() if "peephole" in key]
        assert len(call["peepholes"]) == 4
    x = np.random.default_rng(4).standard_normal((3, 2, 3))
    y, last = layer(x)
    expected, ended = getattr(reference, name.lower())(x, weights, **call)
    for a, b in zip([y, *parts(last)], [expected, *parts(ended)], strict=True):
        np.testing.assert_allclose(a.data, b, rtol=1e-11)

    def run(x, *values):
        for parameter, value in zip(list(layer.parameters()), values, strict=True):
            parameter.data, parameter.node = value.data, None
        weights = [v for v, key in zip(values, arrays, strict=True) if "peephole" not in key]
        peepholes = [v for v, key in zip(values, arrays, strict=True) if "peephole" in key]
        extra = {"peepholes": peepholes} if peepholes else {}
        y, last = getattr(F, name.lower())(x, weights, **{**call, **extra})
        return y, *parts(last)

    values = [Tensor(a.copy(), requires_grad=True) for a in arrays.values()]
    assert gradcheck(run, [Tensor(x, requires_grad=True), *values])


def test_dropout_between_layers():
    layer = nn.GRU(4, 6, 2, dropout=0.5, dtype=np.float64)
    x = np.random.default_rng(5).standard_normal((3, 2, 4))
    _ = ann.manual_seed(11)
    y, _ = layer(x)
    _ = ann.manual_seed(11)
    seed = ann.nn._random.next_seed()
    weights = [p.data for p in layer.parameters()]
    expected, _ = reference.gru(x, weights, num_layers=2, dropout=0.5, seed=seed)
    np.testing.assert_allclose(y.data, expected, rtol=1e-11)
    assert not np.array_equal(layer(x)[0].data, y.data)
    layer.eval()
    np.testing.assert_allclose(
        layer(x)[0].data, reference.gru(x, weights, num_layers=2)[0], rtol=1e-11
    )
    with pytest.warns(UserWarning, match=r"\[GRU\] dropout: acts between layers"):
        one = nn.GRU(4, 6, dropout=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one(x.astype(np.float32))


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_masks_of_the_recurrence(name):
    random = {"recurrent_dropout": 0.3, "weight_dropout": 0.2, "zoneout": 0.4}
    if name == "LSTM":
        random["zoneout_cell"] = 0.1
    layer = getattr(nn, name)(4, 6, 2, bidirectional=True, dtype=float, **random)
    assert "recurrent_dropout=0.3, weight_dropout=0.2, zoneout=0.4" in repr(layer)
    rng = np.random.default_rng(8)
    x, mask = rng.standard_normal((5, 3, 4)), rng.random((5, 3)) < 0.7
    weights = [p.data for p in layer.parameters()]
    call, how = getattr(reference, name.lower()), {"num_layers": 2, "bidirectional": True}
    _ = ann.manual_seed(12)
    y, last = layer(x, mask=mask)
    _ = ann.manual_seed(12)
    seed = ann.nn._random.next_seed()
    expected, ended = call(x, weights, mask=mask, seed=seed, **how, **random)
    for a, b in zip([y, *parts(last)], [expected, *parts(ended)], strict=True):
        np.testing.assert_allclose(a.data, b, rtol=1e-11)
    layer.eval()
    means = {key: p for key, p in random.items() if key.startswith("zoneout")}
    np.testing.assert_allclose(
        layer(x, mask=mask)[0].data, call(x, weights, mask=mask, **how, **means)[0], rtol=1e-11
    )


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_layer_norms(name):
    layer = getattr(nn, name)(3, 4, 2, bidirectional=True, layer_norm=True, dtype=float)
    state = layer.state_dict()
    assert state["norm_hh_l1_reverse"].shape == state["bias_hh_l1_reverse"].shape
    assert all(np.all(a == ("bias" not in key)) for key, a in state.items() if "norm" in key)
    rng = np.random.default_rng(10)
    x = rng.standard_normal((4, 3, 3))
    for key, parameter in layer.named_parameters():
        if "norm" in key:
            parameter.data = rng.standard_normal(parameter.shape)
    named = {key: p.data for key, p in layer.named_parameters()}
    weights = [a for key, a in named.items() if "norm" not in key]
    norms = [a for key, a in named.items() if "norm" in key]
    how = {"num_layers": 2, "bidirectional": True, "layer_norm": norms}
    expected, ended, kept = getattr(reference, name.lower())(
        x, weights, **how, return_workspace=True
    )
    y, last = layer(x)
    for a, b in zip([y, *parts(last)], [expected, *parts(ended)], strict=True):
        np.testing.assert_allclose(a.data, b, rtol=1e-10)
    y.sum().backward()
    _, _, *grads = getattr(reference, f"{name.lower()}_backward")(np.ones_like(y.data), None, kept)
    found = dict(layer.named_parameters())
    keys = [k for k in named if "norm" not in k] + [k for k in named if "norm" in k]
    for key, grad in zip(keys, [g for part in grads for g in part], strict=True):
        np.testing.assert_allclose(found[key].grad, grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_stateful(name):
    layer = getattr(nn, name)(4, 6, stateful=True)
    x = np.random.default_rng(9).standard_normal((7, 3, 4)).astype(np.float32)
    y, last = layer(x)
    layer.reset_state()
    first, _ = layer(x[:3])
    second, ended = layer(x[3:])
    np.testing.assert_array_equal(np.concatenate([first.data, second.data]), y.data)
    for a, b in zip(parts(ended), parts(last), strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    second.sum().backward()  # ends where the call began
    assert all(np.isfinite(p.grad).all() for p in layer.parameters())
    zeros = np.zeros((1, 3, 6), np.float32)
    begun, _ = layer(x, (zeros, zeros) if name == "LSTM" else zeros)
    np.testing.assert_array_equal(begun.data, y.data)
    assert not any("state" in key for key in layer.state_dict())


def test_every_cell_of_an_lstm():
    layer = nn.LSTM(3, 5, 2, bidirectional=True, proj_size=2, batch_first=True, dtype=float)
    x = np.random.default_rng(14).standard_normal((4, 6, 3))
    weights, lengths = [p.data for p in layer.parameters()], [6, 0, 3, 5]
    how = {"num_layers": 2, "bidirectional": True, "batch_first": True, "lengths": lengths}
    *_, expected, kept = reference.lstm(x, weights, **how, return_cells=True, return_workspace=True)
    leaf = Tensor(x, requires_grad=True)
    y, last, cells = layer(leaf, lengths=lengths, return_cells=True)
    assert len(layer(leaf, lengths=lengths)) == 2
    np.testing.assert_allclose(cells.data, expected, rtol=1e-10, atol=1e-13)
    (y.sum() + (cells * cells).sum() + last[1].sum()).backward()
    grad_x, _, grads = reference.lstm_backward(
        np.ones_like(y.data), (None, np.ones((4, 4, 5))), kept, grad_cells=2 * expected
    )
    np.testing.assert_allclose(leaf.grad, grad_x, rtol=1e-9, atol=1e-12)
    for parameter, grad in zip(layer.parameters(), grads, strict=True):
        np.testing.assert_allclose(parameter.grad, grad, rtol=1e-9, atol=1e-11)


def test_state_carried_in_pieces():
    layer = nn.LSTM(4, 6, 2)
    x = np.random.default_rng(6).standard_normal((7, 3, 4)).astype(np.float32)
    y, last = layer(x)
    first, state = layer(x[:3])
    state = tuple(part.detach() for part in state)
    second, ended = layer(x[3:], state)
    np.testing.assert_array_equal(np.concatenate([first.data, second.data]), y.data)
    for a, b in zip(ended, last, strict=True):
        np.testing.assert_array_equal(a.data, b.data)


def test_functions_of_arrays_return_arrays():
    x = np.random.default_rng(7).standard_normal((3, 2, 4))
    for name in ("rnn", "lstm", "gru"):
        layer = getattr(nn, name.upper())(4, 5, dtype=np.float64)
        arrays = [p.data for p in layer.parameters()]
        y, last = getattr(F, name)(x, arrays)
        assert isinstance(y, np.ndarray)
        taped, _ = layer(x)
        np.testing.assert_array_equal(y, taped.data)
        new = getattr(F, f"{name}_cell")(x[0], arrays)
        np.testing.assert_allclose(parts(new)[0], y[0], rtol=1e-12)
        with ann.no_grad():
            assert not layer(x)[0].requires_grad
        assert all(isinstance(part, np.ndarray) for part in parts(last))


def test_gradients_share_no_memory():
    layer = nn.LSTM(4, 6)
    y, _ = layer(np.ones((3, 2, 4), np.float32))
    y.sum().backward()
    grads = [p.grad for p in layer.parameters()]
    for i, one in enumerate(grads):
        for other in grads[i + 1 :]:
            assert not np.shares_memory(one, other)


def test_changed_weights_are_noticed():
    layer = nn.GRU(4, 6)
    y, _ = layer(np.ones((3, 2, 4), np.float32))
    with ann.no_grad():
        layer.weight_hh_l0 *= 2
    with pytest.raises(RuntimeError, match=r"\[backward\] gru: expected its saved array unchanged"):
        y.sum().backward()


@pytest.mark.parametrize(
    ("name", "args", "options", "message"),
    [
        ("RNN", (0, 3), {}, r"\[RNN\] input_size: expected an int of at least 1, got 0"),
        ("RNN", (3, 3, 1, "swish"), {}, r"\[RNN\] nonlinearity: expected one of .*, got 'swish'"),
        ("LSTM", (3, 4), {"proj_size": 4}, r"\[LSTM\] proj_size: expected a size in \[0, 4\)"),
        ("LSTM", (3, 4), {"activation": "exp"}, r"\[LSTM\] activation: expected one of"),
        ("LSTM", (3, 4), {"cell_clip": -1.0}, r"\[LSTM\] cell_clip: expected a finite number > 0"),
        ("GRU", (3, 4, 2), {"dropout": 1.5}, r"\[GRU\] dropout: expected a probability"),
        ("LSTM", (3, 4), {"zoneout_cell": -1.0}, r"\[LSTM\] zoneout_cell: expected a probability"),
        (
            "GRU",
            (3, 4),
            {"reverse": True, "bidirectional": True},
            r"\[GRU\] reverse: expected False with bidirectional, got True",
        ),
        (
            "GRU",
            (3, 4),
            {"layer_norm": True, "reset_after": False},
            r"\[GRU\] layer_norm: expected reset_after=True",
        ),
        ("RNNCell", (3, 4), {"nonlinearity": "no"}, r"\[RNNCell\] nonlinearity: expected one of"),
        ("LSTMCell", (3, 4), {"cell_clip": 0.0}, r"\[LSTMCell\] cell_clip: expected a finite"),
        ("GRUCell", (3, 4), {"activation": "no"}, r"\[GRUCell\] activation: expected one of"),
        (
            "GRUCell",
            (3, 4),
            {"layer_norm": True, "reset_after": False},
            r"\[GRUCell\] layer_norm: expected reset_after=True",
        ),
        ("GRUCell", (3, 0), {}, r"\[GRUCell\] hidden_size: expected an int of at least 1"),
    ],
)
def test_wrong_layers(name, args, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(nn, name)(*args, **options)


def test_wrong_dtype():
    with pytest.raises(TypeError, match=r"\[LSTM\] dtype: expected float16, .*, got int32"):
        nn.LSTM(3, 4, dtype=np.int32)
