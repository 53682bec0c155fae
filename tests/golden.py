"""Trains small fixed cases of every feature and keeps their numbers, to the bit.

    KERAS_BACKEND=jax python -m tests.golden record
    KERAS_BACKEND=jax python -m tests.golden compare

`record` writes tests/recorded/BACKEND.npz, only when a change of the numbers is meant;
`compare` prints how far each case is from it. Held to by test_golden.py. Initial
weights and batches come from NumPy; dropout and random directions are the backend's.
"""

import json
import math
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

from tests import conftest  # noqa: F401 the environment of the tests, before keras

# isort: split
import keras
import numpy as np
from keras import layers
from keras.optimizers import LossScaleOptimizer
from keras.optimizers.schedules import PiecewiseConstantDecay

import samkeras

FOLDER = Path(__file__).parent / "recorded"
NUM_STEPS, MIDDLE, BATCH = 10, 5, 20
FEATURES, HIDDEN, CLASSES, WORDS = 5, 6, 3, 7
COMPILER_OPTIONS = (
    "JAX_DISABLE_MOST_OPTIMIZATIONS",
    "JAX_PLATFORMS",
    "TF_ENABLE_ONEDNN_OPTS",
    "XLA_FLAGS",
)
RESET_EVERY = 4  # steps, so that means of several and comparisons at some are recorded

Numbers = dict[str, np.ndarray]


def method_argument(method: samkeras.SAM | None) -> dict:
    """The argument of `compile` that says where the gradient is taken."""
    return {"method": method}


def build_classifier(dropout: float = 0.0, norm: bool = False) -> keras.Model:
    """x: float32[batch, feature] -> float32[batch, class]."""
    inputs = keras.Input((FEATURES,))
    x = layers.Dense(HIDDEN)(inputs)
    if norm:
        x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.Activation("tanh")(x)
    if dropout:
        x = layers.Dropout(dropout, seed=5)(x)
    # float32, as keras advises for outputs in half precision.
    return samkeras.SAMModel(inputs, layers.Dense(CLASSES, dtype="float32")(x))


def build_token_model() -> keras.Model:
    """x: int32[batch, word] -> float32[batch, class], with terms of its own in the
    loss."""
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Embedding(WORDS, 4, embeddings_regularizer="l2")(inputs)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dense(4, "tanh", kernel_regularizer="l1", activity_regularizer="l2")(x)
    return samkeras.SAMModel(inputs, layers.Dense(CLASSES)(x))


def build_two_outputs() -> keras.Model:
    """x: float32[batch, feature] -> a: float32[batch, class], b: float32[batch, 2]."""
    inputs = keras.Input((FEATURES,))
    x = layers.Dense(4, "tanh")(inputs)
    outputs = {"a": layers.Dense(CLASSES, name="a")(x), "b": layers.Dense(2)(x)}
    return samkeras.SAMModel(inputs, outputs)


def build_convolution() -> keras.Model:
    """x: float32[batch, 6, 6, 1] -> float32[batch, class]."""
    inputs = keras.Input((6, 6, 1))
    x = layers.Conv2D(3, 3, activation="tanh")(inputs)
    x = layers.MaxPooling2D()(x)
    return samkeras.SAMModel(inputs, layers.Dense(CLASSES)(layers.Flatten()(x)))


def draw_labels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, CLASSES, BATCH).astype("int32")


def draw_examples(rng: np.random.Generator, shape: tuple = (FEATURES,)) -> tuple:
    x = rng.standard_normal((BATCH, *shape)).astype("float32")
    return x, draw_labels(rng)


def draw_tokens(rng: np.random.Generator) -> tuple:
    return rng.integers(0, WORDS, (BATCH, 4)).astype("int32"), draw_labels(rng)


def draw_two_outputs(rng: np.random.Generator) -> tuple:
    x, labels = draw_examples(rng)
    y = {"a": labels, "b": rng.standard_normal((BATCH, 2)).astype("float32")}
    return x, y, {name: rng.uniform(size=BATCH).astype("float32") for name in y}


@dataclass(frozen=True)
class Case:
    """A training of `NUM_STEPS` steps.

    Args:
        method: makes where the gradient is taken.
        optimizer: makes the optimizer.
        build: makes the model.
        draw: makes a batch, (x, y[, sample weights]).
        options: of compile.
        policy: keras' dtype policy.
        is_masked: whether half of each kernel is pruned.
        steps_per_call: steps in one compiled call; 1: train_on_batch, more: fit.
    """

    method: Callable = lambda: samkeras.SAM(0.3)
    optimizer: Callable = lambda: samkeras.SGD(0.1, momentum=0.9)
    build: Callable = build_classifier
    draw: Callable = draw_examples
    options: dict = field(default_factory=dict)
    policy: str = "float32"
    is_masked: bool = False
    steps_per_call: int = 1


