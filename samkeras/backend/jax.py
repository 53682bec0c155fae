"""The train step and the compiled multi-step loop on JAX."""

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

from samkeras.masks import Masks
from samkeras.step import SPARSE_IN_GROUPS, shift_seeds

# Loops over groups of examples are unrolled on CPU up to this number.
MAX_UNROLLED = 16
CACHE_BYTES = 2 * 2**30

Step = Callable[[list, Any, Any], tuple[dict, Any]]


class Trainer(keras.Model):
    """Keras' JAX trainer with the SAM step, fused `steps_per_execution` and
    hyperparameters as arguments of the compiled program."""

    def train_step(self, state, data):
        if self.perturbation is None and self._l2 is None and self.masks is None:
            return super().train_step(state, data)
        weights, _, optimizer_state, metrics = state
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        step, loss_scale = self._step_and_loss_scale(optimizer_state)
        if self.m_sharpness is None:
            updates, gradients, sam_gradients = self._passes(state, data, step)
        else:
            updates, gradients, sam_gradients = self._grouped_passes(state, data, step)
        loss, y_pred, new_non_trainable, new_metrics = updates
        is_due = None
        if self.perturbation is not None:
            metric_values = zip(self.metrics_variables, metrics, strict=True)
            with keras.StatelessScope(state_mapping=list(metric_values)):
                is_due = self._gradient_metrics.is_due(step)
        # Outside of any scope here, which would hide the program's inputs.
        gradients, statistics = self._final_gradients(
            weights, gradients, sam_gradients, step, is_due
        )
        # Within the optimizer's scope masks would be constants of the program.
        with Masks(self.trainable_variables).lifted():
            weights, optimizer_state = self.optimizer.stateless_apply(
                optimizer_state, [g * loss_scale for g in gradients], weights
            )
        logs, new_metrics = self._update_metrics_variables(
            new_metrics, loss, x, y, y_pred, sample_weight
        )
        if statistics:
            metric_values = zip(self.metrics_variables, new_metrics, strict=True)
            with keras.StatelessScope(state_mapping=list(metric_values)) as scope:
                logs = {**logs, **self._gradient_metrics.update(statistics)}
            new_metrics = [scope.get_current_value(v) for v in self.metrics_variables]
        # An optimizer may move weights whose gradients are zero.
        weights = self._mask(weights)
        return logs, (weights, new_non_trainable, optimizer_state, new_metrics)

    def _passes(self, state, data, step):
        """Both passes on a batch.

        Returns:
            (loss, predictions, new non-trainable state, new metrics) of the first one,
            gradients at w, gradients at w + epsilon.
        """
        weights = state[0]

        def gradients_at(epsilon):
            # Every pass starts from the incoming non-trainable state: the same
            # dropout draws, and the batch statistics of the first pass alone kept.
            perturbed = [w + e for w, e in zip(weights, epsilon, strict=True)]
            return self._loss_and_gradients(perturbed, state, data)[1]

        updates, gradients = self._loss_and_gradients(weights, state, data)
        return updates, gradients, self._perturb(gradients, gradients_at, step)

    def _grouped_passes(self, state, data, step):
        """As `_passes`, with an epsilon of each group of `m_sharpness` examples, and
        everything averaged over the groups but the metrics, which take one group after
        another.

        Where the batch's parts on several devices are whole groups, each device takes
        its own. Metrics are then sums over what they were updated with, as those of
        keras are.
        """
        if _is_sparse(data):
            raise ValueError(SPARSE_IN_GROUPS)
        batch_size = jax.tree.leaves(data)[0].shape[0]
        distribution = keras.distribution.distribution()
        num_parts = _num_parts(distribution)
        if num_parts == 1 or batch_size % (num_parts * self.m_sharpness):
            return self._passes_by_group(state, data, step, 0)
        axis = distribution.batch_dim_name
        num_groups = batch_size // (num_parts * self.m_sharpness)

        def on_device(state, data, step):
            part = jax.lax.axis_index(axis)
            *state, metrics = state
            # What the metrics were counts once in the sum over the devices.
            metrics = [jnp.where(part == 0, m, jnp.zeros_like(m)) for m in metrics]
            (loss, y_pred, new_state, metrics), *gradients = self._passes_by_group(
                (*state, metrics), data, step, part * num_groups
            )
            loss, new_state, gradients = _map_floats(
                lambda a: jax.lax.pmean(a, axis), (loss, new_state, gradients)
            )
            metrics = jax.lax.psum(metrics, axis)
            return (loss, y_pred, new_state, metrics), *gradients

        everywhere, split = PartitionSpec(), PartitionSpec(axis)
        return jax.shard_map(
            on_device,
            mesh=distribution.device_mesh.backend_mesh,
            in_specs=(everywhere, split, everywhere),
            out_specs=(
                (everywhere, split, everywhere, everywhere),
                everywhere,
                everywhere,
            ),
            check_vma=False,
        )(state, data, step)

    def _passes_by_group(self, state, data, step, first_group):
        """`_passes` on one group after another, averaged; `first_group` is the number
        of the first one, counted over all parts of the batch."""
        size = self.m_sharpness
        batch_size = jax.tree.leaves(data)[0].shape[0]
        num_full = batch_size // size
        end = num_full * size

        def passes(number, group, metrics):
            """A group's part of the averages, the metrics after it, and its
            predictions."""
            weights, non_trainable, optimizer_state, _ = state
            # Each group draws its own random numbers, whatever device it is on.
            number += first_group
            shifted = shift_seeds(self.non_trainable_variables, non_trainable, number)
            (loss, y_pred, new_state, metrics), *gradients = self._passes(
                (weights, shifted, optimizer_state, metrics), group, step
            )
            new_state = shift_seeds(self.non_trainable_variables, new_state, -number)
            share = jax.tree.leaves(group)[0].shape[0] / batch_size
            averaged = (loss, new_state, gradients)
            return _map_floats(lambda a: a * share, averaged), metrics, y_pred

        def add(sums, more):
            return _map_floats(lambda a, b: a + b, more, sums)

        def body(carry, numbered_group):
            sums, metrics = carry
            more, metrics, y_pred = passes(*numbered_group, metrics)
            return (add(sums, more), metrics), y_pred

        metrics, parts = state[-1], []
        first = jax.tree.map(lambda a: a[:size], data)
        shapes, _, _ = jax.eval_shape(passes, 0, first, metrics)
        sums = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        if num_full:
            groups = jax.tree.map(
                lambda a: a[:end].reshape(num_full, size, *a.shape[1:]), data
            )
            # On CPU a convolution inside a loop runs on one thread, see `_convolves`.
            on_cpu = jax.default_backend() == "cpu"
            unroll = num_full if on_cpu and num_full <= MAX_UNROLLED else 1
            (sums, metrics), y_pred = jax.lax.scan(
                body, (sums, metrics), (jnp.arange(num_full), groups), unroll=unroll
            )
            parts.append(jax.tree.map(lambda a: a.reshape(end, *a.shape[2:]), y_pred))
        if end < batch_size:
            rest = jax.tree.map(lambda a: a[end:], data)
            more, metrics, y_pred = passes(num_full, rest, metrics)
            sums = add(sums, more)
            parts.append(y_pred)
        loss, new_state, gradients = sums
        y_pred = jax.tree.map(lambda *a: jnp.concatenate(a), *parts)
        return (loss, y_pred, new_state, metrics), *gradients

    def _loss_and_gradients(self, weights, state, data):
        """One pass at `weights`: ((loss, predictions, new non-trainable state, new
        metrics), gradients that are unscaled and zero where weights are pruned)."""
        _, non_trainable, optimizer_state, metrics = state
        (_, updates), gradients = jax.value_and_grad(
            self.compute_loss_and_updates, has_aux=True
        )(
            weights,
            non_trainable,
            metrics,
            *keras.utils.unpack_x_y_sample_weight(data),
            training=True,
            optimizer_variables=optimizer_state,
        )
        _, loss_scale = self._step_and_loss_scale(optimizer_state)
        return updates, self._mask([g / loss_scale for g in gradients])

    def _step_and_loss_scale(self, optimizer_state):
        values = zip(self.optimizer.variables, optimizer_state, strict=True)
        with keras.StatelessScope(state_mapping=list(values)):
            return jnp.asarray(self.optimizer.iterations), self.optimizer.scale_loss(
                1.0
            )

    def make_gradient_function(self):
        """A compiled function from a batch (x, y[, sample_weight]) to the gradients of
        the training loss at the weights. Nothing of the model changes."""

        @jax.jit
        def compute(state, batch):
            return self._loss_and_gradients(state[0], state, batch)[1]

        def gradients_of(batch):
            self._symbolic_build(data_batch=batch)
            variables = (
                self.trainable_variables,
                self.non_trainable_variables,
                self.optimizer.variables,
                self.metrics_variables,
            )
            return compute([[v.value for v in group] for group in variables], batch)

        return gradients_of

    def make_call_function(self):
        """A compiled function from inputs to the outputs of inference, at the weights
        that the model has when it is called."""

        @jax.jit
        def compute(weights, state, inputs):
            return self.stateless_call(weights, state, inputs, training=False)[0]

        def call(inputs):
            weights = [v.value for v in self.trainable_variables]
            state = [v.value for v in self.non_trainable_variables]
            return compute(weights, state, inputs)

        return call

    def train_on_batches(self, batches):
        """A training step on each of some batches of one shape, `steps_per_execution`
        of them in one compiled call where that is faster. Metrics are not reset."""
        self._symbolic_build(data_batch=batches[0])
        self.make_train_function()
        parts = (
            "trainable_variables",
            "non_trainable_variables",
            "optimizer_variables",
            "metrics_variables",
        )
        state = self._get_jax_state(
            **dict.fromkeys(parts, True), purge_model_variables=False
        )
        self._jax_state_synced = False
        iterator = iter(batches)
        for _ in range(0, len(batches), self.steps_per_execution):
            _, state = self.train_function(state, iterator)
        self._jax_state = dict(zip(parts, state, strict=True))
        self.jax_state_sync()

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return
        if self.run_eagerly or not self.jit_compile:
            super().make_train_function(force)
            return
        inputs = self._program_inputs

        def step(values, state, data):
            mapping = list(zip(inputs, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping):
                return self.train_step(state, data)

        shardings = None
        if keras.distribution.distribution() is not None:
            shardings = self._get_state_sharding_spec()
        compiled = _compile_steps(step, self.steps_per_execution, shardings)

        def train_function(state, iterator):
            return compiled([v.value for v in inputs], state, iterator)

        train_function.count_programs = compiled.count_programs
        self.train_function = train_function

    def make_test_function(self, force=False):
        if self.test_function is not None and not force:
            return
        if self.run_eagerly or not self.jit_compile:
            super().make_test_function(force)
            return

        def step(values, state, data):
            return self.test_step(state, data)

        shardings = None
        if keras.distribution.distribution() is not None:
            weights, non_trainable, _, metrics = self._get_state_sharding_spec()
            shardings = (weights, non_trainable, metrics)
        compiled = _compile_steps(step, self.steps_per_execution, shardings)

        def test_function(state, iterator):
            return compiled([], state, iterator)

        test_function.count_programs = compiled.count_programs
        self.test_function = test_function

    def count_programs(self):
        """The programs compiled to train and to evaluate: one for each shape of a
        batch. 0 where steps are not compiled."""
        functions = (self.train_function, self.test_function)
        counters = [getattr(f, "count_programs", None) for f in functions]
        return sum(count() for count in counters if count)


compile_function = jax.jit


@contextlib.contextmanager
def split_batches(devices: list[str]) -> Iterator[None]:
    """Has models that are built and trained in it split every batch over the devices,
    of all processes; a batch is a multiple of their number."""
    if len(devices) == 1:
        yield
        return
    # Each process brings its own part of a batch.
    split = keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
    with split.scope():
        yield


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


def find_process() -> tuple[int, int]:
    """The number of this process, counted from 0, and how many there are."""
    return jax.process_index(), jax.process_count()


def make_input(batches: keras.utils.PyDataset) -> keras.utils.PyDataset:
    """What to give to `fit(shuffle=False)` and `evaluate`: the batches as they are."""
    return batches


def isolate(x: Any) -> Any:
    """The same, and its gradient the same, which XLA on CPU computes once, not again
    in each operation that takes it. Elsewhere it may fuse as it likes."""
    return jax.lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x


def broadcast(value: Any) -> Any:
    """The value, anything that pickles, that the first process has."""
    if jax.process_count() == 1:
        return value
    data = np.frombuffer(pickle.dumps(value), "uint8")
    size = int(multihost_utils.broadcast_one_to_all(np.array(len(data))))
    # Each process has to bring an array of the same size.
    data = multihost_utils.broadcast_one_to_all(np.resize(data, size))
    return pickle.loads(np.asarray(data).tobytes())


def _num_parts(distribution: Any) -> int:
    """The number of parts that a batch is split into."""
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    return mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]


def _is_sparse(batch: Any) -> bool:
    """Whether a batch has a sparse array, whose parts neither stack nor cut."""
    leaves = jax.tree.leaves(batch, is_leaf=lambda a: isinstance(a, JAXSparse))
    return any(isinstance(leaf, JAXSparse) for leaf in leaves)


def _map_floats(function: Callable, tree: Any, *others: Any) -> Any:
    """Maps the floating point leaves; integers, such as seeds, are the first tree's."""
    return jax.tree.map(
        lambda a, *b: function(a, *b) if jnp.issubdtype(a.dtype, jnp.floating) else a,
        tree,
        *others,
    )


def _compile_steps(step: Step, steps: int, state_shardings: Any) -> Callable:
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
                _is_sparse(batches[0])
                or (on_cpu and _convolves(step, values, state, batches[0]))
            )
        if can_fuse and len(batches) == steps and _same_shapes(batches):
            return all_steps(values, state, jax.tree.map(_stack, *batches))
        for batch in batches:
            logs, state = one_step(values, state, batch)
        return logs, state

    run.count_programs = lambda: one_step._cache_size() + all_steps._cache_size()
    return run


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
