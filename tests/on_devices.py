"""Trains small models on the devices there are, for test_devices.py."""

import functools
import os

import keras
import numpy as np

import samkeras
from samkeras.backend import backend
from samkeras.data.examples import ArrayExamples
from samkeras.data.graphs import Graph, GraphCollate, as_array
from samkeras.data.sequences import SequenceCollate
from samkeras.losses import PresentBinaryCrossentropy, TokenCrossentropy
from samkeras.models.gcn import build_gcn
from samkeras.models.normalization import BatchNorm
from samkeras.models.tagger import build_tagger
from samkeras.scores import TokenAccuracy

NUM_DEVICES = int(os.environ.get("NUM_DEVICES", "8"))
NUM_STEPS, BATCH = 10, 32
# Options of compile by case; a method is a class. Dropout's draws are the same on any
# number of devices of JAX, and on TensorFlow within groups of m examples.
CASES = {
    "whole": {},
    "groups": {"method": samkeras.FSAM, "m_sharpness": 4},  # which have a state too
    # Devices, whose normalization sums over them, skip a pass together, and groups
    # each by itself.
    "skipping": {"method": functools.partial(samkeras.LookSAM, every=3)},
    "skipping_groups": {
        "method": functools.partial(samkeras.AESAM, threshold=0.5),
        "m_sharpness": 4,
    },
    "decoupled": {"method": samkeras.WSAM},
    "points": {"method": samkeras.FrobeniusSAM},
    "chosen_groups": {"method": samkeras.ESAM, "m_sharpness": 4},
    "momentum": {"method": samkeras.MomentumSAM},
    # On TensorFlow a group is on one device, and SGD alone has a path of its own.
    **(
        {
            "uneven_groups": {"m_sharpness": 5},
            # Replicas of TensorFlow choose each from its own examples.
            "chosen": {"method": samkeras.ESAM},
            "graphs": {"loss": PresentBinaryCrossentropy()},
        }
        if keras.backend.backend() == "jax"
        else {"sgd": {"method": None}}
    ),
    "words": {"loss": TokenCrossentropy()},
}

# Whose groups would be compiled one by one with convolutions, which "groups" has.
DENSE = ("skipping_groups", "uneven_groups")


