"""Commands that tests of runs give, and what they record."""

import pytest

import run as command


@pytest.fixture
def call(tmp_path, request, capsys):
    """Runs a command line in an experiment of the test's own.

    Returns:
        A function: options -> (exit code, standard output, standard error).
    """

    def call(*options: str, target: str = "workloads/synthetic_mlp"):
        places = ["--run_dir", str(tmp_path / "runs")]
        places += ["--experiment", request.node.name]
        code = command.main([target, *places, *options])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def train(call, records):
    """`call`, recording in memory."""
    return call


@pytest.fixture
def recorded(records, request):
    """A function: () -> the runs of the test's experiment, parents last."""

    def runs():
        found = records[request.node.name]
        return sorted(found, key=lambda run: "grid" in run.tags)

    return runs
