"""Two half moons of points: a workload with an option and a method of its own."""

from dataclasses import dataclass

import keras
from sklearn.datasets import make_moons

import samkeras
from samkeras.experiment.options import NonNegativeFloat, Options
from samkeras.experiment.tasks import Supervised
from samkeras.models.mlp import build_mlp
from samkeras.workload import DataInfo, Splits, Workload


@dataclass(frozen=True, kw_only=True)
class Moons(Options):
    spread: NonNegativeFloat = 0.2
    """standard deviation of the points"""


@keras.saving.register_keras_serializable(package="two_moons")
class Lookback(samkeras.Perturbation):
    """SAM's other side: the gradient at w - rho * g / |g|."""

    def epsilon(self, context):
        norm = sum(keras.ops.sum(g * g) for g in context.gradient) ** 0.5 + 1e-12
        return [-self.radius(context) * g / norm for g in context.gradient]


def load(config) -> Splits:
    def make(count, seed):
        x, y = make_moons(count, noise=config.spread, random_state=seed)
        return x.astype("float32"), y.astype("int32")

    info = DataInfo("two_moons", (2,), 2, 1000, 500, num_classes=2)
    return Splits(info, read=lambda: (make(1000, 0), make(500, 1)))


workload = Workload(
    task=Supervised(),
    load=load,
    build=lambda config, info: build_mlp((2,), 2, [32], config.width_mult),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
    monitor="val_accuracy",
    mode="max",
    methods={"lookback": lambda config: Lookback(config.rho)},
)
