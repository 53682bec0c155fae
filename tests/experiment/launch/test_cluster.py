"""Grids on a Ray cluster: of three nodes that share this machine."""

import subprocess
import sys
import time

import keras
import pytest
from mlflow.tracking import MlflowClient

import run as command
from samkeras.experiment.launch.ray import PACKED
from samkeras.experiment.options.targets import ROOT
from samkeras.experiment.place import is_checkout
from tests.experiment.launch.test_kills import rows

GRID = ["workloads/synthetic_mlp", "--width_mult", "0.1,0.2,0.3", "--sam", "true,false"]
GRID += ["--seed", "0,1", "--train_examples", "2000", "--epochs", "20"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("somewhere", "--ray must be HOST:PORT or auto. Received: somewhere"),
        ("127.0.0.1:1", "--ray 127.0.0.1:1 does not answer: "),
    ],
)
def test_an_address_without_a_cluster_is_refused(tmp_path, capsys, address, message):
    """At once, in one line, and before anything is recorded."""
    places = ["--run_dir", str(tmp_path / "runs")]
    places += ["--tracking_uri", f"sqlite:///{tmp_path}/mlflow.db"]
    assert command.main([*GRID, *places, "--ray", address]) == 2
    line, end = capsys.readouterr().err.split("\n")
    assert line.startswith(f"run.py: {message}")
    assert end == ""
    assert list(tmp_path.iterdir()) == []


def test_what_is_sent_to_the_nodes_is_the_project(tmp_path):
    """There workloads and configs are found where they are here."""
    for name in PACKED:
        (tmp_path / name).symlink_to(ROOT / name)
    assert is_checkout(tmp_path)


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def start(folder, *options):
    places = ["--tracking_uri", f"sqlite:///{folder}/mlflow.db"]
    places += ["--run_dir", str(folder / "runs")]
    return subprocess.Popen(
        [sys.executable, "run.py", *GRID, *places, *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The rows of the grid's tables without Ray."""
    out, _ = start(tmp_path_factory.mktemp("here")).communicate(timeout=600)
    return rows(out)


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="Ray knows nothing of backends"
)
@pytest.mark.parametrize("lost", [False, True], ids=["whole", "a node lost"])
def test_a_grid_on_three_nodes_ends_as_without_ray(tmp_path, cluster, table, lost):
    """Twelve runs, of which one loses its node in the middle of its training: the same
    table, and each run recorded once, as finished."""
    process = start(tmp_path, "--ray", cluster.address)
    if lost:
        give_up_at = time.monotonic() + 300
        while len(list(tmp_path.glob("runs/*/checkpoint_*"))) < 3:
            assert time.monotonic() < give_up_at
            assert process.poll() is None
            time.sleep(0.05)
        node = cluster.list_all_nodes()[-1]
        cluster.remove_node(node, allow_graceful=False)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    assert len(table) == 12 + 6
    assert rows(out) == table
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = (e for e in client.search_experiments() if e.name != "Default")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 12 + 1
    assert {run.info.status for run in runs} == {"FINISHED"}
