"""``python -m arraynn demo``: a small network on real handwritten digits."""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arraynn.cli._errors import CliError

if TYPE_CHECKING:
    from arraynn.cli import _digits

HELP = "Train a convolutional network on 1,797 handwritten digits, in under a minute."

_EPILOG = """\
The network: conv 32 3x3 - relu - max pool 2 - conv 64 3x3 - relu - max pool 2 - dense 64 - relu
- dropout 0.3 - dense 10, cross entropy with label smoothing 0.1, Adam with a cosine schedule.
Half of the training images, drawn anew in every epoch, are moved by up to one pixel. One fifth
of every class is held out and never trained on.

examples:
  python -m arraynn demo
  python -m arraynn demo --plot digits.png
  python -m arraynn demo --seeds 5            five splits and seeds, and their mean
  python -m arraynn demo --epochs 20 --save small.safetensors
"""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to train."""

    epochs: int = 60
    batch_size: int = 64
    lr: float = 4e-3
    seed: int = 0
    dropout: float = 0.3
    label_smoothing: float = 0.1


def _positive(kind: type) -> Any:
    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not (math.isfinite(value) and value > 0):
            raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
        return value

    return convert


def _seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"expected an integer in [0, 2**32), got {text!r}")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _EPILOG
    add, defaults = parser.add_argument, Settings()
    add("--epochs", type=_positive(int), help=f"default: {defaults.epochs}")
    add(
        "--batch-size",
        type=_positive(int),
        default=defaults.batch_size,
        help="default: %(default)s",
    )
    add("--lr", type=_positive(float), default=defaults.lr, help="default: %(default)s")
    add("--seed", type=_seed, default=0, help="of split, weights, order; default: 0")
    add(
        "--seeds",
        type=_positive(int),
        default=1,
        metavar="N",
        help="train N times with seeds SEED, SEED+1, ... and report the mean",
    )
    add("--quick", action="store_true", help="5 epochs: shows the course, not the accuracy")
    add(
        "--save",
        type=Path,
        default=Path("arraynn-digits.safetensors"),
        metavar="FILE",
        help="weights of the first seed; default: ./%(default)s",
    )
    add("--plot", type=Path, metavar="FILE", help="draw loss curve and test digits (matplotlib)")
    add("--threads", type=_positive(int), metavar="N", help="default: the library's")


def _check_target(option: str, path: Path) -> None:
    """Fail before the training where the result could not be written."""
    if not path.resolve().parent.is_dir():
        raise CliError(f"{option} {path}: no such directory")
    if path.is_dir():
        raise CliError(f"{option} {path}: is a directory")


def _train(data: tuple[Any, Any], how: Settings) -> tuple[_digits.Digits, Any, float]:
    """Train with one seed; returns the split, the result and the accuracy in percent."""
    from arraynn.cli import _digits

    digits = _digits.split(*data, how.seed)
    start = time.perf_counter()
    trained = _digits.train(digits, how)
    right = int(np.sum(trained.predictions == digits.y_test))
    accuracy = 100 * right / len(digits.y_test)
    seconds = time.perf_counter() - start
    print(
        f"seed {how.seed}: test accuracy {accuracy:.2f} %"
        f" ({right} of {len(digits.y_test)}), {seconds:.1f} s",
        flush=True,
    )
    return digits, trained, accuracy


def _used_kernels(digits: _digits.Digits, how: Settings) -> str:
    """The table of kernels, from one training step and one prediction of a new network."""
    from arraynn.cli import _digits, _kernel_table

    n = how.batch_size
    parts = (digits.x_train[:n], digits.y_train[:n], digits.x_test, digits.y_test)
    with _kernel_table.recorded() as calls:
        trained = _digits.train(
            _digits.Digits(*parts), dataclasses.replace(how, epochs=1), progress=False
        )
        _digits.probabilities(trained.logits)
    return _kernel_table.text(_kernel_table.measure(_kernel_table.distinct(calls)))


def run(args: argparse.Namespace) -> int:
    """Train, report, save."""
    import arraynn
    from arraynn.cli import _digits, _plot

    _check_target("--save", args.save)
    if args.plot:
        _check_target("--plot", args.plot)
        _plot.require()
    data = _digits.load()
    if args.threads:
        arraynn.set_num_threads(args.threads)
    epochs = args.epochs or (5 if args.quick else Settings().epochs)
    how = Settings(epochs, args.batch_size, args.lr, args.seed)
    config = arraynn.show_config()
    print(
        f"arraynn {arraynn.__version__}, {config['isa']}, {arraynn.get_num_threads()} threads; "
        f"{len(data[0])} digits of 8 x 8, one fifth of each class held out"
    )
    digits, first, accuracy = _train(data, how)
    found = [accuracy]
    for seed in range(args.seed + 1, args.seed + args.seeds):
        found.append(_train(data, dataclasses.replace(how, seed=seed))[2])
    if len(found) > 1:
        spread = float(np.std(found, ddof=1))
        mean = float(np.mean(found))
        print(f"mean of {len(found)} seeds: {mean:.2f} %, deviation {spread:.2f}")
    print(f"\nconfusion on the test part, seed {args.seed}:")
    print(_digits.confusion_text(_digits.confusion(digits.y_test, first.predictions)))
    arraynn.io.save_file(first.model.state_dict(), args.save)
    print(f"\nweights saved to {args.save}")
    if args.plot:
        probabilities = _digits.probabilities(first.logits)
        _plot.draw(args.plot, first.losses, digits.x_test, digits.y_test, probabilities)
        print(f"picture drawn to {args.plot}")
    print("\nkernels this network used, at its shapes (largest error against NumPy in float64):")
    print(_used_kernels(digits, how))
    return 0
