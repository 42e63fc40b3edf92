"""The trainer: batches, history, evaluation, early stopping, interruption, progress."""

import io
import os
import signal
import sys
import threading
from itertools import chain

import numpy as np
import pytest

import arraynn as ann
from arraynn import nn, optim
from arraynn._progress import ProgressBar
from arraynn.train import Callback, EarlyStopping, Trainer, accuracy


def blobs(count=120, seed=0):
    """Three well separated clusters."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    centres = np.array([[2, 0], [-2, 1], [0, -3]], np.float32)
    x = centres[y] + rng.standard_normal((count, 2)).astype(np.float32) * 0.3
    return x, y


def make_trainer(lr=0.05, dropout=0.0, **options):
    ann.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))
    optimizer = optim.Adam(model.parameters(), lr=lr)
    return Trainer(model, nn.CrossEntropyLoss(), optimizer, metrics=["accuracy"], **options)


def weights(trainer):
    return {name: array.copy() for name, array in trainer.model.state_dict().items()}


def assert_weights(trainer, expected):
    for name, array in trainer.model.state_dict().items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_learns_and_keeps_a_history():
    x, y = blobs()
    trainer = make_trainer()
    history = trainer.fit(
        x, y, epochs=15, batch_size=16, validation_data=blobs(50, 1), progress=False
    )
    assert history is trainer.history
    assert history.epochs == 15
    assert history.stop_reason == "completed"
    assert set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy", "lr"}
    assert all(len(values) == 15 for values in history.history.values())
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    assert "val_accuracy" in history
    assert "15 epochs, completed" in repr(history)
    result = trainer.evaluate(x, y)
    assert result["accuracy"] == 1.0
    assert trainer.predict(x).argmax(1).tolist() == y.tolist()


def test_evaluation_is_the_mean_over_rows_whatever_the_batch():
    x, y = blobs(50)
    trainer = make_trainer(dropout=0.5)
    whole = trainer.evaluate(x, y, batch_size=50)
    parts = trainer.evaluate(x, y, batch_size=7)
    assert parts == pytest.approx(whole, rel=1e-5)
    outputs = trainer.predict(x, batch_size=50)
    np.testing.assert_allclose(trainer.predict(x, batch_size=7), outputs, rtol=1e-5, atol=1e-6)
    assert whole["accuracy"] == accuracy(outputs, y)
    assert trainer.model.training
    assert all(p.grad is None for p in trainer.model.parameters())


def test_the_same_seed_gives_the_same_bits():
    def run(seed):
        trainer = make_trainer(dropout=0.2)
        trainer.fit(*blobs(), epochs=3, batch_size=32, seed=seed, progress=False)
        return weights(trainer)

    first = run(5)
    again, other = run(5), run(6)
    for name in first:
        assert first[name].tobytes() == again[name].tobytes()
    assert any((first[name] != other[name]).any() for name in first)


def test_every_row_is_seen_once_per_epoch():
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(1, 1)

        def forward(self, x):
            if self.training:
                seen.append(x.data[:, 0].tolist())
            return self.inner(x)

    x = np.arange(10, dtype=np.float32)[:, None]
    model = Spy()
    trainer = Trainer(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=1e-4))
    trainer.fit(x, x, epochs=2, batch_size=4, progress=False)
    assert [len(batch) for batch in seen] == [4, 4, 2, 4, 4, 2]
    epochs = [list(chain(*seen[:3])), list(chain(*seen[3:]))]
    assert [sorted(rows) for rows in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]
    seen.clear()
    trainer.fit(x, x, epochs=1, batch_size=4, shuffle=False, progress=False)
    assert list(chain(*seen)) == list(range(10))


def test_modes_are_put_back():
    trainer = make_trainer()
    trainer.model.eval()
    trainer.model[2].train()
    trainer.fit(*blobs(), epochs=1, progress=False)
    assert [m.training for m in trainer.model] == [False, False, True, False]
    trainer.predict(blobs()[0])
    assert [m.training for m in trainer.model] == [False, False, True, False]


class Scripted(Callback):
    """Sets validation losses and weights by epoch."""

    def __init__(self, losses):
        self.losses = losses

    def on_epoch_end(self, trainer, epoch, logs):
        logs["val_loss"] = self.losses[epoch - 1]
        for parameter in trainer.model.parameters():
            parameter.data[...] = epoch


@pytest.mark.parametrize("restore", [True, False])
def test_early_stopping_restores_the_best_weights(restore):
    trainer = make_trainer()
    history = trainer.fit(
        *blobs(),
        epochs=20,
        validation_data=blobs(9, 1),
        callbacks=[Scripted([5, 4, 3, 3, 3.5, 9, 1])],
        early_stopping=EarlyStopping(patience=3, restore_best=restore),
        progress=False,
    )
    assert history.stop_reason == "early_stopping"
    assert history.epochs == 6
    assert history.best_epoch == 3
    last = 3 if restore else 6
    assert all((array == last).all() for array in trainer.model.state_dict().values())


def test_early_stopping_restores_at_the_last_epoch_too():
    trainer = make_trainer()
    history = trainer.fit(
        *blobs(),
        epochs=4,
        callbacks=[Scripted([5, 1, 3, np.nan])],
        early_stopping=EarlyStopping(patience=9, monitor="val_loss"),
        progress=False,
    )
    assert history.stop_reason == "completed"
    assert (trainer.model[0].weight.data == 2).all()


def test_early_stopping_of_a_maximum_and_of_too_small_changes():
    stopping = EarlyStopping(patience=2, monitor="val_accuracy", min_delta=0.1)
    trainer = make_trainer()
    for epoch, value in enumerate([0.5, 0.7, 0.75, 0.79, 0.9], 1):
        stopping.on_epoch_end(trainer, epoch, {"val_accuracy": value})
        if trainer.stop_reason:
            break
    assert (epoch, stopping.best_epoch) == (4, 2)


def test_a_stopping_object_can_be_used_again():
    stopping = EarlyStopping(patience=2, monitor="val_loss")
    for _ in range(2):
        trainer = make_trainer()
        trainer.fit(
            *blobs(),
            epochs=9,
            callbacks=[Scripted([3, 1, 2, 2, 2])],
            early_stopping=stopping,
            progress=False,
        )
        assert trainer.history.epochs == 4


def test_schedulers_step_by_epoch_or_batch():
    x, y = blobs(64)
    trainer = make_trainer(lr=1.0)
    trainer.scheduler = optim.lr_scheduler.StepLR(trainer.optimizer, 2, 0.1)
    history = trainer.fit(x, y, epochs=4, batch_size=32, progress=False)
    assert history["lr"] == pytest.approx([1.0, 1.0, 0.1, 0.1])
    trainer = make_trainer(lr=1.0, schedule_batches=True)
    trainer.scheduler = optim.lr_scheduler.StepLR(trainer.optimizer, 2, 0.1)
    history = trainer.fit(x, y, epochs=2, batch_size=32, progress=False)
    assert history["lr"] == pytest.approx([0.1, 0.01])
    trainer = make_trainer(lr=1.0)
    trainer.scheduler = optim.lr_scheduler.ReduceLROnPlateau(
        trainer.optimizer, patience=0, threshold=1e9, threshold_mode="abs"
    )
    history = trainer.fit(x, y, epochs=3, batch_size=32, progress=False)
    assert history["lr"] == pytest.approx([1.0, 1.0, 0.1])


class Recorder(Callback):
    def __init__(self):
        self.events = []

    def on_fit_begin(self, _):
        self.events.append("begin")

    def on_batch_end(self, _trainer, batch, _loss):
        self.events.append(batch)

    def on_epoch_end(self, _trainer, epoch, _logs):
        self.events.append(f"epoch {epoch}")

    def on_fit_end(self, _):
        self.events.append("end")


def test_callbacks_and_stopping_by_one():
    recorder = Recorder()
    trainer = make_trainer()
    trainer.fit(*blobs(40), epochs=2, batch_size=32, callbacks=[recorder], progress=False)
    assert recorder.events == ["begin", 1, 2, "epoch 1", 1, 2, "epoch 2", "end"]

    class Stop(Callback):
        def on_batch_end(self, trainer, *_):
            trainer.stop_reason = "stopped"

    history = trainer.fit(*blobs(40), epochs=5, batch_size=8, callbacks=[Stop()], progress=False)
    assert (history.epochs, history.stop_reason) == (1, "stopped")


class Interrupt(Callback):
    """Presses Ctrl-C in a given batch."""

    def __init__(self, batch):
        self.left = batch

    def on_batch_end(self, *_):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_waits_for_the_batch_and_leaves_all_consistent():
    trainer = make_trainer()
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(*blobs(64), epochs=5, batch_size=16, callbacks=[Interrupt(6)], progress=False)
    assert signal.getsignal(signal.SIGINT) is handler
    assert trainer.history.stop_reason == "interrupted"
    assert trainer.history.epochs == 1
    steps = {state["step"] for state in trainer.optimizer.state.values()}
    assert steps == {6}
    assert all(p.grad is None for p in trainer.model.parameters())
    assert trainer.fit(*blobs(64), epochs=1, progress=False).stop_reason == "completed"


def test_an_interrupted_step_equals_a_run_of_as_many_batches():
    one, other = make_trainer(), make_trainer()
    x, y = blobs(64)
    with pytest.raises(KeyboardInterrupt):
        one.fit(
            x, y, epochs=1, batch_size=16, shuffle=False, callbacks=[Interrupt(3)], progress=False
        )
    other.fit(x[:48], y[:48], epochs=1, batch_size=16, shuffle=False, progress=False)
    assert_weights(one, weights(other))


def test_an_interrupt_brings_back_the_best_weights():
    trainer = make_trainer()
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(
            *blobs(64),
            epochs=9,
            batch_size=32,
            callbacks=[Scripted([3, 1, 2, 2, 2]), Interrupt(7)],
            early_stopping=EarlyStopping(patience=5, monitor="val_loss"),
            progress=False,
        )
    assert trainer.history.best_epoch == 2
    assert (trainer.model[0].weight.data == 2).all()


def test_fit_in_another_thread():
    trainer = make_trainer()
    worker = threading.Thread(
        target=lambda: trainer.fit(*blobs(), epochs=2, progress=False), daemon=True
    )
    worker.start()
    worker.join(60)
    assert trainer.history.epochs == 2


def test_a_loss_that_is_not_finite_stops_before_it_spoils_the_weights():
    x, y = blobs(64)
    x[40] = np.nan
    trainer = make_trainer()
    with pytest.raises(
        FloatingPointError,
        match=r"\[fit\] loss: expected a finite number, got nan"
        r" in epoch 1/1, batch 3",
    ):
        trainer.fit(x, y, epochs=1, batch_size=16, shuffle=False, progress=False)
    assert trainer.history.stop_reason == "failed"
    assert all(np.isfinite(array).all() for array in trainer.model.state_dict().values())


def test_own_metrics_and_tensors():
    x, y = blobs(30)
    trainer = make_trainer()
    trainer.metrics = {"top": lambda outputs, _: float(outputs.max())}
    assert set(trainer.evaluate(ann.Tensor(x), ann.Tensor(y))) == {"loss", "top"}
    assert accuracy(np.eye(3), np.eye(3)[::-1]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t, x, y: t.fit(x, y[1:], epochs=1), ValueError, r"\[fit\] y: expected 12 rows"),
        (lambda t, x, y: t.fit(x[:0], y[:0], epochs=1), ValueError, r"\[fit\] x: expected at lea"),
        (lambda t, x, y: t.fit(x, y, epochs=0), ValueError, r"\[fit\] epochs: expected at least"),
        (
            lambda t, x, y: t.fit(x, y, epochs=1, batch_size=0),
            ValueError,
            r"\[fit\] batch_size: expected at least 1, got 0",
        ),
        (
            lambda t, x, y: t.fit(x, y, epochs=1, validation_data=(x, y[1:])),
            ValueError,
            r"\[fit\] y: expected 12 rows",
        ),
        (lambda t, x, y: t.evaluate(x, y[1:]), ValueError, r"\[evaluate\] y: expected 12 rows"),
        (
            lambda t, x, y: t.evaluate(x, y, batch_size=0),
            ValueError,
            r"\[evaluate\] batch_size: expected at least 1",
        ),
        (lambda t, x, y: t.predict(x[: y[0] * 0]), ValueError, r"\[predict\] x: expected at leas"),
        (
            lambda t, x, y: t.predict(x, batch_size=len(y) * 0),
            ValueError,
            r"\[predict\] batch_size: expected at least 1",
        ),
        (lambda t, x, y: t.fit(3.0, y[x.shape[0] :], epochs=1), ValueError, r"\[fit\] x: expected"),
        (
            lambda t, x, y: t.fit(
                x, y, epochs=1, progress=False, early_stopping=EarlyStopping(monitor="val_f1")
            ),
            ValueError,
            r"\[EarlyStopping\] monitor: expected one of loss accuracy lr, got 'val_f1'",
        ),
    ],
)
def test_bad_calls_leave_the_model_alone(call, error, message):
    trainer = make_trainer(lr=0.0)
    before = weights(trainer)
    with pytest.raises(error, match=message):
        call(trainer, *blobs(12))
    assert_weights(trainer, before)


def test_bad_construction():
    model = nn.Linear(1, 1)
    optimizer = optim.SGD(model.parameters())
    with pytest.raises(TypeError, match=r"\[Trainer\] model: expected Module, got int"):
        Trainer(3, nn.MSELoss(), optimizer)
    with pytest.raises(TypeError, match=r"\[Trainer\] optimizer: expected Optimizer, got str"):
        Trainer(model, nn.MSELoss(), "adam")
    with pytest.raises(ValueError, match=r"\[Trainer\] metrics: expected names among accuracy"):
        Trainer(model, nn.MSELoss(), optimizer, metrics=["f1"])
    for options in ({"patience": 0}, {"mode": "least"}, {"min_delta": float("nan")}):
        with pytest.raises(ValueError, match=r"\[EarlyStopping\] "):
            EarlyStopping(**options)


# ---- progress ----------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_one_line_per_epoch_when_not_a_terminal(capsys):
    make_trainer().fit(*blobs(), epochs=3, validation_data=blobs(9, 1))
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("epoch 2/3  loss 0.")
    assert "val_accuracy" in lines[1]
    assert "\r" not in captured.err
    make_trainer().fit(*blobs(), epochs=1, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("installed", [True, False])
def test_a_bar_on_a_terminal(installed, monkeypatch):
    if installed:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    stream = Terminal()
    with ProgressBar(4, "epoch 1/1", stream=stream) as bar:
        for _ in range(4):
            bar.update("loss 0.5")
    text = stream.getvalue()
    if installed:
        assert "epoch 1/1:   0%" in text
    else:
        assert "[####################] 4/4 loss 0.5" in text
        assert text.endswith("\r")
    quiet = Terminal()
    with ProgressBar(4, enabled=False, stream=quiet) as bar:
        bar.update()
    assert quiet.getvalue() == ""
    with ProgressBar(4, enabled=False, stream=quiet) as bar:
        bar.write("a line")
    assert quiet.getvalue() == "a line\n"
    stream = Terminal()
    with ProgressBar(2, "longer than the line", stream=stream) as bar:
        bar.update()
        bar.write("a line")
        bar.update()
    above, _, below = stream.getvalue().partition("a line\n")
    assert above.endswith("\r")
    assert "longer than the line" in below
