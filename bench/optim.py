"""Adam over 25 M parameters in one tensor, in ResNet-50's, and over 300 small tensors.

Traffic: four arrays read (parameter, gradient, two averages) and three written. Groups: "kernel"
is one call over lists of arrays, "optimizer" a step() with its own Python.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from . import peers
from .case import (
    Array,
    Candidate,
    Case,
    Prepared,
    collect,
    kernels,
    reference,
    uniform,
    unit_roundoff,
)

LR, BETAS, EPS = 1e-3, (0.9, 0.999), 1e-8


def resnet50_sizes() -> list[int]:
    """Sizes of ResNet-50's 161 parameter tensors (25,557,032 elements in all)."""
    sizes = [64 * 3 * 49, 64, 64]
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            sizes += [channels * width, width, width, width * width * 9, width, width]
            sizes += [width * width * 4, 4 * width, 4 * width]
            if block == 0:
                sizes += [channels * width * 4, 4 * width, 4 * width]
            channels = 4 * width
    return [*sizes, 2048 * 1000, 1000]


@dataclass(frozen=True)
class Problem:
    """One step over tensors of these sizes."""

    name: str
    sizes: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Data:
    """Parameters, gradients and both averages, one array per tensor."""

    params: list[Array]
    grads: list[Array]
    exp_avgs: list[Array]
    exp_avg_sqs: list[Array]

    def copies(self) -> list[list[Array]]:
        """Copies of what a step changes: params, exp_avgs, exp_avg_sqs."""
        changed = (self.params, self.exp_avgs, self.exp_avg_sqs)
        return [[array.copy() for array in arrays] for arrays in changed]


def _flat(arrays: Sequence[Any]) -> Array:
    """One array of all elements."""
    parts = [np.asarray(a.detach() if hasattr(a, "detach") else a).ravel() for a in arrays]
    return np.concatenate(parts)


