"""``python -m arraynn train``: models that are trained on data found on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arraynn.cli._errors import CliError
from arraynn.cli.demo import _check_target, _positive, _seed

if TYPE_CHECKING:
    from arraynn.cli import _charlm

HELP = (
    "Train a model on data of this machine: charlm and gpt, language models of characters; "
    "vit, a Transformer for handwritten digits."
)

_EPILOG = """\
examples:
  python -m arraynn train charlm
  python -m arraynn train gpt
  python -m arraynn train vit
  python -m arraynn train charlm --help
"""

_CHARLM_HELP = "Train an LSTM to predict the next character of Python's own sources."

_CHARLM_EPILOG = """\
The network: one-hot characters - LSTM - dense, cross entropy, Adam with gradients of norm at most
1 and a cosine schedule, truncated backpropagation with the state carried from piece to piece. One
tenth of the text is held out; an interpolated n-gram of order 3 (Witten-Bell), counted on the same
training part, is what the network has to beat there.

Ctrl-C saves before it ends the training; --resume goes on exactly where it was.

examples:
  python -m arraynn train charlm
  python -m arraynn train charlm --text book.txt --hidden 512 --steps 5000
  python -m arraynn train charlm --seconds 180
  python -m arraynn train charlm --resume arraynn-charlm.safetensors --steps 6000
  python -m arraynn train charlm --resume arraynn-charlm.safetensors --sample 2000 --prompt 'class '
"""

_GPT_HELP = "Train a small Transformer to predict the next character of Python's own sources."

_GPT_EPILOG = """\
The network: characters and sinusoidal positions - causal Transformer layers with the normalisation
first - dense, cross entropy, AdamW with gradients of norm at most 1, a warm-up and a cosine
schedule, pieces drawn from all over the text. Text and baseline are those of charlm. Samples are
written with a cache of keys and values.

Ctrl-C saves before it ends the training; --resume goes on exactly where it was.

examples:
  python -m arraynn train gpt
  python -m arraynn train gpt --text book.txt --hidden 256 --layers 6 --heads 8
  python -m arraynn train gpt --seconds 180
  python -m arraynn train gpt --resume arraynn-gpt.safetensors --sample 2000 --prompt 'class '
"""


_VIT_HELP = "Train a small vision Transformer on 1,797 handwritten digits, in about a minute."

_VIT_EPILOG = """\
The network: patches of 2 x 2 pixels and learned positions - Transformer layers with the
normalisation first - mean - dense 10, cross entropy with label smoothing, AdamW with gradients of
norm at most 1, a warm-up and a cosine schedule. Half of the training images are moved by up to one
pixel. One fifth of every class is held out and never trained on. The digits come with
scikit-learn.

Ctrl-C saves before it ends the training; --resume goes on exactly where it was.

examples:
  python -m arraynn train vit
  python -m arraynn train vit --hidden 96 --layers 4 --epochs 120
  python -m arraynn train vit --resume arraynn-vit.safetensors
"""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to train; part of a checkpoint."""

    hidden: int = 256
    layers: int = 1
    batch_size: int = 32
    length: int = 64
    steps: int = 3000
    lr: float = 4e-3
    seed: int = 0
    chars: int = 2_000_000
    report_every: int = 500
    #: Of training, in place of the number of steps.
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class GptSettings(Settings):
    """How to train the Transformer."""

    # Small batches: in the time of one of 32, four of 8 learn more.
    hidden: int = 96
    layers: int = 4
    batch_size: int = 8
    length: int = 128
    steps: int = 4500
    lr: float = 3e-3
    heads: int = 4


