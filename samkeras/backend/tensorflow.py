"""The primitives on TensorFlow."""

import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from samkeras.backend.interface import Pairs, Tensor, Tree
from samkeras.tensors import map_floats


def value_and_grad(
    function: Callable[[list[Tensor]], tuple[Tensor, Tree]],
    weights: list[Tensor],
    variables: list[keras.Variable],
    held: Pairs,
) -> tuple[Tree, list[Tensor | None], keras.Variable | None]:
    with _held(held), tf.GradientTape() as tape:
        tape.watch(weights)
        scalar, others = function(weights)
    read = {id(v) for v in tape.watched_variables()}
    raw = [v for v in variables if id(v.value) in read]
    sources = [
        [w, v.value] if id(v.value) in read else [w]
        for w, v in zip(weights, variables, strict=False)
    ]
    gradients = [_add_up(parts) for parts in tape.gradient(scalar, sources)]
    for gradient, weight in zip(gradients, weights, strict=True):
        if gradient is not None:
            gradient.set_shape(weight.shape)  # that of sparse slices is not known
    return others, gradients, next(iter(raw), None)


def compile_function(function: Callable[..., Tree]) -> Callable[..., Tree]:
    return tf.function(function)


def compile_reading(
    function: Callable[..., Tree],
    find_variables: Callable[[], list[keras.Variable]],
) -> Callable[..., Tree]:
    return tf.function(function, reduce_retracing=True)


def trace(function: Callable[..., Tree], *arguments: Tree) -> Tree:
    if tf.executing_eagerly():
        return function(*arguments)
    # In a graph of its own, so that nothing of it runs.
    graph = tf.function(lambda: function(*arguments), autograph=False)
    return graph.get_concrete_function().structured_outputs


def loop_over_groups(
    body: Callable[[Tree, Tensor, Tree], tuple[Tree, Tree]],
    carry: Tree,
    batch: Tree,
    size: int,
    count: Tensor,
    like: Tree,
) -> tuple[Tree, Tree]:
    def loop_body(
        number: Tensor, carry: Tree, parts: list[Any]
    ) -> tuple[Tensor, Tree, list[Any]]:
        group = take_examples(batch, number * size, size)
        carry, outputs = body(carry, number, group)
        parts = [
            part.write(number, leaf)
            for part, leaf in zip(parts, tf.nest.flatten(outputs), strict=True)
        ]
        return number + 1, carry, parts

    parts = [
        tf.TensorArray(leaf.dtype, count, element_shape=[None, *leaf.shape[1:]])
        for leaf in tf.nest.flatten(like)
    ]
    _, carry, parts = tf.while_loop(
        lambda number, carry, parts: number < count, loop_body, (0, carry, parts)
    )
    return carry, tf.nest.pack_sequence_as(like, [part.concat() for part in parts])


def take_examples(batch: Tree, start: Tensor, size: int | None) -> Tree:
    def take(array: Any) -> Any:
        if array is None:
            return None
        array = tf.convert_to_tensor(array)
        if size is None:
            return array[start:]
        # XLA does not know the length of a slice from and to a tensor.
        return tf.gather(array, start + tf.range(tf.minimum(size, tf.shape(array)[0])))

    return tf.nest.map_structure(take, batch)


def isolate(x: Tensor) -> Tensor:
    return x  # without XLA it is computed once, however many operations take it


def is_sparse(batch: Tree) -> bool:
    return any(isinstance(t, tf.SparseTensor) for t in tf.nest.flatten(batch))


def values_of(variables: Iterable[keras.Variable]) -> list[Tensor]:
    # The values themselves may be variables.
    return [tf.convert_to_tensor(variable.value) for variable in variables]


def make_state(
    shape: tuple[int, ...],
    dtype: str,
    name: str,
    like: keras.Variable | None = None,
) -> keras.Variable:
    return keras.Variable(
        "zeros",
        shape=shape,
        dtype=dtype,
        trainable=False,
        name=name,
        aggregation="only_first_replica",
    )


@contextlib.contextmanager
def split_batches(devices: list[str]) -> Generator[None]:
    if len(devices) == 1:
        yield
        return
    with _mirrored_strategy(tuple(devices)).scope():
        yield


# One for all runs of a process: the collectives of a second one mix with the first's.
_mirrored_strategy = functools.cache(tf.distribute.MirroredStrategy)


