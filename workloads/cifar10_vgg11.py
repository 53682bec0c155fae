"""VGG-11 on CIFAR-10, or any other image set; with --alpha in the linear regime."""

import keras

from samkeras.data.images import load_images
from samkeras.experiment.tasks import Supervised
from samkeras.models.vgg import build_vgg11
from samkeras.workload import Workload

workload = Workload(
    task=Supervised(),
    load=lambda config: load_images(
        config.dataset, config.data_dir, config.image_size, channels=3, smallest=32
    ),
    build=lambda config, info: build_vgg11(
        info.input_shape, info.num_outputs, config.width_mult, depth=config.depth
    ),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
    monitor="val_accuracy",
    mode="max",
)
