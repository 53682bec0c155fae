"""A graph convolutional network that predicts numbers, such as what molecules do."""

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
    from samkeras.losses import PresentSquaredError

    return PresentSquaredError()


workload = Workload(
    task=Supervised(),
    load=lambda config: load_molecules(
        config.dataset,
        config.data_dir,
        config.text_column,
        config.label_column,
        is_regression=True,
    ),
    build=build,
    loss=loss,
    metrics=[],
    monitor="val_loss",
    mode="min",
)
