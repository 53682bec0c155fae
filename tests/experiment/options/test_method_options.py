"""`--method` and the options of each method."""

import dataclasses
import inspect
import math
import re

import pytest

import samkeras
from samkeras.errors import InputError
from samkeras.experiment.options.config import dump, varied_fields
from samkeras.experiment.options.groups import Config
from samkeras.experiment.options.methods import (
    ARGUMENTS,
    CLASS_OPTIONS,
    CLASSES,
    DEFAULTS,
)
from samkeras.experiment.options.targets import FIGURES
from samkeras.experiment.runs.run import Run
from samkeras.experiment.studies.figure import parse_figure
from samkeras.experiment.studies.tables import label
from tests.helpers import find_mark, make_config, parse_runs

# Arguments that are no options: the paper's control has one seed for all runs.
# AE-SAM's threshold falls over a run's steps.
NO_OPTIONS = {"aesam": {"threshold"}, "random": {"seed"}}
NO_OPTIONS |= {name: {"seed"} for name in ("esam", "trace", "det", "frobenius")}


def parse_one(*arguments: str):
    (config,) = parse_runs("mnist_mlp", ["--sam", *arguments])
    return config


@pytest.mark.parametrize("method", CLASSES)
def test_a_methods_options_are_its_classs_arguments(method):
    """By name and default, but for those that are said to be no options."""
    kind = getattr(samkeras, CLASSES[method])
    parameters = dict(inspect.signature(kind).parameters)
    if parameters.pop("options", None):
        parameters |= inspect.signature(samkeras.Perturbation).parameters
    expected = {
        name: getattr(kind(), name)
        for name in parameters
        if name not in NO_OPTIONS.get(method, ())
    }
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    defaults.update(DEFAULTS.get(method, {}))
    options = {
        ARGUMENTS.get(option, option): defaults[option]
        for option, methods in CLASS_OPTIONS.items()
        if method in methods
    }
    assert options == pytest.approx(expected)  # rho is float32


@pytest.mark.parametrize("method", CLASSES)
def test_a_method_is_built_of_its_options(method):
    """Each at a value of its own."""
    values = {"rho": 0.25, "p": "inf", "ascent_steps": 3}
    values.update(eta=0.125, sigma=0.5, ema_decay=0.75, fsam_order="paper")
    values.update(only="bias", scope="layer", theta=0.25, lam=0.75)
    values.update(mask_sparsity=0.75, mask_every=7, sam_samples=5)
    values.update(esam_beta=0.125, esam_gamma=0.75)
    values.update(sam_alpha=0.375, gamma=0.625, decoupled=False)
    values.update(sam_every=4, sam_start=0.5)
    config = make_config("mnist_mlp", sam=True, method=method, **values)
    built = Run(config).build_method(num_steps=20)
    values["sam_start"] = 10
    assert type(built).__name__ == CLASSES[method]
    for option, methods in CLASS_OPTIONS.items():
        if method in methods:
            actual = getattr(built, ARGUMENTS.get(option, option))
            number = math.inf if values[option] == "inf" else values[option]
            assert actual == number
    if method == "aesam":
        assert [float(built.threshold(step)) for step in (0, 10, 20)] == [1, 0, -1]
    assert Run(dataclasses.replace(config, sam=False)).build_method() is None


@pytest.mark.parametrize("ascent_steps", [1, 3])
@pytest.mark.parametrize("method", CLASSES)
def test_work_is_counted_in_the_methods_passes(method, ascent_steps):
    config = make_config(
        "mnist_mlp", sam=True, method=method, ascent_steps=ascent_steps
    )
    others = {"looksam": 1.2, "aesam": 1.5, "msam": 1, "esam": 1 + 1 / 3 + 1 / 2}
    others |= dict.fromkeys(("trace", "det", "frobenius"), 3) | {"second_order": 4}
    passes = 1 + ascent_steps if method == "sam" else others.get(method, 2)
    every = 5 if method == "looksam" else 1
    config = dataclasses.replace(config, sam_every=every, sam_samples=2)
    assert Run(config).passes == pytest.approx(passes)
    assert Run(dataclasses.replace(config, sam=False)).passes == 1
    late = dataclasses.replace(config, sam_start=0.75)
    assert Run(late).passes == pytest.approx(1 + (passes - 1) / 4)


