"""A run's model: built, measured, compiled and pruned."""

import contextlib
import dataclasses
import functools
import inspect
import math
import os
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import keras

import samkeras
from samkeras.backend import backend
from samkeras.backend.insides import shapes_alone
from samkeras.data.atari import Game
from samkeras.data.examples import Examples
from samkeras.data.splits import DataInfo
from samkeras.errors import InputError
from samkeras.experiment.options.groups import Config, Dropout, Linearized
from samkeras.experiment.options.methods import takes
from samkeras.experiment.runs.failure import name_options
from samkeras.experiment.runs.recall import Recall
from samkeras.experiment.runs.run import Run
from samkeras.experiment.runs.schedule import Rate, build_schedule
from samkeras.linearized import ScaledSquaredError, centre
from samkeras.model import SAMModel
from samkeras.pruning import count_kept, find_kernels
from samkeras.seeds import derive_seed


def in_precision(config: Config) -> AbstractContextManager[None]:
    """The scope in which a run's model is built and trained."""
    match config.precision:
        case "float32_strict":
            return backend.full_precision()
        case "float64":
            return backend.double_precision()
        case _:
            return nullcontext()


@contextlib.contextmanager
def undone() -> Iterator[None]:
    """A scope after which what building a model sets for its process is as it was."""
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    state = random.getstate()
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        keras.config.set_floatx(floatx)
        random.setstate(state)


def build_model(run: Run, info: DataInfo) -> SAMModel:
    """The run's model, uncompiled, initialized by the run's seed.

    Raises:
        InputError: the options ask for what the model has not.
    """
    config = run.config
    keras.config.set_dtype_policy(config.precision.removesuffix("_strict"))
    # Of hyperparameters and metrics.
    is_double = config.precision == "float64"
    keras.config.set_floatx("float64" if is_double else "float32")
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
        raise InputError(name_options(str(error))) from None


class ModelSize(NamedTuple):
    """Trainable parameters of a run's model, those left after pruning, and whether it
    has convolutions."""

    num_params: int
    num_nonzero: int
    sparsity: float
    convolves: bool = False


def measure_size(run: Run, info: DataInfo) -> ModelSize:
    """The size of a run's model, known without the memory for it; measured once for
    all runs whose options that it depends on are the same.

    Raises:
        InputError: the biases alone are more than the dense model of match_width has,
            or it has no weights of the kind that SAM is to perturb.
    """
    measure = functools.partial(_measure_size, info=info)
    return _sizes.call((run.workload.build, info), measure, run.config)


_sizes: Recall[ModelSize] = Recall()


def _measure_size(config: Config, info: DataInfo) -> ModelSize:
    run = Run(config)
    with shapes_alone():
        model = _build(run, info)
        if perturbs_some(config):
            _check_kind(model, config)
        num_params = count_params(model.trainable_variables)
        if not config.is_pruned:
            return ModelSize(num_params, num_params, 0.0, has_convolution(model))
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
    num_nonzero = num_params - size + count_kept(size, sparsity)
    return ModelSize(num_params, num_nonzero, sparsity, has_convolution(model))


def perturbs_some(config: Config) -> bool:
    """Whether SAM perturbs the weights of a kind alone."""
    return config.sam and takes(config.method, "only") and config.only != "all"


def _check_kind(model: SAMModel, config: Config) -> None:
    kinds = {role.kind for role in model.find_roles()}
    if config.only not in kinds:
        raise InputError(
            f"--only {config.only}: the model of {config.workload} has no such "
            f"trainable weights; it has {', '.join(sorted(kinds))}"
        )


def check_memory(devices: list[str], num_params: int) -> None:
    """Checks that a model fits, before it is built: a system that promises more memory
    than it has would kill the process later.

    Raises:
        MemoryError: it cannot.
    """
    if not devices[0].startswith("cpu"):
        return  # devices of their own memory say themselves when it is full
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = 2 * 4 * num_params
    if needed > available:
        raise MemoryError(
            f"the weights and their gradient need {needed / 2**30:,.0f} GiB, and the "
            f"machine has {available / 2**30:,.0f} GiB"
        )


