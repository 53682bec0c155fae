"""The command line: what it accepts, what it refuses and how it says so."""

import dataclasses
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys

import pytest
import yaml

import run as command
from samkeras.errors import InputError
from samkeras.experiment.command import say_where
from samkeras.experiment.options import targets
from samkeras.experiment.options.config import dump, option_types
from samkeras.experiment.options.groups import GROUPS, Config, Options, Recipe
from samkeras.experiment.options.parsing import parse_command
from samkeras.experiment.options.taken import find_taken
from samkeras.experiment.options.targets import (
    ROOT,
    find_target,
    list_workloads,
    resolve_target,
)
from samkeras.experiment.runs.schedule import build_schedule, rate_at
from tests.helpers import find_mark, parse_runs

pytestmark = pytest.mark.one_backend


def parse_one(*arguments: str, workload: str = "mnist_mlp") -> Config:
    (config,) = parse_runs(workload, list(arguments))
    return config


@pytest.mark.parametrize("workload", list_workloads())
def test_every_workload_has_a_valid_config(workload):
    """Each configs/<workload>.yaml holds known fields with allowed values."""
    config = parse_one(workload=workload)
    values = yaml.safe_load((ROOT / "configs" / f"{workload}.yaml").read_text())
    assert values.pop("workload") == workload
    own = vars(config.target.import_module())
    assert set(values.pop("options")) <= {*GROUPS, *own}
    values.pop("data", None)
    for name, value in values.items():
        expected = tuple(value) if isinstance(value, list) else value
        assert getattr(config, name) == expected


@pytest.mark.parametrize("workload", list_workloads())
def test_the_commands_of_a_workloads_file_are_right(workload):
    """They stand on its page, and begin a grid."""
    text = (ROOT / "configs" / f"{workload}.yaml").read_text()
    commands = re.findall(r"^#   python run\.py (\S+) (.*)$", text, re.MULTILINE)
    assert commands
    for target, options in commands:
        assert target == f"workloads/{workload}"
        assert len(parse_runs(workload, shlex.split(options))) > 1


def test_mnist_config_is_the_papers():
    """The values that the paper's authors train LeNet-300-100 with."""
    config = parse_one()
    assert (config.epochs, config.batch_size, config.optimizer) == (100, 128, "sgd")
    assert (config.learning_rate, config.momentum) == (0.1, 0.9)
    assert (config.lr_milestones, config.lr_decay) == ((0.25, 0.5, 0.75), 0.1)
    assert config.weight_decay == 1e-4


@pytest.mark.each_backend
@pytest.mark.parametrize(
    ("epochs", "rates"),
    [
        (8, [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]),
        (2, [1, 0.01]),  # rounds two milestones to epoch 1, one to the end
        (1, [1]),
    ],
)
def test_the_learning_rate_drops_at_its_milestones(epochs, rates):
    """At 25, 50 and 75 % of the epochs; never before the first epoch's end."""
    config = parse_one("--epochs", str(epochs), "--learning_rate", "1")
    rate = build_schedule(config, 10)
    got = [rate_at(rate, 10 * epoch) for epoch in range(epochs)]
    assert got == pytest.approx(rates)


@pytest.mark.each_backend
def test_cosine_schedules_rise_and_fall():
    """Linear for the warm-up, then half a cosine that ends at 0."""
    config = parse_one("--epochs", "90", workload="imagenet_resnet50")
    steps = 2503
    last, middle = 90 * steps, (5000 + 90 * steps) // 2
    rate = build_schedule(config, steps)
    rates = [rate_at(rate, step) for step in (0, 2500, 5000, middle, last)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.1, 0], abs=1e-6)
    short = parse_one("--epochs", "1", workload="imagenet_resnet50")
    assert rate_at(build_schedule(short, 10), 9) == pytest.approx(0.2)


@pytest.mark.each_backend
def test_an_inverse_schedule_falls_from_epoch_to_epoch():
    """To learning_rate / (1 + e / 3), as Chizat et al. (2019) have it."""
    config = parse_one("--learning_rate", "1", workload="cifar10_vgg11")
    rate = build_schedule(config, 10)
    rates = [rate_at(rate, step) for step in (0, 9, 10, 19, 30, 99)]
    assert rates == pytest.approx([1, 1, 3 / 4, 3 / 4, 1 / 2, 1 / 4])


