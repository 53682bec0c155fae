"""A linear map as a product of two matrices: does SAM converge linearly?"""

from dataclasses import dataclass

from samkeras.data.theory_sets import demand, load_factorization
from samkeras.experiment.options import Options, PositiveFloat, PositiveInt
from samkeras.experiment.tasks import Supervised
from samkeras.workload import Splits, Workload


@dataclass(frozen=True, kw_only=True)
class Matrix(Options):
    rank: PositiveInt = 10
    """that the product of matrices can have, at width_mult 1"""
    condition_number: PositiveFloat | None = None
    """of the map; null: of the cited code's, about 20"""


def load(config) -> Splits:
    demand("matrix_factorization", config.dataset)
    return load_factorization(config.condition_number)


def build(config, info):
    from samkeras.models.theory_nets import build_factorization

    return build_factorization(_find_rank(config))


def best_of_rank(config) -> float:
    """The smallest loss of the rank: the labels' mean square beyond their first
    singular vectors (Eckart and Young 1936)."""
    import numpy as np

    y = load(config).train.y
    values = np.linalg.svd(y, compute_uv=False)[_find_rank(config) :]
    # Past the rank of the map itself they are rounding.
    kept = values[values > 1e-12 * np.linalg.norm(y)]
    return float(np.sum(kept**2) / len(y))


def _find_rank(config) -> int:
    from samkeras.models.common import scale_width

    return scale_width(config.rank, config.width_mult)


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
    bounds={"best_of_rank": best_of_rank},
)
