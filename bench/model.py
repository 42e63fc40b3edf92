"""One training step and one forward pass of the demo's network against PyTorch eager, batch 64.

conv 32 - relu - pool - conv 64 - relu - pool - dense 64 - relu - dropout 0.3 - dense 10 on
(64, 1, 8, 8), cross entropy, Adam. The proof runs a step without dropout and compares loss and
gradients with the reference's functions; the timed step has dropout. The forward pass is that of
a trained network: `eval`, without a tape; ours also with its blocks called one by one, which
keeps convolution and pooling apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from . import peers
from .case import Array, Arrays, Candidate, Case, Prepared, collect, reference, uniform

SHAPES = {
    "0.weight": (32, 1, 3, 3),
    "0.bias": (32,),
    "3.weight": (64, 32, 3, 3),
    "3.bias": (64,),
    "7.weight": (64, 256),
    "7.bias": (64,),
    "10.weight": (10, 64),
    "10.bias": (10,),
}
# Parameters are called by their position in the Sequential, as state_dict does.
DROPOUT, LR = 0.3, 1e-3


@dataclass(frozen=True)
class Problem:
    """One training step, or one forward pass."""

    batch: int
    dtype: str
    training: bool = True


@dataclass(frozen=True)
class Data:
    """x (n, 1, 8, 8), target (n,), parameters by state_dict key."""

    x: Array
    target: Array
    params: dict[str, Array]


def _layers(nn: Any, dropout: float) -> Any:
    """The network, from arraynn.nn or torch.nn: both have the same names."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 64),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(64, 10),
    )


def _arraynn_forward(p: Problem, d: Data) -> list[Candidate]:
    from arraynn import Tensor, nn, no_grad

    model = _layers(nn, DROPOUT)
    if p.dtype == "float64":
        model.double()
    model.load_state_dict(d.params)
    model.eval()
    x = Tensor(d.x)

    def whole() -> Any:
        with no_grad():
            return model(x)

    parts = [model[start:stop] for start, stop in ((0, 2), (2, 3), (3, 5), (5, 6), (6, 11))]

    def apart() -> Any:
        with no_grad():
            y = x
            for part in parts:
                y = part(y)
            return y

    arrays = lambda y: (np.asarray(y.numpy()),)  # noqa: E731
    return [
        Candidate("arraynn", whole, arrays=arrays),
        Candidate("arraynn", apart, "pooling apart", arrays=arrays),
    ]


