"""The small networks of the paper's studies of theory."""

import keras
from keras import initializers, layers, ops

from samkeras.model import SAMModel
from samkeras.models.common import scale_width


@keras.saving.register_keras_serializable(package="samkeras")
class RandomSign(initializers.RandomUniform):
    """Plus or minus a size, with equal chance.

    Args:
        size: of all numbers.
        seed: int, or None (default): one at random.
    """

    def __init__(self, size: float, seed: int | None = None):
        super().__init__(-1.0, 1.0, seed)
        self.size = size

    def __call__(self, shape, dtype=None):
        return self.size * ops.sign(super().__call__(shape, dtype))

    def get_config(self):
        return {"size": self.size, "seed": super().get_config()["seed"]}


def build_relu_1d(width_mult: float = 1.0) -> SAMModel:
    """f(x) = sum_j c_j relu(w_j x + b_j) with 100 neurons j at width_mult 1 (figures 2
    and 3; Andriushchenko and Flammarion 2022), w of 2.5 or -2.5, b ~ 2.5 N(0, 1), c ~ 4
    N(0, 1)."""
    inputs = keras.Input((1,))
    x = layers.Dense(
        scale_width(100, width_mult),
        "relu",
        kernel_initializer=RandomSign(2.5),
        bias_initializer=initializers.RandomNormal(0.0, 2.5),
        name="hidden",
    )(inputs)
    c = initializers.RandomNormal(0.0, 4.0)
    outputs = layers.Dense(1, use_bias=False, kernel_initializer=c, name="outputs")(x)
    return SAMModel(inputs, outputs)


def build_factorization(rank: int = 10) -> SAMModel:
    """f(x) = W_2 W_1 x from 6 to 10 numbers, with `rank` numbers between (figure 6c);
    the weights are uniform within 1 / sqrt(fan-in), as PyTorch has it."""
    inputs = keras.Input((6,))
    sizes = {"hidden": rank, "outputs": 10}
    x = inputs
    for name, size in sizes.items():
        start = initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        x = layers.Dense(size, use_bias=False, kernel_initializer=start, name=name)(x)
    return SAMModel(inputs, x)


def build_allen_zhu(width_mult: float = 1.0) -> SAMModel:
    """f(x) = a . relu(W x + b) with m = 100 neurons at width_mult 1 (figure 21;
    Allen-Zhu et al. 2019): W and b ~ N(0, 1 / m), a ~ N(0, 1), of which W alone is
    trained."""
    width = scale_width(100, width_mult)
    inputs = keras.Input((4,))
    x = layers.Dense(
        width,
        use_bias=False,
        kernel_initializer=initializers.RandomNormal(0.0, width**-0.5),
        name="hidden",
    )(inputs)
    x = Offset(initializers.RandomNormal(0.0, width**-0.5), name="offset")(x)
    a = initializers.RandomNormal(0.0, 1.0)
    outputs = layers.Dense(
        1, use_bias=False, kernel_initializer=a, name="outputs", trainable=False
    )(layers.ReLU()(x))
    return SAMModel(inputs, outputs)


@keras.saving.register_keras_serializable(package="samkeras")
class Offset(layers.Layer):
    """Adds numbers that are not trained: float[batch, n] to the same.

    Args:
        initializer: of them.
        **kwargs: as of keras.layers.Layer.
    """

    def __init__(self, initializer, **kwargs):
        super().__init__(**{**kwargs, "trainable": False})
        self.initializer = initializers.get(initializer)

    def build(self, input_shape):
        self.offset = self.add_weight(
            shape=input_shape[1:], initializer=self.initializer, name="offset"
        )

    def call(self, inputs):
        return inputs + self.offset

    def get_config(self):
        kept = initializers.serialize(self.initializer)
        return {**super().get_config(), "initializer": kept}


@keras.saving.register_keras_serializable(package="samkeras")
class SumOfSquares(keras.losses.Loss):
    """The squared error, summed over outputs, times a factor; its mean is over the
    examples.

    Labels and outputs are float[batch, output].

    Args:
        factor: that factor. Default 1.
        name: of the loss.
        **kwargs: as of keras.losses.Loss.
    """

    def __init__(self, factor: float = 1.0, name: str = "sum_of_squares", **kwargs):
        super().__init__(name=name, **kwargs)
        self.factor = factor

    def call(self, y_true, y_pred):
        return self.factor * ops.sum(ops.square(y_pred - y_true), axis=-1)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}
