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


# Long enough to be killed twice.
LONG = {"--epochs": "40", "--steps": "40"}
FEW_EPOCHS = {"images on disk": "4"}  # of a large network


@pytest.mark.parametrize("kind", SOURCES)
def test_kills_change_nothing(kind, tmp_path):
    """SIGKILL in mid-training, twice; then the weights of an undisturbed run."""
    source = SOURCES[kind]
    data, whole, parts = (tmp_path / name for name in ("data", "whole", "parts"))
    for folder in (data, whole, parts):
        folder.mkdir()
    given = dict(zip(source.options[::2], source.options[1::2], strict=True))
    given |= {name: LONG[name] for name in LONG if name in given}
    if kind in FEW_EPOCHS:
        given["--epochs"] = FEW_EPOCHS[kind]
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