@pytest.mark.parametrize(
    ("workload", "values"),
    [
        ("cifar10_resnet18", (200, 128, 0.1, 0.9, 5e-4, True)),
        ("imagenet_resnet50", (90, 512, 0.2, 0.9, 1e-4, True)),
    ],
)
def test_vision_workloads_have_the_authors_values(workload, values):
    c = parse_one(workload=workload)
    got = (c.epochs, c.batch_size, c.learning_rate, c.momentum, c.weight_decay)
    assert (*got, c.augment) == values
    if workload == "cifar10_resnet18":
        assert (c.lr_schedule, c.lr_milestones) == ("step", (0.5, 0.75))


def test_lists_are_multiplied_out():
    """Comma-separated values of several options give the product of runs, in order."""
    runs = parse_runs("mnist_mlp", ["--width_mult", "0.25,1", "--seed=0,1"])
    assert [(c.width_mult, c.seed) for c in runs] == [
        (0.25, 0),
        (0.25, 1),
        (1.0, 0),
        (1.0, 1),
    ]


def test_lists_in_brackets_are_one_value():
    """`[a,b]` is one list-valued option, so that lists of lists can be swept."""
    runs = parse_runs("mnist_mlp", ["--lr_milestones", "[0.5,0.75],[0.9]"])
    assert [c.lr_milestones for c in runs] == [(0.5, 0.75), (0.9,)]


def test_the_base_optimizer_is_run_once_for_all_rho():
    """rho means nothing without SAM, so a sweep of it has one base run."""
    runs = parse_runs("mnist_mlp", ["--sam", "true,false", "--rho", "0.1,0.2"])
    assert [(c.sam, c.rho) for c in runs] == [(True, 0.1), (True, 0.2), (False, 0.1)]


def test_epochs_take_the_place_of_the_default_steps():
    """A workload that trains by steps does not where epochs are asked for; runs that
    differ in what then has no effect are one."""
    by_steps, by_epochs = (
        parse_one(*options, workload="ogbg_gcn") for options in ([], ["--epochs", "3"])
    )
    assert (by_steps.steps, by_steps.total_epochs) == (100_000, 100)
    assert (by_epochs.steps, by_epochs.total_epochs) == (None, 3)
    runs = parse_runs("ogbg_gcn", ["--epochs=3", "--steps=null,20", "--eval_every=10"])
    assert [(run.epochs, run.steps) for run in runs] == [(3, None), (3, 20)]


