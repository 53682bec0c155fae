"""One training step, in keras.ops: its passes, its method, weight decay and statistics.
It applies nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
from keras import ops

from samkeras.backend import backend
from samkeras.hyperparameter import Hyperparameter
from samkeras.methods.method import Context, Method, Role
from samkeras.objective import Batch, Objective, Pairs, Pass
from samkeras.optimizers import find_momentum
from samkeras.scope import MethodScope
from samkeras.statistics import compare_gradients
from samkeras.tensors import Tensor, add, are_finite, widest


class Gradients(NamedTuple):
    """What the passes of a step give.

    Attributes:
        loss: its mean over the examples, scalar.
        y_pred: predictions.
        updates: pairs of a variable that was assigned and its new value.
        gradient: at the weights, one tensor per weight; empty where the method asked
            for none.
        result: what the method made of its gradients.
        reached: which of the weights the loss depends on.
    """

    loss: Tensor
    y_pred: Any
    updates: Pairs
    gradient: list[Tensor]
    result: list[Tensor]
    reached: list[bool]


@dataclass(frozen=True)
class Step:
    """A step of one model.

    Attributes:
        objective: the training loss.
        method: how its gradient is found; None: at the weights.
        weights: the values of the trainable weights.
        roles: what each does.
        number: int scalar, the optimizer's step.
        optimizer: what takes the gradient.
    """

    objective: Objective
    method: Method | None
    weights: list[Tensor]
    roles: Sequence[Role]
    number: Tensor
    optimizer: keras.optimizers.Optimizer

    def take(
        self,
        state: Pairs,
        batch: Batch,
        share: Tensor | None = None,
        is_part: bool = False,
    ) -> Gradients:
        """Makes the passes on a batch, or on a copy's part of it.

        Args:
            state: pairs of a variable of the model, not a trainable weight, and the
                value at which every pass finds it: all make the same random draws, and
                what the first of them assigns is kept.
            batch: x, or (x, y[, sample_weight]).
            share: the part's share of the gradients that are summed over the copies;
                None to leave them the part's own.
            is_part: whether the batch is a group of a larger one.

        Raises:
            ValueError: the method assigned a variable, or made no pass.
        """
        passes: list[Pass] = []
        at_weights: list[Tensor] = []

        def make_pass(epsilon: list[Tensor] | None) -> list[Tensor]:
            point, held = self.weights, []
            if epsilon is not None:
                point = add(self.weights, epsilon)
                if passes and passes[0].raw is not None and backend.count_parts() == 1:
                    held = [*zip(self.objective.weights, point, strict=True), *state]
            found = self.objective.differentiate(point, state, batch, held)
            if is_part or backend.count_parts() > 1:
                _check_read(found.raw)
            passes.append(found)
            return backend.sum_over_copies(found.gradients, share)

        def differentiate(
            epsilon: list[Tensor] | None, is_due: Tensor | None
        ) -> list[Tensor]:
            if epsilon is not None:
                self._check_shapes("epsilon", epsilon)
            if is_due is None:
                gradient = make_pass(epsilon)
            else:
                gradient = backend.take_branch(
                    is_due, lambda: make_pass(epsilon), at_weights, is_part
                )
            if epsilon is None:
                at_weights[:] = gradient
            return gradient

        context = self._context(differentiate)
        if self.method is None:
            result = context.gradient
        else:
            name = type(self.method).__name__
            message = (
                f"{name}.gradients must assign no variable; its state is assigned in "
                "update. Received: an assignment of {path}"
            )
            with MethodScope([], message):
                result = self.method.gradients(context)
        if not passes:
            name = type(self.method).__name__
            raise ValueError(f"{name}.gradients must make a pass over the batch")
        self._check_shapes("result", result)
        first = passes[0]
        return Gradients(
            first.loss, first.y_pred, first.updates, at_weights, result, first.reached
        )

    def _check_shapes(self, what: str, tensors: Any) -> None:
        expected = [tuple(weight.shape) for weight in self.weights]
        found: list[Any] = [*tensors] if isinstance(tensors, list | tuple) else []
        fit = len(found) == len(expected) and all(map(_fits, found, expected))
        if not fit:
            raise ValueError(
                f"{type(self.method).__name__}'s {what} must be a list of one tensor "
                f"per trainable weight, of shapes {expected}. Received: {tensors!r}"
            )

    def split(self, gradients: Gradients) -> tuple[list[Tensor], list[Tensor] | None]:
        """What the optimizer takes, and what passes it by; see `Method.split`."""
        if self.method is None:
            return gradients.result, None
        return self.method.split(self._look_back(gradients, "split"), gradients.result)

    def update_method(self, gradients: Gradients) -> Pairs:
        """The new values of the method's state.

        Raises:
            ValueError: it assigned another variable.
        """
        if self.method is None:
            return []
        context = self._look_back(gradients, "update")
        message = (
            f"{type(self.method).__name__}.update must assign its state alone, which "
            "add_state makes. Received: an assignment of {path}"
        )
        with MethodScope(self.method.state, message) as scope:
            self.method.update(context, gradients.result)
        return scope.updates

    def _look_back(self, gradients: Gradients, what: str) -> Context:
        """What a method sees when all passes are done."""

        def look_up(
            epsilon: list[Tensor] | None, is_due: Tensor | None
        ) -> list[Tensor]:
            if epsilon is None and gradients.gradient:
                return gradients.gradient
            raise ValueError(
                f"{type(self.method).__name__}.{what} must make no pass: it has the "
                "gradient at the weights where gradients asked for it, and its result"
            )

        return self._context(look_up)

    def _context(self, differentiate: Any) -> Context:
        return Context(
            self.weights,
            self.roles,
            self.number,
            self.objective.mask,
            differentiate,
            lambda: find_momentum(self.optimizer, self.objective.weights),
        )


def finish(
    gradients: Gradients,
    result: list[Tensor],
    weights: list[Tensor],
    l2: Hyperparameter | None,
    number: Tensor,
    is_due: Tensor | None,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The gradients for the optimizer, and how those at w relate to them.

    Args:
        gradients: the passes'.
        result: what the optimizer takes of them.
        weights: the weights that decay.
        l2: coupled weight decay, or None.
        number: int scalar, the optimizer's step.
        is_due: bool scalar, whether to compare the gradients at this step; None: never,
            where there is no method.

    Returns:
        The gradients, one per weight, and statistics; see `compare_gradients`.
    """
    statistics = {}
    if is_due is not None and gradients.gradient:
        statistics = compare_gradients(gradients.gradient, gradients.result, is_due)
    if l2 is not None:
        result = add_l2(result, weights, l2, number)
    return result, statistics


