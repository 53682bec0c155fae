"""`--method` and the options of each method."""

import dataclasses
import inspect

import pytest

import samkeras
from samkeras.experiment.options.config import (
    Config,
    SupervisedConfig,
    count_work,
    fingerprint,
    read_config,
    result_fields,
    save_config,
)
from samkeras.experiment.options.methods import (
    ARGUMENTS,
    CLASS_OPTIONS,
    CLASSES,
    DEFAULTS,
)
from samkeras.experiment.options.parsing import parse_figure, parse_runs
from samkeras.experiment.runs.run import build_method, run_name
from samkeras.experiment.studies.tables import label

# Arguments that are no options: the paper's control has one seed for all runs.
NO_OPTIONS = {"random": {"seed"}, "fsam": {"order"}}


def parse_one(*arguments: str):
    (config,) = parse_runs("mnist_mlp", ["--sam", *arguments])
    return config


@pytest.mark.parametrize("method", CLASSES)
def test_a_methods_options_are_its_classs_arguments(method):
    """By name and default, but for those that are said to be no options."""
    parameters = inspect.signature(getattr(samkeras, CLASSES[method])).parameters
    expected = {
        name: parameter.default
        for name, parameter in parameters.items()
        if name not in NO_OPTIONS.get(method, ())
    }
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    defaults.update(DEFAULTS.get(method, {}))
    assert expected == {
        ARGUMENTS.get(option, option): defaults[option]
        for option, methods in CLASS_OPTIONS.items()
        if method in methods
    }


@pytest.mark.parametrize("method", CLASSES)
def test_a_method_is_built_of_its_options(method):
    """Each at a value of its own."""
    values = {"rho": 0.25, "p": "inf", "ascent_steps": 3}
    values.update(eta=0.125, sigma=0.5, ema_decay=0.75)
    config = SupervisedConfig(workload="mnist_mlp", sam=True, method=method, **values)
    built = build_method(config)
    assert type(built).__name__ == CLASSES[method]
    for option, methods in CLASS_OPTIONS.items():
        if method in methods:
            actual = getattr(built, ARGUMENTS.get(option, option))
            assert actual == float(values[option])
    assert build_method(dataclasses.replace(config, sam=False)) is None


@pytest.mark.parametrize("ascent_steps", [1, 3])
@pytest.mark.parametrize("method", CLASSES)
def test_work_is_counted_in_the_methods_passes(method, ascent_steps):
    config = SupervisedConfig(
        workload="mnist_mlp", sam=True, method=method, ascent_steps=ascent_steps
    )
    passes = 1 + ascent_steps if method == "sam" else 2
    assert count_work(config, 10) == 10 * passes
    assert count_work(dataclasses.replace(config, sam=False), 10) == 10
    assert build_method(config).passes == passes


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
    _, runs = parse_figure("figure1_mnist", ["--method", "asam", "--preset", "small"])
    assert {config.rho for config in runs if config.sam} == {0.05, 0.2}


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
        alone = dataclasses.replace(config, **result_fields(config))
        assert fingerprint(alone, "jax") == fingerprint(config, "jax")


def test_runs_that_are_recorded_stay_known():
    """These fingerprints are of the option's older name, before there were others."""
    options = ["--method", "random"]
    assert fingerprint(parse_one(*options), "jax") == "b02ab7af120b68e3"
    options = ["--method", "unnormalized", "--rho", "0.1", "--m_sharpness", "32"]
    assert fingerprint(parse_one(*options), "jax") == "b0bd6ea2aa4924b9"
    options = ["--method", "sam", "--p", "2", "--ascent_steps", "1"]
    assert fingerprint(parse_one(*options), "jax") == fingerprint(parse_one(), "jax")
    for options in (["--p", "inf"], ["--ascent_steps", "2"]):
        assert fingerprint(parse_one(*options), "jax") != fingerprint(
            parse_one(), "jax"
        )


def test_a_config_with_the_older_name_is_read(tmp_path):
    config = parse_one("--method", "random", "--rho", "0.3")
    path = tmp_path / "config.yaml"
    save_config(config, path)
    path.write_text(path.read_text().replace("method:", "perturbation:"))
    assert "method" not in path.read_text()
    assert parse_one("--config", str(path)) == config
    assert read_config(path)["method"] == "random"


def test_a_saved_norm_reads_back(tmp_path):
    """A word where it is infinite, as JSON and YAML's numbers have none."""
    for p in ("inf", "1.5"):
        config = parse_one("--p", p)
        save_config(config, tmp_path / "config.yaml")
        assert parse_one("--config", str(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ([], "sam0.05"),
        (["--method", "unnormalized"], "sam_unnormalized0.05"),
        (["--method", "random", "--rho", "0.1"], "sam_random0.1"),
        (["--method", "asam"], "asam0.5"),
        (["--method", "fsam"], "fsam0.05"),
    ],
)
def test_runs_are_named_by_their_method(options, name):
    assert run_name(parse_one(*options)) == f"mnist_mlp_w1_{name}_s0"


def test_labels_leave_out_what_has_no_effect():
    runs = parse_runs(
        "mnist_mlp",
        ["--sam=true,false", "--method=sam,asam", "--rho=0.1", "--eta=0.1,0.2"],
    )
    assert [label(config, runs) for config in runs] == [
        "sam=true method=sam rho=0.1",
        "sam=true method=asam rho=0.1 eta=0.1",
        "sam=true method=asam rho=0.1 eta=0.2",
        "sam=false",
    ]