def test_asam_has_a_rho_of_its_own(tmp_path):
    """Where none is given: the workloads' are tuned for SAM."""
    runs = parse_runs("synthetic_mlp", ["--sam", "--method", "sam,asam,fsam"])
    assert [config.rho for config in runs] == [0.2, 0.5, 0.2]
    assert parse_one("--method", "asam", "--rho", "0.1").rho == 0.1
    path = tmp_path / "own.yaml"
    path.write_text("rho: 0.3\nmethod: asam")
    assert parse_one("--config", str(path)).rho == 0.3
    path.write_text("method: asam")
    assert parse_one("--config", str(path)).rho == 0.5
    options = ["--method", "asam", "--preset", "small"]
    _, study = parse_figure(FIGURES / "figure1_mnist.yaml", options)
    assert {config.rho for config in study.configs if config.sam} == {0.05, 0.2}


@pytest.mark.parametrize("workload", ["atari_ppo", "mnist_mlp"])
def test_options_of_other_methods_make_no_other_run(workload):
    """A grid has each method once for those that it has not, and one base run."""
    arguments = ["--sam=true,false", "--method=sam,asam,fsam", "--rho=0.1"]
    arguments += ["--eta=0.1,0.2", "--p=2,inf", "--sigma=0.5", "--ascent_steps=1,2"]
    runs = parse_runs(workload, arguments)
    methods = [config.method for config in runs if config.sam]
    counts = [methods.count(method) for method in ("sam", "asam", "fsam")]
    assert (counts, len(runs)) == ([4, 4, 1], 10)
    for config in runs:
        alone = dataclasses.replace(config, **config.result_fields)
        assert find_mark(alone) == find_mark(config)


@pytest.mark.parametrize("m", ["48", "256"])
def test_groups_are_of_the_size_that_is_asked_for(m):
    """Of another one, some perturbations would be of another m."""
    message = f"--m_sharpness must divide --batch_size 128. Received: {m}"
    with pytest.raises(InputError, match=re.escape(message)):
        parse_one("--m_sharpness", m, "--batch_size", "128")
    assert parse_one("--m_sharpness", m, "--batch_size", "768").m_sharpness == int(m)


def test_runs_that_are_recorded_stay_known():
    """These fingerprints are of the option's older name, before there were others."""
    options = ["--method", "random"]
    assert find_mark(parse_one(*options), "old") == "b02ab7af120b68e3"
    options = ["--method", "unnormalized", "--rho", "0.1", "--m_sharpness", "32"]
    assert find_mark(parse_one(*options), "old") == "b0bd6ea2aa4924b9"
    for of in ("now", "old"):
        options = ["--method", "sam", "--p", "2", "--ascent_steps", "1"]
        base = find_mark(parse_one(), of)
        assert find_mark(parse_one(*options), of) == base
        for options in (["--p", "inf"], ["--ascent_steps", "2"]):
            assert find_mark(parse_one(*options), of) != base


def test_a_config_with_the_older_name_is_read(tmp_path):
    config = parse_one("--method", "random", "--rho", "0.3")
    path = tmp_path / "config.yaml"
    path.write_text(dump(config.plain_values))
    path.write_text(path.read_text().replace("method:", "perturbation:"))
    assert "method" not in path.read_text()
    assert parse_one("--config", str(path)) == config


def test_a_saved_norm_reads_back(tmp_path):
    """A word where it is infinite, as JSON and YAML's numbers have none."""
    for p in ("inf", "1.5"):
        config = parse_one("--p", p)
        (tmp_path / "config.yaml").write_text(dump(config.plain_values))
        assert parse_one("--config", str(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ([], "sam0.05"),
        (["--method", "unnormalized"], "sam_unnormalized0.05"),
        (["--method", "random", "--rho", "0.1"], "sam_random0.1"),
        (["--method", "asam"], "asam0.5"),
        (["--method", "fsam"], "fsam0.05"),
        (["--method", "looksam"], "looksam0.1"),
        (["--method", "msam"], "msam3"),
        (["--method", "gnp"], "sam_gnp0.1"),
    ],
)
def test_runs_are_named_by_their_method(options, name):
    assert Run(parse_one(*options)).name == f"mnist_mlp_w1_{name}_s0"


def test_labels_leave_out_what_has_no_effect():
    runs = parse_runs(
        "mnist_mlp",
        ["--sam=true,false", "--method=sam,asam", "--rho=0.1", "--eta=0.1,0.2"],
    )
    varied = varied_fields(runs)
    assert [label(Run(config), varied) for config in runs] == [
        "sam=true method=sam rho=0.1",
        "sam=true method=asam rho=0.1 eta=0.1",
        "sam=true method=asam rho=0.1 eta=0.2",
        "sam=false",
    ]
