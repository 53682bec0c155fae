"""One run: its data, model and training, recorded in MLflow."""

import contextlib
import dataclasses
import functools
import io
import math
import os
import random
import re
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

import samkeras
from samkeras.data.atari import Game
from samkeras.data.examples import Examples
from samkeras.errors import InputError
from samkeras.experiment.machine import find_versions
from samkeras.experiment.options.config import (
    plain_values,
    result_fields,
    to_yaml,
    with_new_names,
)
from samkeras.experiment.options.fingerprint import Marks, find_marks
from samkeras.experiment.options.groups import (
    Config,
    Dropout,
    LabelNoise,
    Linearized,
    check_groups,
)
from samkeras.experiment.options.methods import ARGUMENTS, CLASS_OPTIONS, CLASSES
from samkeras.experiment.options.session import Session
from samkeras.experiment.options.strict_yaml import read_yaml
from samkeras.experiment.runs import data
from samkeras.experiment.runs.checkpoint import Checkpoints, has_checkpoint
from samkeras.experiment.runs.interrupt import StopRequest
from samkeras.experiment.runs.progress import RunProgress
from samkeras.experiment.runs.recall import Recall
from samkeras.experiment.runs.recorder import Recorder
from samkeras.experiment.runs.result import Result
from samkeras.experiment.runs.schedule import build_schedule
from samkeras.experiment.tracking.record import Record, Tracker
from samkeras.files import replace_file
from samkeras.linearized import ScaledSquaredError, centre
from samkeras.methods import Method
from samkeras.model import SAMModel
from samkeras.pruning import count_kept, find_kernels
from samkeras.seeds import derive_seed
from samkeras.task import Task
from samkeras.workload import DataInfo, Splits, Workload

# Options that the library's messages mention, by the names of its arguments.
_LIBRARY_ARGUMENTS = re.compile(r"\b(allow_empty_layers|alpha|m_sharpness)\b")


@dataclass(frozen=True)
class Run:
    """A training of a workload's model.

    Attributes:
        config: what decides its result.
    """

    config: Config

    def __reduce__(self):
        return Run, (self.config,)  # a workload holds functions without a name

    @cached_property
    def workload(self) -> Workload:
        """What it trains.

        Raises:
            InputError: its module cannot be imported, or its options are not its
                task's.
        """
        workload = self.config.target.load()
        check_groups(self.config, workload.task.options, type(workload.task).__name__)
        return workload

    @property
    def task(self) -> Task:
        return self.workload.task

    @cached_property
    def passes(self) -> float:
        """Forward-backward passes of a step, the unit of a run's work."""
        method = build_method(self)
        return 1.0 if method is None else method.passes

    @property
    def name(self) -> str:
        config = self.config
        # Most names say of themselves that they are of SAM's family.
        method = config.method if "sam" in config.method else f"sam_{config.method}"
        trained = f"{method}{config.rho:g}" if config.sam else config.optimizer
        if config.is_pruned:
            trained = f"{config.pruner}_{trained}"
        return f"{config.workload}_w{config.width_mult:g}_{trained}_s{config.seed}"

    def find_marks(self, splits: Splits) -> Marks:
        """Its fingerprints on this backend."""
        content = splits.content and splits.content.digest
        backend = keras.backend.backend()
        return find_marks(self.config, self.workload.version, backend, content)

    def find_folder(self, run_dir: str, marks: Marks) -> tuple[Path, str]:
        """Its folder, and the fingerprint that its files there have: the one of 0.1
        where that version has begun it."""
        now, old = (Path(run_dir) / f"{self.name}_{mark[:8]}" for mark in marks)
        is_old = old.exists() and not now.exists()
        return (old, marks.old) if is_old else (now, marks.now)


def build_model(run: Run, info: DataInfo) -> SAMModel:
    """The run's model, uncompiled, initialized by the run's seed."""
    config = run.config
    keras.config.set_dtype_policy(config.precision)
    # Keras draws the seeds of initializers and dropout from Python's generator;
    # keras.utils.set_random_seed would import TensorFlow for every backend.
    random.seed(derive_seed(config.seed, "init"))
    return _build(run, info)


def _build(run: Run, info: DataInfo) -> SAMModel:
    config = run.config

    def build():
        model = run.workload.build(config, info)
        is_dropout = [isinstance(x, keras.layers.Dropout) for x in model.layers]
        if Dropout.of(config).dropout is not None and not any(is_dropout):
            raise InputError(f"--dropout: the model of {config.workload} has none")
        return model

    alpha = Linearized.of(config).alpha
    if alpha is None:
        return build()
    try:
        return centre(build, alpha)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(_name_options(str(error))) from None


