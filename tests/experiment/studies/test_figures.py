"""The paper's figures: their files, their runs, their points and their pictures."""

import csv
import dataclasses
import functools
import json
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import keras
import matplotlib.figure
import pytest
import yaml

import run as command
from samkeras.errors import InputError
from samkeras.experiment.launch import workers
from samkeras.experiment.options import targets
from samkeras.experiment.options.targets import FIGURES, find_target
from samkeras.experiment.runs.member import Member
from samkeras.experiment.runs.result import Result
from samkeras.experiment.studies import comparison as analysis
from samkeras.experiment.studies import pictures as drawing
from samkeras.experiment.studies.comparison import compare
from samkeras.experiment.studies.figure import Figure, Picture, read_figure
from samkeras.experiment.studies.figure import parse_figure as parse_file
from samkeras.experiment.studies.pictures import (
    describe_title,
    draw_picture,
    find_points,
    name_folder,
    summarize,
)
from tests.helpers import make_config

pytestmark = pytest.mark.one_backend

NAMES = sorted(path.stem for path in FIGURES.glob("*.yaml"))
COUNTS = re.compile(r"^# (\d+) runs; (\d+) with --preset small", re.MULTILINE)
# A figure of four runs, each a second or less.
TINY = {
    "title": "SAM's gain, made small",
    "workload": "synthetic_mlp",
    "grid": {
        "width_mult": [0.1, 0.2],
        "sam": [True, False],
        "train_examples": 256,
        "validation_examples": 64,
        "batch_size": 64,
        "epochs": 1,
    },
    "y": "gain",
    "x": "num_params",
}
TIMES = "\N{MULTIPLICATION SIGN}"
POINT_COLUMNS = ("standard_error", "seeds", "rho", "is_best_rho", "unfinished_runs")


RUNS = {name: value for name, value in TINY.items() if name not in ("x", "y")}
# Those that are not named as the file that they are in.
OTHER_PICTURES = {
    "figure4_cifar10": "figure1_cifar10",
    "figure4_imagenet": "figure1_imagenet",
    "figure4_mnist": "figure1_mnist",
    "figure4_sst2": "figure1_sst2",
    "figure5d_cifar10": "figure1_cifar10",
    "figure7_breakout": "figure1_breakout",
    "figure7_cifar10": "figure1_cifar10",
    "figure7_imagenet": "figure1_imagenet",
    "figure7_mnist": "figure1_mnist",
    "figure7_molpcba": "figure1_molpcba",
    "figure7_pos": "figure1_pos",
    "figure7_sst2": "figure1_sst2",
    "figure7_synthetic": "figure1_synthetic",
    "figure14_cifar10": "figure5b_cifar10",
    "figure14_mnist": "figure5b_mnist",
}


def parse_figure(name: str, options: list[str]):
    """A figure of the folder of figures, and its runs."""
    drawn, parsed = parse_file(targets.FIGURES / f"{name}.yaml", options)
    return drawn, parsed.configs


@functools.cache
def expand(name: str, preset: str | None):
    """The figure of configs/figures/ and its runs."""
    return parse_figure(name, [f"--preset={preset}"] if preset else [])


def pictures_of(name: str) -> Sequence[Picture]:
    return expand(name, None)[0].pictures


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function: (name, fields) -> the path of a figure's file, in a folder that takes
    the place of configs/figures/."""
    folder = tmp_path / "figures"
    folder.mkdir()
    monkeypatch.setattr(targets, "FIGURES", folder)

    def call(name: str, fields: dict):
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(fields, sort_keys=False))
        return path

    return call


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


@pytest.fixture
def axes(monkeypatch):
    """A list that gets the axes of each picture that is saved."""
    saved, save = [], matplotlib.figure.Figure.savefig

    def record(self, *args, **kwargs):
        saved.extend(self.axes)
        save(self, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", record)
    return saved


def read_csv(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def make_picture(y="gain", x="num_params", **fields):
    return Picture("made", "A made-up figure", y, x, **fields)


def make_figure(*made, **fields):
    """The figure of these pictures, on make_result's workload."""
    target = find_target("mnist_mlp")
    return Figure(Path("made.yaml"), "Its title", target, {}, made, **fields)


