"""Figures by their command: their runs are trained and drawn."""

import json
import math
import re
from pathlib import Path

import keras
import pytest

import run as command
from samkeras.experiment.launch import groups
from samkeras.experiment.options.targets import FIGURES
from samkeras.experiment.runs.member import Member
from samkeras.experiment.studies import pictures as drawing
from samkeras.experiment.studies.figure import read_figure
from samkeras.experiment.tracking.journal import find_journals
from tests.data.making import SOURCES
from tests.experiment.studies.making import (
    NAMES,
    RUNS,
    TINY,
    make_trained,
    read_csv,
)

pytestmark = pytest.mark.one_backend


@pytest.fixture
def draw(write, records, tmp_path, request, capsys):
    """A function: options -> (exit code, the points' CSV, standard error), of TINY or
    the picture named."""
    write("tiny", TINY)

    def call(*options: str, name: str = "tiny"):
        places = ["--run_dir", str(tmp_path / "runs")]
        places += ["--experiment", request.node.name]
        code = command.main([f"configs/figures/{name}.yaml", *places, *options])
        path = tmp_path / "runs" / "figures" / name / f"{name}.csv"
        return code, read_csv(path), capsys.readouterr().err

    return call


@pytest.fixture
def recorded(records, request):
    """A function: () -> the runs of the test's experiment, by width and SAM, and the
    figure's own under "figure"."""

    def runs():
        found, names = records[request.node.name], ("width_mult", "sam")
        keys = [
            "figure" if "figure" in run.tags else tuple(map(run.params.get, names))
            for run in found
        ]
        assert len(set(keys)) == len(found)
        return dict(zip(keys, found, strict=True))

    return runs


