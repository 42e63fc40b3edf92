"""`nn.utils.pack_weights`: layers give the same bits, and no change of a weight is missed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import nn
from arraynn.nn.utils import pack_weights, unpack_weights


def network() -> Any:
    ann.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 24, 1, bias=False),
        nn.Conv2d(24, 24, 3, padding=1, groups=24),
        nn.ConvTranspose2d(24, 8, 2, stride=2),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(8 * 64, 10, bias=False),
    ).eval()


def images() -> Any:
    return np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)


def run(model: Any, x: Any) -> Any:
    with ann.no_grad():
        return model(ann.Tensor(x)).data


def test_same_bits_and_same_types() -> None:
    model, x = network(), images()
    expected = run(model, x)
    assert pack_weights(model) is model
    for _ in range(2):
        assert np.array_equal(run(model, x), expected)
    for layer in (nn.Linear(4, 3, bias=False), nn.Conv1d(2, 3, 2, bias=False)):
        x = np.ones((2, 4) if isinstance(layer, nn.Linear) else (1, 2, 4), np.float32)
        with ann.no_grad():
            before = layer(x)
            after = pack_weights(layer.eval())(x)
        assert type(before) is type(after) is ann.Tensor
        assert np.array_equal(before.data, after.data)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("steps", [1, 5])
def test_recurrent_layers(name: str, steps: int) -> None:
    layer = getattr(nn, name)(5, 20, 2, bidirectional=True, dropout=0.3).eval()
    cell = getattr(nn, name + "Cell")(5, 20).eval()
    x = np.random.default_rng(1).standard_normal((steps, 3, 5)).astype(np.float32)

    def call() -> list[Any]:
        with ann.no_grad():
            y, last = layer(ann.Tensor(x))
            step = cell(ann.Tensor(x[0]))
        parts = [last, step]
        return [y.data] + [
            t.data for part in parts for t in (part if isinstance(part, tuple) else (part,))
        ]

    expected = call()
    pack_weights(layer)
    pack_weights(cell)
    held = [module._packed.data.nbytes for module in (layer, cell)]
    for _ in range(2):
        for a, b in zip(call(), expected, strict=True):
            assert np.array_equal(a, b)
    for module, former in zip((layer, cell), held, strict=True):
        assert module._packed.data.nbytes > former
    y, _ = layer(ann.Tensor(x))  # recorded, with the weights themselves
    y.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    with pytest.raises(ValueError, match="read-only"):
        layer.weight_hh_l1.data[0, 0] = 1
    layer.weight_ih_l1.data = layer.weight_ih_l1.data * 0
    assert not np.array_equal(call()[0], expected[0])
    assert layer._packed is None


def test_packed_weights_are_used() -> None:
    layer = pack_weights(nn.Linear(4, 3).eval())
    assert layer.packed_weight() is layer.weight  # gradients are recorded
    with ann.no_grad():
        packed = layer.packed_weight().data
        held = packed.nbytes
        layer(ann.Tensor(np.ones((2, 4), np.float32)))
    assert packed.nbytes > held  # the call made its panels


def test_gradients_come_from_the_weights() -> None:
    model, x = pack_weights(network()), images()
    model(ann.Tensor(x)).sum().backward()
    packed = [p.grad.copy() for p in model.parameters()]
    model.zero_grad()
    unpack_weights(model)(ann.Tensor(x)).sum().backward()
    for got, parameter in zip(packed, model.parameters(), strict=True):
        assert np.array_equal(got, parameter.grad)


def test_writes_are_refused_while_packed() -> None:
    layer = pack_weights(nn.Linear(4, 3).eval())
    with pytest.raises(ValueError, match="read-only"):
        layer.weight.data[0, 0] = 1
    layer.bias.data[0] = 1  # is not packed
    unpack_weights(layer).weight.data[0, 0] = 1


def test_an_optimizer_is_refused_while_packed() -> None:
    layer = pack_weights(nn.Linear(4, 3).eval())
    optimizer = ann.optim.Adam(layer.parameters(), lr=0.1)
    layer(ann.Tensor(np.ones((2, 4), np.float32))).sum().backward()
    before = layer.weight.data.copy()
    with pytest.raises(ValueError, match=r"param.*writ"):
        optimizer.step()
    assert np.array_equal(layer.weight.data, before)
    layer.train()
    optimizer.step()
    assert not np.array_equal(layer.weight.data, before)


@pytest.mark.parametrize("change", ["train", "load", "assign", "parameter", "double"])
def test_changes_are_seen(change: str) -> None:
    x = np.ones((2, 4), np.float64 if change == "double" else np.float32)
    layer, other = pack_weights(nn.Linear(4, 3).eval()), nn.Linear(4, 3)
    expected = run(other.double() if change == "double" else other, x)
    if change == "train":
        layer.train().eval()
        layer.weight.data[...], layer.bias.data[...] = other.weight.data, other.bias.data
    elif change == "load":
        layer.load_state_dict(other.state_dict())
    elif change == "assign":
        layer.weight.data, layer.bias.data = other.weight.data, other.bias.data
    elif change == "parameter":
        layer.weight, layer.bias = other.weight, other.bias
    else:
        layer.double().load_state_dict(other.state_dict())
    assert np.array_equal(run(layer, x), expected)


def test_copies_start_unpacked() -> None:
    model, x = pack_weights(network()), images()
    twin = copy.deepcopy(model)
    assert np.array_equal(run(twin, x), run(model, x))
    twin[0].weight.data[...] = 0
    assert not np.array_equal(run(twin, x), run(model, x))
    assert list(twin.state_dict()) == list(model.state_dict())


def test_training_mode_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"\[pack_weights\] module: expected evaluation mode"):
        pack_weights(nn.Linear(2, 2))