def draw_alone(made, results, folder, **fields):
    return draw_picture(make_figure(made, **fields), made, results, folder)


def make_result(best=None, final=None, num_nonzero=None, numbers=None, **options):
    """A run of these options, of 1000 parameters at width 1; without a metric, one that
    failed."""
    config = make_config("mnist_mlp", **options)
    num_params = round(1000 * config.width_mult)
    sizes = (num_params, num_nonzero or num_params)
    if best is None:
        return Result(config, *sizes, failure="NotFiniteError: loss")
    reported = {
        "best_val_accuracy": best,
        "final_val_accuracy": best if final is None else final,
        "seconds": 2.0,
    }
    return Result(config, *sizes, {**reported, **(numbers or {})})


def make_trained(config, num_params=1000, num_nonzero=1000):
    """A finished run of any workload."""
    monitor = config.target.load().monitor
    reported = {f"best_{monitor}": 0.5, f"final_{monitor}": 0.5, "seconds": 1.0}
    return Result(config, num_params, num_nonzero, reported)


def make_gains():
    """Two widths, two seeds and two rates of label noise; gains are the width, of
    seed 1 a quarter more, with noise twice that. One run of SAM failed."""
    results = []
    for width in (2.0, 1.0):
        for noise in (0.0, 0.5):
            for seed in (0, 1):
                options = {"width_mult": width, "label_noise": noise, "seed": seed}
                gain = (width + seed / 4) * (1 + 2 * noise)
                results.append(make_result(0.5, sam=False, **options))
                if (width, noise, seed) == (2.0, 0.5, 1):
                    gain = None
                best = None if gain is None else 0.5 + gain
                results.append(make_result(best, sam=True, rho=0.125, **options))
    return results


def points_of(drawn, results, mode="max"):
    return find_points(drawn, results, compare(results, mode))


@pytest.mark.parametrize("preset", [None, "small"])
@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_the_runs_that_it_is_drawn_of(name, preset):
    """SAM and the base optimizer, and at least two places on the x axis; if all its
    runs finish, every point of it is known and every gain is of all seeds."""
    study, configs = expand(name, preset)
    assert {config.workload for config in configs} == {study.target.name}
    results = []
    for config in configs:
        depth = getattr(config, "depth", None) or 1
        num_params = round(1e6 * config.width_mult * depth)
        kept = (config.match_width or config.width_mult) / config.width_mult
        kept = round(kept * num_params) if config.is_pruned else num_params
        results.append(make_trained(config, num_params, kept))
    num_seeds = len({config.seed for config in configs})
    assert study.pictures
    for drawn in study.pictures:
        if drawn.y != "best_rho":
            assert {config.sam for config in configs} == {True, False}
        if drawn.x == "rho" or drawn.y == "best_rho":
            assert len({config.rho for config in configs if config.sam}) >= 2
        points = points_of(drawn, results)
        assert len({point.x for point in points}) >= 2
        for point in points:
            assert point.y is not None
            assert (point.y.num_seeds, point.unfinished) == (num_seeds, 0)


@pytest.mark.parametrize("name", NAMES)
def test_every_figures_file_says_how_many_runs_it_has(name):
    """Its comment counts them, with and without --preset small, and has its own name
    in the commands."""
    text = (FIGURES / f"{name}.yaml").read_text()
    ((whole, small),) = COUNTS.findall(text)
    assert len(expand(name, None)[1]) == int(whole)
    assert len(expand(name, "small")[1]) == int(small)
    commands = re.findall(r"^# +python run\.py (.*)$", text, re.MULTILINE)
    path = f"configs/figures/{name}.yaml"
    assert commands == [path, f"{path} --preset small"]