def test_a_flag_needs_no_value():
    """`--sam` alone, in the middle or at the end, is `--sam true`."""
    assert parse_one("--sam", "--rho", "0.1").sam
    assert parse_one("--rho", "0.1", "--sam").sam
    assert not parse_one("--sam", "false").sam


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--roh", "1"], ["--roh", "--rho"]),
        (["--rho", "-1"], ["--rho", ">= 0", "-1"]),
        (["--rho", "nan"], ["--rho", ">= 0", "nan"]),
        (["--rho", "inf"], ["--rho", ">= 0", "inf"]),
        (["--learning_rate", "1e39"], ["--learning_rate", "float32 holds", "1e39"]),
        (["--beta_2", "0.99999999"], ["--beta_2", "< 1 that float32 holds", "0.99"]),
        (["--epsilon", "1e-50"], ["--epsilon", "> 0 that float32 holds", "1e-50"]),
        (["--width_mult", "0"], ["--width_mult", "> 0", "Received: 0"]),
        (["--width_mult", "abc"], ["--width_mult", "number", "abc"]),
        (["--width_mult", "1,,2"], ["--width_mult", "number"]),
        (["--sam", "maybe"], ["--sam", "true or false", "maybe"]),
        (["--label_noise", "1.5"], ["--label_noise", "from 0 to 1", "1.5"]),
        (["--steps", "1500"], ["--steps", "--eval_every 1000", "1500"]),
        (["--epochs", "1.5"], ["--epochs", "integer", "1.5"]),
        (["--train_examples", "0"], ["--train_examples", "integer", "0"]),
        (["--method", "smm"], ["--method", "did you mean sam"]),
        (["--method", "asm,fsam"], ["--method", "did you mean asam"]),
        (["--perturbation", "sam"], ["--perturbation is called --method now"]),
        (["--sam", "--p", "1"], ["--p", "> 1", "or inf", "Received: 1"]),
        (["--sam", "--p", "Inf"], ["--p", "or inf", "Received: Inf"]),
        (["--sam", "--ascent_steps", "101"], ["--ascent_steps", "<= 100", "101"]),
        (
            ["--sam", "true,false", "--method", "sam,asam", "--p", "2,3"],
            ["--p must be 2 or inf with --method asam", "Received: 3"],
        ),
        (["--lr_milestones", "[0.5,2]"], ["--lr_milestones", "between 0 and 1"]),
        (["--pruner", "snip", "--sparsity", "1"], ["--sparsity", "< 1", "1"]),
        (["--pruner", "snip"], ["--pruner snip", "--sparsity S"]),
        (["--pruner", "snp"], ["--pruner", "did you mean snip"]),
        (
            ["--pruner", "random", "--match_width", "2"],
            ["--match_width", "at most --width_mult 1", "Received: 2"],
        ),
        (
            ["--pruner", "snip", "--match_width", "0.5", "--sparsity", "0.5"],
            ["--sparsity", "--match_width", "not both"],
        ),
        (["--holdout", "1"], ["--holdout", "< 1", "Received: 1"]),
        (["--depth", "0"], ["--depth", "integer >= 1"]),
        (["--seed"], ["--seed", "needs a value"]),
        (["--seed", "1", "--seed", "2"], ["--seed", "twice", "--seed a,b"]),
        (["seed=1"], ["seed=1", "start with --"]),
        (["--config", "/nonexistent.yaml"], ["/nonexistent.yaml", "No such file"]),
        (["--config", "/tmp"], ["/tmp", "Is a directory"]),
        (["--seed", "1_000"], ["--seed", "integer", "1_000"]),
        (["--seed", "0x10"], ["--seed", "integer", "0x10"]),
        (["--seed", "\u0663"], ["--seed", "integer"]),
        (["--seed", "4294967296"], ["--seed", "< 2**32", "4294967296"]),
        (["--seed", "9" * 5000], ["--seed", "< 2**32"]),
        (["--epochs", "2147483648"], ["--epochs", "< 2**31"]),
        (["--epochs_mult", "1e38"], ["--epochs_mult", "less than 2**31"]),
        (["--rho", "1e400"], ["--rho", ">= 0", "1e400"]),
        (["--rho="], ["--rho", ">= 0"]),
        (["--rho", "null"], ["--rho", ">= 0", "null"]),
        (["--sam", "yes"], ["--sam", "true or false", "yes"]),
        (["--verbose", "true"], ["--verbose", "one of 0, 1, 2"]),
        (["--dataset", ""], ["--dataset must be text"]),
        (["--run_dir", "a\0b"], ["--run_dir must be text"]),
        (["--depth", "100000"], ["--depth", "<= 100", "100000"]),
        (["--lr_milestones", "0.5"], ["--lr_milestones", "a list like"]),
        (["--image_size", "32"], ["workloads/mnist_mlp has no option --image_size"]),
        (["--frames", "32"], ["workloads/mnist_mlp has no option --frames"]),
        (["--help=x"], ["--help takes no value"]),
        (
            [f"--{n}={','.join('1' * 99)}" for n in ("rho", "seed", "epochs")],
            ["at most 10,000 runs", "970,299"],
        ),
    ],
)
def test_bad_options_are_refused_in_one_line(arguments, words):
    """The line names the option, what is allowed and what was given."""
    with pytest.raises(InputError) as error:
        parse_runs("mnist_mlp", arguments)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


SNIP = "--pruner snip --sparsity 0,0.5"


