"""ResNet-18, MobileNetV2 and a U-Net: a forward pass and a training step against PyTorch eager.

The networks are those of examples/models; PyTorch's are the same files over torch.nn. A training
step is the forward pass, cross entropy, the backward pass and SGD with momentum. The proof runs
smaller images and holds logits, loss and gradients against the same layers over
arraynn.reference in float64; with running statistics, since those of a few small images would
magnify the rounding of float32 beyond any bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import peers
from .case import Array, Arrays, Candidate, Case, Prepared, collect, kernels, reference, uniform

ROOT = Path(__file__).resolve().parents[1] / "examples" / "models"
# File, class, arguments, image size and multiply-adds of a forward pass at that size.
NETWORKS = {
    "resnet18": ("ResNet18", {}, 224, 1.814e9),
    "mobilenet_v2": ("MobileNetV2", {"dropout": 0.0}, 224, 0.301e9),
    "unet": ("UNet", {"width": 32}, 128, 3.018e9),
}
TINY = {
    "resnet18": ("ResNet18", {"num_classes": 3}, 32, 0.037e9),
    "mobilenet_v2": ("MobileNetV2", {"num_classes": 3, "dropout": 0.0}, 32, 0.006e9),
    "unet": ("UNet", {"width": 4}, 16, 0.00076e9),
}
PROOF = {"resnet18": 32, "mobilenet_v2": 64, "unet": 16}
LR, MOMENTUM = 1e-3, 0.9


@dataclass(frozen=True)
class Problem:
    """One network at one batch size."""

    file: str
    batch: int
    training: bool
    dtype: str
    tiny: bool

    @property
    def network(self) -> tuple[str, dict[str, Any], int, float]:
        """Class, arguments, image size, multiply-adds."""
        return (TINY if self.tiny else NETWORKS)[self.file]


@dataclass(frozen=True)
class Data:
    """Images and targets to time and to prove with, and the state by key."""

    x: Array
    target: Array
    small_x: Array
    small_target: Array
    state: dict[str, Array]


def network(p: Problem, library: str) -> Any:
    """Return the example's network over the layers of "arraynn" or "torch"."""
    source = (ROOT / f"{p.file}.py").read_text(encoding="utf-8")
    if library == "torch":
        for ours in ("arraynn.autograd", "arraynn"):
            source = source.replace(f"from {ours} import", "from torch import")
    scope: dict[str, Any] = {"__name__": p.file}
    exec(compile(source, f"{p.file}.py", "exec"), scope)
    name, options, _, _ = p.network
    return scope[name](**options)


def _ours(p: Problem, state: dict[str, Array]) -> Any:
    model = network(p, "arraynn")
    if next(iter(state.values())).dtype == np.float64:
        model.double()
    model.load_state_dict(state)
    return model.train(p.training)


def _answer(p: Problem, d: Data, packed: bool = False) -> Arrays:
    """Logits of the small images; in training the loss and the gradients as well."""
    from arraynn import Tensor, nn, no_grad

    model = _ours(p, d.state).eval()
    if packed:
        nn.utils.pack_weights(model)
    if not p.training:
        with no_grad():
            return (model(Tensor(d.small_x)).data,)
    y = model(Tensor(d.small_x))
    loss = nn.functional.cross_entropy(y, d.small_target)
    loss.backward()
    grads = [np.asarray(q.grad) for q in model.parameters()]
    return (y.data, np.asarray(loss.data), *grads)


def run_arraynn(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """Our layers and optimizer; forward with packed weights, too."""
    del threads
    from arraynn import Tensor, nn, no_grad, optim

    model, x = _ours(p, d.state), Tensor(d.x)

    def forward(model: Any) -> Any:
        with no_grad():
            return model(x)

    if not p.training:
        packed = nn.utils.pack_weights(_ours(p, d.state))
        return [
            Candidate("arraynn", partial(forward, model), answer=partial(_answer, p, d)),
            Candidate(
                "arraynn", partial(forward, packed), "packed", answer=partial(_answer, p, d, True)
            ),
        ]
    sgd = optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)

    def step() -> Any:
        sgd.zero_grad()
        loss = nn.functional.cross_entropy(model(x), d.target)
        loss.backward()
        sgd.step()
        return loss

    return [Candidate("arraynn", step, answer=partial(_answer, p, d))]


