"""A run's result depends neither on the number of devices nor on that of processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

import run as command
from samkeras.experiment.tracking.journal import find_journals
from tests import on_devices
from tests.on_devices import CASES
from tests.servers import free_port

ROOT = Path(__file__).parents[3]
# TensorFlow traces a step for each device, which takes its time.
NUM_DEVICES = 8 if keras.backend.backend() == "jax" else 2
needs_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="several processes run on JAX"
)


def start(*command: str, num_devices: int, **environment: str) -> subprocess.Popen:
    """A Python command in a process of its own that sees several devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    flags += f" --xla_force_host_platform_device_count={num_devices}"
    # Devices wait for one another longer than 40 s where others use the machine too.
    flags += " --xla_cpu_collective_call_terminate_timeout_seconds=300"
    return subprocess.Popen(
        [sys.executable, *command],
        env={
            **os.environ,
            "KERAS_BACKEND": keras.backend.backend(),
            "NUM_DEVICES": str(num_devices),
            "XLA_FLAGS": flags,
            **environment,
        },
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(*command: str, num_devices: int) -> list[subprocess.Popen]:
    """The same command in two processes that know each other."""
    common = {
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{free_port()}",
        "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    }
    return [
        start(
            *command,
            num_devices=num_devices,
            KERAS_DISTRIBUTION_PROCESS_ID=str(process),
            **common,
        )
        for process in range(2)
    ]


def finish(*processes: subprocess.Popen) -> list[str]:
    """What they print."""
    outputs = []
    for process in processes:
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        outputs.append(output)
    return outputs


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> tuple[dict[str, np.ndarray], str]:
    """What tests/on_devices.py makes of several devices, and what run.py says there of
    a batch that they cannot share."""
    path = tmp_path_factory.mktemp("devices") / "many.npz"
    options = ["workloads/synthetic_mlp", "--batch_size", "61", "--sam"]
    program = f"""
import numpy as np
from tests import on_devices

on_devices.divide_processor()
np.savez({str(path)!r}, **on_devices.train_all())

import run

raise SystemExit(run.main({options!r}))
"""
    process = start("-c", program, num_devices=NUM_DEVICES)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 2, errors
    return dict(np.load(path)), errors


@pytest.fixture(scope="module")
def numbers(many) -> dict[int, dict[str, np.ndarray]]:
    """Weights and logs of tests/on_devices.py by number of devices."""
    return {1: on_devices.train_all(), NUM_DEVICES: many[0]}


# Options of a run of two epochs, the weights that SNIP prunes included.
SHARED_RUN = "--epochs 2 --train_examples 256 --validation_examples 61 --sam"
SHARED_RUN = ["workloads/synthetic_mlp", *SHARED_RUN.split()]
SHARED_RUN += ["--pruner", "snip", "--sparsity", "0.5"]
SHARED_RUN += ["--measure", "eigenvalues,smoothness", "--measure_every", "2"]
SHARED_RUN += ["--measure_examples", "100"]
CASES_OF_TWO = ("whole", "groups")
TWO = f"""
import sys

from samkeras.experiment import command

path, *options = sys.argv[1:]
code = command.main([*options, "--rerun"])
print("AGAIN", flush=True)
code |= command.main(options)

import numpy as np
from tests import on_devices

numbers = on_devices.train_all(*{CASES_OF_TWO})
if on_devices.backend.find_process()[0] == 0:
    np.savez(path, **numbers)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory, store) -> tuple[Path, list[str]]:
    """The folder and the outputs of two processes that know each other: they train
    run.py's run, are told to once more, and train two cases of tests/on_devices.py."""
    folder = tmp_path_factory.mktemp("two")
    places = ["--tracking_uri", store, "--experiment", "processes"]
    places += ["--run_dir", str(folder / "runs")]
    command = ["-c", TWO, str(folder / "two.npz"), *SHARED_RUN, *places]
    return folder, finish(*start_two(*command, num_devices=2))


def assert_same(actual: dict, expected: dict, case: str) -> None:
    names = [name for name in expected if name.startswith(f"{case}/")]
    assert len(names) >= 5
    for name in names:
        error = np.abs(actual[name] - expected[name]).max()
        # float32 sums in another order, over ten steps through BatchNorm.
        assert error < 1e-5 * max(1, np.abs(expected[name]).max()), name


@pytest.mark.parametrize("case", CASES)
def test_several_devices_train_as_one_does(numbers, case):
    """Weights, logs and validation are the same after ten steps of SAM, with BatchNorm,
    l2, dropout, groups of m examples and a method's state, on words and graphs that are
    padded; the evaluation of 77 examples counts each once."""
    assert_same(numbers[NUM_DEVICES], numbers[1], case)


@needs_jax
def test_a_mesh_of_batches_and_weights_trains_as_one_device_does(numbers):
    """Groups of m examples draw their own dropout wherever they are, and the losses of
    two outputs count each example once."""
    assert_same(numbers[NUM_DEVICES], numbers[1], "mesh")


def test_the_cases_differ(numbers):
    """SGD, SAM and methods in groups end in different places: none is ignored."""
    alike = [c for c in CASES if c not in ("words", "graphs", *on_devices.DENSE)]
    dense = [case for case in on_devices.DENSE if case in CASES]
    for cases in (alike, dense):
        ends = [numbers[1][f"{case}/weights"] for case in cases]
        for i, end in enumerate(ends):
            for other in ends[:i]:
                assert np.abs(end - other).max() > 1e-3


@needs_jax
def test_two_processes_train_as_one_does(numbers, two):
    """Each brings its half of every batch; together they end with the same weights."""
    folder, _ = two
    for case in CASES_OF_TWO:
        assert_same(dict(np.load(folder / "two.npz")), numbers[1], case)


@needs_jax
def test_one_of_two_processes_records_the_run(two, store, tmp_path, capsys):
    """run.py in two processes gives the same scores as in one, recorded and told once,
    and the same measures along the training, smoothness by a step of both; the second
    time it trains nothing."""

    def scores(output: str) -> list[str]:
        assert "KILLED" not in output
        return re.findall(r"\d+\.\d{4}", output.partition("lambda_max")[0])

    def measures(runs: Path) -> list[float]:
        (path,) = runs.glob("*/measures/eigenvalues_epoch_000002.npz")
        metrics = find_journals(path.parents[1])[-1].read_run().metrics
        return [*np.load(path)["values"], metrics["smoothness"], metrics["pl_constant"]]

    folder, (first, second) = two
    places = ["--tracking_uri", store, "--experiment", "one_process"]
    assert command.main([*SHARED_RUN, *places, "--run_dir", str(tmp_path)]) == 0
    expected = scores(capsys.readouterr().out)
    shared, again = first.split("AGAIN")
    assert len(expected) == 2
    assert scores(shared) == expected
    assert scores(second) == []
    assert "finished" not in second
    assert len(list((folder / "runs").glob("*/config.yaml"))) == 1
    assert "1 of 1 runs already finished" in again
    known = measures(folder / "runs")
    assert len(known) == 7
    np.testing.assert_allclose(known, measures(tmp_path), rtol=1e-2)


@needs_jax
@pytest.mark.slow
def test_two_processes_share_streamed_images(tmp_path, store):
    """ImageNet, read from disk by each process for its part: the losses of an epoch of
    one batch of all images are those of one process, and none is validated on twice."""
    from tests.data.test_imagenet import (  # which imports TensorFlow
        prepare,
        train_images,
    )

    prepare(tmp_path, train_images())
    options = "--dataset imagenet2012 --train_examples 32 --batch_size 32 --epochs 2"
    options += " --width_mult 0.0625 --depth 1 --image_size 32 --warmup_steps 1 --sam"
    command = ["run.py", "workloads/imagenet_resnet50", *options.split()]
    command += ["--data_dir", str(tmp_path), "--tracking_uri", store]

    def losses(name: str, run) -> list[float]:
        places = ["--experiment", name, "--run_dir", str(tmp_path / name)]
        finish(*run(*command, *places))
        client = MlflowClient(store)
        experiment = client.get_experiment_by_name(name).experiment_id
        (found,) = client.search_runs([experiment])
        return [
            metric.value
            for name in ("loss", "val_loss")
            for metric in client.get_metric_history(found.info.run_id, name)
        ]

    alone = losses("alone", lambda *c: [start(*c, num_devices=1)])
    shared = losses("shared", lambda *c: start_two(*c, num_devices=2))
    assert len(alone) == 4
    np.testing.assert_allclose(shared, alone, rtol=1e-4)


def test_batches_that_devices_cannot_share_are_refused(many):
    lines = [line for line in many[1].splitlines() if line.startswith("run.py")]
    assert lines == [
        f"run.py: --batch_size must be a multiple of {NUM_DEVICES}, the {NUM_DEVICES} "
        "devices. Received: 61"
    ]
