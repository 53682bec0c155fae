"""Runs that are measured: along their training, when they are over, and later."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import run as command
from samkeras import analysis
from samkeras.analysis import DataLoss
from samkeras.data.examples import ArrayExamples
from samkeras.experiment.options.measures import MEASURES
from samkeras.experiment.runs import measures, measuring
from samkeras.experiment.runs.result import Result
from samkeras.experiment.runs.saved import load_run
from samkeras.experiment.studies import grid
from samkeras.experiment.studies.curves import find_files
from samkeras.experiment.studies.tables import print_measured
from samkeras.experiment.tracking.journal import find_journals
from tests.analysis.making import build_linear, build_quadratic, rotate
from tests.helpers import make_config

SMALL = ["--width_mult", "0.1", "--epochs", "3", "--batch_size", "200", "--sam"]
SMALL += ["true,false"]
MEASURED = ["--measure", "eigenvalues,linearity", "--measure_examples", "150"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, store):
    """The folder of a grid's runs, one with SAM, one without, measured when they were
    over."""
    folder = tmp_path_factory.mktemp("measured") / "runs"
    assert run(folder, store, *SMALL, *MEASURED) == 0
    return folder


def run(folder: Path, store: str, *options: str) -> int:
    places = ["--run_dir", str(folder), "--tracking_uri", store]
    places += ["--experiment", folder.parent.name, "--verbose", "0"]
    return command.main(["workloads/synthetic_mlp", *places, *options])


def find_run(folder: Path, kind: str) -> Path:
    (path,) = folder.glob(f"synthetic_mlp_w0.1_{kind}*")
    return path


def read_numbers(path: Path) -> dict[str, float]:
    """What is recorded of a run."""
    (journal,) = find_journals(path)
    return journal.read_run().metrics


def read_curve(path: Path, name: str) -> list[float]:
    (journal,) = find_journals(path)
    return [
        r["metrics"][name] for r, _ in journal.read(0) if name in r.get("metrics", ())
    ]


@pytest.fixture
def forbid(monkeypatch):
    """A function after which nothing may be measured."""

    def refuse(*_):
        raise AssertionError("is measured again")

    return lambda: monkeypatch.setattr(measuring, "take", refuse)


def test_the_numbers_are_those_of_the_last_weights(trained):
    """As samkeras.analysis gives them for the model and a choice of its training's
    examples, and recorded with the run, which is over as before."""
    path = find_run(trained, "sgd")
    saved = load_run(path)
    model, data = saved.model("last"), saved.data.train.choose(150)
    loss = DataLoss(model, (data.x, data.y))
    numbers = read_numbers(path)
    top = analysis.top_eigenvalues(model, loss, 5).values
    assert numbers["lambda_max"] == pytest.approx(top[0], rel=1e-5)
    assert numbers["lambda_5"] == pytest.approx(top[4], rel=1e-4)
    start = [np.array(w) for w in saved.model("start").trainable_variables]
    linearity = analysis.linearity(model, loss, start)
    assert numbers["linearity"] == pytest.approx(linearity.value, rel=1e-4)
    assert numbers["start_distance"] == pytest.approx(linearity.distance, rel=1e-4)
    assert 0 < linearity.value < 1
    (journal,) = find_journals(path)
    statuses = [r["status"] for r, _ in journal.read(0) if "status" in r]
    assert statuses == ["FINISHED"]


def test_a_repeated_command_measures_nothing(trained, store, forbid, capsys):
    forbid()
    assert run(trained, store, *SMALL, *MEASURED) == 0
    out = capsys.readouterr().out
    assert f"{read_numbers(find_run(trained, 'sgd'))['lambda_max']:.4g}" in out


def test_what_is_asked_for_later_is_added(trained, store, tmp_path, monkeypatch):
    """Without training anew, and without measuring what is known."""
    taken = []

    def note(name, subject, take=measuring.take):
        taken.append(name)
        return take(name, subject)

    monkeypatch.setattr(measuring, "take", note)
    more = ["--measure", "eigenvalues,trace", "--measure_examples", "150"]
    before = {p: p.stat().st_mtime_ns for p in trained.glob("*/last.weights.h5")}
    assert run(trained, store, *SMALL, *more) == 0
    assert taken == ["trace", "trace"]
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert "trace" in read_numbers(find_run(trained, "sam"))


@pytest.mark.slow_on_tensorflow
def test_a_run_alone_is_measured_as_among_others(trained, tmp_path):
    """Whose models it takes the place of: smoothness takes a step of training, with the
    optimizer and method as they were, and takes it back."""
    copies = [tmp_path / path.name for path in trained.glob("synthetic_mlp*")]
    for copy in copies:
        shutil.copytree(trained / copy.name, copy)
        (copy / "measures.json").unlink()
    names = ("smoothness", "eigenvalues")

    def numbers(path):
        entries, new = measuring.measure_run(load_run(path), names, "last", 100)
        assert new == [*names]
        (path / "measures.json").unlink()
        return [entry.numbers for entry in entries]

    together = [numbers(copy) for copy in copies]
    for copy, found in zip(copies, together, strict=True):
        measures.forget()
        keras.backend.clear_session()
        alone = numbers(copy)
        for one, other in zip(alone, found, strict=True):
            assert one == pytest.approx(other, rel=1e-5)


def test_an_interrupted_measuring_goes_on(
    trained, store, tmp_path, monkeypatch, forbid
):
    """Ctrl-C keeps what is measured, and the runs, which are over."""
    folder = tmp_path / "other" / "runs"
    shutil.copytree(trained, folder)
    taken = []

    def interrupt(name, subject, take=measuring.take):
        taken.append(name)
        if len(taken) == 2:
            raise KeyboardInterrupt
        return take(name, subject)

    saved = load_run(find_run(folder, "sgd"))
    with monkeypatch.context() as context:
        context.setattr(measuring, "take", interrupt)
        with pytest.raises(KeyboardInterrupt):
            measuring.measure_run(saved, ["trace", "sharpness"], "last", 70)
    entries, new = measuring.measure_run(saved, ["trace", "sharpness"], "last", 70)
    assert new == ["sharpness"]
    assert [entry.measure for entry in entries] == ["trace", "sharpness"]
    forbid()
    measuring.measure_run(saved, ["trace", "sharpness"], "last", 70)


def test_measuring_along_changes_nothing_of_a_training(trained, store, tmp_path):
    """The weights are those of the run that is not measured, to the bit, with a
    smoothness whose step is taken back; numbers come every second epoch and at the end,
    where they are those of the last weights."""
    folder = tmp_path / "along" / "runs"
    options = ["--measure", "eigenvalues,smoothness,trajectory", "--measure_every", "2"]
    assert run(folder, store, *SMALL, *options, "--measure_examples", "150") == 0
    for kind in ("sam", "sgd"):
        path, plain = find_run(folder, kind), find_run(trained, kind)
        assert path.name != plain.name  # it is a run of its own
        one, other = (
            load_run(each).model("last").get_weights() for each in (path, plain)
        )
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
        curve = read_curve(path, "lambda_max")
        assert len(curve) == 2
        assert curve[-1] == pytest.approx(read_numbers(plain)["lambda_max"], rel=1e-5)
        kept = sorted(file.name for file in (path / "trajectory").iterdir())
        assert kept == ["epoch_000000.npy", "epoch_000002.npy", "epoch_000003.npy"]
        weights = [np.load(path / "trajectory" / name) for name in (kept[0], kept[-1])]
        for which, flat in zip(("start", "last"), weights, strict=True):
            model = load_run(path).model(which)
            parts = [np.ravel(w) for w in model.trainable_variables]
            np.testing.assert_array_equal(flat, np.concatenate(parts))


def test_a_run_that_is_trained_again_is_measured_again(trained, store, tmp_path):
    path = tmp_path / "again" / "runs"
    options = [*SMALL, "--measure", "trace", "--measure_examples", "50"]
    assert run(path, store, *options) == 0
    assert run(path, store, *options, "--rerun") == 0
    for kind in ("sam", "sgd"):
        entries = json.loads((find_run(path, kind) / "measures.json").read_text())
        assert len({entry["of"] for entry in entries}) == len(entries) == 2
        newest = find_journals(find_run(path, kind))[-1]
        assert "trace" in newest.read_run().metrics


@pytest.mark.one_backend
def test_analyze_measures_runs_from_their_folders(trained, capsys, forbid):
    """A table of SAM and the base optimizer, the numbers with the run, of the best
    epoch under names of their own; nothing the second time."""
    paths = [str(find_run(trained, kind)) for kind in ("sam", "sgd")]
    options = ["--measure", "spectrum,average_sharpness", "--examples", "100"]
    assert command.main(["analyze", *paths, *options, "--weights", "best"]) == 0
    out = capsys.readouterr().out
    assert "no SAM" in out
    assert "the best epoch's weights, on 100 training examples, in float32" in out
    for path in map(Path, paths):
        numbers = read_numbers(path)
        assert "average_sharpness_at_best_of_100" in numbers
        assert "average_sharpness" not in numbers
    (picture,) = (trained / "landscapes").glob("*/spectrum.png")
    assert str(picture) in out
    assert picture.stat().st_size > 5_000
    forbid()
    assert command.main(["analyze", *paths, *options, "--weights", "best"]) == 0


@pytest.mark.one_backend
def test_a_grid_draws_what_it_measures_side_by_side(trained, store, capsys, tmp_path):
    """A landscape of its runs, and the line between two; recorded with each."""
    folder = tmp_path / "drawn" / "runs"
    options = ["--measure", "landscape,interpolation", "--measure_examples", "20"]
    assert run(folder, store, *SMALL, *options) == 0
    out = capsys.readouterr().out
    for name in ("landscape", "interpolation"):
        (picture,) = (folder / "landscapes").glob(f"*/{name}.png")
        assert f"The {name} of the runs: {picture}" in out
        for kind in ("sam", "sgd"):
            (journal,) = find_journals(find_run(folder, kind))
            files = [r["file"] for r, _ in journal.read(0) if "file" in r]
            assert any(file.endswith(f"/{name}.png") for file in files)


def measure_quadratic(name: str, values: list[float]) -> measures.Measured:
    """A measure of a loss whose Hessian has these eigenvalues."""
    model, data = build_quadratic(rotate(values)[None])
    return measures.take(name, SimpleNamespace(model=model, loss=DataLoss(model, data)))


@pytest.mark.parametrize("fifth", [0.0, 1e-5, -0.5])
def test_an_eigenvalue_of_zero_has_no_ratio(fifth):
    """Nor one that may be zero by its residual or by rounding, nor a negative one:
    a ratio would be of rounding alone."""
    found = measure_quadratic("eigenvalues", [9.0, 4.0, 3.0, 2.0, fifth, -1.0])
    assert found.numbers["lambda_5"] == pytest.approx(fifth, abs=1e-4)
    assert "lambda_ratio" not in found.numbers
    assert any("lambda_ratio is not known" in note for note in found.notes)
    known = measure_quadratic("eigenvalues", [9.0, 4.0, 3.0, 2.0, 0.5, -1.0])
    assert known.numbers["lambda_ratio"] == pytest.approx(18, rel=1e-3)
    assert known.notes == []


def test_the_least_eigenvalue_has_a_residual():
    """It is Lanczos' own, not the least point of a spectrum, of which nothing says how
    near it is."""
    found = measure_quadratic("spectrum", [9.0, *np.linspace(-1, 1, 20), -4.0])
    assert found.numbers["lambda_min"] == pytest.approx(-4, rel=1e-3)
    assert found.numbers["lambda_min_residual"] < 4e-3
    assert found.numbers["lambda_min_converged"] == 1
    assert found.notes == []


def test_how_wrong_non_uniformity_is_is_recorded():
    """Of a linear model the Gauss-Newton form is the Hessian; the residual is that of
    the moments' roots."""
    model, rng = build_linear(1, 3, "mse"), np.random.default_rng(0)
    x, y = rng.standard_normal((8, 3)), rng.standard_normal((8, 1))
    data = DataLoss(model, (x.astype("float32"), y.astype("float32")))
    found = measures.take("non_uniformity", SimpleNamespace(model=model, loss=data))
    assert set(found.numbers) == set(MEASURES["non_uniformity"])
    assert found.numbers["s_gap"] < 1e-4
    assert 0 <= found.numbers["s_residual"] < 1e-3 * found.numbers["s_4"]
    assert found.numbers["s_converged"] == 1


