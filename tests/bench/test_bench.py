"""The benchmark harness: its arithmetic, and a run of every family on tiny shapes."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arraynn.cli import _benchmarks

timing = _benchmarks.load("timing")
report = _benchmarks.load("report")
case_module = _benchmarks.load("case")
peak = _benchmarks.load("peak")
run = _benchmarks.load("run")
optim = _benchmarks.load("optim")
conv = _benchmarks.load("conv")
conv_other = _benchmarks.load("conv_other")
fold = _benchmarks.load("fold")
gemm = _benchmarks.load("gemm")
gpt = _benchmarks.load("gpt")
machine = _benchmarks.load("machine")
pool = _benchmarks.load("pool")
pool_other = _benchmarks.load("pool_other")
rnn = _benchmarks.load("rnn")


class TestTiming:
    def test_quantile_is_linear_between_neighbours(self) -> None:
        assert timing.quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
        assert timing.quantile([1.0, 2.0], 0.2) == pytest.approx(1.2)
        assert timing.quantile([7.0], 0.8) == 7.0

    def test_quantile_of_nothing_is_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"\[quantile\] values: expected at least one"):
            timing.quantile([], 0.5)

    def test_ratios_pair_the_rounds_both_took_part_in(self) -> None:
        ours = timing.Samples([1.0, 2.0, None, 4.0])
        peer = timing.Samples([2.0, None, 3.0, 2.0])
        assert timing.ratios(ours, peer) == [2.0, 0.5]

    def test_samples_leave_out_missed_rounds(self) -> None:
        samples = timing.Samples([3.0, None, 1.0, 2.0])
        assert samples.median == 2.0
        assert samples.quantile(1.0) == 3.0

    @pytest.mark.parametrize(
        ("seconds", "samples", "inner"),
        [(1e-6, 100, 20), (1e-3, 30, 1), (1.0, 3, 1), (1e-12, 100, 1000)],
    )
    def test_burst_plan(self, seconds: float, samples: int, inner: int) -> None:
        assert timing.burst_plan(seconds, timing.Settings()) == (samples, inner)

    def test_measure_visits_in_turn_and_back(self) -> None:
        seen: list[str] = []
        calls = [lambda: seen.append("a"), lambda: seen.append("b")]
        settings = timing.Settings(2, 1e-9, least_calls=1, pause=0.0, retakes=0)
        found = timing.measure(calls, settings)
        assert [len(samples.rounds) for samples in found] == [2, 2]
        turns = "".join(v for i, v in enumerate(seen) if i == 0 or seen[i - 1] != v)
        # Two estimates, then rounds a b and b a.
        assert turns == "ababa"

    def test_an_interrupted_burst_is_taken_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Switches before and after each burst: 2, then 1, then 0.
        counts = iter([0, 2, 2, 3, 3, 3])
        monkeypatch.setattr(timing, "preemptions", lambda: next(counts))
        seconds = iter([1.0, 2.0, 3.0])
        monkeypatch.setattr(timing, "burst", lambda *_: next(seconds))
        settings = timing.Settings(burst_seconds=9.0, pause=0.0, patience=0.0, retakes=3)
        assert timing.visit(lambda: None, (1, 1), False, settings) == 3.0

    def test_the_least_interrupted_burst_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        counts = iter([0, 2, 2, 3])
        monkeypatch.setattr(timing, "preemptions", lambda: next(counts))
        seconds = iter([1.0, 2.0])
        monkeypatch.setattr(timing, "burst", lambda *_: next(seconds))
        settings = timing.Settings(burst_seconds=9.0, pause=0.0, patience=0.0, retakes=1)
        assert timing.visit(lambda: None, (1, 1), False, settings) == 2.0

    def test_a_burst_of_slowed_cores_is_taken_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # The second burst is at full speed but interrupted, which is the smaller fault.
        counts = iter([0, 0, 0, 2, 2, 2])
        monkeypatch.setattr(timing, "preemptions", lambda: next(counts))
        seconds, speeds = iter([1.0, 2.0, 3.0]), iter([False, True, False])
        monkeypatch.setattr(timing, "burst", lambda *_: next(seconds))
        settings = timing.Settings(burst_seconds=9.0, pause=0.0, patience=0.0, retakes=2)
        assert timing.visit(lambda: None, (1, 1), False, settings, lambda: next(speeds)) == 2.0

    def test_full_speed_is_a_share_of_the_best_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from arraynn import _core

        rates = iter([100.0, 80.0, 90.0, 95.0, 92.0, 200.0, 180.0])
        monkeypatch.setattr(_core, "measure_fma_rate", lambda *_: next(rates))
        full_speed = machine.FullSpeed(1)  # takes three
        assert [full_speed() for _ in range(4)] == [True, False, True, False]

    def test_a_long_call_is_not_taken_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        counts = iter([0, 2])
        monkeypatch.setattr(timing, "preemptions", lambda: next(counts))
        monkeypatch.setattr(timing, "burst", lambda *_: 1.0)
        settings = timing.Settings(burst_seconds=0.5, pause=0.0, patience=0.0)
        assert timing.visit(lambda: None, (1, 1), False, settings) == 1.0

    def test_slow_candidates_get_fewer_rounds(self) -> None:
        settings = timing.Settings(rounds=6, burst_seconds=1e-4, budget=0.01, pause=0.0)
        slow, fast = timing.measure([lambda: time.sleep(0.01), lambda: None], settings)
        assert len(slow.taken) == 3
        assert len(fast.taken) == len(slow.rounds) == 6

    def test_self_timed_calls_report_their_own_seconds(self) -> None:
        found = timing.measure([lambda: 0.25], timing.QUICK, self_timed=[True])
        assert found[0].median == 0.25

    def test_garbage_collection_is_restored_after_an_error(self) -> None:
        import gc

        count = 0

        def fails_later() -> None:
            nonlocal count
            count += 1
            if count > 3:
                raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            timing.measure([fails_later], timing.QUICK)
        assert gc.isenabled()


def measured(library: str, variant: str, group: str, rounds: list[float]) -> tuple[Any, Any]:
    candidate = case_module.Candidate(library, lambda: None, variant, group)
    return candidate, timing.Samples(list(rounds))


def rows(*pairs: tuple[Any, Any], flops: float = 0.0, limit: str = "") -> list[Any]:
    case = case_module.Case("f", "n", "float32", lambda *_: None, flops, 8.0, limit)
    candidates, samples = zip(*pairs, strict=True)
    return list(report.rows_of(case, 2, candidates, samples, [0.0] * len(pairs), 4.0))


class TestReport:
    def test_the_fastest_peer_of_the_group_counts(self) -> None:
        (row,) = rows(
            measured("arraynn", "", "", [1.0, 2.0, 1.0]),
            measured("torch", "nchw", "", [3.0, 3.0, 3.0]),
            measured("torch", "nhwc", "", [2.0, 2.0, 1.5]),
        )
        assert row.peer.label == "torch:nhwc"
        assert row.ratio == 1.5
        assert [other.variant for other in row.others] == ["nchw"]

    def test_groups_are_compared_apart(self) -> None:
        fresh, reused = rows(
            measured("arraynn", "", "fresh", [2.0]),
            measured("arraynn", "", "reused", [1.0]),
            measured("torch", "", "fresh", [4.0]),
            measured("torch", "", "reused", [3.0]),
        )
        assert (fresh.ratio, reused.ratio) == (2.0, 3.0)

    def test_a_group_of_peers_only_is_held_against_the_first_of_ours(self) -> None:
        _, packed = rows(
            measured("arraynn", "", "", [2.0]),
            measured("torch", "", "", [4.0]),
            measured("onnxruntime", "", "prepacked", [1.0]),
        )
        assert packed.ratio == 0.5
        assert "[prepacked]" in report.row_text(packed)

    def test_rate_and_share_of_the_limit(self) -> None:
        (row,) = rows(measured("arraynn", "", "", [2.0]), flops=6.0, limit="fma")
        assert (row.rate, row.share, row.peer, row.ratio) == (3.0, 0.75, None, None)
        (row,) = rows(measured("arraynn", "", "", [2.0]), limit="copy")
        assert row.rate == 4.0

    @pytest.mark.parametrize(
        ("value", "text"),
        [(1.5, "1.50 s"), (0.0123, "12.3 ms"), (456e-6, "456 us"), (1.2e-6, "1.20 us")],
    )
    def test_seconds(self, value: float, text: str) -> None:
        assert report.seconds(value) == text

    def test_summary_counts_and_names_the_worst(self) -> None:
        found = rows(
            measured("arraynn", "a", "", [1.0]),
            measured("arraynn", "b", "", [4.0]),
            measured("torch", "", "", [2.0]),
        )
        (text,) = report.summary(found)
        assert text.startswith("f: 1 of 2 rows at 1.00x or better, geometric mean 1.00x")
        assert "worst 0.50x (n b 2 thr)" in text

    def test_means_of_the_parts(self) -> None:
        def row(name: str, part: str, ours: float, **peers: float) -> Any:
            made = rows(
                measured("arraynn", "", "fresh", [ours]),
                *(measured(library, "", "fresh", [time]) for library, time in peers.items()),
            )
            return dataclasses.replace(made[0], name=name, part=part)

        found = [
            row("a", "inference", 1.0, torch=2.0, jax=4.0),
            row("b", "inference", 2.0, torch=16.0, jax=1.0),
            row("c", "inference", 1.0, torch=2.0),
            row("a", "training", 1.0, jax=3.0),
            row("b", "training", 1.0),
            row("d", "", 1.0, torch=5.0),
        ]
        inference, training = report.means(found)
        assert (inference.part, inference.group, inference.threads) == ("inference", "fresh", 2)
        assert (inference.rows, inference.at_par) == (3, 2)
        assert (inference.worst, inference.worst_name) == (0.5, "b")
        assert inference.best == pytest.approx(2 ** (1 / 3))
        assert inference.over == pytest.approx({"jax": 2**0.5, "torch": 32 ** (1 / 3)})
        assert training.rows == 1
        assert training.over == pytest.approx({"jax": 3.0})
        assert report.summary(found)[1] == (
            "  inference [fresh] 2 thr: 2 of 3 rows at 1.00x or better, geometric mean over the "
            "best peer 1.26x, jax 1.41x, torch 3.17x; worst 0.50x (b)"
        )
        assert len(json.loads(report.to_json({}, [], found))["means"]) == 2

    def test_json_round_trip(self) -> None:
        found = rows(measured("arraynn", "", "", [1.0]), measured("torch", "", "", [2.0]))
        body = json.loads(report.to_json({"cpu": "x"}, [], found))
        assert [report.row_from_dict(row) for row in body["rows"]] == found


class TestProof:
    def prepared(self, call: Any) -> tuple[Any, Any]:
        candidate = case_module.Candidate("torch", call)
        expected = (np.array([1.0, 2.0]),)
        return candidate, case_module.Prepared([candidate], expected, [1e-3])

    def test_within_the_bound(self) -> None:
        complaint, worst = case_module.prove(*self.prepared(lambda: np.array([1.0, 2.0005])))
        assert complaint is None
        assert worst == pytest.approx(0.5)

    @pytest.mark.parametrize("wrong", [2.01, math.nan, math.inf])
    def test_outside_the_bound(self, wrong: float) -> None:
        complaint, _ = case_module.prove(*self.prepared(lambda: np.array([1.0, wrong])))
        assert complaint is not None
        assert complaint.startswith("array 0 at (1,): expected 2")

    def test_shape(self) -> None:
        complaint, _ = case_module.prove(*self.prepared(lambda: np.ones((2, 1))))
        assert complaint == "array 0: expected shape (2,), got (2, 1)"

    def test_a_wrong_answer_is_reported_and_not_timed(self) -> None:
        def prepare(*_: Any) -> Any:
            right = case_module.Candidate("numpy", lambda: np.ones(2))
            wrong = case_module.Candidate("arraynn", lambda: np.zeros(2))
            return case_module.Prepared([right, wrong], (np.ones(2),), [1e-6])

        case = case_module.Case("f", "n", "float32", prepare)
        found, complaints = run.run_case(case, ["arraynn"], 1, timing.QUICK, lambda _: None)
        assert found == []
        assert len(complaints) == 1
        assert complaints[0].startswith("f n: arraynn: array 0")

    def test_a_call_of_ours_that_raises_is_reported(self) -> None:
        def prepare(*_: Any) -> Any:
            def call() -> Any:
                raise ValueError("[f] x: bad")

            return case_module.Prepared([case_module.Candidate("arraynn", call)], (), [])

        case = case_module.Case("f", "n", "float32", prepare)
        _, complaints = run.run_case(case, ["arraynn"], 1, timing.QUICK, lambda _: None)
        assert complaints == ["f n: arraynn: ValueError: [f] x: bad"]


class TestPeak:
    def test_what_a_call_takes_is_seen_and_what_was_freed_is_not(self) -> None:
        np.ones(8 << 20)  # freed: must not hide what comes after
        candidate = case_module.Candidate("numpy", lambda: np.ones(4 << 20))
        grown, _ = peak.growth_of(candidate.call)
        assert abs(grown - (32 << 20)) < 1 << 20  # the system counts pages in batches
        assert peak.growth_of(lambda: None)[0] < 1 << 20

    def test_a_process_for_every_candidate(self) -> None:
        args = run.argparse.Namespace(dtype="float32", tiny=True)
        case = run.FAMILIES["conv"]("float32", True)[0]
        found = case.prepare(["arraynn"], 1).candidates[:1]
        others = [case_module.Candidate("jax", lambda: None)]
        (taken, unknown) = peak.peaks_of(args, case, [*found, *others], 1)
        assert taken is not None
        assert taken < 8 << 20
        assert unknown is None

    def test_the_table_has_a_column(self) -> None:
        figures = {"median": 1.0, "p20": 1.0, "p80": 1.0, "error": 0.0}
        ours = report.Measured("arraynn", "", "", **figures, peak=3 << 20)
        peer = report.Measured("jax", "", "", **figures)
        row = report.Row("f", "n", "float32", 1, ours, peer, *[None] * 5, limit="")
        assert report.bytes_text(row) == "3 MiB, -"
        assert report.row_text(row).endswith("3 MiB, -")
        assert report.row_from_dict(json.loads(json.dumps(dataclasses.asdict(row)))) == row


class TestFormulas:
    def test_gemm(self) -> None:
        problem = gemm.Problem("linear", 2, 3, 5, "float32")
        assert gemm.flops(problem) == 60
        assert gemm.nbytes(problem) == 4 * (6 + 15 + 10)

    def test_conv(self) -> None:
        problem = conv.Problem(1, 64, 64, 3, 1, 56, False, "float32")
        assert problem.out_size == 56
        assert conv.flops(problem) == 2 * 56 * 56 * 64 * 64 * 9

    def test_transposed_conv(self) -> None:
        problem = conv_other.Problem("conv_transpose2d", 1, 64, 32, 2, 2, 0, 28, False, "float32")
        assert problem.out_size == 56
        assert conv_other.flops(problem) == 2 * 56 * 56 * 64 * 32
        assert conv_other.nbytes(problem) == 4 * (28**2 * 64 + 56**2 * 32 + 64 * 32 * 4)

    def test_fold(self) -> None:
        problem = fold.Problem("unfold", 1, 64, 56, 3, 1, 1, "float32")
        assert fold.nbytes(problem) == 4 * 64 * 56 * 56 * 10

    def test_resnet50_has_its_shapes_once(self) -> None:
        assert len(set(conv.RESNET50)) == len(conv.RESNET50) == 22

    def test_resnet50_has_its_parameters(self) -> None:
        sizes = optim.resnet50_sizes()
        assert len(sizes) == 161
        assert sum(sizes) == 25_557_032

    def test_pool(self) -> None:
        problem = pool.Problem(1, "max", 3, 2, 1, 64, 112, False, "float32")
        assert problem.out_size == 56
        assert pool.nbytes(problem) == 4 * 64 * (112**2 + 56**2)

    def test_other_pools(self) -> None:
        volume = pool_other.Problem("max_pool3d", 1, 64, (8, 6, 6), (2,), False, "float32")
        assert pool_other.nbytes(volume) == 4 * 64 * (8 * 36 + 4 * 9)
        unpool = pool_other.Problem("max_unpool2d", 1, 3, (4, 5), (2,), True, "float32")
        assert pool_other.nbytes(unpool) == 3 * 20 * (4 + 16 + 8)

    def test_gpt(self) -> None:
        # GPT-2 small has 124.4 million parameters, 0.8 of them positions and 0.1 biases and norms.
        assert gpt.SMALL.weights == 123_532_032
        assert gpt.Problem("forward", gpt.TINY, 7, "float32").flops == (
            2 * (12 * 64 + 11 * 8) * 7 + 4 * 8 * 28
        )
        assert gpt.Problem("decode", gpt.TINY, 7, "float32").flops == (
            2 * (12 * 64 + 11 * 8) + 4 * 8 * 8
        )

    def test_limits_of_the_machine(self) -> None:
        assert machine.read_bandwidth(1 << 16, 1) > 1e6
        assert machine.copy_bandwidth(1 << 16, 1) > 1e6

    def test_rnn_grid(self) -> None:
        names = [case.name for case in rnn.whole_grid("float32")]
        assert len(set(names)) == len(names) == 5 * 4 * 17 * 3 * 2
        assert "lstm T784 B128 H1024 I1024 training" in names
        assert set(run.ON_REQUEST) < set(run.FAMILIES)

    def test_rnn_tells_what_is_kept(self) -> None:
        libraries = [n for n in run.chosen_libraries(["all"]) if n in ("arraynn", "torch")]
        cases = {case.name: case for case in rnn.cases("float32", True)}
        plain = cases["lstm T3 B2 H5 I4"].prepare(libraries, 1)
        assert {c.kept for c in plain.candidates} == {None}
        kept = {
            c.library: c.kept
            for c in cases["lstm T3 B2 H5 I4 training"].prepare(libraries, 1).candidates
        }
        # Gates and cells of three steps.
        assert kept["arraynn"] == 4 * 2 * 3 * 5 * 5
        if "torch" in kept:
            assert kept["torch"] >= 4 * 3 * 2 * 5


def complaints(cases: list[Any], libraries: list[str]) -> list[str]:
    """What is wrong with the answers of cases, each of which has ours among them."""
    found = []
    for case in cases:
        prepared = case.prepare(libraries, 1)
        if "arraynn" not in {candidate.library for candidate in prepared.candidates}:
            found.append(f"{case.name}: not ours")
        for candidate in prepared.candidates:
            complaint, _ = case_module.prove(candidate, prepared, case.dtype)
            if complaint is not None:
                found.append(f"{case.name}: {candidate.label}: {complaint}")
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("family", list(run.FAMILIES))
def test_every_answer_of_a_family_is_right(family: str, dtype: str) -> None:
    cases = run.FAMILIES[family](dtype, True)
    assert cases
    assert complaints(cases, run.chosen_libraries(["all"])) == []


@pytest.mark.parametrize("dtype", list(case_module.HALVES))
@pytest.mark.parametrize("family", run.OF_HALVES)
def test_every_answer_in_16_bits_is_right(family: str, dtype: str) -> None:
    pytest.importorskip("ml_dtypes")
    cases = run.FAMILIES[family](dtype, True)
    assert cases
    assert complaints(cases, run.libraries_for(["all"], dtype)) == []


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "arraynn", "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )


@pytest.mark.parametrize("family", ["attention", "elementwise", "model", "pool", "rnn", "softmax"])
def test_memory_is_measured_where_data_are_made_of_answers(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case_module, "answerless", False)
    for case in run.FAMILIES[family]("float32", True):
        found = peak.candidates_of(case, "arraynn", 1)
        assert "arraynn" in {candidate.library for candidate in found}, case.name


def test_a_run_writes_a_table_and_json(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    done = bench("gemm", "--tiny", "--threads", "1,2", "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "linear 5x7x3" in done.stdout
    body = json.loads(file.read_text())
    assert {row["threads"] for row in body["rows"]} == {1, 2}
    assert {"cpu", "isa", "versions", "commit"} <= set(body["machine"])
    assert [limit["threads"] for limit in body["limits"]] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "unknown family 'nothing'"),
        (["gemm", "--peers", "theano"], "unknown peer 'theano'"),
        (["gemm", "--threads", "0"], "expected positive counts"),
        (["gemm", "--filter", "("], "not a regular expression"),
        (["gemm", "--filter", "no such shape"], "no case matches"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments: list[str], message: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_list_of_cases() -> None:
    done = bench("--list", "conv", "--filter", "fwd n8 .*3x3")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == sum(shape[2] == 3 for shape in conv.RESNET50)
