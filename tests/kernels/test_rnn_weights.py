"""Weights of recurrent layers between layouts: the same function in each, and back again."""

from __future__ import annotations

import doctest
import itertools
from typing import Any

import numpy as np
import pytest

from arraynn import reference
from arraynn.kernels import convert_rnn_weights
from rnn_witnesses import ONNX_CASES, keras_gru, keras_lstm

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
LAYOUTS = ("torch", "keras", "onnx", "cudnn")


def torch_weights(
    cell: str, biases: int = 2, groups: int = 4, directions: int = 2, projected: int = 0
) -> list[Any]:
    """Weights of two layers in two directions: 3 features, 5 units."""
    rng = np.random.default_rng(7)
    rows, out = GATES[cell] * 5, projected or 5
    found: list[Any] = []
    for index in range(groups):
        width = 3 if index < directions else directions * out
        shapes: list[tuple[int, ...]] = [(rows, width), (rows, out), *[(rows,)] * biases]
        shapes += [(projected, 5)] * (projected > 0)
        found += [rng.standard_normal(shape) for shape in shapes]
    return found


@pytest.mark.parametrize("cell", sorted(GATES))
@pytest.mark.parametrize("biases", [0, 2])
@pytest.mark.parametrize("way", list(itertools.permutations(LAYOUTS)), ids="-".join)
def test_round_trips(cell: str, biases: int, way: tuple[str, ...]) -> None:
    """Through every layout in every order; Keras' single bias keeps the sum alone."""
    weights = torch_weights(cell, biases)
    if biases and cell != "gru":
        for index, w in enumerate(weights):
            if index % 4 == 3:
                w[...] = 0
    found = weights
    for src, dst in itertools.pairwise(("torch", *way, "torch")):
        found = convert_rnn_weights(found, cell, src=src, dst=dst, bidirectional=True)
    assert len(found) == len(weights)
    for got, expected in zip(found, weights, strict=True):
        np.testing.assert_array_equal(got, expected)
        assert got.flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_copies_of_the_same_dtype(dtype: Any) -> None:
    weights = [w.astype(dtype) for w in torch_weights("gru")]
    for layout in LAYOUTS:
        found = convert_rnn_weights(weights, "gru", src="torch", dst=layout, bidirectional=True)
        for w in found:
            assert w.dtype == dtype
            assert not any(np.shares_memory(w, own) for own in weights)


def test_projection_goes_to_cudnn_and_back() -> None:
    weights = torch_weights("lstm", projected=2)
    there = convert_rnn_weights(weights, "lstm", src="torch", dst="cudnn")
    assert [w.shape for w in there[:9]] == [(5, 3)] * 4 + [(5, 2)] * 4 + [(2, 5)]
    np.testing.assert_array_equal(there[6], weights[1][10:15])
    back = convert_rnn_weights(there, "lstm", src="cudnn", dst="torch")
    for got, expected in zip(back, weights, strict=True):
        np.testing.assert_array_equal(got, expected)
    for dst in ("keras", "onnx"):
        with pytest.raises(ValueError, match=f"expected no projection, which {dst} does not have"):
            convert_rnn_weights(weights, "lstm", src="torch", dst=dst)


def test_keras_lstm_by_hand() -> None:
    rng = np.random.default_rng(1)
    shapes = ((6, 3), (3, 20), (5, 20), (20,))
    x, kernel, recurrent, bias = (rng.standard_normal(shape) for shape in shapes)
    weights = convert_rnn_weights([kernel, recurrent, bias], "lstm", src="keras", dst="torch")
    assert [w.shape for w in weights] == [(20, 3), (20, 5), (20,), (20,)]
    y, (h_n, c_n) = reference.lstm(x, weights)
    h, c = keras_lstm(x, kernel, recurrent, bias)
    np.testing.assert_allclose(h_n[0], h, rtol=1e-12)
    np.testing.assert_allclose(c_n[0], c, rtol=1e-12)
    np.testing.assert_array_equal(y[-1], h_n[0])
    torch_bias = torch_weights("lstm", groups=1)
    kernel, recurrent, bias = convert_rnn_weights(torch_bias, "lstm", src="torch", dst="keras")
    np.testing.assert_allclose(
        reference.lstm(x, torch_bias)[1][0][0],
        keras_lstm(x, kernel, recurrent, bias)[0],
        rtol=1e-12,
    )


@pytest.mark.parametrize("reset_after", [True, False])
def test_keras_gru_by_hand(reset_after: bool) -> None:
    rng = np.random.default_rng(2)
    shapes = ((6, 3), (3, 15), (5, 15), (2, 15) if reset_after else (15,))
    x, kernel, recurrent, bias = (rng.standard_normal(shape) for shape in shapes)
    how: dict[str, Any] = {"reset_after": reset_after}
    keras = [kernel, recurrent, bias]
    weights = convert_rnn_weights(keras, "gru", src="keras", dst="torch", **how)
    _, h_n = reference.gru(x, weights, reset_after=reset_after)
    np.testing.assert_allclose(h_n[0], keras_gru(x, kernel, recurrent, bias), rtol=1e-12)
    ours = torch_weights("gru", groups=1)
    kernel, recurrent, bias = convert_rnn_weights(ours, "gru", src="torch", dst="keras", **how)
    assert bias.shape == shapes[-1]
    np.testing.assert_allclose(
        reference.gru(x, ours, reset_after=reset_after)[1][0],
        keras_gru(x, kernel, recurrent, bias),
        rtol=1e-12,
    )