def build_image_model(dropout: float, is_dense: bool) -> samkeras.SAMModel:
    """Convolutions, or a dense layer, with BatchNorm, a shortcut and dropout:
    uint8[8, 8, 3] to 4 logits."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    if is_dense:
        x = keras.layers.Dense(6, use_bias=False)(keras.layers.Flatten()(x))
        x = keras.layers.ReLU()(BatchNorm()(x))
    else:
        x = BatchNorm()(keras.layers.Conv2D(6, 3, use_bias=False)(x))
        x = keras.layers.ReLU()(x)
        y = keras.layers.Conv2D(6, 3, padding="same", use_bias=False)(x)
        x = keras.layers.add([x, keras.layers.ReLU()(BatchNorm()(y))])
        x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(dropout, seed=5)(x)
    return samkeras.SAMModel(inputs, keras.layers.Dense(4)(x))


def prepare(case: str, with_dropout: bool) -> tuple:
    """The model of a case, its examples and how they are padded."""
    rng = np.random.default_rng(1)
    count = NUM_STEPS * BATCH
    if case == "words":
        lengths = rng.integers(1, 20, (count, 1))
        x = np.where(np.arange(20) < lengths, rng.integers(2, 9, (count, 20)), 0)
        y = np.where(x > 0, rng.integers(0, 4, x.shape), -1).astype("int32")
        model = build_tagger(9, 4, 0.03, depth=1, dropout=0.0)
        return model, (x.astype("int32"), y), SequenceCollate(has_token_labels=True)
    if case == "graphs":
        graphs = [
            Graph(
                rng.integers(0, 3, (size, 5)).astype("uint8"),
                rng.integers(0, size, (2, 2 * size)).astype("int32"),
            )
            for size in rng.integers(2, 20, count)
        ]
        y = rng.choice([0, 1, np.nan], (count, 4)).astype("float32")
        model = build_gcn(5, 4, 0.03, depth=1)
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
        return model, (as_array(graphs), y), GraphCollate()
    x = rng.integers(0, 256, (count, 8, 8, 3)).astype("uint8")
    model = build_image_model(0.3 if with_dropout else 0.0, case in DENSE)
    return model, (x, rng.integers(0, 4, count)), None


def train(case: str) -> dict[str, np.ndarray]:
    """Ten steps of a case on all devices: its final weights and logs, also those of an
    evaluation of examples that the devices cannot share equally."""
    options = {
        "method": samkeras.SAM,
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **CASES[case],
    }
    if options["method"] is not None:  # its variables are not to come before devices
        options["method"] = options["method"](0.1)
    is_jax = keras.backend.backend() == "jax"
    with_dropout = is_jax or "m_sharpness" in options
    model, (x, y), collate = prepare(case, with_dropout)
    # Weights come from NumPy, since the backends draw different ones.
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        value = 0.3 * rng.standard_normal(weight.shape)
        weight.assign(value + (weight.name == "gamma"))
    metrics = {"words": [TokenAccuracy()], "graphs": []}
    model.compile(
        optimizer=samkeras.SGD(0.1, momentum=0.9),
        weighted_metrics=metrics.get(case, ["accuracy"]),
        l2=0.01,
        # keras 3.15 itself fails with several under tf.distribute.
        steps_per_execution=2 if is_jax else 1,
        **options,
    )
    num_devices = len(keras.distribution.list_devices())
    shared = {
        "multiple_of": num_devices,
        "process": backend.find_process(),
    }
    is_resident = (
        collate is None and case != "whole"
    )  # which keras trains from the host
    examples = ArrayExamples(x, y, collate=collate, is_resident=is_resident)
    batches = examples.batches(BATCH, 3, **shared)
    odd = examples.first(77).batches(BATCH, **shared)
    if case == "whole":
        model.fit(batches, shuffle=False, verbose=0)
    else:  # as runs do
        for some in batches.take(model.steps_per_execution):
            model.train_on_batches(some, batches.specs)
    # Those of fit's history are, on TensorFlow, means over the devices.
    logs = {**model.get_metrics_result(), **model.get_gradient_metrics_result()}
    logs = {name: np.array(value) for name, value in logs.items()}
    if case == "whole":
        scores = model.evaluate(odd, verbose=0, return_dict=True)
    else:
        model.reset_metrics()
        for some in odd.take(model.steps_per_execution):
            model.test_on_batches(some, odd.specs)
        scores = model.get_metrics_result()
    weights = [np.ravel(np.asarray(w)) for w in model.get_weights()]
    return {
        "weights": np.concatenate(weights).astype("float64"),
        **logs,
        **{f"val_{name}": np.array(value) for name, value in scores.items()},
    }


def train_on_mesh() -> dict[str, np.ndarray]:
    """Ten steps on groups of examples of a model with dropout and two outputs, whose
    kernels and batches are both divided: its final weights and logs."""
    devices = keras.distribution.list_devices()
    shape = (1, 1) if len(devices) == 1 else (len(devices) // 2, 2)
    mesh = keras.distribution.DeviceMesh(shape, ["batch", "model"], devices)
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*kernel"] = (None, "model")
    rng = np.random.default_rng(1)
    x = rng.standard_normal((NUM_STEPS * BATCH, 5)).astype("float32")
    y = {name: rng.integers(0, 4, len(x)) for name in "ab"}
    with keras.distribution.ModelParallel(layout_map=layout).scope():
        inputs = keras.Input((5,))
        hidden = keras.layers.Dense(8, "tanh", kernel_initializer="ones")(inputs)
        hidden = keras.layers.Dropout(0.3, seed=5)(hidden)
        outputs = {name: keras.layers.Dense(4, name=name)(hidden) for name in y}
        model = samkeras.SAMModel(inputs, outputs)
        for weight in model.trainable_variables:
            weight.assign(0.3 * rng.standard_normal(weight.shape))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(
            optimizer=samkeras.SGD(0.1),
            loss=dict.fromkeys(y, loss),
            method=samkeras.SAM(0.1),
            m_sharpness=4,
        )
        history = model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0).history
    logs = {name: np.array(values) for name, values in history.items()}
    weights = [np.ravel(np.asarray(w)) for w in model.get_weights()]
    return {"weights": np.concatenate(weights).astype("float64"), **logs}


def divide_processor() -> None:
    """Lets TensorFlow see this machine's processor as several."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * NUM_DEVICES,
        )


def train_all(*cases: str) -> dict[str, np.ndarray]:
    """What the cases, all unless some are named, come to: a case's numbers begin with
    its name."""
    numbers = {}
    for case in cases or CASES:
        with backend.split_batches(keras.distribution.list_devices()):
            numbers |= {f"{case}/{name}": v for name, v in train(case).items()}
    if keras.backend.backend() == "jax" and not cases:
        numbers |= {f"mesh/{name}": v for name, v in train_on_mesh().items()}
    return numbers