class ModelSize(NamedTuple):
    """Trainable parameters of a run's model, and those left after pruning."""

    num_params: int
    num_nonzero: int
    sparsity: float


def measure_size(run: Run, info: DataInfo) -> ModelSize:
    """The size of a run's model, known without the memory for it; measured once for
    all runs whose options that it depends on are the same.

    Raises:
        InputError: the biases alone are more than the dense model of match_width has.
    """
    measure = functools.partial(_measure_size, info=info)
    return _sizes.call((run.workload.build, info), measure, run.config)


_sizes: Recall[ModelSize] = Recall()


def _measure_size(config: Config, info: DataInfo) -> ModelSize:
    run = Run(config)
    # In a stateless scope variables have shapes but no values: no memory, no time.
    with keras.StatelessScope(initialize_variables=False):
        model = _build(run, info)
        num_params = count_params(model.trainable_variables)
        if not config.is_pruned:
            return ModelSize(num_params, num_params, 0.0)
        size = count_params(find_kernels(model))
        sparsity = config.sparsity or 0.0  # or match_width says it
        if config.match_width is not None:
            dense = dataclasses.replace(config, width_mult=config.match_width)
            dense_model = _build(Run(dense), info)
            target = count_params(dense_model.trainable_variables)
            num_kept = target - (num_params - size)
            if num_kept < 1:
                raise InputError(
                    f"--match_width {config.match_width:g}, of {target:,} "
                    f"parameters, is too small: --width_mult {config.width_mult:g} has "
                    f"{num_params - size:,} outside its kernels, never pruned"
                )
            sparsity = 1 - num_kept / size
    return ModelSize(
        num_params, num_params - size + count_kept(size, sparsity), sparsity
    )


