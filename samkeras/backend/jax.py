"""The primitives on JAX."""

import contextlib
import contextvars
import functools
import itertools
import os
import pickle
import platform
import re
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.experimental import multihost_utils
from jax.experimental.sparse import JAXSparse
from jax.extend.core import (
    Literal,
    jaxpr_as_fun,
    jaxprs_in_params,  # pyright: ignore[reportUnknownVariableType]
)
from jax.interpreters.partial_eval import dce_jaxpr
from jax.sharding import NamedSharding, PartitionSpec
from keras.optimizers.schedules import LearningRateSchedule as Rate

from samkeras.backend.insides import float64_kept
from samkeras.backend.interface import (
    NO_DERIVATIVES,
    Item,
    Logs,
    Pairs,
    Rows,
    Tensor,
    Tree,
)
from samkeras.scope import Scope
from samkeras.tensors import map_floats

# Loops over groups of examples are unrolled on CPU up to this number.
MAX_UNROLLED = 16
CACHE_BYTES = 2 * 2**30
# Whether what is traced is vectorized over runs.
_is_at_once = contextvars.ContextVar("_is_at_once", default=False)
_compiling = ThreadPoolExecutor(thread_name_prefix="compile")


def compile_function(function: Callable[..., Tree]) -> Callable[..., Tree]:
    return jax.jit(function)


def value_and_grad(
    function: Callable[[list[Tensor]], tuple[Tensor, Tree]],
    weights: list[Tensor],
    variables: list[keras.Variable],
    held: Pairs,
) -> tuple[Tree, list[Tensor | None], keras.Variable | None]:
    (_, others), gradients = jax.value_and_grad(function, has_aux=True)(weights)
    return others, gradients, None


def gradient_of(function: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor | None:
    traced = jax.make_jaxpr(function)(tensor)
    _, (is_used,) = dce_jaxpr(traced.jaxpr, [True])
    if not is_used:  # where JAX has zeros
        return None

    def evaluate(x: Tensor) -> Tensor:
        outputs = jaxpr_as_fun(traced)(x)  # pyright: ignore[reportUnknownVariableType]
        return outputs[0]  # pyright: ignore[reportUnknownVariableType]

    return jax.grad(evaluate)(tensor)


def hessian_product(
    function: Callable[[list[Tensor]], Tensor],
    weights: list[Tensor],
    vectors: list[Tensor],
) -> list[Tensor]:
    # Forward over reverse: a third of the memory of two passes back.
    return push_forward(jax.grad(function), weights, vectors)


def push_forward(
    function: Callable[[list[Tensor]], Tensor],
    weights: list[Tensor],
    vectors: list[Tensor],
) -> Tensor:
    return jax.jvp(function, (weights,), (vectors,))[1]


@contextlib.contextmanager
def explain_derivatives() -> Generator[None]:
    try:
        yield
    except (TypeError, ValueError, NotImplementedError) as error:
        if not re.search("differentiat|jvp", str(error), re.IGNORECASE):
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(NO_DERIVATIVES.format(backend="JAX", reason=reason)) from error


def map_each(function: Callable[[Tree], Tree], many: Tree) -> Tree:
    # On CPU products of many matrices are slower than one after the other, which are
    # those of single runs to the bit.
    if jax.default_backend() == "cpu":
        return jax.lax.map(function, many)
    return map_at_once(function, many)


def map_at_once(function: Callable[[Tree], Tree], many: Tree) -> Tree:
    """`map_each` by products of many matrices."""
    token = _is_at_once.set(True)
    try:
        return jax.vmap(function)(many)
    finally:
        _is_at_once.reset(token)


def compile_reading(
    function: Callable[..., Tree],
    find_variables: Callable[[], list[keras.Variable]],
) -> Callable[..., Tree]:
    @jax.jit
    def compute(values: list[Tensor], arguments: tuple[Tree, ...]) -> Tree:
        with Scope(zip(find_variables(), values, strict=True)):
            return function(*arguments)

    def call(*arguments: Tree) -> Tree:
        return compute(values_of(find_variables()), arguments)

    return call


def take_branch(
    is_part: bool,
    condition: Tensor,
    yes: Callable[[], list[Tensor]],
    no: Callable[[], list[Tensor]],
) -> list[Tensor]:
    if jax.default_backend() == "cpu":
        yes, no = map(_with_axes_in_order, (yes, no))
    if _is_at_once.get():
        # A condition that differs between runs would have all take both. A loop of one
        # turn at most is left out where none of them needs it.
        turns = jnp.asarray(condition, "int32")
        return jax.lax.fori_loop(0, turns, _ignoring(yes), no())
    return jax.lax.cond(condition, yes, no)


def _ignoring(function: Callable[[], Tree]) -> Callable[[Tensor, Tree], Tree]:
    """The same function, as the body of a loop."""
    return lambda number, carry: function()


def trace(function: Callable[..., Tree], *arguments: Tree) -> Tree:
    return jax.eval_shape(function, *arguments)


def loop_over_groups(
    body: Callable[[Tree, Tensor, Tree], tuple[Tree, Tree]],
    carry: Tree,
    batch: Tree,
    size: int,
    count: Tensor,
    like: Tree,
) -> tuple[Tree, Tree]:
    groups = jax.tree.map(
        lambda a: a[: count * size].reshape(count, size, *a.shape[1:]), batch
    )
    # On CPU a convolution inside a loop runs on one thread, see `_convolves`.
    on_cpu = jax.default_backend() == "cpu"
    unroll = count if on_cpu and count <= MAX_UNROLLED else 1
    carry, outputs = jax.lax.scan(
        lambda carry, numbered: body(carry, *numbered),
        carry,
        (jnp.arange(count), groups),
        unroll=unroll,
    )
    return carry, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), outputs)