@dataclasses.dataclass(frozen=True)
class VitSettings:
    """How to train the vision Transformer; part of a checkpoint."""

    hidden: int = 64
    layers: int = 3
    heads: int = 4
    batch_size: int = 64
    epochs: int = 80
    lr: float = 4e-3
    seed: int = 0
    dropout: float = 0.1
    label_smoothing: float = 0.1
    report_every: int = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _EPILOG
    tasks = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    for name, text, epilog in (
        ("charlm", _CHARLM_HELP, _CHARLM_EPILOG),
        ("gpt", _GPT_HELP, _GPT_EPILOG),
        ("vit", _VIT_HELP, _VIT_EPILOG),
    ):
        task = tasks.add_parser(
            name,
            help=text,
            description=text,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_vit_arguments(task) if name == "vit" else _add_task_arguments(task, name)


#: The settings that are arguments, with what they are; heads is of gpt alone.
_OPTIONS = (
    ("hidden", int, "units of the LSTM", "features of a position, a multiple of the heads"),
    ("layers", int, "LSTM layers", "Transformer layers"),
    ("heads", int, "", "attention heads"),
    ("batch_size", int, "streams of text side by side", "pieces of text side by side"),
    ("length", int, "characters per stream and step", "characters of a piece: the context"),
    ("steps", int, "steps of training altogether", ""),
    ("seconds", float, "end the training, and its schedule, after so long instead", ""),
    ("lr", float, "learning rate", "highest learning rate"),
    ("chars", int, "characters of the text that are used", ""),
    ("report_every", int, "steps between two lines", ""),
)


def _kind(task: str) -> type[Settings]:
    return GptSettings if task == "gpt" else Settings


def _add_task_arguments(parser: argparse.ArgumentParser, task: str) -> None:
    add, how = parser.add_argument, _kind(task)()
    add("--text", type=Path, metavar="FILE", help="UTF-8; default: the standard library's sources")
    for name, kind, common, own in _OPTIONS:
        if hasattr(how, name):
            add(
                f"--{name.replace('_', '-')}",
                type=_positive(kind),
                metavar="X" if kind is float else "N",
                help=f"{(own if task == 'gpt' else '') or common}; "
                f"default: {'by --steps' if name == 'seconds' else getattr(how, name)}",
            )
    add("--seed", type=_seed, help="of weights and of the order of files; default: 0")
    add(
        "--save",
        type=Path,
        metavar="FILE",
        help=f"checkpoint; default: ./arraynn-{task}.safetensors, or that of --resume",
    )
    add("--resume", type=Path, metavar="FILE", help="go on from a checkpoint, with its settings")
    add(
        "--sample",
        type=_count,
        default=500,
        metavar="N",
        help="characters written at the end; default: %(default)s",
    )
    add(
        "--prompt",
        type=_prompt,
        default="\n\ndef ",
        help="what they begin with; default: a new function",
    )
    add("--temperature", type=_temperature, default=0.7, help="0: the likeliest; default: 0.7")
    add("--threads", type=_positive(int), metavar="N", help="default: the library's")


def _add_vit_arguments(parser: argparse.ArgumentParser) -> None:
    add, how = parser.add_argument, VitSettings()
    for name, kind, text in (
        ("hidden", int, "features of a patch, a multiple of the heads"),
        ("layers", int, "Transformer layers"),
        ("heads", int, "attention heads"),
        ("batch_size", int, "images of a step"),
        ("epochs", int, "passes over the training part altogether"),
        ("lr", float, "highest learning rate"),
        ("report_every", int, "epochs between two lines"),
    ):
        add(
            f"--{name.replace('_', '-')}",
            type=_positive(kind),
            metavar="X" if kind is float else "N",
            help=f"{text}; default: {getattr(how, name)}",
        )
    add("--seed", type=_seed, help="of the split, weights and order; default: 0")
    add(
        "--save",
        type=Path,
        metavar="FILE",
        help="checkpoint; default: ./arraynn-vit.safetensors, or that of --resume",
    )
    add("--resume", type=Path, metavar="FILE", help="go on from a checkpoint, with its settings")
    add("--threads", type=_positive(int), metavar="N", help="default: the library's")


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected an integer of at least 0, got {text!r}")
    return int(text)


def _prompt(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected at least one character")
    return text


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return value


def _model_of(task: str) -> Any:
    """Return the module of a task; imported late, for the speed of the other commands."""
    from arraynn.cli import _charlm, _gpt

    return _gpt if task == "gpt" else _charlm


def _given(args: argparse.Namespace, kind: Any) -> dict[str, Any]:
    """Return the settings among the arguments."""
    values = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if value is not None}


def _check_fixed(given: dict[str, Any], free: set[str]) -> None:
    """Raise where a checkpoint's settings are to be changed that it cannot go on with."""
    fixed = set(given) - free
    if fixed:
        raise CliError(f"--{min(fixed).replace('_', '-')} is fixed by --resume", 2)


def _check_heads(hidden: int, heads: int) -> None:
    if hidden % heads:
        raise CliError(f"--hidden: expected a multiple of {heads} heads, got {hidden}", 2)


def _open(args: argparse.Namespace) -> _charlm.Run:
    """Begin a training, or go on with a saved one."""
    from arraynn.cli import _charlm

    kind, model = _kind(args.task), _model_of(args.task)
    given = _given(args, kind)

    def text(settings: Settings) -> str:
        if args.text is not None:
            return _charlm.read_text(args.text, settings.chars)
        return _charlm.library_text(settings.chars, settings.seed)

    def restore(saved: dict[str, Any]) -> Settings:
        _check_fixed(given, {"steps", "seconds", "lr", "report_every"})
        if "steps" in given:
            saved = {**saved, "seconds": None}
        return dataclasses.replace(kind(**saved), **given)

    if args.resume is not None:
        resumed: _charlm.Run = model.load(args.resume, restore, text)
        return resumed
    settings = kind(**given)
    if isinstance(settings, GptSettings):
        _check_heads(settings.hidden, settings.heads)
    begun: _charlm.Run = model.start(_charlm.make_corpus(text(settings)), settings)
    return begun


def _check_length(run: _charlm.Run) -> None:
    """Raise where the text is too short for the settings or the baseline."""
    held_out, train = len(run.corpus.held_out), len(run.corpus.train)
    needed, purpose = _model_of(run.task).needed(run.settings)
    if held_out < 8 or train <= needed:
        raise CliError(
            f"expected a text of more than {max(needed * 10 // 9, 80)} characters for {purpose}, "
            f"got {held_out + train}"
        )


def _run_vit(args: argparse.Namespace, target: Path) -> int:
    """Train the vision Transformer."""
    from arraynn.cli import _vit

    given = _given(args, VitSettings)

    def restore(saved: dict[str, Any]) -> VitSettings:
        _check_fixed(given, {"epochs", "lr", "report_every"})
        return dataclasses.replace(VitSettings(**saved), **given)

    settings = VitSettings(**given)
    _check_heads(settings.hidden, settings.heads)
    return _vit.run(args, settings, restore, target)


def run(args: argparse.Namespace) -> int:
    """Train a model."""
    import arraynn

    target: Path = args.save or args.resume or Path(f"arraynn-{args.task}.safetensors")
    _check_target("--save", target)
    if args.threads:
        arraynn.set_num_threads(args.threads)
    return _run_vit(args, target) if args.task == "vit" else _run_characters(args, target)


def _run_characters(args: argparse.Namespace, target: Path) -> int:
    """Train a model of characters."""
    import arraynn
    from arraynn.cli._ngram import NGram

    model = _model_of(args.task)
    training = _open(args)
    _check_length(training)
    corpus, settings = training.corpus, training.settings
    config = arraynn.show_config()
    parameters = sum(p.size for p in training.model.parameters())
    print(
        f"arraynn {arraynn.__version__}, {config['isa']}, {arraynn.get_num_threads()} threads; "
        f"{len(corpus.train):,} characters to train on, {len(corpus.held_out):,} held out, "
        f"{corpus.size} symbols; {parameters:,} parameters",
        flush=True,
    )
    baseline = float(NGram(corpus.train, corpus.size, order=3).bits(corpus.held_out).mean())
    print(f"n-gram of order 3: {baseline:.3f} bits/char on the held-out part", flush=True)
    begin, first = time.perf_counter(), training.step
    finished = model.train(training)
    if training.step > first:
        model.save(training, target)
    if not finished:
        print(f"{training.place} saved; go on with --resume {target}")
        raise KeyboardInterrupt
    bits = model.evaluate(training)
    seconds = time.perf_counter() - begin
    verdict = "beats" if bits < baseline else "does not beat"
    print(
        f"{model.NAME} after {training.step} steps, {training.spent:.1f} s of training "
        f"({seconds:.1f} s with evaluation): {bits:.3f} bits/char on the "
        f"held-out part; {verdict} the n-gram's {baseline:.3f}"
    )
    if training.step > first:
        print(f"saved to {target}")
    if args.sample:
        begin = time.perf_counter()
        written = model.sample(training, args.prompt, args.sample, args.temperature, settings.seed)
        seconds = time.perf_counter() - begin
        print("\n" + written)
        rate = args.sample / seconds
        print(f"\n{args.sample} tokens (characters) in {seconds:.2f} s: {rate:.0f} tokens/s")
    return 0
