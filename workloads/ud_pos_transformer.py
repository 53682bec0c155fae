"""A transformer tags Ancient Greek with parts of speech, or any other treebank."""

from samkeras.data.treebank import load_treebank
from samkeras.experiment.tasks import Supervised
from samkeras.workload import Workload


def build(config, info):
    from samkeras.models.tagger import build_tagger

    return build_tagger(
        info.vocabulary_size,
        info.num_outputs,
        config.width_mult,
        depth=config.depth,
        dropout=config.dropout,
        word_dropout=config.word_dropout,
        word_counts=info.word_counts,
    )


def loss(config):
    from samkeras.losses import TokenCrossentropy

    return TokenCrossentropy()


def accuracy():
    from samkeras.scores import TokenAccuracy

    return TokenAccuracy()


workload = Workload(
    task=Supervised(),
    load=lambda config: load_treebank(
        config.dataset, config.data_dir, config.max_length, config.tags
    ),
    build=build,
    loss=loss,
    metrics=[accuracy],
    monitor="val_accuracy",
    mode="max",
    version=2,  # the embedding starts and is dropped out as Flax' example has it
)
