"""A linear map as a product of two matrices: does SAM converge linearly?"""

from dataclasses import dataclass

from samkeras.data.theory_sets import demand, load_factorization
from samkeras.experiment.options import Options, PositiveFloat
from samkeras.experiment.tasks import Supervised
from samkeras.workload import Splits, Workload


@dataclass(frozen=True, kw_only=True)
class Matrix(Options):
    condition_number: PositiveFloat | None = None
    """of the map; null: of the cited code's, about 20"""


def load(config) -> Splits:
    demand("matrix_factorization", config.dataset)
    return load_factorization(config.condition_number)


def build(config, info):
    from samkeras.models.theory_nets import build_factorization

    return build_factorization(config.width_mult)


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
