"""A small decoder-only Transformer on the text of ``train charlm``, and its cache of keys."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

import arraynn
from arraynn import kernels, nn, optim
from arraynn._proof import Array
from arraynn.autograd import Tensor, no_grad
from arraynn.cli import _charlm
from arraynn.cli._charlm import Corpus, Run, encode, save
from arraynn.nn import functional as F

if TYPE_CHECKING:
    from arraynn.cli.train import GptSettings, Settings

__all__ = ["evaluate", "load", "needed", "sample", "save", "start", "train"]

NAME = "GPT"

#: Steps over which the learning rate rises, and the share of a short training that is enough.
_WARM_UP = 100
_WARM_UP_SHARE = 0.05

#: Windows of the held-out part that are read at once.
_WINDOWS = 32


class Cache:
    """Keys and values (1, positions, heads, features) of every layer, and how many there are."""

    def __init__(self, layers: int, positions: int, heads: int, features: int) -> None:
        shape = (1, positions, heads, features)
        self.keys = [np.empty(shape, np.float32) for _ in range(layers)]
        self.values = [np.empty(shape, np.float32) for _ in range(layers)]
        self.length = 0


class Gpt(nn.Module):
    """Characters - sinusoidal positions - causal encoder layers - dense: logits of the next ones.

    Normalisation comes first in each layer, as in GPT-2 (Radford et al., 2019).
    """

    def __init__(self, symbols: int, hidden: int, layers: int, heads: int, length: int) -> None:
        super().__init__()
        self.length = length
        self.embed = nn.Embedding(symbols, hidden)
        self.positions = nn.PositionalEncoding(hidden, 0.0, length, batch_first=True)
        layer = nn.TransformerEncoderLayer(
            *(hidden, heads, 4 * hidden, 0.0, "gelu"), batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(hidden))
        self.head = nn.Linear(hidden, symbols)
        for name, parameter in self.encoder.named_parameters():
            if parameter.ndim > 1:
                # What leaves a residual branch is scaled down by their number, as in GPT-2.
                last = name.endswith(("out_proj.weight", "linear2.weight"))
                scale = math.sqrt(parameter.shape[1] * (2 * layers if last else 1))
                nn.init.normal_(parameter, std=1 / scale)

    def forward(self, symbols: Array) -> Any:
        """Return logits (N, L, symbols) for symbols (N, L), L at most `length`."""
        x = self.positions(self.embed(symbols))
        return self.head(self.encoder(x, is_causal=True))

    def _blocks(self) -> list[nn.TransformerEncoderLayer]:
        return [m for m in self.encoder.layers if isinstance(m, nn.TransformerEncoderLayer)]

    def new_cache(self) -> Cache:
        """Return a cache for one text."""
        layers = self._blocks()
        attention = layers[0].self_attn
        return Cache(len(layers), self.length, attention.num_heads, attention.head_dim)

    def continued(self, symbols: Array, cache: Cache) -> Array:
        """Return the logits (symbols,) after `symbols` (L,), which follow those of the cache.

        Only their keys and values are computed; they are added to the cache.
        """
        before = np.array([cache.length])
        x = self.positions(self.embed(symbols[None]), cache.length)
        for i, layer in enumerate(self._blocks()):
            attention = layer.self_attn
            qkv = F.linear(layer.norm1(x), attention.in_proj_weight, attention.in_proj_bias)
            shape = (1, len(symbols), 3, attention.num_heads, attention.head_dim)
            parts = np.moveaxis(qkv.data.reshape(shape), 2, 0)
            seen = kernels.attention_decode(
                parts[0],
                cache.keys[i],
                cache.values[i],
                before,
                k=parts[1],
                v=parts[2],
                layout="blhd",
            )
            x = x + attention.out_proj(Tensor(seen.reshape(x.shape)))
            x = x + layer.feed_forward(layer.norm2(x))
        cache.length += len(symbols)
        norm: Any = self.encoder.norm
        logits: Array = self.head(norm(x[:, -1:])).data[0, 0]
        return logits


class GptRun(Run):
    """A training of the Transformer."""

    task: ClassVar[str] = "gpt"
    settings: GptSettings
    model: Gpt


def start(corpus: Corpus, settings: GptSettings) -> GptRun:
    """Begin with drawn weights."""
    arraynn.manual_seed(settings.seed)
    how = (settings.hidden, settings.layers, settings.heads, settings.length)
    model = Gpt(corpus.size, *how)
    optimizer = optim.AdamW(
        model.parameters(), settings.lr, (0.9, 0.95), weight_decay=0.1, max_norm=1.0
    )
    return GptRun(settings, corpus, model, optimizer)


def needed(settings: Settings) -> tuple[int, str]:
    """Return how many characters to train on are too few, and what for."""
    return settings.length + 1, f"pieces of {settings.length}"


def _windows(symbols: Array, begins: Array, length: int) -> tuple[Array, Array]:
    """Return pieces (n, length) of a text, and the symbols that follow theirs."""
    where = begins[:, None] + np.arange(length)
    return symbols[where], symbols[where + 1]


def train_step(run: GptRun) -> float:
    """Learn from pieces drawn by the seed and the number of the step; returns bits per symbol."""
    settings = run.settings
    rng = np.random.default_rng((settings.seed, run.step))
    begins = rng.integers(len(run.corpus.train) - settings.length, size=settings.batch_size)
    inputs, targets = _windows(run.corpus.train, begins, settings.length)
    risen = max((run.step + 1) / _WARM_UP, run.done / _WARM_UP_SHARE)
    lr = _charlm.rate(run) * min(risen, 1.0)
    return _charlm.learn(run, _charlm.mean_loss(run.model(inputs), targets), lr)


@no_grad()
def evaluate(run: GptRun) -> float:
    """Return bits per character on the held-out part, after at least half a window each.

    Windows overlap by half. Of the first one all characters count, of the others the last half.
    """
    symbols = run.corpus.held_out
    length = min(run.settings.length, len(symbols) - 1)
    half = (length + 1) // 2
    begins = np.arange(0, len(symbols) - length, half)
    total, count = 0.0, 0
    for first in range(0, len(begins), _WINDOWS):
        inputs, targets = _windows(symbols, begins[first : first + _WINDOWS], length)
        logits = run.model(inputs)
        kept = [(logits[:, -half:], targets[:, -half:])]
        if first == 0 and half < length:
            kept.append((logits[:1, :-half], targets[:1, :-half]))
        for part, wanted in kept:
            total += float(_charlm.mean_loss(part, wanted).item()) * wanted.size
            count += wanted.size
    return total / count / math.log(2)


def train(run: GptRun, progress: bool = True) -> bool:
    """Train up to the settings' time or steps; False when Ctrl-C ended it between two steps."""
    return _charlm.repeat(run, lambda: train_step(run), evaluate, progress)


@no_grad()
def sample(
    run: GptRun,
    prompt: str,
    characters: int,
    temperature: float,
    seed: int,
    cached: bool = True,
) -> str:
    """Return text that the model writes after `prompt`; temperature 0 takes the likeliest.

    A full window goes on with its last half. With a cache each character costs one position;
    without one, which is there to be compared with, all of the window.
    """
    rng = np.random.default_rng(seed)
    model = run.model
    text = encode(prompt, run.corpus.alphabet)[-model.length :]
    cache, new = model.new_cache(), text
    written: list[int] = []
    for _ in range(characters):
        if len(text) > model.length:
            text = text[-max(model.length // 2, 1) :]
            cache, new = model.new_cache(), text
        logits = model.continued(new, cache) if cached else model(text[None]).data[0, -1]
        written.append(_charlm.pick(logits, temperature, rng))
        new = np.array(written[-1:])
        text = np.append(text, new)
    return prompt + run.corpus.spell(written)


def load(
    path: Path,
    restore: Callable[[dict[str, Any]], Settings],
    text: Callable[[Settings], str],
) -> Run:
    """Read what :func:`save` wrote."""
    return _charlm.load(path, restore, text, start, GptRun.task)
