"""Interrupted runs go on and end as if nothing had happened, to the bit."""

import dataclasses
import functools
import json
import os
import random
import re
import resource
import signal
from unittest.mock import Mock

import h5py
import keras
import numpy as np
import pytest

import run as command
import samkeras
from samkeras.backend import backend
from samkeras.experiment.runs import checkpoint
from samkeras.experiment.runs.checkpoint import CheckpointError, Checkpoints
from samkeras.experiment.runs.interrupt import StopRequest, hidden_from_children
from samkeras.experiment.runs.member import Clock, Member
from samkeras.experiment.runs.run import Run
from tests import helpers
from tests.helpers import make_config, parse_runs
from workloads import mnist_mlp

pytestmark = pytest.mark.one_backend

OPTIONS = ["--dataset", "mnist_5k", "--batch_size", "32", "--steps_per_execution", "3"]
OPTIONS += ["--epochs", "4", "--lr_milestones", "[0.5]", "--learning_rate", "0.05"]
# 9 steps an epoch: one program to train with, one to validate with.
WHOLE = ["--train_examples", "288", "--validation_examples", "96"]
# 8 steps, the last one of fewer examples.
RAGGED = ["--train_examples", "250", "--validation_examples", "100"]


def build_noisy_model(config, info):
    """A model with all the state there is: BatchNorm's and dropout's too."""
    inputs = keras.Input(info.input_shape)
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(16)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.3)(keras.layers.ReLU()(x))
    return samkeras.SAMModel(inputs, keras.layers.Dense(info.num_outputs)(x))


@pytest.fixture
def train(records, tmp_path, monkeypatch, capsys, request):
    """A function: (name, stop at, options) -> (exit code, output, final weights).

    Runs of one name share their folders and experiment. `stop at` is a place in
    training, see helpers.request_stop, where a stop is requested.
    """
    workload = dataclasses.replace(mnist_mlp.workload, build=build_noisy_model)
    monkeypatch.setattr(mnist_mlp, "workload", workload)
    final, finish = {}, Member.finish

    def keep_weights(self, model, validation):
        final["weights"] = model.get_weights()
        finish(self, model, validation)

    monkeypatch.setattr(Member, "finish", keep_weights)

    def call(name: str, *options: str, stop_at: tuple | None = None):
        helpers.request_stop(monkeypatch, stop_at)
        final.clear()
        places = ["--run_dir", str(tmp_path / name)]
        places += ["--experiment", f"{request.node.name}_{name}"]
        sizes = [] if "--train_examples" in options else WHOLE
        options = [*OPTIONS, *sizes, *places, *options]
        code = command.main(["workloads/mnist_mlp", *options])
        return code, capsys.readouterr().out, final.get("weights")

    return call


def assert_identical(actual: list, expected: list) -> None:
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


SAM_PRUNED = ["--sam", "--method", "random", "--pruner", "snip"]
SAM_PRUNED += ["--sparsity", "0.5", "--label_noise", "0.2"]
# A method and an optimizer that have states of their own.
FSAM_ADAMW = ["--sam", "--method", "fsam", "--optimizer", "adamw"]
FSAM_ADAMW += ["--weight_decay", "0.01"]
# Every fifth step is perturbed, and it is stopped before steps 12 and 18.
LOOKSAM = ["--sam", "--method", "looksam"]


@pytest.mark.exact
@pytest.mark.parametrize(
    ("options", "places"),
    [
        pytest.param(
            ["--sam", *RAGGED],
            [("train", 0, 3), ("validate", 1, 1), ("train", 2, 6)],
            marks=pytest.mark.each_backend,
        ),
        (SAM_PRUNED, [("train", 2, 6)]),
        (FSAM_ADAMW, [("train", 1, 3), ("train", 2, 0)]),
        (LOOKSAM, [("train", 1, 3), ("train", 2, 0)]),
    ],
    ids=["sam", "random_pruned", "fsam_adamw", "looksam"],
)
def test_an_interrupted_run_ends_with_the_same_weights(
    train, options, places, tmp_path
):
    """Stopped within an epoch, at its begin and while validating, where the run's last
    two checkpoints are kept; none is, once it is done."""
    code, whole_out, expected = train("whole", *options)
    assert code == 0
    for place in places:
        code, _, _ = train("parts", *options, stop_at=place)
        assert code == 130
    kept = list((tmp_path / "parts").glob("*/checkpoint_*"))
    assert len(kept) == 2
    code, out, weights = train("parts", *options)
    assert code == 0
    assert_identical(weights, expected)
    assert not any(path.exists() for path in kept)
    best_and_final = re.compile(r"(\S+) +(\S+) +[\d.]+ s$", re.MULTILINE)
    scores = [best_and_final.findall(text) for text in (out, whole_out)]
    assert scores[0] == scores[1]
    assert len(scores[0]) == 1


