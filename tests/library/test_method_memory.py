"""How much memory a step of each method takes, as the compiler says: in weights' sizes,
beside SAM's, which holds the gradient and w + epsilon."""

import functools

import keras
import numpy as np
import pytest

import samkeras
from samkeras.backend import backend
from samkeras.experiment.options.methods import CLASSES

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="JAX tells the memory of a program"
)

SIZE = 128
# What is kept beside it, of state and during a step, as it was measured. Those that
# combine gradients keep that at w, for which there is room: it is due when w + epsilon
# is not any more. Half a size is one of the two tensors.
MORE = {
    "fsam": 1,  # the mean of the gradients
    "vasso": 1,
    "ssam": 1.5,  # the squares, and the mask beside the one before, a byte a weight
    "looksam": 1,  # its direction
    "random": 1,  # the direction
    "trace": 1,
    "det": 0.5,
    "frobenius": 2.5,  # two points beside the gradient at w
}
SLACK = 0.2  # for the small ones


@functools.cache
def measure(name: str | None) -> float:
    """Arguments and temporary memory of a step of two dense layers, in sizes of their
    weights."""
    inputs = x = keras.Input((SIZE,))
    for _ in range(2):
        x = keras.layers.Dense(SIZE, use_bias=False)(x)
    model = samkeras.SAMModel(inputs, x)
    method = name and getattr(samkeras, CLASSES[name])()
    model.compile(samkeras.SGD(0.1, momentum=0.9), "mse", method=method)
    batch = (np.zeros((4, SIZE), "float32"), np.zeros((4, SIZE), "float32"))
    model.build_for(batch)
    model.make_train_function()
    steps = model.train_function
    values, state = backend.values_of(steps._inputs), model._take_state(True)
    memory = steps._one_step.lower(values, state, batch).compile().memory_analysis()
    size = sum(weight.value.nbytes for weight in model.trainable_variables)
    return (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / size


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "sam"])
def test_a_method_keeps_no_more_than_it_must(name):
    assert measure(name) - measure("sam") <= MORE.get(name, 0) + SLACK


def test_the_measure_tells_tensors_apart():
    """SGD has no w + epsilon, and no second gradient."""
    assert measure("sam") - measure(None) == pytest.approx(2, abs=0.1)
    assert measure("msam") == pytest.approx(measure(None), abs=0.1)
