"""A step on groups of m examples, averaged over them (m-sharpness)."""

import contextlib
import operator
from collections.abc import Callable, Generator
from typing import Any

import keras
from keras import ops

from samkeras.backend import backend
from samkeras.objective import Batch, Pairs, pairs_of
from samkeras.step import Gradients
from samkeras.tensors import Tensor, map_floats

SEED_STRIDE = 1_000_003


def take_in_groups(
    take: Callable[[Pairs, Batch], Gradients],
    state: list[keras.Variable],
    find_averaged: Callable[[], list[keras.Variable]],
    layers: list[keras.layers.Layer],
    batch: Batch,
    size: int,
) -> Gradients:
    """Takes a step's passes on one group of a batch after another.

    Loss, gradients and the model's new state are averaged over the examples. What else
    is assigned, such as metrics, each group updates in its turn. Each group draws
    random numbers of its own, whatever device it is on.

    Args:
        take: (pairs of a variable and the value at which a group's passes find it,
            group) -> what they give.
        state: all variables of the model but its trainable weights.
        find_averaged: the variables that are averaged where they are assigned; known
            after a first pass, which may make metrics.
        layers: all layers of the model.
        batch: x, or (x, y[, sample_weight]), cut into groups in its order; the last one
            may be smaller.
        size: examples of a group.

    Raises:
        ValueError: the batch has a sparse array, which cannot be cut.
    """
    if backend.is_sparse(batch):
        raise ValueError(
            "m_sharpness cannot cut sparse arrays into groups; make them dense"
        )
    like, own, others = _look_ahead(
        take, state, find_averaged, layers, backend.take_examples(batch, 0, size)
    )
    reached: list[bool] = []
    may_be_skipped: list[bool] = []

    def take_group(
        values: list[Tensor], number: Tensor, share: Any, group: Batch
    ) -> tuple[Any, list[Tensor], Any]:
        """A group's part of the averages, the new values of what is not averaged, and
        the predictions."""
        shifted = shift_seeds(state, backend.values_of(state), number)
        pairs = [
            *zip(state, shifted, strict=True),
            *zip(others, values, strict=True),
        ]
        with _local_statistics(layers):
            found = take(pairs, group)
        reached[:], may_be_skipped[:] = found.reached, [found.may_be_skipped]
        new = {id(variable): value for variable, value in [*pairs, *found.updates]}
        new_own = shift_seeds(own, [new[id(v)] for v in own], -number)
        means = (found.loss, new_own, found.gradient, found.result)

        def take_share(mean: Tensor) -> Tensor:
            return mean * _like(share, mean)

        return map_floats(take_share, means), [new[id(v)] for v in others], found.y_pred

    def take_part(
        values: list[Tensor], batch: Batch, part: Tensor
    ) -> tuple[Any, list[Tensor], Any]:
        num_examples = _count_examples(batch)
        num_looped, has_last = _divide(num_examples, size)
        # Groups have numbers over all parts, which are of one size.
        first = part * (num_looped + has_last)
        outputs: list[Any] = []
        sums = keras.tree.map_structure(_zeros_like, like[:4])

        def body(carry: Any, number: Tensor, group: Batch) -> tuple[Any, Any]:
            sums, values = carry
            share = size / num_examples
            more, values, y_pred = take_group(values, number + first, share, group)
            return (_add(sums, more), values), y_pred

        if not isinstance(num_looped, int) or num_looped:
            (sums, values), y_pred = backend.loop_over_groups(
                body, (sums, values), batch, size, num_looped, like[4]
            )
            outputs.append(y_pred)
        if has_last:
            rest = backend.take_examples(batch, num_looped * size, None)
            share = _count_examples(rest) / num_examples
            more, values, y_pred = take_group(values, num_looped + first, share, rest)
            sums = _add(sums, more)
            outputs.append(y_pred)
        y_pred = keras.tree.map_structure(lambda *t: ops.concatenate(t), *outputs)
        return sums, values, y_pred

    means, values, y_pred = backend.split_groups(
        take_part, backend.values_of(others), batch, size
    )
    loss, new_own, gradient, result = means
    updates = [*zip([*own, *others], [*new_own, *values], strict=True)]
    return Gradients(
        loss, y_pred, updates, gradient, result, reached, any(may_be_skipped)
    )


def shift_seeds(
    variables: list[keras.Variable], values: list[Tensor], by: Tensor
) -> list[Tensor]:
    """The values of variables, with other seeds for the random generators among them.

    Args:
        variables: any variables.
        values: their values, one each.
        by: int scalar. Different numbers give different seeds, -by the old ones back.
    """

    def shift(state: Tensor) -> Tensor:
        seed, count = ops.unstack(state)
        # The stride keeps groups apart from neighbouring seeds.
        number = ops.cast(ops.cast(by, "int32") * SEED_STRIDE, state.dtype)
        return ops.stack([seed + number, count])

    return [
        shift(value) if variable.name == "seed_generator_state" else value
        for variable, value in zip(variables, values, strict=True)
    ]


def _look_ahead(
    take: Callable[[Pairs, Batch], Gradients],
    state: list[keras.Variable],
    find_averaged: Callable[[], list[keras.Variable]],
    layers: list[keras.layers.Layer],
    group: Batch,
) -> tuple[Any, list[keras.Variable], list[keras.Variable]]:
    """What a group's passes would give, by shapes and types alone: what is averaged,
    and the predictions; and the variables that they would assign, first those to
    average and then the others."""
    own: list[keras.Variable] = []
    others: list[keras.Variable] = []
    values: list[Tensor] = []

    def look(group: Batch) -> Any:
        with _local_statistics(layers):
            found = take(pairs_of(state), group)
        averaged = set(map(id, find_averaged()))
        for known in (own, others, values):
            known.clear()  # TensorFlow looks twice where a first pass makes variables
        for variable, value in found.updates:
            if id(variable) in averaged:
                own.append(variable)
                values.append(value)
            else:
                others.append(variable)
        return found.loss, values, found.gradient, found.result, found.y_pred

    return backend.trace(look, group), own, others


@contextlib.contextmanager
def _local_statistics(layers: list[keras.layers.Layer]) -> Generator[None]:
    """Has BatchNorm take a group's own statistics, not those of all devices."""
    synchronized = [layer for layer in layers if getattr(layer, "synchronized", False)]
    for layer in synchronized:
        layer.synchronized = False
    try:
        yield
    finally:
        for layer in synchronized:
            layer.synchronized = True


def _count_examples(batch: Batch) -> Any:
    """The number of examples: an int where it is known before the program runs."""
    arrays = (array for array in keras.tree.flatten(batch) if array is not None)
    return ops.shape(next(arrays))[0]


def _divide(num_examples: Any, size: int) -> tuple[Any, bool]:
    """The number of groups to take in a loop, and whether one more follows it."""
    if isinstance(num_examples, int):
        return num_examples // size, num_examples % size > 0
    # Which may be a whole one: the program knows their number when it runs.
    return ops.maximum(num_examples - 1, 0) // size, True


def _like(number: Any, tensor: Tensor) -> Tensor:
    # At once: a cast would make a Python number float32 first.
    return ops.convert_to_tensor(number, keras.backend.standardize_dtype(tensor.dtype))


def _zeros_like(tensor: Any) -> Tensor:
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return ops.zeros(tuple(tensor.shape), dtype)


def _add(sums: Any, more: Any) -> Any:
    return map_floats(operator.add, more, sums)
