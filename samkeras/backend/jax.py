"""The train step and the compiled multi-step loop on JAX."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

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

        def gradients_at(epsilon):
            # Every pass starts from the incoming non-trainable state: the same
            # dropout draws, and the batch statistics of the first pass alone kept.
            perturbed = [w + e for w, e in zip(weights, epsilon, strict=True)]
            return self._loss_and_gradients(perturbed, state, data)[1]

        updates, gradients = self._loss_and_gradients(weights, state, data)
        loss, y_pred, new_non_trainable, new_metrics = updates
        is_due = None
        if self.perturbation is not None:
            metric_values = zip(self.metrics_variables, metrics, strict=True)
            with keras.StatelessScope(state_mapping=list(metric_values)):
                is_due = self._gradient_metrics.is_due(step)
        # Outside of any scope here, which would hide the program's inputs.
        gradients, statistics = self._final_gradients(
            weights, gradients, gradients_at, step, is_due
        )
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
        self.test_function = lambda state, iterator: compiled([], state, iterator)


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
                on_cpu and _convolves(step, values, state, batches[0])
            )
        if can_fuse and len(batches) == steps and _same_shapes(batches):
            return all_steps(values, state, jax.tree.map(_stack, *batches))
        for batch in batches:
            logs, state = one_step(values, state, batch)
        return logs, state

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
