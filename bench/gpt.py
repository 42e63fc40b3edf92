"""A decoder-only Transformer of the shape of GPT-2 small, against PyTorch eager.

12 layers of 768 features and 12 heads, normalisation first, GELU by tanh, 1,024 learned positions
and 50,257 symbols whose table is the output layer as well (Radford et al., 2019). A forward pass
over a sequence; a training step: forward, cross entropy, backward, AdamW; and decoding, one symbol
after a sequence whose keys and values are in a cache. Both libraries run the same modules; only
the cache is theirs. The proof runs a small network of the same code and holds logits, loss and
gradients against its layers over arraynn.reference in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from . import peers
from .case import Array, Arrays, Candidate, Case, Prepared, collect, kernels, uniform
from .models import bounds_of, reference_kernels

LR = 1e-4


@dataclass(frozen=True)
class Shape:
    """Sizes of a network."""

    layers: int
    width: int
    heads: int
    symbols: int
    positions: int

    @property
    def weights(self) -> int:
        """Weights that a symbol meets: all but those of other positions, and biases."""
        return 12 * self.layers * self.width**2 + self.symbols * self.width


SMALL = Shape(12, 768, 12, 50257, 1024)
TINY = Shape(1, 8, 2, 11, 8)
PROOF = Shape(2, 48, 3, 50, 16)


@dataclass(frozen=True)
class Problem:
    """`kind` is "forward", "train step" or "decode"; `length` symbols, or those before the one."""

    kind: str
    shape: Shape
    length: int
    dtype: str

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"gpt2-small {self.kind} n1 {self.length}"

    @property
    def flops(self) -> float:
        """Of the matrix products and of attention."""
        s, queries = self.shape, 1 if self.kind == "decode" else self.length
        pairs = self.length + 1 if queries == 1 else queries * (queries + 1) // 2
        once = 2.0 * s.weights * queries + 4.0 * s.layers * s.width * pairs
        return once * (3 if self.kind == "train step" else 1)


@dataclass(frozen=True)
class Data:
    """Symbols (1, length + 1) of the network that is timed and of the one for the proof; states."""

    text: Array
    state: dict[str, Array]
    small_text: Array
    small_state: dict[str, Array]


Attend = Callable[[Any, Any, Any], Any]


def network(nn: Any, functional: Any, shape: Shape) -> Any:
    """Return the network over the modules of arraynn or PyTorch.

    ``model(symbols, positions, attends)``, with one function for each layer that takes queries,
    keys and values (n, length, heads, features) to what the queries see, of the same shape.
    """

    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            width = shape.width
            self.norm1 = nn.LayerNorm(width)
            self.qkv = nn.Linear(width, 3 * width)
            self.out = nn.Linear(width, width)
            self.norm2 = nn.LayerNorm(width)
            self.up = nn.Linear(width, 4 * width)
            self.down = nn.Linear(4 * width, width)

        def forward(self, x: Any, attend: Attend) -> Any:
            n, length, width = x.shape
            qkv = self.qkv(self.norm1(x)).reshape(n, length, 3, shape.heads, width // shape.heads)
            seen = attend(*(qkv[:, :, i] for i in range(3)))
            x = x + self.out(seen.reshape(n, length, width))
            return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class Gpt(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(shape.symbols, shape.width)
            self.place = nn.Embedding(shape.positions, shape.width)
            self.blocks = nn.ModuleList([Block() for _ in range(shape.layers)])
            self.norm = nn.LayerNorm(shape.width)

        def forward(self, symbols: Any, positions: Any, attends: Sequence[Attend]) -> Any:
            x = self.embed(symbols) + self.place(positions)
            for block, attend in zip(self.blocks, attends, strict=True):
                x = block(x, attend)
            return functional.linear(self.norm(x), self.embed.weight)

    return Gpt()


def causal(functional: Any) -> Attend:
    """Return attention to what came before, for all positions at once."""

    def attend(q: Any, k: Any, v: Any) -> Any:
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.swapaxes(1, 2)

    return attend


class OurCache:
    """Keys and values (1, positions, heads, features) of a layer."""

    def __init__(self, shape: Shape, dtype: str) -> None:
        sizes = (1, shape.positions, shape.heads, shape.width // shape.heads)
        self.keys, self.values = np.zeros(sizes, dtype), np.zeros(sizes, dtype)
        self.before = np.zeros(1, np.int64)

    def __call__(self, q: Any, k: Any, v: Any) -> Any:
        from arraynn import Tensor

        y = kernels().attention_decode(
            *(q.data, self.keys, self.values, self.before),
            k=k.data,
            v=v.data,
            layout="blhd",
        )
        return Tensor(y)


class TorchCache:
    """Keys and values (1, heads, positions, features) of a layer, as its attention wants them."""

    def __init__(self, shape: Shape, dtype: str) -> None:
        torch = peers.load("torch")
        sizes = (1, shape.heads, shape.positions, shape.width // shape.heads)
        self.keys, self.values = (torch.zeros(sizes, dtype=getattr(torch, dtype)) for _ in range(2))
        self.attention = torch.nn.functional.scaled_dot_product_attention
        self.before = np.zeros(1, np.int64)

    def __call__(self, q: Any, k: Any, v: Any) -> Any:
        first = int(self.before[0])
        end = first + k.shape[1]
        self.keys[:, :, first:end] = k.swapaxes(1, 2)
        self.values[:, :, first:end] = v.swapaxes(1, 2)
        seen = (self.keys[:, :, :end], self.values[:, :, :end])
        y = self.attention(q.swapaxes(1, 2), *seen, is_causal=q.shape[1] > 1)
        return y.swapaxes(1, 2)


def _decode(model: Any, shape: Shape, text: Array, dtype: str, cache: Any, turn: Any) -> Any:
    """Return a call that says what follows the last of `text`, the others being in the cache."""
    caches = [cache(shape, dtype) for _ in range(shape.layers)]
    before = text.shape[1] - 1
    places = np.arange(before + 1)
    model(turn(text[:, :-1]), turn(places[:-1]), caches)
    for each in caches:
        each.before[:] = before
    return partial(model, turn(text[:, -1:]), turn(places[-1:]), caches)


def _ours(p: Problem, small: bool, d: Data) -> tuple[Callable[[], Any], Any]:
    """Return a call of the problem, and the model."""
    from arraynn import nn, no_grad, optim

    f = nn.functional
    shape, text, state = (
        (PROOF, d.small_text, d.small_state) if small else (p.shape, d.text, d.state)
    )
    model = network(nn, f, shape)
    dtype = str(state["norm.weight"].dtype)
    if dtype == "float64":
        model.double()
    model.load_state_dict(state)
    model.train(p.kind == "train step")
    places, attends = np.arange(text.shape[1] - 1), [causal(f)] * shape.layers
    if p.kind == "train step":
        adam = optim.AdamW(model.parameters(), lr=0.0 if small else LR)

        def step() -> Any:
            adam.zero_grad()
            logits = model(text[:, :-1], places, attends)
            loss = f.cross_entropy(logits.reshape(-1, shape.symbols), text[0, 1:])
            loss.backward()
            adam.step()
            return loss

        return step, model
    with no_grad():
        call = partial(model, text[:, :-1], places, attends)
        if p.kind == "decode":
            call = _decode(model, shape, text, dtype, OurCache, lambda x: x)

    def run() -> Any:
        with no_grad():
            return call()

    return run, model


def _answer(p: Problem, d: Data) -> Arrays:
    """The result of the proof's network; in training the loss and the gradients."""
    call, model = _ours(p, True, d)
    result = np.asarray(call().data)
    grads = [np.asarray(q.grad) for q in model.parameters()] if p.kind == "train step" else []
    return (result, *grads)