def test_as_many_products_are_taken_as_fit_into_memory(monkeypatch):
    """Else a large network would have no eigenvalues at all; what has not converged for
    that reason is said and flagged."""
    values = [9.0, 5.0, 4.0, 3.0, 2.0, *np.linspace(-1, 1, 25)]
    monkeypatch.setattr(os, "sysconf", lambda name: 40)  # 6 vectors of 30 weights
    found = measure_quadratic("eigenvalues", values)
    assert found.numbers["lambda_max"] == pytest.approx(9, abs=0.5)
    assert found.numbers["lambda_converged"] == 0
    assert any("have not converged: after 6 products" in note for note in found.notes)
    found = measure_quadratic("spectrum", values)
    assert any("of 6 steps of Lanczos instead of 60" in note for note in found.notes)
    assert np.sum(found.arrays["weights"]) == pytest.approx(1)
    monkeypatch.setattr(os, "sysconf", lambda name: 10)  # none at all
    (note,) = measure_quadratic("eigenvalues", values).notes
    assert "take more than half of this machine's" in note


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3.0 TiB"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 3 bytes"),
    ],
)
def test_too_little_memory_is_a_measures_note(monkeypatch, error):
    """The training is over: a traceback would lose its end."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(analysis, "trace", fail)
    found = measure_quadratic("trace", [2.0, 1.0, 1.0])
    assert found.numbers == {}
    (note,) = found.notes
    assert note.startswith("trace cannot be measured: out of memory: ")
    with monkeypatch.context() as context:
        context.setattr(analysis, "trace", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            measure_quadratic("trace", [2.0, 1.0, 1.0])
    monkeypatch.setattr(measures, "DataLoss", fail)
    x = np.zeros((4, 3), "float32")
    with pytest.raises(ValueError, match="out of memory"):
        measures.make_loss(None, ArrayExamples(x, x), 2)


@pytest.mark.one_backend
def test_sorted_examples_are_measured_on_all_classes():
    """The same choice always; all of them are in their order."""
    examples = ArrayExamples(np.arange(60.0), np.repeat([0, 1], 30))
    batches, size = measures.take_batches(examples, 20)
    (labels,) = (y for _, y, *_ in batches)
    assert size == 20
    assert set(labels) == {0, 1}
    again, _ = measures.take_batches(examples, 20)
    np.testing.assert_array_equal(again[0][0], batches[0][0])
    every, _ = measures.take_batches(examples, 100)
    np.testing.assert_array_equal(every[0][0], examples.x)


@pytest.mark.one_backend
def test_what_has_not_converged_is_marked_in_its_table(capsys):
    """In one of a row's seeds is enough; what has converged is not."""
    results = [
        Result(
            make_config("mnist_mlp", sam=sam, seed=seed),
            1,
            1,
            {
                "best_val_accuracy": 0.5,
                "final_val_accuracy": 0.5,
                "lambda_max": 4.0 + sam,
                "lambda_converged": float(sam or seed),
                "trace": 3.0,
            },
        )
        for sam in (True, False)
        for seed in (0, 1)
    ]
    print_measured(results)
    eigenvalues, trace = capsys.readouterr().out.strip().split("\n\n")
    assert "4 ± 0 *" in eigenvalues
    assert "5 ± 0\n" in eigenvalues
    assert eigenvalues.endswith("* has not converged.")
    assert "lambda_converged" not in eigenvalues
    assert "*" not in trace


