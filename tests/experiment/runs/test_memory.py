"""A run takes no more memory in its last epochs than in its first."""

import gc
from collections import defaultdict

import keras
import pytest

from samkeras.experiment.runs.member import Member
from tests.experiment.runs.making import MNIST

IS_JAX = keras.backend.backend() == "jax"


def list_arrays() -> list[int]:
    """The bytes of each array that is alive on the device."""
    gc.collect()  # what earlier tests have left
    if IS_JAX:
        import jax

        return [array.nbytes for array in jax.live_arrays()]
    import tensorflow as tf

    eager = type(tf.constant(0))
    found = [each for each in gc.get_objects() if type(each) is eager]
    return [each.dtype.size * each.shape.num_elements() for each in found]


def test_no_array_of_a_run_outlives_it(train, monkeypatch):
    """But for its model, which the next one of its shape takes: from the fourth run on
    as many arrays are alive after each, and nothing is compiled."""
    arrays, programs, finish = [], set(), Member.finish

    def count(self, model, validation):
        finish(self, model, validation)
        programs.add(model.count_programs())
        arrays.append(sorted(list_arrays()))

    monkeypatch.setattr(Member, "finish", count)
    options = ["--dataset", "mnist_5k", "--train_examples", "64", "--epochs", "1"]
    options += ["--validation_examples", "32", "--batch_size", "32"]
    options += ["--width_mult", "0.05", "--sam", "--seed", "0,1"]
    options += ["--rho", "0.1,0.2", "--weight_decay", "0.1,0.2"]
    assert train(*options, target=MNIST)[0] == 0
    assert len(arrays) == 8
    assert all(each == arrays[3] for each in arrays[4:])
    assert len(programs) == 1


@pytest.mark.parametrize(
    "num_runs",
    [
        1,
        pytest.param(
            2, marks=pytest.mark.skipif(not IS_JAX, reason="runs are together on JAX")
        ),
    ],
)
def test_no_array_and_no_program_of_an_epoch_outlives_it(train, monkeypatch, num_runs):
    """With data on the device, of which each epoch takes other rows, validations and
    checkpoints; of runs in one program, too."""
    arrays, programs, end_epoch = defaultdict(list), defaultdict(list), Member.end_epoch

    def count(self, model, batches, place, scores):
        end_epoch(self, model, batches, place, scores)
        if place.epoch not in (4, 48):
            return
        self.wait()  # until a checkpoint's copies are written
        programs[place.epoch].append(model.count_programs())
        if len(programs[place.epoch]) == num_runs:
            arrays[place.epoch] = list_arrays()

    monkeypatch.setattr(Member, "end_epoch", count)
    options = ["--dataset", "mnist_5k", "--train_examples", "100", "--epochs", "50"]
    options += ["--validation_examples", "50", "--batch_size", "32"]
    options += ["--width_mult", "0.05", "--sam", "--method", "fsam"]
    if num_runs > 1:
        options += ["--seed", "0,1", "--replicas", "2"]
    assert train(*options, target=MNIST)[0] == 0
    # In the last epoch of all, some of several runs have ended.
    assert sorted(arrays[4]) == sorted(arrays[48])
    assert sum(arrays[4]) > 100 * 28 * 28
    assert programs[4] == programs[48]
    assert any(programs[4])
