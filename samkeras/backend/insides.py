"""What keras keeps to itself and has no public name for."""

import contextlib
from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import Any

import keras
from keras.src.backend.common.dtypes import BIT64_TO_BIT32_DTYPE
from keras.src.backend.common.global_state import get_global_attribute


def is_saving_hdf5() -> bool:
    """Whether keras asks for a config to write into an HDF5 file."""
    return bool(get_global_attribute("use_legacy_config", False))


def find_place(optimizer: Any, variable: Any) -> int:
    """A weight's place among those of an optimizer, whose step has it as keras or the
    backend holds it."""
    return optimizer._get_variable_index(variable)


def unwrap(optimizer: Any) -> Any:
    """The optimizer that moves the weights."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def find_momentums(
    optimizer: Any, weights: list[keras.Variable]
) -> list[keras.Variable]:
    """The running means or sums of the gradients of weights that an optimizer has, or
    the negative ones; none where it keeps others, or nothing."""
    optimizer, known = unwrap(optimizer), keras.optimizers
    if isinstance(optimizer, known.SGD):
        momentums = optimizer.momentums
    elif isinstance(optimizer, known.Adam | known.Nadam | known.Lamb | known.Lion):
        momentums = optimizer._momentums
    else:
        momentums = []
    return [momentums[find_place(optimizer, w)] for w in weights if momentums]


_have_shapes_alone = ContextVar("have_shapes_alone", default=False)


def have_shapes_alone() -> bool:
    """Whether new variables have shapes and never values: what is built is not to have
    weights that are read."""
    return _have_shapes_alone.get()


@contextlib.contextmanager
def shapes_alone() -> Generator[None]:
    """A scope whose new variables have shapes and never values: no memory, no time."""

    def waiting() -> list[keras.Variable]:
        return get_global_attribute("uninitialized_variables") or []

    count = len(waiting())
    token = _have_shapes_alone.set(True)
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        _have_shapes_alone.reset(token)
        del waiting()[count:]  # else keras would make their values in its next scope


@contextlib.contextmanager
def unrounded(model: keras.Model) -> Generator[None]:
    """Has a model compute in the types of its weights, whatever it trains in, and leave
    its weights' regularizers out of its loss."""
    changes: list[tuple[Any, str, Any]] = [
        (layer, "dtype_policy", layer.variable_dtype)
        for layer in list_layers(model)
        if layer.compute_dtype != layer.variable_dtype
    ]
    changes += [(weight, "regularizer", None) for weight in model.weights]
    before = [getattr(each, name, None) for each, name, _ in changes]
    for each, name, value in changes:
        setattr(each, name, value)
    try:
        yield
    finally:
        for (each, name, _), value in zip(changes, before, strict=True):
            setattr(each, name, value)


def list_layers(model: keras.Model) -> list[Any]:
    """A model's layers and those within them, outer ones first."""
    return list(model._flatten_layers())


def find_owners(model: keras.Model) -> list[Any]:
    """The innermost layer that has each of a model's trainable weights."""
    owners: dict[int, Any] = {}
    for layer in list_layers(model):  # outer ones first
        owners |= {id(weight): layer for weight in layer.trainable_variables}
    return [owners[id(weight)] for weight in model.trainable_variables]


def find_metrics(model: keras.Model) -> Any:
    """The metrics that a model was compiled with, as one keras.Metric, or None."""
    return model._compile_metrics


def find_normalizations(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The BatchNorm layers of a model that training gives new statistics."""
    kind = keras.layers.BatchNormalization
    return [
        x
        for x in list_layers(model)
        if isinstance(x, kind)
        and x.trainable
        and not getattr(x, "keeps_statistics", False)
    ]


@contextlib.contextmanager
def normalized_by_batch(model: keras.Model) -> Generator[None]:
    """Has BatchNorm layers normalize by the batch, in evaluation too, and assign its
    mean and variance to their moving statistics."""

    def train(call: Callable[..., Any]) -> Callable[..., Any]:
        def in_training(*args: Any, **kwargs: Any) -> Any:
            return call(*args, **{**kwargs, "training": True})

        return in_training

    found = find_normalizations(model)
    momentums = [layer.momentum for layer in found]
    for layer in found:
        layer.call, layer.momentum = train(layer.call), 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(found, momentums, strict=True):
            del layer.call
            layer.momentum = momentum


@contextlib.contextmanager
def float64_kept() -> Generator[None]:
    """A scope in which what keras computes of float64 is float64 on JAX too, where it
    takes means and promoted types of float32 even if JAX has float64."""
    known = BIT64_TO_BIT32_DTYPE["float64"]
    BIT64_TO_BIT32_DTYPE["float64"] = "float64"
    try:
        yield
    finally:
        BIT64_TO_BIT32_DTYPE["float64"] = known