@pytest.mark.parametrize(
    ("options", "needed", "meant"),
    [
        ("--method asam", "--sam true", "--sam"),
        ("--rho 0.1,0.2", "--sam true", "--sam true,false"),
        ("--m_sharpness 8 --sam false", "--sam true", None),
        ("--eta 0.1", "--sam true --method asam", "--sam --method sam,asam"),
        ("--eta 0.1 --sam", "--method asam", None),
        ("--p 2 --sam true,false --method fsam", "--method sam or asam", None),
        ("--sparsity 0.5", "--pruner snip, random or magnitude", "--pruner none,snip"),
        ("--match_width 0.5", "--pruner snip, random or magnitude", None),
        ("--allow_empty_layers", "--pruner snip, random or magnitude", SNIP),
        ("--beta_1 0.8", "--optimizer adam or adamw", "--optimizer sgd,adamw"),
        ("--amsgrad", "--optimizer adam or adamw", "--optimizer adam"),
        ("--momentum 0.9 --optimizer adamw", "--optimizer sgd", None),
        ("--warmup_steps 5", "--lr_schedule cosine or rsqrt", "--lr_schedule rsqrt"),
        ("--lr_milestones [0.5] --lr_schedule linear", "--lr_schedule step", None),
        ("--lr_decay 0.5 --lr_milestones []", "--lr_milestones [X,X]", None),
        ("--lr_decay 0.5 --lr_schedule cosine", "--lr_schedule step", None),
        ("--eval_every 10", "--steps N", "--steps 100,null"),
        ("--epochs 2 --steps 2000", "--steps null: give one of the two", None),
        ("--gpus_per_run 1", "--ray HOST:PORT or auto", "--ray auto"),
        ("--workers 2 --ray auto", "--ray null: give one of the two", None),
    ],
)
def test_options_without_effect_on_any_run_are_refused(options, needed, meant):
    """In a line that says what they need; with that on some of the runs, they are fine,
    and so they are in a file, whose values are defaults."""
    name = options.split()[0]
    with pytest.raises(InputError) as error:
        parse_runs("mnist_mlp", options.split())
    assert str(error.value).startswith(f"{name} needs {needed}")
    if meant is not None:
        assert parse_runs("mnist_mlp", [*options.split(), *meant.split()])


def test_values_of_files_may_be_without_effect(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("rho: 0.1\nsparsity: 0.5\nbeta_1: 0.5\ncpus_per_run: 2.0")
    options = ["--config", str(path)]
    assert find_mark(parse_one(*options)) == find_mark(parse_one())
    assert parse_one(*options, "--sam").rho == 0.1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("roh: 0.1", ["unknown field roh", "rho"]),
        ("wokrload: mnist_mlp", ["unknown field wokrload", "mean workload?"]),
        ("rho: -3", ["rho", ">= 0"]),
        ("- 1", ["must hold fields"]),
        ("a: : [", ["is not YAML"]),
        ("workload: synthetic_mlp", ["synthetic_mlp", "not of workloads/mnist_mlp"]),
        ("", ["must hold fields"]),
        ("1: 2", ["unknown field 1 in line 1"]),
        ("rho: 0\nnull: 2", ["unknown field null in line 2"]),
        ("true: 2", ["unknown field true"]),
        ("[a]: 2", ["unknown field [...] in line 1"]),
        ("2024-01-01: 2", ["unknown field 2024-01-01"]),
        ("rho: 0.1\nsam: true\nrho: 0.2", ["rho is given twice, in lines 1 and 3"]),
        ("method: sam\nperturbation: sam", ["perturbation is called method now"]),
        ("p: .inf", ["p must be", "or inf", ".inf"]),
        ("rho: &a 1\nseed: *a", ["line 2 has an alias"]),
        ("rho: !!int a", ["is not YAML"]),
        ("rho: !!binary a", ["is not YAML", "tag"]),
        ("[" * 3000, ["lists within lists"]),
        ("rho: null", ["rho must be", ">= 0", "null"]),
        ("rho: .nan", ["rho must be", ">= 0", ".nan"]),
        ("rho: [0.1]", ["rho must be", ">= 0"]),
        ("seed: " + "9" * 5000, ["seed must be", "< 2**32"]),
        ("seed: 1:30", ["seed must be", "1:30"]),
        ("sam: yes", ["sam must be true or false", "yes"]),
        ("dataset: null", ["dataset must be text"]),
        ("dataset: [a]", ["dataset must be text"]),
        ('run_dir: "a\\0b"', ["run_dir must be text"]),
        ("image_size: 32", ["workloads/mnist_mlp has no option image_size"]),
        ("rho: \xff", ["is not YAML"]),
    ],
)
def test_bad_config_files_are_refused_in_one_line(tmp_path, text, words):
    """A wrong file is named, with what is wrong in it."""
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as error:
        parse_runs("mnist_mlp", ["--config", str(path)])
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_saved_config_reads_back(tmp_path):
    """--config gives the same run; an option on the command line wins over it."""
    config = parse_one("--sam", "--rho", "0.3", "--lr_milestones", "[0.1,0.2]")
    path = tmp_path / "config.yaml"
    path.write_text(dump(config.plain_values))
    assert parse_one("--config", str(path)) == config
    assert parse_one("--config", str(path), "--rho", "0.4").rho == 0.4


