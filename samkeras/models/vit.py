"""Vision transformers (Dosovitskiy et al. 2021)."""

from typing import Any

import keras
from keras import layers

from samkeras.model import SAMModel
from samkeras.models.common import logits, scale_width
from samkeras.models.images import CIFAR10_STATISTICS, standardize
from samkeras.models.normalization import LayerNorm

Tensor = Any

HIDDEN, HEAD, PATCH, DEPTH = 512, 64, 4, 6
# A normal distribution cut at two deviations has this deviation.
TRUNCATION = 0.87962566103423978


def build_vit(
    input_shape: tuple[int, int, int],
    num_outputs: int,
    width_mult: float = 1.0,
    *,
    depth: int | None = None,
) -> SAMModel:
    """A pre-LayerNorm encoder over patches of 4x4 pixels with learned positions and
    mean pooling.

    Args:
        input_shape: (height, width, 3) of images with pixels from 0 to 255, multiples
            of 4.
        num_outputs: number of classes, not scaled.
        width_mult: factor of the hidden size, 512. The MLP, four times as wide, and the
            number of heads, one for 64 of it, scale with it (paper, section 5.3).
        depth: number of encoder blocks. None (default): 6.

    Returns:
        An uncompiled SAMModel with logits as outputs. Kernels start lecun-normal.
    """
    hidden = scale_width(HIDDEN, width_mult)
    inputs = keras.Input(input_shape)
    x = standardize(inputs, CIFAR10_STATISTICS)
    x = layers.Conv2D(
        hidden, PATCH, strides=PATCH, kernel_initializer="lecun_normal", name="patches"
    )(x)
    x = layers.Reshape((-1, hidden), name="tokens")(x)
    x = PositionEmbedding(name="positions")(x)
    for number in range(1, (depth or DEPTH) + 1):
        x = _encoder_block(x, hidden, f"block{number}")
    x = LayerNorm(name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return SAMModel(inputs, logits(x, num_outputs))


@keras.saving.register_keras_serializable(package="samkeras")
class PositionEmbedding(layers.Layer):
    """Adds a learned vector to each token: float[batch, token, hidden] to the same."""

    def build(self, input_shape):
        self.positions = self.add_weight(
            shape=input_shape[1:],
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="positions",
        )

    def call(self, tokens):
        return tokens + keras.ops.cast(self.positions, tokens.dtype)


def _encoder_block(x: Tensor, hidden: int, name: str) -> Tensor:
    num_heads = max(1, hidden // HEAD)
    y = LayerNorm(name=f"{name}_norm1")(x)
    y = layers.MultiHeadAttention(
        num_heads,
        hidden // num_heads,
        # Lecun-normal for inputs of the hidden size, which keras' own initializer does
        # not see in a kernel of three axes.
        kernel_initializer=keras.initializers.TruncatedNormal(
            stddev=hidden**-0.5 / TRUNCATION
        ),
        name=f"{name}_attention",
    )(y, y)
    x = layers.add([x, y])
    y = LayerNorm(name=f"{name}_norm2")(x)
    for width, activation in ((4 * hidden, "gelu"), (hidden, None)):
        layer = "mlp_in" if activation else "mlp_out"
        y = layers.Dense(
            width,
            activation,
            kernel_initializer="lecun_normal",
            name=f"{name}_{layer}",
        )(y)
    return layers.add([x, y])
