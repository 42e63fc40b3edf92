"""Tensors of float16 and bfloat16 keep their dtype, forward and backward, and train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import nn, optim
from tolerances import finfo

F = nn.functional

FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "arithmetic": lambda x, w: (x * w + x / w - w) * 2.5 - 1 + 0.5 / x,
    "power": lambda x, w: x**2 + x**1.5 - (-w),
    "reductions": lambda x, w: x.sum(1) + x.mean(1) + x.var(1) + x.max(1) + w.min(),
    "functions": lambda x, w: x.exp() + x.log() + x.sqrt() + x.abs() + x.clip(0.6, 1.5) * w,
    "shapes": lambda x, w: x.reshape(3, 2).T[0] * w[0],
    "activations": lambda x, w: x.tanh() * w + F.gelu(x) + F.silu(w),
    "softmax": lambda x, w: F.log_softmax(x * w, 1),
    "norm": lambda x, w: F.layer_norm(x, 3, w),
    "cross_entropy": lambda x, w: F.cross_entropy(x * w, np.array([0, 2])),
    "mse_loss": lambda x, w: F.mse_loss(x, x * w),
    "huber_loss": lambda x, w: F.huber_loss(x, x * w),
    "l1_loss": lambda x, w: F.l1_loss(x, x * w),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_dtype_is_kept(name: str, half: Any, rng: np.random.Generator) -> None:
    start = [rng.uniform(0.5, 2, (2, 3)).astype(half), rng.uniform(0.5, 2, 3).astype(half)]
    results = []
    for dtype in (half, np.dtype(np.float64)):
        tensors = [ann.Tensor(a.astype(dtype), requires_grad=True) for a in start]
        y = FUNCTIONS[name](*tensors)
        assert y.dtype == dtype
        y.backward(np.ones(y.shape, dtype))
        grads = [np.zeros_like(t.data) if t.grad is None else t.grad for t in tensors]
        assert all(g.dtype == dtype for g in grads)
        results.append([np.asarray(a, np.float64) for a in (y.data, *grads)])
    for got, expected in zip(*results, strict=True):
        # Every operator rounds; there are a dozen at most, of numbers that are a few units large.
        bound = 32 * float(finfo(half).eps) * (1 + np.abs(expected).max())
        np.testing.assert_allclose(got, expected, rtol=0, atol=bound)


def test_means_of_many(half: Any) -> None:
    """Neither sums that would overflow nor sums that would stand still."""
    x = ann.Tensor(np.full(100_000, 3, half), requires_grad=True)
    y = x.mean()
    assert y.data == 3
    assert F.mse_loss(x, ann.Tensor(np.zeros(100_000, half))).data == 9
    bias = ann.Tensor(np.zeros((), half), requires_grad=True)
    (x.detach() + bias).backward(np.full(100_000, 0.25, half))
    assert bias.grad is not None
    assert bias.grad == np.asarray(25_000).astype(half)


def test_a_network_learns(half: Any, rng: np.random.Generator) -> None:
    def make() -> tuple[Any, Any]:
        ann.manual_seed(3)
        model = nn.Sequential(nn.Embedding(6, 32, dtype=half), nn.LayerNorm(32, dtype=half))
        return model, optim.AdamW(model.parameters(), lr=0.05, eps=1e-3)

    model, optimizer = make()
    tokens = rng.integers(0, 6, 64)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(F.gelu(model(tokens)), tokens)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.data))
    assert all(p.dtype == half for p in model.parameters())
    assert losses[-1] < 0.2 * losses[0]


def test_layers_change_their_dtype(half: Any, rng: np.random.Generator) -> None:
    layer = nn.BatchNorm2d(4)
    x = rng.standard_normal((3, 4, 5, 5)).astype(half)
    with pytest.raises(TypeError):
        layer(ann.Tensor(x))
    layer.to(dtype=half)
    assert layer(ann.Tensor(x)).dtype == half
    assert layer.running_mean.dtype == half
    layer.float()
    assert layer(ann.Tensor(x.astype(np.float32))).dtype == np.float32
