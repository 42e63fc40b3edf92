"""Training loops: batches, metrics, validation, early stopping, progress."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from arraynn._callbacks import METRICS, Callback, EarlyStopping, History, Metric, accuracy
from arraynn._interrupt import deferred_interrupt
from arraynn._progress import ProgressBar, format_logs
from arraynn.autograd.tape import Array, Variable, array_of, no_grad
from arraynn.autograd.tensor import Tensor
from arraynn.nn.module import Module
from arraynn.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from arraynn.optim.optimizer import Optimizer

__all__ = ["Callback", "EarlyStopping", "History", "Trainer", "accuracy"]


class _Means:
    """Means of the loss and metrics over rows."""

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self._metrics = metrics
        self._sums = dict.fromkeys(("loss", *metrics), 0.0)
        self._rows = 0

    def add(self, loss: float, outputs: Array, targets: Array, rows: int) -> None:
        self._rows += rows
        self._sums["loss"] += loss * rows
        for name, metric in self._metrics.items():
            self._sums[name] += float(metric(outputs, targets)) * rows

    def result(self, prefix: str = "") -> dict[str, float]:
        return {prefix + name: total / self._rows for name, total in self._sums.items()}


class Trainer:
    """Trains, evaluates and applies a model.

    Parameters
    ----------
    model : Module
    loss : callable
        Takes the model's output and the targets, returns a scalar Tensor; such as
        :class:`arraynn.nn.CrossEntropyLoss`.
    optimizer : Optimizer
    scheduler : LRScheduler, optional
        Stepped once per epoch; ReduceLROnPlateau gets ``val_loss``, or ``loss`` without
        validation data. Pass ``schedule_batches=True`` to step after every batch instead.
    metrics : sequence of "accuracy", or mapping of str to callable
        Each takes (outputs, targets) as arrays and returns a mean over rows.

    Raises
    ------
    TypeError, ValueError
        If something is not of the kind described.

    Examples
    --------
    >>> import numpy as np, arraynn as ann
    >>> _ = ann.manual_seed(0)
    >>> x = np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)
    >>> y = (x[:, 0] > x[:, 1]).astype(np.int64)
    >>> model = ann.nn.Linear(2, 2)
    >>> trainer = Trainer(model, ann.nn.CrossEntropyLoss(),
    ...                   ann.optim.Adam(model.parameters(), lr=0.1), metrics=["accuracy"])
    >>> history = trainer.fit(x, y, epochs=10, batch_size=16, progress=False)
    >>> history["loss"][-1] < history["loss"][0]
    True
    >>> trainer.predict(x).shape
    (64, 2)
    """

    def __init__(
        self,
        model: Module,
        loss: Callable[[Any, Any], Any],
        optimizer: Optimizer,
        *,
        scheduler: LRScheduler | None = None,
        schedule_batches: bool = False,
        metrics: Sequence[str] | Mapping[str, Metric] = (),
    ) -> None:
        for name, value, kind in (("model", model, Module), ("optimizer", optimizer, Optimizer)):
            if not isinstance(value, kind):
                raise TypeError(
                    f"[Trainer] {name}: expected {kind.__name__}, got {type(value).__name__}"
                )
        if isinstance(metrics, Mapping):
            chosen = dict(metrics)
        else:
            for metric_name in metrics:
                if metric_name not in METRICS:
                    raise ValueError(
                        f"[Trainer] metrics: expected names among {' '.join(METRICS)} or a "
                        f"mapping to functions, got {metric_name!r}"
                    )
            chosen = {metric_name: METRICS[metric_name] for metric_name in metrics}
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.schedule_batches = schedule_batches
        self.metrics: dict[str, Metric] = chosen
        self.history = History()
        #: Set it (to any text) to end the training after the present batch.
        self.stop_reason: str | None = None

    # ---- training ------------------------------------------------------------------------

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        epochs: int,
        batch_size: int = 32,
        validation_data: tuple[Any, Any] | None = None,
        shuffle: bool = True,
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        early_stopping: EarlyStopping | None = None,
        progress: bool = True,
    ) -> History:
        """Train on rows of ``x`` and ``y``.

        Parameters
        ----------
        x, y : arrays with as many rows
            Inputs and targets.
        epochs, batch_size : int
            The last batch of an epoch may be smaller.
        validation_data : (x, y), optional
            Evaluated after every epoch.
        shuffle : bool
            Visit the rows in a new order in every epoch.
        seed : int
            Of that order. Dropout follows :func:`arraynn.manual_seed`.
        callbacks : sequence of Callback
        early_stopping : EarlyStopping, optional
        progress : bool
            A bar on a terminal, and one line per epoch, on standard error.

        Returns
        -------
        History
            Also kept as ``trainer.history``.

        Raises
        ------
        ValueError
            If the row counts differ, there are no rows, or a count is below 1.
        FloatingPointError
            If a loss is not finite; the weights are those before that batch.
        KeyboardInterrupt
            On Ctrl-C, after the batch in progress; the model, the optimizer and ``history`` are
            consistent, and early stopping has brought back the best weights.
        """
        x, y = _rows("fit", x, y)
        for name, value in (("epochs", epochs), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"[fit] {name}: expected at least 1, got {value}")
        if validation_data is not None:
            validation_data = _rows("fit", *validation_data)
        watchers = [*callbacks, *([early_stopping] if early_stopping is not None else [])]
        rng = np.random.default_rng(seed)
        history = self.history = History()
        self.stop_reason = None
        history.stop_reason = "failed"
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            with deferred_interrupt() as pressed:
                for watcher in watchers:
                    watcher.on_fit_begin(self)
                for epoch in range(1, epochs + 1):
                    begin = time.perf_counter()
                    order = rng.permutation(len(x)) if shuffle else None
                    label = f"epoch {epoch:>{len(str(epochs))}}/{epochs}"
                    logs = self._epoch(x, y, order, batch_size, label, progress, watchers, pressed)
                    if validation_data is not None:
                        logs.update(self._measure(*validation_data, batch_size, "val_"))
                    logs["lr"] = self.optimizer.param_groups[0]["lr"]
                    history.append(logs)
                    self._step_scheduler(logs)
                    if progress:
                        seconds = time.perf_counter() - begin
                        print(
                            f"{label}  {format_logs(logs)}  {seconds:.2f} s",
                            file=sys.stderr,
                            flush=True,
                        )
                    for watcher in watchers:
                        watcher.on_epoch_end(self, epoch, logs)
                    if pressed:
                        raise KeyboardInterrupt
                    if self.stop_reason is not None:
                        break
            history.stop_reason = self.stop_reason or "completed"
        except KeyboardInterrupt:
            history.stop_reason = "interrupted"
            raise
        finally:
            self.optimizer.zero_grad()
            for module, mode in modes:
                module.training = mode
            for watcher in watchers:
                watcher.on_fit_end(self)
        return history

    def _epoch(
        self,
        x: Array,
        y: Array,
        order: Array | None,
        batch_size: int,
        label: str,
        progress: bool,
        watchers: Sequence[Callback],
        pressed: list[bool],
    ) -> dict[str, float]:
        """Train on every row once and return the means over them."""
        self.model.train()
        means = _Means(self.metrics)
        starts = range(0, len(x), batch_size)
        by_batch = self.scheduler if self.schedule_batches else None
        with ProgressBar(len(starts), label, progress) as bar:
            for batch, start in enumerate(starts, 1):
                stop = start + batch_size
                rows = slice(start, stop) if order is None else order[start:stop]
                inputs, targets = x[rows], y[rows]
                outputs = self.model(Tensor(inputs))
                loss = self.loss(outputs, targets)
                value = loss.item()
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"[fit] loss: expected a finite number, got {value} in {label}, batch "
                        f"{batch}; a smaller learning rate or max_norm= of the optimizer may help"
                    )
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                if by_batch is not None:
                    by_batch.step()
                means.add(value, array_of(outputs), targets, len(inputs))
                for watcher in watchers:
                    watcher.on_batch_end(self, batch, value)
                if pressed:
                    raise KeyboardInterrupt
                bar.update(f"loss {value:.4g}")
                if self.stop_reason is not None:
                    break
        return means.result()

    def _step_scheduler(self, logs: Mapping[str, float]) -> None:
        if self.scheduler is None or self.schedule_batches:
            return
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(logs.get("val_loss", logs["loss"]))
        else:
            self.scheduler.step()

    # ---- use -----------------------------------------------------------------------------

    @no_grad()
    def _batches(self, x: Array, batch_size: int) -> list[tuple[slice, Any]]:
        """Outputs of the model in evaluation mode, by rows."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            found = []
            for start in range(0, len(x), batch_size):
                rows = slice(start, start + batch_size)
                found.append((rows, self.model(Tensor(x[rows]))))
        finally:
            for module, mode in modes:
                module.training = mode
        return found

    def _measure(self, x: Array, y: Array, batch_size: int, prefix: str) -> dict[str, float]:
        means = _Means(self.metrics)
        with no_grad():
            for rows, outputs in self._batches(x, batch_size):
                loss = self.loss(outputs, y[rows]).item()
                means.add(loss, array_of(outputs), y[rows], len(y[rows]))
        return means.result(prefix)

    def evaluate(self, x: Any, y: Any, *, batch_size: int = 256) -> dict[str, float]:
        """Return the mean loss and metrics over all rows, in evaluation mode.

        Raises
        ------
        ValueError
            If the row counts differ, there are no rows, or the batch size is below 1.
        """
        x, y = _rows("evaluate", x, y)
        if batch_size < 1:
            raise ValueError(f"[evaluate] batch_size: expected at least 1, got {batch_size}")
        return self._measure(x, y, batch_size, "")

    def predict(self, x: Any, *, batch_size: int = 256) -> Array:
        """Return the model's outputs for all rows as an array, in evaluation mode.

        Raises
        ------
        ValueError
            If there are no rows, or the batch size is below 1.
        """
        x = array_of(x)
        if batch_size < 1:
            raise ValueError(f"[predict] batch_size: expected at least 1, got {batch_size}")
        if len(x) == 0:
            raise ValueError("[predict] x: expected at least one row, got none")
        outputs = [array_of(outputs) for _, outputs in self._batches(x, batch_size)]
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)


def _rows(op: str, x: Any, y: Any) -> tuple[Array, Array]:
    """Return arrays of inputs and targets with the same, positive number of rows."""
    pair = []
    for name, value in (("x", x), ("y", y)):
        array = array_of(value)
        if not isinstance(value, Variable) and not hasattr(array, "__array_ufunc__"):
            array = np.asarray(array)
        if array.ndim == 0:
            raise ValueError(f"[{op}] {name}: expected rows, got a scalar")
        pair.append(array)
    if len(pair[0]) != len(pair[1]):
        raise ValueError(f"[{op}] y: expected {len(pair[0])} rows (as x), got {len(pair[1])}")
    if len(pair[0]) == 0:
        raise ValueError(f"[{op}] x: expected at least one row, got none")
    return pair[0], pair[1]