# What a training step makes of a batch differs from "sam" by what the name says.
CASES = {
    "sam": Case(),
    "sam_p_inf_2_steps": Case(partial(samkeras.SAM, 0.1, p=math.inf, steps=2)),
    "sam_p_3": Case(partial(samkeras.SAM, 0.3, p=3)),
    "unnormalized": Case(partial(samkeras.UnnormalizedSAM, 0.3)),
    "random": Case(partial(samkeras.RandomPerturbation, 0.3, seed=2)),
    "plain_l2": Case(lambda: None, options={"l2": 0.01}),
    "schedules": Case(
        lambda: samkeras.SAM(PiecewiseConstantDecay([3], [0.3, 0.6])),
        options={"l2": PiecewiseConstantDecay([5], [0.0, 0.02])},
    ),
    "groups_even": Case(options={"m_sharpness": 5}),
    "groups_smaller_last": Case(options={"m_sharpness": 8}),
    "masks_l2": Case(is_masked=True, options={"l2": 0.01}),
    "masks_random": Case(partial(samkeras.RandomPerturbation, 0.3), is_masked=True),
    "adam": Case(optimizer=partial(keras.optimizers.Adam, 0.03)),
    "accumulation_clipnorm": Case(
        optimizer=partial(
            samkeras.SGD,
            0.1,
            momentum=0.9,
            clipnorm=0.2,
            gradient_accumulation_steps=3,
        )
    ),
    "bfloat16": Case(policy="mixed_bfloat16"),
    "float16": Case(policy="mixed_float16"),
    "float16_skipped": Case(
        optimizer=lambda: LossScaleOptimizer(
            samkeras.SGD(0.1, momentum=0.9), initial_scale=2.0**22
        ),
        policy="mixed_float16",
        options={"l2": 0.01},
    ),
    "dropout": Case(build=partial(build_classifier, dropout=0.3)),
    "norm": Case(build=partial(build_classifier, norm=True)),
    "norm_dropout_groups": Case(
        build=partial(build_classifier, dropout=0.3, norm=True),
        options={"m_sharpness": 8},
    ),
    "fused": Case(
        build=partial(build_classifier, dropout=0.3, norm=True),
        options={"l2": 0.01, "steps_per_execution": 5},
        steps_per_call=5,
    ),
    "two_outputs": Case(
        build=build_two_outputs,
        draw=draw_two_outputs,
        options={
            "loss": {
                "a": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                "b": "mse",
            }
        },
    ),
    "tokens": Case(build=build_token_model, draw=draw_tokens),
    "convolution": Case(
        build=build_convolution, draw=partial(draw_examples, shape=(6, 6, 1))
    ),
}


def start(case: Case) -> keras.Model:
    """A case's model, compiled, before its first step."""
    keras.config.set_dtype_policy(case.policy)
    model = case.build()
    rng = np.random.default_rng(0)
    kernels = [w for w in model.trainable_variables if len(w.shape) > 1]
    for kernel in kernels:
        kernel.assign(0.5 * rng.standard_normal(kernel.shape))
    if case.is_masked:
        model.set_masks([(k, rng.uniform(size=k.shape) < 0.5) for k in kernels])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    options = {"loss": loss, **method_argument(case.method()), **case.options}
    model.compile(optimizer=case.optimizer(), **options)
    return model


def train(model: keras.Model, case: Case, steps: range) -> Numbers:
    """Takes some of a case's steps.

    Returns:
        weights: float32[call, number], all of them after each call, and the logs,
        float32[call], under their names.
    """
    rng = np.random.default_rng(1)
    batches = [case.draw(rng) for _ in range(NUM_STEPS)]
    rows, logs = [], []
    for first in range(steps.start, steps.stop, case.steps_per_call):
        logs.append(call(model, case, first, batches))
        rows.append(np.concatenate([np.ravel(w) for w in model.get_weights()]))
    numbers = {name: np.array([log[name] for log in logs]) for name in logs[0]}
    numbers = {"weights": np.stack(rows), **numbers}
    return {name: values.astype("float32") for name, values in numbers.items()}


