"""A language model of characters: its text, its network, its training and its checkpoints."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sysconfig
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

import arraynn
from arraynn import nn, optim
from arraynn._interrupt import deferred_interrupt
from arraynn._progress import ProgressBar
from arraynn._proof import Array
from arraynn.autograd import Tensor, no_grad
from arraynn.cli._errors import CliError
from arraynn.nn import functional as F

if TYPE_CHECKING:
    from arraynn.cli.train import Settings

#: What the network is called in messages.
NAME = "LSTM"

#: Parts of the standard library that are tests, other people's packages, or not source.
_SKIPPED = {
    "__pycache__", "dist-packages", "ensurepip", "idlelib", "lib2to3", "site-packages", "test",
    "tests", "turtledemo",
}  # fmt: skip

#: Characters rarer than this in the training part share one symbol.
_RARE = 20

#: Symbols at most: the network's input has one element for each.
_MOST_SYMBOLS = 2000

#: What a symbol for rare characters is written as.
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"

_HELD_OUT = 0.1

#: The held-out part is read in this many streams, fewer where they would be short: each begins
#: without anything before it, which costs a few characters.
_STREAMS = 32
_STREAM_CHARACTERS = 2000


def library_text(characters: int, seed: int) -> str:
    """Return sources of Python's standard library, whole files in an order drawn from `seed`."""
    root = sysconfig.get_paths()["stdlib"]
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - _SKIPPED)
        files += [Path(folder, name) for name in sorted(names) if name.endswith(".py")]
    parts: list[str] = []
    size = 0
    for index in np.random.default_rng(seed).permutation(len(files)):
        if size >= characters:
            break
        parts.append(files[index].read_text(encoding="utf-8", errors="replace"))
        size += len(parts[-1])
    if not size:
        raise CliError(f"no sources in {root}; name a text with --text FILE")
    return "".join(parts)[:characters]


