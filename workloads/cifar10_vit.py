"""A vision transformer on CIFAR-10, or any other image classification set."""

import keras

from samkeras.data.images import load_images
from samkeras.experiment.tasks import Supervised
from samkeras.models.vit import build_vit
from samkeras.workload import Workload

workload = Workload(
    task=Supervised(),
    load=lambda config: load_images(
        config.dataset, config.data_dir, config.image_size, channels=3, smallest=4
    ),
    build=lambda config, info: build_vit(
        info.input_shape, info.num_outputs, config.width_mult, depth=config.depth
    ),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
    monitor="val_accuracy",
    mode="max",
)
