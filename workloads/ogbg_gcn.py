"""A graph convolutional network on ogbg-molpcba, or on other graphs of classes."""

from samkeras.data.molecules import load_molecules
from samkeras.experiment.tasks import Supervised
from samkeras.workload import Workload


def build(config, info):
    from samkeras.models.gcn import build_gcn

    return build_gcn(
        info.input_shape[-1],
        info.num_outputs,
        config.width_mult,
        depth=config.depth,
        dropout=config.dropout,
    )


def loss(config):
    from samkeras.losses import PresentBinaryCrossentropy

    return PresentBinaryCrossentropy()


def score(labels, weights, logits):
    from samkeras.scores import mean_average_precision

    return {"mean_average_precision": mean_average_precision(labels, weights, logits)}


workload = Workload(
    task=Supervised(),
    load=lambda config: load_molecules(
        config.dataset, config.data_dir, config.text_column, config.label_column
    ),
    build=build,
    loss=loss,
    metrics=[],
    monitor="val_mean_average_precision",
    mode="max",
    score=score,
    version=2,  # self edges count twice
)
