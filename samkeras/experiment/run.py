"""One run: its data, model and training, recorded in MLflow."""

import dataclasses
import importlib
import importlib.metadata
import math
import platform
import random
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

import samkeras
from samkeras.data.batches import EpochBatches
from samkeras.data.label_noise import add_label_noise
from samkeras.errors import InputError
from samkeras.experiment.config import (
    Config,
    fingerprint,
    result_fields,
    save_config,
)
from samkeras.experiment.progress import ProgressDisplay
from samkeras.experiment.tracking import RunLogger, Tracker
from samkeras.seeds import derive_seed
from samkeras.workload import DataInfo, Splits, Workload

PERTURBATIONS = {
    "sam": samkeras.SAM,
    "unnormalized": samkeras.UnnormalizedSAM,
    "random": samkeras.RandomPerturbation,
}


@dataclass(frozen=True)
class Result:
    """What came out of a run; without metrics if it failed."""

    config: Config
    num_params: int
    best: float | None = None
    final: float | None = None
    seconds: float | None = None
    failure: str | None = None


class NotFiniteError(RuntimeError):
    """The training loss or the validation metric is infinite or not a number."""


def find_workload(name: str) -> Workload:
    """The workload of the module workloads/<name>.py."""
    return importlib.import_module(f"workloads.{name}").workload


def load_data(config: Config) -> Splits:
    """The data of a run, cut to the first examples that it asks for."""
    splits = find_workload(config.workload).load(config)
    limits = (config.train_examples, config.validation_examples)
    sizes = (splits.info.num_train, splits.info.num_validation)
    for limit, size, name in zip(limits, sizes, ("train", "validation"), strict=True):
        if limit and size and limit > size:
            raise InputError(
                f"--{name}_examples must be at most {size}, the examples of "
                f"{splits.info.name}. Received: {limit}"
            )
    if config.label_noise and not splits.info.is_classification:
        raise InputError(
            f"--label_noise needs classes to confuse, and {splits.info.name} is a "
            "regression"
        )
    sizes = [limit or size for limit, size in zip(limits, sizes, strict=True)]
    info = dataclasses.replace(splits.info, num_train=sizes[0], num_validation=sizes[1])

    def read():
        (x, y), (x_val, y_val) = splits.train, splits.validation
        first, first_val = (slice(limit) for limit in limits)
        return (x[first], y[first]), (x_val[first_val], y_val[first_val])

    return Splits(info, read)


def build_model(config: Config, info: DataInfo) -> keras.Model:
    """The run's model, uncompiled, initialized by the run's seed."""
    keras.config.set_dtype_policy(config.precision)
    # Keras draws the seeds of initializers and dropout from Python's generator;
    # keras.utils.set_random_seed would import TensorFlow for every backend.
    random.seed(derive_seed(config.seed, "init"))
    return find_workload(config.workload).build(config, info)


def count_params(model: keras.Model) -> int:
    """Number of trainable parameters."""
    return sum(math.prod(v.shape) for v in model.trainable_variables)


