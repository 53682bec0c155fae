"""ResNet-50 on ImageNet, or any other image classification set."""

from samkeras.data.imagenet import load_imagenet
from samkeras.experiment.tasks import Supervised
from samkeras.workload import Workload


def build(config, info):
    from samkeras.models.resnet import build_resnet50

    return build_resnet50(
        info.input_shape, info.num_outputs, config.width_mult, depth=config.depth
    )


def loss(config):
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


workload = Workload(
    task=Supervised(),
    load=lambda config: load_imagenet(
        config.dataset, config.data_dir, config.image_size
    ),
    build=build,
    loss=loss,
    metrics=["accuracy"],
    monitor="val_accuracy",
    mode="max",
    version=2,  # crops are drawn as the authors draw them
)
