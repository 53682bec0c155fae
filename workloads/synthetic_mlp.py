"""Teacher-student regression with a two-layer ReLU network; needs no data."""

from samkeras.data.teacher_student import load_teacher_student
from samkeras.errors import InputError
from samkeras.experiment.tasks import Supervised
from samkeras.workload import Splits, Workload


def load(config) -> Splits:
    """The generated data, of which there is one set."""
    if config.dataset != "teacher_student":
        raise InputError(
            "--dataset of workloads/synthetic_mlp must be teacher_student. Received: "
            f"{config.dataset}"
        )
    for name in ("train_examples", "validation_examples"):
        if getattr(config, name) is None:
            raise InputError(
                f"--{name} of workloads/synthetic_mlp must be a number: examples are "
                "generated. Received: null"
            )
    return load_teacher_student(config.train_examples, config.validation_examples)


def build(config, info):
    from samkeras.models.mlp import build_mlp

    return build_mlp(
        info.input_shape,
        info.num_outputs,
        [100],
        config.width_mult,
        depth=config.depth,
    )


def loss(config):
    import keras

    return keras.losses.MeanSquaredError()


workload = Workload(
    task=Supervised(),
    load=load,
    build=build,
    loss=loss,
    metrics=[],
    monitor="val_loss",
    mode="min",
)