def test_a_stop_in_the_last_epoch_stops_the_grid(train, tmp_path):
    """The run is whole but not ended, the next one is not begun; the same command ends
    the first without training and goes on."""
    _, _, expected = train("whole", "--seed", "1")
    code, _, _ = train("grid", "--seed", "1,2", stop_at=("end", 3))
    assert code == 130
    assert len(list((tmp_path / "grid").glob("*/config.yaml"))) == 1
    code, _, weights = train("grid", "--seed", "1")
    assert code == 0
    assert_identical(weights, expected)


def test_rerun_starts_afresh(train):
    train("run", stop_at=("train", 2, 0))
    _, out, _ = train("run", "--verbose", "2", stop_at=("train", 3, 0))
    assert "epoch 1/4" not in out
    assert "epoch 3/4" in out
    _, out, _ = train("run", "--rerun", "--verbose", "2", stop_at=("train", 1, 0))
    assert "epoch 1/4" in out


def test_an_unfinished_run_of_another_config_is_mentioned(train, tmp_path):
    """It is left as it is, and the line says what differs."""
    train("run", stop_at=("train", 1, 0))
    (left,) = (tmp_path / "run").glob("*/checkpoint_*")
    _, out, _ = train("run", "--momentum", "0.5")
    assert f"{left.parent} stays as it is" in out
    assert "momentum 0.9 -> 0.5" in out
    assert left.exists()


@pytest.mark.parametrize("text", [None, b"\xff", b"a: [", b"- 1"])
def test_another_runs_broken_config_is_no_matter(tmp_path, text):
    (config,) = parse_runs("mnist_mlp", [])
    made = Run(config)
    other = tmp_path / f"{made.name}_01234567"
    other.mkdir()
    (other / "checkpoint_000001_00000000.npz").touch()
    if text is not None:
        (other / "config.yaml").write_bytes(text)
    checkpoints = Checkpoints(tmp_path / f"{made.name}_76543210", "f", pytest.fail)
    checkpoints.mention_others(made.name, config.plain_values)


