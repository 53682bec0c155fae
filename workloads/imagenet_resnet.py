"""ResNet-50, -101 or -152 on ImageNet, or any other image classification set."""

from samkeras.data.imagenet import load_imagenet
from samkeras.experiment.tasks import Supervised
from samkeras.workload import Workload


def build(config, info):
    from samkeras.models.resnet import build_imagenet_resnet

    return build_imagenet_resnet(
        info.input_shape, info.num_outputs, config.width_mult, depth=config.depth
    )


def loss(config):
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def top_5():
    import keras

    from samkeras.scores import top_5_accuracy

    return keras.metrics.MeanMetricWrapper(top_5_accuracy, "top_5_accuracy")


workload = Workload(
    task=Supervised(),
    load=lambda config: load_imagenet(
        config.dataset, config.data_dir, config.image_size
    ),
    build=build,
    loss=loss,
    metrics=["accuracy", top_5],
    monitor="val_accuracy",
    mode="max",
)
