"""How sharp is where a training ended? Measured for SGD and for SAM.

Prints, for the same network on scikit-learn's digits, some with a wrong label, the
loss, the largest eigenvalue of its Hessian, the Hessian's trace with its standard
error, and how far the loss rises within a ball of radius 0.1 around the weights:

    KERAS_BACKEND=jax python examples/measure_sharpness.py
"""

import keras
import numpy as np
from sklearn.datasets import load_digits

import samkeras
from samkeras import analysis

x, y = load_digits(return_X_y=True)
x, y = (x[:600] / 16).astype("float32"), y[:600]
y[::10] = np.random.default_rng(0).integers(0, 10, 60)  # a tenth of the labels

eigenvalues = {}
for name, method in (("SGD", None), ("SAM", samkeras.SAM(rho=0.1))):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(32, activation="tanh")(inputs)
    model = samkeras.SAMModel(inputs, keras.layers.Dense(10)(hidden))
    model.compile(
        optimizer=keras.optimizers.SGD(0.2, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        method=method,
        steps_per_execution=19,
    )
    model.fit(x, y, batch_size=32, epochs=20, verbose=0)
    data = analysis.DataLoss(model, (x, y), batch_size=600)  # keeps what is compiled
    top = analysis.top_eigenvalues(model, data, k=1)
    trace = analysis.trace(model, data)
    rise = analysis.sharpness(model, data, rho=0.1)
    eigenvalues[name] = top.values[0]
    print(
        f"{name}: loss {rise.loss:.4f}, largest eigenvalue {top.values[0]:.2f}, trace "
        f"{trace.value:.1f} ± {trace.standard_error:.1f}, sharpness {rise.value:.4f}"
    )
