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

from tests.on_devices import CASES
from tests.servers import free_port

ROOT = Path(__file__).parents[1]
NUM_DEVICES = 8
needs_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="several processes run on JAX"
)


def start(*command: str, num_devices: int, **environment: str) -> subprocess.Popen:
    """A Python command in a process of its own that sees several devices."""
    flags = f"--xla_force_host_platform_device_count={num_devices}"
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
def numbers(tmp_path_factory) -> dict[int, dict[str, np.ndarray]]:
    """Weights and logs of tests/on_devices.py by number of devices."""
    folder = tmp_path_factory.mktemp("devices")
    results = {}
    for count in (1, NUM_DEVICES):
        path = folder / f"{count}.npz"
        finish(start("-m", "tests.on_devices", str(path), num_devices=count))
        results[count] = dict(np.load(path))
    return results


def assert_same(actual: dict, expected: dict, case: str) -> None:
    names = [name for name in expected if name.startswith(f"{case}/")]
    assert len(names) >= 5
    for name in names:
        error = np.abs(actual[name] - expected[name]).max()
        # float32 sums in another order, over ten steps through BatchNorm.
        assert error < 1e-5 * max(1, np.abs(expected[name]).max()), name


@pytest.mark.parametrize("case", CASES)
def test_eight_devices_train_as_one_does(numbers, case):
    """Weights, logs and validation are the same after ten steps of SAM, with BatchNorm,
    l2, dropout and groups of m examples, on words and graphs that are padded; the
    evaluation of 77 examples counts each once."""
    assert_same(numbers[NUM_DEVICES], numbers[1], case)


@needs_jax
def test_a_mesh_of_batches_and_weights_trains_as_one_device_does(numbers):
    """Groups of m examples draw their own dropout wherever they are, and the losses of
    two outputs count each example once."""
    assert_same(numbers[NUM_DEVICES], numbers[1], "mesh")


def test_the_cases_differ(numbers):
    """SGD, SAM and SAM with groups end in different places: none is ignored."""
    same_model = [case for case in CASES if case not in ("words", "graphs")]
    ends = [numbers[1][f"{case}/weights"] for case in same_model]
    for i, end in enumerate(ends):
        for other in ends[:i]:
            assert np.abs(end - other).max() > 1e-3


@needs_jax
def test_two_processes_train_as_one_does(numbers, tmp_path):
    """Each brings its half of every batch; together they end with the same weights."""
    path, cases = tmp_path / "two.npz", ("whole", "groups")
    finish(*start_two("-m", "tests.on_devices", str(path), *cases, num_devices=2))
    for case in cases:
        assert_same(dict(np.load(path)), numbers[1], case)


@needs_jax
def test_one_of_two_processes_records_the_run(tmp_path, store):
    """run.py in two processes gives the same scores as in one, the weights that SNIP
    prunes included, recorded and told once; the second time it trains nothing."""
    options = "--epochs 2 --train_examples 256 --validation_examples 61 --sam"
    options += " --pruner snip --sparsity 0.5"
    command = ["run.py", "workloads/synthetic_mlp", *options.split()]
    command += ["--tracking_uri", store, "--experiment", "processes"]

    def scores(output: str) -> list[str]:
        assert "KILLED" not in output
        return re.findall(r"\d+\.\d{4}", output)

    alone = [*command, "--run_dir", str(tmp_path / "alone"), "--rerun"]
    (expected,) = finish(start(*alone, num_devices=1))
    shared = [*command, "--run_dir", str(tmp_path / "shared")]
    first, second = finish(*start_two(*shared, "--rerun", num_devices=2))
    assert len(scores(first)) == 2
    assert scores(first) == scores(expected)
    assert scores(second) == []
    assert len(list((tmp_path / "shared").glob("*/config.yaml"))) == 1
    again, _ = finish(*start_two(*shared, num_devices=2))
    assert "1 of 1 runs already finished" in again


@needs_jax
@pytest.mark.slow
def test_two_processes_share_streamed_images(tmp_path, store):
    """ImageNet, read from disk by each process for its part: the losses of an epoch of
    one batch of all images are those of one process, and none is validated on twice."""
    from tests.test_imagenet import prepare, train_images  # which imports TensorFlow

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


def test_batches_that_devices_cannot_share_are_refused():
    code, error = _refused("--batch_size", "60", "--sam")
    assert code == 2
    assert error == (
        "run.py: --batch_size must be a multiple of 8, the 8 devices. Received: 60\n"
    )


def _refused(*options: str) -> tuple[int, str]:
    program = (
        "import sys; from tests.on_devices import divide_processor;"
        "divide_processor(); import run; sys.exit(run.main(sys.argv[1:]))"
    )
    process = start(
        "-c",
        program,
        "workloads/synthetic_mlp",
        *options,
        num_devices=NUM_DEVICES,
    )
    _, errors = process.communicate(timeout=120)
    lines = [line for line in errors.splitlines() if line.startswith("run.py")]
    return process.returncode, "".join(f"{line}\n" for line in lines)
