"""A method of your own, in twenty lines.

`StaleSAM` perturbs along the gradient of the step before, so that a step has one pass,
where SAM has two. Prints the test accuracy on digits, of which two fifths have
a random label in training, and the passes of a step:

    KERAS_BACKEND=jax python examples/own_method.py
"""

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import samkeras


@keras.saving.register_keras_serializable(package="examples")
class StaleSAM(samkeras.Perturbation):
    """SAM along the gradient of the step before: epsilon = rho * g_last / ||g_last||.

    Args:
        rho: norm of epsilon, a number >= 0 or a schedule. Default 0.05.
    """

    passes = 1.0  # forward-backward passes of a step

    def build(self, weights, roles):
        self.last = [self.add_state_like(w, "last") for w in weights]

    def epsilon(self, context):
        norm = keras.ops.sqrt(sum(keras.ops.sum(g * g) for g in self.last)) + 1e-12
        return [self.radius(context) * g / norm for g in self.last]

    def update(self, context, result):  # the only place to assign state
        for last, g in zip(self.last, result, strict=True):
            last.assign(g)


x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0)
rng = np.random.default_rng(0)
is_noisy = rng.random(len(y_train)) < 0.4
y_train[is_noisy] = rng.integers(0, 10, is_noisy.sum())

accuracies = {}
for name, method in (
    ("SGD", None),
    ("SAM", samkeras.SAM(rho=0.2)),
    ("StaleSAM", StaleSAM(rho=0.2)),
):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(256, activation="relu")(inputs)
    model = samkeras.SAMModel(inputs, keras.layers.Dense(10)(hidden))
    rate = keras.optimizers.schedules.CosineDecay(0.2, 20 * 22)
    model.compile(
        optimizer=keras.optimizers.SGD(rate, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        method=method,
        steps_per_execution=22,
    )
    model.fit(x_train, y_train, batch_size=64, epochs=20, verbose=0)
    found = model.evaluate(x_test, y_test, verbose=0, return_dict=True)
    accuracies[name] = found["accuracy"]
    passes = 1 if method is None else method.passes
    print(f"{name:8} {accuracies[name]:.1%} right, passes of a step: {passes:g}")