def count_params(weights: list[keras.Variable]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


def train(
    run: Run,
    session: Session,
    splits: Splits,
    tracker: Tracker,
    parent: str | None,
    progress: RunProgress,
) -> Result:
    """Trains one run and records it, in the scope of its devices. A failure is recorded
    and returned.

    Args:
        parent: id of the record of the run that this one is nested in, if it is.
    """
    started, config = time.monotonic(), run.config
    size = measure_size(run, splits.info)
    result = Result(config, size.num_params, size.num_nonzero)
    try:
        _check_memory(run, size)
        model = build_model(run, splits.info)
    except InputError:
        raise
    except Exception as error:
        return dataclasses.replace(result, failure=_explain(error, config))
    try:
        logger, mark = start_record(run, session, splits, tracker, parent)
    except (InputError, OSError) as error:
        return dataclasses.replace(result, failure=str(error))
    folder = logger.folder
    checkpoints = Checkpoints(folder, mark, progress.say)
    try:
        if session.rerun:
            checkpoints.clear()
        if parent is None:
            _mention_other_config(run, folder, progress)
        _record_setup(logger, run, session, size, model, splits)
        examples = splits.train
        if LabelNoise.of(config).label_noise:
            examples, record, share = data.add_noise(config, splits)
            _record_noise(logger, folder, record, share)
        batches = run.task.batches(config, examples, "order")
        compile_model(run, model, batches.total)
        if config.is_pruned:
            _prune(run, model, size.sparsity, examples)
        with StopRequest() as stop:
            recorder = run.task.loop(
                config,
                run.workload,
                passes=run.passes,
                logger=logger,
                checkpoints=checkpoints,
                progress=progress,
                stop=stop,
            )
            validation = run.task.validation(config, splits.validation)
            recorder.fit(model, batches, validation)
        _record_best(logger, model, recorder, folder)
        logger.end("FINISHED")
    except KeyboardInterrupt:
        try:
            checkpoints.wait()
        finally:  # interrupted once more
            _end(logger, "KILLED", "interrupted")
        raise
    except Exception as error:
        checkpoints.wait()
        failure = _explain(error, config)
        _end(logger, "FAILED", failure)
        return dataclasses.replace(result, failure=failure)
    with contextlib.suppress(OSError):  # they are of no use any more
        checkpoints.clear()
    return dataclasses.replace(
        result, numbers={**logger.metrics, "seconds": time.monotonic() - started}
    )


def _check_memory(run: Run, size: ModelSize) -> None:
    """Raises a MemoryError where a model cannot fit: a system that promises more memory
    than it has would kill the process later."""
    if not run.task.devices()[0].startswith("cpu"):
        return  # devices of their own memory say themselves when it is full
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = 2 * 4 * size.num_params
    if needed > available:
        raise MemoryError(
            f"the weights and their gradient need {needed / 2**30:,.0f} GiB, and the "
            f"machine has {available / 2**30:,.0f} GiB"
        )


def _end(logger: Record, status: str, reason: str) -> None:
    with contextlib.suppress(OSError):  # such as the full disk that is the reason
        logger.end(status, reason)


def start_record(
    run: Run,
    session: Session,
    splits: Splits,
    tracker: Tracker,
    parent: str | None,
) -> tuple[Record, str]:
    """Starts a run's record, or goes on with it; and the fingerprint that it is of.

    Raises:
        InputError: another command is at this run.
    """
    folder, mark = run.find_folder(session.run_dir, run.find_marks(splits))
    tags = {"workload": run.config.workload, "fingerprint": mark}
    logger = tracker.start(run.name, tags, parent, folder, fresh=session.rerun)
    return logger, mark


def without_metrics(run: Run, info: DataInfo, failure: str) -> Result:
    """The result of a run that failed outside of `train`, or is missing."""
    size = measure_size(run, info)
    return Result(run.config, size.num_params, size.num_nonzero, failure=failure)


def _mention_other_config(run: Run, folder: Path, progress: RunProgress) -> None:
    """Says so where an unfinished run differs from a new one in its config alone."""
    if has_checkpoint(folder):
        return
    for other in sorted(folder.parent.glob(f"{run.name}_????????")):
        if other == folder or not has_checkpoint(other):
            continue
        try:
            path = other / "config.yaml"
            saved = with_new_names(read_yaml(path), path)
        except InputError:
            continue  # It says nothing of this run.
        values = plain_values(run.config)
        changed = [key for key in saved if saved[key] != values.get(key)]
        shown = [f"{key} {saved[key]} -> {values.get(key)}" for key in changed]
        progress.say(
            f"the unfinished run {other} stays as it is: this one is another "
            f"({', '.join(shown) or 'backend, data or version'}) and starts anew"
        )


def _name_options(message: str) -> str:
    """The library's message with its arguments named as options."""
    return _LIBRARY_ARGUMENTS.sub(r"--\1", message)


def _explain(error: Exception, config: Config) -> str:
    """What went wrong, in one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    # TensorFlow wraps what a data set raises in what it says itself.
    corrupt = re.search(r"CorruptImageError: (.*? is not a readable image)", text)
    if corrupt:
        return corrupt[1]
    # JAX and TensorFlow name it so, each in exceptions of its own.
    names = "RESOURCE_EXHAUSTED|ResourceExhausted|Out of memory|OOM when allocating"
    if isinstance(error, MemoryError) or re.search(names, text):
        return (
            f"out of memory: lower --batch_size (now {config.batch_size}) or "
            f"--width_mult (now {config.width_mult:g}) ({text[:200]})"
        )
    if isinstance(error, ValueError):
        text = _name_options(text)
    return text[:500]


def compile_model(run: Run, model: SAMModel, num_batches: int) -> None:
    """Compiles a run's model for epochs of `num_batches` steps."""
    config, workload = run.config, run.workload
    alpha = Linearized.of(config).alpha
    loss = workload.loss
    if not isinstance(loss, keras.losses.Loss):
        loss = loss(config)
    is_mirrored = (
        keras.backend.backend() == "tensorflow" and len(run.task.devices()) > 1
    )
    model.compile(
        optimizer=_build_optimizer(config, num_batches),
        loss=ScaledSquaredError(alpha) if alpha else loss,
        # Weighted, because several devices share batches that are filled up.
        weighted_metrics=[m if isinstance(m, str) else m() for m in workload.metrics],
        method=build_method(run),
        m_sharpness=config.m_sharpness if config.sam else None,
        l2=0.0 if config.optimizer == "adamw" else config.weight_decay,
        # Keras fuses no steps of several TensorFlow devices, nor compiles them.
        steps_per_execution=1
        if is_mirrored
        else min(config.steps_per_execution, num_batches),
        jit_compile=False if is_mirrored else _choose_jit_compile(model),
    )


def build_method(run: Run) -> Method | None:
    """The run's method, of its options; None without SAM."""
    config = run.config
    if not config.sam:
        return None
    if config.method in run.workload.methods:
        method = run.workload.methods[config.method](config)
        if not isinstance(method, Method):
            raise InputError(
                f"{config.target.path}: methods[{config.method!r}] must give a "
                f"samkeras.Method. Received: {method}"
            )
        return method
    options = {
        ARGUMENTS.get(name, name): getattr(config, name)
        for name, methods in CLASS_OPTIONS.items()
        if config.method in methods
    }
    if options.get("p") == "inf":
        options["p"] = math.inf
    return getattr(samkeras, CLASSES[config.method])(**options)


def _prune(
    run: Run,
    model: SAMModel,
    sparsity: float,
    examples: Examples | Game,
) -> None:
    """Prunes a run's model; snip scores one training batch, as the authors do."""
    # Every process scores the whole batch, so that all prune the same weights.
    config = run.config
    batch = run.task.pruning_batch(config, examples, model)
    samkeras.prune_at_init(
        model,
        config.pruner,
        sparsity,
        batch,
        seed=derive_seed(config.seed, "pruning"),
        allow_empty_layers=config.allow_empty_layers,
    )


def _choose_jit_compile(model: SAMModel) -> bool | str:
    """Whether to compile the steps with XLA, or to leave the choice to keras.

    Keras leaves XLA off for TensorFlow on CPU. There it makes dense networks faster
    (benchmarks/step_time.py: a quarter for LeNet-300-100) and convolutions slower. On
    sentences and graphs it gains nothing, compiles half a minute for each shape of
    their batches, and makes recurrent networks ten times as slow.
    """
    has_many_shapes = any(None in tensor.shape[1:] for tensor in model.inputs)
    has_convolution = any(
        isinstance(layer, keras.layers.Conv2D) and layer.kernel_size != layer.strides
        for layer in model.layers
    )
    return "auto" if has_many_shapes or has_convolution else True


def _build_optimizer(config: Config, steps: int) -> keras.optimizers.Optimizer:
    """The base optimizer; `steps` is the number of steps of an epoch."""
    rate = build_schedule(config, steps)
    if config.optimizer == "sgd":
        return samkeras.SGD(
            rate, momentum=config.momentum, global_clipnorm=config.clip_norm
        )
    constants = {
        "beta_1": config.beta_1,
        "beta_2": config.beta_2,
        "epsilon": config.epsilon,
        "global_clipnorm": config.clip_norm,
    }
    if config.optimizer == "adam":
        return keras.optimizers.Adam(rate, **constants)
    return keras.optimizers.AdamW(rate, config.weight_decay, **constants)


def _record_setup(
    logger: Record,
    run: Run,
    session: Session,
    size: ModelSize,
    model: SAMModel,
    splits: Splits,
) -> None:
    config, folder = run.config, logger.folder
    devices = run.task.devices()
    content = splits.content._asdict() if splits.content else {}
    logger.log_params(
        {
            **dataclasses.asdict(session),
            **dataclasses.asdict(config),
            **result_fields(config),
            **{f"data_{name}": value for name, value in content.items()},
            "workload_version": run.workload.version,
            "num_params": size.num_params,
            "num_nonzero_params": size.num_nonzero,
            "keras_backend": keras.backend.backend(),
            "device": devices[0].split(":")[0],
            "num_devices": len(devices),
            **{f"{name}_version": text for name, text in find_versions().items()},
        }
    )
    (folder / "config.yaml").write_text(to_yaml(config))
    with open(folder / "model_summary.txt", "w") as file:
        model.summary(print_fn=lambda line: print(line, file=file))
    for name, text in splits.files.items():
        (folder / name).write_text(text)
    for name in ("config.yaml", "model_summary.txt", *splits.files):
        logger.log_file(folder / name)


def _record_noise(
    logger: Record, folder: Path, record: dict[str, Any], share: float
) -> None:
    path = folder / "label_noise.npz"
    np.savez_compressed(path, **record)
    logger.log_file(path)
    logger.log_params({"label_noise_realized": share})


def _record_best(
    logger: Record, model: SAMModel, recorder: Recorder, folder: Path
) -> None:
    metrics = {
        f"best_{recorder.monitor}": recorder.best,
        "best_epoch": recorder.best_epoch,
        f"final_{recorder.monitor}": recorder.final,
        "compiled_programs": model.count_programs(),
    }
    logger.log_metrics(metrics, step=0)  # one value each, which MLflow draws as bars
    last = _save_weights(model, folder / "last.weights.h5")
    model.set_weights(recorder.best_weights)
    best = _save_weights(model, folder / "best.weights.h5")
    for path in (last, best, *recorder.illustrate(folder)):
        logger.log_file(path)


def _save_weights(model: SAMModel, path: Path) -> Path:
    weights = _WeightsFile()
    model.save_weights(weights)
    replace_file(path, weights.getbuffer())
    return path


class _WeightsFile(io.BytesIO):
    """A file in memory for keras' weights. HDF5 leaves a file that it could not write,
    as on a full disk, open, and crashes at the process' end."""

    def __str__(self):
        return "a.weights.h5"  # keras looks at the ending of its name
