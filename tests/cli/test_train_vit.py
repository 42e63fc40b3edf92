"""``train vit``: the network, the training, checkpoints and the command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import cli
from arraynn.cli.train import VitSettings

pytest.importorskip("sklearn")
from arraynn.cli import _digits, _vit

SMALL = VitSettings(hidden=16, layers=1, heads=2, batch_size=360, epochs=3, report_every=2)


def restore(saved: dict[str, Any]) -> VitSettings:
    return VitSettings(**saved)


def weights(run: _vit.Run) -> dict[str, Any]:
    return {name: value.copy() for name, value in run.model.state_dict().items()}


class TestTraining:
    def test_learns(self) -> None:
        how = VitSettings(hidden=32, layers=2, batch_size=96, epochs=12, lr=6e-3, report_every=99)
        run = _vit.start(how)
        assert (len(run.digits.x_train), len(run.digits.x_test)) == (1438, 359)
        before = _vit.accuracy(run)
        assert before < 35
        assert _vit.train(run, progress=False)
        assert run.step == run.steps == 12 * 15
        assert _vit.accuracy(run) > 70

    def test_patches_stand_for_squares_of_pixels(self) -> None:
        model = _vit.start(SMALL).model
        images = np.zeros((16, 1, 8, 8), np.float32)
        rows, columns = np.divmod(np.arange(16), 4)
        images[np.arange(16), 0, 2 * rows, 2 * columns + 1] = 1
        with ann.no_grad():
            found = model.patches(images) - model.patches(np.zeros_like(images[:1]))
        lit = np.abs(found.data.reshape(16, 16, 16)).max(1) > 0
        np.testing.assert_array_equal(lit, np.eye(16, dtype=bool))

    def test_an_epoch_has_every_image_once(self) -> None:
        run = _vit.start(SMALL)
        labels = []
        for step in range(run.epoch_steps):
            run.step = step
            labels.append(_vit._batch(run)[1])
        assert [len(part) for part in labels] == [360, 360, 360, 358]
        np.testing.assert_array_equal(
            np.bincount(np.concatenate(labels)), np.bincount(run.digits.y_train)
        )

    def test_the_rate_rises_and_falls(self) -> None:
        run = _vit.start(dataclasses.replace(SMALL, epochs=50))
        rates = []
        for step in range(run.steps):
            run.step = step
            rates.append(_vit._rate(run))
        top = int(np.argmax(rates))
        assert rates[top] == pytest.approx(SMALL.lr)
        assert (np.diff(rates[: top + 1]) > 0).all()
        assert (np.diff(rates[top + 1 :]) < 0).all()
        assert 0 < rates[-1] < 0.03 * SMALL.lr

    def test_resumed_training_has_the_same_bits(self, tmp_path: Path) -> None:
        whole, part = _vit.start(SMALL), _vit.start(SMALL)
        assert _vit.train(whole, progress=False)
        for _ in range(6):
            _vit.train_step(part)
        path = tmp_path / "v.safetensors"
        _vit.save(part, path)
        ann.manual_seed(77)
        resumed = _vit.load(path, restore)
        assert resumed.step == 6
        assert _vit.train(resumed, progress=False)
        expected = weights(whole)
        for name, value in weights(resumed).items():
            np.testing.assert_array_equal(value, expected[name])

    def test_a_loss_that_is_not_finite_ends_it(self) -> None:
        run = _vit.start(SMALL)
        run.model.head.weight.data[...] = np.nan
        with pytest.raises(cli.CliError, match="the loss of step 1 is nan"):
            _vit.train_step(run)


NEW = ["--hidden", "16", "--layers", "1", "--heads", "2", "--batch-size", "720"]


class TestCommand:
    def test_train_save_and_resume(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        target = tmp_path / "v.safetensors"
        how = ["train", "vit", "--save", str(target), "--epochs", "2", "--report-every", "1", *NEW]
        assert cli.main(how) == 0
        captured = capsys.readouterr()
        assert "1,438 digits of 8 x 8 to train on, 359 held out" in captured.out
        assert " of 359) after 2 epochs, " in captured.out
        assert f"saved to {target}\n" in captured.out
        lines = captured.err.splitlines()
        assert [line.partition("  loss ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
        run = _vit.load(target, restore)
        right = int(np.sum(_vit.predict(run) == run.digits.y_test))
        assert f" % ({right} of 359)" in captured.out
        before = target.read_bytes()
        again = ["train", "vit", "--resume", str(target)]
        assert cli.main(again) == 0
        assert f" % ({right} of 359) after 2 epochs" in capsys.readouterr().out
        assert target.read_bytes() == before
        assert cli.main([*again, "--epochs", "3"]) == 0
        assert "after 3 epochs" in capsys.readouterr().out
        assert target.read_bytes() != before

    def test_ctrl_c_saves(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        import signal

        plain = _vit.train_step

        def press(run: _vit.Run) -> float:
            if run.step == 2:
                signal.raise_signal(signal.SIGINT)
            return plain(run)

        monkeypatch.setattr(_vit, "train_step", press)
        target = tmp_path / "v.safetensors"
        assert cli.main(["train", "vit", "--save", str(target), "--epochs", "9", *NEW]) == 130
        captured = capsys.readouterr()
        assert f"step 3 of 18 saved; go on with --resume {target}" in captured.out
        assert captured.err.endswith("arraynn train: interrupted\n")
        assert _vit.load(target, restore).step == 3

    def test_messages(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        assert cli.main(["train", "vit", "--hidden", "18", "--heads", "4"]) == 2
        assert "--hidden: expected a multiple of 4 heads, got 18" in capsys.readouterr().err
        assert cli.main(["train", "vit", "--epochs", "0"]) == 2
        assert "--epochs" in capsys.readouterr().err
        assert cli.main(["train", "vit", "--save", str(tmp_path / "no" / "v")]) == 1
        assert "no such directory" in capsys.readouterr().err
        target = tmp_path / "v.safetensors"
        _vit.save(_vit.start(SMALL), target)
        assert cli.main(["train", "vit", "--resume", str(target), "--hidden", "8"]) == 2
        assert "--hidden is fixed by --resume" in capsys.readouterr().err
        wrong = tmp_path / "w.safetensors"
        ann.io.save_file({"a": np.zeros(3)}, wrong, {"format": "pt"})
        assert cli.main(["train", "vit", "--resume", str(wrong)]) == 1
        assert "expected 'arraynn vit 1', got 'pt'" in capsys.readouterr().err

        def missing() -> Any:
            raise cli.CliError("the digits come with scikit-learn: pip install scikit-learn")

        monkeypatch.setattr(_digits, "load", missing)
        assert cli.main(["train", "vit", "--save", str(target)]) == 1
        assert "pip install scikit-learn" in capsys.readouterr().err