def damage(path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "foreign":
        with np.load(path) as file:
            arrays = dict(file)
        values = json.loads(arrays.pop("values").tobytes())
        text = json.dumps({**values, "fingerprint": "0"}).encode()
        with open(path, "wb") as file:
            np.savez(file, **arrays, values=np.frombuffer(text, "uint8"))
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize("how", ["truncated", "flipped", "foreign", "empty"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, how):
    """It is named; with both damaged there is none, and nothing is deleted."""
    warnings = []
    checkpoints = Checkpoints(tmp_path, "f", warnings.append)
    for epoch in (1, 2):
        checkpoints.save(epoch, 0, {"a": np.full(10_000, epoch)}, {})
    checkpoints.wait()
    older, newer = sorted(tmp_path.iterdir())
    damage(newer, how)
    arrays, values = checkpoints.load(fits)
    assert (values["epoch"], arrays["a"][0]) == (1, 1)
    reason = "belongs to another run" if how == "foreign" else "is damaged"
    assert [f"{newer.name} {reason}" in line for line in warnings] == [True]
    damage(older, how)
    assert checkpoints.load(fits) is None
    assert f"{older.name} {reason}" in warnings[1]
    assert "starts anew" in warnings[1]
    kept = {f"unusable_{path.name}" for path in (older, newer)}
    assert {path.name for path in tmp_path.iterdir()} == kept
    checkpoints.clear()
    assert not list(tmp_path.iterdir())


def fits(arrays, values):
    """The check of a run that takes whatever is read."""


def save_pruned(folder) -> tuple[Checkpoints, list, list]:
    """Two checkpoints of a small pruned model: a reader of them, its warnings and what
    they hold, the older first."""
    model = helpers.compile_classifier(helpers.build_classifier())
    x, y = helpers.random_examples(16)
    samkeras.prune_at_init(model, "random", 0.5, (x, y))
    checkpoints, warnings = Checkpoints(folder, "f", [].append), []
    states = []
    for epoch in (1, 2):
        helpers.train(model, x, y)
        states.append(checkpoint.capture(model))
        checkpoints.save(epoch, 0, states[-1], {})
    checkpoints.wait()

    def check(arrays, values):
        checkpoint.check(model, arrays, (x, y))

    reader = Checkpoints(folder, "f", warnings.append)
    reader.load = functools.partial(reader.load, check)
    return reader, warnings, states


def assert_held(arrays: dict, state: dict) -> None:
    assert arrays.keys() == state.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, state[name])


def test_no_byte_stops_a_run(tmp_path):
    """Any one byte changed: the same state, or that of the checkpoint before. Most of
    the bytes that no checksum is of are in the directory at the end."""
    reader, warnings, (older, newer) = save_pruned(tmp_path)
    path = max(tmp_path.iterdir())
    sound = path.read_bytes()
    draws = random.Random(0)
    places = [draws.randrange(len(sound)) for _ in range(100)]
    directory = sound.index(b"PK\x01\x02")
    places += range(directory, len(sound), 7)
    for place in places:
        data = bytearray(sound)
        data[place] ^= draws.randrange(1, 256)
        path.write_bytes(data)
        arrays, values = reader.load()
        assert values["epoch"] == (1 if warnings else 2), place
        assert_held(arrays, older if warnings else newer)
        warnings.clear()


@pytest.mark.each_backend
@pytest.mark.parametrize("how", ["missing", "shape", "dtype"])
def test_a_checkpoint_that_does_not_fit_gives_way(tmp_path, how):
    """A sound file of another model's arrays is as good as a damaged one."""
    reader, warnings, (_, newer) = save_pruned(tmp_path)
    kernel = np.asarray(newer.pop("optimizer/2"))
    if how != "missing":
        newer["optimizer/2"] = kernel.T if how == "shape" else kernel.astype("float64")
    reader.save(3, 0, newer, {})
    reader.wait()
    arrays, values = reader.load()
    assert values["epoch"] == 2
    assert_held(arrays, {**newer, "optimizer/2": kernel})
    assert "its optimizer are not those of this model" in warnings[0]
    for path in tmp_path.glob("checkpoint_*"):
        path.unlink()
    arrays["optimizer/2"] = newer.get("optimizer/2", kernel[:1])
    reader.save(3, 0, arrays, {})
    reader.wait()
    assert reader.load() is None
    assert "starts anew" in warnings[1]


def test_a_run_goes_on_from_the_older_checkpoint(train, tmp_path):
    """Or, with none left, from its begin: it ends with the same weights."""
    _, _, expected = train("whole")
    train("parts", stop_at=("train", 3, 3))
    newer = max((tmp_path / "parts").glob("*/checkpoint_*"))
    damage(newer, "flipped")
    code, out, _ = train("parts", stop_at=("train", 3, 6))
    assert code == 130
    assert f"{newer.name} is damaged" in out
    for path in (tmp_path / "parts").glob("*/checkpoint_*"):
        damage(path, "flipped")
    code, out, weights = train("parts")
    assert code == 0
    assert "starts anew" in out
    assert_identical(weights, expected)


def test_a_full_disk_costs_the_checkpoint_not_the_run(train, tmp_path, monkeypatch):
    """Told in one line; the run goes on, and the earlier checkpoint stays."""
    train("run", stop_at=("train", 1, 0))
    (before,) = (tmp_path / "run").glob("*/checkpoint_*")
    data = before.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.np, "savez", full)
        code, out, _ = train("run", stop_at=("train", 3, 0))
    assert code == 130
    assert "cannot write a checkpoint" in out
    assert "No space left on device" in out
    assert before.read_bytes() == data
    code, _, _ = train("run")
    assert code == 0


