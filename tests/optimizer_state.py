"""What an optimizer steps, and how far two steps of it may be apart, for every device."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from kernels.problems import LENGTHS, normal
from tolerances import assert_close_to_reference, assert_same_bits, widen

SHAPES: list[tuple[int, ...]] = [*((n,) for n in LENGTHS), (), (3, 5, 7), (2, 0), (64, 33)]
COMMON = {
    "maximize": (False, True),
    "weight_decay": (0.0, 0.1),
    "grad_scale": (None, 8.0),
    "max_norm": (None, 1.5, 1e6),
}


def combinations(**choices: Any) -> list[dict[str, Any]]:
    return [
        dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())
    ]


class State:
    """Parameters, gradients and moments; copies of it take the same step in different ways."""

    def __init__(self, rng: np.random.Generator, dtype: Any, shapes: Any = SHAPES) -> None:
        self.params = [normal(rng, dtype, *s) for s in shapes]
        self.grads = [normal(rng, dtype, *s) for s in shapes]
        self.first = [normal(rng, dtype, *s) for s in shapes]
        self.second = [rng.uniform(0.1, 2, s).astype(dtype) for s in shapes]
        self.largest = [rng.uniform(0.1, 2, s).astype(dtype) for s in shapes]

    def mapped(self, function: Any) -> State:
        """Apply a function to every array."""
        new = State.__new__(State)
        for name, arrays in vars(self).items():
            setattr(new, name, [function(a) for a in arrays])
        return new

    def copy(self) -> State:
        return self.mapped(lambda a: np.array(a, copy=True))

    def adam(self, module: Any, step: int, amsgrad: bool, **options: Any) -> Any:
        return module.adam_step(
            self.params,
            self.grads,
            self.first,
            self.second,
            step,
            max_exp_avg_sqs=self.largest if amsgrad else None,
            **options,
        )

    def sgd(self, module: Any, step: int, **options: Any) -> Any:
        return module.sgd_step(self.params, self.grads, self.first, step, **options)

    def adagrad(self, module: Any, step: int, **options: Any) -> Any:
        return module.adagrad_step(self.params, self.grads, self.second, step, **options)

    def rmsprop(self, module: Any, centred: bool, momentum: float, **options: Any) -> Any:
        return module.rmsprop_step(
            self.params,
            self.grads,
            self.largest,
            momentum=momentum,
            grad_avgs=self.second if centred else None,
            momentum_buffers=self.first,
            **options,
        )

    def arrays(self) -> list[tuple[str, Any]]:
        return [(f"{name}[{i}]", a) for name, v in vars(self).items() for i, a in enumerate(v)]


def rmsprop_state(rng: np.random.Generator, dtype: Any, shapes: Any = SHAPES) -> State:
    """Mean squares well above the squares of the means: what is under the root loses no digits."""
    state = State(rng, dtype, shapes)
    state.second = [np.array(a / 4, dtype) for a in state.second]
    state.largest = [np.array(a + 1, dtype) for a in state.largest]
    return state


def assert_same_state(got: State, expected: State, label: str) -> None:
    for (name, a), (_, b) in zip(got.arrays(), expected.arrays(), strict=True):
        assert_same_bits(a, b, f"{name}, {label}")


def check_norm(got: Any, expected: Any, dtype: Any) -> None:
    if expected is None:
        assert got is None
    else:
        assert isinstance(got, float)
        assert abs(got - expected) <= 4 * float(np.finfo(dtype).eps) * expected


def check_state(got: State, ref: State, native: State, before: State, **options: Any) -> None:
    """Hold every array against the oracle; errors are relative to the numbers that were added."""
    lr, decay = options.get("lr", 1e-3), options.get("weight_decay", 0.0)
    for i in range(len(got.params)):
        p, g, m = (np.abs(widen(a[i])) for a in (before.params, before.grads, before.first))
        g = g / (options.get("grad_scale") or 1) + decay * p
        moment = m + g
        # The step: lr * m_hat / (sqrt(v_hat) + eps), with v at least 0.1 and corrections of step 3.
        scales = {
            "params": p + lr * 16 * moment,
            "first": moment,
            "second": np.abs(ref.second[i]) + g * g,
            "largest": np.abs(ref.largest[i]) + g * g,
        }
        for name, scale in scales.items():
            a, r, n = (getattr(s, name)[i] for s in (got, ref, native))
            assert_close_to_reference(a, r, n, scale=scale, label=f"{name}[{i}] {options}")
