"""The demo's task: scikit-learn's 1,797 handwritten digits, and the network that reads them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from arraynn._proof import Array
from arraynn.cli._errors import CliError

CLASSES = 10


@dataclass(frozen=True)
class Digits:
    """Images (n, 1, 8, 8) float32 in [0, 1] and labels (n,) int64, split in two."""

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array


@dataclass(frozen=True)
class Settings:
    """How to train."""

    epochs: int = 60
    batch_size: int = 64
    lr: float = 4e-3
    seed: int = 0
    dropout: float = 0.3
    label_smoothing: float = 0.1


@dataclass
class Trained:
    """A trained network and its course."""

    model: Any
    losses: list[float] = field(default_factory=list)
    predictions: Array = field(default_factory=lambda: np.empty(0, np.int64))


def load() -> tuple[Array, Array]:
    """Return all images (1797, 1, 8, 8) and labels.

    Raises
    ------
    CliError
        Without scikit-learn, which carries the data (the test part of the UCI "Optical
        Recognition of Handwritten Digits", 43 people's writing).
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise CliError("the digits come with scikit-learn: pip install scikit-learn") from None
    found = load_digits()
    images = (found.images / 16).astype(np.float32)[:, None]
    return images, found.target.astype(np.int64)


def stratified_split(labels: Array, test_share: float, seed: int) -> tuple[Array, Array]:
    """Return train and test indices with `test_share` of every class in the test part.

    Examples
    --------
    >>> train, test = stratified_split(np.array([0, 0, 1, 1, 0, 1]), 1 / 3, seed=0)
    >>> len(train), len(test)
    (4, 2)
    """
    rng = np.random.default_rng(seed)
    parts: tuple[list[Array], list[Array]] = ([], [])
    for label in np.unique(labels):
        mine = rng.permutation(np.flatnonzero(labels == label))
        count = round(test_share * len(mine))
        parts[1].append(mine[:count])
        parts[0].append(mine[count:])
    return np.sort(np.concatenate(parts[0])), np.sort(np.concatenate(parts[1]))


def split(images: Array, labels: Array, seed: int, test_share: float = 0.2) -> Digits:
    """Split the digits; the same seed gives the same split."""
    train, test = stratified_split(labels, test_share, seed)
    return Digits(images[train], labels[train], images[test], labels[test])


def shifted(x: Array, rng: np.random.Generator, share: float = 0.5) -> Array:
    """Move images by -1, 0 or 1 pixels in each direction; zeros come in.

    Parameters
    ----------
    x : (n, 1, h, w)
    rng : source of the shifts
    share : of the images that are moved, on average
    """
    n, _, h, w = x.shape
    padded = np.pad(x[:, 0], ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (h, w), axis=(1, 2))
    # A shift of (1, 1) into the padded image is the image itself.
    down, right = np.where(rng.random(n) < share, rng.integers(0, 3, (2, n)), 1)
    return np.ascontiguousarray(windows[np.arange(n), down, right][:, None])


def build(dropout: float) -> Any:
    """Return the textbook network for (n, 1, 8, 8) images."""
    from arraynn import nn

    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 64),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(64, CLASSES),
    )


def cosine(step: int, steps: int) -> float:
    """Share of the learning rate at `step` of `steps` (Loshchilov and Hutter 2016, eq. 5).

    >>> cosine(0, 10), round(cosine(5, 10), 6)
    (1.0, 0.5)
    """
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def training_step(
    model: Any, optimizer: Any, x: Array, y: Array, label_smoothing: float = 0.0
) -> float:
    """One step of gradient descent; returns the batch's mean loss."""
    from arraynn import Tensor, nn

    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(Tensor(x)), y, label_smoothing=label_smoothing)
    loss.backward()
    optimizer.step()
    return float(loss.item())


def predict(model: Any, x: Array) -> Array:
    """Class probabilities (n, 10)."""
    from arraynn import Tensor, kernels, no_grad

    model.eval()
    with no_grad():
        logits = model(Tensor(x)).numpy()
    return np.asarray(kernels.softmax(logits))


def train(digits: Digits, how: Settings, tick: Callable[[int, float], None]) -> Trained:
    """Train a network and predict the test part.

    Parameters
    ----------
    digits : the split
    how : the settings; its seed fixes initial weights, order, shifts and dropout
    tick : called after every epoch with its number (from 1) and mean loss
    """
    import arraynn
    from arraynn import optim

    arraynn.manual_seed(how.seed)
    rng = np.random.default_rng(how.seed)
    model = build(how.dropout)
    optimizer = optim.Adam(model.parameters(), lr=how.lr)
    n = len(digits.x_train)
    per_epoch = -(-n // how.batch_size)
    trained, step = Trained(model), 0
    for epoch in range(1, how.epochs + 1):
        model.train()
        order = rng.permutation(n)
        total = 0.0
        for start in range(0, n, how.batch_size):
            rows = order[start : start + how.batch_size]
            for group in optimizer.param_groups:
                group["lr"] = how.lr * cosine(step, how.epochs * per_epoch)
            x = shifted(digits.x_train[rows], rng)
            y = digits.y_train[rows]
            total += len(rows) * training_step(model, optimizer, x, y, how.label_smoothing)
            step += 1
        trained.losses.append(total / n)
        tick(epoch, total / n)
    trained.predictions = predict(model, digits.x_test).argmax(1)
    return trained


def confusion(truth: Array, predictions: Array) -> Array:
    """Counts (10, 10): row is the true digit, column the predicted one.

    >>> int(confusion(np.array([1, 1]), np.array([1, 7]))[1, 7])
    1
    """
    counts = np.zeros((CLASSES, CLASSES), np.int64)
    np.add.at(counts, (truth, predictions), 1)
    return counts


def confusion_text(counts: Array) -> str:
    """The confusion matrix with recall of each true and precision of each predicted digit."""
    with np.errstate(invalid="ignore"):
        recall = np.diag(counts) / counts.sum(1)
        precision = np.diag(counts) / counts.sum(0)
    lines = ["true\\predicted" + "".join(f"{c:5d}" for c in range(CLASSES)) + "   recall"]
    for c in range(CLASSES):
        cells = "".join(f"{v:5d}" if v else "    ." for v in counts[c])
        lines.append(f"{c:>14}{cells}  {100 * recall[c]:6.1f}%")
    lines.append("     precision" + "".join(f"{100 * p:5.0f}" for p in precision) + "  %")
    return "\n".join(lines)
