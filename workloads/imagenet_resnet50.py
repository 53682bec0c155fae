"""ResNet-50 on ImageNet, or any other image classification set."""

import keras

from samkeras.data.imagenet import load_imagenet
from samkeras.experiment.tasks import Supervised
from samkeras.models.resnet import build_resnet50
from samkeras.workload import Workload

workload = Workload(
    task=Supervised(),
    load=lambda config: load_imagenet(
        config.dataset, config.data_dir, config.image_size
    ),
    build=lambda config, info: build_resnet50(
        info.input_shape, info.num_outputs, config.width_mult, depth=config.depth
    ),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
    monitor="val_accuracy",
    mode="max",
    version=2,  # crops are drawn as the authors draw them
)