def call(model: keras.Model, case: Case, first: int, batches: list[tuple]) -> dict:
    """The steps of one compiled call; returns the logs."""
    if case.steps_per_call == 1:
        if first % RESET_EVERY == 0:
            model.reset_metrics()
        return model.train_on_batch(*batches[first], return_dict=True)
    arrays = zip(*batches[first : first + case.steps_per_call], strict=True)
    x, y = map(np.concatenate, arrays)
    history = model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0).history
    return {name: value for name, (value,) in history.items()}


def variables_of(model: keras.Model) -> list[keras.Variable]:
    """All state of a model in training, seeds included."""
    return [*model.variables, *model.optimizer.variables, *model.metrics_variables]


def train_halves(case: Case) -> tuple[Numbers, list[np.ndarray]]:
    """All steps of a case, and the state in the middle."""
    model = start(case)
    first = train(model, case, range(MIDDLE))
    state = [np.array(keras.ops.convert_to_numpy(v)) for v in variables_of(model)]
    second = train(model, case, range(MIDDLE, NUM_STEPS))
    return {name: np.concatenate([first[name], second[name]]) for name in first}, state


def resume(case: Case, state: list[np.ndarray]) -> Numbers:
    """The second half of a case's steps, by another model that is given the state."""
    model = start(case)
    train(model, case, range(1))  # makes the variables of metrics
    for variable, value in zip(variables_of(model), state, strict=True):
        variable.assign(value)
    return train(model, case, range(MIDDLE, NUM_STEPS))


def relative_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest over the calls of ||actual - expected|| / ||expected||."""
    actual, expected = (a.astype("float64") for a in (actual, expected))
    if expected.ndim == 1:
        actual, expected = actual[:, None], expected[:, None]
    norms = np.maximum(np.linalg.norm(expected, axis=1), 1e-30)
    return float(np.max(np.linalg.norm(actual - expected, axis=1) / norms))


def is_equal(actual: Numbers, expected: Numbers) -> bool:
    """Whether all numbers are the same to the bit."""
    return actual.keys() == expected.keys() and all(
        actual[name].tobytes() == values.tobytes() for name, values in expected.items()
    )


def describe_environment() -> dict[str, str]:
    """What the last bits of the numbers depend on."""
    backend = keras.backend.backend()
    packages = [backend, "keras", *(["jaxlib"] if backend == "jax" else [])]
    versions = {package: version(package) for package in packages}
    options = {name: os.environ.get(name, "") for name in COMPILER_OPTIONS}
    return {**versions, **describe_processor(), **options}


def describe_processor() -> dict[str, str]:
    """Its name, and its vector instructions, some of which virtual machines hide."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    pairs = (line.partition(":")[::2] for line in lines)
    known = {name.strip(): value.strip() for name, value in pairs}
    vectors = [f for f in known.get("flags", "").split() if f[:3] in ("avx", "fma")]
    name = known.get("model name", platform.machine())
    return {"processor": name, "vectors": " ".join(vectors)}


def recorded_path() -> Path:
    return FOLDER / f"{keras.backend.backend()}.npz"


def record() -> None:
    """Trains all cases and writes the backend's file."""
    arrays = {
        f"{name}/{key}": values
        for name, case in CASES.items()
        for key, values in train_halves(case)[0].items()
    }
    environment = np.array(json.dumps(describe_environment()))
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(recorded_path(), environment=environment, **arrays)


def load() -> tuple[dict[str, Numbers], dict[str, str]]:
    """The recorded numbers of each case, and the environment they come from."""
    cases = {}
    with np.load(recorded_path()) as file:
        environment = json.loads(str(file["environment"]))
        for key in set(file.files) - {"environment"}:
            case, name = key.split("/")
            cases.setdefault(case, {})[name] = file[key]
    return cases, environment


def compare() -> None:
    """Trains all cases and prints how far each is from the backend's file."""
    recorded, environment = load()
    same = environment == describe_environment()
    print("recorded here" if same else f"recorded elsewhere: {environment}")
    for name, case in CASES.items():
        actual, expected = train_halves(case)[0], recorded[name]
        differences = {
            key: relative_difference(actual[key], values)
            for key, values in sorted(expected.items())
        }
        parts = [f"{key} {difference:.1e}" for key, difference in differences.items()]
        verdict = "equal" if is_equal(actual, expected) else "DIFFERS"
        print(f"{name:22} {verdict:8} {', '.join(parts)}", flush=True)


if __name__ == "__main__":
    {"record": record, "compare": compare}[sys.argv[1]]()