def take_examples(batch: Tree, start: Tensor, size: int | None) -> Tree:
    end = None if size is None else start + size
    return jax.tree.map(lambda a: a[start:end], batch)


def isolate(x: Tensor) -> Tensor:
    # XLA on CPU would compute it again in each operation that takes it. Elsewhere it
    # may fuse as it likes.
    return jax.lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x


def is_sparse(batch: Tree) -> bool:
    leaves = jax.tree.leaves(batch, is_leaf=lambda a: isinstance(a, JAXSparse))
    return any(isinstance(leaf, JAXSparse) for leaf in leaves)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["words"], meta_fields=["row"]
)
@dataclass(frozen=True)
class Bytes:
    """A table of bytes that is gathered by four of them at once.

    Attributes:
        words: uint32[row, ...].
        row: the shape of a row of bytes.
    """

    words: Tensor
    row: tuple[int, ...]
    dtype = np.dtype("uint8")

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.words), *self.row)

    def take(self, index: Tensor) -> Tensor:
        # A gather that was fused with what reads it would take single bytes.
        words = isolate(jnp.take(self.words, index, axis=0, mode="clip"))
        found = jax.lax.bitcast_convert_type(words, "uint8")
        return jnp.reshape(found, (*index.shape, *self.row))


def take_rows(table: Tensor, index: Tensor) -> Tensor:
    if isinstance(table, Bytes):
        return table.take(index)
    return jnp.take(table, index, axis=0, mode="clip")


def copy_values(variables: Iterable[keras.Variable]) -> list[Tensor]:
    values = values_of(variables)
    if jax.process_count() == 1:
        return copy(values)
    return [np.array(value) for value in values]  # the first process alone asks


def fetch(tree: Tree) -> Tree:
    return jax.device_get(tree)


