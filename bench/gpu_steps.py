"""Cases of ``bench.gpu`` of the optimizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from arraynn import kernels as K
from arraynn import reference

from .gpu import PROBE, Calls, Case, Makers, buffer_sets, candidates

LR, DECAY, EPS, STEP = 1e-3, 0.01, 1e-8, 3


RATE, ROOT = LR / (1 - 0.9**STEP), (1 - 0.999**STEP) ** 0.5


def _adam(p: Any, g: Any, m: Any, v: Any) -> None:
    """AdamW on one tensor as torch.compile wants it, which makes one kernel of it."""
    m.lerp_(g, 0.1)
    v.mul_(0.999).addcmul_(g, g, value=0.001)
    p.mul_(1 - LR * DECAY).addcdiv_(m, v.sqrt() / ROOT + EPS, value=-RATE)


def _adam_of_cupy(cupy: Any) -> Callable[..., Any]:
    def update(p: Any, g: Any, m: Any, v: Any) -> Any:
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        return (1 - LR * DECAY) * p - RATE * m / (cupy.sqrt(v) / ROOT + EPS), m, v

    return cupy.fuse()(update)  # type: ignore[no-any-return]


def adam_case(
    cupy: Any,
    torch: Any,
    shapes: Sequence[int],
    label: str,
    dtype: Any = np.float32,
    *,
    compiled: bool = False,
) -> Case:
    """One step of Adam over a list of tensors, all of its arrays of one dtype."""
    total, size = sum(shapes), np.dtype(dtype).itemsize
    sets = buffer_sets(cupy, 7 * size * total)
    random = cupy.random.default_rng(2)

    def arrays(scale: float) -> list[Any]:
        return [(scale * random.random(n, dtype=np.float32)).astype(dtype) for n in shapes]

    state = [[arrays(1.0), arrays(1.0), arrays(0.1), arrays(0.1)] for _ in range(sets)]
    before = [[a[:PROBE].get().astype(np.float64) for a in (s[0],)] for s in state[0]]
    how: dict[str, Any] = {"lr": LR, "weight_decay": DECAY, "decoupled": True}
    there: list[Any] = []
    if torch is not None:
        there = [[[torch.from_dlpack(a) for a in group] for group in s] for s in state]
    calls = candidates(
        torch,
        compiled and len(shapes) == 1,
        lambda i: K.adam_step(*state[i], STEP, **how),
        _adam,
        lambda i: [group[0] for group in there[i]],
    )
    if torch is not None:
        two = there[0][0][0].new_full((), STEP - 1.0, dtype=torch.float32)
        steps = [[two.clone() for _ in shapes] for _ in range(sets)]
        options = {"lr": LR, "beta1": 0.9, "beta2": 0.999, "weight_decay": DECAY, "eps": EPS}
        options |= {"amsgrad": False, "maximize": False}
        calls["torch"] = lambda i: torch._fused_adamw_(*there[i], [], steps[i], **options)
    if len(shapes) == 1:
        update = _adam_of_cupy(cupy)
        calls["cupy"] = lambda i: update(*(group[0] for group in state[i]))

    def answer(_: str) -> tuple[Any, Any]:
        expected = [[a.copy()] for a in (group[0] for group in before)]
        reference.adam_step(*expected, STEP, **how)
        return state[0][0][0][:PROBE].get(), expected[0][0]

    name = f"adamw {np.dtype(dtype).name} {label}"
    return Case(name, 7 * size * total, sets, calls, answer)


def _sgd(p: Any, g: Any, b: Any) -> None:
    b.mul_(0.9).add_(g)
    p.add_(b, alpha=-0.01)


def _adagrad(p: Any, g: Any, s: Any) -> None:
    s.addcmul_(g, g)
    p.addcdiv_(g, s.sqrt() + 1e-10, value=-0.01)


def _rmsprop(p: Any, g: Any, v: Any) -> None:
    v.mul_(0.99).addcmul_(g, g, value=0.01)
    p.addcdiv_(g, v.sqrt() + 1e-8, value=-0.01)


def _of_cupy(cupy: Any) -> dict[str, Any]:
    def sgd(p: Any, g: Any, b: Any) -> Any:
        b = 0.9 * b + g
        return p - 0.01 * b, b

    def adagrad(p: Any, g: Any, s: Any) -> Any:
        s = s + g * g
        return p - 0.01 * g / (cupy.sqrt(s) + 1e-10), s

    def rmsprop(p: Any, g: Any, v: Any) -> Any:
        v = 0.99 * v + 0.01 * g * g
        return p - 0.01 * g / (cupy.sqrt(v) + 1e-8), v

    return {f.__name__: cupy.fuse()(f) for f in (sgd, adagrad, rmsprop)}


def simple_step_cases(
    cupy: Any, torch: Any, n: int, dtype: Any = np.float32, *, compiled: bool = False
) -> list[Case]:
    """One step of SGD with momentum, Adagrad and RMSprop on a single tensor."""
    size, random = np.dtype(dtype).itemsize, cupy.random.default_rng(9)
    sets = buffer_sets(cupy, 5 * size * n)
    updates = _of_cupy(cupy)
    cases = []
    for name, peer, how, last, composed in (
        ("sgd", "SGD", {"momentum": 0.9}, (3,), _sgd),
        ("adagrad", "Adagrad", {}, (3,), _adagrad),
        ("rmsprop", "RMSprop", {}, (), _rmsprop),
    ):
        state = [
            [[random.random(n, dtype=np.float32).astype(dtype)] for _ in range(3)]
            for _ in range(sets)
        ]
        before = [[a[0][:PROBE].get().astype(np.float64)] for a in state[0]]
        step, formula = (
            partial(getattr(module, f"{name}_step"), lr=0.01, **how) for module in (K, reference)
        )
        there: list[Any] = []
        if torch is not None:
            there = [[torch.from_dlpack(a) for (a,) in s] for s in state]
        calls: Calls = candidates(
            torch,
            compiled,
            lambda i, f=step, s=state, last=last: f(*s[i], *last),
            composed,
            lambda i, there=there: there[i],
        )
        if torch is not None:
            optimizers = []
            for p, g, _ in there:
                leaf = p.detach().requires_grad_()
                leaf.grad = g
                optimizers.append(getattr(torch.optim, peer)([leaf], lr=0.01, foreach=True, **how))
            calls["torch"] = lambda i, optimizers=optimizers: optimizers[i].step()
        calls["cupy"] = lambda i, f=updates[name], s=state: f(*(a for (a,) in s[i]))

        def answer(
            _: str, f: Any = formula, state: Any = state, before: Any = before, last: Any = last
        ) -> tuple[Any, Any]:
            f(*([a] for (a,) in before), *last)
            return state[0][0][0][:PROBE].get(), before[0][0]

        label = f"{name} {np.dtype(dtype).name} 1 tensor of {n}"
        cases.append(Case(label, 5 * size * n, sets, calls, answer))
    return cases


def makers(cupy: Any, torch: Any) -> Makers:
    """Return what makes each group of cases."""
    return [
        lambda: [adam_case(cupy, torch, [1 << 26], "1 tensor of 67M")],
        lambda: [adam_case(cupy, torch, [100_003] * 1000, "1000 tensors of 100003")],
        lambda: [adam_case(cupy, torch, [1009] * 1000, "1000 tensors of 1009")],
        lambda: simple_step_cases(cupy, torch, 1 << 26),
    ]


def makers_of(cupy: Any, torch: Any, half: Any) -> Makers:
    """Return the same in 16 bits."""
    return [lambda: [adam_case(cupy, torch, [1 << 27], "1 tensor of 134M", half)]]


def compiled_makers(cupy: Any, torch: Any) -> Makers:
    """Return the same with torch.compile."""
    return [
        lambda: [adam_case(cupy, torch, [1 << 26], "1 tensor of 67M", compiled=True)],
        lambda: simple_step_cases(cupy, torch, 1 << 26, compiled=True),
    ]
