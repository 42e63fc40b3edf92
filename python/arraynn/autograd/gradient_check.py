"""Gradients against finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from arraynn import _array
from arraynn.autograd.tape import Array, no_grad
from arraynn.autograd.tensor import Tensor

__all__ = ["gradcheck"]

#: Inputs of at most this many elements altogether are also checked one element at a time.
FULL_CHECK_SIZE = 64

#: Random directions tried: along one alone an error can cancel by chance.
DIRECTIONS = 3


def _outputs(result: Any) -> list[Tensor]:
    found = list(result) if isinstance(result, tuple | list) else [result]
    return [t for t in found if isinstance(t, Tensor) and _array.is_floating(t.dtype)]


def gradcheck(
    function: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    *,
    eps: float = 1e-6,
    atol: float = 1e-7,
    rtol: float = 1e-6,
    seed: int = 0,
) -> bool:
    """Compare the gradients of ``function`` with central differences in float64.

    A random linear form of the outputs, ``L = sum(u * f(x))``, has the derivative
    ``sum(v * dL/dx)`` along a random direction ``v``; it is compared with
    ``(L(x + eps v) - L(x - eps v)) / (2 eps)`` along three directions, for each input alone and
    for all at once.
    When the inputs have at most 64 elements together, every element is compared as well.

    Parameters
    ----------
    function : callable
        Takes the inputs, returns a Tensor or several. It must give the same result every time,
        and have no kink within ``eps`` of the inputs.
    inputs : Tensor or sequence
        Those Tensors that require a gradient are checked; they must be float64.
    eps : float
        Step of the differences.
    atol, rtol : float
        Allowed absolute difference, and difference relative to the size of the terms summed.
    seed : int
        Of the random directions.

    Returns
    -------
    bool
        True; a wrong gradient raises.

    Raises
    ------
    AssertionError
        If a gradient differs: names the input, the numbers, and the element where known.
    TypeError
        If an input that requires a gradient is not float64.
    ValueError
        If no input requires a gradient.

    Examples
    --------
    >>> import numpy as np, arraynn as ann
    >>> x = ann.Tensor(np.array([0.3, -1.2]), requires_grad=True)
    >>> ann.autograd.gradcheck(lambda x: (x * x).exp(), x)
    True
    """
    args = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    checked = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad]
    if not checked:
        raise ValueError("[gradcheck] inputs: expected one that requires a gradient, got none")
    for i in checked:
        if args[i].dtype != np.float64:
            raise TypeError(f"[gradcheck] inputs[{i}]: expected float64, got {args[i].dtype}")
    rng = np.random.default_rng(seed)
    points = {i: args[i].data.copy() for i in checked}

    def evaluate(at: dict[int, Array]) -> list[Tensor]:
        trial = list(args)
        for i in checked:
            trial[i] = Tensor(at[i].copy(), requires_grad=True)
        results = _outputs(function(*trial))
        leaves.update({i: trial[i] for i in checked})
        return results

    leaves: dict[int, Tensor] = {}
    outputs = evaluate(points)
    if not outputs:
        raise ValueError("[gradcheck] function: expected a floating Tensor, got none")
    forms = [rng.standard_normal(t.shape) for t in outputs]
    for output, form in zip(outputs, forms, strict=True):
        if output.requires_grad:
            output.backward(form, retain_graph=True)
    grads = {
        i: np.zeros_like(points[i]) if leaf.grad is None else leaf.grad.copy()
        for i, leaf in leaves.items()
    }
    for i in checked:
        if grads[i].shape != points[i].shape or grads[i].dtype != points[i].dtype:
            raise AssertionError(
                f"[gradcheck] inputs[{i}]: expected a gradient {points[i].dtype}"
                f"{points[i].shape}, got {grads[i].dtype}{grads[i].shape}"
            )

    @no_grad()
    def form_at(direction: dict[int, Array], step: float) -> float:
        moved = {
            i: points[i] + step * direction[i] if i in direction else points[i] for i in checked
        }
        return sum(
            float((t.data * form).sum()) for t, form in zip(evaluate(moved), forms, strict=True)
        )

    def compare(direction: dict[int, Array], where: str) -> None:
        numeric = (form_at(direction, eps) - form_at(direction, -eps)) / (2 * eps)
        terms = [grads[i] * v for i, v in direction.items()]
        analytic = sum(float(t.sum()) for t in terms)
        scale = sum(float(np.abs(t).sum()) for t in terms)
        if not abs(numeric - analytic) <= atol + rtol * max(scale, abs(numeric)):
            raise AssertionError(
                f"[gradcheck] {where}: expected slope {numeric:.9g} (finite difference), "
                f"got {analytic:.9g}"
            )

    for _ in range(DIRECTIONS):
        random = {i: rng.standard_normal(points[i].shape) for i in checked}
        for i in checked:
            compare({i: random[i]}, f"inputs[{i}]")
        compare(random, "all inputs")
    if sum(p.size for p in points.values()) <= FULL_CHECK_SIZE:
        for i in checked:
            for index in np.ndindex(points[i].shape):
                unit = np.zeros_like(points[i])
                unit[index] = 1.0
                compare({i: unit}, f"inputs[{i}]{list(index)}")
    return True