def run_torch(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """PyTorch eager in both memory formats."""
    del threads
    torch = peers.load("torch")

    def build(form: Any, small: bool) -> tuple[Any, Any, Any]:
        model = network(p, "torch").to(torch.from_numpy(d.x).dtype)
        model.load_state_dict({key: torch.tensor(value) for key, value in d.state.items()})
        model = model.to(memory_format=form).train(p.training)
        x, target = (d.small_x, d.small_target) if small else (d.x, d.target)
        return model, torch.from_numpy(x).contiguous(memory_format=form), torch.from_numpy(target)

    def candidate(form: Any) -> tuple[Callable[[], Any], Callable[[], Arrays]]:
        model, x, target = build(form, False)
        sgd = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)

        def forward() -> Any:
            with torch.no_grad():
                return model(x)

        def step() -> Any:
            sgd.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), target)
            loss.backward()
            sgd.step()
            return loss

        def answer() -> Arrays:
            small, images, targets = build(form, True)
            y = small.eval()(images)
            if not p.training:
                return (y.detach().numpy(),)
            loss = torch.nn.functional.cross_entropy(y, targets)
            loss.backward()
            grads = [np.ascontiguousarray(q.grad.numpy()) for q in small.parameters()]
            return (y.detach().numpy(), loss.detach().numpy(), *grads)

        return step if p.training else forward, answer

    found = []
    for variant in ("contiguous_format", "channels_last"):
        call, answer = candidate(getattr(torch, variant))
        name = variant.replace("_format", "")
        found.append(Candidate("torch", call, name, answer=answer))
    return found


RUNNERS = {"arraynn": run_arraynn, "torch": run_torch}


@contextmanager
def reference_kernels() -> Iterator[None]:
    """Let the tape call the reference in place of every kernel that it looks up."""
    module, formulas = kernels(), reference()
    names = [n for n in module.__all__ if callable(getattr(formulas, n, None))]
    held = {name: getattr(module, name) for name in names}
    try:
        for name in names:
            setattr(module, name, getattr(formulas, name))
        yield
    finally:
        for name, function in held.items():
            setattr(module, name, function)


def _state(p: Problem) -> dict[str, Array]:
    """Random weights of the size PyTorch draws, and running statistics that are not 0 and 1."""
    state = {}
    for i, (key, value) in enumerate(network(p, "arraynn").state_dict().items()):
        if value.ndim == 0:
            state[key] = value
            continue
        a = uniform(p.dtype, *value.shape, seed=100 + i)
        if value.ndim > 1:
            a = a * np.dtype(p.dtype).type((6 / np.prod(value.shape[1:])) ** 0.5)
        elif key.endswith(("running_var", "weight")):
            a = np.abs(a) + np.dtype(p.dtype).type(0.5)
        else:
            a = a * np.dtype(p.dtype).type(0.1)
        state[key] = a
    return state


def bounds_of(
    plain: Arrays, right: Arrays, expected: Arrays, layers: int, dtype: str
) -> list[float]:
    """Return what an answer may be off by: as in bench.model.

    At most four times the largest error of plain NumPy, and never less than 64 roundings of the
    largest value of all the gradients for every layer, which add up as a random walk does. NumPy's
    error is that of float32, in roundings: wider dtypes are too slow here.
    """
    eps = float(np.finfo(dtype).eps)
    roundings = 1 / float(np.finfo(np.float32).eps)
    largest = max(float(np.max(np.abs(b))) for b in expected)
    return [
        eps * max(4 * roundings * float(np.max(np.abs(a - b))), 64 * layers**0.5 * largest)
        for a, b in zip(plain, right, strict=True)
    ]


def prepare(p: Problem, libraries: Sequence[str], threads: int) -> Prepared:
    """Make the data, the candidates and the reference answer of `p`."""
    _, _, size, _ = p.network
    small = min(size, PROOF[p.file])
    x = uniform(p.dtype, p.batch, 3, size, size, seed=1)
    small_x = uniform(p.dtype, 1, 3, small, small, seed=2)
    draw = np.random.default_rng(3)
    maps = p.file == "unet"
    target = draw.integers(0, 2, (p.batch, size, size) if maps else p.batch)
    small_target = draw.integers(0, 2, (1, small, small) if maps else 1)
    d = Data(x, target, small_x, small_target, _state(p))
    state = {k: v.astype(np.float64) if v.ndim else v for k, v in d.state.items()}
    wide = Data(x, target, small_x.astype(np.float64), small_target, state)
    with reference_kernels():
        expected = _answer(p, wide)
        narrow = {k: v.astype(np.float32) if v.ndim else v for k, v in d.state.items()}
        exact = {k: v.astype(np.float64) if v.ndim else v for k, v in narrow.items()}
        images = small_x.astype(np.float32)
        plain = _answer(p, Data(x, target, images, small_target, narrow))
        right = _answer(p, Data(x, target, images.astype(np.float64), small_target, exact))
    layers = sum(value.ndim > 1 for value in d.state.values())
    bounds = bounds_of(plain, right, expected, layers, p.dtype)
    return Prepared(collect(RUNNERS, libraries, p, d, threads), expected, bounds)


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return a forward pass and a training step of every network."""
    if not ROOT.is_dir():  # installed without the examples
        return []
    problems = [
        Problem(file, batch, training, dtype, tiny)
        for file in NETWORKS
        for batch, training in (((2, False), (2, True)) if tiny else ((1, False), (8, True)))
    ]
    found = []
    for p in problems:
        name = f"{p.file} {'train step' if p.training else 'forward'} n{p.batch} {p.network[2]}"
        flops = 2 * p.batch * p.network[3] * (3 if p.training else 1)
        case = Case("models", name, dtype, partial(prepare, p), flops, 0.0, "fma")
        found.append(case)
    return found
