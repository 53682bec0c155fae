"""Losses of labels that may be missing."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="samkeras")
class TokenCrossentropy(keras.losses.Loss):
    """Softmax cross-entropy, the sum over an example's tokens.

    Its batches weigh examples by one over their mean number of tokens. So the loss is
    that of a token, and all tokens count alike; a mean over each batch's tokens would
    make more of those in batches of short sentences.

    y_true: int[example, token], classes; negative where there is none to learn.
    y_pred: float[example, token, class], logits.
    """

    def __init__(self, reduction="sum_over_batch_size", name="token_crossentropy"):
        super().__init__(name, reduction)

    def call(self, y_true, y_pred):
        y_true = ops.cast(y_true, "int32")
        losses = ops.sparse_categorical_crossentropy(
            ops.maximum(y_true, 0), y_pred, from_logits=True
        )
        return ops.sum(ops.where(y_true >= 0, losses, 0.0), -1)


@keras.saving.register_keras_serializable(package="samkeras")
class PresentSquaredError(keras.losses.Loss):
    """The squared error of each label, the mean over those of weight > 0.

    y_true: float[example, label]. y_pred: float[example, label].
    """

    def __init__(self, reduction="mean_with_sample_weight", name="squared_error"):
        super().__init__(name, reduction)

    def call(self, y_true, y_pred):
        return ops.square(y_pred - ops.cast(y_true, y_pred.dtype))


@keras.saving.register_keras_serializable(package="samkeras")
class ClassCrossentropy(keras.losses.Loss):
    """Sigmoid cross-entropy of one output, whose labels are 0 or 1, and softmax
    cross-entropy of several, whose labels are classes.

    y_true: int[example]. y_pred: float[example, output], logits.
    """

    def __init__(self, reduction="sum_over_batch_size", name="class_crossentropy"):
        super().__init__(name, reduction)
        self._binary = keras.losses.BinaryCrossentropy(from_logits=True)
        self._sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def call(self, y_true, y_pred):
        loss = self._binary if y_pred.shape[-1] == 1 else self._sparse
        return loss.call(y_true, y_pred)


@keras.saving.register_keras_serializable(package="samkeras")
class PresentBinaryCrossentropy(keras.losses.Loss):
    """Sigmoid cross-entropy of each binary label, the mean over those of weight > 0.

    y_true: float[example, label], 0 or 1. y_pred: float[example, label], logits.
    """

    def __init__(self, reduction="mean_with_sample_weight", name="binary_crossentropy"):
        super().__init__(name, reduction)

    def call(self, y_true, y_pred):
        # keras.losses.BinaryCrossentropy takes the mean over an example's labels before
        # they are weighted.
        return ops.binary_crossentropy(y_true, y_pred, from_logits=True)
