"""``train vit``: a small vision Transformer that reads scikit-learn's handwritten digits."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import arraynn
from arraynn import nn, optim
from arraynn._interrupt import deferred_interrupt
from arraynn._progress import ProgressBar
from arraynn._proof import Array
from arraynn.autograd import Tensor, no_grad
from arraynn.cli import _charlm, _digits
from arraynn.cli._errors import CliError
from arraynn.nn import functional as F

if TYPE_CHECKING:
    from arraynn.cli.train import VitSettings

_FORMAT = "arraynn vit 1"

#: Epochs over which the learning rate rises to its highest.
_WARM_UP = 5


class Vit(nn.Module):
    """Patches of 2 x 2 pixels and learned positions - encoder layers - mean - dense: 10 logits.

    Normalisation comes first in each layer. The patches' mean takes the place of a class token, as
    in L. Beyer et al., "Better plain ViT baselines for ImageNet-1k", arXiv:2205.01580.
    """

    def __init__(self, hidden: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, hidden, 2, stride=2)
        self.positions = nn.Parameter(np.zeros((1, 16, hidden), np.float32))
        nn.init.normal_(self.positions, std=0.02)
        layer = nn.TransformerEncoderLayer(
            *(hidden, heads, 2 * hidden, dropout, "gelu"), batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(hidden))
        for name, parameter in self.encoder.named_parameters():
            if parameter.ndim > 1 and name.endswith("weight"):
                nn.init.xavier_uniform_(parameter)
        self.head = nn.Linear(hidden, _digits.CLASSES)

    def forward(self, images: Any) -> Any:
        """Return logits (n, 10) of images (n, 1, 8, 8)."""
        x = F.flatten(self.patches(images), 2).transpose(1, 2) + self.positions
        return self.head(self.encoder(x).mean(1))


@dataclasses.dataclass
class Run:
    """A training on its way: everything a checkpoint holds."""

    settings: VitSettings
    digits: _digits.Digits
    model: Vit
    optimizer: optim.Adam
    step: int = 0

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.digits.x_train) // self.settings.batch_size)

    @property
    def steps(self) -> int:
        """Steps altogether."""
        return self.settings.epochs * self.epoch_steps


def start(settings: VitSettings) -> Run:
    """Begin with drawn weights."""
    digits = _digits.split(*_digits.load(), settings.seed)
    arraynn.manual_seed(settings.seed)
    model = Vit(settings.hidden, settings.layers, settings.heads, settings.dropout)
    optimizer = optim.AdamW(model.parameters(), settings.lr, weight_decay=0.05, max_norm=1.0)
    return Run(settings, digits, model, optimizer)


def _rate(run: Run) -> float:
    """Learning rate of the next step: up in a line, then down along a cosine."""
    rise = min(_WARM_UP * run.epoch_steps, run.steps // 4 + 1)
    if run.step < rise:
        return run.settings.lr * (run.step + 1) / rise
    done = (run.step - rise) / max(run.steps - rise, 1)
    return run.settings.lr * (0.505 + 0.495 * math.cos(math.pi * min(done, 1.0)))


def _batch(run: Run) -> tuple[Array, Array]:
    """Return the images and labels of the next step; half of the images are moved by a pixel.

    They follow from the seed and the number of the step, so that a resumed training has them too.
    """
    epoch, index = divmod(run.step, run.epoch_steps)
    seed = run.settings.seed
    order = np.random.default_rng((seed, epoch)).permutation(len(run.digits.x_train))
    size = run.settings.batch_size
    chosen = order[index * size : (index + 1) * size]
    rng = np.random.default_rng((seed, run.step, 1))
    arraynn.manual_seed(int(rng.integers(2**32)))  # of the dropout
    return _digits.shifted(run.digits.x_train[chosen], rng), run.digits.y_train[chosen]


def train_step(run: Run) -> float:
    """Learn from the next batch; returns its loss."""
    images, labels = _batch(run)
    logits = run.model(Tensor(images))
    loss = F.cross_entropy(logits, labels, label_smoothing=run.settings.label_smoothing)
    value = float(loss.item())
    if not math.isfinite(value):
        raise CliError(f"the loss of step {run.step + 1} is {value}; try a smaller --lr", 1)
    run.optimizer.zero_grad()
    loss.backward()
    for group in run.optimizer.param_groups:
        group["lr"] = _rate(run)
    run.optimizer.step()
    run.step += 1
    return value


@no_grad()
def predict(run: Run) -> Array:
    """Return the predicted digit of each test image."""
    run.model.eval()
    logits = run.model(Tensor(run.digits.x_test)).data
    run.model.train()
    return np.asarray(logits.argmax(1))


def accuracy(run: Run) -> float:
    """Return the share of test images that are read right, in percent."""
    return 100 * float(np.mean(predict(run) == run.digits.y_test))


def train(run: Run, progress: bool = True) -> bool:
    """Train to the last step; False when Ctrl-C ended it between two."""
    recent: deque[float] = deque(maxlen=run.epoch_steps)
    with (
        deferred_interrupt() as pressed,
        ProgressBar(run.steps - run.step, "vit", progress) as bar,
    ):
        while run.step < run.steps:
            recent.append(train_step(run))
            mean = sum(recent) / len(recent)
            bar.update(f"loss {mean:.4f}")
            epoch, rest = divmod(run.step, run.epoch_steps)
            if rest == 0 and epoch % run.settings.report_every == 0:
                bar.write(
                    f"epoch {epoch:>{len(str(run.settings.epochs))}}/{run.settings.epochs}  "
                    f"loss {mean:.4f}, test accuracy {accuracy(run):.2f} %"
                )
            if pressed:
                return False
    return True


def save(run: Run, path: Path) -> None:
    """Write weights, the optimizer's state and where the training is to a safetensors file."""
    arrays, steps = _charlm.state_arrays(run.model, run.optimizer)
    about = {
        "settings": dataclasses.asdict(run.settings),
        "step": run.step,
        "optimizer_steps": steps,
    }
    arraynn.io.save_file(arrays, path, {"format": _FORMAT, "vit": json.dumps(about)})


