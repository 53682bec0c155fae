"""LeNet-300-100 as the paper's authors have it (LOG-postech/SAM-overparam, models.py):
two dense layers with ReLU on flattened pixels from 0 to 1, and a linear one."""

import jax
import jax.numpy as jnp

from tests.references import Array
from tests.references.layers import cross_entropies


def logits(weights: list[Array], pixels: Array) -> Array:
    """[image, pixel], from 0 to 1, to [image, class].

    Args:
        weights: kernel and bias of each layer.
    """
    *hidden, (kernel_out, bias_out) = zip(weights[::2], weights[1::2], strict=True)
    x = pixels
    for kernel, bias in hidden:
        x = jax.nn.relu(x @ kernel + bias)
    return x @ kernel_out + bias_out


def loss(weights: list[Array], pixels: Array, labels: Array) -> tuple[Array, None]:
    return jnp.mean(cross_entropies(logits(weights, pixels), labels)), None
