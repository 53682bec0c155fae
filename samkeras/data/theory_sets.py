"""The small data sets of the paper's studies of theory, each of which is one draw."""

import functools

import numpy as np

from samkeras.data.examples import ArrayExamples, Arrays
from samkeras.data.splits import DataInfo, Splits
from samkeras.errors import InputError

SINES, OFFSET, COSINE = 3.0, 2.0, 7.0


def demand(name: str, given: str) -> None:
    """Checks that `--dataset` is the one set that a workload has.

    Raises:
        InputError: it is another.
    """
    if given != name:
        raise InputError(
            f"--dataset of workloads/{name} must be {name}. Received: {given}"
        )


def load_relu_1d() -> Splits[ArrayExamples]:
    """The twelve points of figures 2 and 3 (Andriushchenko and Flammarion 2022), which
    training and validation share.

    Returns:
        x: float64[12, 1], y: float64[12, 1].
    """
    x = np.arange(-5.5, 6.0)[:, None] / 4 + 0.07
    y = np.array([-2, 1.5, 0, 0, 2, 1, 0, -1, 0, 1, 2, -1.0])[:, None] + 0.345
    return _describe("relu_1d", (x, y), (x, y))


def load_factorization(condition_number: float | None = None) -> Splits[ArrayExamples]:
    """y = A x of 1,000 x ~ N(0, I_6), A of 10 rows (figure 6c), which training and
    validation share.

    Args:
        condition_number: of A, whose singular values fall geometrically from 1. None
            (default): A = diag(1, ..., 1e-10) U with U uniform in [0, 1), as the cited
            code (Recht) has it, whose condition number is some twenty.

    Returns:
        x: float64[1000, 6], y: float64[1000, 10].
    """
    generator = np.random.default_rng(0)
    matrix = np.linspace(1, 1e-10, 10)[:, None] * generator.random((10, 6))
    if condition_number is not None:
        left, _, right = np.linalg.svd(generator.standard_normal((10, 6)), False)
        matrix = left * np.geomspace(1, 1 / condition_number, 6) @ right
    x = generator.standard_normal((1000, 6))
    return _describe("matrix_factorization", (x, x @ matrix.T), (x, x @ matrix.T))


def load_allen_zhu() -> Splits[ArrayExamples]:
    """y = (sin 3 x_1 + sin 3 x_2 + sin 3 x_3 - 2)^2 cos 7 x_4 of random x of length 1,
    1,000 to train on and 1,000 others (figure 21; Allen-Zhu et al. 2019).

    Returns:
        x: float64[1000, 4], y: float64[1000, 1].
    """
    generator = np.random.default_rng(0)
    x = generator.standard_normal((2000, 4))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    sines = np.sum(np.sin(SINES * x[:, :3]), axis=1)
    y = ((sines - OFFSET) ** 2 * np.cos(COSINE * x[:, 3]))[:, None]
    return _describe("allen_zhu", (x[:1000], y[:1000]), (x[1000:], y[1000:]))


def _describe(name: str, train: Arrays, validation: Arrays) -> Splits[ArrayExamples]:
    (x, y), count = train, len(validation[0])
    info = DataInfo(name, x.shape[1:], y.shape[1], len(x), count, num_classes=None)
    return Splits(info, functools.partial(_give, train, validation))


def _give(train: Arrays, validation: Arrays) -> tuple[Arrays, Arrays]:
    return train, validation