def load(path: Path, restore: Any) -> Run:
    """Read what :func:`save` wrote; ``restore`` makes the settings of those that were saved.

    Raises
    ------
    CliError
        If the file is not such a checkpoint.
    """
    try:
        metadata = arraynn.io.load_metadata(path)
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"expected {_FORMAT!r}, got {metadata.get('format')!r}")
        about = json.loads(metadata["vit"])
        run = start(restore(about["settings"]))
        arrays = arraynn.io.load_file(path)
        _charlm.restore_state(run.model, run.optimizer, arrays, about["optimizer_steps"])
        run.step = int(about["step"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CliError(f"{path} is no checkpoint of this command: {error}") from None
    return run


def run(args: argparse.Namespace, settings: VitSettings, restore: Any, target: Path) -> int:
    """Train, report, save."""
    training = start(settings) if args.resume is None else load(args.resume, restore)
    digits, config = training.digits, arraynn.show_config()
    parameters = sum(p.size for p in training.model.parameters())
    print(
        f"arraynn {arraynn.__version__}, {config['isa']}, {arraynn.get_num_threads()} threads; "
        f"{len(digits.x_train):,} digits of 8 x 8 to train on, {len(digits.x_test):,} held out, "
        f"one fifth of each class; {parameters:,} parameters",
        flush=True,
    )
    begin, first = time.perf_counter(), training.step
    finished = train(training)
    if training.step > first:
        save(training, target)
    if not finished:
        print(f"step {training.step} of {training.steps} saved; go on with --resume {target}")
        raise KeyboardInterrupt
    predictions = predict(training)
    right = int(np.sum(predictions == digits.y_test))
    seconds = time.perf_counter() - begin
    print(
        f"test accuracy {100 * right / len(digits.y_test):.2f} % ({right} of "
        f"{len(digits.y_test)}) after {training.settings.epochs} epochs, {seconds:.1f} s"
    )
    print("\n" + _digits.confusion_text(_digits.confusion(digits.y_test, predictions)))
    if training.step > first:
        print(f"\nsaved to {target}")
    return 0
