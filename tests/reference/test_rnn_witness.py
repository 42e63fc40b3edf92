"""PyTorch and ONNX' own node cases as witnesses of the recurrent references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from rnn_witnesses import ONNX_CASES


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


def torch_layer_norm_step(torch: Any, kind: str, x: Any, state: Any, w: Any, g: Any) -> Any:
    """One step as Ba et al. 2016 and Haste have it, in PyTorch's functions."""

    def norm(z: Any, gain: Any, bias: Any = None) -> Any:
        return torch.nn.functional.layer_norm(z, z.shape[1:], gain, bias, 1e-2)

    zx, zh = norm(x @ w[0].T, g[0]) + w[2], norm(state[0] @ w[1].T, g[1]) + w[3]
    if kind == "rnn":
        return [torch.tanh(zx + zh)]
    if kind == "gru":
        (xr, xz, xn), (hr, hz, hn) = zx.chunk(3, 1), zh.chunk(3, 1)
        z = torch.sigmoid(xz + hz)
        return [(1 - z) * torch.tanh(xn + torch.sigmoid(xr + hr) * hn) + z * state[0]]
    i, f, new, o = (zx + zh).chunk(4, 1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(new)
    return [torch.sigmoid(o) * torch.tanh(norm(c, g[2], g[3])), c]


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_torch_layer_norm(kind: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    gates, hidden = {"rnn": 1, "lstm": 4, "gru": 3}[kind], 5
    wide = gates * hidden
    weights = [rng.standard_normal(s) for s in ((wide, 4), (wide, hidden), (wide,), (wide,))]
    sizes = (wide, wide, hidden, hidden)[: 4 if kind == "lstm" else 2]
    norms = [rng.standard_normal(n) for n in sizes]
    x = rng.standard_normal((6, 3, 4))
    states = [rng.standard_normal((1, 3, hidden)) for _ in range(2 if kind == "lstm" else 1)]
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, *states, *weights, *norms)]
    used = 1 + len(states)
    state, outputs = [leaf[0] for leaf in leaves[1:used]], []
    for t in range(6):
        state = torch_layer_norm_step(
            torch, kind, leaves[0][t], state, leaves[used : used + 4], leaves[used + 4 :]
        )
        outputs.append(state[0])
    y, last, kept = getattr(reference, kind)(
        x, weights, tuple(states) if kind == "lstm" else states[0],
        layer_norm=norms, layer_norm_eps=1e-2, return_workspace=True,
    )  # fmt: skip
    np.testing.assert_allclose(y, torch.stack(outputs).detach().numpy(), rtol=1e-10, atol=1e-12)
    for got, expected in zip(arrays_of(last), state, strict=True):
        np.testing.assert_allclose(got[0], expected.detach().numpy(), rtol=1e-10, atol=1e-12)
    slope = rng.standard_normal(y.shape)
    torch.stack(outputs).backward(torch.from_numpy(slope))
    grad_x, grad_state, *more = getattr(reference, f"{kind}_backward")(slope, None, kept)
    found = [grad_x, *arrays_of(grad_state), *(g for part in more for g in part)]
    for got, leaf in zip(found, leaves, strict=True):
        np.testing.assert_allclose(got, leaf.grad.numpy(), rtol=1e-8, atol=1e-10)


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


@pytest.mark.parametrize("module", [kernels, reference], ids=["kernels", "reference"])
def test_onnx_node_cases(module: Any) -> None:
    pytest.importorskip("onnx")
    assert len(ONNX_CASES) == 18
    for name, case in ONNX_CASES.items():
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
        y, last = getattr(module, kind.lower())(given["X"], weights, state, **how)
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