@pytest.mark.one_backend
def test_numbers_of_other_examples_are_apart(trained, capsys):
    """Else a table would have some runs' of these and others' of those."""
    path = find_run(trained, "sam")
    before = read_numbers(path)["lambda_max"]
    options = ["--measure", "eigenvalues", "--examples", "40"]
    assert command.main(["analyze", str(path), *options]) == 0
    numbers = read_numbers(path)
    assert numbers["lambda_max"] == before
    assert numbers["lambda_max_of_40"] != before


@pytest.mark.one_backend
def test_several_processes_say_what_they_leave_out(trained, store, monkeypatch, capsys):
    """No silence in the place of numbers: the command in one process measures."""
    monkeypatch.setattr(grid, "find_process", lambda: (0, 2))
    assert run(trained, store, *SMALL, "--measure", "sharpness") == 0
    assert "the same command in one process does" in capsys.readouterr().err
    assert "sharpness" not in read_numbers(find_run(trained, "sam"))


@pytest.mark.one_backend
def test_spectra_along_a_training_are_drawn(store, tmp_path, capsys, canvas):
    """Those of each epoch that was measured, the last among them."""
    folder = tmp_path / "along" / "runs"
    options = [*SMALL, "--measure", "spectrum", "--measure_examples", "20"]
    assert run(folder, store, *options, "--measure_every", "2") == 0
    assert "The spectrum of the runs" in capsys.readouterr().out
    *spectra, _, _ = canvas[0].axes
    names = {axes.get_title().rpartition(", ")[2] for axes in spectra}
    assert names == {"epoch 2", "epoch 3"}
    for path in folder.glob("synthetic_mlp*"):
        config = load_run(path).config
        assert [*find_files(path, config, "spectrum")] == [1, 2]