def find_memory() -> int:
    statistics: Any = jax.local_devices()[0].memory_stats() or {}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # A CPU has none of its own.
    return statistics.get("bytes_limit", memory // jax.local_device_count())


def find_layout() -> Hashable:
    distribution = keras.distribution.distribution()
    return distribution and tuple(distribution.device_mesh.devices.flat)


def place_table(array: np.ndarray) -> Tensor:
    size = array.nbytes // max(len(array), 1)
    on_cpu = jax.default_backend() == "cpu"  # where an element at a time is gathered
    if on_cpu and array.dtype == np.uint8 and size and size % 4 == 0:
        words = np.ascontiguousarray(array).reshape(len(array), size).view("uint32")
        return Bytes(_place(words, PartitionSpec()), array.shape[1:])
    return _place(array, PartitionSpec())


def place_rows(array: np.ndarray) -> Tensor:
    distribution = keras.distribution.distribution()
    axis = None if distribution is None else distribution.batch_dim_name
    return _place(array, PartitionSpec(None, axis))


def _place(array: np.ndarray, spec: PartitionSpec) -> Tensor:
    """An array on the device, or laid out on those of keras' distribution."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return jax.device_put(array)
    layout = NamedSharding(distribution.device_mesh.backend_mesh, spec)
    return jax.make_array_from_process_local_data(layout, array)


@contextlib.contextmanager
def full_precision() -> Generator[None]:
    with jax.default_matmul_precision("highest"):
        yield


@contextlib.contextmanager
def double_precision() -> Generator[None]:
    with jax.enable_x64(True), float64_kept():
        yield


def values_of(variables: Iterable[keras.Variable]) -> list[Tensor]:
    return [variable.value for variable in variables]


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
        layout=getattr(like, "_layout", None),
    )


@contextlib.contextmanager
def split_batches(devices: list[str]) -> Generator[None]:
    if len(devices) == 1:
        yield
        return
    # Each process brings its own part of a batch.
    split = keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
    with split.scope():
        yield


def count_parts() -> int:
    return 1  # XLA splits one step over the devices


def share_of(amount: Tensor) -> Tensor | None:
    return None


def sum_over_copies(tensors: list[Tensor], share: Tensor | None) -> list[Tensor]:
    return tensors


def split_groups(
    function: Callable[[list[Tensor], Tree, Tensor], tuple[Tree, list[Tensor], Tree]],
    values: list[Tensor],
    batch: Tree,
    size: int,
) -> tuple[Tree, list[Tensor], Tree]:
    batch_size = jax.tree.leaves(batch)[0].shape[0]
    distribution = keras.distribution.distribution()
    num_parts = _num_parts(distribution)
    if num_parts == 1 or batch_size % (num_parts * size):
        return function(values, batch, 0)
    axis = distribution.batch_dim_name

    def on_device(values: list[Tensor], batch: Tree) -> tuple[Tree, Tree, Tree]:
        part = jax.lax.axis_index(axis)
        # What the metrics were counts once in the sum over the devices.
        values = [jnp.where(part == 0, v, jnp.zeros_like(v)) for v in values]
        means, values, outputs = function(values, batch, part)
        means = map_floats(functools.partial(jax.lax.pmean, axis_name=axis), means)
        return means, jax.lax.psum(values, axis), outputs

    everywhere, split = PartitionSpec(), PartitionSpec(axis)
    return jax.shard_map(
        on_device,
        mesh=distribution.device_mesh.backend_mesh,
        in_specs=(everywhere, split),
        out_specs=(everywhere, everywhere, split),
        check_vma=False,
    )(values, batch)


def find_process() -> tuple[int, int]:
    return jax.process_index(), jax.process_count()


def broadcast(value: Any) -> Any:
    if jax.process_count() == 1:
        return value
    data = np.frombuffer(pickle.dumps(value), "uint8")
    size = int(multihost_utils.broadcast_one_to_all(np.array(len(data))))
    # Each process has to bring an array of the same size.
    data = multihost_utils.broadcast_one_to_all(np.resize(data, size))
    return pickle.loads(np.asarray(data).tobytes())


def cache_programs() -> None:
    if jax.config.jax_compilation_cache_dir is not None:
        return  # the user's own
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # A home may be shared by machines whose processors differ.
    folder = caches / "samkeras" / f"compiled-{platform.node()}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def use_cpu_only() -> None:
    jax.config.update("jax_platforms", "cpu")


@jax.jit
def copy(tree: Tree) -> Tree:
    """The same arrays, in memory of their own."""
    return jax.tree.map(jnp.copy, tree)


def take_ahead(items: Iterable[Item]) -> Generator[Item]:
    yield from items  # the device computes while the next one is made


def to_devices(batch: Tree) -> Tree:
    """A batch, or this process' part of it, split over the devices where there are
    several."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return batch

    def place(array: Any) -> Tensor:
        layout = distribution.get_data_layout(array.shape).backend_layout
        return jax.make_array_from_process_local_data(layout, array)

    return jax.tree.map(place, batch)


def settled(results: Tree) -> Tree:
    """Results, waited for where later steps must not start before: several devices on
    a CPU share threads, and wait for one another in them."""
    if keras.distribution.distribution() and jax.default_backend() == "cpu":
        return jax.block_until_ready(results)
    return results


class CompiledSteps:
    """A step, and several of them in one call, compiled.

    Args:
        step: (values of inputs, state, batch[, rate]) -> (logs, state), pure; `rate`, a
            schedule, takes the place of the learning rate's own.
        inputs: variables that no step changes, read anew at each call.
        num_steps: number of batches that one call takes from its iterator, >= 1.
        state_shardings: shardings of `state`, or None.
    """

    def __init__(
        self,
        step: Callable[..., tuple[Logs, Tree]],
        inputs: list[keras.Variable],
        num_steps: int,
        state_shardings: Any,
    ):
        # Traced once for a shape of batches, whichever programs take it.
        self._step, self._raw_step = jax.jit(step, inline=True), step
        self._inputs, self._num_steps = inputs, num_steps
        out_shardings = None if state_shardings is None else (None, state_shardings)
        compile_ = functools.partial(
            jax.jit, donate_argnums=1, out_shardings=out_shardings
        )
        self._one_step, self._all_steps = map(compile_, (self._take_one, self._scan))
        self._one_row, self._all_rows = (
            compile_(function, static_argnums=2)
            for function in (self._take_row, self._take_rows)
        )
        self._together = jax.jit(
            self._take_together, donate_argnums=1, static_argnums=(6, 7, 8)
        )
        self._can_fuse: bool | None = None
        self._compiled: dict[Hashable, Future[Any]] = {}  # programs by shapes of rows

    def __call__(self, state: Tree, iterator: Iterator[Tree]) -> tuple[Logs, Tree]:
        """The logs of the last step and the state, which is donated.

        A full set of batches of one shape is one compiled call; others, as at the end
        of an epoch, are taken one at a time.
        """
        batches = list(itertools.islice(iterator, self._num_steps))
        if not batches:
            raise StopIteration
        values = values_of(self._inputs)
        if self._can_fuse is None:
            self._can_fuse = self._find_can_fuse(values, state, batches[0])
        is_full = len(batches) == self._num_steps
        if self._can_fuse and is_full and _same_shapes(batches):
            return self._all_steps(values, state, jax.tree.map(_stack, *batches))
        logs: Logs = {}
        for batch in batches:
            logs, state = self._one_step(values, state, batch)
        return logs, state

    def take(self, state: Tree, rows: Rows) -> tuple[Logs, Tree]:
        """Likewise, on batches that the device has: any number of them is one call of
        one compiled program."""
        values = values_of(self._inputs)
        if self._can_fuse is None:
            batch = jax.eval_shape(
                functools.partial(_read, rows.gather), rows.tables, rows.arrays, 0
            )
            self._can_fuse = self._find_can_fuse(values, state, batch)
        self._compile_for(values, state, rows)
        given = (rows.gather, rows.tables, rows.arrays)
        start, end = rows.start, rows.start + rows.count
        if self._can_fuse:
            return self._all_rows(values, state, *given, *map(_scalar, (start, end)))
        logs: Logs = {}
        for number in range(start, end):
            logs, state = self._one_row(values, state, *given, _scalar(number))
        return logs, state

    def _compile_for(self, values: list[Tensor], state: Tree, rows: Rows) -> None:
        """Compiles the program of some rows, and meanwhile that of those after them,
        for which the device does not wait."""
        following: Rows | None = rows
        while following is not None:
            if following.shape not in self._compiled:
                given = (following.gather, following.tables, following.arrays)
                program, bounds = self._one_row, map(_scalar, (0,))
                if self._can_fuse:
                    program, bounds = self._all_rows, map(_scalar, (0, 1))
                lowered = program.lower(values, state, *given, *bounds)
                # A later call finds what was compiled so.
                self._compiled[following.shape] = _compiling.submit(lowered.compile)
            following = following.after
        self._compiled[rows.shape].result()

    def take_together(
        self,
        values: Sequence[list[Tensor]],
        states: Sequence[Tree],
        rows: Sequence[Rows],
        rates: tuple[Rate, ...] | None,
    ) -> list[tuple[Logs, Tree]]:
        """`take` of several states, each with its values of inputs and rows.

        Args:
            rates: schedules of their learning rates, in place of the step's own.
        """
        first = rows[0]
        lists = zip(*(each.tables for each in rows), strict=True)
        # What all have is not copied for each of them.
        is_common = tuple(all(t is many[0] for t in many) for many in map(tuple, lists))
        tables = [
            [each.tables[i] for each in (rows[:1] if common else rows)]
            for i, common in enumerate(is_common)
        ]
        arrays = [each.arrays for each in rows]
        # By programs of their own: to compile them within the steps' takes the longer
        # the more runs there are.
        together = map(_stack_trees, (values, states, arrays))
        joined = [m[0] if len(m) == 1 else _stack_trees(m) for m in tables]
        bounds = map(_scalar, (first.start, first.start + first.count))
        static = (first.gather, rates, is_common)
        taken = self._together(*together, joined, *bounds, *static)
        return _unstack_tree(taken, len(states))

    def count_programs(self) -> int:
        """The programs compiled so far."""
        rows = (self._one_row, self._all_rows, self._together)
        programs = (self._one_step, self._all_steps, *rows)
        return sum(program._cache_size() for program in programs)

    def _find_can_fuse(self, values: list[Tensor], state: Tree, batch: Tree) -> bool:
        if self._num_steps == 1 or is_sparse(batch):
            return False
        on_cpu = jax.default_backend() == "cpu"
        if not on_cpu:
            return True
        return not _convolves(jax.make_jaxpr(self._step)(values, state, batch).jaxpr)

    def _take_one(
        self, values: list[Tensor], state: Tree, batch: Tree
    ) -> tuple[Logs, Tree]:
        return self._step(values, state, batch)

    def _scan(
        self, values: list[Tensor], state: Tree, batches: Tree
    ) -> tuple[Logs, Tree]:
        def body(state: Tree, batch: Tree) -> tuple[Tree, Logs]:
            logs, new_state = self._step(values, state, batch)
            return _like(state, new_state), logs

        state, logs = jax.lax.scan(body, state, batches)
        return jax.tree.map(lambda log: log[-1], logs), state

    def _take_row(
        self,
        values: list[Tensor],
        state: Tree,
        gather: Callable[[Tree, Tree], Tree],
        tables: Tree,
        rows: Tree,
        number: Tensor,
    ) -> tuple[Logs, Tree]:
        return self._step(values, state, _read(gather, tables, rows, number))

    def _take_rows(
        self,
        values: list[Tensor],
        state: Tree,
        gather: Callable[[Tree, Tree], Tree],
        tables: Tree,
        rows: Tree,
        start: Tensor,
        end: Tensor,
    ) -> tuple[Logs, Tree]:
        def take(number: Tensor, state: Tree) -> tuple[Logs, Tree]:
            return self._take_row(values, state, gather, tables, rows, number)

        return _repeat(take, state, start, end)

    def _take_together(
        self,
        values: list[Tensor],
        states: Tree,
        rows: Tree,
        tables: list[Tensor],
        start: Tensor,
        end: Tensor,
        gather: Callable[[Tree, Tree], Tree],
        rates: tuple[Rate, ...] | None,
        is_common: tuple[bool, ...],
    ) -> tuple[Logs, Tree]:
        common, own = (
            [t for t, known in zip(tables, is_common, strict=True) if known == which]
            for which in (True, False)
        )

        def take_one(run: tuple[Tree, ...]) -> tuple[Logs, Tree]:
            state, values, rows, number, own = run
            all_have, has = iter(common), iter(own)
            tables = tuple(next(all_have if known else has) for known in is_common)
            rate = None if rates is None else _Chosen(rates, number)

            def take(at: Tensor, state: Tree) -> tuple[Logs, Tree]:
                batch = _read(gather, tables, rows, at)
                return self._raw_step(values, state, batch, rate)

            return _repeat(take, state, start, end)

        numbers: Tensor = jnp.arange(len(jax.tree.leaves(states)[0]))
        return map_each(take_one, (states, values, rows, numbers, own))


def _read(
    gather: Callable[[Tree, Tree], Tree], tables: Tree, rows: Tree, number: Tensor
) -> Tree:
    """A batch, by its number among those of `rows`."""
    return gather(tables, jax.tree.map(lambda array: array[number], rows))


@jax.jit
def _join(*arrays: Tensor) -> Tensor:
    return jnp.stack(arrays)


@jax.jit
def _part(array: Tensor) -> list[Tensor]:
    return list(jnp.unstack(array))


def _stack_trees(trees: Sequence[Tree]) -> Tree:
    return jax.tree.map(_join, *trees)


def _unstack_tree(tree: Tree, count: int) -> list[Tree]:
    leaves, structure = jax.tree.leaves(tree), jax.tree.structure(tree)
    parts = [_part(leaf) for leaf in leaves]
    return [
        jax.tree.unflatten(structure, [part[number] for part in parts])
        for number in range(count)
    ]


class _Chosen(Rate):
    """One of several schedules.

    Args:
        rates: these.
        number: which, int scalar.
    """

    def __init__(self, rates: tuple[Rate, ...], number: Tensor):
        self._rates, self._number = rates, number

    def __call__(self, step: Tensor) -> Tensor:
        rates = [jnp.asarray(rate(step)) for rate in self._rates]
        return jnp.stack(rates)[self._number]


def _repeat(
    take: Callable[[Tensor, Tree], tuple[Logs, Tree]],
    state: Tree,
    start: Tensor,
    end: Tensor,
) -> tuple[Logs, Tree]:
    """Takes steps, of any number of which is one program."""

    def body(number: Tensor, carry: tuple[Logs, Tree]) -> tuple[Logs, Tree]:
        logs, new_state = take(number, carry[1])
        return _like(carry[0], logs), _like(carry[1], new_state)

    logs, _ = jax.eval_shape(take, start, state)
    zeros = jax.tree.map(lambda log: jnp.zeros(log.shape, log.dtype), logs)
    return jax.lax.fori_loop(start, end, body, (zeros, state))


def _scalar(number: int) -> Tensor:
    return _place(np.asarray(number, "int32"), PartitionSpec())


def _like(old: Tree, new: Tree) -> Tree:
    """A loop's carry, which wants to be of one structure and type from step to step."""
    leaves = [
        jnp.asarray(leaf, like.dtype)
        for leaf, like in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(old), leaves)


def _num_parts(distribution: Any) -> int:
    """The number of parts that a batch is split into."""
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    return mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]