def count_params(weights: list[keras.Variable]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


def compile_model(run: Run, model: SAMModel, num_batches: int) -> Rate:
    """Compiles a run's model for epochs of `num_batches` steps.

    Returns:
        The learning rate of its steps.
    """
    config, workload = run.config, run.workload
    alpha = Linearized.of(config).alpha
    loss = _find_loss(workload.loss, config)
    is_mirrored = (
        keras.backend.backend() == "tensorflow" and len(run.task.devices()) > 1
    )
    rate = build_schedule(config, num_batches)
    model.compile(
        optimizer=_build_optimizer(config, rate),
        loss=ScaledSquaredError(alpha) if alpha else loss,
        # Weighted, because several devices share batches that are filled up.
        weighted_metrics=[m if isinstance(m, str) else m() for m in workload.metrics],
        method=run.build_method(num_batches * config.total_epochs),
        m_sharpness=config.m_sharpness if config.sam else None,
        l2=0.0 if config.optimizer == "adamw" else config.weight_decay,
        l2_in_loss=config.decay_in_loss,
        # XLA compiles no steps of several TensorFlow devices.
        steps_per_execution=1
        if is_mirrored
        else min(config.steps_per_execution, num_batches),
        jit_compile=False if is_mirrored else _choose_jit_compile(model),
    )
    return rate


def prune_model(
    run: Run,
    model: SAMModel,
    sparsity: float,
    examples: Examples | Game,
) -> None:
    """Prunes a run's model; snip scores one training batch, as the authors do.

    Raises:
        InputError: an option would have to be another.
    """
    # Every process scores the whole batch, so that all prune the same weights.
    config = run.config
    batch = run.task.pruning_batch(config, examples, model)
    try:
        samkeras.prune_at_init(
            model,
            config.pruner,
            sparsity,
            batch,
            seed=derive_seed(config.seed, "pruning"),
            allow_empty_layers=config.allow_empty_layers,
        )
    except ValueError as error:
        message = name_options(str(error))
        if message == str(error):
            raise
        raise InputError(message) from None


def _choose_jit_compile(model: SAMModel) -> bool | str:
    """Whether to compile the steps with XLA, or to leave the choice to keras.

    Keras leaves XLA off for TensorFlow on CPU. There it makes dense networks faster
    (benchmarks/step_time.py: a quarter for LeNet-300-100) and convolutions slower. On
    sentences and graphs it gains nothing, compiles half a minute for each shape of
    their batches, and makes recurrent networks ten times as slow.
    """
    has_many_shapes = any(None in tensor.shape[1:] for tensor in model.inputs)
    return "auto" if has_many_shapes or has_convolution(model) else True


def has_convolution(model: SAMModel) -> bool:
    """Whether a model has convolutions, those of patches aside, which are products."""
    return any(
        isinstance(layer, keras.layers.Conv2D) and layer.kernel_size != layer.strides
        for layer in model.layers
    )


def _find_loss(loss: Any, config: Config) -> Any:
    """A workload's loss, as keras takes it."""
    if isinstance(loss, str | keras.losses.Loss):
        return loss
    parameters = inspect.signature(loss).parameters.values()
    needed = [p for p in parameters if p.default is p.empty]
    # A function of labels and predictions is a loss, one of the config makes one.
    return loss if len(needed) > 1 else loss(config)


def _build_optimizer(config: Config, rate: Rate) -> keras.optimizers.Optimizer:
    if config.optimizer == "sgd":
        return samkeras.SGD(
            rate,
            momentum=config.momentum,
            nesterov=config.nesterov and config.momentum > 0,
            global_clipnorm=config.clip_norm,
        )
    constants = {
        "beta_1": config.beta_1,
        "beta_2": config.beta_2,
        "epsilon": config.epsilon,
        "amsgrad": config.amsgrad,
        "global_clipnorm": config.clip_norm,
    }
    if config.optimizer == "adam":
        return keras.optimizers.Adam(rate, **constants)
    return keras.optimizers.AdamW(rate, config.weight_decay, **constants)
