"""Fit a model with SAM, and the same model with the optimizer alone.

A wide network learns wrong labels by heart, and less so with SAM. Here a quarter of the
training labels of scikit-learn's digits (8 by 8 pixels) are random. Prints how many of
the test digits, whose labels are right, either gets right, as means of two seeds:

    KERAS_BACKEND=jax python examples/fit_with_sam.py
"""

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import samkeras

x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0)
rng = np.random.default_rng(0)
is_noisy = rng.random(len(y_train)) < 0.25
y_train[is_noisy] = rng.integers(0, 10, is_noisy.sum())


def fit(method: samkeras.Method | None, seed: int) -> float:
    """The accuracy on the test digits."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(256, activation="relu")(inputs)
    model = samkeras.SAMModel(inputs, keras.layers.Dense(10)(hidden))
    model.compile(
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        method=method,  # None: the optimizer alone
        steps_per_execution=22,  # an epoch is one compiled call
    )
    model.fit(x_train, y_train, batch_size=64, epochs=30, verbose=0)
    return model.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"]


accuracies = {
    "SGD": np.mean([fit(None, seed) for seed in range(2)]),
    "SAM": np.mean([fit(samkeras.SAM(rho=0.2), seed) for seed in range(2)]),
}
for name, accuracy in accuracies.items():
    print(f"{name}: {accuracy:.1%} of the test digits right")