def _fits(tensor: Any, shape: tuple[int, ...]) -> bool:
    """Whether a tensor has a shape, as far as that is known before a program runs."""
    if tensor is None or not hasattr(tensor, "shape"):
        return False
    if getattr(tensor.shape, "rank", 0) is None:
        return True
    sizes = tuple(tensor.shape)
    return len(sizes) == len(shape) and all(
        size is None or size == expected
        for size, expected in zip(sizes, shape, strict=True)
    )


def _check_read(raw: keras.Variable | None) -> None:
    if raw is not None and raw.trainable:
        raise ValueError(
            "m_sharpness, and several devices, need weights that are read through "
            f"keras. Received: {raw.path}, which is read past it, as by a TFSMLayer"
        )


def add_l2(
    gradients: list[Tensor], weights: list[Tensor], l2: Hyperparameter, step: Tensor
) -> list[Tensor]:
    """Adds coupled weight decay: l2 times the unperturbed weights."""
    factor = l2.at(step, widest(gradients))
    return [
        g + ops.cast(factor, g.dtype) * ops.cast(w, g.dtype)
        for g, w in zip(gradients, weights, strict=True)
    ]


def keep_unless_finite(updates: Pairs, gradients: list[Tensor]) -> Pairs:
    """The updates, or the variables as they are where a LossScaleOptimizer skips the
    step of `gradients`."""
    finite = are_finite(gradients)
    old_values = backend.values_of(variable for variable, _ in updates)
    return [
        (variable, ops.where(finite, value, old))
        for (variable, value), old in zip(updates, old_values, strict=True)
    ]
