"""Optimizer steps against the reference, at every ISA."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from memory import LAYOUTS, Guarded, in_layout, snapshot
from optimizer_state import (
    COMMON,
    State,
    assert_same_state,
    check_norm,
    check_state,
    combinations,
    rmsprop_state,
)
from tolerances import assert_same_bits, widen

from .problems import LENGTHS, normal, thread_counts

pytestmark = pytest.mark.usefixtures("isa")


@pytest.mark.parametrize("eps_mode", ["outside", "hat"])
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("decoupled", [False, True])
def test_adam(
    dtype: Any, decoupled: bool, amsgrad: bool, eps_mode: str, rng: np.random.Generator
) -> None:
    before = State(rng, dtype)
    for options in combinations(**COMMON):
        options |= {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3}
        options |= {"decoupled": decoupled, "eps_mode": eps_mode}
        got, ref, native = before.copy(), before.mapped(widen), before.copy()
        norm = got.adam(kernels, 3, amsgrad, **options)
        check_norm(norm, ref.adam(reference, 3, amsgrad, **options), dtype)
        native.adam(reference, 3, amsgrad, **options)
        check_state(got, ref, native, before, **options)
        assert snapshot(got.grads) == snapshot(before.grads)
        if not amsgrad:
            assert snapshot(got.largest) == snapshot(before.largest)


@pytest.mark.parametrize(
    ("momentum", "dampening", "nesterov"),
    [(0.0, 0.0, False), (0.9, 0.0, False), (0.9, 0.3, False), (0.9, 0.0, True)],
)
def test_sgd(
    dtype: Any, momentum: float, dampening: float, nesterov: bool, rng: np.random.Generator
) -> None:
    before = State(rng, dtype)
    for options in combinations(**COMMON, step=(1, 2)):
        options |= {"lr": 0.05, "momentum": momentum, "dampening": dampening, "nesterov": nesterov}
        got, ref, native = before.copy(), before.mapped(widen), before.copy()
        check_norm(got.sgd(kernels, **options), ref.sgd(reference, **options), dtype)
        native.sgd(reference, **options)
        check_state(got, ref, native, before, **options)
        assert snapshot(got.grads) == snapshot(before.grads)
        if momentum == 0:
            assert snapshot(got.first) == snapshot(before.first)


@pytest.mark.parametrize("lr_decay", [0.0, 0.3])
def test_adagrad(dtype: Any, lr_decay: float, rng: np.random.Generator) -> None:
    # adagrad_step
    before = State(rng, dtype)
    for options in combinations(**COMMON, step=(1, 3)):
        options |= {"lr": 0.05, "lr_decay": lr_decay, "eps": 1e-3}
        got, ref, native = before.copy(), before.mapped(widen), before.copy()
        check_norm(got.adagrad(kernels, **options), ref.adagrad(reference, **options), dtype)
        native.adagrad(reference, **options)
        check_state(got, ref, native, before, **options)
        assert snapshot(got.grads) == snapshot(before.grads)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop(dtype: Any, centred: bool, momentum: float, rng: np.random.Generator) -> None:
    # rmsprop_step
    before = rmsprop_state(rng, dtype)
    for options in combinations(**COMMON):
        options |= {"lr": 0.05, "alpha": 0.8, "eps": 1e-3}
        got, ref, native = before.copy(), before.mapped(widen), before.copy()
        norm = got.rmsprop(kernels, centred, momentum, **options)
        check_norm(norm, ref.rmsprop(reference, centred, momentum, **options), dtype)
        native.rmsprop(reference, centred, momentum, **options)
        check_state(got, ref, native, before, **options)
        assert snapshot(got.grads) == snapshot(before.grads)
        if momentum == 0:
            assert snapshot(got.first) == snapshot(before.first)


def test_rmsprop_of_a_constant_gradient_stays_finite(dtype: Any) -> None:
    """Centred, the spread of gradients that do not change is 0, and rounding not below."""
    params, grads = [np.ones(33, dtype)], [np.full(33, 0.1, dtype)]
    squares, means = [np.zeros(33, dtype)], [np.zeros(33, dtype)]
    for _ in range(300):
        kernels.rmsprop_step(params, grads, squares, lr=1e-9, alpha=0.9, grad_avgs=means)
    assert np.isfinite(params[0]).all()


@pytest.mark.parametrize("options", [{}, {"lr_decay": 0.1, "weight_decay": 0.1}])
def test_pytorch_agrees_on_adagrad(dtype: Any, options: Any, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    state = State(rng, dtype, [(40,), (3, 5)])
    state.second = [np.zeros_like(a) for a in state.params]
    leaves = [torch.tensor(p, requires_grad=True) for p in state.params]
    theirs = torch.optim.Adagrad(leaves, lr=0.1, **options)
    for step in (1, 2, 3):
        state.grads = [normal(rng, dtype, *g.shape) for g in state.grads]
        state.adagrad(kernels, step, lr=0.1, **options)
        for leaf, grad in zip(leaves, state.grads, strict=True):
            leaf.grad = torch.tensor(grad)
        theirs.step()
    for got, leaf in zip(state.params, leaves, strict=True):
        np.testing.assert_allclose(got, leaf.detach().numpy(), 64 * np.finfo(dtype).eps, 1e-6)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_pytorch_agrees_on_rmsprop(
    dtype: Any, centred: bool, momentum: float, rng: np.random.Generator
) -> None:
    torch = pytest.importorskip("torch")
    state = State(rng, dtype, [(40,), (3, 5)])
    for name in ("first", "second", "largest"):
        setattr(state, name, [np.zeros_like(a) for a in state.params])
    leaves = [torch.tensor(p, requires_grad=True) for p in state.params]
    theirs = torch.optim.RMSprop(leaves, lr=0.01, momentum=momentum, centered=centred)
    for _ in range(3):
        state.grads = [normal(rng, dtype, *g.shape) for g in state.grads]
        state.rmsprop(kernels, centred, momentum, lr=0.01)
        for leaf, grad in zip(leaves, state.grads, strict=True):
            leaf.grad = torch.tensor(grad)
        theirs.step()
    # Centred, the difference under the root loses digits.
    near = (2000 if centred else 64) * np.finfo(dtype).eps
    for got, leaf in zip(state.params, leaves, strict=True):
        np.testing.assert_allclose(got, leaf.detach().numpy(), near, near)


def test_sgd_ignores_the_buffer_at_step_1(dtype: Any) -> None:
    params, grads = [np.ones(33, dtype)], [np.full(33, 2, dtype)]
    buffers = [np.full(33, np.nan, dtype)]
    kernels.sgd_step(params, grads, buffers, 1, lr=0.25, momentum=0.9)
    np.testing.assert_array_equal(params[0], 0.5)
    np.testing.assert_array_equal(buffers[0], 2)


def test_sgd_without_momentum_needs_no_buffers(dtype: Any) -> None:
    params = [np.ones(33, dtype)]
    assert kernels.sgd_step(params, [np.ones(33, dtype)], lr=0.25) is None
    np.testing.assert_array_equal(params[0], 0.75)


def test_many_steps_follow_the_reference(dtype: Any, rng: np.random.Generator) -> None:
    """Bias corrections far from 1, then saturated, from moments of zero."""
    got = State(rng, dtype, [(7,), (4, 5)])
    for name in ("first", "second", "largest"):
        setattr(got, name, [np.zeros_like(a) for a in got.params])
    ref = got.mapped(widen)
    for step in [*range(1, 30), 1000, 10**6, 2**40]:
        got.grads = [normal(rng, dtype, *g.shape) for g in got.grads]
        ref.grads = [widen(g) for g in got.grads]
        for state, module in ((got, kernels), (ref, reference)):
            state.adam(module, step, True, lr=0.01, weight_decay=0.01, decoupled=True)
    # 32 steps of lr with errors of a few eps each.
    tolerance = 32 * 16 * float(np.finfo(dtype).eps)
    for (name, a), (_, b) in zip(got.arrays(), ref.arrays(), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)


def test_no_arrays_and_empty_arrays(dtype: Any) -> None:
    assert kernels.adam_step([], [], [], [], 1) is None
    assert kernels.sgd_step([], []) is None
    assert kernels.sgd_step([], [], max_norm=1.0) == 0.0
    empty = [np.zeros((0, 3), dtype) for _ in range(4)]
    assert kernels.adam_step(*([e] for e in empty), 1, max_norm=1.0) == 0.0


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(range(5), 2)))
def test_every_list_has_memory_of_its_own(first: int, second: int) -> None:
    names = ["params", "grads", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs"]
    arrays, memory = [np.ones(6) for _ in names], np.ones(8)
    arrays[first], arrays[second] = memory[:6], memory[2:]
    *lists, largest = ([a] for a in arrays)
    message = rf"\[adam_step\] {names[second]}: .* overlapping {names[first]} at index 0"
    with pytest.raises(ValueError, match=message):
        kernels.adam_step(*lists, 1, max_exp_avg_sqs=largest)
    assert_same_bits(memory, np.ones(8))


@pytest.mark.parametrize("memory", list(LAYOUTS))
def test_any_memory(dtype: Any, memory: str, rng: np.random.Generator) -> None:
    """Views are updated in place, gradients may be read-only."""
    start = State(rng, dtype, [(9, 21), (40,), (3, 4, 5)])
    place = "window" if memory == "read_only" else memory
    expected, views = start.copy(), start.mapped(lambda a: in_layout(place, a).view())
    views.grads = [in_layout(memory, g) for g in start.grads]
    for state in (expected, views):
        state.adam(kernels, 2, True, weight_decay=0.1, max_norm=0.5)
        state.sgd(kernels, 2, momentum=0.9, nesterov=True)
        state.adagrad(kernels, 2)
        state.rmsprop(kernels, True, 0.9)
    assert_same_state(views, expected, memory)


@pytest.mark.parametrize("strided", [False, True])
def test_nothing_beside_the_arrays_changes(
    dtype: Any, strided: bool, rng: np.random.Generator
) -> None:
    start = State(rng, dtype, [(n,) for n in LENGTHS])
    guards: list[Guarded] = []

    def guarded(a: Any) -> Any:
        guards.append(Guarded(a.shape, dtype, strided=strided))
        guards[-1].out[...] = a
        return guards[-1].out

    expected, views = start.copy(), start.mapped(guarded)
    for state in (expected, views):
        state.adam(kernels, 2, True, decoupled=True, weight_decay=0.1)
        state.sgd(kernels, 2, momentum=0.9)
        state.adagrad(kernels, 2)
        state.rmsprop(kernels, True, 0.9)
    assert_same_state(views, expected, "guarded")
    for guard in guards:
        guard.check()


def test_same_bits_for_every_thread_count_and_grouping(
    dtype: Any, rng: np.random.Generator
) -> None:
    shapes = [(100_003,), (1,), (300, 70), *[(17,)] * 30]
    start = State(rng, dtype, shapes)
    for max_norm in (None, 0.1):
        first: State | None = None
        for n in thread_counts():
            for _ in range(2):
                state = start.copy()
                norm = state.adam(kernels, 5, True, max_norm=max_norm, weight_decay=0.1)
                again = state.sgd(kernels, 5, momentum=0.9, max_norm=max_norm)
                state.adagrad(kernels, 5, max_norm=max_norm)
                state.rmsprop(kernels, False, 0.9, max_norm=max_norm)
                if first is None:
                    first, norms = state, (norm, again)
                assert (norm, again) == norms
                assert_same_state(state, first, f"{n} threads")
    # Without a global norm an array's update does not depend on its neighbours in the list.
    whole = start.copy()
    whole.adam(kernels, 5, True)
    for i in (0, 1, 2, 20):
        alone = start.mapped(np.copy)
        for name, arrays in vars(alone).items():
            setattr(alone, name, [arrays[i]])
        alone.adam(kernels, 5, True)
        assert_same_bits(alone.params[0], whole.params[i])


def test_nan_and_infinity_in_gradients(dtype: Any) -> None:
    grads = [np.array([1, np.nan, np.inf, -np.inf] * 9, dtype)]
    for name in ("sgd", "adam"):
        states = []
        for module in (kernels, reference):
            state = State(np.random.default_rng(0), dtype, [(36,)])
            state.grads = grads
            if name == "sgd":
                state.sgd(module, 2, momentum=0.5)
            else:
                state.adam(module, 2, False)
            states.append(state)
        for a, b in zip(states[0].params, states[1].params, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)