def _convolves(jaxpr: Any) -> bool:
    """Whether a program contains a convolution, at any depth.

    On CPU, XLA runs a convolution inside a loop on one thread, many times slower than
    outside (github.com/jax-ml/jax/issues/12868).
    """
    return any(
        equation.primitive is jax.lax.conv_general_dilated_p
        or any(map(_convolves, jaxprs_in_params(equation.params)))
        for equation in jaxpr.eqns
    )


def _with_axes_in_order(function: Callable[[], Tree]) -> Callable[[], Tree]:
    """The same function, whose convolutions have their axes in the order that XLA's CPU
    compiler computes them in. It brings those alone into order that are in no branch,
    and is thirty times as slow with the others, which gradients are."""

    def call() -> Tree:
        traced, shapes = jax.make_jaxpr(function, return_shape=True)()
        outputs = _evaluate(traced.jaxpr, traced.consts, [])
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return call


def _evaluate(jaxpr: Any, consts: list[Any], arguments: list[Any]) -> list[Any]:
    """What a program gives, its convolutions with their axes in order."""
    inputs = zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True)
    known = dict(inputs)

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else known[variable]

    for equation in jaxpr.eqns:
        values, params = [*map(read, equation.invars)], equation.params
        if equation.primitive is jax.lax.conv_general_dilated_p:
            x, kernel = values
            found: list[Any] = [_convolve(x, kernel, params)]
        elif equation.primitive.name == "jit":
            found = _evaluate(params["jaxpr"].jaxpr, params["jaxpr"].consts, values)
        else:
            params = equation.primitive.get_bind_params(params)
            results = equation.primitive.bind(*values, **params)
            found = [*results] if equation.primitive.multiple_results else [results]
        known.update(zip(equation.outvars, found, strict=True))
    return [*map(read, jaxpr.outvars)]


def _convolve(x: Tensor, kernel: Tensor, params: dict[str, Any]) -> Tensor:
    """A convolution of images with channels last."""
    axes = params["dimension_numbers"]
    last = x.ndim - 1
    images = (0, last, *range(1, last))
    numbers = jax.lax.ConvDimensionNumbers(
        images, (last, last - 1, *range(last - 1)), images
    )

    def channels_last(spec: tuple[int, ...]) -> tuple[int, ...]:
        return (spec[0], *spec[2:], spec[1])

    out, into, *spatial = axes.rhs_spec
    y = jax.lax.conv_general_dilated_p.bind(
        jnp.transpose(x, channels_last(axes.lhs_spec)),
        jnp.transpose(kernel, (*spatial, into, out)),
        **{**params, "dimension_numbers": numbers},
    )
    return jnp.transpose(y, np.argsort(channels_last(axes.out_spec)))


def _same_shapes(batches: list[Tree]) -> bool:
    shapes = [jax.tree.map(jnp.shape, batch) for batch in batches]
    return all(shape == shapes[0] for shape in shapes)


def _stack(*arrays: Any) -> Any:
    if all(isinstance(array, np.ndarray) for array in arrays):
        return np.stack(arrays)
    return jnp.stack(arrays)