def run_arraynn(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """The kernel, and the optimizer around it."""
    del p, threads
    step = kernels().adam_step
    params, avgs, squares = d.copies()

    def kernel() -> list[Array]:
        step(params, d.grads, avgs, squares, 1, lr=LR, betas=BETAS, eps=EPS)
        return params

    return [
        Candidate("arraynn", kernel, "adam_step", "kernel", arrays=lambda r: (_flat(r),)),
        *_optimizer_arraynn(d),
    ]


def _optimizer_arraynn(d: Data) -> list[Candidate]:
    from arraynn import Tensor, optim

    leaves = [Tensor(array.copy(), requires_grad=True) for array in d.params]
    for leaf, grad in zip(leaves, d.grads, strict=True):
        leaf.grad = grad
    adam = optim.Adam(leaves, lr=LR, betas=BETAS, eps=EPS)

    def step() -> list[Array]:
        adam.step()
        return [leaf.data for leaf in leaves]

    return [Candidate("arraynn", step, "optim.Adam", "optimizer", arrays=lambda r: (_flat(r),))]


def run_numpy(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """The plain NumPy reference."""
    del p, threads
    params, avgs, squares = d.copies()

    def kernel() -> list[Array]:
        reference().adam_step(params, d.grads, avgs, squares, 1, lr=LR, betas=BETAS, eps=EPS)
        return params

    return [Candidate("numpy", kernel, "", "kernel", arrays=lambda r: (_flat(r),))]


def run_torch(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """PyTorch's fused kernel, and its optimizer with fused, foreach and neither."""
    del p, threads
    torch = peers.load("torch")
    params, avgs, squares = ([torch.from_numpy(a) for a in arrays] for arrays in d.copies())
    grads = [torch.from_numpy(a) for a in d.grads]
    steps = [torch.ones(()) for _ in grads]

    def kernel() -> list[Any]:
        torch._fused_adam_(
            *(params, grads, avgs, squares, [], steps),
            lr=LR,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=0.0,
            eps=EPS,
            amsgrad=False,
            maximize=False,
        )
        return params

    found = [Candidate("torch", kernel, "fused", "kernel", arrays=lambda r: (_flat(r),))]
    for variant, options in (
        ("fused", {"fused": True}),
        ("foreach", {"foreach": True}),
        ("default", {}),
    ):
        leaves = [torch.from_numpy(a.copy()).requires_grad_() for a in d.params]
        for leaf, grad in zip(leaves, grads, strict=True):
            leaf.grad = grad
        adam = torch.optim.Adam(leaves, lr=LR, betas=BETAS, eps=EPS, **options)

        def step(adam: Any = adam, leaves: Any = leaves) -> Any:
            adam.step()
            return leaves

        found.append(Candidate("torch", step, variant, "optimizer", arrays=lambda r: (_flat(r),)))
    return found


def run_jax(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """JAX, jitted over the lists, with its inputs donated."""
    del p, threads
    jax = peers.load("jax")
    jnp = jax.numpy
    state = [[jnp.asarray(a) for a in arrays] for arrays in d.copies()]
    grads = [jnp.asarray(a) for a in d.grads]
    correction1, correction2 = 1 - BETAS[0], math.sqrt(1 - BETAS[1])

    def update(state: Any, grads: Any) -> Any:
        new: list[list[Any]] = [[], [], []]
        for p, m, v, g in zip(*state, grads, strict=True):
            m = BETAS[0] * m + (1 - BETAS[0]) * g
            v = BETAS[1] * v + (1 - BETAS[1]) * g * g
            p = p - LR / correction1 * m / (jnp.sqrt(v) / correction2 + EPS)
            for items, item in zip(new, (p, m, v), strict=True):
                items.append(item)
        return new

    compiled = jax.jit(update, donate_argnums=0)

    def step() -> list[Any]:
        nonlocal state
        state = jax.block_until_ready(compiled(state, grads))
        return list(state[0])

    return [Candidate("jax", step, "", "kernel", arrays=lambda r: (_flat(r),))]


RUNNERS = {
    "arraynn": run_arraynn,
    "numpy": run_numpy,
    "torch": run_torch,
    "jax": run_jax,
}


def prepare(p: Problem, libraries: Sequence[str], threads: int) -> Prepared:
    """Make the data, the candidates and the answer of the first step."""
    params = [uniform(p.dtype, size, seed=i) for i, size in enumerate(p.sizes)]
    grads = [uniform(p.dtype, size, seed=1000 + i) for i, size in enumerate(p.sizes)]
    zeros = [[np.zeros(size, p.dtype) for size in p.sizes] for _ in range(2)]
    data = Data(params, grads, *zeros)
    wide = [[a.astype(np.float64) for a in arrays] for arrays in (params, grads, *zeros)]
    reference().adam_step(*wide, 1, lr=LR, betas=BETAS, eps=EPS)
    # The first step moves each parameter by at most lr; a handful of roundings of that and one
    # of the parameter itself.
    u = unit_roundoff(p.dtype)
    bound = 4 * u * (1 + 16 * LR)
    found = collect(RUNNERS, libraries, p, data, threads)
    return Prepared(found, (_flat(wide[0]),), [bound])


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return the family's grid, or its tiny shapes."""
    resnet = tuple(resnet50_sizes())
    problems = [
        Problem("adam 25M in 1 tensor", (sum(resnet),), dtype),
        Problem(f"adam 25M in {len(resnet)} tensors", resnet, dtype),
        Problem("adam 300 tensors of 1000", (1000,) * 300, dtype),
    ]
    if tiny:
        problems = [Problem("adam 2 tensors", (5, 17), dtype)]
    item = np.dtype(dtype).itemsize
    return [
        Case("optim", p.name, dtype, partial(prepare, p), 0.0, 7.0 * item * sum(p.sizes), "copy")
        for p in problems
    ]
