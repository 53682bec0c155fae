"""PyramidNet-272 on CIFAR-10, or any other image classification set."""

from samkeras.data.images import load_images
from samkeras.experiment.tasks import Supervised
from samkeras.experiment.tasks.classification import accuracy, crossentropy
from samkeras.workload import Workload


def build(config, info):
    from samkeras.data.statistics import find_statistics
    from samkeras.models.pyramidnet import build_pyramidnet

    return build_pyramidnet(
        info.input_shape,
        info.num_outputs,
        config.width_mult,
        depth=config.depth,
        widening=config.widening,
        bottleneck=config.bottleneck,
        shake_drop=config.shake_drop,
        batch_norm=config.batch_norm,
        statistics=find_statistics(config.dataset, info.input_shape[-1]),
    )


workload = Workload(
    task=Supervised(),
    load=lambda config: load_images(config.dataset, config.data_dir, config.image_size),
    build=build,
    loss=crossentropy,
    metrics=[accuracy],
    monitor="val_accuracy",
    mode="max",
)
