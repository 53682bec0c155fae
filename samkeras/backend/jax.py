"""The primitives on JAX."""

import contextlib
import itertools
import os
import pickle
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.experimental import multihost_utils
from jax.experimental.sparse import JAXSparse
from jax.sharding import PartitionSpec

from samkeras.scope import Scope
from samkeras.tensors import map_floats

# Loops over groups of examples are unrolled on CPU up to this number.
MAX_UNROLLED = 16
CACHE_BYTES = 2 * 2**30

Step = Callable[[list, Any, Any], tuple[dict, Any]]

compile_function = jax.jit


def value_and_grad(function, weights, variables, held):
    (_, others), gradients = jax.value_and_grad(function, has_aux=True)(weights)
    return others, gradients, None


def compile_reading(function, find_variables):
    @jax.jit
    def compute(values, arguments):
        with Scope(zip(find_variables(), values, strict=True)):
            return function(*arguments)

    return lambda *arguments: compute(values_of(find_variables()), arguments)


trace = jax.eval_shape


def loop_over_groups(body, carry, batch, size, count, like):
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


def take_examples(batch, start, size):
    end = None if size is None else start + size
    return jax.tree.map(lambda a: a[start:end], batch)


def isolate(x):
    # XLA on CPU would compute it again in each operation that takes it. Elsewhere it
    # may fuse as it likes.
    return jax.lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x


def is_sparse(batch):
    leaves = jax.tree.leaves(batch, is_leaf=lambda a: isinstance(a, JAXSparse))
    return any(isinstance(leaf, JAXSparse) for leaf in leaves)


def values_of(variables):
    return [variable.value for variable in variables]


def make_state(shape, dtype, name, like=None):
    return keras.Variable(
        "zeros",
        shape=shape,
        dtype=dtype,
        trainable=False,
        name=name,
        layout=getattr(like, "_layout", None),
    )


@contextlib.contextmanager
def split_batches(devices):
    if len(devices) == 1:
        yield
        return
    # Each process brings its own part of a batch.
    split = keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
    with split.scope():
        yield


def count_parts():
    return 1  # XLA splits one step over the devices


def share_of(amount):
    return None


def sum_over_copies(tensors, share):
    return tensors


def split_groups(function, values, batch, size):
    batch_size = jax.tree.leaves(batch)[0].shape[0]
    distribution = keras.distribution.distribution()
    num_parts = _num_parts(distribution)
    if num_parts == 1 or batch_size % (num_parts * size):
        return function(values, batch, 0)
    axis = distribution.batch_dim_name

    def on_device(values, batch):
        part = jax.lax.axis_index(axis)
        # What the metrics were counts once in the sum over the devices.
        values = [jnp.where(part == 0, v, jnp.zeros_like(v)) for v in values]
        means, values, outputs = function(values, batch, part)
        means = map_floats(lambda a: jax.lax.pmean(a, axis), means)
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
    """The number of this process, counted from 0, and how many there are."""
    return jax.process_index(), jax.process_count()


def broadcast(value: Any) -> Any:
    """The value, anything that pickles, that the first process has."""
    if jax.process_count() == 1:
        return value
    data = np.frombuffer(pickle.dumps(value), "uint8")
    size = int(multihost_utils.broadcast_one_to_all(np.array(len(data))))
    # Each process has to bring an array of the same size.
    data = multihost_utils.broadcast_one_to_all(np.resize(data, size))
    return pickle.loads(np.asarray(data).tobytes())


def cache_programs() -> None:
    """Keeps compiled programs on disk, so that those of the same shapes are compiled
    once, in whatever process; before the backend starts."""
    if jax.config.jax_compilation_cache_dir is not None:
        return  # the user's own
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # A home may be shared by machines whose processors differ.
    folder = caches / "samkeras" / f"compiled-{platform.node()}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def use_cpu_only() -> None:
    """Leaves GPUs and TPUs to other processes; before the backend starts."""
    jax.config.update("jax_platforms", "cpu")


def make_input(batches: keras.utils.PyDataset) -> keras.utils.PyDataset:
    """What to give to `fit(shuffle=False)` and `evaluate`: the batches as they are."""
    return batches


def compile_steps(step: Step, steps: int, state_shardings: Any) -> Callable:
    """Compiles a step, and `steps` of them in one call.

    Args:
        step: (values, state, batch) -> (logs, state), pure. `values` are inputs that no
            step changes.
        steps: number of batches that one call takes from its iterator, >= 1.
        state_shardings: shardings of `state`, or None.

    Returns:
        (values, state, iterator) -> (logs of the last step, state); `state` is donated.
        A full set of `steps` batches of one shape is one compiled call; others, as at
        the end of an epoch, are taken one at a time.
    """
    out_shardings = None if state_shardings is None else (None, state_shardings)
    one_step = jax.jit(step, donate_argnums=1, out_shardings=out_shardings)

    def scan_steps(values, state, batches):
        def body(state, batch):
            logs, new_state = step(values, state, batch)
            # A scan wants its carry of one structure and type from step to step.
            leaves = [
                jnp.asarray(new, old.dtype)
                for new, old in zip(
                    jax.tree.leaves(new_state), jax.tree.leaves(state), strict=True
                )
            ]
            return jax.tree.unflatten(jax.tree.structure(state), leaves), logs

        state, logs = jax.lax.scan(body, state, batches)
        return jax.tree.map(lambda log: log[-1], logs), state

    all_steps = jax.jit(scan_steps, donate_argnums=1, out_shardings=out_shardings)
    can_fuse = None

    def run(values: list, state: Any, iterator: Iterator) -> tuple[dict, Any]:
        nonlocal can_fuse
        batches = list(itertools.islice(iterator, steps))
        if not batches:
            raise StopIteration
        if can_fuse is None:
            on_cpu = jax.default_backend() == "cpu"
            can_fuse = steps > 1 and not (
                is_sparse(batches[0])
                or (on_cpu and _convolves(step, values, state, batches[0]))
            )
        if can_fuse and len(batches) == steps and _same_shapes(batches):
            return all_steps(values, state, jax.tree.map(_stack, *batches))
        for batch in batches:
            logs, state = one_step(values, state, batch)
        return logs, state

    run.count_programs = lambda: one_step._cache_size() + all_steps._cache_size()
    return run


def _num_parts(distribution: Any) -> int:
    """The number of parts that a batch is split into."""
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    return mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]


def _convolves(step: Step, *args: Any) -> bool:
    """Whether a step contains a convolution, at any depth.

    On CPU, XLA runs a convolution inside a loop on one thread, many times slower than
    outside (github.com/jax-ml/jax/issues/12868).
    """
    return "conv_general_dilated" in str(jax.make_jaxpr(step)(*args))


def _same_shapes(batches: list) -> bool:
    shapes = [jax.tree.map(jnp.shape, batch) for batch in batches]
    return all(shape == shapes[0] for shape in shapes)


def _stack(*arrays: Any) -> Any:
    if all(isinstance(array, np.ndarray) for array in arrays):
        return np.stack(arrays)
    return jnp.stack(arrays)
