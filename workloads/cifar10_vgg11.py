"""VGG-11 on CIFAR-10, or any other image set; with --alpha in the linear regime."""

from samkeras.data.images import load_images
from samkeras.experiment.tasks import Supervised
from samkeras.workload import Workload


def build(config, info):
    from samkeras.models.vgg import build_vgg11

    return build_vgg11(
        info.input_shape, info.num_outputs, config.width_mult, depth=config.depth
    )


def loss(config):
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


workload = Workload(
    task=Supervised(),
    load=lambda config: load_images(
        config.dataset, config.data_dir, config.image_size, channels=3, smallest=32
    ),
    build=build,
    loss=loss,
    metrics=["accuracy"],
    monitor="val_accuracy",
    mode="max",
    version=2,  # of another start
)
