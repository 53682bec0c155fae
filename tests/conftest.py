"""What every test starts from: a backend, a seed and a clean keras."""

import gc
import os
import sys
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The tests compile the same programs in processes of their own: once for all.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(__file__).parents[1] / ".pytest_cache" / "compiled"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
# The tests spend their time compiling small programs: in a third of the time, to
# kernels that are not optimized and made in another way than users' are.
if os.environ.get("KERNELS") != "users":
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    flags = "--xla_cpu_use_fusion_emitters=false"
    if os.environ["KERAS_BACKEND"] == "tensorflow":  # JAX has an option of its own
        flags += " --xla_backend_optimization_level=0"
        flags += " --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", flags)

import keras
import pytest

# Of what tests leave, little is found by looking for cycles often.
gc.set_threshold(50_000, 20, 20)


@pytest.hookimpl(tryfirst=True)  # before the slow ones are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what is the same on both backends on one of them."""
    if keras.backend.backend() == "jax":
        return
    for item in items:
        if item.get_closest_marker("slow_on_tensorflow"):
            item.add_marker(pytest.mark.slow)
    skip = pytest.mark.skip(reason="knows nothing of backends: run on JAX")
    for item in items:
        each = item.get_closest_marker("each_backend")
        if item.get_closest_marker("one_backend") and not each:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def fresh_keras():
    """The same seed before each test; no policy, names, graphs or models left after
    it."""
    keras.utils.set_random_seed(0)
    yield
    alike = sys.modules.get("samkeras.experiment.runs.alike")
    if alike is not None:
        alike.kept.clear()
    measures = sys.modules.get("samkeras.experiment.runs.measures")
    if measures is not None:
        measures.forget()
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")
    keras.backend.clear_session(free_memory=False)  # collecting takes 0.3 s a test


@pytest.fixture
def records(monkeypatch) -> dict[str, list]:
    """What commands of this process record, by experiment: in memory, instead of in
    MLflow, which takes seconds. A second command finds what the first one recorded."""
    from samkeras.experiment.studies import grid
    from samkeras.experiment.tracking.record import MemoryTracker

    found = defaultdict(list)
    monkeypatch.setattr(
        grid, "MLflowTracker", lambda uri, experiment: MemoryTracker(found[experiment])
    )
    return found


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> str:
    """One SQLite store for all tests, each with experiments of its own: making one
    takes seconds."""
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    MlflowClient(uri).search_experiments()
    return uri
