"""What a training run reports to: its history, callbacks, early stopping, metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from arraynn._progress import format_logs
from arraynn.autograd.tape import Array

if TYPE_CHECKING:
    from arraynn.train import Trainer

Metric: TypeAlias = Callable[[Array, Array], float]


def accuracy(outputs: Array, targets: Array) -> float:
    """Return the part of rows whose largest output is at the target.

    Parameters
    ----------
    outputs : array, (N, classes)
    targets : array of class indices, (N,), or of probabilities, (N, classes)

    Examples
    --------
    >>> import numpy as np
    >>> accuracy(np.array([[0.2, 0.8], [0.9, 0.1]]), np.array([1, 1]))
    0.5
    """
    if targets.ndim == outputs.ndim:
        targets = targets.argmax(axis=-1)
    return float((outputs.argmax(axis=-1) == targets).mean())


METRICS: dict[str, Metric] = {"accuracy": accuracy}


class History:
    """What a training run measured.

    Attributes
    ----------
    history : dict of str to list of float
        One value per epoch: ``loss``, metrics, the same with ``val_`` before, ``lr``.
    epochs : int
        Number of finished epochs.
    best_epoch : int or None
        Epoch (from 1) whose weights early stopping holds to be best.
    stop_reason : str
        completed, early_stopping, stopped (by a callback), interrupted or failed.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.epochs = 0
        self.best_epoch: int | None = None
        self.stop_reason = "completed"

    def __getitem__(self, name: str) -> list[float]:
        return self.history[name]

    def __contains__(self, name: str) -> bool:
        return name in self.history

    def append(self, logs: Mapping[str, float]) -> None:
        """Add the values of an epoch."""
        self.epochs += 1
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)

    def __repr__(self) -> str:
        last = {name: values[-1] for name, values in self.history.items()}
        return f"History({self.epochs} epochs, {self.stop_reason}: {format_logs(last)})"


class Callback:
    """Methods that :meth:`Trainer.fit` calls; ``trainer.stop_reason = "..."`` ends the training."""

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Before the first epoch."""

    def on_batch_end(self, trainer: Trainer, batch: int, loss: float) -> None:
        """After the optimizer's step on a batch."""

    def on_epoch_end(self, trainer: Trainer, epoch: int, logs: Mapping[str, float]) -> None:
        """After an epoch (counted from 1) and its validation."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """After the last epoch, also of an interrupted or failed training."""


class EarlyStopping(Callback):
    """Ends the training when a measure has not improved for ``patience`` epochs.

    Parameters
    ----------
    patience : int
        Epochs without improvement after which it ends.
    restore_best : bool
        At the end give the model the weights of its best epoch, however it ended.
    monitor : str, optional
        Name of the measure; ``val_loss``, or ``loss`` without validation data, when None.
    mode : {"auto", "min", "max"}
        Whether smaller or larger is better; auto takes "max" for names with ``accuracy``.
    min_delta : float
        Change that counts as an improvement.

    Raises
    ------
    ValueError
        If a parameter is out of range, or the monitored measure does not exist.
    """

    def __init__(
        self,
        patience: int = 5,
        restore_best: bool = True,
        *,
        monitor: str | None = None,
        mode: str = "auto",
        min_delta: float = 0.0,
    ) -> None:
        if patience < 1:
            raise ValueError(f"[EarlyStopping] patience: expected at least 1, got {patience}")
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"[EarlyStopping] mode: expected auto, min or max, got {mode!r}")
        if not min_delta >= 0:
            raise ValueError(f"[EarlyStopping] min_delta: expected at least 0, got {min_delta}")
        self.patience = patience
        self.restore_best = restore_best
        self.monitor = monitor
        self.mode = mode
        self.min_delta = min_delta
        self.on_fit_begin(None)

    def on_fit_begin(self, trainer: Trainer | None) -> None:
        """Forget earlier trainings."""
        del trainer
        self.best = math.inf
        self.best_epoch: int | None = None
        self.last_epoch = 0
        self.best_state: dict[str, Array] | None = None

    def on_epoch_end(self, trainer: Trainer, epoch: int, logs: Mapping[str, float]) -> None:
        """Compare with the best epoch so far."""
        name = self.monitor or ("val_loss" if "val_loss" in logs else "loss")
        if name not in logs:
            raise ValueError(
                f"[EarlyStopping] monitor: expected one of {' '.join(logs)}, got {name!r}"
            )
        larger = self.mode == "max" or (self.mode == "auto" and "accuracy" in name)
        value = -logs[name] if larger else logs[name]
        self.last_epoch = epoch
        if value < self.best - self.min_delta:
            self.best, self.best_epoch = value, epoch
            trainer.history.best_epoch = epoch
            if self.restore_best:
                state = trainer.model.state_dict()
                self.best_state = {key: array.copy() for key, array in state.items()}
        elif epoch - (self.best_epoch or 0) >= self.patience:
            trainer.stop_reason = "early_stopping"

    def on_fit_end(self, trainer: Trainer) -> None:
        """Bring back the best weights."""
        # Weights have moved on since, even within the epoch that was not finished.
        if self.best_state is not None:
            trainer.model.load_state_dict(self.best_state)
            self.best_state = None
