"""Losses of one number and its target against PyTorch, finite differences and hand-worked cases."""

import numpy as np
import pytest

from arraynn import Tensor, nn
from arraynn.autograd import gradcheck
from arraynn.nn import functional as F

RNG = np.random.default_rng(3)
X, Y = RNG.standard_normal((4, 5)), RNG.standard_normal((4, 5))
P, T = RNG.uniform(0.05, 0.95, (4, 5)), RNG.uniform(0.1, 0.9, (4, 5))
W, V = RNG.uniform(0.2, 2, (4, 5)), RNG.uniform(0.2, 2, 5)
# Function, input, target, and further arguments by name.
CASES = {
    "l1_loss": ("l1_loss", X, Y, {}),
    "smooth_l1_loss": ("smooth_l1_loss", X, Y, {}),
    "smooth_l1_loss beta": ("smooth_l1_loss", X, Y, {"beta": 0.4}),
    "smooth_l1_loss 0": ("smooth_l1_loss", X, Y, {"beta": 0.0}),
    "huber_loss": ("huber_loss", X, Y, {"delta": 0.7}),
    "binary_cross_entropy": ("binary_cross_entropy", P, T, {}),
    "binary_cross_entropy weight": ("binary_cross_entropy", P, T, {"weight": W}),
    "with_logits": ("binary_cross_entropy_with_logits", X, T, {}),
    "with_logits weights": (
        "binary_cross_entropy_with_logits",
        X,
        T,
        {"weight": W, "pos_weight": V},
    ),
    "kl_div": ("kl_div", X, T, {}),
    "kl_div log": ("kl_div", X, np.log(T), {"log_target": True}),
}
MODULES = {
    "l1_loss": "L1Loss",
    "smooth_l1_loss": "SmoothL1Loss",
    "huber_loss": "HuberLoss",
    "binary_cross_entropy": "BCELoss",
    "binary_cross_entropy_with_logits": "BCEWithLogitsLoss",
    "kl_div": "KLDivLoss",
}
TWO_GRADIENTS = ("l1_loss", "smooth_l1_loss", "huber_loss")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", list(CASES))
def test_gradient(case, reduction):
    name, x, target, more = CASES[case]
    function = getattr(F, name)
    inputs = [Tensor(x, requires_grad=True)]
    assert gradcheck(lambda v: function(v, target, reduction=reduction, **more), inputs)
    if name in TWO_GRADIENTS:
        inputs.append(Tensor(target, requires_grad=True))
        assert gradcheck(lambda v, t: function(v, t, reduction=reduction, **more), inputs)
    array = function(x, target, reduction=reduction, **more)
    tensor = function(Tensor(x), target, reduction=reduction, **more)
    assert not isinstance(array, Tensor)
    assert not tensor.requires_grad
    np.testing.assert_array_equal(array, tensor.data)


# PyTorch announces that kl_div's mean will be batchmean.
@pytest.mark.filterwarnings("ignore:reduction:UserWarning")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", list(CASES))
def test_pytorch(case, dtype):
    torch = pytest.importorskip("torch")
    name, x, target, more = CASES[case]
    reductions = ["mean", "sum", "none", *(["batchmean"] if name == "kl_div" else [])]
    arrays = {k: a.astype(dtype) if isinstance(a, np.ndarray) else a for k, a in more.items()}
    tensors = {k: torch.tensor(a) if isinstance(a, np.ndarray) else a for k, a in arrays.items()}
    x, target = x.astype(dtype), target.astype(dtype)
    for reduction in reductions:
        mine = Tensor(x, requires_grad=True)
        ours = getattr(nn, MODULES[name])(reduction=reduction, **arrays)
        other = torch.tensor(x, requires_grad=True)
        theirs = getattr(torch.nn, MODULES[name])(reduction=reduction, **tensors)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        loss, expected = ours(mine, target), theirs(other, torch.tensor(target))
        assert loss.dtype == dtype
        rtol = 64 * np.finfo(dtype).eps
        np.testing.assert_allclose(loss.data, expected.detach().numpy(), rtol=rtol, atol=rtol)
        loss.sum().backward()
        expected.sum().backward()
        assert mine.grad.dtype == dtype
        np.testing.assert_allclose(mine.grad, other.grad.numpy(), rtol=rtol, atol=rtol)


