"""Optimizers: trajectories against PyTorch, groups, clipping, state, bad hyperparameters."""

import copy
import math

import numpy as np
import pytest

import arraynn as ann
from arraynn import Tensor, kernels, nn
from arraynn.optim import SGD, Adagrad, Adam, AdamW, RMSprop


def parameters(dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(3, 4), (4,), (2, 3, 2), ()]
    return [Tensor(rng.standard_normal(s).astype(dtype), requires_grad=True) for s in shapes]


def set_gradients(params, step):
    rng = np.random.default_rng(100 + step)
    for param in params:
        param.grad = np.asarray(rng.standard_normal(param.shape)).astype(param.dtype)


CASES = [
    (SGD, {}),
    (SGD, {"momentum": 0.9}),
    (SGD, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    (SGD, {"momentum": 0.8, "nesterov": True}),
    (SGD, {"maximize": True, "momentum": 0.5}),
    (Adam, {}),
    (Adam, {"betas": (0.7, 0.95), "eps": 1e-3}),
    (Adam, {"weight_decay": 0.1}),
    (Adam, {"amsgrad": True}),
    (Adam, {"maximize": True, "weight_decay": 0.1}),
    (AdamW, {}),
    (AdamW, {"weight_decay": 0.3, "amsgrad": True}),
    (AdamW, {"maximize": True}),
    (Adagrad, {}),
    (Adagrad, {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 0.1}),
    (Adagrad, {"maximize": True}),
    (RMSprop, {}),
    (RMSprop, {"alpha": 0.8, "eps": 0.1, "weight_decay": 0.1}),
    (RMSprop, {"momentum": 0.7, "centered": True}),
    (RMSprop, {"centered": True, "maximize": True}),
]


def torch_twins(torch, params):
    return [torch.tensor(p.data.copy(), requires_grad=True) for p in params]


@pytest.mark.parametrize(("kind", "options"), CASES, ids=lambda v: getattr(v, "__name__", str(v)))
def test_trajectory_against_torch(kind, options):
    torch = pytest.importorskip("torch")
    params = parameters()
    twins = torch_twins(torch, params)
    ours = kind(params, lr=0.05, **options)
    theirs = getattr(torch.optim, kind.__name__)(twins, lr=0.05, **options)
    for step in range(12):
        set_gradients(params, step)
        for param, twin in zip(params, twins, strict=True):
            twin.grad = torch.tensor(param.grad)
        ours.step()
        theirs.step()
        for param, twin in zip(params, twins, strict=True):
            np.testing.assert_allclose(param.data, twin.detach().numpy(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", [SGD, Adagrad, Adam, AdamW, RMSprop])
def test_defaults_are_torchs(kind):
    torch = pytest.importorskip("torch")
    ours = kind(parameters()).param_groups[0]
    theirs = getattr(torch.optim, kind.__name__)([torch.zeros(1)]).param_groups[0]
    for name, value in ours.items():
        if name not in ("params", "max_norm"):
            assert value == theirs[name], name


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
@pytest.mark.parametrize("grad_scale", [None, 8.0])
def test_clipping_and_scaling_against_torch(groups, max_norm, grad_scale):
    torch = pytest.importorskip("torch")
    params = parameters()
    twins = torch_twins(torch, params)
    given = params if groups == 1 else [{"params": params[:2]}, {"params": params[2:]}]
    ours = Adam(given, lr=0.05, weight_decay=0.1, max_norm=max_norm)
    theirs = torch.optim.Adam(twins, lr=0.05, weight_decay=0.1)
    for step in range(5):
        set_gradients(params, step)
        before = [p.grad.copy() for p in params]
        for param, twin in zip(params, twins, strict=True):
            twin.grad = torch.tensor(param.grad) / (grad_scale or 1.0)
        torch.nn.utils.clip_grad_norm_(twins, max_norm)
        ours.step(grad_scale=grad_scale)
        theirs.step()
        for param, twin, grad in zip(params, twins, before, strict=True):
            np.testing.assert_allclose(param.data, twin.detach().numpy(), rtol=1e-9, atol=1e-12)
            np.testing.assert_array_equal(param.grad, grad)


def test_one_kernel_call_per_group(monkeypatch):
    calls = []
    plain = kernels.adam_step

    def spy(params, *args, **kwargs):
        calls.append((len(params), kwargs["lr"]))
        return plain(params, *args, **kwargs)

    monkeypatch.setattr(kernels, "adam_step", spy)
    params = parameters()
    optimizer = Adam([{"params": params[:3]}, {"params": params[3:], "lr": 0.5}], lr=0.1)
    for step in range(3):
        set_gradients(params, step)
        optimizer.step()
    assert calls == [(3, 0.1), (1, 0.5)] * 3


def test_parameters_without_gradient_keep_their_own_step_count():
    torch = pytest.importorskip("torch")
    params = parameters()
    twins = torch_twins(torch, params)
    ours, theirs = Adam(params, lr=0.1), torch.optim.Adam(twins, lr=0.1)
    for step in range(6):
        set_gradients(params, step)
        if step % 2:
            params[1].grad = None
        for param, twin in zip(params, twins, strict=True):
            twin.grad = None if param.grad is None else torch.tensor(param.grad)
        ours.step()
        theirs.step()
    assert [ours.state[p]["step"] for p in params] == [6, 3, 6, 6]
    for param, twin in zip(params, twins, strict=True):
        np.testing.assert_allclose(param.data, twin.detach().numpy(), rtol=1e-11)


def test_parameters_of_two_dtypes():
    params = parameters()[:2] + parameters(np.float32)[2:]
    optimizer = SGD(params, lr=1.0)
    set_gradients(params, 0)
    expected = [p.data - p.grad for p in params]
    optimizer.step()
    for param, value in zip(params, expected, strict=True):
        assert param.dtype == value.dtype
        np.testing.assert_allclose(param.data, value, rtol=1e-6)


def test_updates_are_in_place_and_seen_by_the_tape():
    w = Tensor([1.0, 2.0], requires_grad=True)
    memory = w.data
    optimizer = SGD([w], lr=0.5)
    y = (w * w).sum()
    w.grad = np.ones(2, np.float32)
    optimizer.step()
    assert w.data is memory
    assert w.data.tolist() == [0.5, 1.5]
    with pytest.raises(RuntimeError, match="modified in place"):
        y.backward()


def test_closure_and_no_gradient():
    w = Tensor([1.0], requires_grad=True)
    optimizer = SGD([w], lr=0.25)
    optimizer.step()
    assert w.item() == 1.0

    def closure():
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        return loss

    with ann.no_grad():
        assert optimizer.step(closure).item() == 1.0
    assert w.item() == 0.5


def test_zero_grad():
    w = Tensor([1.0], requires_grad=True)
    optimizer = SGD([w])
    w.grad = np.ones(1, np.float32)
    optimizer.zero_grad(set_to_none=False)
    assert w.grad.tolist() == [0.0]
    optimizer.zero_grad()
    assert w.grad is None
    optimizer.zero_grad(set_to_none=False)
    assert w.grad is None


@pytest.mark.parametrize(("kind", "options"), CASES, ids=lambda v: getattr(v, "__name__", str(v)))
def test_state_resumes_a_run(kind, options):
    def run(optimizer, params, steps):
        for step in steps:
            set_gradients(params, step)
            optimizer.step()

    params = parameters()
    optimizer = kind(params, lr=0.05, **options)
    run(optimizer, params, range(3))
    state = copy.deepcopy(optimizer.state_dict())
    others = [Tensor(p.data.copy(), requires_grad=True) for p in params]
    resumed = kind(others, lr=1.0)
    resumed.load_state_dict(state)
    assert resumed.param_groups[0]["lr"] == 0.05
    run(optimizer, params, range(3, 6))
    run(resumed, others, range(3, 6))
    for a, b in zip(params, others, strict=True):
        np.testing.assert_array_equal(a.data, b.data)


def test_state_is_torchs_form_and_loads_from_torch():
    torch = pytest.importorskip("torch")
    params = parameters()
    twins = torch_twins(torch, params)
    theirs = torch.optim.Adam(twins, lr=0.03)
    for step in range(3):
        set_gradients(params, step)
        for param, twin in zip(params, twins, strict=True):
            twin.grad = torch.tensor(param.grad)
        theirs.step()
    ours = Adam([Tensor(t.detach().numpy().copy(), requires_grad=True) for t in twins])
    ours.load_state_dict(theirs.state_dict())
    saved = ours.state_dict()
    assert set(saved) == {"state", "param_groups"}
    assert saved["param_groups"][0]["params"] == [0, 1, 2, 3]
    assert set(saved["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    assert saved["state"][0]["step"] == 3
    mine = ours.param_groups[0]["params"]
    set_gradients(mine, 7)
    for param, twin in zip(mine, twins, strict=True):
        twin.grad = torch.tensor(param.grad)
    ours.step()
    theirs.step()
    for param, twin in zip(mine, twins, strict=True):
        np.testing.assert_allclose(param.data, twin.detach().numpy(), rtol=1e-11)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_state_of_torchs_sgd_loads(momentum):
    torch = pytest.importorskip("torch")
    params = parameters()
    twins = torch_twins(torch, params)
    theirs = torch.optim.SGD(twins, lr=0.1, momentum=momentum, dampening=0.5 * momentum)
    mine = params
    ours = SGD(mine, lr=0.3)
    for step in range(5):
        if step == 2:
            ours.load_state_dict(theirs.state_dict())
            for param, twin in zip(mine, twins, strict=True):
                param.data[...] = twin.detach().numpy()
        set_gradients(mine, step)
        for param, twin in zip(mine, twins, strict=True):
            twin.grad = torch.tensor(param.grad)
        ours.step()
        theirs.step()
    for param, twin in zip(mine, twins, strict=True):
        np.testing.assert_allclose(param.data, twin.detach().numpy(), rtol=1e-11)


def test_a_bad_state_changes_nothing():
    params = parameters()
    optimizer = Adam(params, lr=0.1)
    set_gradients(params, 0)
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["lr"] = 0.7
    state["state"][2]["exp_avg"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"\[Adam\] state: expected exp_avg of shape \(2, 3, 2\)"):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.1
    with pytest.raises(ValueError, match=r"expected 1 groups, got 0"):
        optimizer.load_state_dict({"state": {}, "param_groups": []})
    with pytest.raises(ValueError, match=r"param_groups\[0\]: expected 4 parameters, got 1"):
        optimizer.load_state_dict({"state": {}, "param_groups": [{"params": [0]}]})


ONE = [Tensor([1.0], requires_grad=True)]
BAD = [
    (Adam, {"lr": -1.0}, ValueError, r"\[Adam\] lr: expected a finite number of at least 0"),
    (Adam, {"lr": math.nan}, ValueError, r"\[Adam\] lr: expected a finite number"),
    (Adam, {"lr": math.inf}, ValueError, r"\[Adam\] lr: expected a finite number"),
    (Adam, {"lr": "0.1"}, TypeError, r"\[Adam\] lr: expected a number, got str"),
    (Adam, {"lr": True}, TypeError, r"\[Adam\] lr: expected a number, got bool"),
    (Adam, {"betas": (1.0, 0.9)}, ValueError, r"\[Adam\] betas\[0\]: expected a finite number in"),
    (Adam, {"betas": (0.9, -0.1)}, ValueError, r"\[Adam\] betas\[1\]: expected a finite number"),
    (Adam, {"betas": 0.9}, ValueError, r"\[Adam\] betas: expected a pair of numbers, got 0.9"),
    (Adam, {"eps": -1e-8}, ValueError, r"\[Adam\] eps: expected a finite number"),
    (AdamW, {"weight_decay": -1}, ValueError, r"\[AdamW\] weight_decay: expected a finite number"),
    (AdamW, {"max_norm": -1}, ValueError, r"\[AdamW\] max_norm: expected a finite number"),
    (Adagrad, {"lr_decay": -1}, ValueError, r"\[Adagrad\] lr_decay: expected a finite number"),
    (
        Adagrad,
        {"initial_accumulator_value": math.nan},
        ValueError,
        r"\[Adagrad\] initial_accumulator_value: expected a finite number",
    ),
    (RMSprop, {"alpha": 1.0}, ValueError, r"\[RMSprop\] alpha: expected a finite number in"),
    (RMSprop, {"momentum": -1}, ValueError, r"\[RMSprop\] momentum: expected a finite number"),
    (SGD, {"momentum": -0.1}, ValueError, r"\[SGD\] momentum: expected a finite number"),
    (SGD, {"dampening": math.inf}, ValueError, r"\[SGD\] dampening: expected a finite number"),
    (SGD, {"nesterov": True}, ValueError, r"\[SGD\] nesterov: expected a momentum above 0"),
    (
        SGD,
        {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
        ValueError,
        r"\[SGD\] nesterov: expected a momentum above 0 and no dampening",
    ),
]


@pytest.mark.parametrize(("kind", "options", "error", "message"), BAD)
def test_bad_hyperparameters(kind, options, error, message):
    with pytest.raises(error, match=message):
        kind(ONE, **options)
    with pytest.raises(error, match=message):
        kind([{"params": ONE, **options}])


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ([], ValueError, r"\[SGD\] params: expected at least one parameter, got none"),
        (ONE[0], TypeError, r"\[SGD\] params: expected an iterable of tensors or dicts"),
        ([np.ones(1)], TypeError, r"\[SGD\] params\[0\]: expected a Tensor, got ndarray"),
        ([ONE[0] * 2], ValueError, r"\[SGD\] params\[0\]: expected a leaf, got the result of mul"),
        (ONE * 2, ValueError, r"\[SGD\] params\[1\]: expected each parameter once"),
        ([{"lr": 1.0}], TypeError, r"\[SGD\] param_group: expected a dict with 'params'"),
        ([{"params": ONE, "beta": 1}], ValueError, r"\[SGD\] param_group: expected options lr"),
    ],
)
def test_bad_parameters(params, error, message):
    with pytest.raises(error, match=message):
        SGD(params)


def test_bad_values_between_steps_change_nothing():
    params = parameters()
    optimizer = Adam([{"params": params[:2]}, {"params": params[2:]}], lr=0.1)
    before = [p.data.copy() for p in params]

    def check(error, message, **options):
        with pytest.raises(error, match=message):
            optimizer.step(**options)
        for param, value in zip(params, before, strict=True):
            np.testing.assert_array_equal(param.data, value)

    set_gradients(params, 0)
    optimizer.param_groups[1]["lr"] = math.nan
    check(ValueError, r"\[Adam\] lr: expected a finite number")
    optimizer.param_groups[1]["lr"] = 0.1
    check(ValueError, r"\[Adam\] grad_scale: expected a number above 0", grad_scale=0.0)
    params[3].grad = np.zeros(2)
    check(ValueError, r"\[Adam\] grad: expected shape \(\) \(as the parameter\), got \(2,\)")
    params[3].grad = np.zeros((), np.float32)
    check(TypeError, r"\[Adam\] grad: expected float64 \(as the parameter\), got float32")
    set_gradients(params, 0)
    optimizer.param_groups[1]["max_norm"] = 1.0
    check(ValueError, r"\[Adam\] max_norm: expected one value for all groups")


def test_repr_tells_the_options():
    text = repr(SGD(ONE, lr=0.5))
    assert text.startswith("SGD(\n  group 0: 1 parameters")
    assert "lr: 0.5" in text


def test_training_a_network_follows_torch():
    torch = pytest.importorskip("torch")
    ours = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    theirs = torch.nn.Sequential(
        torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)
    ).double()
    ours.load_state_dict(theirs.state_dict())
    mine = AdamW(ours.parameters(), lr=0.01)
    other = torch.optim.AdamW(theirs.parameters(), lr=0.01)
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.standard_normal((8, 6)), rng.integers(0, 3, 8)
        for model, optimizer, loss, batch in (
            (ours, mine, nn.CrossEntropyLoss(), (Tensor(x), y)),
            (theirs, other, torch.nn.CrossEntropyLoss(), (torch.tensor(x), torch.tensor(y))),
        ):
            optimizer.zero_grad()
            loss(model(batch[0]), batch[1]).backward()
            optimizer.step()
    for name, array in ours.state_dict().items():
        np.testing.assert_allclose(array, theirs.state_dict()[name].numpy(), rtol=1e-8, atol=1e-10)