@pytest.mark.one_backend
def test_what_cannot_be_measured_is_said(trained, capsys, monkeypatch):
    """Beside what can be, and with exit code 1."""

    def refuse(*_, **__):
        raise ValueError("there is no second derivative")

    monkeypatch.setattr(analysis, "trace", refuse)
    path = str(find_run(trained, "sgd"))
    options = ["--measure", "trace,sharpness", "--examples", "30"]
    assert command.main(["analyze", path, *options]) == 1
    out, err = capsys.readouterr()
    assert "trace cannot be measured: there is no second derivative" in err
    assert "sharpness" in out


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--measure", "trace"], "analyze needs the folder of a run"),
        (["{run}"], "analyze needs --measure"),
        (["{run}", "--measure", "traces"], "Received: traces; did you mean trace?"),
        (["{run}", "--measure", "trajectory"], "along a training"),
        (["{run}", "--measure", "trace", "--weights", "lats"], "did you mean last?"),
        (["{run}", "--measure", "trace", "--examples", "0"], "an integer >= 1"),
        (["{run}", "--measure", "trace", "--example", "9"], "did you mean --examples?"),
        (["{run}x", "--measure", "trace"], "there is no folder"),
        (["{run}/..", "--measure", "trace"], "holds no run"),
    ],
)
def test_a_wrong_analysis_is_one_line(trained, capsys, arguments, message):
    path = str(find_run(trained, "sgd"))
    line = [each.replace("{run}", path) for each in arguments]
    assert command.main(["analyze", *line]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert not out


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--measure", "eigenvalue"], "did you mean eigenvalues?"),
        (["--measure", "trajectory"], "needs --measure_every N"),
        (["--measure_every", "2"], "--measure_every needs --measure NAME,NAME"),
        (
            ["--measure", "trace", "--measure_every", "9", "--epochs", "3"],
            "--measure_every must be at most the 3 epochs. Received: 9",
        ),
        (["--measure", "interpolation"], "is between two runs. Received: 1"),
        (["--sam", "--method", "msam"], "needs --momentum X or --optimizer adam"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, capsys, options, message):
    assert run(tmp_path / "runs", "sqlite:///unused.db", *options) == 2
    assert message in capsys.readouterr().err


def test_what_is_no_longer_known_is_not_shown(trained, store, capsys, monkeypatch):
    """Of runs that an earlier version has measured: where a fifth eigenvalue may be
    zero there is no ratio, though one is recorded."""
    recorded = read_numbers(find_run(trained, "sgd"))["lambda_ratio"]

    def forget(name, subject, take=measuring.take):
        found = take(name, subject)
        numbers = {k: v for k, v in found.numbers.items() if k != "lambda_ratio"}
        return dataclasses.replace(found, numbers=numbers)

    monkeypatch.setattr(measuring, "VERSION", measuring.VERSION + 1)
    monkeypatch.setattr(measuring, "take", forget)
    assert run(trained, store, *SMALL, *MEASURED) == 0
    out = capsys.readouterr().out
    assert "lambda_max" in out
    assert "lambda_ratio" not in out
    assert f"{recorded:.4g}" not in out
