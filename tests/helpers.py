"""Small models and data, and a multilayer perceptron in NumPy to check them by."""

import dataclasses
import os
import signal
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import yaml

import samkeras
from samkeras.experiment.options.compose import compose
from samkeras.experiment.options.fingerprint import find_marks
from samkeras.experiment.options.groups import Config
from samkeras.experiment.options.parsing import parse_command
from samkeras.experiment.options.targets import Target, find_target
from samkeras.experiment.runs.loop import Loop
from samkeras.experiment.runs.member import Member
from samkeras.experiment.runs.turns import Pace
from samkeras.methods import Context, Role
from samkeras.methods.method import Point

FEATURES, HIDDEN, CLASSES = 5, 8, 3
PAUSE, END_EPOCH = Loop._pause, Member.end_epoch


def users_environment() -> dict[str, str]:
    """The environment without what the tests compile their programs with."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("JAX_") and name != "XLA_FLAGS"
    }


def random_examples(count: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """x: float32[count, feature] and labels: int32[count], always the same ones."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((count, FEATURES)).astype("float32")
    return x, rng.integers(0, CLASSES, count).astype("int32")


def arrays_of(splits) -> list[tuple[np.ndarray, np.ndarray]]:
    """x and y to train on and to validate on."""
    return [(part.x, part.y) for part in (splits.train, splits.validation)]


def build_classifier(
    model_class: type = samkeras.SAMModel, *, dropout: float = 0.0, norm: bool = False
) -> keras.Model:
    """Dense, tanh, Dense, with dropout and BatchNorm between them where asked for."""
    inputs = keras.Input((FEATURES,))
    x = keras.layers.Dense(HIDDEN, bias_initializer="normal", name="hidden")(inputs)
    if norm:
        x = keras.layers.BatchNormalization(momentum=0.9, name="norm")(x)
    x = keras.layers.Activation("tanh")(x)
    if dropout:
        x = keras.layers.Dropout(dropout, seed=5, name="dropout")(x)
    return model_class(inputs, keras.layers.Dense(CLASSES, name="logits")(x))


def compile_classifier(model: keras.Model, **kwargs) -> keras.Model:
    """Compiles with our SGD with momentum unless another optimizer is given."""
    kwargs.setdefault("optimizer", samkeras.SGD(0.2, momentum=0.9))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, **kwargs)
    return model


def find_epsilon(
    method,
    gradient: list,
    gradients_at=None,
    step: int = 0,
    mask=lambda tensors: tensors,
) -> list:
    """A perturbation's epsilon, for a gradient at weights of zero."""
    context = Context(
        weights=[keras.ops.zeros_like(g) for g in gradient],
        roles=[Role("kernel")] * len(gradient),
        step=keras.ops.convert_to_tensor(step, "int32"),
        mask=mask,
        make_pass=lambda e, *_: Point(gradient if e is None else gradients_at(e)),
        find_losses=lambda e: None,
        multiply=lambda vector: vector,
        find_momentum=lambda: gradient,
        branch=keras.ops.cond,
    )
    return method.epsilon(context)


