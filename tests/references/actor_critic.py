"""The actor-critic of Flax's example ppo (examples/ppo/models.py).

Its convolutions pad as Flax's default, SAME, does. The paper's numbers of parameters
are those without padding, which is what is here.
"""

import numpy as np

from tests.references.layers import convolve, relu

STRIDES = (4, 2, 1)


def outputs(weights: list[np.ndarray], frames: np.ndarray) -> np.ndarray:
    """uint8[observation, height, width, frame] to float64[observation, action + 1]: the
    logits of the actions and last the value.

    Args:
        weights: kernel and bias of the convolutions, the hidden layer, the policy and
            the value.
    """
    *layers, policy, value = zip(weights[::2], weights[1::2], strict=True)
    x = frames / 255
    for (kernel, bias), stride in zip(layers, STRIDES, strict=False):
        x = relu(convolve(x, kernel, stride) + bias)
    kernel, bias = layers[-1]
    x = relu(x.reshape(len(x), -1) @ kernel + bias)
    return np.concatenate([x @ kernel + bias for kernel, bias in (policy, value)], 1)
