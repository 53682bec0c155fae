"""A bidirectional LSTM with attention on SST-2, or other sentences of two classes."""

import functools

import keras

from samkeras.data.sentences import load_sentences
from samkeras.experiment.tasks import Supervised
from samkeras.models.lstm import build_lstm
from samkeras.workload import Workload

workload = Workload(
    task=Supervised(),
    load=lambda config: load_sentences(
        config.dataset, config.data_dir, config.max_length
    ),
    build=lambda config, info: build_lstm(
        info.vocabulary_size,
        info.num_outputs,
        config.width_mult,
        depth=config.depth,
        dropout=config.dropout,
    ),
    loss=keras.losses.BinaryCrossentropy(from_logits=True),
    metrics=[
        functools.partial(
            keras.metrics.BinaryAccuracy, threshold=0.0, name="accuracy"
        )  # of logits
    ],
    monitor="val_accuracy",
    mode="max",
    version=2,  # the vocabulary, and the marks at both ends of a sentence
)