def count_parts() -> int:
    return tf.distribute.get_strategy().num_replicas_in_sync


def share_of(amount: Tensor) -> Tensor | None:
    if count_parts() == 1:
        return None
    amount = tf.cast(amount, tf.float32)
    context = tf.distribute.get_replica_context()
    return amount / context.all_reduce(tf.distribute.ReduceOp.SUM, amount)


def sum_over_copies(tensors: list[Tensor], share: Tensor | None) -> list[Tensor]:
    if share is None:
        return tensors
    # A replica without examples has means that are not numbers.
    parts = [tf.math.multiply_no_nan(t, tf.cast(share, t.dtype)) for t in tensors]
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, parts)


def split_groups(
    function: Callable[[list[Tensor], Tree, Tensor], tuple[Tree, list[Tensor], Tree]],
    values: list[Tensor],
    batch: Tree,
    size: int,
) -> tuple[Tree, list[Tensor], Tree]:
    # The batch is this replica's part already.
    context = tf.distribute.get_replica_context()
    means, values, outputs = function(values, batch, context.replica_id_in_sync_group)
    share = share_of(count_examples(batch))

    def average(mean: Tensor) -> Tensor:
        return sum_over_copies([mean], share)[0]

    means = map_floats(average, means)
    return means, values, outputs


def find_process() -> tuple[int, int]:
    return 0, 1  # it is the only one


def broadcast(value: Any) -> Any:
    return value


def cache_programs() -> None:
    pass  # TensorFlow keeps no compiled programs


def use_cpu_only() -> None:
    tf.config.set_visible_devices([], "GPU")


def make_input(batches: Any) -> Iterable[Any]:
    """What keras makes of a PyDataset, without autotuning.

    At the end of about every other epoch keras waits for the autotuner, which misses
    that it is cancelled and sleeps out its period: for up to as long as the epoch took.
    Batches that differ in more than their number of examples say so by `specs`.
    """

    def generate() -> Iterator[Any]:
        return (batches[index] for index in range(batches.num_batches))

    def specify(array: Tensor) -> Any:
        return tf.TensorSpec([None, *array.shape[1:]], array.dtype)

    options = tf.data.Options()
    options.autotune.enabled = False
    specs = batches.specs if hasattr(batches, "specs") else batches[0]
    signature = tf.nest.map_structure(specify, specs)
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    cardinality = tf.data.experimental.assert_cardinality(batches.num_batches)
    return dataset.apply(cardinality).prefetch(2).with_options(options)


def normalize_batch(
    x: Tensor, scale: Tensor, offset: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch normalization in one operation, its gradient in another.

    Args:
        x: float16, bfloat16 or float32 [batch, height, width, channel].
        scale, offset: float32 [channel].
        epsilon: added to variances.

    Returns:
        What x becomes, of its type, and the batch's means and biased variances, float32
        [channel], which have no gradients. Replicas have statistics of their own.
    """
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=scale, offset=offset, mean=[], variance=[], epsilon=epsilon
    )
    # The operation corrects the variance for a sample's bias.
    count = tf.cast(tf.size(x) // tf.size(mean), variance.dtype)
    return y, mean, variance * (count - 1) / count


def count_examples(batch: Tree) -> Tensor:
    """The number of examples of a batch: int scalar."""
    arrays = (array for array in tf.nest.flatten(batch) if array is not None)
    return tf.shape(next(arrays))[0]


def _add_up(parts: list[Tensor | None]) -> Tensor | None:
    """The sum of gradients that may be sparse slices, as Embeddings have them, or None;
    None where all are."""
    parts = [tf.convert_to_tensor(part) for part in parts if part is not None]
    return tf.add_n(parts) if parts else None


@contextlib.contextmanager
def _held(pairs: Pairs) -> Generator[None]:
    """Has variables themselves hold other values, also where a scope keeps keras from
    assigning them; then what they held before."""
    holders = [variable.value for variable, _ in pairs]
    before = [tf.identity(holder) for holder in holders]
    for holder, (_, value) in zip(holders, pairs, strict=True):
        holder.assign(value)
    try:
        yield
    finally:  # an eager pass may be interrupted
        for holder, value in zip(holders, before, strict=True):
            holder.assign(value)