def test_fingerprint_is_of_what_defines_the_result():
    """Where files go does not change it; hyperparameters and the backend do."""
    base = find_mark(parse_one())
    places = ["--run_dir", "x", "--verbose", "0", "--data_dir", "y"]
    assert find_mark(parse_one(*places)) == base
    for run in parse_runs("mnist_mlp", ["--sam", "true,false", "--rho", "0.7"]):
        assert (find_mark(run) == base) != run.sam  # no SAM, no rho
    assert find_mark(parse_one("--seed", "1")) != base
    assert find_mark(parse_one(), backend="tensorflow") != base


@pytest.mark.parametrize(
    ("workload", "plain", "sam"),
    [
        ("cifar10_vit", "8ecc89c777517377", "6a270fcdb59d1e74"),
        ("mnist_mlp", "89f0eef454f0c728", "36f2b63a3a85a182"),
        ("synthetic_mlp", "465d9fdd78a86f31", "ec7c6ddafe1571fa"),
    ],
)
def test_fingerprints_stay_what_they_were(workload, plain, sam):
    """Of workloads whose results have not changed: their runs are not trained again,
    whatever options there are since."""
    assert find_mark(parse_one(workload=workload), "old") == plain
    config = parse_one("--sam", "--seed", "1", workload=workload)
    assert find_mark(config, "old", backend="tensorflow") == sam


def test_another_version_or_content_is_another_run(monkeypatch):
    config = parse_one()
    marks = [find_mark(config, content=content) for content in (None, "0", "1")]
    newer = dataclasses.replace(config.target.load(), version=2)
    monkeypatch.setattr("workloads.mnist_mlp.workload", newer)
    marks.append(find_mark(config))
    assert len(set(marks)) == 4


def test_a_new_option_with_a_default_changes_no_fingerprint(monkeypatch):
    """Of no run: those that are finished stay so."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Newer(Options):
        newer: int = 3

    options = ["--sam", "--rho", "0.3", "--train_examples", "100"]
    run = parse_one(*options)
    kind = dataclasses.make_dataclass(
        "Config", [], bases=(Newer, type(run)), frozen=True, kw_only=True
    )
    values = {f.name: getattr(run, f.name) for f in dataclasses.fields(run)}
    for of in ("now", "old"):
        assert find_mark(kind(**values), of) == find_mark(run, of)
        assert find_mark(kind(**values, newer=4), of) != find_mark(run, of)


def test_another_module_is_another_run_and_another_comment_is_not(tmp_path):
    marks = []
    for i, text in enumerate(
        (
            '"""A docstring."""\n\nx = 1  # a comment\n',
            '"""Another."""\nx = (1)\n',
            "x = 1\n",
            "x = 2\n",
        )
    ):
        path = tmp_path / f"{i}" / "own.py"
        path.parent.mkdir()
        path.write_text(text)
        target = resolve_target(str(path))
        (config,) = parse_command(target, []).configs
        marks.append(find_mark(config, version=1))
        # What did not know of modules knows none of these runs.
        assert find_mark(config, "old", version=1) == marks[-1]
    assert marks[0] == marks[1] == marks[2] != marks[3]


@pytest.mark.parametrize("workload", list_workloads())
def test_a_workloads_file_names_the_options_that_it_reads(workload):
    """Of those that not all workloads have; noise, recipes and alpha are applied to its
    data and its model, and the loss that several share reads how it is smoothed."""
    source = (ROOT / "workloads" / f"{workload}.py").read_text()
    optional = {
        field.name
        for name, groups in GROUPS.items()
        if name not in ("supervised", "ppo")
        for group in groups
        for field in dataclasses.fields(group)
    } - {field.name for field in dataclasses.fields(Options)}
    read = {name for name in optional if f"config.{name}" in source}
    has = optional & option_types(find_target(workload)).keys()
    recipe = {field.name for field in dataclasses.fields(Recipe)}
    of_all = recipe | {"augment", "alpha", "label_noise", "label_smoothing"}
    of_all |= {"drop_remainder"}
    assert has - of_all == read


def test_options_that_a_workload_has_not_are_not_shown(capsys, tmp_path):
    """In its help, with --print_config and in a saved config; those that were saved
    with them, at values without effect, are read."""
    with pytest.raises(SystemExit):
        parse_runs("mnist_mlp", ["--help"])
    assert "--depth" in (shown := capsys.readouterr().out)
    assert "--image_size" not in shown
    assert "(default: [0.25,0.5,0.75])" in " ".join(shown.split())
    path = tmp_path / "config.yaml"
    path.write_text(dump(parse_one().plain_values))
    assert "image_size" not in path.read_text()
    path.write_text(path.read_text() + "image_size: null\nword_dropout: 0.0\n")
    assert parse_one("--config", str(path)) == parse_one()


@pytest.mark.parametrize(
    ("workload", "options"),
    [
        ("mnist_mlp", "beta_1: 0.5\nbeta_2: 0.5\nepsilon: 1.0\nwarmup_steps: 7"),
        ("mnist_mlp", "sparsity: 0.5\nallow_empty_layers: true\neval_every: 7"),
        ("ogbg_gcn", "momentum: 0.5\nlr_decay: 0.5"),
        ("cifar10_vit", "lr_decay: 0.5\nlr_milestones: [0.5]"),
        ("atari_ppo", "momentum: 0.5\nwarmup_steps: 7"),
    ],
)
def test_options_without_effect_make_no_other_run(workload, options, tmp_path):
    """Those of another optimizer or of another schedule of the learning rate."""
    path = tmp_path / "own.yaml"
    path.write_text(options)
    run = parse_one("--config", str(path), workload=workload)
    base = parse_one(workload=workload)
    assert find_mark(run) == find_mark(base)
    assert find_mark(run, "old") == find_mark(base, "old")


def test_paths_are_of_the_users_home(monkeypatch, tmp_path):
    """~ is expanded, which no shell does in --run_dir=~/runs nor in a file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.yaml").write_text("data_dir: ~/data\ndataset: ~/a.npz")
    options = ["--run_dir=~/runs", "--config=~/own.yaml"]
    session, (config,) = parse_command(find_target("mnist_mlp"), options)
    names = (session.run_dir, config.data_dir, config.dataset)
    assert names == tuple(f"{tmp_path}/{name}" for name in ("runs", "data", "a.npz"))


