"""Draw the loss around where SGD and SAM end, as a picture.

A tenth of the labels are random. Both planes are through the trained weights, along two
random directions, filter by filter as long as the weights. Writes landscape.png into
the folder that one stands in, and prints how far the loss rises on average at half the
weights' length from them:

    KERAS_BACKEND=jax python examples/draw_landscape.py
"""

import keras
import matplotlib
import numpy as np
from sklearn.datasets import load_digits

import samkeras
from samkeras import analysis

matplotlib.use("agg")
from matplotlib import pyplot as plt

x, y = load_digits(return_X_y=True)
x, y = (x[:500] / 16).astype("float32"), y[:500]
y[::10] = np.random.default_rng(0).integers(0, 10, 50)  # a tenth of the labels
at = np.linspace(-1, 1, 21)

figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
rises = {}
for axis, (name, method) in zip(
    axes, [("SGD", None), ("SAM", samkeras.SAM(rho=0.2))], strict=True
):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(32, activation="relu")(inputs)
    model = samkeras.SAMModel(inputs, keras.layers.Dense(10)(hidden))
    model.compile(
        optimizer=keras.optimizers.SGD(0.2, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        method=method,
        steps_per_execution=16,
    )
    model.fit(x, y, batch_size=32, epochs=20, verbose=0)
    directions = analysis.random_directions(model, seed=0)
    plane = analysis.plane(model, (x, y), directions, x=at, y=at, batch_size=500)
    loss = plane.train["loss"]
    levels = np.geomspace(0.1, 10, 13)
    axis.contourf(plane.x, plane.y, loss, levels, norm="log", extend="both")
    axis.set(title=name, aspect="equal")
    radius = np.hypot(*np.meshgrid(at, at))
    ring = (radius > 0.4) & (radius < 0.6)
    rises[name] = float(loss[ring].mean() - loss[10, 10])
    print(f"{name}: the loss rises by {rises[name]:.2f}")
figure.savefig("landscape.png", dpi=100)
print("landscape.png")
