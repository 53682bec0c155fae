"""Measures networks with random weights, and saves the numbers.

python -m tests.analysis.measured FILE, with KERAS_BACKEND in the environment.
"""

import sys

import numpy as np

from samkeras import analysis
from tests.analysis.making import NETWORKS, build_network


def measure(name: str) -> dict[str, np.ndarray]:
    """Numbers of one of the NETWORKS."""
    model, arrays = build_network(name)
    data = analysis.DataLoss(model, arrays)
    vector = np.random.default_rng(5).standard_normal(data.size)
    loss, gradient = data.gradient(0.1 * vector / np.linalg.norm(vector))
    start = [np.array(w) for w in model.trainable_variables]
    for weight, value in zip(model.trainable_variables, start, strict=True):
        weight.assign(1.1 * value)
    along = analysis.smoothness(model, data, start)
    rise = analysis.sharpness(model, data, 0.05, steps=3)
    numbers = [along.smoothness, along.pl, rise.value, rise.one_step]
    if name == "convolutional":
        numbers.append(analysis.linearity(model, data, start).value)
        numbers.append(analysis.non_uniformity(model, data).value)
    directions = analysis.random_directions(model)
    plane = analysis.plane(
        model, data, directions, x=[-0.5, 0.5], y=[0.3], batch_norm="refit"
    )
    return {
        "landscape": plane.train["loss"],
        "others": np.array(numbers),
        "loss": np.array([loss]),
        "gradient": gradient,
        "product": data.product(vector),
        "top": analysis.top_eigenvalues(model, data, 3).values,
    }


if __name__ == "__main__":
    np.savez(
        sys.argv[1],
        **{
            f"{name}/{key}": value
            for name in NETWORKS
            for key, value in measure(name).items()
        },
    )
