"""The base of the optimizers: parameter groups, state, and the one kernel call per group."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeAlias

import numpy as np

from arraynn import _array
from arraynn.autograd.tape import Array, enable_grad
from arraynn.autograd.tensor import Tensor

__all__ = ["Optimizer"]

Group: TypeAlias = dict[str, Any]
NOT_NEGATIVE = (0.0, math.inf)


def check_number(op: str, name: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raise unless ``value`` is a finite number with low <= value < high."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"[{op}] {name}: expected a number, got {type(value).__name__}")
    if not (math.isfinite(value) and low <= value < high):
        limit = f"of at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g})"
        raise ValueError(f"[{op}] {name}: expected a finite number {limit}, got {value}")


class Optimizer:
    """Base of the optimizers.

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        The parameters, or groups ``{"params": [...], "lr": ..., ...}`` with options of their own.
    defaults : dict
        Options of groups that do not set them.

    Attributes
    ----------
    param_groups : list of dict
        Options may be changed between steps; learning rate schedulers do.
    state : dict of Tensor to dict
        Arrays kept per parameter.
    """

    #: The options that are numbers, and the ranges [low, high) they lie in.
    _ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}

    def __init__(self, params: Iterable[Any], defaults: Group) -> None:
        self.defaults = defaults
        self.param_groups: list[Group] = []
        self.state: dict[Tensor, dict[str, Any]] = {}
        if isinstance(params, Tensor) or hasattr(params, "shape"):
            raise TypeError(
                f"[{self._op}] params: expected an iterable of tensors or dicts, "
                f"got {type(params).__name__}"
            )
        groups = list(params)
        if not groups:
            raise ValueError(f"[{self._op}] params: expected at least one parameter, got none")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    @property
    def _op(self) -> str:
        return type(self).__name__

    def _check_group(self, group: Group) -> None:
        """Raise if an option of the group is not valid."""
        for name, (low, high) in self._ranges.items():
            check_number(self._op, name, group[name], low, high)
        if group["max_norm"] is not None:
            check_number(self._op, "max_norm", group["max_norm"], 0.0)

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add a group of parameters with options of its own.

        Raises
        ------
        TypeError, ValueError
            If something in it is no leaf tensor, is already optimized, or an option is not valid.
        """
        if not isinstance(param_group, Mapping) or "params" not in param_group:
            raise TypeError(f"[{self._op}] param_group: expected a dict with 'params'")
        unknown = set(param_group) - set(self.defaults) - {"params", "initial_lr"}
        if unknown:
            raise ValueError(
                f"[{self._op}] param_group: expected options {' '.join(self.defaults)}, "
                f"got {' '.join(sorted(unknown))}"
            )
        given = param_group["params"]
        params = [given] if isinstance(given, Tensor) else list(given)
        seen = {id(p) for group in self.param_groups for p in group["params"]}
        for i, param in enumerate(params):
            if not isinstance(param, Tensor):
                raise TypeError(
                    f"[{self._op}] params[{i}]: expected a Tensor, got {type(param).__name__}"
                )
            if not param.is_leaf:
                raise ValueError(
                    f"[{self._op}] params[{i}]: expected a leaf, got the result of "
                    f"{param.node.name if param.node else ''}"
                )
            if id(param) in seen:
                raise ValueError(
                    f"[{self._op}] params[{i}]: expected each parameter once, got one a second time"
                )
            seen.add(id(param))
        group = {
            "params": params,
            **self.defaults,
            **{k: v for k, v in param_group.items() if k != "params"},
        }
        self._check_group(group)
        self.param_groups.append(group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients, or fill them with 0."""
        for group in self.param_groups:
            for param in group["params"]:
                if set_to_none or param.grad is None:
                    param.grad = None
                else:
                    with _array.beside(param.grad):
                        param.grad[...] = 0

    def step(
        self, closure: Callable[[], Any] | None = None, *, grad_scale: float | None = None
    ) -> Any:
        """Update every parameter that has a gradient; gradients are not changed.

        Parameters
        ----------
        closure : callable, optional
            Computes gradients anew and returns the loss.
        grad_scale : float, optional
            Gradients are divided by it before anything else.

        Returns
        -------
        object
            What the closure returned, else None.

        Raises
        ------
        ValueError, TypeError
            If an option, a scale or a gradient is not valid; parameters are then unchanged.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        if grad_scale is not None:
            check_number(self._op, "grad_scale", grad_scale, 0.0)
            if grad_scale == 0:
                raise ValueError(f"[{self._op}] grad_scale: expected a number above 0, got 0")
        calls = []
        for group in self.param_groups:
            self._check_group(group)
            ready = []
            for param in group["params"]:
                if param.grad is not None:
                    _check_grad(self._op, param)
                    ready.append(param)
            if ready:
                calls += [(group, params) for params in self._batches(ready)]
        max_norm = {group["max_norm"] for group, _ in calls}
        # One call clips by its own norm; several have to share the norm of all gradients.
        scale = grad_scale
        clip_in_kernel = len(calls) == 1
        if not clip_in_kernel and max_norm - {None}:
            if len(max_norm) > 1:
                raise ValueError(
                    f"[{self._op}] max_norm: expected one value for all groups, got "
                    f"{sorted(map(str, max_norm))}"
                )
            norm = _global_norm([p.grad for _, params in calls for p in params]) / (scale or 1.0)
            factor = min(1.0, max_norm.pop() / (norm + 1e-6))
            scale = (scale or 1.0) / factor if factor else math.inf
        for group, params in calls:
            scaling = {
                "maximize": group["maximize"],
                "grad_scale": scale,
                "max_norm": group["max_norm"] if clip_in_kernel else None,
            }
            for state in self._update(group, params, [p.grad for p in params], scaling):
                state["step"] += 1
            for param in params:
                param.version[0] += 1
        return loss

    def _batches(self, params: list[Tensor]) -> Iterable[list[Tensor]]:
        """Parameters by device, dtype and number of steps taken: usually one batch."""
        batches: dict[tuple[str, Any, int], list[Tensor]] = {}
        for param in params:
            state = self.state.get(param)
            data = param.data
            place = "cpu" if type(data) is np.ndarray else _array.device_of(data)
            key = (place, data.dtype, 0 if state is None else state["step"])
            batches.setdefault(key, []).append(param)
        return batches.values()

    def _states(self, params: list[Tensor], fills: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return the state of each parameter; arrays that are missing begin at their number."""
        states = []
        for param in params:
            state = self.state.get(param)
            if state is None:
                state = self.state[param] = {"step": 0}
            states.append(state)
        for name, value in fills.items():
            for param, state in zip(params, states, strict=True):
                if name not in state:
                    with _array.beside(param.data):
                        state[name] = np.full_like(param.data, value)
        return states

    def _update(
        self, group: Group, params: list[Tensor], grads: list[Array], scaling: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Run the kernel on parameters that have taken the same number of steps; their states."""
        raise NotImplementedError(type(self).__name__)

    # ---- state ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return ``{"state": {index: {...}}, "param_groups": [...]}`` in PyTorch's form.

        Parameters are numbered through all groups. The arrays are the optimizer's own memory.
        """
        index = {id(p): i for i, p in enumerate(p for g in self.param_groups for p in g["params"])}
        groups = [
            {
                **{k: v for k, v in g.items() if k != "params"},
                "params": [index[id(p)] for p in g["params"]],
            }
            for g in self.param_groups
        ]
        state = {index[id(p)]: dict(s) for p, s in self.state.items()}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copy options and state; nothing is changed when it raises.

        Raises
        ------
        ValueError
            If the groups do not have the sizes of this optimizer's, or a shape differs.
        """
        saved = state_dict["param_groups"]
        if len(saved) != len(self.param_groups):
            raise ValueError(
                f"[{self._op}] param_groups: expected {len(self.param_groups)} groups, "
                f"got {len(saved)}"
            )
        params: dict[int, Tensor] = {}
        groups = []
        for i, (own, other) in enumerate(zip(self.param_groups, saved, strict=True)):
            if len(own["params"]) != len(other["params"]):
                raise ValueError(
                    f"[{self._op}] param_groups[{i}]: expected {len(own['params'])} parameters, "
                    f"got {len(other['params'])}"
                )
            params.update(zip(other["params"], own["params"], strict=True))
            known = {
                k: copy.deepcopy(v)
                for k, v in other.items()
                if k in self.defaults or k == "initial_lr"
            }
            group = {**own, **known}
            self._check_group(group)
            groups.append(group)
        state: dict[Tensor, dict[str, Any]] = {}
        for key, entry in state_dict["state"].items():
            param = params[int(key)]
            loaded = {
                name: _load_entry(self._op, name, v, param)
                for name, v in entry.items()
                if v is not None
            }
            if loaded:
                loaded.setdefault("step", 1)  # PyTorch's SGD does not count
                state[param] = loaded
        for group, new in zip(self.param_groups, groups, strict=True):
            group.update(new)
        self.state = state

    def __repr__(self) -> str:
        lines = []
        for i, group in enumerate(self.param_groups):
            lines.append(f"  group {i}: {len(group['params'])} parameters")
            lines += [f"    {k}: {v}" for k, v in sorted(group.items()) if k != "params"]
        return f"{self._op}(\n" + "\n".join(lines) + "\n)"


def _load_entry(op: str, name: str, value: Any, param: Tensor) -> Any:
    if name == "step":
        return int(value)
    if hasattr(value, "detach"):
        value = value.detach()
    value = np.asarray(value) if not hasattr(value, "__array_ufunc__") else value
    if tuple(value.shape) != param.shape:
        raise ValueError(
            f"[{op}] state: expected {name} of shape {param.shape}, got {tuple(value.shape)}"
        )
    with _array.beside(value):
        value = value.astype(param.dtype)
    return _array.to_device(op, value, param.device)


def _check_grad(op: str, param: Tensor) -> None:
    grad, data = param.grad, param.data
    if grad is None or grad.shape != data.shape:
        got = None if grad is None else grad.shape
        raise ValueError(f"[{op}] grad: expected shape {data.shape} (as the parameter), got {got}")
    if grad.dtype != data.dtype:
        raise TypeError(f"[{op}] grad: expected {data.dtype} (as the parameter), got {grad.dtype}")
    if type(grad) is type(data) is np.ndarray:
        return
    here, there = _array.device_of(data), _array.device_of(grad)
    if here != there:
        raise TypeError(f"[{op}] grad: expected an array on {here} (as the parameter), got {there}")


def _global_norm(grads: list[Array]) -> float:
    """L2 norm over all gradients, summed in float64."""
    total = 0.0
    for grad in grads:
        with _array.beside(grad):
            wide = grad.astype(np.float64)
            total += float((wide * wide).sum())
    return math.sqrt(total)
