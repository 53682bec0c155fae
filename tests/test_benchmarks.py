"""The benchmarks' harness with a fake clock, and that each benchmark still starts."""

import ast
import dataclasses
import importlib
import json
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.helpers import is_precise

FOLDER = Path(__file__).parents[1] / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "harness")
pytestmark = pytest.mark.skipif(
    os.environ["KERAS_BACKEND"] != "jax", reason="the references are written in JAX"
)


@pytest.fixture
def harness(monkeypatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    return importlib.import_module("harness")


class Clock:
    """A clock that moves when a contender works."""

    def __init__(self):
        self.now, self.turns = 0.0, []

    def __call__(self) -> float:
        return self.now

    def contender(self, name: str, *seconds: float):
        """One that takes these seconds in its turns."""

        def turn(number: int) -> None:
            self.turns.append((name, number))
            self.now += seconds[number]

        return turn


@pytest.fixture
def seconds(harness) -> dict[str, list[float]]:
    clock = Clock()
    turns = {
        "hand": clock.contender("hand", 70, 1, 2, 10),
        "ours": clock.contender("ours", 90, 2, 3, 50),
    }
    return harness.time_in_turns(turns, rounds=3, clock=clock)


def test_contenders_take_turns_and_the_first_round_is_not_timed(harness):
    clock = Clock()
    turns = {name: clock.contender(name, 8, 2, 4) for name in ("hand", "ours")}
    seconds = harness.time_in_turns(turns, rounds=2, per=4, clock=clock)
    assert clock.turns == [(n, i) for i in range(3) for n in ("hand", "ours")]
    assert seconds == {"hand": [0.5, 1.0], "ours": [0.5, 1.0]}


def test_a_row_has_the_median_the_extremes_and_the_median_ratio(harness, seconds):
    assert harness.row(seconds, "ours", "hand", deviation=0.5) == {
        "name": "ours",
        "median_s": 3,
        "low": 2,
        "high": 50,
        "ratio_to": "hand",
        "ratio": 2,  # of 2, 1.5 and 5
        "deviation": 0.5,
    }


def test_the_report_is_printed_and_saved_when_asked_to(
    harness, seconds, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(harness, "installed", lambda python: {"numpy": "2"})
    monkeypatch.setattr(sys, "argv", ["x.py", "--rounds", "3", "--save"])
    rows = [harness.row(seconds, name, "hand") for name in seconds]
    parser = harness.make_parser("x.py", "How long?\n\nLong.")
    harness.report(parser.parse_args(["--save", "other"]), rows)
    harness.report(parser.parse_args(["--save"]), rows)
    harness.report(parser.parse_args([]), [])
    assert {path.name for path in (tmp_path / "results").iterdir()} == {
        "other.json",
        "x.json",
    }
    saved = json.loads((tmp_path / "results" / "x.json").read_text())
    assert list(saved) == [
        "question",
        "command",
        "date",
        "machine",
        "versions",
        "rows",
    ]
    assert saved["question"] == "How long?"
    assert saved["command"] == (
        "KERAS_BACKEND=jax python benchmarks/x.py --rounds 3 --save"
    )
    assert set(saved["machine"]) == {"system", "cpu", "devices"}
    assert set(saved["versions"]) == {"python", "samkeras", "keras", "jax", "numpy"}
    assert saved["rows"] == rows
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("How long?", "ours", "ratio", "cores"))


def test_another_computation_ends_a_benchmark(harness):
    harness.demand_same({"ours": 1e-5}, tolerance=1e-4)
    for deviation in (1e-3, float("nan")):
        with pytest.raises(SystemExit, match="Not the same computation: ours"):
            harness.demand_same({"hand": 0.0, "ours": deviation}, tolerance=1e-4)


def test_contenders_are_compared_in_full_precision_and_timed_without(harness):
    """A GPU's own rounding would tell them apart: they are alike to 1e-4."""

    class Watching(harness.Contender):
        def epoch(self, number):
            self.was_precise = is_precise()

        def weights(self):
            return [self.was_precise]

    watching = Watching()
    assert harness.train_each({"ours": lambda: watching}) == {"ours": [True]}
    harness.train_in_turns({"ours": lambda: watching}, rounds=1)
    assert not watching.was_precise


def test_a_contender_may_live_in_a_process_of_its_own(harness, tmp_path, monkeypatch):
    (tmp_path / "fake.py").write_text(
        "import dataclasses\n"
        "import harness\n"
        "@dataclasses.dataclass\n"
        "class Task:\n"
        "    start: float\n"
        "class Adder(harness.Contender):\n"
        "    def __init__(self, task):\n"
        "        self.sum = task.start\n"
        "    def epoch(self, number):\n"
        "        self.sum += number\n"
        "    def weights(self):\n"
        "        return [self.sum]\n"
        "CONTENDERS = {'adder': Adder}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    task = dataclasses.make_dataclass("Task", ["start"])(0.5)
    worker = harness.Worker(sys.executable, "fake", "adder", task)
    worker.epoch(2)
    worker.ordered_epoch(3)
    np.testing.assert_array_equal(worker.weights(), [5.5])
    worker.close()
    with pytest.raises(RuntimeError, match="has died"):
        harness.Worker(sys.executable, "fake", "nobody", task)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_asks_a_question_and_explains_its_options(
    name, harness, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    benchmark = importlib.import_module(name)
    with pytest.raises(SystemExit, match="0"):
        benchmark.main()
    assert benchmark.__doc__.splitlines()[0].endswith("?")
    assert "--save" in capsys.readouterr().out


def test_a_wrong_name_is_told_the_right_ones(harness, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["step_time", "--contenders", "scan,sam"])
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module("step_time").main()
    assert "'sam' is none of scan, samkeras" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("host", "--examples 600 --epochs 2", {"device", "whole run"}),
        ("replicas", "--examples 512 --replicas 2 --width_mult 0.05", {1, 2}),
    ],
)
def test_a_benchmark_of_the_houses_runs_ends_with_its_rows(
    name, options, expected, harness, monkeypatch
):
    """Those that take what runs are made of, which changes more than the library."""
    benchmark, found = importlib.import_module(name), []
    monkeypatch.setattr(benchmark, "report", lambda args, rows: found.extend(rows))
    monkeypatch.setattr(sys, "argv", [name, "--rounds", "1", *options.split()])
    benchmark.main()
    assert {row.get("replicas", row["name"]) for row in found} == expected


def test_a_samples_answer_is_of_all_its_seeds(harness):
    """The mean of each side and its standard error, which one seed has not."""
    samples = importlib.import_module("samples")
    runs = [
        {"seed": seed, "sam": sam, "best_val_loss": best, "failure": ""}
        for seed, sam, best in [
            ("0", "True", "0.5"),
            ("1", "True", "0.7"),
            ("0", "False", "0.25"),
            ("1", "False", "0.75"),
        ]
    ]
    row = samples.summarize(runs)
    assert (row["metric"], row["seeds"]) == ("best val_loss", 2)
    assert (row["base"], row["base_error"]) == (0.5, pytest.approx(0.25))
    assert (row["sam"], row["sam_error"]) == pytest.approx((0.6, 0.1))
    assert samples.summarize(runs[::2])["sam_error"] is None
    runs[3]["failure"] = "its loss is not a number"
    with pytest.raises(ValueError, match="not a number"):
        samples.summarize(runs)


@pytest.mark.slow
def test_samples_that_are_saved_again_replace_their_own_rows(
    harness, monkeypatch, tmp_path
):
    samples = importlib.import_module("samples")
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    tiny = samples.Sample("--epochs 1 --train_examples 100", "")
    monkeypatch.setattr(samples, "SAMPLES", {"mnist_mlp": None, "synthetic_mlp": tiny})
    kept = [{"name": name, "base": 9.0} for name in ("mnist_mlp", "synthetic_mlp")]
    path = tmp_path / "samples.json"
    path.write_text(json.dumps({"rows": kept}))
    line = ["samples", "--workloads", "synthetic_mlp", "--save"]
    monkeypatch.setattr(sys, "argv", line)
    samples.main()
    other, own = json.loads(path.read_text())["rows"]
    assert other == kept[0]
    assert own["metric"] == "best val_loss"
    assert 0 < own["base"] < 9
    assert own["cpu_s"] > 0
    assert "of one seed" in own["says"]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_benchmark_takes_from_the_project_is_there(name, harness):
    """Most is imported late, where it is used, so that --help answers at once."""
    for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            project = node.module.split(".")[0] in ("samkeras", "tests", "step_time")
            for alias in node.names if project else ():
                module = importlib.import_module(node.module)
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


def test_the_runs_of_sequences_are_ones_that_options_allow(harness):
    module = importlib.import_module("sequence_step")
    for workload in module.OPTIONS:
        task = module.Task(workload, sam=True, width_mult=0.5, steps=1, is_check=True)
        assert task.config.learning_rate == module.CHECKED_AT["learning_rate"]
