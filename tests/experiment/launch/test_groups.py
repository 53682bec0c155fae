"""Runs that train together, in one program, are runs as any other."""

import dataclasses
import itertools
import os
import time

import keras
import numpy as np
import pytest

import run as command
from samkeras.experiment.launch import groups, workers
from samkeras.experiment.options.methods import CLASS_OPTIONS, CLASSES, takes
from samkeras.experiment.options.session import Session
from samkeras.experiment.options.targets import FIGURES, resolve_target
from samkeras.experiment.runs.checkpoint import find_common_place
from samkeras.experiment.runs.data import read_data
from samkeras.experiment.runs.member import Clock, Member
from samkeras.experiment.runs.recall import Recall
from samkeras.experiment.runs.run import Run
from samkeras.experiment.studies.figure import read_figure
from samkeras.experiment.studies.training import with_replicas
from samkeras.model import SAMModel
from tests import helpers
from tests.experiment.runs.test_resume import build_noisy_model
from workloads import mnist_mlp

needs_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="models train together on JAX"
)
# 8 steps an epoch.
OPTIONS = {
    "--dataset": "mnist_5k",
    "--batch_size": "32",
    "--train_examples": "256",
    "--validation_examples": "96",
    "--epochs": "2",
}


@pytest.fixture
def train(records, tmp_path, monkeypatch, capsys):
    """A function: (name, options) -> (exit code, output, final weights by the runs'
    titles, records). Runs of one name share their folders and experiment."""
    workload = dataclasses.replace(mnist_mlp.workload, build=build_noisy_model)
    monkeypatch.setattr(mnist_mlp, "workload", workload)
    final, finish = {}, Member.finish

    def keep_weights(self, model, validation):
        weights = [np.ravel(w) for w in model.get_weights()]
        final[self._run.title] = np.concatenate(weights)
        finish(self, model, validation)

    monkeypatch.setattr(Member, "finish", keep_weights)

    def call(name: str, *options: str, stop_at: tuple | None = None):
        with pytest.MonkeyPatch.context() as context:
            helpers.request_stop(context, stop_at)
            final.clear()
            places = ["--run_dir", str(tmp_path / name), "--experiment", name]
            others = {k: v for k, v in OPTIONS.items() if k not in options}
            others = [text for pair in others.items() for text in pair]
            code = command.main(["workloads/mnist_mlp", *others, *places, *options])
        found = [r for r in records[name] if "config.yaml" in r.files]
        return code, capsys.readouterr().out, dict(final), found

    return call


FROM_HOST = "runs whose batches come from the host"
SAMPLES = {
    "cifar10_resnet18": "mnist_5k",
    "mnist_mlp": "mnist_5k",
    "sst2_lstm": "crowdflower",
}
FIVE_AND_ONE = [{"dataset": "mnist_5k", "seed": i} for i in range(5)]
FIVE_AND_ONE.insert(2, {"dataset": "mnist_5k", "batch_size": 32})

METHODS = {
    "base": ["--seed", "0,1"],
    "sam": ["--sam", "--rho", "0.01,0.1", "--seed", "0,1"],
    "unnormalized": ["--sam", "--method", "unnormalized", "--rho", "0.01,0.1"],
    "random": ["--sam", "--method", "random", "--seed", "0,1"],
    "asam": ["--sam", "--method", "asam", "--rho", "0.1", "--eta", "0.01,0.3"],
    "fsam": ["--sam", "--method", "fsam", "--sigma", "0.5,1"],
    "every": ["--sam", "--sam_every", "3", "--sam_start", "0.3", "--seed", "0,1"],
}
EXTRAS: dict[str, list[str]] = {
    "base": ["--label_noise", "0,0.2", "--train_examples", "250"],
    "sam": ["--weight_decay", "1e-4", "--lr_schedule", "cosine"],
    "unnormalized": ["--pruner", "snip", "--sparsity", "0.5"],
    "random": ["--optimizer", "adamw", "--weight_decay", "0.01"],
    "asam": ["--learning_rate", "0.01,0.1", "--lr_milestones", "[0.5]"],
    "fsam": ["--m_sharpness", "16"],
    "every": [],
}
# The others, each alone on the network of the slow tests, and with a number of its own
# that the group's runs differ in, where it has one.
OWN = {"vasso": "--theta", "unified": "--lam"}
OWN |= {"esam": "--esam_beta", "wsam": "--gamma", "aesam": "--ema_decay"}
OWN |= dict.fromkeys(("trace", "det", "frobenius"), "--lam")
OWN |= dict.fromkeys(("gsam", "gnp", "looksam"), "--sam_alpha")
METHODS |= {
    name: ["--sam", "--method", name, OWN.get(name, "--rho"), "0.2,0.4"]
    for name in CLASSES
    if name not in METHODS
}
CASES = [
    name if name in EXTRAS else pytest.param(name, marks=pytest.mark.slow)
    for name in METHODS
]