def test_options_win_over_small_and_small_over_the_grid(write):
    """--width_mult on the command line, epochs of small, seeds of the grid."""
    grid = {"width_mult": [1, 2, 3], "epochs": 9, "seed": [0, 1]}
    small = {"width_mult": 0.5, "epochs": 3}
    write("own", {**TINY, "grid": grid, "small": small})
    _, runs = parse_figure("own", ["--width_mult", "1,4", "--preset", "small"])
    assert [(c.width_mult, c.epochs, c.seed) for c in runs] == [
        (1.0, 3, 0),
        (1.0, 3, 1),
        (4.0, 3, 0),
        (4.0, 3, 1),
    ]
    options = ["--preset=small", "--epochs=2", "--seed=5", "--run_dir=a", "--rerun"]
    drawn, runs = parse_figure("own", options)
    # What the picture says of it: what is drawn, not where or how it was run.
    assert drawn.changes == {"preset": "small", "epochs": "2", "seed": "5"}
    assert [(c.width_mult, c.epochs, c.seed) for c in runs] == [(0.5, 2, 5)]
    _, runs = parse_figure("own", ["--epochs=2"])
    assert [c.width_mult for c in runs] == [1, 1, 2, 2, 3, 3]


def test_dimensions_without_effect_are_refused(write):
    """What a study varies means something to one of its runs at least, unless it is an
    option of the command line that leaves it none; single values are defaults."""
    grid = {"sam": False, "rho": [0.1, 0.2], "sparsity": 0.5}
    write("own", {**TINY, "grid": grid})
    with pytest.raises(InputError, match=r"own\.yaml: --rho needs --sam true$"):
        parse_figure("own", [])
    with pytest.raises(InputError, match=r"--rho needs --sam true$"):
        parse_figure("own", ["--workers=2"])
    write("own", {**TINY, "grid": grid | {"sam": [True, False]}})
    assert len(parse_figure("own", [])[1]) == 3
    assert len(parse_figure("own", ["--sam=false"])[1]) == 1
    with pytest.raises(InputError, match=r"^--rho needs --sam true$"):
        parse_figure("own", ["--sam=false", "--rho=0.3"])


def test_variants_are_united(write):
    """The runs of each variant, which wins over the grid, once where they are equal."""
    variants = [
        {"sam": True, "rho": [0.1, 0.2]},
        {"sam": False, "weight_decay": [0.1, 0.2]},
        {"sam": False, "weight_decay": [0.2, 0.4], "rho": 7},
    ]
    grid = {"width_mult": 0.5, "weight_decay": 0.3, "seed": 4}
    write("own", {**TINY, "grid": grid, "variants": variants})
    _, runs = parse_figure("own", [])
    assert [(c.sam, c.rho, c.weight_decay) for c in runs if c.sam] == [
        (True, 0.1, 0.3),
        (True, 0.2, 0.3),
    ]
    assert [c.weight_decay for c in runs if not c.sam] == [0.1, 0.2, 0.4]
    assert {(c.width_mult, c.seed) for c in runs} == {(0.5, 4)}


def test_every_picture_of_the_first_version_is_drawn():
    """By its name, of the runs of the file that has it, which has the first one's."""
    found = {picture.name: name for name in NAMES for picture in pictures_of(name)}
    assert len(found) == sum(len(pictures_of(name)) for name in NAMES)
    for name, owner in OTHER_PICTURES.items():
        assert found.pop(name) == owner
        drawn, runs = expand(name, "small")
        assert [picture.name for picture in drawn.pictures] == [name]
        assert runs == expand(owner, "small")[1]
    assert sorted(found) == sorted(found.values()) == NAMES


def test_a_grid_has_several_pictures(write):
    """Each of its own name and title, or else the file's; alone, by its name, it is of
    the same runs."""
    pictures = [
        {"y": "gain", "x": "width_mult", "value": "final"},
        {"name": "losses", "title": "The loss", "y": "val_loss", "x": "num_params"},
    ]
    write("own", {**RUNS, "pictures": pictures})
    drawn, runs = parse_figure("own", [])
    assert list(drawn.pictures) == [
        Picture("own", TINY["title"], "gain", "width_mult", "final"),
        Picture("losses", "The loss", "val_loss", "num_params"),
    ]
    alone, same = parse_figure("losses", [])
    assert alone == dataclasses.replace(drawn, pictures=[drawn.pictures[1]])
    assert same == runs


