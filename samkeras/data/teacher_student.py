"""Regression on the outputs of a random teacher network."""

import functools

import numpy as np

from samkeras.data.examples import ArrayExamples, Arrays
from samkeras.data.splits import DataInfo, Splits


def load_teacher_student(
    num_train: int,
    num_validation: int,
    num_inputs: int = 100,
    num_hidden: int = 200,
    noise: float = 1.0,
) -> Splits[ArrayExamples]:
    """y = teacher(x) + noise * N(0, 1) with x ~ N(0, I) and a two-layer ReLU teacher.

    One fixed data set, as real ones are: it does not depend on a run's seed. The
    paper gives the recipe (section 4.1), the sizes and the noise are our choice.

    Args:
        num_train: examples to train on.
        num_validation: examples to validate on.
        num_inputs: size of x.
        num_hidden: the teacher's neurons.
        noise: standard deviation of the noise, in units of y.

    Returns:
        x: float32[example, num_inputs], y: float32[example, 1].
    """
    info = DataInfo(
        "teacher_student",
        (num_inputs,),
        1,
        num_train,
        num_validation,
        num_classes=None,
    )
    arguments = (num_train, num_validation, num_inputs, num_hidden, noise)
    return Splits(info, functools.partial(_generate, *arguments))


def _generate(
    num_train: int, num_validation: int, num_inputs: int, num_hidden: int, noise: float
) -> tuple[Arrays, Arrays]:
    generator = np.random.default_rng(0)
    # Variance 1 / fan-in, so that the teacher's outputs are of order one.
    hidden = generator.normal(size=(num_inputs, num_hidden)) / np.sqrt(num_inputs)
    output = generator.normal(size=(num_hidden, 1)) / np.sqrt(num_hidden)
    x = generator.normal(size=(num_train + num_validation, num_inputs))
    y = np.maximum(x @ hidden, 0) @ output
    y += noise * generator.normal(size=y.shape)
    x, y = x.astype("float32"), y.astype("float32")
    return (x[:num_train], y[:num_train]), (x[num_train:], y[num_train:])