@needs_jax
@pytest.mark.exact
@pytest.mark.skipif(
    os.environ.get("KERNELS") != "users", reason="run by make test, with KERNELS=users"
)
@pytest.mark.parametrize("method", CASES)
def test_a_group_gives_the_weights_and_numbers_of_single_runs(
    train, method, monkeypatch
):
    """For every method, with BatchNorm and dropout, label noise, masks, groups of
    examples, schedules and optimizers that have a state. On a CPU to the bit; on a GPU
    the program is that of all runs at once."""
    options = [*METHODS[method], *EXTRAS.get(method, [])]
    code, _, single, apart = train("single", *options)
    assert code == 0
    code, _, grouped, together = train("group", *options, "--replicas", "8")
    assert code == 0
    monkeypatch.setattr(jax_backend(), "map_each", jax_backend().map_at_once)
    code, _, at_once, last = train("at_once", *options, "--replicas", "8")
    assert code == 0
    assert len(single) == len(apart) > 1
    for title, weights in single.items():
        np.testing.assert_array_equal(grouped[title], weights)
        np.testing.assert_allclose(at_once[title], weights, atol=1e-5)
    for one, *others in zip(apart, together, last, strict=True):
        for other in others:
            assert one.params.keys() == other.params.keys()
            assert one.metrics.keys() == other.metrics.keys()
            for name in ("loss", "val_accuracy", "final_val_accuracy", "best_epoch"):
                expected = pytest.approx(other.metrics[name], abs=1e-5)
                assert one.metrics[name] == expected


def jax_backend():
    from samkeras.backend import jax

    return jax


@needs_jax
def test_a_run_takes_its_share_of_the_groups_time(train, records):
    """Recorded, so that the same command says so again."""
    began = time.monotonic()
    options = ["--seed", "0,1,2", "--replicas", "3"]
    _, _, _, runs = train("group", *options)
    assert 0 < sum(run.metrics["seconds"] for run in runs) <= time.monotonic() - began
    for run in runs:
        run.metrics["seconds"] = 1234.5
    code, out, _, _ = train("group", *options)
    assert code == 0
    assert out.count("1234.5 s") == 4  # three runs and their mean


@needs_jax
def test_a_run_adds_the_seconds_of_the_commands_that_it_goes_on_from(
    train, monkeypatch
):
    """Also of one that was stopped within an epoch."""
    monkeypatch.setattr(Clock, "read", lambda self: self.before + 100)
    options = ["--steps_per_execution", "3"]
    for place in (("train", 0, 3), ("train", 1, 3)):
        assert train("parts", *options, stop_at=place)[0] == 130
    code, _, _, (*_, run) = train("parts", *options)
    assert code == 0
    assert list(run.curves["seconds"].values()) == [200, 300]


@needs_jax
@pytest.mark.parametrize("options", [[], ["--replicas", "2"], ["--label_noise", "0.2"]])
def test_nothing_crosses_from_the_host_unasked_after_the_first_epoch(
    options, train, monkeypatch
):
    """In a whole run: no batch, number or weight goes to the device unasked. What comes
    from a CPU's own memory the guard does not see."""
    import jax

    end_epoch = Member.end_epoch

    def guard(self, *args):
        end_epoch(self, *args)
        jax.config.update("jax_transfer_guard", "disallow")

    monkeypatch.setattr(Member, "end_epoch", guard)
    try:
        code, out, _, _ = train("runs", "--sam", "--epochs", "3", *options)
    finally:
        jax.config.update("jax_transfer_guard", "allow")
    assert code == 0, out


@needs_jax
def test_a_run_that_becomes_infinite_fails_alone(train):
    options = ["--learning_rate", "0.05,1e30", "--replicas", "2"]
    code, out, weights, runs = train("group", *options)
    assert code == 1
    assert "loss is" in out
    assert [run.status for run in runs] == ["FINISHED", "FAILED"]
    (rest,) = weights.values()
    _, _, single, _ = train("single", "--learning_rate", "0.05")
    np.testing.assert_allclose(rest, next(iter(single.values())), atol=1e-5)