def read_text(path: Path, characters: int) -> str:
    """Return at most the first `characters` of a UTF-8 file."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(characters)


@dataclass(frozen=True)
class Corpus:
    """A text as symbols: the first nine tenths to train on, the rest held out.

    Symbol 0 stands for every character that `alphabet` does not have; the others are numbered as
    they stand in it.
    """

    alphabet: str
    train: Array
    held_out: Array
    digest: str

    @property
    def size(self) -> int:
        """Number of symbols."""
        return len(self.alphabet) + 1

    def spell(self, symbols: Any) -> str:
        """Return symbols as text."""
        spelled = _UNKNOWN + self.alphabet
        return "".join(spelled[s] for s in symbols)


def encode(text: str, alphabet: str) -> Array:
    """Return the symbol of every character, int64."""
    symbols = np.zeros(0x110000, np.int64)
    symbols[[ord(c) for c in alphabet]] = np.arange(1, len(alphabet) + 1)
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return np.asarray(symbols[points])


def make_corpus(text: str, alphabet: str | None = None) -> Corpus:
    """Split a text and number its characters, by a given alphabet or its own."""
    cut = len(text) - int(len(text) * _HELD_OUT)
    if alphabet is None:
        counts = Counter(text[:cut]).most_common(_MOST_SYMBOLS)
        alphabet = "".join(sorted(c for c, n in counts if n >= min(_RARE, max(cut // 100, 1))))
    symbols = encode(text, alphabet)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return Corpus(alphabet, symbols[:cut], symbols[cut:], digest)


def one_hot(symbols: Array, size: int) -> Array:
    """Return (..., size) float32 with a 1 at every symbol."""
    found = np.zeros((*symbols.shape, size), np.float32)
    np.put_along_axis(found, symbols[..., None], 1.0, axis=-1)
    return found


class CharModel(nn.Module):
    """One-hot characters - LSTM - dense: logits of the next character after every one."""

    def __init__(self, symbols: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.symbols = symbols
        self.lstm = nn.LSTM(symbols, hidden, layers)
        self.head = nn.Linear(hidden, symbols)
        # A symbol picks one column of weight_ih: it takes the place of a whole embedding.
        own = self.lstm.state_dict()
        nn.init.normal_(own["weight_ih_l0"], std=0.5)
        for layer in range(layers):  # remember at first (Jozefowicz et al., 2015)
            own[f"bias_ih_l{layer}"][hidden : 2 * hidden] += 1

    def forward(self, symbols: Any, state: Any = None) -> Any:
        """Return logits (T, B, symbols) and the state for symbols (T, B)."""
        y, state = self.lstm(Tensor(one_hot(symbols, self.symbols)), state)
        return self.head(y), state


@dataclass
class Run:
    """A training on its way: everything a checkpoint holds."""

    task: ClassVar[str] = "charlm"
    settings: Settings
    corpus: Corpus
    model: nn.Module
    optimizer: optim.Adam
    step: int = 0
    position: int = 0  # of the next input within every stream
    state: tuple[Array, Array] | None = None  # of the LSTM after the last step
    spent: float = 0.0  # seconds in steps

    @property
    def done(self) -> float:
        """Share of the training that is over, of its time or of its steps."""
        settings = self.settings
        if settings.seconds is not None:
            return self.spent / settings.seconds
        return self.step / settings.steps

    @property
    def place(self) -> str:
        """Where the training is, in words."""
        settings = self.settings
        if settings.seconds is not None:
            return f"step {self.step}, {self.spent:.1f} of {settings.seconds:g} s"
        return f"step {self.step:>{len(str(settings.steps))}}/{settings.steps}"


def start(corpus: Corpus, settings: Settings) -> Run:
    """Begin with drawn weights."""
    arraynn.manual_seed(settings.seed)
    model = CharModel(corpus.size, settings.hidden, settings.layers)
    return Run(settings, corpus, model, optim.Adam(model.parameters(), settings.lr, max_norm=1.0))


# ---- training --------------------------------------------------------------------------------


def needed(settings: Settings) -> tuple[int, str]:
    """Return how many characters to train on are too few, and what for."""
    return settings.batch_size * 2, f"batches of {settings.batch_size}"


def _streams(symbols: Array, streams: int) -> tuple[Array, Array]:
    """Cut a text into as many columns: inputs (n, streams), and the symbols that follow them."""
    length = (len(symbols) - 1) // streams
    inputs, targets = symbols[: length * streams], symbols[1 : length * streams + 1]
    return inputs.reshape(streams, length).T, targets.reshape(streams, length).T


def rate(run: Run) -> float:
    """Learning rate of the next step: a cosine from `lr` down to a tenth of it."""
    return run.settings.lr * (0.55 + 0.45 * math.cos(math.pi * min(run.done, 1.0)))


def mean_loss(logits: Any, targets: Array) -> Any:
    """Return the mean cross entropy in nats."""
    return F.cross_entropy(logits.reshape(targets.size, -1), targets.reshape(-1))


def learn(run: Run, loss: Any, lr: float) -> float:
    """Take a step down the gradient of a loss in nats; returns the loss in bits."""
    value = float(loss.item()) / math.log(2)
    if not math.isfinite(value):
        raise CliError(f"the loss of step {run.step + 1} is {value}; try a smaller --lr", 1)
    run.optimizer.zero_grad()
    loss.backward()
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    run.optimizer.step()
    run.step += 1
    return value


def train_step(run: Run, inputs: Array, targets: Array) -> float:
    """Learn from the next piece of every stream; returns bits per character."""
    length = run.settings.length
    if run.position + 1 > len(inputs):
        run.position, run.state = 0, None
    piece = slice(run.position, run.position + length)
    state = None if run.state is None else tuple(Tensor(part) for part in run.state)
    logits, state = run.model(inputs[piece], state)
    value = learn(run, mean_loss(logits, targets[piece]), rate(run))
    run.position += length
    run.state = (state[0].data, state[1].data)
    return value


@no_grad()
def evaluate(run: Run) -> float:
    """Return bits per character on the held-out part, each read after those before it."""
    streams = min(max(len(run.corpus.held_out) // _STREAM_CHARACTERS, 1), _STREAMS)
    inputs, targets = _streams(run.corpus.held_out, streams)
    total, state = 0.0, None
    for begin in range(0, len(inputs), 128):
        piece = slice(begin, begin + 128)
        logits, state = run.model(inputs[piece], state)
        total += float(mean_loss(logits, targets[piece]).item()) * targets[piece].size
    return total / targets.size / math.log(2)


def train(run: Run, progress: bool = True) -> bool:
    """Train up to the settings' time or steps; False when Ctrl-C ended it between two steps."""
    inputs, targets = _streams(run.corpus.train, run.settings.batch_size)
    return repeat(run, lambda: train_step(run, inputs, targets), evaluate, progress)


def repeat(
    run: Run, step: Callable[[], float], judge: Callable[[Any], float], progress: bool
) -> bool:
    """Call `step`, which returns bits per character, and report; False after Ctrl-C."""
    settings = run.settings
    recent: deque[float] = deque(maxlen=50)
    before, characters = run.spent, 0
    timed = settings.seconds is not None
    left = (settings.seconds or 0) - run.spent if timed else settings.steps - run.step
    with (
        deferred_interrupt() as pressed,
        ProgressBar(max(math.ceil(left), 0), run.task, progress) as bar,
    ):
        while run.done < 1:
            begin = time.perf_counter()
            recent.append(step())
            run.spent += time.perf_counter() - begin
            seconds = run.spent - before
            characters += settings.batch_size * settings.length
            mean = sum(recent) / len(recent)
            if not timed or seconds >= bar.count + 1:
                bar.update(f"{mean:.3f} bits/char")
            if run.step % settings.report_every == 0:
                bar.write(
                    f"{run.place}  "
                    f"training {mean:.3f}, held out {judge(run):.3f} bits/char  "
                    f"{characters / seconds / 1000:.1f} thousand chars/s"
                )
            if pressed:
                return False
    return True


