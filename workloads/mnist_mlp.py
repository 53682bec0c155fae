"""LeNet-300-100 on MNIST, or any other image classification set."""

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
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


workload = Workload(
    task=Supervised(),
    load=lambda config: load_images(config.dataset, config.data_dir),
    build=build,
    loss=loss,
    metrics=["accuracy"],
    monitor="val_accuracy",
    mode="max",
)
