"""``train charlm``: the text, the baseline, the training, checkpoints and messages."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import cli
from arraynn.cli import _charlm, _gpt
from arraynn.cli._ngram import NGram
from arraynn.cli.train import GptSettings, Settings

SMALL = Settings(hidden=24, batch_size=4, length=16, steps=12, report_every=6, lr=1e-2)


def rhyme(characters: int, seed: int = 0) -> str:
    """Sentences in a random order; their ends follow from more than three characters before."""
    rng = np.random.default_rng(seed)
    pairs = [("cat", "barn"), ("dog", "yard"), ("cow", "shed"), ("pig", "lane")]
    chosen = rng.integers(len(pairs), size=characters // 20)
    text = "".join("The {} was in the {}.\n".format(*pairs[i]) for i in chosen)
    assert len(text) >= characters
    return text[:characters]


def begin(settings: Settings = SMALL, characters: int = 4000) -> _charlm.Run:
    return _charlm.start(_charlm.make_corpus(rhyme(characters)), settings)


def weights(run: _charlm.Run) -> dict[str, Any]:
    return {name: value.copy() for name, value in run.model.state_dict().items()}


class TestText:
    def test_library_sources(self) -> None:
        text = _charlm.library_text(60_000, 0)
        assert len(text) == 60_000
        assert "def " in text
        assert text == _charlm.library_text(60_000, 0)
        assert text != _charlm.library_text(60_000, 1)

    def test_symbols_and_back(self) -> None:
        text = rhyme(8000) + "é" + rhyme(200)
        corpus = _charlm.make_corpus(text)
        assert corpus.size == len(set(text))  # é shares the symbol of rare characters
        assert len(corpus.train) == 7381
        assert len(corpus.held_out) == 820
        both = np.concatenate([corpus.train, corpus.held_out])
        assert corpus.spell(both) == text.replace("é", "\N{REPLACEMENT CHARACTER}")
        again = _charlm.make_corpus("a dog", corpus.alphabet)
        assert corpus.spell(np.concatenate([again.train, again.held_out])) == "a dog"

    def test_one_hot(self) -> None:
        found = _charlm.one_hot(np.array([[0, 2], [1, 1]]), 3)
        assert found.dtype == np.float32
        assert found.tolist() == [[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 1, 0]]]


def slow_bits(train: list[int], held_out: list[int], size: int, order: int) -> list[float]:
    """Witten and Bell's recursion with dictionaries."""
    grams: Counter[tuple[int, ...]] = Counter()
    for k in range(order + 1):
        for i in range(k, len(train)):
            grams[tuple(train[i - k : i + 1])] += 1

    def p(context: tuple[int, ...], symbol: int) -> float:
        followers = [g for g in grams if g[:-1] == context]
        total = sum(grams[g] for g in followers)
        shorter = p(context[1:], symbol) if context else 1 / size
        if not total:
            return shorter
        return (grams[(*context, symbol)] + len(followers) * shorter) / (total + len(followers))

    return [
        -math.log2(p(tuple(held_out[i - order : i]), held_out[i]))
        for i in range(order, len(held_out))
    ]


class TestNGram:
    @pytest.mark.parametrize("order", [0, 1, 3])
    def test_against_the_definition(self, order: int, rng: np.random.Generator) -> None:
        train, held_out = rng.integers(0, 4, 80), rng.integers(0, 5, 40)
        bits = NGram(train, 5, order).bits(held_out)
        np.testing.assert_allclose(
            bits, slow_bits(train.tolist(), held_out.tolist(), 5, order), rtol=1e-12
        )

    def test_probabilities_sum_to_one(self, rng: np.random.Generator) -> None:
        model = NGram(rng.integers(0, 6, 500), 6, 3)
        context = rng.integers(0, 6, 3)
        bits = [model.bits(np.append(context, s))[0] for s in range(6)]
        assert np.exp2(-np.array(bits)).sum() == pytest.approx(1, abs=1e-12)

    def test_too_many_symbols(self) -> None:
        with pytest.raises(ValueError, match=r"\[NGram\] size: expected size\*\*4 < 2\*\*63"):
            NGram(np.zeros(9, np.int64), 2**16)


