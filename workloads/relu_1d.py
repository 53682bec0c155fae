"""A one-hidden-layer ReLU network on twelve points: which function it comes to."""

from samkeras.data.theory_sets import demand, load_relu_1d
from samkeras.experiment.tasks import Supervised
from samkeras.workload import Splits, Workload


def load(config) -> Splits:
    demand("relu_1d", config.dataset)
    return load_relu_1d()


def build(config, info):
    from samkeras.models.theory_nets import build_relu_1d

    return build_relu_1d(config.width_mult)


def loss(config):
    """Half the sum of squares over a batch."""
    from samkeras.models.theory_nets import SumOfSquares

    return SumOfSquares(0.5 * config.batch_size)


workload = Workload(
    task=Supervised(),
    load=load,
    build=build,
    loss=loss,
    metrics=[],
    monitor="val_loss",
    mode="min",
)
