"""Scores of a whole validation set, which are no means over its examples."""

import keras
import numpy as np
from keras import ops

from samkeras.data.sequences import NO_LABEL


@keras.saving.register_keras_serializable(package="samkeras")
class TokenAccuracy(keras.metrics.Mean):
    """The fraction of tokens that are classified right, each of its example's weight.

    keras' own accuracy divides a batch's sums by its padded length first, so that
    tokens in batches of short sentences count more.

    y_true: int[example, token], classes; -1 where there is no token, other negative
        ones are never right.
    y_pred: float[example, token, class], logits.
    sample_weight: float[example]. None: 1 each.
    """

    def __init__(self, name="accuracy", dtype=None):
        super().__init__(name, dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        hits = keras.metrics.sparse_categorical_accuracy(y_true, y_pred)
        weights = ops.cast(ops.not_equal(y_true, NO_LABEL), hits.dtype)
        if sample_weight is not None:
            weights *= ops.cast(ops.expand_dims(sample_weight, -1), hits.dtype)
        return super().update_state(ops.reshape(hits, -1), ops.reshape(weights, -1))


def class_accuracy(y_true, y_pred):
    """Whether examples are classified right, float[example]: of logits, float[example,
    output], one for two classes or one for each.

    Labels are int[example], or float[example, class], the classes' shares, of which
    the largest is the label.
    """
    if y_pred.shape[-1] == 1:
        predicted = ops.squeeze(y_pred, -1) > 0
    else:
        predicted = ops.argmax(y_pred, -1)
        if len(y_true.shape) > 1 and y_true.shape[-1] == y_pred.shape[-1]:
            y_true = ops.argmax(y_true, -1)
    y_true = ops.reshape(y_true, (-1,))
    right = ops.equal(ops.cast(y_true, "int32"), ops.cast(predicted, "int32"))
    return ops.cast(right, y_pred.dtype)


def top_5_accuracy(y_true, y_pred):
    """Whether less than five classes have a larger logit than the label,
    float[example]: of int[example] and float[example, class]."""
    classes = ops.cast(ops.reshape(y_true, (-1, 1)), "int32")
    larger = y_pred > ops.take_along_axis(y_pred, classes, -1)
    return ops.cast(ops.sum(ops.cast(larger, "int32"), -1) < 5, y_pred.dtype)


def mean_average_precision(
    labels: np.ndarray, weights: np.ndarray, logits: np.ndarray
) -> float:
    """The average precision of each task, averaged over the tasks (Hu et al. 2020).

    Args:
        labels: [example, task], 0 or 1.
        weights: [example, task], 0 where the label is missing, otherwise above 0.
        logits: [example, task].

    Returns:
        The mean over the tasks with labels of both classes; NaN where there is none.
    """
    from sklearn.metrics import average_precision_score

    labels, weights, logits = (np.asarray(a) for a in (labels, weights, logits))
    # A label may say itself that it is missing.
    is_present = (weights > 0) & ~np.isnan(labels)
    precisions = []
    for task in range(labels.shape[1]):
        rows = is_present[:, task]
        actual = labels[rows, task] > 0.5
        if actual.any() and not actual.all():
            precision = average_precision_score(actual, logits[rows, task])
            precisions.append(precision)
    return float(np.mean(precisions)) if precisions else float("nan")
