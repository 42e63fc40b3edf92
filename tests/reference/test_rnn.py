"""The recurrent references against hand-worked cases, themselves and finite differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arraynn import reference
from rnn_witnesses import keras_gru, keras_lstm
from tolerances import assert_gradient

GATES = {"rnn": 1, "lstm": 4, "gru": 3}


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def make_weights(
    rng: np.random.Generator,
    kind: str,
    features: int,
    hidden: int,
    *,
    layers: int = 1,
    directions: int = 1,
    biases: int = 2,
    projected: int = 0,
) -> list[Any]:
    rows, out = GATES[kind] * hidden, projected or hidden
    found = []
    for layer in range(layers):
        for _ in range(directions):
            width = features if layer == 0 else directions * out
            shapes: list[tuple[int, ...]] = [(rows, width), (rows, out), *[(rows,)] * biases]
            if projected:
                shapes.append((projected, hidden))
            found += [0.7 * rng.standard_normal(shape) for shape in shapes]
    return found


def column(*values: float) -> Any:
    return np.array(values)[:, None]


def test_rnn_by_hand() -> None:
    weights = [column(0.5), column(-2.0), np.array([0.25]), np.array([0.5])]
    y, h_n = reference.rnn(column(1.0, 3.0), weights, column(1.0), nonlinearity="relu")
    # 0.5 - 2 + 0.75 < 0, then 1.5 + 0.75.
    np.testing.assert_array_equal(y, column(0.0, 2.25))
    np.testing.assert_array_equal(h_n, column(2.25))


def test_lstm_by_hand() -> None:
    weights = [column(0.1, 0.2, 0.3, 0.4), column(0.5, -0.6, 0.7, -0.8)]
    weights += [np.array([0.01, 0.02, 0.03, 0.04]), np.array([1.0, 2.0, 3.0, 4.0])]
    peephole = column(0.3, -0.2, 0.9)
    x, h, c = 2.0, 0.5, -1.5
    i = sigmoid(0.2 + 0.25 + 1.01 + 0.3 * c)
    f = sigmoid(0.4 - 0.3 + 2.02 - 0.2 * c)
    g = math.tanh(0.6 + 0.35 + 3.03)
    c_new = f * c + i * g
    o = sigmoid(0.8 - 0.4 + 4.04 + 0.9 * c_new)
    state = (column(h), column(c))
    y, (h_n, c_n) = reference.lstm(column(x), weights, state, peepholes=[peephole])
    np.testing.assert_allclose(c_n, column(c_new), rtol=1e-14)
    np.testing.assert_allclose(h_n, column(o * math.tanh(c_new)), rtol=1e-14)
    np.testing.assert_array_equal(y, h_n)
    _, (_, coupled) = reference.lstm(
        column(x), weights, state, peepholes=[peephole], input_forget=True
    )
    np.testing.assert_allclose(coupled, column(f * c + (1 - f) * g), rtol=1e-14)
    relu = reference.lstm(column(x), weights, state, activation="relu", cell_clip=0.75)[1]
    i, f, g = sigmoid(1.46), sigmoid(2.12), 3.98
    np.testing.assert_array_equal(relu[1], column(0.75))
    assert f * c + i * g > 0.75
    np.testing.assert_allclose(relu[0], column(sigmoid(4.44) * 0.75), rtol=1e-14)
    tight = reference.lstm(column(x), weights, state, clip=0.5)[1]
    np.testing.assert_allclose(
        tight[1], column(sigmoid(0.5) * c + sigmoid(0.5) * math.tanh(0.5)), rtol=1e-14
    )


@pytest.mark.parametrize("reset_after", [True, False])
def test_gru_by_hand(reset_after: bool) -> None:
    weights = [column(0.1, 0.2, 0.3), column(0.5, -0.6, 0.7)]
    weights += [np.array([0.01, 0.02, 0.03]), np.array([1.0, 2.0, 3.0])]
    x, h = 2.0, 0.5
    r, z = sigmoid(0.2 + 0.25 + 1.01), sigmoid(0.4 - 0.3 + 2.02)
    hidden = r * (0.7 * h + 3.0) if reset_after else 0.7 * (r * h) + 3.0
    n = math.tanh(0.6 + 0.03 + hidden)
    y, _ = reference.gru(column(x), weights, column(h), reset_after=reset_after)
    np.testing.assert_allclose(y, column((1 - z) * n + z * h), rtol=1e-14)


def test_keras_conventions(rng: np.random.Generator) -> None:
    x = rng.standard_normal((5, 3))
    kernel, recurrent, bias = (rng.standard_normal(s) for s in ((3, 16), (4, 16), (16,)))
    _, (h_n, c_n) = reference.lstm(x, [kernel.T, recurrent.T, bias])
    h, c = keras_lstm(x, kernel, recurrent, bias)
    np.testing.assert_allclose(h_n[0], h, rtol=1e-12)
    np.testing.assert_allclose(c_n[0], c, rtol=1e-12)
    for after in (True, False):
        kernel, recurrent = rng.standard_normal((3, 12)), rng.standard_normal((4, 12))
        bias = rng.standard_normal((2, 12) if after else 12)
        swap = np.r_[4:8, 0:4, 8:12]
        biases = [b[swap] for b in (bias if after else [bias])]
        weights = [kernel.T[swap], recurrent.T[swap], *biases]
        _, h_n = reference.gru(x, weights, reset_after=after)
        np.testing.assert_allclose(h_n[0], keras_gru(x, kernel, recurrent, bias), rtol=1e-12)


OPTIONS: dict[str, list[dict[str, Any]]] = {
    "rnn": [{"nonlinearity": name} for name in ("tanh", "gelu", "sigmoid")],
    "lstm": [
        {},
        {"activation": "silu", "recurrent_activation": "tanh", "output_activation": "mish"},
        {"input_forget": True, "activation": "gelu_tanh"},
    ],
    "gru": [{}, {"reset_after": False}, {"activation": "mish", "recurrent_activation": "tanh"}],
}


def parts_of(state: Any) -> list[Any]:
    return list(state) if isinstance(state, tuple) else [state]


@given(data=st.data(), kind=st.sampled_from(sorted(GATES)), seed=st.integers(0, 2**16))
def test_gradients(data: st.DataObject, kind: str, seed: int) -> None:
    """Every option combined, each input against directional finite differences."""
    rng = np.random.default_rng(seed)
    draw = data.draw
    steps, batch, features, hidden = draw(st.integers(0, 4)), draw(st.integers(0, 3)), 2, 3
    layers, bidirectional = draw(st.integers(1, 3)), draw(st.booleans())
    options: dict[str, Any] = dict(draw(st.sampled_from(OPTIONS[kind])))
    projected = draw(st.sampled_from([0, 2])) if kind == "lstm" else 0
    directions = 2 if bidirectional else 1
    options |= {"num_layers": layers, "bidirectional": bidirectional}
    options["batch_first"] = draw(st.booleans())
    options["reverse"] = not bidirectional and draw(st.booleans())
    options["clip"] = draw(st.sampled_from([None, 1.5]))
    if draw(st.booleans()):
        options |= {"dropout": 0.4, "seed": seed}
    if draw(st.booleans()):
        options["lengths"] = rng.integers(0, steps + 1, batch)
    if draw(st.booleans()):
        shape = (batch, steps) if options["batch_first"] else (steps, batch)
        options["mask"] = rng.random(shape) < 0.6
    drawn = [name for name in ("recurrent_dropout", "weight_dropout") if draw(st.booleans())]
    options |= dict.fromkeys(drawn, 0.3)
    if drawn or draw(st.booleans()):
        options["seed"] = seed
    options["zoneout"] = draw(st.sampled_from([0.0, 0.4]))
    count = layers * directions
    peepholes: list[Any] = []
    if kind == "lstm":
        options["zoneout_cell"] = draw(st.sampled_from([0.0, 0.3]))
        options["cell_clip"] = draw(st.sampled_from([None, 0.8]))
        if draw(st.booleans()):
            peepholes = [rng.standard_normal((3, hidden)) for _ in range(count)]
    norms: list[Any] = []
    if draw(st.booleans()) and options.get("reset_after", True):
        wide = GATES[kind] * hidden
        sizes = (wide, wide, hidden, hidden)[: 4 if kind == "lstm" else 2]
        norms = [rng.standard_normal(n) for _ in range(count) for n in sizes]
        options["layer_norm_eps"] = 0.1
    weights = make_weights(
        rng, kind, features, hidden, layers=layers, directions=directions,
        biases=draw(st.integers(0, 2)), projected=projected,
    )  # fmt: skip
    shape = (batch, steps) if options["batch_first"] else (steps, batch)
    x = rng.standard_normal((*shape, features))
    states = [rng.standard_normal((count, batch, projected or hidden))]
    if kind == "lstm":
        states.append(rng.standard_normal((count, batch, hidden)))
    inputs = [x, *states, *weights, *peepholes, *norms]
    forward, backward = getattr(reference, kind), getattr(reference, f"{kind}_backward")

    def run(arrays: list[Any]) -> Any:
        own = arrays[1 : 1 + len(states)]
        end = 1 + len(states) + len(weights)
        extra = {"peepholes": arrays[end : end + len(peepholes)]} if peepholes else {}
        if norms:
            extra["layer_norm"] = arrays[len(arrays) - len(norms) :]
        return forward(
            arrays[0], arrays[1 + len(states) : end], tuple(own) if len(own) > 1 else own[0],
            return_workspace=True, **extra, **options,
        )  # fmt: skip

    y, last, workspace = run(inputs)
    slopes = [rng.standard_normal(a.shape) for a in (y, *parts_of(last))]
    grad_x, grad_state, *others = backward(
        slopes[0], tuple(slopes[1:]) if kind == "lstm" else slopes[1], workspace
    )
    grads = [grad_x, *parts_of(grad_state), *(g for group in others for g in group)]
    assert len(grads) == len(inputs)
    for index, grad in enumerate(grads):

        def loss(value: Any, index: int = index) -> float:
            y, last, _ = run([*inputs[:index], value, *inputs[index + 1 :]])
            found = (y, *parts_of(last))
            return sum(float(np.sum(a * b)) for a, b in zip(slopes, found, strict=True))

        # A short step: clipping has kinks that a long one may cross.
        assert_gradient(loss, inputs[index], grad, rng, step=1e-6, label=f"input {index}")


def run_kind(kind: str, x: Any, weights: list[Any], state: Any = None, **options: Any) -> Any:
    return getattr(reference, kind)(x, weights, state, **options)


@pytest.mark.parametrize("kind", sorted(GATES))
class TestSequences:
    def test_lengths_are_samples_alone(self, kind: str, rng: np.random.Generator) -> None:
        lengths = np.array([2, 0, 5, 3])
        weights = make_weights(rng, kind, 3, 4, layers=2, directions=2)
        x = rng.standard_normal((5, 4, 3))
        for b, n in enumerate(lengths):
            x[n:, b] = np.nan
        state: Any = tuple(rng.standard_normal((4, 4, 4)) for _ in range(2))
        state = state if kind == "lstm" else state[0]
        how: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
        y, last, kept = run_kind(
            kind, x, weights, state, lengths=lengths, return_workspace=True, **how
        )
        backward = getattr(reference, f"{kind}_backward")
        slope = np.where(np.arange(5)[:, None, None] < lengths[:, None], 1.0, np.nan)
        grad_x, grad_state, grads = backward(np.broadcast_to(slope, y.shape), None, kept)
        totals = [np.zeros_like(w) for w in weights]
        for b, n in enumerate(lengths):
            alone: Any = tuple(s[:, b] for s in parts_of(state))
            alone = alone if kind == "lstm" else alone[0]
            one, ended, kept = run_kind(
                kind, x[:n, b], weights, alone, return_workspace=True, **how
            )
            np.testing.assert_array_equal(y[n:, b], 0)
            np.testing.assert_allclose(y[:n, b], one, rtol=1e-13)
            for got, expected, first in zip(
                parts_of(last), parts_of(ended), parts_of(alone), strict=True
            ):
                np.testing.assert_allclose(got[:, b], expected, rtol=1e-13)
                if n == 0:
                    np.testing.assert_array_equal(got[:, b], first)
            dx, dstate, dweights = backward(np.ones_like(one), None, kept)
            np.testing.assert_allclose(grad_x[:n, b], dx, rtol=1e-11)
            np.testing.assert_array_equal(grad_x[n:, b], 0)
            for got, expected in zip(parts_of(grad_state), parts_of(dstate), strict=True):
                np.testing.assert_allclose(got[:, b], expected, rtol=1e-11, atol=1e-14)
            for total, part in zip(totals, dweights, strict=True):
                total += part
        for got, expected in zip(grads, totals, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-13)

    def test_reverse_is_time_reversed(self, kind: str, rng: np.random.Generator) -> None:
        weights = make_weights(rng, kind, 3, 4)
        x = rng.standard_normal((6, 2, 3))
        y, last = run_kind(kind, x, weights, reverse=True)
        flipped, expected = run_kind(kind, x[::-1], weights)
        np.testing.assert_array_equal(y, flipped[::-1])
        np.testing.assert_array_equal(parts_of(last)[0], parts_of(expected)[0])
        both, _ = run_kind(kind, x, weights * 2, bidirectional=True)
        np.testing.assert_array_equal(both[..., 4:], y)
        with pytest.raises(ValueError, match="reverse: expected False"):
            run_kind(kind, x, weights * 2, bidirectional=True, reverse=True)

    def test_pieces_with_carried_state(self, kind: str, rng: np.random.Generator) -> None:
        weights = make_weights(rng, kind, 3, 4, layers=2)
        x = rng.standard_normal((7, 2, 3))
        y, last = run_kind(kind, x, weights, num_layers=2)
        state, pieces = None, []
        for piece in (x[:3], x[3:3], x[3:4], x[4:]):
            part, state = run_kind(kind, piece, weights, state, num_layers=2)
            pieces.append(part)
        np.testing.assert_array_equal(np.concatenate(pieces), y)
        for got, expected in zip(parts_of(state), parts_of(last), strict=True):
            np.testing.assert_array_equal(got, expected)

    def test_dropout_is_the_projects_mask(self, kind: str, rng: np.random.Generator) -> None:
        first, second, third = (make_weights(rng, kind, 4, 4) for _ in range(3))
        x = rng.standard_normal((3, 2, 4))
        y, _ = run_kind(kind, x, first + second + third, num_layers=3, dropout=0.3, seed=2**64 - 1)
        for index, weights in enumerate((first, second, third)):
            x, _ = run_kind(kind, x, weights)
            if index < 2:
                x = reference.dropout(x, 0.3, seed=(2**64 - 1, 0)[index])
        np.testing.assert_array_equal(y, x)
        with pytest.raises(ValueError, match="seed: expected an int"):
            run_kind(kind, x, first + second, num_layers=2, dropout=0.3)

    def test_a_cell_is_one_step(self, kind: str, rng: np.random.Generator) -> None:
        weights = make_weights(rng, kind, 3, 4)
        x = rng.standard_normal((1, 2, 3))
        pair = tuple(rng.standard_normal((1, 2, 4)) for _ in range(2))
        state: Any = pair if kind == "lstm" else pair[0]
        step: Any = (pair[0][0], pair[1][0]) if kind == "lstm" else pair[0][0]
        y, last, kept = run_kind(kind, x, weights, state, return_workspace=True)
        new, cell_kept = getattr(reference, f"{kind}_cell")(
            x[0], weights, step, return_workspace=True
        )
        for got, expected in zip(parts_of(new), parts_of(last), strict=True):
            np.testing.assert_array_equal(got, expected[0])
        alone = getattr(reference, f"{kind}_cell")(
            x[0, 1], weights, tuple(s[1] for s in step) if kind == "lstm" else step[1]
        )
        np.testing.assert_allclose(parts_of(alone)[0], parts_of(new)[0][1], rtol=1e-13)
        slope: Any = tuple(rng.standard_normal((1, 2, 4)) for _ in range(2))
        slope = slope if kind == "lstm" else slope[0]
        grads = getattr(reference, f"{kind}_backward")(None, slope, kept)
        cell_slope = tuple(s[0] for s in slope) if kind == "lstm" else slope[0]
        cell_grads = getattr(reference, f"{kind}_cell_backward")(cell_slope, cell_kept)
        np.testing.assert_array_equal(cell_grads[0], grads[0][0])
        for got, expected in zip(parts_of(cell_grads[1]), parts_of(grads[1]), strict=True):
            np.testing.assert_array_equal(got, expected[0])
        for got, expected in zip(cell_grads[2], grads[2], strict=True):
            np.testing.assert_array_equal(got, expected)
        assert kept.nbytes > 0
        assert y.shape == (1, 2, 4)

    @pytest.mark.parametrize("kind_of_float", [np.float16, np.float32, np.longdouble])
    def test_dtype_is_kept(self, kind: str, kind_of_float: Any, rng: np.random.Generator) -> None:
        weights = [w.astype(kind_of_float) for w in make_weights(rng, kind, 3, 4, layers=2)]
        x = rng.standard_normal((3, 2, 3)).astype(kind_of_float)
        y, last, kept = run_kind(
            kind, x, weights, num_layers=2, clip=1.0, dropout=0.5, seed=1, return_workspace=True
        )
        grad_x, grad_state, grads = getattr(reference, f"{kind}_backward")(y, None, kept)
        for a in (y, *parts_of(last), grad_x, *parts_of(grad_state), *grads):
            assert a.dtype == kind_of_float

    def test_wrong_weights(self, kind: str, rng: np.random.Generator) -> None:
        weights = make_weights(rng, kind, 3, 4)
        x = rng.standard_normal((3, 2, 3))
        for wrong in (weights[:1], [*weights, weights[2]], [weights[0], weights[1][:, 1:]]):
            with pytest.raises(ValueError, match="weights: expected"):
                run_kind(kind, x, wrong)
        with pytest.raises(ValueError, match="lengths: expected"):
            run_kind(kind, x, weights, lengths=[1, 4])


@pytest.mark.parametrize("kind", sorted(GATES))
def test_a_mask_is_keras(kind: str, rng: np.random.Generator) -> None:
    # Keras: a step whose mask is False leaves output and state as they are.
    x, weights = rng.standard_normal((6, 2, 3)), make_weights(rng, kind, 3, 4)
    mask = np.array([[0, 1], [1, 1], [0, 0], [0, 1], [1, 0], [0, 1]], bool)
    x[~mask] = np.nan
    y, last = run_kind(kind, x, weights, mask=mask)
    for b in range(2):
        state: Any = None
        expected = np.zeros(4)
        for t in range(6):
            if mask[t, b]:
                state = getattr(reference, f"{kind}_cell")(x[t, b], weights, state)
                expected = parts_of(state)[0]
            np.testing.assert_allclose(y[t, b], expected, rtol=1e-13)
        for got, part in zip(parts_of(last), parts_of(state), strict=True):
            np.testing.assert_allclose(got[0, b], part, rtol=1e-13)
    turned, _ = run_kind(kind, x.swapaxes(0, 1), weights, mask=mask.T, batch_first=True)
    np.testing.assert_array_equal(turned.swapaxes(0, 1), y)


def test_recurrent_dropout_by_hand(rng: np.random.Generator) -> None:
    # One mask for all steps; the state itself, and what a GRU blends with, stays whole.
    x, seed = rng.standard_normal((5, 2, 3)), 11
    factors = reference.dropout(np.ones((2, 4)), 0.4, seed=seed + 2**32)
    assert len(np.unique(factors)) == 2
    w_ih, w_hh = make_weights(rng, "rnn", 3, 4, biases=0)
    y, _ = reference.rnn(x, [w_ih, w_hh], recurrent_dropout=0.4, seed=seed)
    h = np.zeros((2, 4))
    for t in range(5):
        h = np.tanh(x[t] @ w_ih.T + (h * factors) @ w_hh.T)
        np.testing.assert_allclose(y[t], h, rtol=1e-12)
    w_ih, w_hh = make_weights(rng, "gru", 3, 4, biases=0)
    y, _ = reference.gru(x, [w_ih, w_hh], recurrent_dropout=0.4, seed=seed)
    h = np.zeros((2, 4))
    for t in range(5):
        a, b = np.split(x[t] @ w_ih.T, 3, axis=1), np.split((h * factors) @ w_hh.T, 3, axis=1)
        r, z = (1 / (1 + np.exp(-a[k] - b[k])) for k in range(2))
        h = (1 - z) * np.tanh(a[2] + r * b[2]) + z * h
        np.testing.assert_allclose(y[t], h, rtol=1e-12)
    y, _ = reference.gru(x, [w_ih, w_hh], weight_dropout=0.5, seed=seed)
    dropped = reference.dropout(w_hh, 0.5, seed=seed + 4 * 2**32)
    np.testing.assert_array_equal(y, reference.gru(x, [w_ih, dropped])[0])


@pytest.mark.parametrize("seed", [None, 2**64 - 1])
def test_zoneout_by_hand(seed: int | None, rng: np.random.Generator) -> None:
    # Krueger et al. 2017, equations 3 and 4; h reads the cell before it is blended.
    x, weights = rng.standard_normal((5, 2, 3)), make_weights(rng, "lstm", 3, 4)
    y, (_, c_n), cells = reference.lstm(
        x, weights, zoneout=0.3, zoneout_cell=0.6, seed=seed, return_cells=True
    )
    shape = (5, 2, 4)
    old_h, old_c = np.full(shape, 0.3), np.full(shape, 0.6)
    if seed is not None:
        streams = ((seed + k * 2**32) % 2**64 for k in (2, 3))
        old_h, old_c = (
            1.0 - (reference.dropout(np.ones(shape), p, seed=s) != 0)
            for p, s in zip((0.3, 0.6), streams, strict=True)
        )
        assert 0 < old_h.mean() < 0.6 < 2 * old_c.mean()
    h = c = np.zeros((2, 4))
    for t in range(5):
        new_h, new_c = reference.lstm_cell(x[t], weights, (h, c))
        h = old_h[t] * h + (1 - old_h[t]) * new_h
        c = old_c[t] * c + (1 - old_c[t]) * new_c
        np.testing.assert_allclose(y[t], h, rtol=1e-12)
        np.testing.assert_allclose(cells[t], c, rtol=1e-12)
    np.testing.assert_array_equal(c_n[0], cells[-1])


def test_all_cells(rng: np.random.Generator) -> None:
    weights = make_weights(rng, "lstm", 3, 4, projected=2)
    x = rng.standard_normal((5, 2, 3))
    y, (_, c_n), cells = reference.lstm(x, weights, return_cells=True, lengths=[5, 3])
    assert y.shape == (5, 2, 2)
    assert cells.shape == (5, 2, 4)
    np.testing.assert_array_equal(cells[[4, 2], [0, 1]], c_n[0])
    np.testing.assert_array_equal(cells[3:, 1], 0)
    _, (_, half) = reference.lstm(x[:2], weights)
    np.testing.assert_array_equal(cells[1], half[0])
