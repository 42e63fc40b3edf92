"""The demo's picture: the loss curve, and test digits with their predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from arraynn._proof import Array
from arraynn.cli._errors import CliError


def require() -> None:
    """Raise CliError without matplotlib, before the training rather than after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise CliError("--plot needs matplotlib: pip install matplotlib") from None


def chosen(truth: Array, predictions: Array, confidence: Array, count: int) -> Array:
    """Indices to show: two thirds wrong or uncertain ones, then right ones from all classes."""
    right = predictions == truth
    order = np.lexsort((confidence, right))
    doubtful = order[: 2 * count // 3]
    rest = np.setdiff1d(np.flatnonzero(right), doubtful)
    rest = rest[np.argsort(truth[rest], kind="stable")]
    at = np.linspace(0, len(rest) - 1, min(len(rest), count - len(doubtful)))
    return np.concatenate([doubtful, rest[at.astype(int)]])


def draw(
    path: Path, losses: list[float], images: Array, truth: Array, probabilities: Array
) -> None:
    """Write the picture.

    Parameters
    ----------
    path : file whose ending names the format
    losses : mean loss of each epoch
    images : (n, 1, 8, 8) test digits
    truth : (n,) their labels
    probabilities : (n, 10) predictions
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    predictions, confidence = probabilities.argmax(1), probabilities.max(1)
    shown = chosen(truth, predictions, confidence, 15)
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    halves: Any = figure.subfigures(1, 2, width_ratios=[1, 1.25])
    left, right = halves
    axes = left.subplots()
    axes.semilogy(range(1, len(losses) + 1), losses, color="tab:blue")
    axes.set(xlabel="epoch", ylabel="training loss (smoothed labels, dropout, shifts)")
    axes.grid(True, which="both", alpha=0.25)
    share = float(np.mean(predictions == truth))
    axes.set_title(f"test accuracy {100 * share:.2f} %")
    right.suptitle("test digits: prediction (certainty); wrong ones in red", fontsize=10)
    grid: Any = right.subplots(3, 5)
    for cell, i in zip(grid.flat, shown, strict=False):
        cell.imshow(images[i, 0], cmap="gray_r", vmin=0, vmax=1)
        good = predictions[i] == truth[i]
        text = f"{predictions[i]} ({100 * confidence[i]:.0f} %)"
        title = text if good else f"{text}, is {truth[i]}"
        cell.set_title(title, fontsize=8, color="black" if good else "tab:red")
    for cell in grid.flat:
        cell.set_axis_off()
    try:
        figure.savefig(path, dpi=130)
    except ValueError as error:
        raise CliError(f"--plot {path}: {error}") from None