def steps_per_epoch(config: Config, num_train: int) -> int:
    return -(-num_train // config.batch_size)


def learning_rate(config: Config, epoch: int) -> float:
    """The learning rate of an epoch: dropped after each milestone passed."""
    drops = sum(epoch >= round(m * config.epochs) for m in config.lr_milestones)
    return config.learning_rate * config.lr_decay**drops


def run_name(config: Config) -> str:
    rule = "" if config.perturbation == "sam" else f"_{config.perturbation}"
    trained = f"sam{rule}{config.rho:g}" if config.sam else config.optimizer
    return f"{config.workload}_w{config.width_mult:g}_{trained}_s{config.seed}"


def train(
    config: Config,
    splits: Splits,
    tracker: Tracker,
    parent: RunLogger | None,
    progress: ProgressDisplay,
) -> Result:
    """Trains one run and records it. A failure is recorded and returned."""
    started = time.monotonic()
    model = build_model(config, splits.info)
    result = Result(config, count_params(model))
    backend = keras.backend.backend()
    name, mark = run_name(config), fingerprint(config, backend)
    tags = {"workload": config.workload, "fingerprint": mark}
    folder = Path(config.run_dir) / f"{name}_{mark[:8]}"
    try:
        logger = tracker.start(name, tags, parent, folder, fresh=config.rerun)
    except InputError as error:
        return dataclasses.replace(result, failure=str(error))
    try:
        _record_setup(logger, config, model, folder)
        recorder = _fit(config, model, splits, logger, progress)
        _record_best(logger, model, recorder, folder)
        logger.end("FINISHED")
    except KeyboardInterrupt:
        logger.end("KILLED", "interrupted")
        raise
    except Exception as error:
        failure = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        logger.end("FAILED", failure)
        return dataclasses.replace(result, failure=failure)
    return dataclasses.replace(
        result,
        best=recorder.best,
        final=recorder.final,
        seconds=time.monotonic() - started,
    )


class Recorder(keras.callbacks.Callback):
    """Records a run's epochs: metrics, the best of them and its weights."""

    # Keras then calls on_train_batch_end without waiting for the step's results.
    async_safe = True

    def __init__(
        self,
        config: Config,
        batches: EpochBatches,
        logger: RunLogger,
        progress: ProgressDisplay,
        num_train: int,
    ):
        super().__init__()
        workload = find_workload(config.workload)
        self.monitor, self._mode = workload.monitor, workload.mode
        self.best = self.best_epoch = self.best_weights = self.final = None
        self._config, self._batches, self._num_train = config, batches, num_train
        self._logger, self._progress = logger, progress

    def on_epoch_begin(self, epoch, logs=None):
        self._batches.start_epoch(epoch)
        self._epoch, self._started = epoch, time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        self._reach(batch + 1)

    def on_test_begin(self, logs=None):
        seconds = time.monotonic() - self._started
        self._examples_per_second = self._num_train / seconds

    def on_epoch_end(self, epoch, logs=None):
        value = logs[self.monitor]
        metrics = {
            **logs,
            "learning_rate": learning_rate(self._config, epoch),
            "examples_per_second": self._examples_per_second,
        }
        self._logger.log_metrics(metrics, step=epoch)
        if not (math.isfinite(value) and math.isfinite(logs["loss"])):
            raise NotFiniteError(
                f"epoch {epoch}: loss={logs['loss']:g}, {self.monitor}={value:g}; "
                "try a lower learning_rate or rho"
            )
        self.final = value
        if self.best is None or (value > self.best) == (self._mode == "max"):
            self.best, self.best_epoch = value, epoch
            # Copies, because the backend reuses the memory of the weights.
            self.best_weights = [np.array(w) for w in self.model.get_weights()]
        self._reach(self._batches.num_batches)
        shown = {name: logs[name] for name in ("loss", self.monitor)}
        self._progress.end_epoch(epoch, self._config.epochs, shown)

    def _reach(self, step: int) -> None:
        """Shows how far the run is: at the `step`-th step of the current epoch."""
        per_epoch = self._batches.num_batches
        steps = self._epoch * per_epoch + min(step, per_epoch)
        self._progress.reach(count_work(self._config, steps))


def count_work(config: Config, steps: int) -> float:
    """The work of a number of a run's steps, in gradients."""
    return steps * (2 if config.sam else 1)


def _fit(
    config: Config,
    model: keras.Model,
    splits: Splits,
    logger: RunLogger,
    progress: ProgressDisplay,
) -> Recorder:
    workload = find_workload(config.workload)
    x, y = splits.train
    if config.label_noise:
        seed = derive_seed(config.seed, "label_noise")
        y = add_label_noise(y, config.label_noise, splits.info.num_outputs, seed)
    order_seed = derive_seed(config.seed, "order")
    batches = EpochBatches(x, y, config.batch_size, order_seed)
    is_sgd = config.optimizer == "sgd"
    model.compile(
        optimizer=_build_optimizer(config, batches.num_batches),
        loss=workload.loss,
        metrics=list(workload.metrics),
        perturbation=PERTURBATIONS[config.perturbation](config.rho)
        if config.sam
        else None,
        l2=config.weight_decay if is_sgd else 0.0,
        steps_per_execution=min(config.steps_per_execution, batches.num_batches),
        jit_compile=_choose_jit_compile(model),
    )
    recorder = Recorder(config, batches, logger, progress, len(x))
    model.fit(
        batches,
        epochs=config.epochs,
        validation_data=splits.validation,
        validation_batch_size=config.batch_size,
        callbacks=[recorder],
        # The batches' own order is a function of the epoch; keras would shuffle it.
        shuffle=False,
        verbose=0,
    )
    return recorder


def _choose_jit_compile(model: keras.Model) -> bool | str:
    """Whether to compile the steps with XLA, or to leave the choice to keras.

    Keras leaves XLA off for TensorFlow on CPU. There it makes dense networks faster
    (benchmarks/step_time.py: a quarter for LeNet-300-100) and convolutions slower.
    """
    convolutions = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
    convolves = any(isinstance(layer, convolutions) for layer in model.layers)
    return "auto" if convolves else True


def _build_optimizer(config: Config, steps: int) -> keras.optimizers.Optimizer:
    """The base optimizer; `steps` is the number of steps of an epoch."""
    rate = learning_rate(config, 0)
    drops = sorted({round(m * config.epochs) for m in config.lr_milestones} - {0})
    if drops:
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(
            # Keras changes the rate after the boundary, not at it.
            [epoch * steps - 1 for epoch in drops],
            [rate, *(learning_rate(config, epoch) for epoch in drops)],
        )
    if config.optimizer == "sgd":
        return samkeras.SGD(rate, momentum=config.momentum)
    return keras.optimizers.AdamW(rate, weight_decay=config.weight_decay)


def _record_setup(
    logger: RunLogger, config: Config, model: keras.Model, folder: Path
) -> None:
    backend = keras.backend.backend()
    devices = keras.distribution.list_devices()
    logger.log_params(
        {
            **dataclasses.asdict(config),
            **result_fields(config),
            "num_params": count_params(model),
            "keras_backend": backend,
            "device": devices[0].split(":")[0],
            "num_devices": len(devices),
            "keras_version": keras.__version__,
            f"{backend}_version": importlib.metadata.version(backend),
            "samkeras_version": samkeras.__version__,
            "python_version": platform.python_version(),
        }
    )
    save_config(config, folder / "config.yaml")
    with open(folder / "model_summary.txt", "w") as file:
        model.summary(print_fn=lambda line: print(line, file=file))
    for name in ("config.yaml", "model_summary.txt"):
        logger.log_file(folder / name)


def _record_best(
    logger: RunLogger, model: keras.Model, recorder: Recorder, folder: Path
) -> None:
    metrics = {
        f"best_{recorder.monitor}": recorder.best,
        "best_epoch": recorder.best_epoch,
        f"final_{recorder.monitor}": recorder.final,
    }
    logger.log_metrics(metrics, step=0)  # one value each, which MLflow draws as bars
    model.set_weights(recorder.best_weights)
    model.save_weights(folder / "best.weights.h5")
    logger.log_file(folder / "best.weights.h5")