def run_arraynn(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """Our modules, optimizer and cache."""
    del threads
    return [Candidate("arraynn", _ours(p, False, d)[0], answer=partial(_answer, p, d))]


def run_torch(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """PyTorch's modules, its fused AdamW, and a cache of its own tensors."""
    del threads
    torch = peers.load("torch")
    f = torch.nn.functional

    def build(small: bool) -> tuple[Callable[[], Any], Any]:
        shape, text, state = (
            (PROOF, d.small_text, d.small_state) if small else (p.shape, d.text, d.state)
        )
        model = network(torch.nn, f, shape).to(torch.from_numpy(state["norm.weight"]).dtype)
        model.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in state.items()})
        model.train(p.kind == "train step")
        symbols, places = torch.from_numpy(text), torch.arange(text.shape[1] - 1)
        attends = [causal(f)] * shape.layers
        if p.kind == "train step":
            adam = torch.optim.AdamW(model.parameters(), lr=0.0 if small else LR, fused=True)

            def step() -> Any:
                adam.zero_grad()
                logits = model(symbols[:, :-1], places, attends)
                loss = f.cross_entropy(logits.reshape(-1, shape.symbols), symbols[0, 1:])
                loss.backward()
                adam.step()
                return loss

            return step, model
        with torch.inference_mode():
            call = partial(model, symbols[:, :-1], places, attends)
            if p.kind == "decode":
                call = _decode(model, shape, text, p.dtype, TorchCache, torch.from_numpy)

        def run() -> Any:
            with torch.inference_mode():
                return call()

        return run, model

    def answer() -> Arrays:
        call, model = build(True)
        result = call().detach().numpy()
        grads = [q.grad.numpy() for q in model.parameters()] if p.kind == "train step" else []
        return (result, *grads)

    return [Candidate("torch", build(False)[0], answer=answer)]


