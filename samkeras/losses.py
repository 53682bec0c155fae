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
class SmoothedCrossentropy(keras.losses.Loss):
    """Softmax cross-entropy of classes, or of their shares, as mixed examples have
    them; smoothed, a part of all labels is spread over the classes.

    y_true: int[example], or float[example, class], which sum up to 1.
    y_pred: float[example, class], logits.

    Args:
        label_smoothing: the part that is spread, in [0, 1). Default 0.
    """

    def __init__(
        self,
        label_smoothing=0.0,
        reduction="sum_over_batch_size",
        name="smoothed_crossentropy",
    ):
        super().__init__(name, reduction)
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        num_classes = y_pred.shape[-1]
        if y_true.shape[-1] != num_classes or len(y_true.shape) < 2:
            classes = ops.cast(ops.reshape(y_true, (-1,)), "int32")
            y_true = ops.one_hot(classes, num_classes, dtype=y_pred.dtype)
        kept = 1 - self.label_smoothing
        spread = self.label_smoothing / num_classes
        shares = kept * ops.cast(y_true, y_pred.dtype) + spread
        return -ops.sum(shares * ops.log_softmax(y_pred, axis=-1), axis=-1)

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


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
