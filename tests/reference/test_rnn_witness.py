"""PyTorch and ONNX' own node cases as witnesses of the recurrent references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import reference
from rnn_witnesses import onnx_cases


def arrays_of(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value]


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize(
    ("layers", "bidirectional", "batch_first", "bias", "projected"),
    [
        (1, False, False, True, 0),
        (1, False, True, False, 2),
        (2, True, True, True, 0),
        (2, True, False, True, 3),
        (3, False, False, False, 0),
    ],
)
def test_torch(
    kind: str,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
    bias: bool,
    projected: int,
    rng: np.random.Generator,
) -> None:
    torch = pytest.importorskip("torch")
    how = {"bidirectional": bidirectional, "batch_first": batch_first}
    extra = {"proj_size": projected} if kind == "lstm" else {}
    out = projected if kind == "lstm" and projected else 5
    module = getattr(torch.nn, kind.upper())(
        4, 5, layers, bias=bias, dtype=torch.float64, **how, **extra
    )
    weights = [w.detach().numpy() for w in module._flat_weights]
    x = rng.standard_normal((6, 3, 4))
    count, batch = layers * (1 + bidirectional), 6 if batch_first else 3
    states = [rng.standard_normal((count, batch, out))]
    if kind == "lstm":
        states.append(rng.standard_normal((count, batch, 5)))
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, *states)]
    state: Any = tuple(states) if kind == "lstm" else states[0]
    ty, tlast = module(leaves[0], tuple(leaves[1:]) if kind == "lstm" else leaves[1])
    y, last, kept = getattr(reference, kind)(
        x, weights, state, num_layers=layers, return_workspace=True, **how
    )
    outputs = [ty, *arrays_of(tlast)]
    for got, expected in zip([y, *arrays_of(last)], outputs, strict=True):
        np.testing.assert_allclose(got, expected.detach().numpy(), rtol=1e-10, atol=1e-12)
    slopes = [rng.standard_normal(o.shape) for o in outputs]
    torch.autograd.backward(outputs, [torch.from_numpy(s) for s in slopes])
    grad_x, grad_state, grads = getattr(reference, f"{kind}_backward")(
        slopes[0], tuple(slopes[1:]) if kind == "lstm" else slopes[1], kept
    )
    tensors = [*leaves, *module._flat_weights]
    for got, tensor in zip([grad_x, *arrays_of(grad_state), *grads], tensors, strict=True):
        np.testing.assert_allclose(got, tensor.grad.numpy(), rtol=1e-9, atol=1e-11)


def test_torch_packed_sequences(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    lengths = [2, 6, 3]
    module = torch.nn.LSTM(4, 5, 2, bidirectional=True, dtype=torch.float64)
    x = rng.standard_normal((6, 3, 4))
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.from_numpy(x), lengths, enforce_sorted=False
    )
    out, (th, tc) = module(packed)
    ty, _ = torch.nn.utils.rnn.pad_packed_sequence(out)
    weights = [w.detach().numpy() for w in module._flat_weights]
    y, (h_n, c_n) = reference.lstm(
        x, weights, num_layers=2, bidirectional=True, lengths=np.array(lengths)
    )
    for got, expected in ((y, ty), (h_n, th), (c_n, tc)):
        np.testing.assert_allclose(got, expected.detach().numpy(), rtol=1e-10, atol=1e-12)


#: Blocks of rows of ONNX' weights in our order: LSTM i o f c, GRU z r h, peepholes i o f.
ONNX_ROWS = {"RNN": [0], "LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2]}


def test_onnx_node_cases() -> None:
    pytest.importorskip("onnx")
    cases = onnx_cases()
    assert len(cases) == 18
    for name, case in cases.items():
        (node,) = case.model.graph.node
        options = {a.name: a.s.decode() if a.s else a.i for a in node.attribute}
        assert set(options) <= {"hidden_size", "layout", "direction"}, name
        hidden, kind = options["hidden_size"], node.op_type
        (inputs, outputs), *rest = case.data_sets
        assert not rest, name
        given = dict(zip([n for n in node.input if n], inputs, strict=True))
        order = np.concatenate([np.arange(hidden) + k * hidden for k in ONNX_ROWS[kind]])
        weights = []
        for d in range(given["W"].shape[0]):
            weights += [given["W"][d][order], given["R"][d][order]]
            if "B" in given:
                weights += [b[order] for b in np.split(given["B"][d], 2)]
        how: dict[str, Any] = {
            "batch_first": bool(options.get("layout", 0)),
            "reverse": options.get("direction") == "reverse",
            "bidirectional": options.get("direction") == "bidirectional",
            "lengths": given.get("sequence_lens"),
        }
        state = None
        if kind == "GRU":
            how["reset_after"] = False
        if kind == "LSTM" and "initial_h" in given:
            state = (given["initial_h"], given["initial_c"])
        if "P" in given:
            how["peepholes"] = [p.reshape(3, hidden)[[0, 2, 1]] for p in given["P"]]
        y, last = getattr(reference, kind.lower())(given["X"], weights, state, **how)
        states = arrays_of(last)
        found = {"Y_h": states[0], "Y_c": states[-1]}
        found["Y"] = y.reshape(*y.shape[:2], -1, hidden)
        if how["batch_first"]:
            found["Y_h"] = found["Y_h"].swapaxes(0, 1)
        else:
            found["Y"] = found["Y"].swapaxes(1, 2)
        wanted = [n for n in node.output if n]
        for output, expected in zip(wanted, outputs, strict=True):
            np.testing.assert_allclose(
                found[output], expected, rtol=1e-5, atol=1e-6, err_msg=f"{name} {output}"
            )
