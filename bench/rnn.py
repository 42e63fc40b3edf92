"""Recurrent networks over whole sequences: one layer in one direction, inference and training.

Work: a step multiplies the input by G H x I weights and the state by G H x H, G being the gates;
the backward pass does twice as much. Every call begins with a state, as a step in a loop does, and
training gives its gradient as well.
Traffic has no meaning: the weights stay in cache. Training rows tell what the forward call keeps
for the backward one.

The family ``rnn`` takes a dozen sizes; ``rnn_grid``, on request only, is the product of all steps,
batches and widths below and runs for hours: take parts of it with ``--filter``. JAX compiles every
case for seconds. ``rnn_options`` holds an option against the plain kernel of the same size, as its
peer: 0.91x is an option that costs 10 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from . import peers
from .case import (
    PLAIN,
    Array,
    Candidate,
    Case,
    Prepared,
    collect,
    dot_bound,
    kernels,
    reference,
    uniform,
    unit_roundoff,
)

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
# (steps, batch, hidden, input)
GRID = (
    (1, 1, 256, 256),
    (1, 32, 512, 512),
    (28, 8, 64, 64),
    (28, 128, 128, 1),
    (50, 32, 256, 256),
    (50, 128, 512, 512),
    (64, 1, 512, 512),
    (100, 1, 256, 256),
    (128, 8, 1024, 64),
    (784, 1, 128, 1),
)
ALL_STEPS, ALL_BATCHES = (1, 28, 50, 128, 784), (1, 8, 32, 128)
ALL_HIDDEN = (32, 64, 128, 256, 512, 1024)
TINY = ((3, 2, 5, 4),)
# What an option costs, beside the plain kernel at the same size.
OPTION_SIZE = (50, 32, 256, 256)
OPTIONS = ("lengths", "mask", "clip", "peepholes", "activation", "zoneout", "norms")


@dataclass(frozen=True)
class Problem:
    """One cell over (steps, batch, input), with or without its gradients."""

    kind: str
    steps: int
    batch: int
    hidden: int
    size: int
    dtype: str
    training: bool
    option: str = ""

    @property
    def flops(self) -> float:
        """Multiplications and additions of the matrix products."""
        width = GATES[self.kind] * self.hidden
        once = 2.0 * self.steps * self.batch * width * (self.hidden + self.size)
        return once * (3 if self.training else 1)

    @property
    def part(self) -> str:
        """What has geometric means of its own."""
        return f"{self.kind} {'training' if self.training else 'inference'}"

    @property
    def name(self) -> str:
        """What the tables call it."""
        name = f"{self.kind} T{self.steps} B{self.batch} H{self.hidden} I{self.size}"
        return " ".join(filter(None, [name, "training" * self.training, self.option]))


@dataclass(frozen=True)
class Data:
    """x; weights w_ih, w_hh, b_ih, b_hh; h0 and an LSTM's c0; y's gradient; keywords of ours."""

    x: Array
    weights: list[Array]
    states: tuple[Array, ...]
    grad: Array
    how: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> Any:
        """h0, or the pair of an LSTM."""
        return self.states if len(self.states) > 1 else self.states[0]


def _call(module: Any, p: Problem, d: Data) -> Any:
    """y, or the gradients of x, state and weights, of our function or of the reference's."""
    forward = getattr(module, p.kind)
    if not p.training:
        return forward(d.x, d.weights, d.state, **d.how)[0]
    *_, kept = forward(d.x, d.weights, d.state, **d.how, return_workspace=True)
    found = getattr(module, f"{p.kind}_backward")(d.grad, None, kept)
    states = found[1] if len(d.states) > 1 else (found[1],)
    return found[0], *states, *found[2]


