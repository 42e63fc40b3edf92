"""The norms' reference: worked by hand, against PyTorch and against ONNX' node cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from onnx_nodes import attributes_of, node_cases

LAYOUTS = ("channels_first", "channels_last")


def test_by_hand() -> None:
    # Mean 2, variance 1; mean 4, variance 16.
    x = np.array([[[1.0, 3.0], [0.0, 8.0]]])
    np.testing.assert_allclose(reference.instance_norm(x, eps=0.0), [[[-1, 1], [-1, 1]]])
    w, b = np.array([2.0, -1.0]), np.array([0.0, 10.0])
    y = reference.instance_norm(x, None, None, w, b, eps=0.0, activation="relu")
    np.testing.assert_allclose(y, [[[0, 2], [11, 9]]])
    # All four: mean 3, variance (4 + 0 + 9 + 25) / 4.
    y, mean, rstd = reference.group_norm(x, 1, eps=0.5, return_stats=True)
    np.testing.assert_allclose(rstd, [[10**-0.5]])
    np.testing.assert_allclose(mean, [[3]])
    np.testing.assert_allclose(y[0], [[-2 / 10**0.5, 0], [-3 / 10**0.5, 5 / 10**0.5]])
    # x / sqrt((9 + 16) / 2).
    y = reference.rms_norm(np.array([3.0, 4.0]), 2, np.array([1.0, 2.0]), 0.0)
    np.testing.assert_allclose(y, [3 / 12.5**0.5, 8 / 12.5**0.5])


def test_running_statistics_by_hand() -> None:
    # Samples of one position: mean 2, unbiased variance 2.
    x = np.array([[1.0], [3.0]])
    mean, var = np.array([10.0]), np.array([4.0])
    reference.batch_norm(x, mean, var, training=True, momentum=0.25)
    np.testing.assert_allclose([mean[0], var[0]], [8.0, 3.5])
    np.testing.assert_allclose(reference.batch_norm(x, mean, var, eps=0.5), (x - 8) / 2)
    # Instances: means 2 and 4, unbiased variances 2 and 32.
    x = np.array([[[1.0, 3.0]], [[0.0, 8.0]]])
    mean, var = np.array([1.0]), np.array([1.0])
    reference.instance_norm(x, mean, var, momentum=0.5)
    np.testing.assert_allclose([mean[0], var[0]], [2.0, 9.0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_torch_agrees(layout: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    x = 2 * rng.standard_normal((3, 6, 4, 5)) + 1
    w, b, mean = rng.standard_normal((3, 6))
    var = rng.uniform(0.5, 2, 6)
    g = rng.standard_normal(x.shape)

    def move(a: Any) -> Any:
        return np.ascontiguousarray(np.moveaxis(a, 1, -1)) if layout == "channels_last" else a

    for name in ("batch_norm", "instance_norm", "group_norm"):
        for own in (True, False):
            leaves = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
            theirs = [torch.tensor(mean), torch.tensor(var)]
            running: Any = (mean.copy(), var.copy())
            forward, backward = (getattr(reference, name + s) for s in ("", "_backward"))
            if name == "group_norm":
                y = f.group_norm(leaves[0], 3, leaves[1], leaves[2])
                got = forward(move(x), 3, w, b, layout=layout)
                grads = backward(move(g), move(x), 3, w, layout=layout)
            else:
                y = getattr(f, name)(leaves[0], *theirs, leaves[1], leaves[2], own, 0.3)
                got = forward(move(x), *running, w, b, own, 0.3, layout=layout)
                grads = backward(move(g), move(x), *running, w, own, layout=layout)
                if own:
                    np.testing.assert_allclose(running[0], theirs[0], rtol=1e-12)
                    np.testing.assert_allclose(running[1], theirs[1], rtol=1e-12)
            expected = torch.autograd.grad(y, leaves, torch.tensor(g))
            np.testing.assert_allclose(got, move(y.detach().numpy()), rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(grads[0], move(expected[0].numpy()), rtol=1e-9, atol=1e-11)
            np.testing.assert_allclose(grads[1], expected[1], rtol=1e-10, atol=1e-11)
            np.testing.assert_allclose(grads[2], expected[2], rtol=1e-10, atol=1e-11)


def test_torch_agrees_on_rows(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    x, g = 2 * rng.standard_normal((2, 5, 3, 4)) + 1
    w, b = rng.standard_normal((2, 3, 4))
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
    y = f.layer_norm(leaves[0], (3, 4), leaves[1], leaves[2])
    got = reference.layer_norm(x, (3, 4), w, b)
    np.testing.assert_allclose(got, y.detach(), rtol=1e-10, atol=1e-12)
    expected = torch.autograd.grad(y, leaves, torch.tensor(g))
    for a, e in zip(reference.layer_norm_backward(g, x, (3, 4), w), expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-11)
    for eps in (None, 0.1):
        y = f.rms_norm(leaves[0], (3, 4), leaves[1], eps)
        got = reference.rms_norm(x, (3, 4), w, eps)
        np.testing.assert_allclose(got, y.detach(), rtol=1e-10, atol=1e-12)
        expected = torch.autograd.grad(y, leaves[:2], torch.tensor(g))
        for a, e in zip(reference.rms_norm_backward(g, x, (3, 4), w, eps), expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-11)


# ---- ONNX --------------------------------------------------------------------------------


def onnx_call(module: Any, op: str, options: dict[str, Any], inputs: list[Any]) -> list[Any]:
    """Compute the outputs of an ONNX node that we have."""
    x, *rest = inputs
    eps = options.get("epsilon", 1e-5)
    if op in ("LayerNormalization", "RMSNormalization"):
        shape = x.shape[options.get("axis", -1) :]
        rest = [v.reshape(shape) for v in rest]
        if op == "RMSNormalization":
            return [module.rms_norm(x, shape, *rest, eps)]
        y, mean, rstd = module.layer_norm(x, shape, *rest, eps=eps, return_stats=True)
        tail = (1,) * len(shape)
        return [y, *(s.reshape(*s.shape, *tail).astype(np.float32) for s in (mean, rstd))]
    if op == "InstanceNormalization":
        return [module.instance_norm(x, None, None, *rest, eps=eps)]
    if op == "GroupNormalization":
        return [module.group_norm(x, options["num_groups"], *rest, eps)]
    weight, bias, mean, var = rest
    training = bool(options.get("training_mode", 0))
    momentum = 1 - options.get("momentum", 0.9)  # ONNX' is what is kept
    mean, var, before = mean.copy(), var.copy(), var.copy()
    y = module.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
    if not training:
        return [y]
    # ONNX moves the running variance towards the biased one.
    count = x.size // x.shape[1]
    biased = (1 - momentum) * before + (var - (1 - momentum) * before) * (count - 1) / count
    return [y, mean, biased]


@pytest.mark.parametrize(
    ("op", "module", "published"),
    [
        ("LayerNormalization", "layernormalization", 19),
        ("RMSNormalization", "rmsnormalization", 19),
        ("BatchNormalization", "batch_normalization", 4),
        ("InstanceNormalization", "instance_normalization", 2),
        ("GroupNormalization", "groupnormalization", 2),
    ],
)
def test_onnx_node_cases(op: str, module: str, published: int) -> None:
    pytest.importorskip("onnx")
    cases = node_cases(**{module: op})
    assert len(cases) >= published
    for name, case in cases.items():
        ((inputs, outputs),) = case.data_sets
        for functions in (reference, kernels):
            got = onnx_call(functions, op, attributes_of(case), list(inputs))
            assert len(got) >= (1 if op == "RMSNormalization" else len(outputs))
            for a, e in zip(got, outputs, strict=False):
                # The tolerance of ONNX' own backend tests.
                np.testing.assert_allclose(a, e, rtol=1e-3, atol=1e-7, err_msg=name)
