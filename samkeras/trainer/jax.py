"""keras' JAX trainer around a sharpness-aware step."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Any, cast

import keras
from keras.optimizers.schedules import LearningRateSchedule as Rate

from samkeras.backend.insides import unwrap
from samkeras.backend.interface import Logs, Rows
from samkeras.backend.jax import CompiledSteps, copy, settled, to_devices, values_of
from samkeras.masks import Masks
from samkeras.objective import Batch
from samkeras.scope import Scope
from samkeras.tensors import Tensor
from samkeras.trainer.base import BaseTrainer

PARTS = (
    "trainable_variables",
    "non_trainable_variables",
    "optimizer_variables",
    "metrics_variables",
)


TEST_PARTS = tuple(part for part in PARTS if part != "optimizer_variables")


class Trainer(BaseTrainer):
    """Keras' JAX trainer with fused `steps_per_execution`, and hyperparameters as
    arguments of the compiled program."""

    _assigns_weights = False
    _reset: "_Reset | None" = None

    def train_step(self, state: Any, data: Batch) -> Any:
        if self._is_plain:
            return super().train_step(state, data)
        parts = (
            self.trainable_variables,
            self.non_trainable_variables,
            self.optimizer.variables,
            self.metrics_variables,
        )
        pairs = [
            pair
            for variables, values in zip(parts, state, strict=True)
            for pair in zip(variables, values, strict=True)
        ]
        with Scope(pairs) as scope:
            logs = self._take_step(data)
        return logs, tuple([scope.get_current_value(v) for v in p] for p in parts)

    def _sync_state(self) -> None:
        self.jax_state_sync()

    def _find_averaged(self) -> list[keras.Variable]:
        return self.non_trainable_variables

    def _track_loss(self, loss: Tensor, share: Tensor | None, batch: Batch) -> None:
        x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
        first = next(array for array in keras.tree.flatten(x) if array is not None)
        self._loss_tracker.update_state(loss, sample_weight=first.shape[0])

    def _apply(self, gradients: list[Tensor], reached: Sequence[bool]) -> None:
        optimizer, weights = self.optimizer, self.trainable_variables
        masks = Masks(weights)
        # Within the optimizer's own scope masks would be constants of the program.
        with masks.lifted():
            values, state = optimizer.stateless_apply(
                values_of(optimizer.variables),
                gradients,
                values_of(weights),
            )
        # An optimizer may move weights whose gradients are zero.
        values = masks.apply(weights, values)
        variables = [*weights, *optimizer.variables]
        for variable, value in zip(variables, [*values, *state], strict=True):
            variable.assign(value)

    def reset_metrics(self) -> None:
        if self._reset is None or not self._reset.is_of(self.metrics_variables):
            super().reset_metrics()
            self._reset = _Reset(self.metrics_variables)
        else:
            self._reset.repeat()

    def train_on_batches(
        self, batches: Sequence[Batch] | Rows, like: Any = None
    ) -> Logs:
        return self._take(batches, is_training=True)

    def test_on_batches(
        self, batches: Sequence[Batch] | Rows, like: Any = None
    ) -> Logs:
        return self._take(batches, is_training=False)

    def _take(self, batches: Sequence[Batch] | Rows, is_training: bool) -> Logs:
        self._build_like(batches)
        function, state = self._find_steps(is_training), self._take_state(is_training)
        logs: Logs = {}
        if isinstance(batches, Rows):
            logs, state = settled(function.take(state, batches))
        else:
            iterator = map(to_devices, batches)
            for _ in range(0, len(batches), self.steps_per_execution):
                logs, state = settled(function(state, iterator))
        self._put_state(state, is_training)
        return logs

    def take_together(
        self, models: Sequence[BaseTrainer], rows: Sequence[Rows], is_training: bool
    ) -> list[Logs]:
        others = cast(Sequence[Trainer], models)
        for model, some in zip(others, rows, strict=True):
            model._build_like(some)
        self._build_like(rows[0])
        states = [model._take_state(is_training) for model in others]
        inputs = [model.find_inputs() if is_training else [] for model in others]
        rates = _list_rates(others) if is_training else None
        results = self._find_steps(is_training).take_together(
            [values_of(variables) for variables in inputs], states, rows, rates
        )
        for model, (_, state) in zip(others, results, strict=True):
            model._put_state(state, is_training)
        return [logs for logs, _ in results]

    def _find_steps(self, is_training: bool) -> Any:
        """The compiled steps of training or of an evaluation."""
        if is_training:
            self.make_train_function()
            return self.train_function
        self.make_test_function()
        return self.test_function

    def _take_state(self, is_training: bool) -> Any:
        """The values of all variables, which the steps are given with their memory."""
        parts = PARTS if is_training else TEST_PARTS
        state = self._get_jax_state(
            **dict.fromkeys(parts, True), purge_model_variables=False
        )
        self._jax_state_synced = False
        return state

    def _put_state(self, state: Any, is_training: bool) -> None:
        parts = PARTS if is_training else TEST_PARTS
        self._jax_state = dict(zip(parts, state, strict=True))
        self.jax_state_sync()

    def make_call_function(self) -> Callable[[Any], Any]:
        compiled = super().make_call_function()
        return lambda x: compiled(to_devices(x))

    def make_train_function(self, force: bool = False) -> None:
        if self.train_function is not None and not force:
            return
        if self.run_eagerly or not self.jit_compile:
            super().make_train_function(force)
            return
        inputs = self.find_inputs()

        def step(
            values: list[Tensor], state: Any, data: Batch, rate: Rate | None = None
        ) -> Any:
            with Scope(zip(inputs, values, strict=True)), self._follow(rate):
                return self.train_step(state, data)

        shardings = None
        if keras.distribution.distribution() is not None:
            shardings = self._get_state_sharding_spec()
        self.train_function = CompiledSteps(
            step, inputs, self.steps_per_execution, shardings
        )

    @contextlib.contextmanager
    def _follow(self, rate: Rate | None) -> Generator[None]:
        """Has the optimizer follow another schedule of its learning rate."""
        if rate is None:
            yield
            return
        optimizer = unwrap(self.optimizer)
        own, optimizer._learning_rate = optimizer._learning_rate, rate
        try:
            yield
        finally:
            optimizer._learning_rate = own

    def make_test_function(self, force: bool = False) -> None:
        if self.test_function is not None and not force:
            return
        if self.run_eagerly or not self.jit_compile:
            super().make_test_function(force)
            return

        def step(
            values: list[Tensor], state: Any, data: Batch, rate: Rate | None = None
        ) -> Any:
            return self.test_step(state, data)

        shardings = None
        if keras.distribution.distribution() is not None:
            weights, non_trainable, _, metrics = self._get_state_sharding_spec()
            shardings = (weights, non_trainable, metrics)
        self.test_function = CompiledSteps(
            step, [], self.steps_per_execution, shardings
        )

    def count_programs(self) -> int:
        """The programs compiled to train and to evaluate: one for each shape of a
        batch. 0 where steps are not compiled."""
        functions = (self.train_function, self.test_function)
        compiled = [f for f in functions if isinstance(f, CompiledSteps)]
        return sum(function.count_programs() for function in compiled)


def _list_rates(models: Sequence[Trainer]) -> tuple[Rate, ...] | None:
    """The schedules of the models' learning rates, which are constants of a program;
    None where they are all the same, or numbers, which are not."""
    rates = [unwrap(model.optimizer)._learning_rate for model in models]
    if not isinstance(rates[0], Rate):
        return None
    configs = [rate.get_config() for rate in rates]
    return None if all(c == configs[0] for c in configs) else tuple(rates)


class _Reset:
    """What variables are now, on the device, to set them to it again."""

    def __init__(self, variables: list[keras.Variable]):
        self._variables = variables
        # Copies, since steps are given the memory of their state.
        self._values = copy(values_of(variables))

    def is_of(self, variables: list[keras.Variable]) -> bool:
        return list(map(id, variables)) == list(map(id, self._variables))

    def repeat(self) -> None:
        for variable, value in zip(self._variables, copy(self._values), strict=True):
            variable.assign(value)
