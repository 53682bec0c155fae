"""LeNet-300-100 on MNIST, or any other image classification set."""

import keras

from samkeras.data.images import load_images
from samkeras.experiment.tasks import Supervised
from samkeras.models.mlp import build_mlp
from samkeras.workload import Workload

workload = Workload(
    task=Supervised(),
    load=lambda config: load_images(config.dataset, config.data_dir),
    build=lambda config, info: build_mlp(
        info.input_shape,
        info.num_outputs,
        [300, 100],
        config.width_mult,
        depth=config.depth,
        input_scale=1 / 255,
    ),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
    monitor="val_accuracy",
    mode="max",
)
