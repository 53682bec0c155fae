"""A two-layer network whose first layer alone is trained."""

from samkeras.data.theory_sets import demand, load_allen_zhu
from samkeras.experiment.tasks import Supervised
from samkeras.workload import Splits, Workload


def load(config) -> Splits:
    demand("allen_zhu", config.dataset)
    return load_allen_zhu()


def build(config, info):
    from samkeras.models.theory_nets import build_allen_zhu

    return build_allen_zhu(config.width_mult)


def loss(config):
    from samkeras.models.theory_nets import SumOfSquares

    return SumOfSquares()


workload = Workload(
    task=Supervised(),
    load=load,
    build=build,
    loss=loss,
    metrics=[],
    monitor="val_loss",
    mode="min",
)
