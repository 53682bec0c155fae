"""Fine-tune a model with ASAM: a part of it frozen, and a new head.

A network learns which of scikit-learn's digits it sees; then, its first layer frozen
and with a new last layer, whether a digit is even, from 40 others. Prints how often it
is right on the rest: a new network that learnt from these 40 alone, and the one that
knew digits, fine-tuned by the optimizer alone and with ASAM:

    KERAS_BACKEND=jax python examples/fine_tune_with_asam.py
"""

import keras
from sklearn.datasets import load_digits

import samkeras

x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
FIRST, FEW, REST = slice(800), slice(800, 840), slice(840, None)


def build_trunk() -> keras.Model:
    """Pixels to features."""
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, activation="relu", name="first"),
            keras.layers.Dense(64, activation="relu", name="second"),
        ]
    )


def train(trunk, num_classes, x, y, method, epochs) -> samkeras.SAMModel:
    """A trunk with a new head, trained but for what is frozen."""
    inputs = keras.Input((64,))
    head = keras.layers.Dense(num_classes)
    model = samkeras.SAMModel(inputs, head(trunk(inputs)))
    model.compile(
        optimizer=keras.optimizers.Adam(2e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        method=method,  # perturbs what is trained: not the frozen weights
        steps_per_execution=2,
    )
    model.fit(x, y, batch_size=20, epochs=epochs, verbose=0)
    return model


keras.utils.set_random_seed(0)
trunk = build_trunk()
train(trunk, 10, x[FIRST], y[FIRST], None, epochs=10)
learnt = trunk.get_weights()

accuracies = {}
for name, method in (
    ("from scratch", None),
    ("fine-tuned", None),
    ("with ASAM", samkeras.ASAM(rho=0.5)),
):
    keras.utils.set_random_seed(1)
    trunk = build_trunk()
    if name != "from scratch":
        trunk.set_weights(learnt)
        trunk.get_layer("first").trainable = False
    model = train(trunk, 2, x[FEW], y[FEW] % 2, method, epochs=40)
    found = model.evaluate(x[REST], y[REST] % 2, verbose=0, return_dict=True)
    accuracies[name] = found["accuracy"]
    print(f"{name:12} {accuracies[name]:.1%} right")