def run_arraynn(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """Our kernels."""
    del threads
    kept = None
    if p.training:
        forward = getattr(kernels(), p.kind)
        kept = forward(d.x, d.weights, d.state, **d.how, return_workspace=True)[-1].nbytes
    found = [Candidate("arraynn", lambda: _call(kernels(), p, d), group="fresh", kept=kept)]
    if p.option:
        plain = Data(d.x, d.weights, d.states, d.grad)  # gives another answer
        call = partial(_call, kernels(), p, plain)
        found.append(Candidate(PLAIN, call, group="fresh", check=lambda _: None))
    elif not p.training:
        function, packed = getattr(kernels(), p.kind), kernels().pack(d.weights, p.kind)
        found.append(
            Candidate("arraynn", lambda: function(d.x, packed, d.state)[0], group="prepacked")
        )
    return found


def run_numpy(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """The plain NumPy reference."""
    del threads
    return [Candidate("numpy", lambda: _call(reference(), p, d), group="fresh")]


def torch_kept(module: Any, x: Any, state: Any) -> int:
    """Bytes that PyTorch's tape saves in a forward call, without x, the state, y, parameters."""
    torch = peers.load("torch")
    saved: dict[int, int] = {}

    def note(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y, _ = module(x, state)
    states = state if isinstance(state, tuple) else (state,)
    for known in (x, y, *states, *module._flat_weights):
        saved.pop(known.untyped_storage().data_ptr(), None)
    return sum(saved.values())


def run_torch(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """torch.nn.RNN, LSTM or GRU; gradients through autograd."""
    del threads
    if p.option:
        return []
    torch = peers.load("torch")
    module = getattr(torch.nn, p.kind.upper())(p.size, p.hidden, dtype=getattr(torch, p.dtype))
    with torch.no_grad():
        for parameter, w in zip(module._flat_weights, d.weights, strict=True):
            parameter.copy_(torch.from_numpy(w))
    x, grad = torch.from_numpy(d.x), torch.from_numpy(d.grad)
    states = tuple(torch.from_numpy(s) for s in d.states)
    state = states if len(states) > 1 else states[0]
    if p.training:
        leaves = [x.clone().requires_grad_(), *(s.clone().requires_grad_() for s in states)]
        first = tuple(leaves[1:]) if len(states) > 1 else leaves[1]

        def train() -> Any:
            y, _ = module(leaves[0], first)
            return torch.autograd.grad(y, [*leaves, *module._flat_weights], grad)

        return [Candidate("torch", train, group="fresh", kept=torch_kept(module, leaves[0], first))]

    def infer() -> Any:
        with torch.inference_mode():
            return module(x, state)[0]

    return [Candidate("torch", infer, group="fresh")]


def run_jax(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """JAX' lax.scan over a step, jitted."""
    del threads
    if p.option:
        return []
    jax = peers.load("jax")
    np_, nn = jax.numpy, jax.nn

    def step(w: Any, carry: Any, x: Any) -> Any:
        h, c = carry
        a, b = x @ w[0].T + w[2], h @ w[1].T + w[3]
        if p.kind == "rnn":
            h = np_.tanh(a + b)
        elif p.kind == "lstm":
            i, f, g, o = np_.split(a + b, 4, axis=1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * np_.tanh(g)
            h = nn.sigmoid(o) * np_.tanh(c)
        else:
            (ar, az, an), (br, bz, bn) = np_.split(a, 3, axis=1), np_.split(b, 3, axis=1)
            z, n = nn.sigmoid(az + bz), np_.tanh(an + nn.sigmoid(ar + br) * bn)
            h = (1 - z) * n + z * h
        return (h, c), h

    def forward(state: Any, x: Any, w: Any) -> Any:
        return jax.lax.scan(partial(step, w), (state[0][0], state[-1][0]), x)[1]

    def train(state: Any, x: Any, w: Any, grad: Any) -> Any:
        of_state, of_x, of_w = jax.vjp(forward, state, x, w)[1](grad)
        return of_x, *of_state, *of_w

    x, grad = np_.asarray(d.x), np_.asarray(d.grad)
    weights, state = [np_.asarray(w) for w in d.weights], [np_.asarray(s) for s in d.states]
    compiled, args = jax.jit(forward), (state, x, weights)
    if p.training:
        compiled, args = jax.jit(train), (state, x, weights, grad)
    return [Candidate("jax", lambda: jax.block_until_ready(compiled(*args)), group="fresh")]


# Blocks of rows in ONNX' order: LSTM i o f c, GRU z r h.
_ONNX_ROWS = {"rnn": [0], "lstm": [0, 3, 1, 2], "gru": [1, 0, 2]}


def run_onnxruntime(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """ONNX Runtime, forward only, weights packed when the model is loaded; float32 alone."""
    if p.training or p.option or p.dtype != "float32":
        return []
    rows = np.concatenate([np.arange(p.hidden) + k * p.hidden for k in _ONNX_ROWS[p.kind]])
    w_ih, w_hh, b_ih, b_hh = (np.ascontiguousarray(w[rows]) for w in d.weights)
    inputs = {
        "x": d.x,
        "w": w_ih[None],
        "r": w_hh[None],
        "b": np.concatenate([b_ih, b_hh])[None],
        "lengths": np.full(p.batch, p.steps, np.int32),
        **dict(zip(("h", "c"), d.states, strict=False)),
    }
    attributes: dict[str, Any] = {"hidden_size": p.hidden}
    if p.kind == "gru":
        attributes["linear_before_reset"] = 1
    constants = ("w", "r", "b", "lengths")
    call = peers.onnx_call(p.kind.upper(), inputs, threads, constants=constants, **attributes)
    # Its y has an axis of directions.
    return [Candidate("onnxruntime", call, group="prepacked", arrays=lambda y: (y[:, 0],))]


RUNNERS = {
    "arraynn": run_arraynn,
    "numpy": run_numpy,
    "torch": run_torch,
    "jax": run_jax,
    "onnxruntime": run_onnxruntime,
}


def options(p: Problem) -> dict[str, Any]:
    """Keywords of the option of `p`."""
    return {
        "": {},
        "lengths": {"lengths": np.full(p.batch, p.steps)},
        "mask": {"mask": np.ones((p.steps, p.batch), bool)},
        "clip": {"clip": 3.0},
        "zoneout": {"zoneout": 0.1},
        "norms": {
            "layer_norm": [
                1 + uniform(p.dtype, n, seed=20 + k) / 4
                for k, n in enumerate((4 * p.hidden, 4 * p.hidden, p.hidden, p.hidden))
            ],
            "layer_norm_eps": 1.0,
        },
        "peepholes": {"peepholes": [uniform(p.dtype, 3, p.hidden, seed=9)]},
        "activation": {"activation": "softplus"},
    }[p.option]


def prepare(p: Problem, libraries: Sequence[str], threads: int) -> Prepared:
    """Make the data, the candidates and the reference answer of `p`."""
    rows = GATES[p.kind] * p.hidden
    # Rows of w_hh whose magnitudes sum to at most 1: an error does not grow from step to step.
    scale = np.dtype(p.dtype).type(2.0 ** -np.ceil(np.log2(p.hidden)))
    weights = [
        uniform(p.dtype, rows, p.size, seed=1),
        uniform(p.dtype, rows, p.hidden, seed=2) * scale,
        *(uniform(p.dtype, rows, seed=s) for s in (3, 4)),
    ]
    x = uniform(p.dtype, p.steps, p.batch, p.size, seed=5)
    grad = uniform(p.dtype, p.steps, p.batch, p.hidden, seed=6)
    states = tuple(
        uniform(p.dtype, 1, p.batch, p.hidden, seed=s)
        for s in ((7, 8) if p.kind == "lstm" else (7,))
    )
    how, of_arrays = options(p), ("peepholes", "layer_norm")
    wide = Data(
        x.astype(np.float64),
        [w.astype(np.float64) for w in weights],
        tuple(s.astype(np.float64) for s in states),
        grad.astype(np.float64),
        {k: [a.astype(np.float64) for a in v] if k in of_arrays else v for k, v in how.items()},
    )
    found = _call(reference(), p, wide)
    expected = found if p.training else (found,)
    # A step adds the rounding of a sum over input and state and of some 16 operations; slopes are
    # at most 1, and a gradient by a weight sums such errors over the steps of all samples.
    top = 1 + max(float(np.abs(a).max()) for a in expected)
    terms = p.size + (GATES[p.kind] if p.training else 1) * p.hidden
    step = dot_bound(terms, p.dtype) + 16 * unit_roundoff(p.dtype) * top
    bound = p.steps * step * (top * p.batch if p.training else 1)
    candidates = collect(RUNNERS, libraries, p, Data(x, weights, states, grad, how), threads)
    return Prepared(candidates, expected, [bound] * len(expected))


def _problems(sizes: Sequence[tuple[int, int, int, int]], dtype: str) -> list[Problem]:
    """Every cell at every size, without and with its gradients."""
    return [
        Problem(kind, *size, dtype, training)
        for size in sizes
        for kind in GATES
        for training in (False, True)
    ]


def _cases(problems: Sequence[Problem], family: str = "rnn") -> list[Case]:
    return [
        Case(family, p.name, p.dtype, partial(prepare, p), p.flops, 0.0, "fma", p.part)
        for p in problems
    ]


def whole_grid(dtype: str, tiny: bool = False) -> list[Case]:
    """Return the product of all sizes, or the tiny shapes."""
    sizes = [
        (steps, batch, hidden, size)
        for steps in ALL_STEPS
        for batch in ALL_BATCHES
        for hidden in ALL_HIDDEN
        for size in sorted({1, 64, hidden})
    ]
    return _cases(_problems(TINY if tiny else sizes, dtype))


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return the family's sizes, or its tiny shapes."""
    return _cases(_problems(TINY if tiny else GRID, dtype))


def option_cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return every option at one size, without and with gradients."""
    sizes = TINY[0] if tiny else OPTION_SIZE
    return _cases(
        [
            Problem("lstm", *sizes, dtype, training, option)
            for training in (False, True)
            for option in OPTIONS
        ],
        "rnn_options",
    )
