"""Learning rates that change with the epoch, with PyTorch's names and values.

A scheduler sets the groups' ``lr`` when it is made and at every ``step()``, to be called after the
optimizer's. Those given by a factor multiply the present rate by the factor's change, so that
several may act on one optimizer.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from typing import Any

from arraynn.optim.optimizer import Optimizer, check_number

__all__ = [
    "CosineAnnealingLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "ReduceLROnPlateau",
    "StepLR",
]


def _check_count(op: str, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"[{op}] {name}: expected an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"[{op}] {name}: expected at least 1, got {value}")


def _per_group(op: str, name: str, value: Any, optimizer: Optimizer) -> list[Any]:
    """One value per parameter group from one value or a list of as many."""
    count = len(optimizer.param_groups)
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise ValueError(
            f"[{op}] {name}: expected {count} values (one per group), got {len(value)}"
        )
    return list(value)


class LRScheduler:
    """Base of the schedulers.

    Parameters
    ----------
    optimizer : Optimizer
    last_epoch : int
        The epoch reached, -1 for a new start; else the groups must have an ``initial_lr``.

    Attributes
    ----------
    base_lrs : list of float
        Rate of each group before any schedule.
    last_epoch : int
        Number of steps taken after the first, which is taken when the scheduler is made.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"[{type(self).__name__}] optimizer: expected an Optimizer, "
                f"got {type(optimizer).__name__}"
            )
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    f"[{type(self).__name__}] param_groups[{i}]: expected 'initial_lr' to resume "
                    f"at epoch {last_epoch}, got none"
                )
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._last_lr: list[float] = []
        # Rates found at a resumption are those of its epoch already.
        self._resuming = last_epoch != -1
        self.step()
        self._resuming = False

    def get_lr(self) -> list[float]:
        """Return the rate of each group at ``last_epoch``; a subclass defines it."""
        raise NotImplementedError(type(self).__name__)

    def step(self) -> None:
        """Go to the next epoch and set the rates."""
        self.last_epoch += 1
        self._set(self.get_lr())

    def _set(self, rates: Sequence[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = list(rates)

    def _present(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def get_last_lr(self) -> list[float]:
        """Return the rates that were set last."""
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes, without the optimizer and functions."""
        return {k: v for k, v in self.__dict__.items() if k not in ("optimizer", "lr_lambdas")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state; the optimizer's rates come with the optimizer's own state."""
        self.__dict__.update(state_dict)


class _FactorLR(LRScheduler):
    """Rates of ``base_lr * factor(epoch)``."""

    def factor(self, epoch: int) -> float:
        """Return the factor at an epoch."""
        raise NotImplementedError(type(self).__name__)

    def get_lr(self) -> list[float]:
        """Return the present rates times the change of the factor."""
        if self._resuming:
            return self._present()
        now = self.factor(self.last_epoch)
        if self.last_epoch == 0:
            return [rate * now for rate in self._present()]
        before = self.factor(self.last_epoch - 1)
        if before == 0.0:  # no rate left to multiply
            return [base * now for base in self.base_lrs]
        return [rate * (now / before) for rate in self._present()]


class StepLR(_FactorLR):
    """The rate times ``gamma`` every ``step_size`` epochs.

    Examples
    --------
    >>> import arraynn as ann
    >>> optimizer = ann.optim.SGD([ann.Tensor([0.0], requires_grad=True)], lr=1.0)
    >>> scheduler = StepLR(optimizer, step_size=2, gamma=0.5)
    >>> rates = []
    >>> for _ in range(5):
    ...     rates.append(scheduler.get_last_lr()[0])
    ...     scheduler.step()
    >>> rates
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        _check_count("StepLR", "step_size", step_size)
        check_number("StepLR", "gamma", gamma, 0.0)
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, epoch: int) -> float:
        """Return the factor at an epoch."""
        return self.gamma ** (epoch // self.step_size)


class MultiStepLR(_FactorLR):
    """The rate times ``gamma`` at each of the epochs ``milestones``."""

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[int],
        gamma: float = 0.1,
        last_epoch: int = -1,
    ) -> None:
        check_number("MultiStepLR", "gamma", gamma, 0.0)
        self.milestones = sorted(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, epoch: int) -> float:
        """Return the factor at an epoch."""
        return self.gamma ** bisect.bisect_right(self.milestones, epoch)


class ExponentialLR(_FactorLR):
    """The rate times ``gamma`` every epoch."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        check_number("ExponentialLR", "gamma", gamma, 0.0)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, epoch: int) -> float:
        """Return the factor at an epoch."""
        return self.gamma**epoch


class LinearLR(_FactorLR):
    """The rate times a factor going linearly from start to end in ``total_iters`` epochs."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        _check_count("LinearLR", "total_iters", total_iters)
        for name, value in (("start_factor", start_factor), ("end_factor", end_factor)):
            check_number("LinearLR", name, value, 0.0)
            if value > 1:
                raise ValueError(f"[LinearLR] {name}: expected at most 1, got {value}")
        if start_factor == 0:
            raise ValueError("[LinearLR] start_factor: expected a number above 0, got 0")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def factor(self, epoch: int) -> float:
        """Return the factor at an epoch."""
        part = min(epoch, self.total_iters) / self.total_iters
        return self.start_factor + (self.end_factor - self.start_factor) * part


class LambdaLR(LRScheduler):
    """The initial rate times a function of the epoch, one function or one per group."""

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        self.lr_lambdas: list[Callable[[int], float]] = _per_group(
            "LambdaLR", "lr_lambda", lr_lambda, optimizer
        )
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the rate of each group."""
        pairs = zip(self.base_lrs, self.lr_lambdas, strict=True)
        return [base * function(self.last_epoch) for base, function in pairs]


class CosineAnnealingLR(LRScheduler):
    """From the initial rate to ``eta_min`` on half a cosine of ``T_max`` epochs, and back.

    ``eta_min + (base - eta_min) * (1 + cos(pi * epoch / T_max)) / 2`` (Loshchilov and Hutter,
    2017, without restarts).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_max: int,  # PyTorch's spelling
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        _check_count("CosineAnnealingLR", "T_max", T_max)
        check_number("CosineAnnealingLR", "eta_min", eta_min, 0.0)
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def _height(self, epoch: int) -> float:
        if epoch % (2 * self.T_max) == self.T_max:
            return 0.0  # cos(pi) as a float leaves a trace that must not be divided by
        return (1 + math.cos(math.pi * epoch / self.T_max)) / 2

    def get_lr(self) -> list[float]:
        """Return the present rate's height above ``eta_min`` times the change of the cosine."""
        if self.last_epoch == 0 or self._resuming:
            return self._present()
        now, before = self._height(self.last_epoch), self._height(self.last_epoch - 1)
        if before == 0.0:
            return [self.eta_min + (base - self.eta_min) * now for base in self.base_lrs]
        return [self.eta_min + (rate - self.eta_min) * (now / before) for rate in self._present()]


class OneCycleLR(LRScheduler):
    """Up to ``max_lr`` and down again in one cycle (Smith and Topin, 2017); step every batch.

    Parameters
    ----------
    optimizer : Optimizer
    max_lr : float or list of float
    total_steps : int, optional
        Or ``epochs * steps_per_epoch``.
    epochs, steps_per_epoch : int, optional
    pct_start : float
        Part of the cycle spent going up.
    anneal_strategy : {"cos", "linear"}
    cycle_momentum : bool
        Move momentum (Adam: the first beta) the other way, between the two bounds.
    base_momentum, max_momentum : float or list of float
    div_factor : float
        ``max_lr / div_factor`` is where the cycle starts.
    final_div_factor : float
        ``start / final_div_factor`` is where it ends.
    three_phase : bool
        Go down to the start in as many steps as up, then on to the end.
    last_epoch : int
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        op = "OneCycleLR"
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError(
                    f"[{op}] total_steps: expected it, or epochs and steps_per_epoch, got neither"
                )
            _check_count(op, "epochs", epochs)
            _check_count(op, "steps_per_epoch", steps_per_epoch)
            total_steps = epochs * steps_per_epoch
        _check_count(op, "total_steps", total_steps)
        if not 0 <= pct_start <= 1:
            raise ValueError(f"[{op}] pct_start: expected a number in [0, 1], got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"[{op}] anneal_strategy: expected cos or linear, got {anneal_strategy!r}"
            )
        for name, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
            check_number(op, name, value, 0.0)
            if value == 0:
                raise ValueError(f"[{op}] {name}: expected a number above 0, got 0")
        self.total_steps = total_steps
        self.anneal_strategy = anneal_strategy
        up = float(pct_start * total_steps) - 1
        if three_phase:
            # Where each phase ends, and which of (start, top, end) it goes from and to.
            self._phases = [(up, 0, 1), (2 * up, 1, 0), (total_steps - 1, 0, 2)]
        else:
            self._phases = [(up, 0, 1), (total_steps - 1, 1, 2)]
        tops = _per_group(op, "max_lr", max_lr, optimizer)
        for top in tops:
            check_number(op, "max_lr", top, 0.0)
        self._rates = [(top / div_factor, top, top / div_factor / final_div_factor) for top in tops]
        if last_epoch == -1:
            for group, (start, _, _) in zip(optimizer.param_groups, self._rates, strict=True):
                group["initial_lr"] = start
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            for group in optimizer.param_groups:
                if "momentum" not in group and "betas" not in group:
                    raise ValueError(
                        f"[{op}] cycle_momentum: expected an optimizer with momentum or betas"
                    )
            low = _per_group(op, "base_momentum", base_momentum, optimizer)
            high = _per_group(op, "max_momentum", max_momentum, optimizer)
            self._momenta = [(h, b, h) for h, b in zip(high, low, strict=True)]
        super().__init__(optimizer, last_epoch)

    def _anneal(self, start: float, end: float, part: float) -> float:
        if self.anneal_strategy == "linear":
            return start + (end - start) * part
        return end + (start - end) / 2 * (1 + math.cos(math.pi * part))

    def get_lr(self) -> list[float]:
        """Return the rates at ``last_epoch`` and set the momenta."""
        step = self.last_epoch
        if step >= self.total_steps:
            raise ValueError(
                f"[OneCycleLR] step: expected at most {self.total_steps} steps (total_steps), "
                f"got {step + 1}"
            )
        begin = 0.0
        first, last = 0, 0
        part = 1.0
        for end, first, last in self._phases:  # noqa: B007
            if step <= end or end == self._phases[-1][0]:
                part = (step - begin) / (end - begin) if end > begin else 1.0
                break
            begin = end
        if self.cycle_momentum:
            for group, values in zip(self.optimizer.param_groups, self._momenta, strict=True):
                momentum = self._anneal(values[first], values[last], part)
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum
        return [self._anneal(values[first], values[last], part) for values in self._rates]


class ReduceLROnPlateau(LRScheduler):
    """The rate times ``factor`` when a metric has not improved for ``patience`` epochs.

    Parameters
    ----------
    optimizer : Optimizer
    mode : {"min", "max"}
        Whether smaller or larger is better.
    factor : float in (0, 1)
    patience : int
        Epochs without improvement that are let pass.
    threshold : float
        What counts as an improvement, relative or absolute by ``threshold_mode``.
    threshold_mode : {"rel", "abs"}
    cooldown : int
        Epochs after a change in which none is counted.
    min_lr : float or list of float
    eps : float
        Smallest change that is made.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | list[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        op = "ReduceLROnPlateau"
        check_number(op, "factor", factor, 0.0, 1.0)
        if mode not in ("min", "max"):
            raise ValueError(f"[{op}] mode: expected min or max, got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"[{op}] threshold_mode: expected rel or abs, got {threshold_mode!r}")
        self.mode = mode
        self.reduce_factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.min_lrs = _per_group(op, "min_lr", min_lr, optimizer)
        self.eps = eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        """Return the present rates."""
        return self._present()

    def _better(self, metric: float) -> bool:
        minimum = self.mode == "min"
        change = -self.threshold if minimum else self.threshold
        bar = self.best * (1 + change) if self.threshold_mode == "rel" else self.best + change
        return metric < bar if minimum else metric > bar

    def step(self, metrics: Any = None) -> None:
        """Take the metric of an epoch into account.

        Parameters
        ----------
        metrics : float or Tensor
            NaN never improves.
        """
        if self.last_epoch == -1 and metrics is None:
            self.last_epoch = 0
            self._last_lr = self._present()
            return
        if metrics is None:
            raise TypeError("[ReduceLROnPlateau] metrics: expected a number, got None")
        self.last_epoch += 1
        metric = float(metrics)
        if self._better(metric):
            self.best = metric
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            rates = []
            for rate, low in zip(self._present(), self.min_lrs, strict=True):
                lower = max(rate * self.reduce_factor, low)
                rates.append(lower if rate - lower > self.eps else rate)
            self._set(rates)
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._last_lr = self._present()