@needs_jax
def test_a_group_that_was_stopped_goes_on_to_the_bit(train, tmp_path):
    """Also where one of its runs has lost its last checkpoint: all go back to what each
    of them has."""
    options = ["--sam", "--seed", "0,1,2", "--replicas", "4", "--epochs", "3"]
    options += ["--steps_per_execution", "3"]
    _, _, whole, _ = train("whole", *options)
    for place in (("train", 1, 3), ("end", 1)):
        code, out, _, _ = train("parts", *options, stop_at=place)
        assert code == 130
        assert "0 finished" not in out
    kept = sorted((tmp_path / "parts").glob("*/checkpoint_*"))
    assert len(kept) == 6
    kept[-1].unlink()
    code, out, weights, runs = train("parts", *options)
    assert code == 0
    assert out.count("going on after 1 epochs and 3 steps") == 3
    for title, expected in whole.items():
        np.testing.assert_array_equal(weights[title], expected)
    assert {run.status for run in runs[-3:]} == {"FINISHED"}


@needs_jax
def test_a_run_goes_on_in_another_group_and_alone(train):
    options = ["--sam", "--epochs", "3"]
    _, _, whole, _ = train("whole", *options, "--seed", "0,1,2")
    stopped = [*options, "--replicas", "3"]
    assert train("parts", *stopped, "--seed", "0,1", stop_at=("end", 0))[0] == 130
    code, _, weights, _ = train("parts", *stopped, "--seed", "1,2")
    assert code == 0
    code, _, alone, _ = train("parts", *options, "--seed", "0")
    assert code == 0
    for title, expected in whole.items():
        found = {**weights, **alone}[title]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def touch(folder, *moments: tuple[int, int]) -> None:
    folder.mkdir()
    for epoch, step in moments:
        (folder / f"checkpoint_{epoch:06}_{step:08}.npz").touch()


@pytest.mark.parametrize(
    ("held", "common"),
    [
        ([[(2, 0), (3, 0)], [(3, 0), (3, 7)]], (3, 0)),
        ([[(1, 0)], []], (0, 0)),  # killed before one's first
        ([[], []], (0, 0)),
        ([[(48, 0), (49, 0)], []], None),  # which would lose 49 epochs
        ([[(1, 0), (2, 0)], [(4, 0), (5, 0)]], None),
    ],
    ids=str,
)
def test_the_newest_moment_that_all_have(tmp_path, held, common):
    folders = [tmp_path / str(i) for i in range(len(held))]
    for folder, moments in zip(folders, held, strict=True):
        touch(folder, *moments)
    assert find_common_place(folders) == common


def test_which_runs_are_one_program():
    """Those that differ in numbers, of which the program makes no constants."""
    make = helpers.make_config
    first = make("mnist_mlp", sam=True, weight_decay=1e-4)
    alike = [{"seed": 3}, {"rho": 0.2}, {"learning_rate": 0.3}, {"label_noise": 0.2}]
    others = [{"weight_decay": 0.0}, {"batch_size": 64}, {"width_mult": 2.0}]
    others += [{"sam": False}, {"method": "asam"}, {"epochs": 7}, {"momentum": 0.5}]
    shape = groups._shape(first)
    for changes in [*alike, {"weight_decay": 1e-3}]:
        assert groups._shape(dataclasses.replace(first, **changes)) == shape
    for changes in others:
        assert groups._shape(dataclasses.replace(first, **changes)) != shape
    decayed = make("mnist_mlp", optimizer="adamw", weight_decay=1e-4)
    more = dataclasses.replace(decayed, weight_decay=1e-3)
    assert groups._shape(decayed) != groups._shape(more)


# Options that are numbers of a compiled step, each with another value.
NUMBERS = {"rho": 0.7, "eta": 0.7, "sigma": 0.7, "ema_decay": 0.7, "theta": 0.7}
NUMBERS |= {"lam": 0.7, "esam_beta": 0.7, "sam_alpha": 0.7, "gamma": 0.7}
# Those that decide what it is.
STRUCTURE = {"p": "inf", "ascent_steps": 3, "fsam_order": "paper", "sam_samples": 5}
STRUCTURE |= {"esam_gamma": 0.7, "mask_every": 7, "decoupled": False, "only": "bias"}
STRUCTURE |= {"mask_sparsity": 0.7, "scope": "layer", "sam_every": 3, "sam_start": 0.7}


@pytest.mark.parametrize("method", CLASSES)
def test_which_runs_of_a_method_are_one_program(method):
    assert {**NUMBERS, **STRUCTURE}.keys() == CLASS_OPTIONS.keys()
    first = helpers.make_config("mnist_mlp", sam=True, method=method)
    for name in CLASS_OPTIONS:
        if takes(method, name):
            values = {name: {**NUMBERS, **STRUCTURE}[name]}
            other = dataclasses.replace(first, **values)
            is_alike = groups._shape(other) == groups._shape(first)
            assert is_alike == (name in NUMBERS), name


