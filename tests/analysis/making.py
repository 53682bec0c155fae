"""Models whose curvature is known, and networks to compare backends on."""

import keras
import numpy as np
from keras import layers, ops

from samkeras.analysis import DataLoss


class Quadratic(keras.layers.Layer):
    """x: [batch, n, n] -> w'xw / 2 for weights w of n entries, some of them in a first
    weight and the others in a second one."""

    def build(self, shape):
        first = shape[-1] // 3
        self.parts = [
            self.add_weight(shape=(size,), initializer="normal", name=f"part_{size}")
            for size in (first, shape[-1] - first)
        ]

    def call(self, x):
        weights = ops.concatenate([ops.convert_to_tensor(w) for w in self.parts])
        return ops.einsum("i,bij,j->b", weights, x, weights)[:, None] / 2


def return_prediction(y_true, y_pred):
    return y_pred[:, 0]


def build_quadratic(matrices: np.ndarray, **options) -> tuple[keras.Model, tuple]:
    """A model whose loss on an example is w'Aw / 2, with its matrices A as data."""
    inputs = keras.Input(matrices.shape[1:], dtype=matrices.dtype.name)
    model = keras.Model(inputs, Quadratic(name="quadratic")(inputs))
    model.compile(loss=return_prediction, **options)
    return model, (matrices, np.zeros((len(matrices), 1), matrices.dtype))


def rotate(values: list[float], seed: int = 0) -> np.ndarray:
    """A symmetric float32 matrix of these eigenvalues."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.standard_normal((len(values),) * 2))
    return ((basis * values) @ basis.T).astype("float32")


def build_linear(outputs: int, features: int, loss: object, **options) -> keras.Model:
    """One dense layer without a bias."""
    inputs = keras.Input((features,))
    model = keras.Model(inputs, layers.Dense(outputs, use_bias=False)(inputs))
    model.compile(loss=loss, **options)
    return model


def find_dense(data: DataLoss) -> np.ndarray:
    """The Hessian, product by product."""
    return np.stack([data.product(row) for row in np.eye(data.size)])


def fill(model: keras.Model, seed: int = 0) -> keras.Model:
    """Gives all weights the same values on both backends; variances are positive."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        scale = 1 / np.sqrt(max(weight.shape[0], 4))
        value = scale * rng.standard_normal(weight.shape)
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.path else value)
    return model


def build_convolutional() -> tuple[keras.Model, tuple]:
    """Convolutions, BatchNorm, max pooling and dropout."""
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.MaxPooling2D(2)(layers.Activation("tanh")(x))
    x = layers.Conv2D(4, 3, activation="gelu")(layers.Dropout(0.5)(x))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    return model, (np.random.default_rng(1).standard_normal((12, 8, 8, 2)), 3)


def build_lstm() -> tuple[keras.Model, tuple]:
    """Words of an embedding, 0 for none, in a bidirectional LSTM."""
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 4, mask_zero=True)(inputs)
    x = layers.Bidirectional(layers.LSTM(3, use_cudnn=False))(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    return model, (np.random.default_rng(1).integers(0, 9, (10, 6)), 2)


def build_attention() -> tuple[keras.Model, tuple]:
    """Self-attention, and normalization that differs from example to example."""
    inputs = keras.Input((5, 4))
    x = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    x = layers.LayerNormalization()(x + inputs)
    x = layers.GroupNormalization(2)(layers.Dense(4, activation="relu")(x))
    x = layers.GlobalAveragePooling1D()(layers.RMSNormalization()(x))
    model = keras.Model(inputs, layers.Dense(3)(x))
    return model, (np.random.default_rng(1).standard_normal((10, 5, 4)), 3)


NETWORKS = {
    "convolutional": build_convolutional,
    "lstm": build_lstm,
    "attention": build_attention,
}


def build_network(name: str) -> tuple[keras.Model, tuple]:
    """One of these, of the same weights on both backends, and its data."""
    model, (x, classes) = NETWORKS[name]()
    y = np.random.default_rng(2).integers(0, classes, len(x))
    x = x.astype("int32" if x.dtype.kind == "i" else "float32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss)
    return fill(model), (x, y.astype("int32"))