def train(model: keras.Model, x, y, **kwargs) -> dict[str, list[float]]:
    """Fits in the order of the data, one epoch of batches of 16 unless told otherwise.

    Returns:
        The history: one list of an entry per epoch for each metric.
    """
    kwargs = {"batch_size": 16, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(x, y, **kwargs).history


def flat(tensors: list) -> np.ndarray:
    """All numbers of a list of arrays or variables in one vector: float64[number]."""
    arrays = [np.ravel(keras.ops.convert_to_numpy(t)) for t in tensors]
    return np.concatenate(arrays).astype("float64")


def relative_error(actual: list, expected: list) -> float:
    """||actual - expected|| / ||expected|| over all tensors as one vector."""
    actual, expected = flat(actual), flat(expected)
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def perceptron(weights: list, x: np.ndarray, labels: np.ndarray) -> tuple[float, list]:
    """`build_classifier`'s mean cross entropy and its gradients, derived by hand.

    Args:
        weights: float64 kernel and bias of the hidden layer, then of the logits.
        x: float[batch, feature].
        labels: int[batch].

    Returns:
        The loss, and float64 gradients of the shapes of `weights`.
    """
    kernel, bias, kernel_out, bias_out = weights
    x, rows = x.astype("float64"), np.arange(len(x))
    hidden = np.tanh(x @ kernel + bias)
    logits = hidden @ kernel_out + bias_out
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    loss = -np.mean(np.log(probabilities[rows, labels]))
    by_logits = probabilities
    by_logits[rows, labels] -= 1
    by_logits /= len(x)
    by_hidden = (by_logits @ kernel_out.T) * (1 - hidden**2)
    gradients = [
        x.T @ by_hidden,
        by_hidden.sum(axis=0),
        hidden.T @ by_logits,
        by_logits.sum(axis=0),
    ]
    return loss, gradients


def perceptron_gradients(weights: list, x: np.ndarray, labels: np.ndarray) -> list:
    return perceptron(weights, x, labels)[1]


def weights_float64(model: keras.Model) -> list[np.ndarray]:
    return [np.asarray(w, "float64") for w in model.get_weights()]


def weights_by_path(variables: list) -> dict[str, np.ndarray]:
    """float64, such as keras' weights for tests/references."""
    return {v.path: keras.ops.convert_to_numpy(v).astype("float64") for v in variables}


def batches_of(x: np.ndarray, y: np.ndarray, size: int = 16) -> list[tuple]:
    """Consecutive batches, the last one smaller where the sizes do not divide."""
    starts = range(0, len(x), size)
    return [(x[start : start + size], y[start : start + size]) for start in starts]


def is_precise() -> bool:
    """Whether float32 products are of float32 here and now on every device."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.config.jax_default_matmul_precision == "highest"
    import tensorflow as tf

    return not tf.config.experimental.tensor_float_32_execution_enabled()


def norm(tensors: list) -> float:
    """The L2 norm of a list of arrays as one vector."""
    return float(np.linalg.norm(flat(tensors)))


def add(weights: list, epsilon: list) -> list:
    return [w + e for w, e in zip(weights, epsilon, strict=True)]


def scale(tensors: list, factor: float) -> list:
    return [factor * t for t in tensors]


def request_stop(monkeypatch, at: tuple | None) -> None:
    """Has runs be asked to stop at a place, None for none: before a step, ("train",
    epoch, step), in an epoch's validation, ("validate", epoch, pauses before), or after
    it, ("end", epoch)."""
    pauses = Counter()

    def pause(self, place, steps=None):
        now = ("train", place.epoch, place.step)
        if place.logs is not None:
            now = ("validate", place.epoch, pauses[place.epoch])
            pauses[place.epoch] += 1
        self._stop.requested |= at == now
        PAUSE(self, place, steps)

    def end_epoch(self, model, batches, place, scores):
        END_EPOCH(self, model, batches, place, scores)
        if at == ("end", place.epoch):
            signal.raise_signal(signal.SIGINT)

    if at is not None:  # whose step has to begin a part, whatever the machine's speed
        monkeypatch.setattr(Pace, "begin", lambda self, count: lambda: None)
    monkeypatch.setattr(Loop, "_pause", pause)
    monkeypatch.setattr(Member, "end_epoch", end_epoch)


def parse_runs(workload: str, arguments: list[str]) -> list[Config]:
    """The configs of the runs that a command line asks for."""
    return parse_command(find_target(workload), arguments).configs


def make_config(workload: str, **options: object) -> Config:
    """A workload's run of these options, the classes' defaults for the others."""
    return compose(find_target(workload))(**options)


def find_mark(
    config: Config,
    of: str = "now",
    version: int | None = None,
    backend: str = "jax",
    content: str | None = None,
) -> str:
    """A run's fingerprint of this version, or the "old" one, of 0.1."""
    version = version or config.target.load().version
    return getattr(find_marks(config, version, backend, content), of)


def add_groups(workload: str, folder: Path, *groups: str) -> Target:
    """The target of a workload that names more groups of options; its YAML file goes
    into the folder."""
    target = find_target(workload)
    values = {**target.values, "options": [*target.groups, *groups]}
    path = folder / f"{workload}.yaml"
    path.write_text(yaml.safe_dump(values))
    return dataclasses.replace(target, defaults=path)
