"""LeNet-300-100 on MNIST with a squared loss: how sharp are the minima?"""

from samkeras.data.images import load_images
from samkeras.experiment.tasks import Supervised
from samkeras.workload import Workload


def build(config, info):
    from samkeras.models.mlp import build_mlp

    return build_mlp(
        info.input_shape,
        info.num_outputs,
        [300, 100],
        config.width_mult,
        depth=config.depth,
        input_scale=1 / 255,
    )


def loss(config):
    """The squared error to one-hot labels, a mean over examples and outputs."""
    from samkeras.linearized import ScaledSquaredError

    return ScaledSquaredError(1.0, name="squared_error")


workload = Workload(
    task=Supervised(),
    load=lambda config: load_images(config.dataset, config.data_dir),
    build=build,
    loss=loss,
    metrics=["accuracy"],
    monitor="val_accuracy",
    mode="max",
)
