"""Trains a small ResNet on this machine's devices and saves the weights.

    NUM_DEVICES=8 python -m tests.on_devices FILE.npz [CASE ...]

Run by test_devices.py, on JAX with XLA_FLAGS that divide the processor. As one of
several processes, which KERAS_DISTRIBUTION_* name, it trains on all their devices.
"""

import os
import sys

import keras
import numpy as np

import samkeras
from samkeras.backend import all_devices, find_process
from samkeras.data.batches import EpochBatches
from samkeras.models.normalization import BatchNorm

NUM_DEVICES = int(os.environ.get("NUM_DEVICES", "8"))
NUM_STEPS, BATCH = 10, 32
# Options of compile and fit by case. Dropout's draws are the same on any number of
# devices of JAX, and on TensorFlow within groups of m examples.
CASES = {
    "whole": {},
    "groups": {"m_sharpness": 4},
    # On TensorFlow a group is on one device, and SGD alone has a path of its own.
    **(
        {"uneven_groups": {"m_sharpness": 5}}
        if keras.backend.backend() == "jax"
        else {"sgd": {"perturbation": None}}
    ),
}


def build_model(dropout: float) -> samkeras.SAMModel:
    """Convolutions with BatchNorm, a shortcut and dropout: uint8[8, 8, 3] to 4 logits.

    Weights come from NumPy, since the backends draw different ones.
    """
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = BatchNorm()(keras.layers.Conv2D(6, 3, use_bias=False)(x))
    x = keras.layers.ReLU()(x)
    y = keras.layers.Conv2D(6, 3, padding="same", use_bias=False)(x)
    x = keras.layers.add([x, keras.layers.ReLU()(BatchNorm()(y))])
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(dropout, seed=5)(x)
    model = samkeras.SAMModel(inputs, keras.layers.Dense(4)(x))
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        value = 0.3 * rng.standard_normal(weight.shape)
        weight.assign(value + (weight.name == "gamma"))
    return model


def train(case: str) -> dict[str, np.ndarray]:
    """Ten steps of a case on all devices: its final weights and logs, also those of an
    evaluation of examples that the devices cannot share equally."""
    options = {"perturbation": samkeras.SAM(0.1), **CASES[case]}
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (NUM_STEPS * BATCH, 8, 8, 3)).astype("uint8")
    y = rng.integers(0, 4, len(x))
    is_jax = keras.backend.backend() == "jax"
    with_dropout = is_jax or "m_sharpness" in options
    model = build_model(0.3 if with_dropout else 0.0)
    model.compile(
        optimizer=samkeras.SGD(0.1, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
        l2=0.01,
        # keras 3.15 itself fails with several under tf.distribute.
        steps_per_execution=2 if is_jax else 1,
        **options,
    )
    num_devices = len(keras.distribution.list_devices())
    shared = {"multiple_of": num_devices, "process": find_process()}
    history = model.fit(
        EpochBatches((x, y), BATCH, 3, **shared), shuffle=False, verbose=0
    ).history
    odd = EpochBatches((x[:77], y[:77]), BATCH, **shared)
    scores = model.evaluate(odd, verbose=0, return_dict=True)
    weights = [np.ravel(np.asarray(w)) for w in model.get_weights()]
    return {
        "weights": np.concatenate(weights).astype("float64"),
        **{name: np.array(values) for name, values in history.items()},
        **{f"val_{name}": np.array(value) for name, value in scores.items()},
    }


def divide_processor() -> None:
    """Lets TensorFlow see this machine's processor as several."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * NUM_DEVICES,
        )


def main(path: str, *cases: str) -> None:
    if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
        keras.distribution.initialize()
    divide_processor()
    numbers = {}
    for case in cases or CASES:
        with all_devices():
            numbers |= {f"{case}/{name}": v for name, v in train(case).items()}
    if find_process()[0] == 0:
        np.savez(path, **numbers)


if __name__ == "__main__":
    main(*sys.argv[1:])
