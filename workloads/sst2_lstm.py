"""A bidirectional LSTM with attention on SST-2, or other sentences of classes."""

from samkeras.data.sentences import load_sentences
from samkeras.experiment.tasks import Supervised
from samkeras.workload import Workload


def build(config, info):
    from samkeras.models.lstm import build_lstm

    return build_lstm(
        info.vocabulary_size,
        info.num_outputs,
        config.width_mult,
        depth=config.depth,
        dropout=config.dropout,
    )


def loss(config):
    from samkeras.losses import ClassCrossentropy

    return ClassCrossentropy()


def accuracy():
    import keras

    from samkeras.scores import class_accuracy

    return keras.metrics.MeanMetricWrapper(class_accuracy, "accuracy")


workload = Workload(
    task=Supervised(),
    load=lambda config: load_sentences(
        config.dataset,
        config.data_dir,
        config.max_length,
        config.text_column,
        config.label_column,
    ),
    build=build,
    loss=loss,
    metrics=[accuracy],
    monitor="val_accuracy",
    mode="max",
    version=2,  # the vocabulary, and the marks at both ends of a sentence
)