@needs_jax
def test_a_grid_over_a_methods_numbers_is_one_group(train, monkeypatch):
    """Each of its runs is that which is alone; stopped and gone on with it is to the
    bit what it is undisturbed."""
    sizes, take = [], SAMModel.take_together

    def note(self, models, rows, is_training):
        sizes.append(len(models))
        return take(self, models, rows, is_training)

    monkeypatch.setattr(SAMModel, "take_together", note)
    options = ["--sam", "--method", "asam", "--rho", "0.1,0.5", "--eta", "0.01,0.3"]
    options += ["--steps_per_execution", "3", "--width_mult", "0.1"]
    together = [*options, "--replicas", "4"]
    code, _, whole, _ = train("whole", *together)
    assert (code, set(sizes), len(whole)) == (0, {4}, 4)
    assert train("parts", *together, stop_at=("train", 1, 3))[0] == 130
    code, _, parts, _ = train("parts", *together)
    assert code == 0
    code, _, single, _ = train("single", *options)
    assert code == 0
    for title, weights in single.items():
        np.testing.assert_array_equal(parts[title], whole[title])
        np.testing.assert_allclose(whole[title], weights, atol=1e-5)
    ends = [*single.values()]
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.combinations(ends, 2))


@pytest.mark.parametrize(
    ("workload", "options", "reason"),
    [
        ("cifar10_resnet18", [], "convolutions, which fill the device alone,"),
        ("mnist_mlp", ["--resident_data", "0"], FROM_HOST),
        ("mnist_mlp", ["--resident_data", "1e-9"], FROM_HOST),
        ("sst2_lstm", [], FROM_HOST),
    ],
)
def test_runs_that_gain_nothing_train_one_after_the_other(workload, options, reason):
    """And it is said, once."""
    arguments = ["--dataset", SAMPLES[workload], "--seed", "0,1", "--replicas", "2"]
    target = helpers.find_target(workload)
    session, configs = helpers.parse_command(target, [*arguments, *options])
    runs, said = [Run(config) for config in configs], []
    splits = [read_data(config, Recall()) for config in configs]
    assert groups.group(runs, splits, session, said.append) == [[0], [1]]
    assert said[1:] == [f"--replicas: {reason} train one after the other"]
    assert "CPU" in said[0]


def test_what_a_workload_of_ones_own_makes_of_its_numbers_is_not_shared():
    """Its loss, layers and methods may hold rho or the seed as constants of a program,
    which would be those of another run of a group."""
    target = resolve_target("examples/two_moons/two_moons.py")
    session, configs = helpers.parse_command(target, ["--seed", "0,1", "--replicas=2"])
    runs, said = [Run(config) for config in configs], []
    splits = [read_data(config, Recall()) for config in configs]
    assert groups.group(runs, splits, session, said.append) == [[0], [1]]
    reason = "--replicas: runs of workloads of your own train one after the other"
    assert reason in said


def test_groups_are_no_larger_than_they_may_be():
    session = Session(replicas=2)
    runs = [Run(helpers.make_config("mnist_mlp", **o)) for o in FIVE_AND_ONE]
    splits = [read_data(run.config, Recall()) for run in runs]
    found = groups.group(runs, splits, session, lambda line: None)
    assert sorted(found) == [[0, 1], [2], [3, 4], [5]]


@pytest.mark.parametrize(
    ("given", "device", "backend", "expected"),
    [
        (None, "gpu:0", "jax", 32),
        (1, "gpu:0", "jax", 1),
        (4, "gpu:0", "jax", 4),
        (None, "cpu:0", "jax", None),
        (None, "gpu:0", "tensorflow", None),
    ],
)
def test_a_figure_says_how_many_train_together(
    given, device, backend, expected, monkeypatch
):
    """On an accelerator and JAX, unless the command does, also to have none."""
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: [device])
    figure = read_figure(FIGURES / "methods_mnist.yaml")
    assert figure.replicas == 32
    assert with_replicas(Session(replicas=given), figure).replicas == expected
    assert with_replicas(Session(replicas=given), None).replicas == given


@pytest.mark.parametrize(
    ("gpus", "num_workers", "shares", "memory"),
    [
        ("0,1,2", 2, ["0,2", "1"], None),
        ("4,5", 2, ["4", "5"], None),
        ("0", 2, ["0", "0"], "0.45"),
        ("", 2, ["", ""], None),
    ],
)
def test_workers_share_the_gpus(gpus, num_workers, shares, memory, monkeypatch):
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)
    for number, share in enumerate(shares):
        monkeypatch.setattr(os, "environ", {"CUDA_VISIBLE_DEVICES": gpus})
        workers.share_machine(number, num_workers)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == share
        assert os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION") == memory


def test_a_backend_without_replicas_refuses_them(monkeypatch, capsys):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    arguments = ["workloads/mnist_mlp", "--dataset", "mnist_5k", "--replicas", "2"]
    assert command.main(arguments) == 2
    assert "--replicas needs KERAS_BACKEND=jax" in capsys.readouterr().err