def test_a_data_sets_path_may_have_commas(tmp_path):
    path = tmp_path / "a,b.npz"
    path.touch()
    assert parse_one("--dataset", str(path)).dataset == str(path)
    assert len(parse_runs("mnist_mlp", ["--dataset", "mnist,mnist_5k"])) == 2


@pytest.mark.parametrize("value", ["a\nb", "\x1b[31m", "9" * 10**6, "\udcff"])
def test_what_is_said_of_any_value_is_one_line(capsys, value):
    assert command.main(["workloads/mnist_mlp", "--seed", value]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert len(message) < 1100
    assert message[:-1].isprintable()


def test_a_dense_run_is_one_run_whatever_the_pruner():
    """Without a pruner, at sparsity 0 or at the width to match, nothing is pruned."""
    runs = parse_runs("mnist_mlp", ["--pruner", "none,snip", "--sparsity", "0,0.5"])
    assert [(c.pruner, c.sparsity) for c in runs if c.is_pruned] == [("snip", 0.5)]
    assert len(runs) == 2
    runs = parse_runs("mnist_mlp", ["--pruner=random", "--match_width=1"])
    assert find_mark(runs[0]) == find_mark(parse_one())


@pytest.mark.parametrize(
    "target", ["workloads/mnist_mlp", "workloads/mnist_mlp.py", "./workloads/mnist_mlp"]
)
def test_targets_resolve(target):
    """A workload is found by its path, with or without .py."""
    assert resolve_target(target) == find_target("mnist_mlp")


def test_workloads_are_found_where_only_samkeras_is_on_the_path(monkeypatch):
    """As an editable installation has it."""
    others = [path for path in sys.path if os.path.abspath(path) != str(ROOT)]
    monkeypatch.setattr(sys, "path", others)
    for name in ("workloads", "workloads.mnist_mlp"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert find_target("mnist_mlp").load().monitor == "val_accuracy"


@pytest.mark.parametrize("target", ["figure1_mnist", "figures/figure1_mnist"])
def test_figures_resolve(target):
    """By their names alone, as workloads do."""
    assert resolve_target(target) == targets.FIGURES / "figure1_mnist.yaml"


@pytest.mark.parametrize(
    ("target", "nearest"),
    [
        ("workloads/mnst_mlp", "mnist_mlp"),
        ("workloads/mnst_mlp.py", "mnist_mlp.py"),
        ("workloads/mnist_mlp.yaml", "mnist_mlp.py"),
        ("mnist_mlp.yaml", "mnist_mlp"),
        ("workloads.mnst_mlp", "workloads.mnist_mlp"),
        ("figure1_mnst", "figure1_mnist.yaml"),
        ("configs/figures/figure4_mnst.yaml", "figure4_mnist.yaml"),
        ("reprot", "report"),
        ("examples/two_moons/two_moon.py", "two_moons.py"),
        ("examples/two_moons/nose.yaml", "noise.yaml"),
    ],
)
def test_unknown_targets_name_the_nearest(target, nearest, monkeypatch):
    """A typing error is answered by the name meant."""
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError) as error:
        resolve_target(target)
    message = str(error.value)
    assert target in message
    assert message.endswith(f"; did you mean {nearest}?")


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("configs/mnist_mlp.yaml", "workloads/mnist_mlp"),
        ("examples/two_moons/two_moons.yaml", ROOT / "examples/two_moons/two_moons.py"),
    ],
)
def test_the_options_of_a_workload_are_no_figure(path, owner, capsys):
    assert command.main([str(ROOT / path)]) == 2
    assert f"is no figure; did you mean {owner}?\n" in capsys.readouterr().err


