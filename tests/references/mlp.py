"""LeNet-300-100 as the paper's authors have it (LOG-postech/SAM-overparam, models.py):
two dense layers with ReLU on flattened pixels from 0 to 1, and a linear one."""

import numpy as np

from tests.references import Weights
from tests.references.layers import dense, relu


def logits(weights: Weights, images: np.ndarray) -> np.ndarray:
    """uint8[image, height, width, channel] to float64[image, class]."""
    x = images.reshape(len(images), -1) / 255
    for name in ("hidden_1", "hidden_2"):
        x = relu(dense(x, weights, name))
    return dense(x, weights, "outputs")
