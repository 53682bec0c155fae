"""The files of the paper's figures: what they ask for, and what is wrong with them."""

import dataclasses
import functools
import re
from collections.abc import Sequence

import pytest
import yaml

import run as command
from samkeras.errors import InputError
from samkeras.experiment.options import targets
from samkeras.experiment.options.targets import FIGURES
from samkeras.experiment.studies.comparison import compare
from samkeras.experiment.studies.crosstab import Crosstab
from samkeras.experiment.studies.crosstabs import find_cells
from samkeras.experiment.studies.figure import parse_figure as parse_file
from samkeras.experiment.studies.figure import read_figure
from samkeras.experiment.studies.picture import MEASURED, PLANE, Picture
from samkeras.experiment.studies.planes import find_pairs
from tests.experiment.studies.making import NAMES, RUNS, TINY, make_trained, points_of

pytestmark = pytest.mark.one_backend


COUNTS = re.compile(r"^# (\d+) runs; (\d+) with --preset small", re.MULTILINE)
# Those that are not named as the file that they are in.
OTHER_PICTURES = {
    "figure18_linearity": "figure18_cifar10",
    "table2_top_5": "table2_imagenet",
    "foret_lambda_max": "foret_spectrum",
    "foret_lambda_ratio": "foret_spectrum",
    "foret_spectrum_lambda_max": "foret_spectrum",
    "foret_spectrum_lambda_ratio": "foret_spectrum",
    "figure20b_mnist": "figure20a_mnist",
    "figure6b_mnist": "figure6a_mnist",
    "figure6b_s3_mnist": "figure6a_mnist",
    "figure6b_s4_mnist": "figure6a_mnist",
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


def drawn_of(name: str) -> Sequence[Picture | Crosstab]:
    """Its pictures and tables."""
    study = expand(name, None)[0]
    return [*study.pictures, *study.tables]


@pytest.mark.parametrize("preset", [None, "small"])
@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_the_runs_that_it_is_drawn_of(name, preset):
    """SAM and the base optimizer, and at least two places on the x axis; if all its
    runs finish, every point of it is known and every gain is of all seeds. A table has
    several cells, as many as the paper has of it, all of them filled."""
    study, configs = expand(name, preset)
    assert {config.workload for config in configs} == {study.target.name}
    results = []
    for config in configs:
        depth = getattr(config, "depth", None) or 1
        num_params = round(1e6 * config.width_mult * depth)
        kept = (config.match_width or config.width_mult) / config.width_mult
        kept = round(kept * num_params) if config.is_pruned else num_params
        shown = [*study.pictures, *study.tables]
        results.append(make_trained(config, num_params, kept, shown))
    num_seeds = len({config.seed for config in configs})
    assert study.pictures or study.tables
    for table in study.tables:
        cells = find_cells(table, results)
        filled = [cell for cell in cells if cell.found is not None]
        assert len(filled) > 1
        assert {(c.found.num_seeds, c.unfinished) for c in filled} == {(num_seeds, 0)}
        if preset is None:
            assert sum(c.paper is not None for c in filled) == len(table.paper)
    for drawn in study.pictures:
        if drawn.y != "best_rho":
            assert {config.sam for config in configs} == {True, False}
        if drawn.x == "rho" or drawn.y == "best_rho":
            assert len({config.rho for config in configs if config.sam}) >= 2
        if drawn.x in MEASURED:
            continue  # the x are the measure's
        if drawn.x == PLANE:
            comparisons = compare(results, study.target.load().mode)
            assert len(find_pairs(drawn, comparisons)) == len(comparisons)
            assert all("trajectory" in config.measure for config in configs)
            continue
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
    found = {drawn.name: name for name in NAMES for drawn in drawn_of(name)}
    assert len(found) == sum(len(drawn_of(name)) for name in NAMES)
    for name, owner in OTHER_PICTURES.items():
        assert found.pop(name) == owner
        drawn, runs = expand(name, "small")
        assert [each.name for each in (*drawn.pictures, *drawn.tables)] == [name]
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
        ({"x": "epoch"}, [], ["x: epoch needs y: a number", "gain"]),
        ({"x": "epoch", "y": "los"}, [], ["y must be one of", "did you mean loss"]),
        ({"x": "epoch", "y": "passes"}, [], ["y must be one of", "loss"]),
        ({"x": "epcoh", "y": "loss"}, [], ["x must be", "did you mean epoch"]),
        ({"panels": "width_mlt"}, [], ["no option width_mlt", "mean width_mult"]),
        ({"panels": "rho"}, [], ["panels must be an option that SAM and the base"]),
        ({"x": "width_mult", "panels": "width_mult"}, [], ["panels needs another x"]),
        ({"panels": 3}, [], ["panels must be the name of an option", "3"]),
        ({"log_y": True}, [], ["log_y needs another y"]),
        ({"y": "loss", "log_y": "yes"}, [], ["log_y must be true or false", "yes"]),
        ({"bounds": "stable_s2"}, [], ["bounds must be one of", "mean stable_s_2"]),
        ({"fit": [0.1, 0.01]}, [], ["fit must be [low, high]", "[0.1, 0.01]"]),
        ({"fit": [0.1, 1]}, [], ["fit needs x: epoch"]),
        ({"x": "input", "y": "loss"}, [], ["x: input needs y: function", "loss"]),
        ({"y": "spectrum"}, [], ["x: eigenvalue needs y: spectrum", "num_params"]),
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