@pytest.mark.each_backend
def test_a_command_trains_and_draws(draw, recorded, tmp_path, monkeypatch):
    """One command trains a figure's runs, draws them and records the files in the run
    that they are nested in; the same command again draws without training."""
    code, rows, _ = draw()
    assert code == 0
    runs = recorded()
    parent = runs["figure"]
    assert parent.tags["figure"] == parent.name == "tiny"
    assert parent.status == "FINISHED"
    made = {"tiny.png", "tiny.svg", "tiny.csv"}
    names = {*made, "runs.csv", "summary.json"}
    drawn = {f"../figures/tiny/{name}" for name in names}
    assert parent.files == {*drawn, "table.txt", "runs.csv"}
    assert read_csv(parent.folder / "../figures/tiny/tiny.csv") == rows
    assert [int(row["num_params"]) for row in rows] == [1021, 2041]
    for row, width in zip(rows, ("0.1", "0.2"), strict=True):
        sam, base = (runs[width, is_sam] for is_sam in ("true", "false"))
        gain = base.metrics["best_val_loss"] - sam.metrics["best_val_loss"]
        assert float(row["gain"]) == pytest.approx(gain)
        of_width = parent.metrics[f"gain_best_val_loss/width_mult_{width}"]
        assert of_width == pytest.approx(gain)
        assert sam.parent == parent.id
    folder = tmp_path / "runs" / "figures" / "tiny"
    for name in made:
        (folder / name).unlink()

    def train(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(groups, "train", train)
    code, again, _ = draw()
    assert (code, again) == (0, rows)
    assert made <= {path.name for path in folder.iterdir()}
    assert recorded() == runs
    # What was drawn stays where other options are given.
    assert draw("--width_mult", "0.1") == (0, rows, "")
    changed = folder.with_name("tiny__width_mult=0.1")
    assert read_csv(changed / "tiny.csv") == rows[:1]


def test_one_command_draws_all_pictures_of_a_grid(
    draw, recorded, write, tmp_path, monkeypatch
):
    """Each with files of its own, their numbers what is recorded; one of a number that
    no run has costs no other; one alone, by its name, is drawn of the same runs."""
    numbers = ("val_loss", "loss", "grad_cosine")
    pictures = [{"y": "gain", "x": "num_params"}]
    for name in (*numbers, "grad_cosin"):
        pictures.append({"name": name, "y": name, "x": "num_params"})
    write("tiny", {**RUNS, "pictures": pictures})
    # As of a workload that has a score, of which it is not known what it gives.
    monkeypatch.setattr(drawing, "list_numbers", lambda _: ([], False))
    code, rows, err = draw()
    assert code == 1
    assert "run.py: grad_cosin: no finished run has a number grad_cosin" in err
    assert "did you mean grad_cosine?" in err
    assert all(row["gain"] for row in rows)
    runs = recorded()
    folders = {str(Path(file).parent) for file in runs["figure"].files}
    assert folders == {".", *(f"../figures/{name}" for name in ("tiny", *numbers))}
    for name in numbers:
        lines = {"SAM": "true", "SGD": "false"}
        for row in read_csv(tmp_path / "runs" / "figures" / name / f"{name}.csv"):
            width = {"1021": "0.1", "2041": "0.2"}[row["num_params"]]
            metrics = runs[width, lines[row["line"]]].metrics
            assert float(row[name]) == pytest.approx(metrics[name])
    trained = read_csv(tmp_path / "runs" / "figures" / "loss" / "loss.csv")
    assert [row["line"] for row in trained] == ["SAM", "SAM", "SGD", "SGD"]

    def train(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(groups, "train", train)
    code, found, _ = draw(name="loss")
    assert (code, found) == (0, trained)
    assert recorded()["figure"] == runs["figure"]


@pytest.mark.each_backend
def test_curves_and_functions_are_drawn_of_what_runs_left(write, store, tmp_path):
    """What is recorded of each validation, and the function of the last weights, which
    a measure has written."""
    grid = {"width_mult": 0.05, "sam": [True, False], "steps": 4, "eval_every": 2}
    pictures = [
        {"y": "function", "x": "input", "panels": "width_mult"},
        {"name": "losses", "y": "val_loss", "x": "epoch"},
    ]
    fields = {**RUNS, "workload": "relu_1d", "pictures": pictures}
    write("tiny", {**fields, "grid": {**grid, "measure": "function"}})
    folder = tmp_path / "runs"
    places = ["--run_dir", str(folder), "--tracking_uri", store]
    places += ["--experiment", "curves_and_functions", "--verbose", "0"]
    assert command.main(["configs/figures/tiny.yaml", *places]) == 0
    rows = read_csv(folder / "figures" / "tiny" / "tiny.csv")
    assert {row["line"] for row in rows} == {"SAM, seed 0", "SGD, seed 0"}
    x = [float(row["input"]) for row in rows]
    assert (min(x), max(x), len(x)) == (-1.305, 1.445, 2 * 1001)
    losses = {}
    for row in read_csv(folder / "figures" / "losses" / "losses.csv"):
        losses.setdefault(row["line"], {})[int(row["epoch"])] = float(row["val_loss"])
    assert list(losses) == ["SGD", "SAM"]
    for line, name in (("SGD", "sgd"), ("SAM", "sam")):
        (path,) = folder.glob(f"relu_1d_*_{name}*")
        (journal,) = find_journals(path)
        assert list(losses[line]) == [2, 4]
        assert losses[line] == journal.read_curves(["val_loss"])["val_loss"]
        assert journal.read_run().metrics["slope_variation"] > 0


def test_a_failed_run_is_seen_in_the_figure(draw, recorded, tmp_path, monkeypatch):
    """The others are drawn, its place is marked and the exit code is 1; the same
    command again trains it alone and completes the figure."""
    end_epoch, trained = Member.end_epoch, []

    def fail(self, *arguments):
        if self._config.sam and self._config.width_mult == 0.2:
            raise RuntimeError("no luck")
        end_epoch(self, *arguments)

    with monkeypatch.context() as context:
        context.setattr(Member, "end_epoch", fail)
        code, (whole, lacking), _ = draw()
    assert code == 1
    assert (whole["seeds"], whole["unfinished_runs"]) == ("1", "0")
    assert (lacking["num_params"], lacking["unfinished_runs"]) == ("2041", "1")
    answer = recorded()["figure"].metrics
    assert (answer["runs_finished"], answer["runs_unfinished"]) == (3, 1)
    assert "gain_best_val_loss/width_mult_0.2" not in answer
    assert (lacking["gain"], lacking["seeds"]) == ("", "0")
    folder = tmp_path / "runs" / "figures" / "tiny"
    failures = [row["failure"] for row in read_csv(folder / "runs.csv")]
    *finished, failure = sorted(failures)
    assert finished == ["", "", ""]
    assert re.fullmatch(
        r"RuntimeError: no luck \(test_figures.py:\d+, in fail\)", failure
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["failures"] == [failure]
    assert recorded()["figure"].status == "FAILED"

    def record(self, *arguments):
        trained.append((self._config.sam, self._config.width_mult))
        end_epoch(self, *arguments)

    monkeypatch.setattr(Member, "end_epoch", record)
    code, (first, completed), _ = draw()
    assert (code, first, trained) == (0, whole, [(True, 0.2)])
    assert (completed["seeds"], completed["unfinished_runs"]) == ("1", "0")
    assert recorded()["figure"].status == "FINISHED"
    answer = recorded()["figure"].metrics
    assert (answer["runs_finished"], answer["runs_unfinished"]) == (4, 0)
    gain = answer["gain_best_val_loss/width_mult_0.2"]
    assert gain == pytest.approx(float(completed["gain"]))


def test_an_interrupted_figure_is_of_what_there_is(draw, tmp_path, monkeypatch):
    """Runs that are not trained yet are counted, and the exit code is 130."""
    trained = []

    def train(run, *_, **__):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(run)
        yield from ()  # it asks the device for nothing
        return make_trained(run.config)

    monkeypatch.setattr(groups, "train", train)
    code, rows, _ = draw()
    assert code == 130
    assert [row["unfinished_runs"] for row in rows] == ["0", "1"]
    assert [row["seeds"] for row in rows] == ["1", "0"]
    folder = tmp_path / "runs" / "figures" / "tiny"
    failures = [row["failure"] for row in read_csv(folder / "runs.csv")]
    assert failures == ["", "", "", "not trained yet"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", SOURCES)
def test_figures_are_drawn_of_data_of_ones_own(kind, write, records, tmp_path):
    """Of each kind of source, by --dataset; the picture says which."""
    source = SOURCES[kind]
    (tmp_path / "data").mkdir()
    dataset = source.make(tmp_path / "data")
    fields = {"workload": source.workload, "y": "gain", "x": "num_params"}
    grid = {"width_mult": [0.05, 0.0625], "sam": [True, False]}
    write("own", {"title": "SAM on data of one's own", **fields, "grid": grid})
    arguments = ["configs/figures/own.yaml", "--dataset", dataset, *source.options]
    assert command.main([*arguments, "--run_dir", str(tmp_path / "runs")]) == 0
    (folder,) = (tmp_path / "runs" / "figures").iterdir()
    rows = read_csv(folder / "own.csv")
    assert len(rows) == 2
    assert all(math.isfinite(float(row["gain"])) for row in rows)
    assert (folder / "own.png").stat().st_size > 0
    changes = json.loads((folder / "summary.json").read_text())["changes"]
    assert Path(dataset).name.split(":")[0] in changes


def check_functions(figures: Path) -> None:
    """SAM's function is simpler at each width but the least, and far simpler at the
    largest, whose SGD keeps its joints."""
    folder = figures / "figure2_relu__preset=small"
    slopes = {
        (float(row["width_mult"]), row["sam"] == "True"): float(row["slope_variation"])
        for row in read_csv(folder / "runs.csv")
    }
    ratios = [slopes[width, True] / slopes[width, False] for width in (0.1, 0.5, 1.0)]
    assert max(ratios) < 0.8
    assert ratios[2] < 0.3


def check_ranks(figures: Path) -> None:
    """Of rank 10 the loss comes to rounding in a straight line, of rank 4 to that of
    the best approximation, and not below it."""
    folder = figures / "figure6c_factorization__preset=small"
    summary = json.loads((folder / "summary.json").read_text())
    fits = [fit for fit in summary["fits"] if fit["panel"].endswith("10")]
    assert len(fits) == 2
    assert all(fit["r2"] > 0.99 and fit["factor"] < 0.8 for fit in fits)
    (best,) = (b["value"] for b in summary["bounds"] if b["panel"].endswith("4"))
    least = {
        rank: min(
            float(point["val_loss"])
            for point in read_csv(folder / "figure6c_factorization.csv")
            if point["rank"].endswith(rank)
        )
        for rank in ("10", "4")
    }
    assert least["10"] < 1e-20
    assert best * 0.9999 < least["4"] < best * 1.05


def check_widths(figures: Path) -> None:
    """The test error falls with the width, of SGD and of SAM: from the least width to
    any other, and to the largest most of all."""
    folder = figures / "figure21_allen_zhu__preset=small"
    for sam in ("True", "False"):
        rows = [row for row in read_csv(folder / "runs.csv") if row["sam"] == sam]
        rows.sort(key=lambda row: int(row["num_params"]))
        errors = [float(row["best"]) for row in rows]
        assert max(errors[1:]) < 0.95 * errors[0]
        assert errors[-1] == min(errors) < 0.85 * errors[0]


MUST_HOLD = {
    "figure2_relu": check_functions,
    "figure6c_factorization": check_ranks,
    "figure21_allen_zhu": check_widths,
}


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """The directory of all studies, which share their runs."""
    return tmp_path_factory.mktemp("studies")


# TensorFlow, whose steps are others, but not the figures, takes some of them.
ON_TENSORFLOW = ["figure1_mnist", "figure5a_mnist", "table1_wrn", "table4_label_noise"]


@pytest.mark.each_backend
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    NAMES if keras.backend.backend() == "jax" else ON_TENSORFLOW,
)
def test_every_small_study_runs_to_its_picture(name, studies, capsys):
    """With `--preset small`, on its sample: a point from every run, and pictures; a
    finite number in each cell of a table. What must hold at that scale, too, does."""
    places = ["--run_dir", str(studies / "runs")]
    places += ["--tracking_uri", f"sqlite:///{studies}/mlflow.db"]
    target = f"configs/figures/{name}.yaml"
    code = command.main([target, "--preset", "small", *places])
    out, err = capsys.readouterr()
    assert code == 0, out + err
    figure = read_figure(FIGURES / f"{name}.yaml")
    assert figure.pictures or figure.tables
    for told in figure.tables:
        folder = studies / "runs" / "figures" / f"{told.name}__preset=small"
        cells = read_csv(folder / f"{told.name}.csv")
        assert {cell["unfinished_runs"] for cell in cells} == {"0"}
        # Those without a run: SGD has no norm of a ball.
        told_of = [float(cell[told.y]) for cell in cells if cell["seeds"] != "0"]
        assert len(told_of) > 1
        assert all(map(math.isfinite, told_of))
        assert (folder / f"{told.name}.txt").stat().st_size > 0
    if name in MUST_HOLD:
        MUST_HOLD[name](studies / "runs" / "figures")
    for drawn in figure.pictures:
        folder = studies / "runs" / "figures" / f"{drawn.name}__preset=small"
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["finished"] == summary["runs"] > 0
        points = read_csv(folder / f"{drawn.name}.csv")
        assert len(points) > 1
        assert all(math.isfinite(float(point[drawn.y])) for point in points)
        assert (folder / f"{drawn.name}.png").stat().st_size > 0
