"""Learning rate schedulers against PyTorch's values."""

import copy
import warnings

import numpy as np
import pytest

from arraynn import Tensor
from arraynn.optim import SGD, Adam, lr_scheduler


def optimizers(kind="SGD", **options):
    torch = pytest.importorskip("torch")
    rates = (0.4, 0.05)
    ours = {"SGD": SGD, "Adam": Adam}[kind](
        [{"params": [Tensor([1.0], requires_grad=True)], "lr": lr} for lr in rates], **options
    )
    theirs = getattr(torch.optim, kind)(
        [{"params": [torch.ones(1, requires_grad=True)], "lr": lr} for lr in rates], **options
    )
    return torch, ours, theirs


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


CASES = [
    ("StepLR", {"step_size": 3, "gamma": 0.5}),
    ("StepLR", {"step_size": 1}),
    ("MultiStepLR", {"milestones": [2, 5, 5, 9], "gamma": 0.3}),
    ("MultiStepLR", {"milestones": [0, 3]}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("CosineAnnealingLR", {"T_max": 10}),
    ("CosineAnnealingLR", {"T_max": 4, "eta_min": 0.01}),
    ("CosineAnnealingLR", {"T_max": 1, "eta_min": 0.01}),
    ("LinearLR", {}),
    ("LinearLR", {"start_factor": 1.0, "end_factor": 0.1, "total_iters": 7}),
    ("LambdaLR", {"lr_lambda": lambda epoch: 0.95**epoch}),
    ("LambdaLR", {"lr_lambda": [lambda epoch: 1 / (1 + epoch), lambda epoch: epoch]}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_values_against_torch(name, options):
    torch, ours, theirs = optimizers()
    mine = getattr(lr_scheduler, name)(ours, **options)
    other = getattr(torch.optim.lr_scheduler, name)(theirs, **options)
    for _ in range(25):
        np.testing.assert_allclose(rates(ours), rates(theirs), rtol=1e-9, atol=1e-12)
        assert mine.get_last_lr() == rates(ours)
        assert mine.last_epoch == other.last_epoch
        ours.step()
        theirs.step()
        mine.step()
        other.step()


def test_two_schedulers_compose_as_in_torch():
    torch, ours, theirs = optimizers()
    mine = [
        lr_scheduler.LinearLR(ours, total_iters=4),
        lr_scheduler.ExponentialLR(ours, 0.9),
        lr_scheduler.StepLR(ours, 3),
    ]
    module = torch.optim.lr_scheduler
    other = [
        module.LinearLR(theirs, total_iters=4),
        module.ExponentialLR(theirs, 0.9),
        module.StepLR(theirs, 3),
    ]
    theirs.step()
    for _ in range(10):
        np.testing.assert_allclose(rates(ours), rates(theirs), rtol=1e-12)
        for scheduler in (*mine, *other):
            scheduler.step()


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize(
    "options",
    [
        {"max_lr": 1.0, "total_steps": 20},
        {"max_lr": [1.0, 0.5], "epochs": 4, "steps_per_epoch": 7},
        {"max_lr": 1.0, "total_steps": 23, "anneal_strategy": "linear", "pct_start": 0.4},
        {"max_lr": 1.0, "total_steps": 30, "three_phase": True, "final_div_factor": 50.0},
        {"max_lr": 1.0, "total_steps": 12, "cycle_momentum": False, "div_factor": 4.0},
    ],
    ids=str,
)
def test_one_cycle_against_torch(kind, options):
    torch, ours, theirs = optimizers(kind, **({"momentum": 0.9} if kind == "SGD" else {}))
    mine = lr_scheduler.OneCycleLR(ours, **options)
    other = torch.optim.lr_scheduler.OneCycleLR(theirs, **options)
    theirs.step()
    for _ in range(mine.total_steps - 1):
        np.testing.assert_allclose(rates(ours), rates(theirs), rtol=1e-9)
        for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
            name = "momentum" if kind == "SGD" else "betas"
            np.testing.assert_allclose(a[name], b[name], rtol=1e-9)
        mine.step()
        other.step()
    np.testing.assert_allclose(rates(ours), rates(theirs), rtol=1e-9)
    with pytest.raises(ValueError, match=r"\[OneCycleLR\] step: expected at most"):
        mine.step()


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 2},
        {"patience": 0, "factor": 0.5, "cooldown": 2, "min_lr": 0.02},
        {"mode": "max", "patience": 1, "threshold": 0.2},
        {"mode": "max", "patience": 1, "threshold": 0.5, "threshold_mode": "abs"},
        {"patience": 1, "threshold": 0.05, "threshold_mode": "abs", "min_lr": [0.1, 0.0]},
    ],
    ids=str,
)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_plateau_against_torch(options, sign):
    torch, ours, theirs = optimizers()
    mine = lr_scheduler.ReduceLROnPlateau(ours, **options)
    other = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
    rng = np.random.default_rng(4)
    metrics = sign * (np.exp(-np.arange(40) / 8) + 0.2 * rng.random(40))
    metrics[7] = np.nan
    for metric in metrics:
        mine.step(Tensor(metric))
        other.step(metric)
        np.testing.assert_allclose(rates(ours), rates(theirs), rtol=1e-12)
        assert mine.get_last_lr() == rates(ours)


