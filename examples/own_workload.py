"""A workload of your own, outside the project: digits, with an option of its own.

This file and own_workload.yaml beside it are all that it takes: copy both anywhere. As
a program it trains one run without and one with SAM, and prints the table of both; more
options may follow, as they may after `python -m samkeras`, a `--sam` among them:

    KERAS_BACKEND=jax python examples/own_workload.py
    python -m samkeras examples/own_workload.py --sam true,false --hidden 32,128
"""

import sys
from dataclasses import dataclass

from samkeras.experiment.options import Options, PositiveInt
from samkeras.experiment.tasks import Supervised
from samkeras.workload import DataInfo, Splits, Workload


@dataclass(frozen=True, kw_only=True)
class Hidden(Options):
    hidden: PositiveInt = 64
    """neurons of the hidden layer, at width 1"""


def load(config) -> Splits:
    from sklearn.datasets import load_digits

    def read():
        x, y = load_digits(return_X_y=True)
        x, y = (x / 16).astype("float32"), y.astype("int32")
        return (x[:1200], y[:1200]), (x[1200:], y[1200:])

    info = DataInfo("digits", (64,), 10, 1200, 597, num_classes=10)
    return Splits(info, read=read)


def build(config, info):
    from samkeras.models.mlp import build_mlp

    return build_mlp(
        info.input_shape, info.num_outputs, [config.hidden], config.width_mult
    )


def loss(config):
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


workload = Workload(
    task=Supervised(),
    load=load,
    build=build,
    loss=loss,
    metrics=["accuracy"],
    monitor="val_accuracy",
    mode="max",
)

if __name__ == "__main__":
    from samkeras.experiment.command import main

    options = sys.argv[1:]
    if "--sam" not in {option.partition("=")[0] for option in options}:
        options += ["--sam", "true,false"]
    sys.exit(main([__file__, *options]))
