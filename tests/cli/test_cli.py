"""The command line: exit codes, messages, and what each command prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arraynn import _core, cli, kernels, reference
from arraynn._proof import compare, distinct, dot_bound
from arraynn.cli import _digits, _kernel_table, _plot, check, demo
from arraynn.cli._checks import CHECKS


def environment(**extra: str) -> dict[str, str]:
    path = os.pathsep.join(p for p in sys.path if p)
    return {**os.environ, "PYTHONPATH": path, **extra}


def arraynn(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "arraynn", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=cwd,
        env=environment(),
    )


class TestUsage:
    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["nonsense"],
            ["info", "--nonsense"],
            ["check", "--isa", "sse"],
            ["check", "--filter", "("],
            ["check", "--filter", "no such kernel"],
            ["demo", "--epochs", "0"],
            ["demo", "--lr", "nan"],
            ["demo", "--lr", "-1"],
            ["demo", "--seed", "-1"],
            ["demo", "--batch-size", "many"],
        ],
    )
    def test_wrong_arguments_exit_with_2(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(arguments) == 2
        assert capsys.readouterr().err

    @pytest.mark.parametrize(
        "command",
        ["info", "check", "bench", "demo", "train", "train charlm", "train gpt", "train vit"],
    )
    def test_help_has_examples(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main([*command.split(), "--help"]) == 0
        assert f"python -m arraynn {command}" in capsys.readouterr().out

    def test_interruption_exits_with_130(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def interrupted() -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(_digits, "load", interrupted)
        assert cli.main(["demo"]) == 130
        assert capsys.readouterr().err == "arraynn demo: interrupted\n"

    def test_a_signal_ends_a_run_with_130(self, tmp_path: Path) -> None:
        pytest.importorskip("sklearn")
        process = subprocess.Popen(
            [sys.executable, "-m", "arraynn", "demo", "--epochs", "100000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment(OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1"),
        )
        assert process.stdout is not None
        try:
            assert process.stdout.readline()  # the run has begun
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 130
        assert "Traceback" not in errors
        assert not list(tmp_path.iterdir())


class TestInfo:
    def test_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["info"]) == 0
        text = capsys.readouterr().out
        assert _core.isa() in text
        assert _core.default_threads_reason() in text

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["info", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["config"]["numpy"] == np.__version__
        assert set(found["kernels"]) == set(_core.available_isas())
        assert found["extras"].keys() >= {"scikit-learn", "tqdm"}


class TestCheck:
    def test_every_registered_kernel_has_a_check(self) -> None:
        assert {row["name"] for row in _core.kernels()} <= set(CHECKS)

    def test_every_kernel_passes(self, capsys: pytest.CaptureFixture[str]) -> None:
        former = _core.isa()
        code = cli.main(["check"])
        text = capsys.readouterr().out
        assert code == 0, text
        lines = [line for line in text.splitlines() if line.endswith("  ok")]
        assert len(lines) == len(
            [row for row in _core.kernels() if row["isa"] in _core.available_isas()]
        )
        assert _core.isa() == former

    def test_a_wrong_kernel_is_found(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        right = kernels.matmul
        monkeypatch.setattr(kernels, "matmul", lambda a, b: right(a, b) * (1 + 1e-3))
        assert cli.main(["check", "--filter", "^matmul$", "--isa", "generic"]) == 1
        captured = capsys.readouterr()
        assert "FAIL" in captured.out
        assert captured.err == "arraynn check: 1 of 1 kernels differ from the reference\n"

    @pytest.mark.parametrize("name", sorted(CHECKS))
    def test_each_check_rejects_a_wrong_answer(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        right = getattr(reference, name)

        def spoiled(result: Any) -> Any:
            if isinstance(result, list | tuple):
                return type(result)([spoiled(result[0]), *result[1:]])
            found = np.array(result)
            flat = found.reshape(-1)
            flat[np.argmax(np.abs(flat))] *= 1.01
            return found

        def wrong(*args: Any, **kwargs: Any) -> Any:
            if name.endswith("_step"):
                right(*args, **kwargs)
                args[0][-1][-1] += 0.01
                return None
            return spoiled(right(*args, **kwargs))

        forward = name.removesuffix("_backward")
        if right.__module__.startswith("arraynn.reference.rnn") and forward != name:
            # These gradients need what the forward call of the same library has kept.
            monkeypatch.setattr(kernels, forward, getattr(reference, forward))
        monkeypatch.setattr(kernels, name, right)
        assert check.check_kernel(name, "float32")[0] is None
        monkeypatch.setattr(kernels, name, wrong)
        assert check.check_kernel(name, "float32")[0] is not None

    def test_a_kernel_without_a_check_fails(self) -> None:
        assert check.check_kernel("unheard_of", "float32")[0] == "no check is written for it"


class TestProof:
    def test_nan_is_never_within_a_bound(self) -> None:
        complaint, _ = compare((np.array([np.nan]),), (np.array([1.0]),), [1e9])
        assert complaint is not None

    def test_a_dot_product_stays_within_its_bound(self) -> None:
        rng = np.random.default_rng(0)
        a, b = rng.uniform(-1, 1, (2, 500, 3000)).astype(np.float32)
        wide = np.einsum("ij,ij->i", a.astype(np.float64), b.astype(np.float64))
        narrow = np.zeros(500, np.float32)
        for j in range(3000):
            narrow += a[:, j] * b[:, j]
        error = np.abs(narrow - wide).max()
        assert 0 < error < dot_bound(3000, "float32") < 0.1

    def test_distinct_values_are_distinct(self) -> None:
        x = distinct("float32", 100, 100)
        assert len(np.unique(x)) == x.size
        assert -1 <= x.min() < x.max() < 1


class TestDigits:
    def test_the_split_is_stratified_and_complete(self) -> None:
        labels = np.repeat(np.arange(10), 50)
        train, test = _digits.stratified_split(labels, 0.2, seed=3)
        assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(500))
        assert np.array_equal(np.bincount(labels[test]), np.full(10, 10))
        again = _digits.stratified_split(labels, 0.2, seed=3)
        assert np.array_equal(test, again[1])
        assert not np.array_equal(test, _digits.stratified_split(labels, 0.2, seed=4)[1])

    def test_shifts_move_by_at_most_one_pixel(self) -> None:
        x = np.zeros((200, 1, 8, 8), np.float32)
        x[:, 0, 3, 4] = 1
        y = _digits.shifted(x, np.random.default_rng(0), share=1.0)
        assert y.shape == x.shape
        assert np.array_equal(y.sum((1, 2, 3)), np.ones(200))
        _, _, rows, columns = np.nonzero(y)
        assert set(rows) == {2, 3, 4}
        assert set(columns) == {3, 4, 5}
        assert np.array_equal(_digits.shifted(x, np.random.default_rng(0), share=0.0), x)

    def test_confusion_counts(self) -> None:
        counts = _digits.confusion(np.array([0, 0, 3]), np.array([0, 3, 3]))
        assert counts[0, 0] == counts[0, 3] == counts[3, 3] == 1
        text = _digits.confusion_text(counts)
        assert text.splitlines()[1].endswith("50.0%")

    def test_chosen_digits_start_with_the_wrong_ones(self) -> None:
        truth = np.arange(100) % 10
        predictions = truth.copy()
        predictions[[7, 30]] = 9, 1
        confidence = np.linspace(0.5, 1.0, 100)
        shown = _plot.chosen(truth, predictions, confidence, 15)
        assert len(set(shown.tolist())) == 15
        assert set(shown[:2].tolist()) == {7, 30}


class TestKernelTable:
    def test_calls_are_recorded_as_they_were_made(self) -> None:
        p = [np.ones(3, np.float32)]
        state = [[np.zeros(3, np.float32)] for _ in range(2)]
        before = kernels.adam_step
        with _kernel_table.recorded() as calls:
            kernels.relu(np.ones((2, 3), np.float32))
            kernels.adam_step(p, [np.ones(3, np.float32)], *state, 1)
        assert kernels.adam_step is before
        assert [call.name for call in calls] == ["relu", "adam_step"]
        assert np.array_equal(calls[1].args[0][0], np.ones(3))
        assert not np.array_equal(p[0], np.ones(3))
        assert [call.shapes for call in calls] == ["2x3", "1 arrays, 3"]

    def test_repeated_shapes_count_once(self) -> None:
        x = np.ones((2, 3), np.float32)
        calls = [_kernel_table.Call("relu", (x,), {})] * 3
        assert len(_kernel_table.distinct(calls)) == 1

    def test_lines_hold_times_and_errors(self) -> None:
        call = _kernel_table.Call("gelu", (np.linspace(-3, 3, 50, dtype=np.float32),), {})
        (line,) = _kernel_table.measure([call])
        assert line.ours > 0
        assert line.numpy > 0
        assert line.error < 1e-6


class TestDemo:
    def test_a_quick_run(self, tmp_path: Path) -> None:
        pytest.importorskip("sklearn")
        picture = tmp_path / "p.png"
        plot = ["--plot", str(picture)] if _has("matplotlib") else []
        done = arraynn("demo", "--quick", *plot, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "test accuracy" in done.stdout
        assert "conv2d_backward" in done.stdout
        saved = tmp_path / "arraynn-digits.safetensors"
        assert saved.read_bytes()[8:9] == b"{"
        if plot:
            assert picture.read_bytes()[:4] == b"\x89PNG"

    def test_the_same_seed_gives_the_same_weights(self) -> None:
        pytest.importorskip("sklearn")
        data = _digits.load()
        digits = _digits.split(*data, 0)
        small = _digits.Digits(*(a[:96] for a in (digits.x_train, digits.y_train)), *data)
        how = demo.Settings(epochs=2)
        first, second = (_digits.train(small, how) for _ in range(2))
        assert first.losses == second.losses
        assert np.array_equal(first.logits, second.logits)

    def test_without_scikit_learn_it_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "sklearn", None)
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        assert cli.main(["demo"]) == 1
        error = capsys.readouterr().err
        assert error == (
            "arraynn demo: the digits come with scikit-learn: pip install scikit-learn\n"
        )

    @pytest.mark.parametrize("option", ["--save", "--plot"])
    def test_a_missing_folder_is_told_before_the_training(
        self, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        target = tmp_path / "none" / "file"
        assert cli.main(["demo", option, str(target)]) == 1
        assert "no such directory" in capsys.readouterr().err


def _has(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None
