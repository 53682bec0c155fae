"""A transformer tags Ancient Greek with parts of speech, or any other treebank."""

from samkeras.data.treebank import load_treebank
from samkeras.experiment.tasks import Supervised
from samkeras.losses import TokenCrossentropy
from samkeras.models.tagger import build_tagger
from samkeras.scores import TokenAccuracy
from samkeras.workload import Workload

workload = Workload(
    task=Supervised(),
    load=lambda config: load_treebank(
        config.dataset, config.data_dir, config.max_length, config.tags
    ),
    build=lambda config, info: build_tagger(
        info.vocabulary_size,
        info.num_outputs,
        config.width_mult,
        depth=config.depth,
        dropout=config.dropout,
        word_dropout=config.word_dropout,
        word_counts=info.word_counts,
    ),
    loss=TokenCrossentropy(),
    metrics=[TokenAccuracy],
    monitor="val_accuracy",
    mode="max",
    version=2,  # the embedding starts and is dropped out as Flax' example has it
)