def run_onnx(op: str, inputs: dict[str, Any], attributes: dict[str, Any]) -> list[Any]:
    """Return every output of one node, computed by ONNX Runtime."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    h = onnx.helper
    order = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
    names = [n if n in inputs else "" for n in order[: 8 if op == "LSTM" else 6]]
    outputs = ["Y", "Y_h", "Y_c"][: 3 if op == "LSTM" else 2]
    kinds = {
        np.dtype(np.float32): onnx.TensorProto.FLOAT,
        np.dtype(np.int32): onnx.TensorProto.INT32,
    }
    graph = h.make_graph(
        [h.make_node(op, names, outputs, **attributes)],
        op,
        [h.make_tensor_value_info(n, kinds[a.dtype], a.shape) for n, a in inputs.items()],
        [h.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in outputs],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 14)])
    model.ir_version = 8
    session = runtime.InferenceSession(model.SerializeToString())
    return list(session.run(outputs, inputs))


def blocks(rows: Any, order: list[int]) -> Any:
    """Return equal blocks of rows in another order."""
    parts = np.split(rows, len(order))
    return np.concatenate([parts[k] for k in order])


@pytest.mark.parametrize("coupled", [False, True])
def test_onnx_runtime_lstm(coupled: bool, rng: np.random.Generator) -> None:
    """Peepholes, clip, lengths, both directions; its coupled gates are f = 1 - i."""
    steps, batch, features, hidden = 6, 3, 4, 5
    shapes = {
        "X": (steps, batch, features),
        "W": (2, 4 * hidden, features),
        "R": (2, 4 * hidden, hidden),
        "B": (2, 8 * hidden),
        "initial_h": (2, batch, hidden),
        "initial_c": (2, batch, hidden),
        "P": (2, 3 * hidden),
    }
    inputs = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    inputs["sequence_lens"] = np.array([6, 2, 4], np.int32)
    attributes = {"direction": "bidirectional", "hidden_size": hidden, "clip": 1.5}
    y, h_n, c_n = run_onnx("LSTM", inputs, {**attributes, "input_forget": int(coupled)})
    weights, peepholes = [], []
    for d in range(2):
        rows = [blocks(inputs[n][d], [0, 2, 3, 1]) for n in "WR"]
        rows += [blocks(b, [0, 2, 3, 1]) for b in np.split(inputs["B"][d], 2)]
        p = inputs["P"][d].reshape(3, hidden)[[0, 2, 1]]
        if coupled:  # 1 - sigmoid(z) = sigmoid(-z): our f is their 1 - i
            for a in rows:
                a[hidden : 2 * hidden] = -a[:hidden]
            p[1] = -p[0]
        weights += rows
        peepholes.append(p)
    ours, last = reference.lstm(
        inputs["X"],
        weights,
        (inputs["initial_h"], inputs["initial_c"]),
        peepholes=peepholes,
        input_forget=coupled,
        clip=1.5,
        bidirectional=True,
        lengths=inputs["sequence_lens"],
    )
    np.testing.assert_allclose(
        ours.reshape(steps, batch, 2, hidden).swapaxes(1, 2), y, rtol=1e-5, atol=1e-6
    )
    for got, expected in zip(last, (h_n, c_n), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reset_after", [False, True])
def test_onnx_runtime_gru(reset_after: bool, rng: np.random.Generator) -> None:
    steps, batch, features, hidden = 5, 3, 4, 6
    shapes = {
        "X": (steps, batch, features),
        "W": (1, 3 * hidden, features),
        "R": (1, 3 * hidden, hidden),
        "B": (1, 6 * hidden),
        "initial_h": (1, batch, hidden),
    }
    inputs = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    inputs["sequence_lens"] = np.array([1, 5, 3], np.int32)
    attributes = {"direction": "reverse", "hidden_size": hidden, "clip": 1.2}
    y, h_n = run_onnx("GRU", inputs, {**attributes, "linear_before_reset": int(reset_after)})
    weights = [blocks(inputs[n][0], [1, 0, 2]) for n in "WR"]
    weights += [blocks(b, [1, 0, 2]) for b in np.split(inputs["B"][0], 2)]
    ours, last = reference.gru(
        inputs["X"],
        weights,
        inputs["initial_h"],
        reset_after=reset_after,
        clip=1.2,
        reverse=True,
        lengths=inputs["sequence_lens"],
    )
    np.testing.assert_allclose(ours, y[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last, h_n, rtol=1e-5, atol=1e-6)