def test_weights_that_cannot_be_written_leave_no_file(tmp_path):
    """Neither half of one, nor an open one, with which HDF5 would crash at the end."""
    model = helpers.compile_classifier(helpers.build_classifier())
    helpers.train(model, *helpers.random_examples(16))
    record, run = Mock(folder=tmp_path, metrics={}), Run(make_config("mnist_mlp"))
    member = Member(run, 0.1, record, Mock(), Mock(), Mock(), Clock())
    member.best_weights = model.get_weights()
    whole = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, whole[1]))
    try:
        with pytest.raises(OSError, match=r"last\.weights\.h5"):
            member.finish(model, Mock())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, whole)
    assert not list(tmp_path.iterdir())
    assert not h5py.h5f.get_obj_count(types=h5py.h5f.OBJ_FILE)


def test_a_kill_between_write_and_rename_leaves_the_one_before(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, "f", pytest.fail)
    checkpoints.save(1, 0, {"a": np.arange(3)}, {})
    checkpoints.wait()
    monkeypatch.setattr(checkpoint.os, "replace", lambda *paths: None)
    checkpoints.save(2, 0, {"a": np.arange(4)}, {})
    checkpoints.wait()
    assert list(tmp_path.glob("*.tmp"))
    arrays, values = Checkpoints(tmp_path, "f", pytest.fail).load(fits)
    assert (values["epoch"], len(arrays["a"])) == (1, 3)
    assert not list(tmp_path.glob("*.tmp"))


def test_the_last_two_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, "f", pytest.fail)
    for epoch, step in ((1, 0), (1, 500), (9, 0), (10, 0)):
        checkpoints.save(epoch, step, {"a": np.arange(3)}, {})
    checkpoints.wait()
    assert len(list(tmp_path.iterdir())) == 2
    assert checkpoints.load(fits)[1]["epoch"] == 10


@pytest.mark.each_backend
def test_a_checkpoint_of_another_model_is_refused():
    model, other = helpers.build_classifier(), helpers.build_classifier(norm=True)
    for each in (model, other):
        helpers.compile_classifier(each)
        helpers.train(each, *helpers.random_examples())
    captured, batch = checkpoint.capture(other), helpers.random_examples(4)
    with pytest.raises(CheckpointError, match="its variables are not those"):
        checkpoint.check(model, captured, batch)


@pytest.mark.each_backend
def test_a_captured_state_does_not_change_in_training():
    """It is a copy: backends reuse the memory of the weights."""
    model = helpers.compile_classifier(helpers.build_classifier(dropout=0.5))
    x, y = helpers.random_examples()
    helpers.train(model, x, y)
    captured = checkpoint.capture(model)
    before = {name: np.array(array) for name, array in captured.items()}
    helpers.train(model, x, y)
    for name, array in captured.items():
        np.testing.assert_array_equal(array, before[name])
    after = backend.fetch(checkpoint.capture(model))
    integers = [n for n, a in after.items() if np.issubdtype(a.dtype, np.integer)]
    seeds = [n for n in integers if n.startswith("variables/")]
    assert seeds  # of dropout, which moved on
    assert any(not np.array_equal(after[n], before[n]) for n in seeds)


@pytest.fixture
def interruptible():
    """SIGINT raises, also where the tests run in the background of a shell."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def test_the_first_signal_asks_and_the_second_interrupts(interruptible):
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):  # the handler before is back
        os.kill(os.getpid(), signal.SIGINT)


def test_processes_inherit_that_ctrl_c_is_not_for_them():
    with hidden_from_children():
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.each_backend
def test_a_loss_that_is_not_finite_says_where_and_what_to_try(train):
    code, out, _ = train("run", "--weight_decay", "1e30")
    assert code == 1
    assert "loss is nan by step" in out or "loss is inf by step" in out
    assert "try a lower learning_rate" in out


@pytest.mark.each_backend
def test_running_out_of_memory_says_what_to_lower(train, monkeypatch):
    def exhaust(*args):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory allocating 8 bytes")

    monkeypatch.setattr(samkeras.SAMModel, "test_on_batches", exhaust)
    code, out, _ = train("run")
    assert code == 1
    assert "lower --batch_size (now 32)" in out
