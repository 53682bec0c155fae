"""Teacher-student regression with a two-layer ReLU network; needs no data."""

import keras

from samkeras.data.teacher_student import load_teacher_student
from samkeras.models.mlp import build_mlp
from samkeras.workload import Workload

workload = Workload(
    load=lambda config: load_teacher_student(
        config.train_examples, config.validation_examples
    ),
    build=lambda config, info: build_mlp(
        info.input_shape,
        info.num_outputs,
        [100],
        config.width_mult,
        depth=config.depth,
    ),
    loss=keras.losses.MeanSquaredError(),
    metrics=[],
    monitor="val_loss",
    mode="min",
)
