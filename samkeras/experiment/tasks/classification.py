"""What workloads of classification share: loss and metric, made where a run trains."""

from typing import TYPE_CHECKING, Any

from samkeras.experiment.options.groups import LabelSmoothing

if TYPE_CHECKING:  # to look up finished runs takes none of the seconds that it takes
    import keras


def crossentropy(config: Any) -> "keras.losses.Loss":
    """Softmax cross-entropy of classes, or of their shares, smoothed as a run's options
    have it."""
    from samkeras.losses import SmoothedCrossentropy

    return SmoothedCrossentropy(LabelSmoothing.of(config).label_smoothing)


def accuracy() -> "keras.metrics.Metric":
    """The fraction of examples that are classified right, of labels that may be the
    classes' shares."""
    import keras

    from samkeras.scores import class_accuracy

    return keras.metrics.MeanMetricWrapper(class_accuracy, "accuracy")
