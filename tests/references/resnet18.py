"""ResNet-18 and the SAM step of the paper's authors (LOG-postech/SAM-overparam,
models.py and train.py), in JAX for its gradients.

Every 3x3 convolution pads a pixel on each side, those with a stride too; projections
pad nothing; no convolution has a bias. BatchNorm has momentum 0.9 and biased variances.
In a step the norm of epsilon is of all weights; the statistics are those of the first
pass; weight decay is added to the gradient of every weight, unperturbed.

All is computed in the type of the weights.
"""

import functools
from typing import Any

import numpy as np

from tests.references import Weights
from tests.references.layers import batch_norm_by, dense, relu, standardize

Array = Any

MEANS, DEVIATIONS = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
NUM_STAGES, NUM_BLOCKS = 4, 2  # blocks in a stage, or fewer where there are fewer


def forward(
    weights: Weights, images: Array, is_training: bool = False
) -> tuple[Array, dict]:
    """Pixels from 0 to 255, [image, height, width, 3], to logits, [image, class], and
    in training the means and variances of the batch by layer."""
    normalize, statistics = batch_norm_by(weights, is_training)

    def convolve(x, name, stride=1, padding=1):
        from jax import lax

        return lax.conv_general_dilated(
            x,
            weights[f"{name}/kernel"],
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    x = images.astype(weights["stem/kernel"].dtype)
    x = standardize(x, MEANS, DEVIATIONS).astype(x.dtype)
    x = relu(normalize(convolve(x, "stem"), "stem_norm"))
    for stage in range(1, NUM_STAGES + 1):
        for block in range(1, NUM_BLOCKS + 1):
            name = f"stage{stage}_block{block}"
            if f"{name}_conv1/kernel" not in weights:
                continue
            stride = 2 if stage > 1 and block == 1 else 1
            y = relu(normalize(convolve(x, f"{name}_conv1", stride), f"{name}_norm1"))
            y = normalize(convolve(y, f"{name}_conv2"), f"{name}_norm2")
            if f"{name}_projection/kernel" in weights:
                x = convolve(x, f"{name}_projection", stride, padding=0)
                x = normalize(x, f"{name}_projection_norm")
            x = relu(x + y)
    return dense(x.mean((1, 2)), weights, "outputs"), statistics


def logits(weights: Weights, images: np.ndarray) -> Array:
    """Of inference, by the moving statistics: [image, class]."""
    import jax

    return jax.jit(lambda *args: forward(*args)[0])(weights, images)


@functools.cache
def _loss_and_gradients() -> Any:
    import jax

    def loss(weights, images, labels):
        outputs, statistics = forward(weights, images, is_training=True)
        losses = -jax.nn.log_softmax(outputs)[np.arange(len(labels)), labels]
        return losses.mean(), (outputs, statistics)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def loss_and_gradients(
    weights: Weights, images: np.ndarray, labels: np.ndarray
) -> tuple[tuple[Array, tuple[Array, dict]], Weights]:
    """(the mean cross entropy, (logits, statistics)) in training, and the gradients of
    the weights, which are those that train."""
    value, gradients = _loss_and_gradients()(weights, images, labels)
    return value, {name: np.asarray(g) for name, g in gradients.items()}


def sam_step(
    weights: Weights,
    velocities: Weights,
    images: np.ndarray,
    labels: np.ndarray,
    rho: float,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
) -> tuple[float, Weights, Weights]:
    """The first pass's loss, and weights and velocities after a step of SAM."""
    trained = {k: w for k, w in weights.items() if "/moving_" not in k}
    (loss, (_, statistics)), g = loss_and_gradients(trained, images, labels)
    norm = np.sqrt(sum(np.sum(np.square(v)) for v in g.values())) + 1e-12
    perturbed = {k: w + rho * g[k] / norm for k, w in trained.items()}
    _, g = loss_and_gradients(perturbed, images, labels)
    velocities = {
        k: momentum * velocities.get(k, 0) + g[k] + weight_decay * w
        for k, w in trained.items()
    }
    new = {k: w - learning_rate * velocities[k] for k, w in trained.items()}
    for layer, values in statistics.items():
        for kind, value in zip(("mean", "variance"), values, strict=True):
            path = f"{layer}/moving_{kind}"
            new[path] = 0.9 * weights[path] + 0.1 * np.asarray(value)
    return float(loss), new, velocities
