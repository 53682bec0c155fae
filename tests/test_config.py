"""The command line: what it accepts, what it refuses and how it says so."""

import dataclasses
import subprocess
import sys

import pytest
import yaml

from samkeras.errors import InputError
from samkeras.experiment.command_line import parse_runs
from samkeras.experiment.config import Config, fingerprint, save_config
from samkeras.experiment.schedule import learning_rate_at
from samkeras.experiment.targets import (
    ROOT,
    find_workload,
    list_workloads,
    resolve_target,
)


def parse_one(*arguments: str, workload: str = "mnist_mlp") -> Config:
    (config,) = parse_runs(workload, list(arguments))
    return config


@pytest.mark.parametrize("workload", list_workloads())
def test_every_workload_has_a_valid_config(workload):
    """Each configs/<workload>.yaml holds known fields with allowed values."""
    config = parse_one(workload=workload)
    values = yaml.safe_load((ROOT / "configs" / f"{workload}.yaml").read_text())
    for name, value in values.items():
        expected = tuple(value) if isinstance(value, list) else value
        assert getattr(config, name) == expected


def test_mnist_config_is_the_papers():
    """The values that the paper's authors train LeNet-300-100 with."""
    config = parse_one()
    assert (config.epochs, config.batch_size, config.optimizer) == (100, 128, "sgd")
    assert (config.learning_rate, config.momentum) == (0.1, 0.9)
    assert (config.lr_milestones, config.lr_decay) == ((0.25, 0.5, 0.75), 0.1)
    assert config.weight_decay == 1e-4


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
    got = [learning_rate_at(config, 10 * epoch, 10) for epoch in range(epochs)]
    assert got == pytest.approx(rates)


def test_cosine_schedules_rise_and_fall():
    """Linear for the warm-up, then half a cosine that ends at 0."""
    config = parse_one("--epochs", "90", workload="imagenet_resnet50")
    steps = 2503
    last, middle = 90 * steps, (5000 + 90 * steps) // 2
    rates = [learning_rate_at(config, s, steps) for s in (0, 2500, 5000, middle, last)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.1, 0], abs=1e-6)
    short = parse_one("--epochs", "1", workload="imagenet_resnet50")
    assert learning_rate_at(short, 9, 10) == pytest.approx(0.2)


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
    runs = parse_runs("ogbg_gcn", ["--epochs", "3", "--eval_every", "10,20"])
    assert len(runs) == 1


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
        (["--epochs", "2", "--steps", "100"], ["--epochs", "--steps", "not both"]),
        (["--steps", "1500"], ["--steps", "--eval_every 1000", "1500"]),
        (["--epochs", "1.5"], ["--epochs", "integer", "1.5"]),
        (["--train_examples", "0"], ["--train_examples", "integer", "0"]),
        (["--perturbation", "sma"], ["--perturbation", "did you mean sam"]),
        (["--lr_milestones", "[0.5,2]"], ["--lr_milestones", "between 0 and 1"]),
        (["--pruner", "snip", "--sparsity", "1"], ["--sparsity", "< 1", "1"]),
        (["--sparsity", "0.5"], ["--sparsity", "needs --pruner", "snip"]),
        (["--match_width", "0.5"], ["--match_width", "needs --pruner"]),
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
    ],
)
def test_bad_options_are_refused_in_one_line(arguments, words):
    """The line names the option, what is allowed and what was given."""
    with pytest.raises(InputError) as error:
        parse_runs("mnist_mlp", arguments)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("roh: 0.1", ["unknown field roh", "rho"]),
        ("rho: -3", ["rho", ">= 0"]),
        ("- 1", ["must hold fields"]),
        ("a: : [", ["is not YAML"]),
        ("workload: synthetic_mlp", ["synthetic_mlp", "not of workloads/mnist_mlp"]),
    ],
)
def test_bad_config_files_are_refused_in_one_line(tmp_path, text, words):
    """A wrong file is named, with what is wrong in it."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        parse_runs("mnist_mlp", ["--config", str(path)])
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_saved_config_reads_back(tmp_path):
    """--config gives the same run; an option on the command line wins over it."""
    config = parse_one("--sam", "--rho", "0.3", "--lr_milestones", "[0.1,0.2]")
    path = tmp_path / "config.yaml"
    save_config(config, path)
    assert parse_one("--config", str(path)) == config
    assert parse_one("--config", str(path), "--rho", "0.4").rho == 0.4


def test_fingerprint_is_of_what_defines_the_result():
    """Where files go does not change it; hyperparameters and the backend do."""
    base = fingerprint(parse_one(), "jax")
    assert fingerprint(parse_one("--run_dir", "x", "--verbose", "0"), "jax") == base
    assert fingerprint(parse_one("--rho", "0.7"), "jax") == base  # no SAM, no rho
    assert fingerprint(parse_one("--seed", "1"), "jax") != base
    assert fingerprint(parse_one(), "tensorflow") != base


@pytest.mark.parametrize(
    ("workload", "plain", "sam"),
    [
        ("cifar10_vgg11", "a05b0c83e5338737", "a341044a7136747e"),
        ("cifar10_vit", "8ecc89c777517377", "6a270fcdb59d1e74"),
        ("mnist_mlp", "89f0eef454f0c728", "36f2b63a3a85a182"),
        ("synthetic_mlp", "465d9fdd78a86f31", "ec7c6ddafe1571fa"),
    ],
)
def test_fingerprints_stay_what_they_were(workload, plain, sam):
    """Of workloads whose results have not changed: their runs are not trained again,
    whatever options there are since."""
    assert fingerprint(parse_one(workload=workload), "jax") == plain
    config = parse_one("--sam", "--seed", "1", workload=workload)
    assert fingerprint(config, "tensorflow") == sam


def test_another_version_or_content_is_another_run(monkeypatch):
    config = parse_one()
    marks = [fingerprint(config, "jax"), fingerprint(config, "jax", "0")]
    marks.append(fingerprint(config, "jax", "1"))
    newer = dataclasses.replace(find_workload("mnist_mlp"), version=2)
    monkeypatch.setattr("workloads.mnist_mlp.workload", newer)
    marks.append(fingerprint(config, "jax"))
    assert len(set(marks)) == 4


def test_a_dense_run_is_one_run_whatever_the_pruner():
    """Without a pruner, at sparsity 0 or at the width to match, nothing is pruned."""
    runs = parse_runs("mnist_mlp", ["--pruner", "none,snip", "--sparsity", "0,0.5"])
    assert [(c.pruner, c.sparsity) for c in runs if c.is_pruned] == [("snip", 0.5)]
    assert len(runs) == 2
    runs = parse_runs("mnist_mlp", ["--pruner=random", "--match_width=1"])
    assert fingerprint(runs[0], "jax") == fingerprint(parse_one(), "jax")


@pytest.mark.parametrize(
    "target", ["workloads/mnist_mlp", "workloads/mnist_mlp.py", "./workloads/mnist_mlp"]
)
def test_targets_resolve(target):
    """A workload is found by its path, with or without .py."""
    assert resolve_target(target) == "workloads/mnist_mlp"


def test_unknown_targets_name_the_nearest():
    """A typing error in the workload's name is answered by the name meant."""
    with pytest.raises(InputError, match=r"workloads/mnst_mlp.*did you mean mnist_mlp"):
        resolve_target("workloads/mnst_mlp")


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
