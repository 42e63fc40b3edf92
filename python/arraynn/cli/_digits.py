"""The demo's task: scikit-learn's 1,797 handwritten digits, and the network that reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import arraynn
from arraynn import kernels, nn, optim
from arraynn._progress import ProgressBar
from arraynn._proof import Array
from arraynn.cli._errors import CliError
from arraynn.train import Callback, Trainer

if TYPE_CHECKING:
    from arraynn.cli.demo import Settings

CLASSES = 10


@dataclass(frozen=True)
class Digits:
    """Images (n, 1, 8, 8) float32 in [0, 1] and labels (n,) int64, split in two."""

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array


@dataclass(frozen=True)
class Trained:
    """A trained network, its mean loss in each epoch, its logits (n, 10) on the test part."""

    model: Any
    losses: list[float]
    logits: Array

    @property
    def predictions(self) -> Array:
        """Predicted digit of each test image."""
        return np.asarray(self.logits.argmax(1))


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


class _Course(Callback):
    """Shifts the training images anew in every epoch, and shows how the loss falls."""

    def __init__(self, images: Array, rng: np.random.Generator, bar: ProgressBar) -> None:
        self._images, self._rng, self._bar = images, rng, bar
        self.shifted = images.copy()

    def on_fit_begin(self, trainer: Trainer) -> None:  # noqa: ARG002
        """Shift for the first epoch."""
        self.shifted[...] = shifted(self._images, self._rng)

    def on_epoch_end(
        self,
        trainer: Trainer,
        epoch: int,  # noqa: ARG002
        logs: Mapping[str, float],
    ) -> None:
        """Shift for the next epoch; the trainer reads the same array."""
        self.on_fit_begin(trainer)
        self._bar.update(f"loss {logs['loss']:.4f}")


def train(digits: Digits, how: Settings, progress: bool = True) -> Trained:
    """Train a network and predict the test part.

    Parameters
    ----------
    digits : the split
    how : the settings; its seed fixes initial weights, order, shifts and dropout
    progress : show a bar on a terminal
    """
    arraynn.manual_seed(how.seed)
    model = build(how.dropout)
    optimizer = optim.Adam(model.parameters(), lr=how.lr)
    steps = how.epochs * -(-len(digits.x_train) // how.batch_size)
    trainer = Trainer(
        model,
        nn.CrossEntropyLoss(label_smoothing=how.label_smoothing),
        optimizer,
        scheduler=optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        schedule_batches=True,
    )
    with ProgressBar(how.epochs, f"seed {how.seed}", progress) as bar:
        course = _Course(digits.x_train, np.random.default_rng(how.seed), bar)
        history = trainer.fit(
            course.shifted,
            digits.y_train,
            epochs=how.epochs,
            batch_size=how.batch_size,
            seed=how.seed,
            callbacks=[course],
            progress=False,
        )
    return Trained(model, history["loss"], trainer.predict(digits.x_test))


def probabilities(logits: Array) -> Array:
    """Softmax of logits (n, 10)."""
    return np.asarray(kernels.softmax(logits))


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