def test_a_damaged_file_hides_no_target(tmp_path, monkeypatch):
    """A user's own workload without a docstring, one that is no Python, and figures
    that are not text: what is wrong with them is said where they are run."""
    monkeypatch.setattr(targets, "ROOT", tmp_path)
    monkeypatch.setattr(targets, "FIGURES", tmp_path)
    (tmp_path / "workloads").mkdir()
    (tmp_path / "workloads" / "bare.py").write_text("x = 1")
    (tmp_path / "workloads" / "broken.py").write_text("def")
    (tmp_path / "figure\u00b2.yaml").write_bytes(b"\xff")
    (tmp_path / "folder.yaml").mkdir()
    found = targets.describe_targets()
    assert len(found) == 6
    assert found["workloads/broken"] == found["workloads/bare"] == ""


def test_every_workload_of_data_says_what_it_takes(capsys):
    """Each source in a line; those of one set of their own have no such lines."""
    of_one_set = {"allen_zhu", "atari_ppo", "matrix_factorization", "relu_1d"}
    of_one_set.add("synthetic_mlp")
    for workload in list_workloads():
        taken = find_taken(find_target(workload).values.get("data"), ROOT)
        assert bool(taken) != (workload in of_one_set), workload
        with pytest.raises(SystemExit):
            parse_runs(workload, ["--help"])
        shown = "".join(capsys.readouterr().out.split())  # lines break within words
        assert all("".join((v + text).split()) in shown for v, text in taken)
        assert ("--datasetisoneof" in shown) == bool(taken)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("image", "Received: data: image; did you mean images"),
        ("cifar100", "and dataset names a set. Received: data: cifar100"),
        ("[images]", r"Received: data: \['images'\]"),
    ],
)
def test_a_kind_of_data_that_is_not_there_is_refused(tmp_path, kind, message):
    """In a config as in a workload's file, with --help and without."""
    path = tmp_path / "config.yaml"
    path.write_text(f"data: {kind}\n")
    with pytest.raises(InputError, match=message):
        parse_one("--config", str(path))
    path.rename(tmp_path / "mine.yaml")
    (tmp_path / "mine.py").write_text("")
    target = resolve_target(str(tmp_path / "mine.py"))
    for arguments in ([], ["--help"]):
        with pytest.raises(InputError, match=message):
            parse_command(target, arguments)