def test_by_hand():
    np.testing.assert_array_equal(
        F.huber_loss(np.array([0.5, -3.0]), np.zeros(2), "none", 2.0), [0.125, 4.0]
    )
    np.testing.assert_array_equal(
        F.smooth_l1_loss(np.array([0.5, -3.0]), np.zeros(2), "none", 2.0), [0.0625, 2.0]
    )
    # An error that is certain costs 100, nothing is infinite.
    sure = Tensor(np.array([0.0, 1.0, 0.0, 1.0]), requires_grad=True)
    loss = F.binary_cross_entropy(sure, np.array([0.0, 1.0, 1.0, 0.0]), reduction="none")
    np.testing.assert_array_equal(loss.data, [0, 0, 100, 100])
    loss.sum().backward()
    np.testing.assert_array_equal(sure.grad, [0, 0, -1e12, 1e12])
    far = Tensor(np.array([800.0, -800.0]), requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(far, np.array([0.0, 1.0]), reduction="none")
    np.testing.assert_array_equal(loss.data, [800, 800])
    loss.sum().backward()
    np.testing.assert_array_equal(far.grad, [1, -1])
    np.testing.assert_array_equal(F.kl_div(np.array([-9.0]), np.zeros(1), "none"), [0])


def test_of_nothing():
    empty = np.zeros((0, 3))
    for name in MODULES:
        assert getattr(F, name)(empty, empty, reduction="none").shape == (0, 3)
        assert getattr(F, name)(empty, empty, reduction="sum") == 0
        assert np.isnan(getattr(F, name)(empty, empty))


ONES = np.ones((2, 3))


@pytest.mark.parametrize("name", list(MODULES))
def test_wrong_arguments(name):
    function = getattr(F, name)
    for error, args, message in (
        (ValueError, (ONES, ONES[:1]), r"target: expected shape \(2, 3\) \(as input\), got"),
        (TypeError, (ONES, ONES.astype("f4")), "target: expected float64 .as input., got float32"),
        (TypeError, (ONES.astype(int), ONES), "input: expected a floating dtype, got int64"),
    ):
        with pytest.raises(error, match=rf"\[{name}\] {message}"):
            function(*args)
    with pytest.raises(ValueError, match=rf"\[{name}\] reduction: expected one of none sum mean"):
        function(ONES, ONES, reduction="avg")
    with pytest.raises(ValueError, match=rf"\[{MODULES[name]}\] reduction: expected one of none"):
        getattr(nn, MODULES[name])(reduction="avg")
    if name not in TWO_GRADIENTS:
        with pytest.raises(NotImplementedError, match=rf"\[{name}\] target: a gradient is supp"):
            function(ONES, Tensor(ONES, requires_grad=True))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.smooth_l1_loss(ONES, ONES, beta=-1.0), ValueError, "beta: expected a number"),
        (lambda: F.huber_loss(ONES, ONES, delta=0.0), ValueError, "delta: expected a number above"),
        (lambda: F.binary_cross_entropy(2 * ONES, ONES), ValueError, "input: expected probabilit"),
        (
            lambda: F.binary_cross_entropy(ONES, ONES, np.ones(4)),
            ValueError,
            r"weight: expected a shape that broadcasts to \(2, 3\), got \(4,\)",
        ),
        (
            lambda: F.binary_cross_entropy(ONES, ONES, np.ones(3, "f4")),
            TypeError,
            "weight: expected float64",
        ),
        (
            lambda: F.binary_cross_entropy(ONES, ONES, Tensor(ONES, requires_grad=True)),
            NotImplementedError,
            "weight: a gradient is supported for the input alone",
        ),
        (
            lambda: F.kl_div(np.float64(1), np.float64(1), "batchmean"),
            ValueError,
            "reduction: expected an axis for batchmean",
        ),
    ],
)
def test_other_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
