"""Runs on data of a user's own that are killed, each in its own process."""

import itertools

import numpy as np
import pytest

from tests.data.making import NARROW, SOURCES
from tests.experiment.launch.test_kills import (
    final_weights,
    finish,
    kill_soon,
    recorded_runs,
    start,
)

pytestmark = pytest.mark.faults


# The others are stopped and gone on with in tests/data/test_sources_in_runs.py.
@pytest.mark.parametrize(
    "kind", ["images in folders", "a table of texts", "tables of texts"]
)
def test_kills_change_nothing(kind, tmp_path):
    """SIGKILL in mid-training, twice; then the weights of an undisturbed run."""
    source = SOURCES[kind]
    data, whole, parts = (tmp_path / name for name in ("data", "whole", "parts"))
    for folder in (data, whole, parts):
        folder.mkdir()
    given = dict(zip(source.options[::2], source.options[1::2], strict=True))
    given["--epochs"] = "40"
    options = [f"workloads/{source.workload}", "--dataset", source.make(data)]
    options += [*itertools.chain(*given.items()), *NARROW, "--sam", "--rho", "0.05"]
    finish(start(whole, options))
    for _ in range(2):
        kill_soon(parts, options, 0)
    assert not list(parts.glob("runs/*/final.npz"))
    finish(start(parts, options))
    for a, b in zip(final_weights(parts), final_weights(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    (run,) = recorded_runs(parts)
    assert run.info.status == "FINISHED"