class TestTraining:
    def test_learns_more_than_the_baseline_knows(self) -> None:
        settings = dataclasses.replace(
            SMALL, hidden=32, steps=600, batch_size=16, length=24, report_every=999
        )
        run = begin(settings, 20_000)
        before = _charlm.evaluate(run)
        assert before == pytest.approx(math.log2(run.corpus.size), rel=0.05)
        assert _charlm.train(run, progress=False)
        baseline = NGram(run.corpus.train, run.corpus.size).bits(run.corpus.held_out).mean()
        assert _charlm.evaluate(run) < 0.5 * baseline < before
        text = _charlm.sample(run, "The cow was", 40, 0.0, 0)
        assert len(text) == 51
        words = set(text.replace("\n", " ").split(" ")[:-1])
        assert words <= set(rhyme(4000).replace("\n", " ").split(" "))
        assert text == _charlm.sample(run, "The cow was", 40, 0.0, 1)
        assert text != _charlm.sample(run, "The cow was", 40, 5.0, 1)

    def test_held_out_part_is_read_in_pieces_as_at_once(self) -> None:
        run = begin(characters=60_000)
        bits = _charlm.evaluate(run)
        symbols = run.corpus.held_out
        inputs, targets = _charlm._streams(symbols, 3)
        assert len(inputs) > 128
        with ann.no_grad():
            logits, _ = run.model(inputs)
        flat = logits.data.reshape(targets.size, -1)
        expected = ann.kernels.cross_entropy(flat, targets.reshape(-1)) / math.log(2)
        assert bits == pytest.approx(float(expected), rel=1e-5)
        np.testing.assert_array_equal(inputs[1:, 2], targets[:-1, 2])
        np.testing.assert_array_equal(inputs[:, 1], symbols[len(inputs) : 2 * len(inputs)])

    @pytest.mark.parametrize("layers", [1, 2])
    def test_resumed_training_has_the_same_bits(self, layers: int, tmp_path: Path) -> None:
        """Across the end of the text as well, where the state begins anew."""
        settings = dataclasses.replace(SMALL, layers=layers)
        whole = begin(settings, 700)
        assert _charlm.train(whole, progress=False)
        assert whole.position < 16 * 12
        part = begin(settings, 700)
        inputs, targets = _charlm._streams(part.corpus.train, settings.batch_size)
        for _ in range(7):
            _charlm.train_step(part, inputs, targets)
        path = tmp_path / "c.safetensors"
        _charlm.save(part, path)
        resumed = _charlm.load(path, lambda saved: Settings(**saved), lambda _: rhyme(700))
        assert resumed.step == 7
        assert resumed.corpus == dataclasses.replace(
            part.corpus, train=resumed.corpus.train, held_out=resumed.corpus.held_out
        )
        assert _charlm.train(resumed, progress=False)
        expected = weights(whole)
        for name, value in weights(resumed).items():
            np.testing.assert_array_equal(value, expected[name])

    def test_another_text_begins_at_its_start(self, tmp_path: Path) -> None:
        run = begin()
        inputs, targets = _charlm._streams(run.corpus.train, SMALL.batch_size)
        _charlm.train_step(run, inputs, targets)
        path = tmp_path / "c.safetensors"
        _charlm.save(run, path)
        other = _charlm.load(path, lambda saved: Settings(**saved), lambda _: rhyme(900, 5))
        assert (other.step, other.position, other.state) == (1, 0, None)
        assert other.corpus.alphabet == run.corpus.alphabet

    @pytest.mark.parametrize("task", ["charlm", "gpt"])
    def test_seconds_end_it_and_lead_the_schedule(
        self, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ticks = itertools.count(step=0.25)  # two of them a step
        monkeypatch.setattr(_charlm, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
        module: Any = _gpt if task == "gpt" else _charlm
        kind: Any = GptSettings if task == "gpt" else Settings
        settings = dataclasses.replace(SMALL, seconds=2.0, steps=1, report_every=3)
        if task == "gpt":
            settings = GptSettings(**{**dataclasses.asdict(settings), "heads": 2})
        run = module.start(_charlm.make_corpus(rhyme(4000)), settings)
        rates = []

        def stop(_: Any) -> float:
            rates.append(_charlm.rate(run) / settings.lr)
            return 0.0

        monkeypatch.setattr(module, "evaluate", stop)
        assert module.train(run, progress=False)
        assert (run.step, run.spent) == (8, 2.0)
        assert rates == [0.55 + 0.45 * math.cos(math.pi * x) for x in (3 / 8, 6 / 8)]
        target = tmp_path / "c.safetensors"
        module.save(run, target)
        resumed = module.load(
            target, lambda saved: kind(**{**saved, "seconds": 3.0}), lambda _: rhyme(4000)
        )
        assert resumed.spent == 2.0
        assert module.train(resumed, progress=False)
        assert (resumed.step, resumed.spent) == (12, 3.0)

    def test_a_loss_that_is_not_finite_ends_it(self) -> None:
        run = begin()
        run.model.head.weight.data[...] = np.nan
        inputs, targets = _charlm._streams(run.corpus.train, SMALL.batch_size)
        with pytest.raises(cli.CliError, match="the loss of step 1 is nan"):
            _charlm.train_step(run, inputs, targets)


def arguments(tmp_path: Path, *more: str) -> list[str]:
    text = tmp_path / "text.txt"
    if not text.exists():
        text.write_text(rhyme(6000), encoding="utf-8")
    return ["train", "charlm", "--text", str(text), "--sample", "40", *more]


NEW = ["--hidden", "16", "--batch-size", "4", "--length", "16", "--report-every", "4"]


class TestCommand:
    def test_train_save_and_resume(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        target = tmp_path / "c.safetensors"
        how = arguments(tmp_path, "--save", str(target), "--steps", "8", *NEW)
        assert cli.main(how) == 0
        captured = capsys.readouterr()
        assert "5,400 characters to train on, 600 held out" in captured.out
        assert "n-gram of order 3: " in captured.out
        assert "LSTM after 8 steps" in captured.out
        assert "does not beat the n-gram's" in captured.out
        assert f"saved to {target}\n\n\n\ndef " in captured.out
        lines = captured.err.splitlines()
        assert len(lines) == 2
        assert lines[0].startswith("step 4/8  training ")
        assert "thousand chars/s" in lines[1]
        again = arguments(tmp_path, "--resume", str(target), "--prompt", "the ")
        before = target.read_bytes()
        assert cli.main(again) == 0
        assert "\n\nthe " in capsys.readouterr().out
        assert target.read_bytes() == before
        assert cli.main([*again, "--steps", "10"]) == 0
        assert "LSTM after 10 steps" in capsys.readouterr().out
        assert target.read_bytes() != before

    def test_ctrl_c_saves(self, tmp_path: Path) -> None:
        target = tmp_path / "c.safetensors"
        how = arguments(tmp_path, "--save", str(target), "--steps", "1000000", *NEW)
        path = os.pathsep.join(p for p in sys.path if p)
        process = subprocess.Popen(
            [sys.executable, "-m", "arraynn", *how],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        assert process.stderr is not None
        try:
            process.stderr.readline()  # four steps are done
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 130
        assert "Traceback" not in errors
        assert errors.endswith("arraynn train: interrupted\n")
        assert f"saved; go on with --resume {target}" in out
        resumed = _charlm.load(target, lambda saved: Settings(**saved), lambda _: rhyme(6000))
        assert resumed.step >= 4
        assert re.search(rf"step +{resumed.step}/1000000 saved", out)
        assert resumed.state is not None

    @pytest.mark.parametrize(
        "more",
        [
            ["--steps", "0"],
            ["--hidden", "1.5"],
            ["--lr", "nan"],
            ["--sample", "-1"],
            ["--temperature", "-0.5"],
            ["--temperature", "warm"],
            ["--prompt", ""],
        ],
    )
    def test_wrong_arguments_exit_with_2(
        self, more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(arguments(tmp_path, *more)) == 2
        assert more[0] in capsys.readouterr().err

    @pytest.mark.parametrize("arguments", [["train"], ["train", "poetry"]])
    def test_a_task_is_needed(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(arguments) == 2
        assert "TASK" in capsys.readouterr().err

    def test_messages_of_bad_files(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["train", "charlm", "--text", str(tmp_path / "none")]) == 1
        assert "none" in capsys.readouterr().err
        wrong = tmp_path / "w.safetensors"
        ann.io.save_file({"a": np.zeros(3)}, wrong, {"format": "pt"})
        assert cli.main(arguments(tmp_path, "--resume", str(wrong))) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"arraynn train: {wrong} is no checkpoint of this command: ")
        assert "got 'pt'" in error
        wrong.write_bytes(b"nothing")
        assert cli.main(arguments(tmp_path, "--resume", str(wrong))) == 1
        assert "is no checkpoint of this command" in capsys.readouterr().err
        assert cli.main(arguments(tmp_path, "--save", str(tmp_path / "no" / "c"))) == 1
        assert "no such directory" in capsys.readouterr().err
        short = tmp_path / "short.txt"
        short.write_text("short", encoding="utf-8")
        assert cli.main(["train", "charlm", "--text", str(short)]) == 1
        assert "expected a text of more than 80 characters" in capsys.readouterr().err

    def test_what_a_checkpoint_fixes(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        target = tmp_path / "c.safetensors"
        _charlm.save(begin(), target)
        assert cli.main(arguments(tmp_path, "--resume", str(target), "--hidden", "8")) == 2
        assert "--hidden is fixed by --resume" in capsys.readouterr().err