RUNNERS = {"arraynn": run_arraynn, "torch": run_torch}


def _state(shape: Shape, dtype: str) -> dict[str, Array]:
    """Random weights of about the size of GPT-2's."""
    from arraynn import nn

    state = {}
    model = network(nn, nn.functional, shape)
    for i, (key, value) in enumerate(model.state_dict().items()):
        a = uniform(dtype, *value.shape, seed=i)
        one = key.startswith("norm") or ".norm" in key
        state[key] = a * np.dtype(dtype).type(0.05) + np.dtype(dtype).type(
            one and key.endswith("weight")
        )
    return state


def prepare(p: Problem, libraries: Sequence[str], threads: int) -> Prepared:
    """Make the data, the candidates and the reference answer of `p`."""
    rng = np.random.default_rng(1)
    text = rng.integers(0, p.shape.symbols, (1, p.length + 1))
    small_text = rng.integers(0, PROOF.symbols, (1, 9))
    d = Data(text, _state(p.shape, p.dtype), small_text, _state(PROOF, p.dtype))

    def result(dtype: str, state: dict[str, Array]) -> Arrays:
        cast = {key: value.astype(dtype) for key, value in state.items()}
        # The cache holds what a pass over everything sees.
        kind = "forward" if p.kind == "decode" else p.kind
        seen = small_text if kind != p.kind else small_text[:, :-1]
        whole = Data(text, cast, np.concatenate((seen, small_text[:, -1:]), 1), cast)
        first, *rest = _answer(Problem(kind, PROOF, p.length, dtype), whole)
        return (first[:, -1:] if kind != p.kind else first, *rest)

    with reference_kernels():
        expected = result("float64", d.small_state)
        narrow = {key: value.astype(np.float32) for key, value in d.small_state.items()}
        plain, right = result("float32", narrow), result("float64", narrow)
    bounds = bounds_of(plain, right, expected, 6 * PROOF.layers, p.dtype)
    return Prepared(collect(RUNNERS, libraries, p, d, threads), expected, bounds)


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return the forward pass, the training step and the decoding."""
    sizes = (("forward", 512), ("train step", 256), ("decode", 512))
    problems = [
        Problem(kind, TINY if tiny else SMALL, 7 if tiny else length, dtype)
        for kind, length in sizes
    ]
    item = np.dtype(dtype).itemsize
    found = []
    for p in problems:
        decode = p.kind == "decode"
        cache = 2 * p.shape.layers * p.shape.width * p.length
        nbytes = float(item * (p.shape.weights + cache)) if decode else 0.0
        found.append(
            Case(
                *("models", p.name, dtype, partial(prepare, p), p.flops, nbytes),
                "read" if decode else "fma",
            )
        )
    return found