def test_state_resumes_a_schedule():
    def pair():
        optimizer = SGD([Tensor([1.0], requires_grad=True)], lr=0.3)
        return optimizer, lr_scheduler.CosineAnnealingLR(optimizer, 9, eta_min=0.1)

    optimizer, scheduler = pair()
    for _ in range(4):
        scheduler.step()
    states = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    other, resumed = pair()
    other.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    assert resumed.optimizer is other
    for _ in range(8):
        scheduler.step()
        resumed.step()
        assert rates(optimizer) == rates(other)


def test_resuming_by_last_epoch():
    torch, ours, theirs = optimizers()
    for optimizer in (ours, theirs):
        for group in optimizer.param_groups:
            group["initial_lr"] = 0.4
            group["lr"] = 0.2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = torch.optim.lr_scheduler.ExponentialLR(theirs, 0.5, last_epoch=3)
    mine = lr_scheduler.ExponentialLR(ours, 0.5, last_epoch=3)
    assert mine.last_epoch == other.last_epoch == 4
    np.testing.assert_allclose(rates(ours), rates(theirs))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda o: lr_scheduler.StepLR(o.state, 1), TypeError, r"\[StepLR\] optimizer: expected "),
        (lambda o: lr_scheduler.StepLR(o, 0), ValueError, r"\[StepLR\] step_size: expected at le"),
        (lambda o: lr_scheduler.StepLR(o, 1.5), TypeError, r"\[StepLR\] step_size: expected an i"),
        (
            lambda o: lr_scheduler.ExponentialLR(o, float("nan")),
            ValueError,
            r"\[ExponentialLR\] gamma: expected a finite number",
        ),
        (
            lambda o: lr_scheduler.StepLR(o, 1, last_epoch=2),
            KeyError,
            r"expected 'initial_lr' to resume at epoch 2",
        ),
        (
            lambda o: lr_scheduler.LambdaLR(o, [abs, abs]),
            ValueError,
            r"\[LambdaLR\] lr_lambda: expected 1 values \(one per group\), got 2",
        ),
        (
            lambda o: lr_scheduler.LinearLR(o, 0.0),
            ValueError,
            r"\[LinearLR\] start_factor: expected a number above 0",
        ),
        (
            lambda o: lr_scheduler.LinearLR(o, end_factor=1.5),
            ValueError,
            r"\[LinearLR\] end_factor: expected at most 1",
        ),
        (
            lambda o: lr_scheduler.CosineAnnealingLR(o, 0),
            ValueError,
            r"\[CosineAnnealingLR\] T_max: expected at least 1",
        ),
        (
            lambda o: lr_scheduler.OneCycleLR(o, 1.0),
            ValueError,
            r"\[OneCycleLR\] total_steps: expected it, or epochs and steps_per_epoch",
        ),
        (
            lambda o: lr_scheduler.OneCycleLR(o, 1.0, 10, pct_start=2),
            ValueError,
            r"\[OneCycleLR\] pct_start: expected a number in \[0, 1\]",
        ),
        (
            lambda o: lr_scheduler.OneCycleLR(o, 1.0, 10, anneal_strategy="exp"),
            ValueError,
            r"\[OneCycleLR\] anneal_strategy: expected cos or linear",
        ),
        (
            lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=1.0),
            ValueError,
            r"\[ReduceLROnPlateau\] factor: expected a finite number in \[0, 1\)",
        ),
        (
            lambda o: lr_scheduler.ReduceLROnPlateau(o).step(),
            TypeError,
            r"\[ReduceLROnPlateau\] metrics: expected a number, got None",
        ),
        (
            lambda o: lr_scheduler.ReduceLROnPlateau(o, "less"),
            ValueError,
            r"\[ReduceLROnPlateau\] mode: expected min or max",
        ),
    ],
)
def test_bad_arguments(call, error, message):
    optimizer = SGD([Tensor([1.0], requires_grad=True)])
    with pytest.raises(error, match=message):
        call(optimizer)