@pytest.mark.parametrize(
    ("workload", "first"),
    [
        ("mnist_mlp", ["dataset", "epochs"]),
        ("ud_pos_transformer", ["dataset", "steps"]),
        ("atari_ppo", ["game", "frames"]),
    ],
)
def test_help_begins_with_what_is_set_first(workload, first, capsys):
    """Ten options, then the others under their headings, each once."""
    with pytest.raises(SystemExit):
        parse_runs(workload, ["--help"])
    _, *parts = re.split(r"\n\n([\w ]+):\n", capsys.readouterr().out)
    page = {
        heading: re.findall(r"^  --(\w+)", text, re.MULTILINE)
        for heading, text in zip(parts[::2], parts[1::2], strict=True)
    }
    on_top = ["width_mult", "sam", "rho", "method", *first, "learning_rate"]
    assert page["set first"] == [*on_top, "batch_size", "seed", "workers"]
    assert {"p", "eta"} <= {*page["SAM"]}
    assert "sparsity" in page["model"]
    assert page["tracking"] == ["experiment", "tracking_uri", "run_dir"]
    shown = list(itertools.chain(*page.values()))
    known = [*option_types(find_target(workload)), "config", "print_config"]
    assert sorted(shown) == sorted(known)


def test_help_imports_nothing_heavy():
    """Listing targets and printing help load neither keras nor a backend."""
    script = (
        "import sys, run\n"
        "run.main([])\n"
        "try: run.main(['workloads/mnist_mlp', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'keras', 'jax', 'tensorflow', 'mlflow', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "workloads/synthetic_mlp" in done.stdout
    assert "--rho" in done.stdout
    assert "default: 0.05" in done.stdout


@pytest.mark.parametrize("options", ["", "--help", "--print_config --seed=0,1"])
def test_a_closed_pipe_ends_a_command_in_silence(options):
    """As `head` closes it."""
    target = ["workloads/mnist_mlp"] if options else []
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "run.py", *target, *options.split()],
        cwd=ROOT,
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_a_pipe_that_is_read_in_part_ends_a_command_in_silence():
    """Of more than it holds, so that the rest has nowhere to go."""
    lists = "--seed 0,1,2,3,4,5,6,7,8,9 --width_mult 1,2,3,4,5,6,7,8,9"
    line = f"{sys.executable} run.py mnist_mlp --print_config {lists} | head -n 1"
    options = {"shell": True, "cwd": ROOT, "capture_output": True}
    done = subprocess.run(line, **options)
    assert (done.stdout, done.stderr) == (b"---\n", b"")


@pytest.mark.parametrize("missing", ["yaml", "keras"])
def test_a_forgotten_environment_is_said_in_one_line(missing):
    """Where Python is the system's, which lacks the packages."""
    script = f"import sys; sys.modules[{missing!r}] = None; import run; "
    script += "sys.exit(run.main(['mnist_mlp', '--dry_run']))"
    line = [sys.executable, "-c", script]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    start = f"run.py: {missing} is not installed for {sys.executable}; first run "
    assert done.stderr.startswith(start)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, "")


def test_a_module_that_is_started_is_not_called_run_py(tmp_path):
    """Where samkeras is installed there is no run.py to type."""
    line = [sys.executable, "-m", "samkeras"]
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    options |= {"capture_output": True, "text": True}
    listed = subprocess.run(line, **options).stdout
    assert listed.startswith("python -m samkeras TARGET [--option")
    assert "run.py" not in listed
    refused = subprocess.run([*line, "mnist_mpl"], **options)
    assert refused.stderr.startswith("samkeras: unknown workload mnist_mpl")
    assert refused.returncode == 2


def test_runs_are_in_one_place_wherever_one_stands(tmp_path, monkeypatch, capsys):
    """In the project's folder, which is said where one is not there; a folder that is
    given is one's own."""
    default, given = (["--seed", "1"], ["--run_dir", "runs"])

    def find_place(options: list[str]) -> str:
        return parse_command(find_target("mnist_mlp"), options).session.run_dir

    monkeypatch.chdir(ROOT)
    assert [find_place(options) for options in (default, given)] == ["runs", "runs"]
    monkeypatch.chdir(tmp_path)
    places = [find_place(options) for options in (default, given)]
    assert places == [str(ROOT / "runs"), "runs"]
    for place in places:
        say_where(place)
    expected = f"The runs are kept in {ROOT}/runs; --run_dir names another folder"
    assert capsys.readouterr().out == f"{expected}.\n"
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "journal_0.jsonl").touch()
    say_where(places[0])
    expected += ", and --run_dir runs goes on with those of runs/ here"
    assert capsys.readouterr().out == f"{expected}.\n"
