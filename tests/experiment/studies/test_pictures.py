"""What a picture shows, says and leaves in its files."""

import json
import re
import warnings
from pathlib import Path

import keras
import matplotlib.figure
import pytest

from samkeras.errors import InputError
from samkeras.experiment.options.targets import find_target
from samkeras.experiment.runs.result import Result
from samkeras.experiment.studies import comparison as analysis
from samkeras.experiment.studies.comparison import compare
from samkeras.experiment.studies.figure import Figure
from samkeras.experiment.studies.pictures import (
    describe_title,
    draw_picture,
    name_folder,
    summarize,
)
from tests.experiment.studies.making import (
    TIMES,
    make_gains,
    make_picture,
    make_result,
    points_of,
    read_csv,
)
from tests.helpers import make_config

pytestmark = pytest.mark.one_backend


POINT_COLUMNS = ("standard_error", "seeds", "rho", "is_best_rho", "unfinished_runs")


@pytest.fixture
def axes(monkeypatch):
    """A list that gets the axes of each picture that is saved."""
    saved, save = [], matplotlib.figure.Figure.savefig

    def record(self, *args, **kwargs):
        saved.extend(self.axes)
        save(self, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", record)
    return saved


def make_figure(*made, **fields):
    """The figure of these pictures, on make_result's workload."""
    target = find_target("mnist_mlp")
    return Figure(Path("made.yaml"), "Its title", target, {}, made, **fields)


def draw_alone(made, results, folder, **fields):
    return draw_picture(make_figure(made, **fields), made, results, folder)


@pytest.mark.each_backend
def test_the_files_hold_every_number(tmp_path):
    """The CSV is the points, runs.csv the runs, the failed one with its failure; the
    summary counts them."""
    drawn, results = make_picture(), make_gains()
    paths = draw_alone(drawn, results, tmp_path)
    names = ["made.png", "made.svg", "made.csv", "runs.csv", "summary.json"]
    folder = tmp_path / "figures" / "made"
    assert paths == [folder / name for name in names]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    rows = read_csv(paths[2])
    points = points_of(drawn, results)
    assert len(rows) == len(points) == 4
    for row, point in zip(rows, points, strict=True):
        mean, error, count = point.y
        expected = [mean, error, count, point.rho, point.is_best, point.unfinished]
        assert list(row) == ["line", "num_params", "gain", *POINT_COLUMNS]
        assert (row["line"], float(row["num_params"])) == (point.line, point.x)
        texts = ["" if value is None else str(value) for value in expected]
        assert list(row.values())[2:] == texts
    runs = read_csv(paths[3])
    assert len(runs) == len(results)
    for row, result in zip(runs, results, strict=True):
        assert float(row["width_mult"]) == result.config.width_mult
        assert float(row["label_noise"]) == result.config.label_noise
        assert (row["seed"], row["sam"]) == (
            str(result.config.seed),
            str(result.config.sam),
        )
        assert row["num_params"] == str(result.num_params)
        assert row["best"] == ("" if result.failure else str(result.best))
        assert row["failure"] == (result.failure or "")
    summary = json.loads(paths[4].read_text())
    assert (summary["runs"], summary["finished"]) == (16, 15)
    assert summary["failures"] == ["NotFiniteError: loss"]
    assert summary["training_seconds"] == 30
    assert summary["varied"]["label_noise"] == [0.0, 0.5]
    assert summary["config"]["optimizer"] == "sgd"
    assert "label_noise" not in summary["config"]
    packages = {"python", "keras", keras.backend.backend(), "samkeras"}
    assert summary["versions"].keys() == packages
    assert summary["machine"]["devices"]


def test_a_point_without_y_is_a_row(tmp_path):
    """Failed and missing runs are in the CSV, with empty numbers."""
    results = [
        make_result(0.5, sam=False),
        make_result(0.75, sam=True),
        make_result(None, sam=False, width_mult=2.0),
        make_result(None, sam=True, width_mult=2.0),
    ]
    paths = draw_alone(make_picture(), results, tmp_path)
    _, row = read_csv(paths[2])
    assert (row["num_params"], row["gain"], row["seeds"]) == ("2000", "", "0")
    assert (row["rho"], row["unfinished_runs"]) == ("", "2")


def test_a_number_is_in_the_files_and_the_picture_by_its_name(tmp_path, axes):
    """What the axis is called follows from the name."""
    results = [
        make_result(0.5, sam=sam, numbers={"best_val_error_rate": 0.25 + sam})
        for sam in (True, False)
    ]
    paths = draw_alone(make_picture("best_val_error_rate"), results, tmp_path)
    numbers = [row["best_val_error_rate"] for row in read_csv(paths[2])]
    assert numbers == ["1.25", "0.25"]
    assert [row["best_val_error_rate"] for row in read_csv(paths[3])] == numbers
    assert axes[0].get_ylabel() == "best validation error rate"
    draw_alone(make_picture("seconds"), results, tmp_path)
    assert axes[-1].get_ylabel() == "seconds"


def test_a_number_that_no_run_has_is_said_with_those_there_are(tmp_path):
    """Where some are finished; what fails may be finished later."""
    results = [make_result(0.5, sam=True), make_result(None, sam=False)]
    with pytest.raises(InputError) as raised:
        draw_alone(make_picture("best_val_acuracy"), results, tmp_path)
    assert str(raised.value) == (
        "made: no finished run has a number best_val_acuracy; they have "
        "best_val_accuracy, final_val_accuracy, seconds, num_params, num_nonzero; "
        "did you mean best_val_accuracy?"
    )
    assert not list(tmp_path.iterdir())
    draw_alone(make_picture("best_val_acuracy"), results[1:], tmp_path)


def test_a_figure_without_any_finished_run_is_drawn(tmp_path, axes):
    """As when all runs failed: places and crosses, no lines."""
    results = [
        make_result(None, sam=sam, width_mult=width, rho=width / 8)
        for sam in (True, False)
        for width in (1.0, 2.0)
    ]
    for y, x in (("gain", "num_params"), ("metric", "rho"), ("best_rho", "width_mult")):
        rows = read_csv(draw_alone(make_picture(y, x), results, tmp_path)[2])
        assert [(row[y], row["seeds"]) for row in rows] == 2 * [("", "0")]
        crosses = line_of(axes[-1], "runs failed or missing")
        assert crosses.get_xdata().tolist() == [float(row[x]) for row in rows]


@pytest.mark.parametrize("num_sizes", [2, 3])
def test_a_gain_over_sizes_has_its_correlation(monkeypatch, num_sizes):
    """In the summary, from three sizes on; not where other options vary too."""
    monkeypatch.setattr(analysis, "BOOTSTRAP_DRAWS", 100)
    results = []
    for width in range(1, num_sizes + 1):
        results.append(make_result(0.0, sam=False, width_mult=float(width)))
        results.append(make_result(width / 8, sam=True, width_mult=float(width)))
    expected = {"value": 1.0, "low": 1.0, "high": 1.0} if num_sizes == 3 else None

    def correlate(drawn, results):
        comparisons = compare(results, "max")
        summary = summarize(make_figure(drawn), drawn, results, comparisons)
        return json.loads(json.dumps(summary))["correlation"]

    assert correlate(make_picture(), results) == expected
    noisy = make_result(0.5, sam=False, label_noise=0.5)
    assert correlate(make_picture(), [*results, noisy]) is None
    assert correlate(make_picture("metric"), results) is None


def line_of(drawn, label):
    (line,) = (line for line in drawn.lines if line.get_label() == label)
    return line


def test_the_picture_shows_the_points(tmp_path, axes):
    """Lines at the points, bands of one standard error, a cross where a run failed, the
    paper's curve, what they are called, and what was changed for this study."""
    paper = {"x": [1000, 2000], "y": [0.5, 0.25]}
    changes = {"epochs": "6", "seed": "0,1"}
    draw_alone(make_picture(paper=paper), make_gains(), tmp_path, changes=changes)
    drawn = axes[0]
    assert (drawn.get_xscale(), drawn.get_yscale()) == ("log", "linear")
    assert line_of(drawn, "label noise 0").get_xydata().tolist() == [
        [1000, 1.125],
        [2000, 2.125],
    ]
    assert line_of(drawn, "label noise 0.5").get_xydata().tolist() == [
        [1000, 2.25],
        [2000, 4.0],
    ]
    assert line_of(drawn, "paper").get_xydata().tolist() == [[1000, 0.5], [2000, 0.25]]
    crosses = line_of(drawn, "runs failed or missing")
    assert crosses.get_xdata().tolist() == [2000]
    bands = [band.get_paths()[0].vertices for band in drawn.collections]
    assert [(v[:, 1].min(), v[:, 1].max()) for v in bands] == [
        (1.0, 2.25),
        (2.0, 4.0),
    ]
    assert drawn.figure.get_suptitle() == "A made-up figure"
    assert drawn.get_title() == "--epochs 6 --seed 0,1"
    assert drawn.get_xlabel() == "trainable parameters"
    assert drawn.get_ylabel() == "gain of SAM in accuracy"
    legend = [text.get_text() for text in drawn.get_legend().get_texts()]
    lines = ["label noise 0", "label noise 0.5"]
    assert legend == [*lines, "paper", "runs failed or missing"]


def test_a_single_point_with_a_failed_run_is_in_the_picture(tmp_path, axes):
    """One size, one seed of two failed: the point and its cross are within the axes."""
    results = [
        make_result(0.5, sam=False),
        make_result(0.75, sam=True),
        make_result(None, sam=True, seed=1),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_alone(make_picture(), results, tmp_path)
    (left, right), (bottom, top) = axes[0].get_xlim(), axes[0].get_ylim()
    assert left < 900
    assert right > 1100
    for label in ("SAM - base", "runs failed or missing"):
        ((x, y),) = line_of(axes[0], label).get_xydata()
        assert x == 1000
        assert bottom < y < top


def test_the_picture_circles_the_best_rho(tmp_path, axes):
    """One circle a line, at the best mean; each line in a colour of its own; the ticks
    are the rho that were tried."""
    results = [
        make_result(best, sam=True, rho=rho, width_mult=width)
        for width, bests in ((1.0, (0.25, 0.5, 0.25)), (2.0, (0.25, 0.5, 0.75)))
        for rho, best in zip((0.1, 0.2, 0.4), bests, strict=True)
    ]
    draw_alone(make_picture("metric", "rho"), results, tmp_path)
    drawn = axes[0]
    assert (drawn.get_xlabel(), drawn.get_ylabel()) == ("rho", "accuracy")
    ticks = [tick.get_text() for tick in drawn.get_xticklabels(which="both")]
    assert ticks == ["0.1", "0.2", "0.4"]
    circles = [line for line in drawn.lines if line.get_fillstyle() == "none"]
    assert [c.get_xydata().tolist() for c in circles] == [[[0.2, 0.5]], [[0.4, 0.75]]]
    lines = [line_of(drawn, f"width {TIMES} {width}") for width in (1, 2)]
    assert [c.get_color() for c in circles] == [line.get_color() for line in lines]
    assert lines[0].get_color() != lines[1].get_color()
    assert lines[0].get_marker() != lines[1].get_marker()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "made"),
        ({"preset": "small", "seed": "0,1"}, "made__preset=small__seed=0,1"),
        ({"dataset": "glue/sst2"}, "made__dataset=glue-sst2__........"),
        ({"config": "mine.yaml"}, "made__config=mine.yaml__........"),
        ({"rho": "0.1," * 50}, "made__rho=(0.1,)+__........"),
        ({"sam": "true", "rho": "0.1," * 50}, "made__sam=true__........"),
    ],
)
def test_what_was_changed_is_in_the_folders_name(changes, name):
    """In full where that can be and is short; else with a digest of the runs."""
    results = [make_result(0.5, sam=sam) for sam in (True, False)]
    changed = make_figure(changes=changes)
    found = name_folder(changed, make_picture(), results)
    assert re.fullmatch(name, found)
    assert len(found) < 110
    assert name_folder(changed, make_picture(), results[::-1]) == found
    other = name_folder(changed, make_picture(), [*results, make_result(0.5, seed=1)])
    assert (other == found) != name.endswith("........")


