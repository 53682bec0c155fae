"""Train on several devices: the same weights as on one.

The processor stands for four devices here, on a machine with GPUs too.
SAM's epsilon is of groups of 16 examples (m-sharpness), however many devices share a
batch of 64. Prints the largest difference of the weights after 40 steps, which is of
rounding:

    KERAS_BACKEND=jax python examples/several_devices.py
"""

# ruff: noqa: E402 - JAX reads what is set here when it is imported
import contextlib
import os

flags = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"

import keras
import numpy as np
from sklearn.datasets import load_digits

import samkeras

x, y = load_digits(return_X_y=True)
x, y = (x[:640] / 16).astype("float32"), y[:640]


def on(names: list[str]) -> contextlib.AbstractContextManager:
    """Where models are made and trained that live on these devices."""
    if keras.backend.backend() == "jax":
        return keras.distribution.DataParallel(devices=names).scope()
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(names).scope()


def train() -> np.ndarray:
    """All weights of a training, one after the other."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(64, activation="relu")(inputs)
    model = samkeras.SAMModel(inputs, keras.layers.Dense(10)(hidden))
    model.compile(
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        method=samkeras.SAM(rho=0.1),
        m_sharpness=16,
    )
    model.fit(x, y, batch_size=64, epochs=4, shuffle=False, verbose=0)
    return np.concatenate([np.ravel(w) for w in model.get_weights()])


if keras.backend.backend() == "tensorflow":  # which does not know what JAX reads
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 4,
    )
names = keras.distribution.list_devices("cpu")
weights = {}
for used in (names[:1], names):
    with on(used):
        weights[len(used)] = train()
difference = np.abs(weights[4] - weights[1]).max()
print("devices:", *names)
print(f"weights of 4 devices and of 1 differ by at most {difference:.1e}")
