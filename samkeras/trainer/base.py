"""What keras' trainers do in a sharpness-aware step, on every backend."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops
from keras.src.models.functional import Functional

from samkeras.backend import backend
from samkeras.backend.insides import unwrap
from samkeras.backend.interface import Logs, Rows
from samkeras.groups import take_in_groups
from samkeras.hyperparameter import Hyperparameter
from samkeras.masks import Masks, copy_masks
from samkeras.methods.method import Method, Role
from samkeras.objective import Batch, Objective, pairs_of
from samkeras.statistics import GradientMetrics
from samkeras.step import Gradients, Step, finish, keep_unless_finite
from samkeras.tensors import Tensor, add, scale, widest

NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


@dataclass(frozen=True)
class Rule:
    """What a training step does beside the gradient and the optimizer.

    Attributes:
        method: how the gradient is found; None: at the weights.
        m_sharpness: examples of a group; None: the whole batch.
        l2: coupled weight decay; None: 0.
        l2_in_loss: whether it is a part of the loss.
        metrics: what is said of the gradients; None without a method.
    """

    method: Method | None = None
    m_sharpness: int | None = None
    l2: Hyperparameter | None = None
    l2_in_loss: bool = False
    metrics: GradientMetrics | None = None


class BaseTrainer(keras.Model):
    """A keras.Model with the sharpness-aware step. A backend's trainer has it called,
    and says how gradients are applied and losses tracked."""

    _rule = Rule()
    # Whether keras assigns variables at once, see `Objective`.
    _assigns_weights = True

    def __init__(self, *args: Any, **kwargs: Any):
        if len(args) == 2 or "outputs" in kwargs:
            # keras.Model puts Functional among the bases of its subclasses themselves,
            # where all other models of the process would have it too.
            self.__class__ = _make_functional(type(self))
        super().__init__(*args, **kwargs)

    @property
    def masks(self) -> Masks | None:
        """Which weights are kept in training, also those of models within this one;
        None: all of them."""
        return Masks(self.weights) or None

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        """All state that is not trained by gradients, the method's included, which is
        not among the weights."""
        method = self._rule.method
        return super().non_trainable_variables + (method.state if method else [])

    def build_for(self, batch: Batch) -> None:
        """Makes all variables of training: the model's, the optimizer's, the metrics'
        and the method's. Nothing is trained.

        Args:
            batch: x, or (x, y[, sample_weight]), as training will have them.

        Raises:
            ValueError: the model is not compiled.
        """
        if not self.compiled:
            raise ValueError("compile the model before build_for, which builds all")
        self._symbolic_build(data_batch=batch)

    def _symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        super()._symbolic_build(iterator=iterator, data_batch=data_batch)
        self._build_method()

    def _build_like(self, batches: Sequence[Batch] | Rows) -> None:
        """Builds the model for such batches."""
        like = batches.specs if isinstance(batches, Rows) else batches[0]
        self._symbolic_build(data_batch=like)

    def _build_method(self, rule: Rule | None = None) -> None:
        """Builds the rule's method for the weights, when all are there."""
        method = (rule or self._rule).method
        if method is not None and all(x.built for x in self._flatten_layers()):
            method.build_for(self.trainable_variables, self.find_roles())

    def find_roles(self) -> list[Role]:
        """What each trainable weight is for, as methods are told of it."""
        roles: dict[int, Role] = {}
        for layer in self._flatten_layers():
            kind = "kernel"
            if isinstance(layer, NORMALIZATIONS):
                kind = "normalization"
            elif isinstance(layer, keras.layers.Embedding):
                kind = "embedding"
            offsets = (getattr(layer, "bias", None), getattr(layer, "beta", None))
            for weight in layer._trainable_variables:
                is_offset = any(weight is offset for offset in offsets)
                is_bias = is_offset and kind == "kernel"
                roles[id(weight)] = Role("bias" if is_bias else kind, is_offset)
        return [roles.get(id(v), Role("kernel")) for v in self.trainable_variables]

    def _sync_state(self) -> None:
        """Has variables hold what the steps of a fit that runs made of them."""

    @property
    def _is_plain(self) -> bool:
        """Whether a step is keras' own."""
        rule = self._rule
        return rule.method is None and rule.l2 is None and self.masks is None

    def _objective(self) -> Objective:
        """The training loss."""
        rule, optimizer, decay = self._rule, self.optimizer, None
        factor = 1.0 if optimizer is None else optimizer.scale_loss(1.0)
        if optimizer is not None and rule.l2 is not None and rule.l2_in_loss:
            number = ops.convert_to_tensor(optimizer.iterations)
            decay = rule.l2.at(number, widest(self.trainable_variables))
        return Objective(
            self._forward,
            self.trainable_variables,
            self.non_trainable_variables,
            self._assigns_weights,
            ops.convert_to_tensor(factor, "float32"),
            isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer),
            self._find_losses,
            decay,
        )

    def _forward(self, batch: Batch) -> tuple[Any, Tensor]:
        """Predictions and mean loss of a batch in training."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        training = {"training": True} if self._call_has_training_arg else {}
        y_pred = self(x, **training)
        loss = self._compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
        )
        return y_pred, loss

    def _find_losses(self, batch: Batch, y_pred: Any) -> Tensor | None:
        """What each example adds to the loss, times their number: its own loss, where
        the loss is their mean. float32[example]; None where the loss takes no weights
        of examples.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        first = next(array for array in keras.tree.flatten(x) if array is not None)
        count = ops.shape(first)[0]

        # The loss is linear in the share of each example.
        def weigh(share: Tensor) -> Tensor:
            def like(rank: int) -> Tensor:
                return ops.reshape(share, (-1, *[1] * (rank - 1)))

            def apply(weight: Any) -> Tensor | None:
                if weight is None:
                    return None
                return ops.cast(weight, share.dtype) * like(len(weight.shape))

            def make(output: Any) -> Tensor:
                # Losses have no last axis of predictions.
                return like(max(len(output.shape) - 1, 1))

            if sample_weight is None:
                weights = keras.tree.map_structure(make, y_pred)
            else:
                weights = keras.tree.map_structure(apply, sample_weight)
            return self._compute_loss(
                x=x, y=y, y_pred=y_pred, sample_weight=weights, training=True
            )

        losses = backend.gradient_of(weigh, ops.ones((count,), "float32"))
        if losses is None:
            return None
        # Keras divides a part's loss by their number.
        return losses * ops.cast(count * backend.count_parts(), "float32")

    def _take_step(self, batch: Batch) -> dict[str, Tensor]:
        """Takes a step, on this copy's part of a batch where there are several, and
        returns the logs."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        rule, optimizer = self._rule, self.optimizer
        number = ops.convert_to_tensor(optimizer.iterations)
        objective = self._objective()
        step = Step(
            objective,
            rule.method,
            backend.values_of(objective.weights),
            self.find_roles(),
            number,
            optimizer,
        )
        share = self._share(batch)
        gradients = self._take_passes(step, batch, share)
        # Not before all passes are done: each starts from the state before the first.
        for variable, value in gradients.updates:
            variable.assign(value)
        self._track_loss(gradients.loss, share, batch)
        is_due = rule.metrics.is_due(number) if rule.metrics else None
        # The weights as they are now: a layer may have assigned its own.
        result, shift = step.split(gradients)
        final, statistics = finish(
            gradients,
            result,
            backend.values_of(objective.weights),
            None if rule.l2_in_loss else rule.l2,
            number,
            is_due,
        )
        scaled = scale(final, objective.scale)
        state = step.update_method(gradients)
        if objective.is_scaled:
            state = keep_unless_finite(state, scaled)
        if shift is not None:
            self._shift(shift, scaled, objective.is_scaled)
        self._apply(scaled, gradients.reached)
        for variable, value in state:
            variable.assign(value)
        logs = self.compute_metrics(x, y, gradients.y_pred, sample_weight=sample_weight)
        if rule.metrics is not None:
            if statistics:
                rule.metrics.update(statistics)
            logs = {**logs, **self.get_gradient_metrics_result()}
        return logs

    def _shift(
        self, shift: list[Tensor], gradients: list[Tensor], is_scaled: bool
    ) -> None:
        """Moves the weights against what passes the optimizer by, unless it skips the
        step of `gradients`. Before its step, so that what it does with weights, such as
        constraints and averages, is of them all."""
        if unwrap(self.optimizer).gradient_accumulation_steps:
            raise ValueError(
                f"{type(self._rule.method).__name__} moves the weights at each step: "
                "the optimizer must have no gradient_accumulation_steps"
            )
        weights, rate = self.trainable_variables, self.optimizer.learning_rate
        moved = add(backend.values_of(weights), scale(shift, -rate))
        pairs = [*zip(weights, moved, strict=True)]
        for variable, value in (
            keep_unless_finite(pairs, gradients) if is_scaled else pairs
        ):
            variable.assign(value)

    def _take_passes(self, step: Step, batch: Batch, share: Tensor | None) -> Gradients:
        state = step.objective.state
        if self._rule.m_sharpness is None:
            return step.take(pairs_of(state), batch, share)
        return take_in_groups(
            functools.partial(step.take, is_part=True),
            state,
            self._find_averaged,
            self._flatten_layers(),
            batch,
            self._rule.m_sharpness,
        )

    def _find_averaged(self) -> list[keras.Variable]:
        """The variables whose new values are averaged over groups of examples."""
        return self.variables

    def _share(self, batch: Batch) -> Tensor | None:
        """This copy's share of a batch's loss; None where it has it all."""
        return None

    def _track_loss(self, loss: Tensor, share: Tensor | None, batch: Batch) -> None:
        """Adds a step's loss to the mean of the epoch."""
        raise NotImplementedError

    def _apply(self, gradients: list[Tensor], reached: Sequence[bool]) -> None:
        """Has the optimizer take gradients, scaled as it wants them and the same on all
        copies."""
        raise NotImplementedError

    def train_on_batches(
        self, batches: Sequence[Batch] | Rows, like: Any = None
    ) -> Logs:
        """Takes a training step on each of some batches, `steps_per_execution` of one
        shape in one compiled call where that is faster. Metrics are not reset.

        Args:
            batches: at least one. Those of Rows, whose examples the device has, are
                one compiled call, or one each where a loop would be slower.
            like: what all batches of the training are like, KerasTensors in a batch's
                structure, None in those sides in which they differ. None (default):
                they are as the first, of any number of examples.

        Returns:
            The logs of the last step, which are means since the metrics were reset;
            the device may still be at it.
        """
        raise NotImplementedError

    def test_on_batches(
        self, batches: Sequence[Batch] | Rows, like: Any = None
    ) -> Logs:
        """Evaluates some batches, see `train_on_batches`."""
        raise NotImplementedError

    def take_together(
        self, models: Sequence["BaseTrainer"], rows: Sequence[Rows], is_training: bool
    ) -> list[Logs]:
        """Takes steps of several models in one program, which is this one's: they have
        the same layers, method and optimizer, and differ in the numbers that these are
        made with: weights, seeds, those of the method, l2, masks and learning rates.

        Args:
            models: compiled.
            rows: of each model, as many batches of the same shapes.
            is_training: whether to train them, or to evaluate.

        Returns:
            Each model's logs, as `train_on_batches` gives them.

        Raises:
            NotImplementedError: keras runs on another backend than JAX.
        """
        raise NotImplementedError("models train together on JAX alone")

    def get_gradient_metrics_result(self) -> Logs:
        """The gradients' metrics so far in the epoch; none without a method."""
        if self._rule.metrics is None:
            return {}
        return {m.name: m.result() for m in self._rule.metrics.metrics}

    def _read_logs(self) -> Logs:
        """The means of the epoch so far."""
        return {**self.get_metrics_result(), **self.get_gradient_metrics_result()}

    def make_gradient_function(self) -> Callable[[Batch], list[Tensor]]:
        """A compiled function from a batch (x, y[, sample_weight]) to the gradients of
        the training loss at the weights. Nothing of the model changes."""

        def compute(batch: Batch) -> list[Tensor]:
            objective = self._objective()
            weights = backend.values_of(objective.weights)
            state = pairs_of(objective.state)
            return objective.differentiate(weights, state, batch, []).gradients

        compiled = backend.compile_reading(compute, self._find_variables)

        def gradients_of(batch: Batch) -> list[Tensor]:
            self._symbolic_build(data_batch=batch)
            return compiled(keras.tree.map_structure(_to_tensor, batch))

        return gradients_of

    def make_call_function(self) -> Callable[[Any], Any]:
        """A compiled function from inputs to the outputs of inference, at the weights
        that the model has when it is called. Where keras.distribution splits batches,
        its inputs are a batch too: of a multiple of the devices' number."""
        return backend.compile_reading(
            functools.partial(self, training=False), lambda: self.variables
        )

    def find_inputs(self) -> list[keras.Variable]:
        """Variables outside the model's state that a compiled step reads anew."""
        sources = (self._rule.method, self._rule.l2, self.masks)
        return [v for source in sources if source for v in source.variables]

    def _find_variables(self) -> list[keras.Variable]:
        """All variables of training."""
        own = [*self.trainable_variables, *self.non_trainable_variables]
        return [*own, *self.optimizer.variables, *self.metrics_variables]

    def _run_through_graph(
        self,
        inputs: Any,
        operation_fn: Callable[[Any], Any] = lambda op: op,
        **kwargs: Any,
    ) -> Any:
        # How keras.models.clone_model makes its layers, the only place to see them in.
        clones: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []

        def note(operation: Any) -> Any:
            result = operation_fn(operation)
            if isinstance(result, keras.layers.Layer):
                clones.append((operation, result))
            return result

        outputs = super()._run_through_graph(inputs, note, **kwargs)
        for layer, clone in clones:
            if clone is not layer:
                copy_masks(layer, clone)
        return outputs

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickle looks classes up by their names, where a functional model's is not.
        _, arguments = super().__reduce__()
        return BaseTrainer._unpickle_model, arguments


def _to_tensor(array: Any) -> Tensor | None:
    return None if array is None else ops.convert_to_tensor(array)


@functools.cache
def _make_functional(cls: type[Any]) -> type[Any]:
    """The class of those models of a class that are given by their inputs and outputs.
    Saved files know it by the same name."""
    if issubclass(cls, Functional):
        return cls
    names = ("__module__", "__qualname__", "__doc__")
    namespace = {name: getattr(cls, name) for name in names}
    functional = type(cls.__name__, (cls, Functional), namespace)
    registered = keras.saving.get_registered_name(cls)
    if registered != cls.__name__:
        keras.saving.register_keras_serializable(*registered.split(">"))(functional)
        keras.saving.get_custom_objects()[registered] = cls  # the one to load with
    return functional