def test_one_bias_becomes_the_first_of_two() -> None:
    weights = torch_weights("gru", biases=1, groups=1)
    (_, _, bias) = convert_rnn_weights(weights, "gru", src="torch", dst="keras")
    np.testing.assert_array_equal(bias[1], 0)
    both = convert_rnn_weights(weights, "gru", src="torch", dst="onnx")[2]
    np.testing.assert_array_equal(both[0, 15:], 0)
    np.testing.assert_array_equal(both[0, :5], weights[2][5:10])
    cudnn = convert_rnn_weights(weights, "gru", src="torch", dst="cudnn")
    assert [w.ndim for w in cudnn] == [2] * 6 + [1] * 3


def test_onnx_cases_through_the_converter() -> None:
    pytest.importorskip("onnx")
    tried = 0
    for name, case in ONNX_CASES.items():
        (node,) = case.model.graph.node
        ((inputs, outputs),) = case.data_sets
        options = {a.name for a in node.attribute}
        if "layout" in options or "P" in node.input:
            continue
        given = dict(zip([n for n in node.input if n], inputs, strict=True))
        both = len(given["W"]) == 2
        cell = node.op_type.lower()
        weights = convert_rnn_weights(
            [given[k] for k in "WRB" if k in given], cell, src="onnx", dst="torch",
            bidirectional=both,
        )  # fmt: skip
        how: dict[str, Any] = {"reset_after": False} if cell == "gru" else {}
        how |= {"bidirectional": both, "reverse": "direction" in options and not both}
        _, last = getattr(reference, cell)(given["X"], weights, **how)
        found = last[0] if cell == "lstm" else last
        expected = dict(zip([n for n in node.output if n], outputs, strict=True))["Y_h"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=name)
        tried += 1
    assert tried == 14


def test_a_torch_module_takes_what_keras_had() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    keras = [rng.standard_normal(s) for s in ((3, 20), (5, 20), (20,))]
    module = torch.nn.LSTM(3, 5, dtype=torch.float64)
    weights = convert_rnn_weights(keras, "lstm", src="keras", dst="torch")
    names = list(module.state_dict())
    module.load_state_dict(
        {name: torch.from_numpy(w) for name, w in zip(names, weights, strict=True)}
    )
    x = rng.standard_normal((4, 3))
    _, (h_n, _) = module(torch.from_numpy(x))
    np.testing.assert_allclose(h_n[0].detach().numpy(), keras_lstm(x, *keras)[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ([], {"cell": "mgu"}, r"cell: expected one of rnn lstm gru, got 'mgu'"),
        ([], {"src": "mxnet"}, r"src: expected one of torch keras onnx cudnn, got 'mxnet'"),
        ([], {"dst": "mxnet"}, r"dst: expected one of torch keras onnx cudnn, got 'mxnet'"),
        ([(20, 3)], {}, r"weights: expected w_ih and w_hh of two axes each, got \[\(20, 3\)\]"),
        ([(21, 3), (21, 5)], {}, r"weights: expected arrays of a lstm in torch's layout"),
        ([(20, 3), (20, 5), (19,)], {}, r"that fit each other, got .*\(19,\)\]"),
        ([(20, 3), (20, 5), *[(20,)] * 3], {}, r"that fit each other, got .*\(20,\)\]"),
        ([(3, 21), (5, 20)], {"src": "keras"}, r"expected 4 gates of equal size \(lstm\), got 21"),
        ([(20, 3), (20, 5)], {"src": "onnx"}, r"expected W and R of three axes each"),
        ([(2, 20, 3), (2, 20, 5)], {"src": "onnx"}, r"expected arrays of 1 directions, got"),
        ([(1, 20, 3), (1, 20, 5), (1, 15)], {"src": "onnx"}, r"expected B \(1, 40\), got \(1, 15"),
        ([(5, 3)] * 7, {"src": "cudnn"}, r"expected 8 matrices of two axes each"),
        (
            [*[(5, 3)] * 4, *[(5, 5)] * 4, (5,)],
            {"src": "cudnn"},
            r"expected biases in multiples of 4, got 1 of them",
        ),
        (
            [(20, 3), (20, 5)],
            {"dst": "onnx", "bidirectional": True},
            r"expected two directions of every layer, got 1 groups",
        ),
        ([()], {}, r"expected arrays of at least one axis, got \(\)"),
    ],
)
def test_wrong_calls(weights: list[tuple[int, ...]], options: dict[str, Any], message: str) -> None:
    arguments = {"cell": "lstm", "src": "torch", "dst": "keras", **options}
    with pytest.raises(ValueError, match=r"\[convert_rnn_weights\] " + ".*" + message):
        convert_rnn_weights([np.zeros(shape) for shape in weights], **arguments)


def test_documented_example_runs() -> None:
    (test,) = doctest.DocTestFinder(recurse=False).find(convert_rnn_weights)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0