def test_a_study_may_be_anywhere(tmp_path):
    """Its workload a file beside it, or one of workloads/."""
    (tmp_path / "own_task.py").write_text("from workloads.synthetic_mlp import *")
    path = tmp_path / "study.yaml"
    for name, said in (("own_task.py", tmp_path / "own_task.py"), ("mnist_mlp", None)):
        path.write_text(yaml.safe_dump({**TINY, "workload": name}))
        assert targets.resolve_target(str(path)) == path
        drawn, (_, configs) = parse_file(path, ["--width_mult", "2"])
        assert (drawn.name, drawn.pictures[0].name) == ("study", "study")
        assert {config.workload for config in configs} == {name.removesuffix(".py")}
        assert said in (None, drawn.target.path)


def test_values_of_the_grid_are_the_command_lines(write):
    """A list in a list is one value, null is none, numbers and truths are as typed."""
    grid = {
        "lr_milestones": [[0.5, 0.75], [0.9]],
        "train_examples": None,
        "weight_decay": 1e-4,
        "sam": True,
        "optimizer": "adam",
    }
    write("own", {**TINY, "grid": grid})
    first, second = parse_figure("own", [])[1]
    assert (first.lr_milestones, second.lr_milestones) == ((0.5, 0.75), (0.9,))
    assert (first.train_examples, first.weight_decay) == (None, 1e-4)
    assert (first.sam, first.optimizer) == (True, "adam")


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"titel": "x"}, [], ["unknown field titel", "did you mean title"]),
        ({3: "x"}, [], ["unknown field 3"]),
        ({"title": ...}, [], ["needs the field title"]),
        ({"workload": "mnst_mlp"}, [], ["workload", "did you mean mnist_mlp"]),
        ({"x": "width"}, [], ["x must be one of", "did you mean width_mult"]),
        ({"y": "gian"}, [], ["own: y must be one of", "did you mean gain"]),
        ({"value": "last"}, [], ["value must be one of best, final", "last"]),
        ({"x": "rho"}, [], ["x: rho needs y: metric or a number", "gain"]),
        ({"grid": {"rho": []}}, [], ["grid has no values for rho", "no runs"]),
        ({"small": {"seed": []}}, [], ["small has no values for seed"]),
        ({"variants": [{"rho": []}]}, [], ["variants[0] has no values for rho"]),
        ({"variants": []}, [], ["variants is empty", "no runs"]),
        ({"variants": 3}, [], ["variants must be a list"]),
        ({"grid": [1]}, [], ["grid must hold options"]),
        ({"grid": {"roh": 0.1}}, [], ["no option roh", "did you mean rho"]),
        ({"grid": {"rho": [0.1, -1]}}, [], ["rho must be a number >= 0", "-1"]),
        ({"grid": {"sam": "maybe"}}, [], ["sam must be true or false", "maybe"]),
        ({}, ["--preset", "smal"], ["--preset must be small", "smal"]),
        ({}, ["--roh", "1"], ["unknown option --roh", "did you mean --rho"]),
        ({"pictures": [{}]}, [], ["give pictures or y, not both"]),
        ({"y": "Gain of loss"}, [], ["y must be one of gain", "Gain of loss"]),
        ({"y": "grad_cosin"}, [], ["own: y", "did you mean grad_cosine"]),
        ({"y": 3}, [], ["y must be text", "3"]),
        ({"y": "loss", "value": "best"}, [], ["value needs y: gain or metric"]),
        ({"title": 3}, [], ["title must be text", "3"]),
        (
            {"workload": "atari_ppo", "x": "depth", "grid": {}},
            [],
            ["workloads/atari_ppo has no option depth"],
        ),
        ({"paper": {"x": [1, 2], "y": [1]}}, [], ["paper", "of one length"]),
        ({"paper": {"x": 1, "y": 2}}, [], ["paper", "lists of numbers"]),
        ({"paper": {"x": ["1e6"], "y": [1]}}, [], ["paper", "lists of numbers"]),
        ({"paper": {"x": [1]}}, [], ["paper must hold x and y"]),
    ],
)
def test_bad_figures_exit_with_2_and_one_line(write, capsys, changes, options, words):
    """What is wrong in a file is said before anything is trained."""
    write("tiny", TINY)
    fields = {k: v for k, v in {**TINY, **changes}.items() if v is not ...}
    write("own", fields)
    assert command.main(["configs/figures/own.yaml", *options]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        ([], ["pictures must be a list"]),
        ({"x": "rho"}, ["pictures must be a list"]),
        (["gain"], ["pictures[0] must hold fields", "y: gain"]),
        ([{"x": "depth"}], ["pictures[0] needs the field y"]),
        ([{"x": "rho", "y": "metric", "tite": 1}], ["unknown field tite", "title"]),
        ([{"x": "rho", "y": "metric", "name": "a/b"}], ["name must be", "a/b"]),
        (
            [{"x": "rho", "y": x} for x in ("metric", "loss")],
            ["two pictures have the name own"],
        ),
        ([{"x": "width", "y": "gain"}], ["pictures[0]: x must be", "width_mult"]),
        ([{"x": "rho", "y": "gian"}], ["own: y must be one of", "mean gain"]),
    ],
)
def test_bad_pictures_exit_with_2_and_one_line(write, capsys, pictures, words):
    write("own", {**RUNS, "pictures": pictures})
    assert command.main(["configs/figures/own.yaml"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(word in message for word in words), message


def test_an_unknown_picture_is_answered_by_the_nearest(capsys):
    """Also where it is one of several in a file."""
    assert command.main(["configs/figures/figure7_mnits.yaml"]) == 2
    assert "did you mean figure7_mnist.yaml?" in capsys.readouterr().err


def test_an_unknown_figure_is_answered_by_the_nearest(capsys):
    assert command.main(["configs/figures/figure1_mnits.yaml"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "unknown figure configs/figures/figure1_mnits.yaml" in message
    assert "did you mean figure1_mnist.yaml?" in message


def test_a_damaged_file_is_named(write, capsys):
    path = write("own", TINY)
    path.write_text("title: broken\ngrid: : [")
    assert command.main(["configs/figures/own.yaml"]) == 2
    assert f"{path} is not YAML" in capsys.readouterr().err
    path.write_text("title: a\nx: rho\ntitle: b")
    assert command.main(["configs/figures/own.yaml"]) == 2
    assert "title is given twice, in lines 1 and 3" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"absent\.yaml: No such file"):
        read_figure(targets.FIGURES / "absent.yaml")


def test_points_of_gains():
    """By hand: a line for each noise, by size; the failed run leaves its seed out and
    is counted at its point."""
    points = points_of(make_picture(), make_gains())
    assert [p.line for p in points] == 2 * ["label noise 0"] + 2 * ["label noise 0.5"]
    assert [p.x for p in points] == [1000, 2000, 1000, 2000]
    # Errors: gains of two seeds, d apart, have the standard error d / 2.
    assert [p.y for p in points] == [
        (1.125, 0.125, 2),
        (2.125, 0.125, 2),
        (2.25, 0.25, 2),
        (4.0, None, 1),
    ]
    assert [p.unfinished for p in points] == [0, 0, 0, 1]
    assert {p.rho for p in points} == {0.125}
    assert not any(p.is_best for p in points)


def test_points_without_a_run_say_so():
    """A gain whose runs all failed on one side is a point without y, at its place."""
    results = [
        make_result(0.5, sam=False),
        make_result(0.75, sam=True),
        make_result(None, sam=False, width_mult=2.0),
        make_result(0.75, sam=True, width_mult=2.0),
        make_result(0.5, sam=False, width_mult=4.0),
        make_result(None, sam=True, width_mult=4.0),
    ]
    points = points_of(make_picture(), results)
    assert {p.line for p in points} == {"SAM - base"}
    assert [(p.x, p.y, p.rho, p.unfinished) for p in points] == [
        (1000, (0.25, None, 1), 0.05, 0),
        (2000, None, 0.05, 1),
        (4000, None, None, 1),
    ]


def test_points_of_the_metric_have_a_line_a_method():
    """SAM at its best rho and the base optimizer; "min" takes the lowest, and `final`
    the last epoch's values."""
    results = [
        make_result(0.5, final=0.75, sam=False),
        make_result(0.25, final=0.5, sam=True, rho=0.1),
        make_result(0.125, final=1.0, sam=True, rho=0.2),
    ]
    points = points_of(make_picture("metric"), results, "min")
    assert [(p.line, p.y.mean, p.rho) for p in points] == [
        ("SAM", 0.125, 0.2),
        ("SGD", 0.5, None),
    ]
    points = points_of(make_picture("metric", value="final"), results, "min")
    assert [p.y.mean for p in points] == [1.0, 0.75]
    (point,) = points_of(make_picture(value="final"), results, "min")
    assert point.y.mean == 0.75 - 1.0


def test_points_of_the_metric_show_one_method_without_the_other():
    """Such as SGD with other weight decays; failed runs are counted wherever there is
    a point of theirs."""
    results = [
        make_result(0.5, sam=True, weight_decay=0.1),
        make_result(0.25, sam=False, weight_decay=0.2),
        make_result(None, sam=False, weight_decay=0.4),
    ]
    points = points_of(make_picture("metric"), results)
    assert [(p.line, p.y and p.y.mean, p.unfinished) for p in points] == [
        ("SAM, weight decay 0.1", 0.5, 0),
        ("SGD, weight decay 0.2", 0.25, 0),
        ("SAM, weight decay 0.4", None, 1),
    ]


def test_methods_are_lines_of_their_own():
    """Each against the same base, which is one line; of other methods than SAM itself
    one alone is named too."""
    base = [make_result(0.25, sam=False), make_result(0.5, sam=False, width_mult=2.0)]
    asam = [
        make_result(0.75, sam=True, method="asam", rho=0.1),
        make_result(0.5, sam=True, method="asam", rho=0.2),
        make_result(1.0, sam=True, method="asam", rho=0.1, width_mult=2.0),
    ]
    results = [*base, make_result(0.5, sam=True, rho=0.1), *asam]
    points = points_of(make_picture(), results)
    assert [(p.line, p.x, p.y and p.y.mean, p.rho) for p in points] == [
        ("method sam", 1000, 0.25, 0.1),
        ("method sam", 2000, None, None),
        ("method asam", 1000, 0.5, 0.1),
        ("method asam", 2000, 0.5, 0.1),
    ]
    points = points_of(make_picture("metric"), results)
    assert [(p.line, p.x, p.y.mean) for p in points] == [
        ("SAM, method sam", 1000, 0.5),
        ("SGD", 1000, 0.25),
        ("SGD", 2000, 0.5),
        ("SAM, method asam", 1000, 0.75),
        ("SAM, method asam", 2000, 1.0),
    ]
    points = points_of(make_picture("metric", "rho"), [results[2], *asam[:2]])
    assert [(p.line, p.x, p.is_best) for p in points] == [
        ("method sam", 0.1, True),
        ("method asam", 0.1, True),
        ("method asam", 0.2, False),
    ]
    assert {p.line for p in points_of(make_picture(), [*base, *asam])} == {
        "method asam"
    }


def test_points_of_a_number_have_a_line_for_those_that_have_it():
    """SAM at the rho that is best in the metric, not in the number, and the base
    optimizer, where it has the number; a failed run leaves its seed out."""
    results = [
        make_result(0.5, sam=False, numbers={"val_loss": 3.0}),
        make_result(0.5, sam=False, numbers={"val_loss": 2.0}, seed=1),
        make_result(0.75, sam=True, rho=0.1, numbers={"val_loss": 4.0, "cosine": 0.5}),
        make_result(None, sam=True, rho=0.1, seed=1),
        make_result(0.25, sam=True, rho=0.2, numbers={"val_loss": 1.0, "cosine": 1.0}),
    ]
    points = points_of(make_picture("val_loss"), results)
    assert [(p.line, p.x, p.y, p.rho, p.unfinished) for p in points] == [
        ("SAM", 1000, (4.0, None, 1), 0.1, 1),
        ("SGD", 1000, (2.5, 0.5, 2), None, 1),
    ]
    points = points_of(make_picture("cosine"), results)
    assert [(p.line, p.y.mean) for p in points] == [("SAM", 0.5)]
    points = points_of(make_picture("cosine", "rho"), results)
    assert [(p.x, p.y.mean, p.is_best) for p in points] == [
        (0.1, 0.5, True),
        (0.2, 1.0, False),
    ]
    points = points_of(make_picture("seconds"), results)
    assert [p.y.mean for p in points] == [2.0, 2.0]
    results = [
        make_result(0.5, sam=sam, pruner="snip", match_width=0.5, num_nonzero=250)
        for sam in (True, False)
    ]
    points = points_of(make_picture("num_nonzero"), results)
    assert [(p.line, p.y.mean) for p in points] == [("SAM", 250), ("SGD", 250)]


def test_points_of_the_best_rho():
    """It has no standard error, but the number of seeds that it is of."""
    results = [
        make_result(0.5, sam=True, rho=0.1),
        make_result(0.75, sam=True, rho=0.2),
        make_result(0.75, sam=True, rho=0.1, width_mult=2.0),
        make_result(0.5, sam=True, rho=0.2, width_mult=2.0),
        make_result(None, sam=True, rho=0.1, width_mult=4.0),
    ]
    points = points_of(make_picture("best_rho", "width_mult"), results)
    assert [(p.line, p.x, p.y) for p in points] == [
        ("SAM", 1.0, (0.2, None, 1)),
        ("SAM", 2.0, (0.1, None, 1)),
        ("SAM", 4.0, None),
    ]


def test_points_over_rho_mark_the_best():
    """A line a width, by rho; a rho whose runs failed is a point without y, and failed
    runs count at their own rho alone, the base optimizer's at none."""
    results = [
        make_result(0.25, sam=True, rho=0.4),
        make_result(0.5, sam=True, rho=0.1),
        make_result(0.75, sam=True, rho=0.2),
        make_result(0.5, sam=True, rho=0.1, width_mult=2.0),
        make_result(None, sam=True, rho=0.1, width_mult=2.0, seed=1),
        make_result(0.25, sam=True, rho=0.2, width_mult=2.0),
        make_result(0.25, sam=True, rho=0.2, width_mult=2.0, seed=1),
        make_result(None, sam=True, rho=0.4, width_mult=2.0),
        make_result(None, sam=False, width_mult=2.0),
    ]
    points = points_of(make_picture("metric", "rho"), results)
    assert [(p.line, p.x, p.y and p.y.mean, p.is_best) for p in points] == [
        (f"width {TIMES} 1", 0.1, 0.5, False),
        (f"width {TIMES} 1", 0.2, 0.75, True),
        (f"width {TIMES} 1", 0.4, 0.25, False),
        (f"width {TIMES} 2", 0.1, 0.5, False),
        (f"width {TIMES} 2", 0.2, 0.25, True),  # the other rho misses a seed
        (f"width {TIMES} 2", 0.4, None, False),
    ]
    assert [p.unfinished for p in points] == [0, 0, 0, 1, 0, 1]
    assert [p.rho for p in points] == [p.x for p in points]


def test_points_over_sparsity_are_at_the_measured_one():
    """The sizes of pruned models set no lines apart, the pruners do, and the dense
    model is the first point of each."""
    results = []
    pruned = (("snip", 0.5, 500), ("snip", 0.25, 250), ("random", 0.25, 250))
    for pruner, width, kept in pruned:
        options = {"pruner": pruner, "match_width": width, "num_nonzero": kept}
        results.append(make_result(0.5, sam=False, **options))
        results.append(make_result(0.75, sam=True, **options))
    results.append(make_result(0.5, sam=False))
    results.append(make_result(1.0, sam=True))
    points = points_of(make_picture(x="sparsity"), results)
    assert [(p.line, p.x, p.y.mean) for p in points] == [
        ("pruner snip", 0.0, 0.5),
        ("pruner snip", 0.5, 0.25),
        ("pruner snip", 0.75, 0.25),
        ("pruner random", 0.0, 0.5),
        ("pruner random", 0.75, 0.25),
    ]


def test_an_option_that_does_not_vary_is_one_place():
    """--depth 3 on the command line of a figure over depth leaves one x."""
    results = [
        make_result(0.5, sam=sam, depth=3, width_mult=width)
        for sam in (True, False)
        for width in (1.0, 2.0)
    ]
    points = points_of(make_picture(x="depth"), results)
    assert [(p.line, p.x) for p in points] == [
        (f"width {TIMES} 1", 3),
        (f"width {TIMES} 2", 3),
    ]


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


def test_models_of_other_sizes_are_points_of_their_own():
    """Runs of one option, before and after its workload was changed: on lines that are
    named by their sizes, but for a picture over them."""
    results = [
        make_result(0.5, sam=sam, seed=s) for sam in (True, False) for s in (0, 1)
    ]
    results[1] = dataclasses.replace(results[1], num_params=5, num_nonzero=5)
    results[3] = dataclasses.replace(results[3], num_params=5, num_nonzero=5)
    points = points_of(make_picture(x="width_mult"), results)
    assert [(p.line, p.y.num_seeds) for p in points] == [
        ("1,000 parameters", 1),
        ("5 parameters", 1),
    ]
    points = points_of(make_picture(), results)
    assert [(p.line, p.x) for p in points] == [("SAM - base", 5), ("SAM - base", 1000)]


def test_drawing_again_gives_the_same_files(tmp_path):
    """To the byte: no date and no random names."""
    first = draw_alone(make_picture(), make_gains(), tmp_path / "first")
    second = draw_alone(make_picture(), make_gains(), tmp_path / "second")
    for one, other in list(zip(first, second, strict=True))[:-1]:  # not the summary
        assert one.read_bytes() == other.read_bytes(), one.name


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

    monkeypatch.setattr(workers, "train", train)
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

    monkeypatch.setattr(workers, "train", train)
    code, found, _ = draw(name="loss")
    assert (code, found) == (0, trained)
    assert recorded()["figure"] == runs["figure"]


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

    def train(run, *_):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(run)
        return make_trained(run.config)

    monkeypatch.setattr(workers, "train", train)
    code, rows, _ = draw()
    assert code == 130
    assert [row["unfinished_runs"] for row in rows] == ["0", "1"]
    assert [row["seeds"] for row in rows] == ["1", "0"]
    folder = tmp_path / "runs" / "figures" / "tiny"
    failures = [row["failure"] for row in read_csv(folder / "runs.csv")]
    assert failures == ["", "", "", "not trained yet"]


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """The directory of all studies, which share their runs."""
    return tmp_path_factory.mktemp("studies")


# TensorFlow, whose steps are others, but not the figures, takes two of them.
@pytest.mark.each_backend
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    NAMES if keras.backend.backend() == "jax" else ["figure1_mnist", "figure5a_mnist"],
)
def test_every_small_study_runs_to_its_picture(name, studies, capsys):
    """With `--preset small`, on its sample: a point from every run, and pictures."""
    places = ["--run_dir", str(studies / "runs")]
    places += ["--tracking_uri", f"sqlite:///{studies}/mlflow.db"]
    target = f"configs/figures/{name}.yaml"
    code = command.main([target, "--preset", "small", *places])
    out, err = capsys.readouterr()
    assert code == 0, out + err
    for drawn in read_figure(FIGURES / f"{name}.yaml").pictures:
        folder = studies / "runs" / "figures" / f"{drawn.name}__preset=small"
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["finished"] == summary["runs"] > 0
        points = read_csv(folder / f"{drawn.name}.csv")
        assert len(points) > 1
        assert all(math.isfinite(float(point[drawn.y])) for point in points)
        assert (folder / f"{drawn.name}.png").stat().st_size > 0