def pick(scores: Array, temperature: float, rng: np.random.Generator) -> int:
    """Draw the next symbol by its logits; temperature 0 takes the likeliest."""
    scores = scores.astype(np.float64)
    scores[0] = -np.inf  # the symbol of rare characters cannot be written
    if temperature > 0:
        scores = scores / temperature + rng.gumbel(size=len(scores))
    return int(scores.argmax())


@no_grad()
def sample(run: Run, prompt: str, characters: int, temperature: float, seed: int) -> str:
    """Return text that the model writes after `prompt`; temperature 0 takes the likeliest."""
    rng = np.random.default_rng(seed)
    symbols = encode(prompt, run.corpus.alphabet)
    written: list[int] = []
    state = None
    for _ in range(characters):
        logits, state = run.model(symbols[:, None], state)
        written.append(pick(logits.data[-1, 0], temperature, rng))
        symbols = np.array(written[-1:])
    return prompt + run.corpus.spell(written)


# ---- checkpoints -----------------------------------------------------------------------------


def _format(task: str) -> str:
    return f"arraynn {task} 1"


def state_arrays(
    model: nn.Module, optimizer: optim.Adam
) -> tuple[dict[str, Array], dict[str, int]]:
    """Return weights and the optimizer's arrays by name, and its count of steps by parameter."""
    arrays = {f"model.{name}": value for name, value in model.state_dict().items()}
    steps = {}
    for index, entry in optimizer.state_dict()["state"].items():
        steps[str(index)] = entry["step"]
        for name, value in entry.items():
            if isinstance(value, np.ndarray):
                arrays[f"optimizer.{index}.{name}"] = value
    return arrays, steps


def restore_state(
    model: nn.Module, optimizer: optim.Adam, arrays: dict[str, Array], steps: dict[str, int]
) -> None:
    """Take what :func:`state_arrays` returned."""
    model.load_state_dict(dict(_entries(arrays, "model.")))
    state: dict[int, dict[str, Any]] = {}
    for name, value in _entries(arrays, "optimizer."):
        index, _, field = name.partition(".")
        entry = state.setdefault(int(index), {"step": steps[index]})
        entry[field] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def save(run: Run, path: Path) -> None:
    """Write weights, the optimizer's state and where the training is to a safetensors file."""
    arrays, steps = state_arrays(run.model, run.optimizer)
    if run.state is not None:
        arrays["state.h"], arrays["state.c"] = run.state
    about = {
        "settings": asdict(run.settings),
        "alphabet": run.corpus.alphabet,
        "digest": run.corpus.digest,
        "step": run.step,
        "spent": run.spent,
        "position": run.position,
        "optimizer_steps": steps,
    }
    arraynn.io.save_file(arrays, path, {"format": _format(run.task), run.task: json.dumps(about)})


def _entries(arrays: dict[str, Array], prefix: str) -> Iterator[tuple[str, Array]]:
    for name, value in arrays.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), value


def load(
    path: Path,
    restore: Callable[[dict[str, Any]], Settings],
    text: Callable[[Settings], str],
    begin: Callable[[Corpus, Any], Run] = start,
    task: str = Run.task,
) -> Run:
    """Read what :func:`save` wrote.

    Parameters
    ----------
    path : file
    restore : makes the settings to go on with of those that were saved
    text : gives the text for them
    begin : makes the run that takes what was saved
    task : which command it is of

    Raises
    ------
    CliError
        If the file is not such a checkpoint.
    """
    try:
        metadata = arraynn.io.load_metadata(path)
        if metadata.get("format") != _format(task):
            raise ValueError(f"expected {_format(task)!r}, got {metadata.get('format')!r}")
        arrays = arraynn.io.load_file(path)
        about = json.loads(metadata[task])
        settings = restore(about["settings"])
        corpus = make_corpus(text(settings), about["alphabet"])
        run = begin(corpus, settings)
        restore_state(run.model, run.optimizer, arrays, about["optimizer_steps"])
        run.step, position = int(about["step"]), int(about["position"])
        run.spent = float(about.get("spent", 0.0))  # earlier checkpoints have none
        if corpus.digest == about["digest"] and "state.h" in arrays:
            run.position, run.state = position, (arrays["state.h"], arrays["state.c"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CliError(f"{path} is no checkpoint of this command: {error}") from None
    return run
