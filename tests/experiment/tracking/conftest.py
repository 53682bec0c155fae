"""What tests of records need."""

import pytest
from mlflow.tracking import MlflowClient
from requests.exceptions import ConnectionError

from samkeras.experiment.tracking.mlflow_store import MLflowStore
from samkeras.experiment.tracking.tracker import MLflowTracker


@pytest.fixture
def tracker(store, request):
    """A function: () -> a tracker of the test's own experiment."""
    return lambda: MLflowTracker(store, request.node.name)


@pytest.fixture
def recorded(store, request):
    """A function: () -> the runs of the test's experiment by name."""

    def runs():
        client = MlflowClient(store)
        experiment = client.get_experiment_by_name(request.node.name)
        found = client.search_runs([experiment.experiment_id])
        names = [run.info.run_name for run in found]
        assert len(set(names)) == len(names), "a run is there twice"
        return {run.info.run_name: run for run in found}

    return runs


@pytest.fixture
def curve(store):
    """A function: (run, metric) -> its points as (step, value), as they were logged."""

    def points(run, key):
        history = MlflowClient(store).get_metric_history(run.info.run_id, key)
        return sorted((point.step, point.value) for point in history)

    return points


@pytest.fixture
def silence(monkeypatch):
    """A function: () -> None, after which the store does not answer deliveries, until
    the function it returns is called."""

    def begin():
        def refuse(*_):
            raise ConnectionError("refused")

        context = pytest.MonkeyPatch()
        context.setattr(MLflowStore, "holds", refuse)
        context.setattr("samkeras.experiment.tracking.delivery.PATIENCE_SEC", 0.5)
        return context.undo

    undo = []
    yield lambda: undo.append(begin()) or undo[-1]
    for call in undo:
        call()
