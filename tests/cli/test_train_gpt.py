"""``train gpt``: the network, its cache, the training and the command."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import cli
from arraynn.cli import _charlm, _gpt
from arraynn.cli._ngram import NGram
from arraynn.cli.train import GptSettings, Settings

from .test_train import rhyme

SMALL = GptSettings(
    hidden=32, layers=2, heads=2, batch_size=8, length=32, steps=12, report_every=6, lr=3e-3
)


def begin(settings: GptSettings = SMALL, characters: int = 4000) -> _gpt.GptRun:
    return _gpt.start(_charlm.make_corpus(rhyme(characters)), settings)


def restore(saved: dict[str, Any]) -> GptSettings:
    return GptSettings(**saved)


def weights(run: _charlm.Run) -> dict[str, Any]:
    return {name: value.copy() for name, value in run.model.state_dict().items()}


class TestTraining:
    def test_learns_more_than_the_baseline_knows_and_writes_the_same_with_a_cache(self) -> None:
        run = begin(
            dataclasses.replace(SMALL, steps=800, length=48, lr=6e-3, report_every=999), 20_000
        )
        before = _gpt.evaluate(run)
        assert before == pytest.approx(math.log2(run.corpus.size), rel=0.05)
        assert _gpt.train(run, progress=False)
        baseline = NGram(run.corpus.train, run.corpus.size).bits(run.corpus.held_out).mean()
        assert _gpt.evaluate(run) < 0.6 * baseline < before
        for temperature, seed in ((0.0, 0), (0.7, 1), (3.0, 2)):
            # Across the end of the window, where the text before it is cut, more than once.
            how = ("The cow was", 90, temperature, seed)
            text = _gpt.sample(run, *how)
            assert len(text) == 101
            assert text == _gpt.sample(run, *how, cached=False)
        assert text != _gpt.sample(run, "The cow was", 90, 3.0, 3)
        words = set(_gpt.sample(run, "The cow was", 40, 0.0, 0).replace("\n", " ").split(" ")[:-1])
        assert words <= set(rhyme(4000).replace("\n", " ").split(" "))

    @pytest.mark.parametrize("prompt", ["T", "The cow was in the " * 3])
    def test_prompts_of_any_length(self, prompt: str) -> None:
        run = begin()
        text = _gpt.sample(run, prompt, 5, 0.0, 0)
        assert text.startswith(prompt)
        assert text == _gpt.sample(run, prompt, 5, 0.0, 0, cached=False)

    def test_logits_of_the_cache_are_those_of_the_window(self) -> None:
        model = begin().model
        symbols = np.random.default_rng(0).integers(0, 9, 32)
        with ann.no_grad():
            expected = model(symbols[None]).data[0]
            for pieces in ([32], [1] * 32, [7, 1, 1, 20, 3]):
                cache, done = model.new_cache(), 0
                for count in pieces:
                    logits = model.continued(symbols[done : done + count], cache)
                    done += count
                    np.testing.assert_allclose(logits, expected[done - 1], rtol=1e-4, atol=1e-5)
                assert cache.length == 32

    def test_later_characters_are_hidden(self) -> None:
        model = begin().model
        symbols = np.random.default_rng(0).integers(0, 9, (1, 32))
        changed = symbols.copy()
        changed[0, 20:] = 0
        with ann.no_grad():
            first, second = model(symbols).data, model(changed).data
        np.testing.assert_array_equal(first[0, :20], second[0, :20])
        assert not np.array_equal(first[0, 20:], second[0, 20:])

    @pytest.mark.parametrize("held_out", [8, 9, 32, 33, 34, 49, 50, 1500])
    def test_held_out_characters_count_once(self, held_out: int) -> None:
        run = begin(characters=6000)
        corpus = dataclasses.replace(run.corpus, held_out=run.corpus.train[:held_out])
        run.corpus = corpus
        length = min(32, held_out - 1)
        half = (length + 1) // 2
        bits, begins = [], range(0, held_out - length, half)
        for first in begins:
            piece = corpus.held_out[first : first + length + 1]
            with ann.no_grad():
                logits = run.model(piece[None, :-1]).data[0].astype(np.float64)
            logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            own = -logits[np.arange(length), piece[1:]] / math.log(2)
            bits += list(own if first == 0 else own[-half:])
        assert len(bits) == length + half * (len(begins) - 1)
        assert _gpt.evaluate(run) == pytest.approx(np.mean(bits), rel=1e-5)

    def test_resumed_training_has_the_same_bits(self, tmp_path: Path) -> None:
        whole, part = begin(), begin()
        assert _gpt.train(whole, progress=False)
        for _ in range(7):
            _gpt.train_step(part)
        path = tmp_path / "g.safetensors"
        _gpt.save(part, path)
        resumed = _gpt.load(path, restore, lambda _: rhyme(4000))
        assert isinstance(resumed, _gpt.GptRun)
        assert resumed.step == 7
        assert _gpt.train(resumed, progress=False)
        expected = weights(whole)
        for name, value in weights(resumed).items():
            np.testing.assert_array_equal(value, expected[name])

    def test_checkpoints_of_the_other_task(self, tmp_path: Path) -> None:
        path = tmp_path / "g.safetensors"
        _gpt.save(begin(), path)
        with pytest.raises(cli.CliError, match="expected 'arraynn charlm 1', got 'arraynn gpt 1'"):
            _charlm.load(path, lambda saved: Settings(**saved), lambda _: rhyme(4000))


def arguments(tmp_path: Path, *more: str) -> list[str]:
    text = tmp_path / "text.txt"
    text.write_text(rhyme(6000), encoding="utf-8")
    return ["train", "gpt", "--text", str(text), "--sample", "40", *more]


NEW = ["--hidden", "16", "--layers", "1", "--heads", "2", "--batch-size", "4", "--length", "16"]


class TestCommand:
    def test_train_save_and_resume(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        target = tmp_path / "g.safetensors"
        more = ["--save", str(target), "--steps", "8", "--report-every", "4", *NEW]
        assert cli.main(arguments(tmp_path, *more)) == 0
        captured = capsys.readouterr()
        assert "5,400 characters to train on, 600 held out" in captured.out
        assert "n-gram of order 3: " in captured.out
        assert "GPT after 8 steps" in captured.out
        assert f"saved to {target}\n\n\n\ndef " in captured.out
        assert "\n40 tokens (characters) in " in captured.out
        assert captured.out.endswith(" tokens/s\n")
        assert captured.err.startswith("step 4/8  training ")
        again = arguments(tmp_path, "--resume", str(target), "--steps", "10")
        assert cli.main(again) == 0
        assert "GPT after 10 steps" in capsys.readouterr().out

    def test_messages(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(arguments(tmp_path, "--hidden", "18", "--heads", "4")) == 2
        assert "--hidden: expected a multiple of 4 heads, got 18" in capsys.readouterr().err
        assert cli.main(arguments(tmp_path, "--length", "5400")) == 1
        error = capsys.readouterr().err
        assert "expected a text of more than 6001 characters for pieces of 5400, got 6000" in error
        target = tmp_path / "g.safetensors"
        _gpt.save(begin(), target)
        assert cli.main(arguments(tmp_path, "--resume", str(target), "--heads", "1")) == 2
        assert "--heads is fixed by --resume" in capsys.readouterr().err
        assert cli.main(["train", "charlm", "--heads", "2"]) == 2
