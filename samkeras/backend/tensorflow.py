"""The primitives on TensorFlow."""

import contextlib
import functools
import importlib
import itertools
import os
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from samkeras.backend.interface import (
    NO_DERIVATIVES,
    Item,
    Logs,
    Pairs,
    Rows,
    Tensor,
    Tree,
)
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
        [w, v.value] if v is not None and id(v.value) in read else [w]
        for w, v in itertools.zip_longest(weights, variables[: len(weights)])
    ]
    gradients = [_add_up(parts) for parts in tape.gradient(scalar, sources)]
    for gradient, weight in zip(gradients, weights, strict=True):
        if gradient is not None:
            gradient.set_shape(weight.shape)  # that of sparse slices is not known
    return others, gradients, next(iter(raw), None)


def gradient_of(function: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor | None:
    return value_and_grad(lambda x: (function(x[0]), ()), [tensor], [], [])[1][0]


def hessian_product(
    function: Callable[[list[Tensor]], Tensor],
    weights: list[Tensor],
    vectors: list[Tensor],
) -> list[Tensor]:
    # Reverse over reverse: a ForwardAccumulator fails in loops, as LSTM's.
    with tf.GradientTape() as outer, _twice_differentiable_moments():
        outer.watch(weights)
        with tf.GradientTape() as inner:
            inner.watch(weights)
            scalar = function(weights)
        found = _fill(inner.gradient(scalar, weights), weights)
    return _fill(outer.gradient(found, weights, output_gradients=vectors), weights)


def push_forward(
    function: Callable[[list[Tensor]], Tensor],
    weights: list[Tensor],
    vectors: list[Tensor],
) -> Tensor:
    # What is pulled back from u is linear in u, and J' its derivative.
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            inner.watch(weights)
            outputs = function(weights)
        cotangent = tf.zeros_like(outputs)
        outer.watch(cotangent)
        pulled = inner.gradient(outputs, weights, output_gradients=cotangent)
        pulled = _fill(pulled, weights)
    pushed = outer.gradient(pulled, [cotangent], output_gradients=vectors)
    return _fill(pushed, [outputs])[0]


@contextlib.contextmanager
def explain_derivatives() -> Generator[None]:
    try:
        yield
    except LookupError as error:
        if "gradient" not in str(error).lower():
            raise
        raise ValueError(
            NO_DERIVATIVES.format(backend="TensorFlow", reason=error)
        ) from error


def map_each(function: Callable[[Tree], Tree], many: Tree) -> Tree:
    # A loop: what vectorizes it cannot do so with loops, as LSTM's.
    first = tf.nest.map_structure(functools.partial(_at, 0), many)
    like = trace(function, first)
    specs = tf.nest.map_structure(_specify_whole, like)
    return tf.map_fn(function, many, fn_output_signature=specs)


def compile_function(function: Callable[..., Tree]) -> Callable[..., Tree]:
    return tf.function(function, autograph=False)


def compile_reading(
    function: Callable[..., Tree],
    find_variables: Callable[[], list[keras.Variable]],
) -> Callable[..., Tree]:
    return tf.function(function, reduce_retracing=True, autograph=False)


def take_branch(
    is_part: bool,
    condition: Tensor,
    yes: Callable[[], list[Tensor]],
    no: Callable[[], list[Tensor]],
) -> list[Tensor]:
    if is_part or count_parts() == 1:
        return tf.cond(condition, yes, no)

    def branch(strategy: Any, conditions: Any, yes: Any, no: Any) -> list[Any]:
        parts_of = strategy.experimental_local_results

        def call(functions: Any) -> list[Any]:
            return [parts_of(t) for t in strategy.run(_call, (functions,))]

        def join(parts: Any) -> Any:
            def take(context: Any) -> Tensor:
                return parts[context.replica_id_in_sync_group]

            return strategy.experimental_distribute_values_from_function(take)

        # The condition is one of the replicas', who agree.
        which, *_ = parts_of(conditions)
        results = tf.cond(
            which, functools.partial(call, yes), functools.partial(call, no)
        )
        return [*map(join, results)]

    # Replicas meet in a branch if they enter it together alone.
    context = tf.distribute.get_replica_context()
    return context.merge_call(branch, (condition, yes, no))


def _call(function: Callable[[], Tree]) -> Tree:
    return function()


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


def take_rows(table: Tensor, index: Tensor) -> Tensor:
    return tf.gather(table, index)


def copy_values(variables: Iterable[keras.Variable]) -> list[Tensor]:
    if count_parts() > 1:
        return [np.array(variable) for variable in variables]
    return [tf.identity(variable.value) for variable in variables]


def fetch(tree: Tree) -> Tree:
    return tf.nest.map_structure(np.asarray, tree)


def find_memory() -> int:
    # What there is in public says how much is used alone.
    device_lib: Any = importlib.import_module("tensorflow.python.client.device_lib")
    devices: list[Any] = device_lib.list_local_devices()
    limits = [int(d.memory_limit) for d in devices if d.device_type == "GPU"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(limits, default=memory // count_parts())


def find_layout() -> Hashable:
    return count_parts()


def place_table(array: np.ndarray) -> Tensor:
    strategy = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync == 1:
        return tf.convert_to_tensor(array)

    def copy(_: Any) -> Tensor:
        return tf.convert_to_tensor(array)

    return strategy.experimental_distribute_values_from_function(copy)


def place_rows(array: np.ndarray) -> Tensor:
    return tf.convert_to_tensor(array)  # of which each copy takes its part


@contextlib.contextmanager
def full_precision() -> Generator[None]:
    settings: Any = tf.config.experimental
    before = settings.tensor_float_32_execution_enabled()
    settings.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        settings.enable_tensor_float_32_execution(before)


def double_precision() -> AbstractContextManager[None]:
    return contextlib.nullcontext()  # it keeps them anyway


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


def take_ahead(items: Iterable[Item]) -> Generator[Item]:
    # A step returns when it is done: the next item is made in a thread of its own.
    iterator = iter(items)
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(next, iterator, None)
        while (item := future.result()) is not None:
            future = thread.submit(next, iterator, None)
            yield item


Gather = Callable[[Tree, Tree], Tree]


class CompiledSteps:
    """A step, and with XLA several of them in one call, compiled.

    Args:
        step: takes a batch and assigns variables. Of several copies of a model each
            takes its part.
        read: () -> the logs after some steps.
        num_steps: the most batches that are one call, >= 1.
        strategy: the model's.
        jit_compile: whether to compile by XLA.
        eager: whether not to compile at all.
    """

    def __init__(
        self,
        step: Callable[[Tree], Logs],
        read: Callable[[], Logs],
        num_steps: int,
        strategy: Any,
        jit_compile: bool,
        eager: bool,
    ):
        self._step, self._read, self._num_steps = step, read, num_steps
        self._strategy, self._jit_compile = strategy, jit_compile
        self._eager = eager
        is_alone = strategy.num_replicas_in_sync == 1
        self._is_fused = jit_compile and not eager and num_steps > 1 and is_alone
        # By what batches are like.
        self._compiled: dict[Hashable, Callable[..., Logs]] = {}

    def __call__(self, batches: Sequence[Tree] | Rows, like: Tree) -> Logs:
        """The logs of the last step. Batches of one shape are one call of XLA's.

        Args:
            batches: at least one.
            like: what all batches are like; None: the first one.
        """
        if isinstance(batches, Rows):
            return self._take(batches)
        batches = [_without_none(batch) for batch in batches]
        compiled = self._find(batches[0] if like is None else like)
        logs: Logs = {}
        if not self._is_fused:
            for batch in batches:
                logs = compiled(batch)
            return logs
        for _, group in itertools.groupby(batches, _shapes_of):
            alike = list(group)
            for first in range(0, len(alike), self._num_steps):
                some = alike[first : first + self._num_steps]
                # XLA compiles one number of them, of which it may take fewer.
                filled = some + some[-1:] * (self._num_steps - len(some))
                logs = compiled(tf.nest.map_structure(_stack, *filled), len(some))
        return logs

    def _take(self, rows: Rows) -> Logs:
        """Takes steps on batches that the device has."""
        key = (rows.gather, tuple(sorted(rows.arrays)))
        if key not in self._compiled:
            function = self._take_rows if self._is_fused else self._take_row
            function = functools.partial(function, rows.gather)
            if not self._eager:
                function = tf.function(
                    function,
                    self._specify_rows(rows),
                    jit_compile=self._jit_compile,
                    autograph=False,
                )
            self._compiled[key] = function
        take = functools.partial(self._compiled[key], rows.tables, rows.arrays)
        end = rows.start + rows.count
        if self._is_fused:
            return take(*map(tf.constant, (rows.start, end)))
        logs: Logs = {}
        for number in range(rows.start, end):
            logs = take(tf.constant(number))
        return logs

    def _specify_rows(self, rows: Rows) -> list[Any] | None:
        """The signature of what takes rows of batches of any size; None where it is of
        several copies, each with tables of its own."""
        if self._strategy.num_replicas_in_sync > 1:
            return None
        tables = tf.nest.map_structure(_specify, rows.tables)
        batch = tf.nest.map_structure(functools.partial(_at, 0), rows.arrays)
        specs = tf.nest.map_structure(_specify, batch)
        arrays = tf.nest.map_structure(_specify_many, specs)
        numbers = [_COUNT] * (2 if self._is_fused else 1)
        return [tables, arrays, *numbers]

    def _find(self, like: Tree) -> Callable[..., Logs]:
        """The compiled function for batches that are like one."""
        if self._eager:
            return self._take_one
        specs = tf.nest.map_structure(_specify, like)
        if repr(specs) not in self._compiled:
            function, signature = self._take_one, [specs]
            if self._is_fused:
                stacked = tf.nest.map_structure(_specify_many, specs)
                function, signature = self._take_all, [stacked, _COUNT]
            self._compiled[repr(specs)] = tf.function(
                function, signature, jit_compile=self._jit_compile, autograph=False
            )
        return self._compiled[repr(specs)]

    def _take_one(self, batch: Tree) -> Logs:
        self._strategy.run(lambda: self._step(_part_of(batch)))
        return self._read()

    def _take_row(
        self, gather: Gather, tables: Tree, rows: Tree, number: Tensor
    ) -> Logs:
        def take(tables: Tree) -> Logs:
            batch = tf.nest.map_structure(functools.partial(_at, number), rows)
            return self._step(gather(tables, _part_of(batch)))

        self._strategy.run(take, (tables,))
        return self._read()

    def _take_rows(
        self, gather: Gather, tables: Tree, rows: Tree, start: Tensor, end: Tensor
    ) -> Logs:
        def take(number: Tensor) -> Tensor:
            batch = tf.nest.map_structure(functools.partial(_at, number), rows)
            self._step(gather(tables, batch))
            return number + 1

        tf.while_loop(lambda number: number < end, take, [start])
        return self._read()

    def _take_all(self, batches: Tree, count: Tensor) -> Logs:
        def take(number: Tensor) -> Tensor:
            self._step(tf.nest.map_structure(functools.partial(_at, number), batches))
            return number + 1

        tf.while_loop(lambda number: number < count, take, [0])
        return self._read()


_COUNT = tf.TensorSpec([], tf.int32)


def _specify(array: Any) -> Any:
    """What an array is, of any number of examples."""
    return tf.TensorSpec([None, *array.shape[1:]], array.dtype)


def _specify_whole(tensor: Any) -> Any:
    """What a tensor is."""
    return tf.TensorSpec(tensor.shape, tensor.dtype)


def _specify_many(spec: Any) -> Any:
    """What several of an array are, stacked."""
    return tf.TensorSpec([None, *spec.shape], spec.dtype)


def _without_none(batch: Tree) -> Tree:
    """A batch without the places of labels or weights that it does not have."""
    if not isinstance(batch, tuple):
        return batch
    parts = cast(tuple[Any, ...], batch)
    return tuple(part for part in parts if part is not None)


def _stack(*arrays: Any) -> Any:
    if all(isinstance(array, np.ndarray) for array in arrays):
        return np.stack(arrays)  # tf.stack would make int32 of bytes
    return tf.stack(arrays)


def _at(place: Tensor, array: Tensor) -> Tensor:
    return array[place]


def _part_of(batch: Tree) -> Tree:
    """This copy's part of a batch, whose examples are a multiple of the copies."""
    count = count_parts()
    if count == 1:
        return batch
    number = tf.distribute.get_replica_context().replica_id_in_sync_group
    share = count_examples(batch) // count

    def take(array: Tensor) -> Tensor:
        return array[number * share : (number + 1) * share]

    return tf.nest.map_structure(take, batch)


def _shapes_of(batch: Tree) -> list[Any]:
    return [tuple(array.shape) for array in tf.nest.flatten(batch)]


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


def _fill(gradients: list[Tensor | None], like: list[Tensor]) -> list[Tensor]:
    """Gradients, zero where there are none, whole where they are sparse slices."""
    filled = [
        tf.zeros_like(t) if g is None else tf.convert_to_tensor(g)
        for g, t in zip(gradients, like, strict=True)
    ]
    for gradient, tensor in zip(filled, like, strict=True):
        gradient.set_shape(tensor.shape)
    return filled


@contextlib.contextmanager
def _twice_differentiable_moments() -> Generator[None]:
    """Has normalizing layers be differentiated whole. TensorFlow takes the mean within
    a variance for a constant, which is right for first derivatives alone."""

    def moments(
        x: Tensor, axes: list[int], shift: Any = None, keepdims: bool = False, **_: Any
    ) -> tuple[Tensor, Tensor]:
        mean = tf.reduce_mean(x, axes, keepdims=True)
        variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=True)
        found = (mean, variance)
        return found if keepdims else tuple(tf.squeeze(each, axes) for each in found)

    before = tf.nn.moments
    tf.nn.moments = moments
    try:
        yield
    finally:
        tf.nn.moments = before


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
