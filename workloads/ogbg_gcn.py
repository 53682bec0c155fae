"""A graph convolutional network on ogbg-molpcba: 128 assays of a molecule."""

from samkeras.data.molecules import load_molecules
from samkeras.experiment.tasks import Supervised
from samkeras.losses import PresentBinaryCrossentropy
from samkeras.models.gcn import build_gcn
from samkeras.scores import mean_average_precision
from samkeras.workload import Workload

workload = Workload(
    task=Supervised(),
    load=lambda config: load_molecules(config.dataset, config.data_dir),
    build=lambda config, info: build_gcn(
        info.input_shape[-1],
        info.num_outputs,
        config.width_mult,
        depth=config.depth,
        dropout=config.dropout,
    ),
    loss=PresentBinaryCrossentropy(),
    metrics=[],
    monitor="val_mean_average_precision",
    mode="max",
    score=lambda labels, weights, logits: {
        "mean_average_precision": mean_average_precision(labels, weights, logits)
    },
    version=2,  # self edges count twice
)