@pytest.mark.parametrize(
    ("datasets", "title"),
    [
        (["mnist"], "A made-up figure on mnist"),
        (["mnist", "glue/sst2"], "A made-up figure on glue/sst2 and mnist"),
        (["HERE/own.npz"], "A made-up figure on own.npz"),
        (["a", "b", "c", "d"], "A made-up figure on 4 data sets"),
        # Whose title has it already, and who has none.
        (["made"], "A made-up figure"),
        ([""], "A made-up figure"),
    ],
)
def test_a_title_names_the_data_that_was_used(datasets, title, tmp_path):
    (tmp_path / "own.npz").touch()
    names = [name.replace("HERE", str(tmp_path)) for name in datasets]
    results = [make_result(0.5, dataset=name) for name in names]
    assert describe_title(make_picture(), results) == title


def test_a_title_names_the_game():
    config = make_config("atari_ppo")
    result = Result(config, 1, 1, failure="not trained yet")
    assert describe_title(make_picture(), [result]) == "A made-up figure on breakout"


@pytest.mark.parametrize(
    ("y", "x", "explained"),
    [
        ("gain", "num_params", "Means over 1 to 2 seeds; band: ± one standard error."),
        ("metric", "rho", "Means over 1 to 2 seeds; band: ± one standard error; ring:"),
        ("best_rho", "num_params", "By means over 1 to 2 seeds."),
    ],
)
def test_a_picture_explains_its_marks(y, x, explained, tmp_path, axes):
    """In the picture and in the summary."""
    paths = draw_alone(make_picture(y, x), make_gains(), tmp_path)
    notes = json.loads(paths[4].read_text())["notes"]
    assert notes[0].startswith(explained)
    (text,) = axes[0].texts
    assert text.get_text().replace("\n", " ") == " ".join(notes)


def test_a_best_rho_at_the_edge_is_said_with_the_picture(tmp_path, axes):
    """And of how many it is, and that one seed has no band."""
    results = [make_result(0.5, sam=False)]
    results += [make_result(rho, sam=True, rho=rho) for rho in (0.1, 0.2)]
    paths = draw_alone(make_picture(), results, tmp_path)
    summary = json.loads(paths[4].read_text())
    assert summary["notes"] == [
        "One seed; SAM at its best of 2 rho.",
        "The best rho is 0.2, the largest that was tried: a larger one may do better.",
    ]
    assert "the largest that was tried" in " ".join(axes[0].texts[0].get_text().split())
    assert summary["conclusion"][0].startswith("SAM's gain in best val_accuracy (-0.3")


def test_drawing_again_gives_the_same_files(tmp_path):
    """To the byte: no date and no random names."""
    first = draw_alone(make_picture(), make_gains(), tmp_path / "first")
    second = draw_alone(make_picture(), make_gains(), tmp_path / "second")
    for one, other in list(zip(first, second, strict=True))[:-1]:  # not the summary
        assert one.read_bytes() == other.read_bytes(), one.name