def run_arraynn(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """Our layers and optimizer."""
    del threads
    if not p.training:
        return _arraynn_forward(p, d)
    from arraynn import Tensor, nn, optim

    def build(dropout: float) -> tuple[Any, Callable[[], Any]]:
        model = _layers(nn, dropout)
        if p.dtype == "float64":
            model.double()
        model.load_state_dict(d.params)
        model.train()
        loss_of = nn.CrossEntropyLoss()
        adam = optim.Adam(model.parameters(), lr=LR)
        x, target = Tensor(d.x), d.target

        def step() -> Any:
            adam.zero_grad()
            loss = loss_of(model(x), target)
            loss.backward()
            adam.step()
            return loss

        return model, step

    def answer() -> Arrays:
        model, step = build(0.0)
        loss = np.asarray(step().numpy())
        return (loss, *(np.asarray(_array(q.grad)) for q in model.parameters()))

    return [Candidate("arraynn", build(DROPOUT)[1], answer=answer)]


def _array(value: Any) -> Any:
    """The array of a Tensor or an array itself."""
    return value if isinstance(value, np.ndarray) else value.numpy()


def _torch_forward(d: Data) -> list[Candidate]:
    torch = peers.load("torch")
    found = []
    for variant in ("contiguous_format", "channels_last"):
        form = getattr(torch, variant)
        model = _layers(torch.nn, DROPOUT).to(torch.from_numpy(d.x).dtype)
        model.load_state_dict({key: torch.from_numpy(a.copy()) for key, a in d.params.items()})
        model = model.to(memory_format=form).eval()
        x = torch.from_numpy(d.x).contiguous(memory_format=form)

        def call(model: Any = model, x: Any = x) -> Any:
            with torch.inference_mode():
                return model(x)

        found.append(Candidate("torch", call, variant.replace("_format", "")))
    return found


def run_torch(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """PyTorch eager in both memory formats, with its default and its fused Adam."""
    del threads
    if not p.training:
        return _torch_forward(d)
    torch = peers.load("torch")

    def build(dropout: float, form: Any, fused: bool | None) -> tuple[Any, Callable[[], Any]]:
        model = _layers(torch.nn, dropout).to(torch.from_numpy(d.x).dtype)
        model.load_state_dict({key: torch.from_numpy(a.copy()) for key, a in d.params.items()})
        model = model.to(memory_format=form).train()
        loss_of = torch.nn.CrossEntropyLoss()
        adam = torch.optim.Adam(model.parameters(), lr=LR, fused=fused)
        x = torch.from_numpy(d.x).contiguous(memory_format=form)
        target = torch.from_numpy(d.target)

        def step() -> Any:
            adam.zero_grad()
            loss = loss_of(model(x), target)
            loss.backward()
            adam.step()
            return loss

        return model, step

    def answer(form: Any, fused: bool | None) -> Arrays:
        model, step = build(0.0, form, fused)
        loss = step().detach().numpy()
        return (loss, *(np.ascontiguousarray(q.grad.numpy()) for q in model.parameters()))

    found = []
    for variant in ("contiguous_format", "channels_last"):
        for fused in (None, True):
            name = variant.replace("_format", "") + (" fused" if fused else "")
            form = getattr(torch, variant)
            call = build(DROPOUT, form, fused)[1]
            found.append(Candidate("torch", call, name, answer=partial(answer, form, fused)))
    return found


RUNNERS = {"arraynn": run_arraynn, "torch": run_torch}


def reference_step(d: Data, dtype: str) -> Arrays:
    """Loss and gradients of one step without dropout, from the reference functions in `dtype`.

    The logits come last.
    """
    ref = reference()
    w = {key: value.astype(dtype) for key, value in d.params.items()}
    x = d.x.astype(dtype)
    a1 = ref.conv2d(x, w["0.weight"], w["0.bias"], 1, 1)
    h1 = ref.relu(a1)
    p1 = ref.max_pool2d(h1, 2)
    a2 = ref.conv2d(p1, w["3.weight"], w["3.bias"], 1, 1)
    h2 = ref.relu(a2)
    p2 = ref.max_pool2d(h2, 2)
    flat = p2.reshape(len(x), -1)
    a3 = ref.linear(flat, w["7.weight"], w["7.bias"])
    h3 = ref.relu(a3)
    logits = ref.linear(h3, w["10.weight"], w["10.bias"])
    loss = ref.cross_entropy(logits, d.target)
    g = ref.cross_entropy_backward(np.ones((), dtype), logits, d.target)
    g, gw4, gb4 = ref.linear_backward(g, h3, w["10.weight"])
    g, gw3, gb3 = ref.linear_backward(ref.relu_backward(g, a3), flat, w["7.weight"])
    g = ref.max_pool2d_backward(g.reshape(p2.shape), h2, 2)
    g, gw2, gb2 = ref.conv2d_backward(ref.relu_backward(g, a2), p1, w["3.weight"], 1, 1)
    g = ref.max_pool2d_backward(g, h1, 2)
    _, gw1, gb1 = ref.conv2d_backward(ref.relu_backward(g, a1), x, w["0.weight"], 1, 1)
    return (np.asarray(loss), gw1, gb1, gw2, gb2, gw3, gb3, gw4, gb4, logits)


def prepare(p: Problem, libraries: Sequence[str], threads: int) -> Prepared:
    """Make the data, the candidates and the reference answer of `p`."""
    params = {}
    for i, (key, shape) in enumerate(SHAPES.items()):
        fan_in = int(np.prod(SHAPES[key.replace("bias", "weight")][1:]))
        params[key] = uniform(p.dtype, *shape, seed=10 + i) / np.dtype(p.dtype).type(fan_in**0.5)
    x = np.abs(uniform(p.dtype, p.batch, 1, 8, 8, seed=1))
    target = np.random.default_rng(2).integers(0, 10, p.batch)
    d = Data(x, target, params)
    chosen = slice(-1) if p.training else slice(-1, None)
    expected = reference_step(d, "float64")[chosen]
    # At most four times the largest error of plain NumPy in the same dtype, and never less than
    # 64 roundings of the largest value: another order of summation may be that much unluckier.
    plain = reference_step(d, p.dtype)[chosen]
    eps = float(np.finfo(p.dtype).eps)
    bounds = [
        max(4 * float(np.max(np.abs(a - b))), 64 * eps * float(np.max(np.abs(b))))
        for a, b in zip(plain, expected, strict=True)
    ]
    return Prepared(collect(RUNNERS, libraries, p, d, threads), expected, bounds)


def flops(p: Problem) -> float:
    """Forward, and twice that for the backward except the first layer's input gradient."""
    first = 2.0 * 64 * 32 * 9
    rest = 2.0 * (16 * 64 * 32 * 9 + 256 * 64 + 64 * 10)
    return p.batch * (2 * first + 3 * rest if p.training else first + rest)


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return the training step and the forward pass at batch 64, or tiny ones."""
    problems = [Problem(3 if tiny else 64, dtype, training) for training in (True, False)]
    return [
        Case(
            "model",
            f"{'train step' if p.training else 'forward'} n{p.batch}",
            dtype,
            partial(prepare, p),
            flops(p),
            0.0,
            "fma",
        )
        for p in problems
    ]
