"""One training step, in keras.ops: its passes, its method, weight decay and statistics.
It applies nothing."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
from keras import ops

from samkeras.backend import backend
from samkeras.hyperparameter import Hyperparameter, reading_at
from samkeras.methods.method import Context, Method, Point, Role
from samkeras.objective import Batch, Objective, Pairs, Pass, decayed
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
        may_be_skipped: whether there are passes that some steps skip.
    """

    loss: Tensor
    y_pred: Any
    updates: Pairs
    gradient: list[Tensor]
    result: list[Tensor]
    reached: list[bool]
    may_be_skipped: bool = False


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
        passes = _Passes(self, state, batch, share, is_part)
        context = self._context(
            passes.make, passes.find_losses, passes.multiply, passes.branch
        )
        if self.method is None:
            result = context.gradient
        else:
            name = type(self.method).__name__
            message = (
                f"{name}.gradients must assign no variable; its state is assigned in "
                "update. Received: an assignment of {path}"
            )
            with self._reading(), MethodScope([], message):
                result = self.method.gradients(context)
        if not passes.made:
            name = type(self.method).__name__
            raise ValueError(f"{name}.gradients must make a pass over the batch")
        self.check_shapes("result", result)
        first = passes.made[0]
        gradient = passes.here.gradient if passes.here else []
        return Gradients(
            first.loss,
            first.y_pred,
            first.updates,
            gradient,
            result,
            first.reached,
            passes.may_be_skipped,
        )

    def check_shapes(self, what: str, tensors: Any) -> None:
        """Checks what a method gives.

        Raises:
            ValueError: it has not one tensor per weight, of its shape.
        """
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
        context = self._look_back(gradients, "split")
        with self._reading():
            return self.method.split(context, gradients.result)

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
        with self._reading(), MethodScope(self.method.state, message) as scope:
            self.method.update(context, gradients.result)
        return scope.updates

    def _reading(self) -> contextlib.AbstractContextManager[None]:
        """Has the method's numbers, where it reads them, be those of this step."""
        return reading_at(self.number, widest(self.weights))

    def _look_back(self, gradients: Gradients, what: str) -> Context:
        """What a method sees when all passes are done."""

        def look_up(epsilon: list[Tensor] | None, *_: Any) -> Point:
            if epsilon is None and gradients.gradient:
                return Point(gradients.gradient)
            raise ValueError(
                f"{type(self.method).__name__}.{what} must make no pass: it has the "
                "gradient at the weights where gradients asked for it, and its result"
            )

        branch = functools.partial(backend.take_branch, True)  # nothing to sum
        return self._context(look_up, look_up, look_up, branch)

    def _context(
        self, make_pass: Any, find_losses: Any, multiply: Any, branch: Any
    ) -> Context:
        return Context(
            self.weights,
            self.roles,
            self.number,
            self.objective.mask,
            make_pass,
            find_losses,
            multiply,
            lambda: find_momentum(self.optimizer, self.objective.weights),
            branch,
        )


class _Passes:
    """The passes of a step.

    Args:
        step: of which.
        state, batch, share, is_part: see `Step.take`.
    """

    def __init__(
        self,
        step: Step,
        state: Pairs,
        batch: Batch,
        share: Tensor | None,
        is_part: bool,
    ):
        self.made: list[Pass] = []
        self.here: Point | None = None
        self.may_be_skipped = False
        self._step, self._state, self._batch = step, state, batch
        self._share, self._is_part = share, is_part
        self._uses_losses = step.method is not None and step.method.uses_losses

    def make(
        self,
        epsilon: list[Tensor] | None,
        examples: Tensor | None = None,
        ascends: bool = False,
    ) -> Point:
        """What a pass at w, or at w + epsilon, gives; see `Context`."""
        if epsilon is None:
            found = self._differentiate(None, None, self._step.method is not None)
            losses = self.made[-1].losses
            self.here = self._point_of(found)._replace(losses=losses)
            return self.here
        self._step.check_shapes("epsilon", epsilon)
        return self._point_of(self._differentiate(epsilon, examples, ascends))

    def branch(
        self,
        is_due: Tensor,
        yes: Callable[[], list[Tensor]],
        no: Callable[[], list[Tensor]],
    ) -> list[Tensor]:
        """What one of two functions gives; see `Context.cond`."""
        self.may_be_skipped = True
        return backend.take_branch(self._is_part, is_due, yes, no)

    def find_losses(self, epsilon: list[Tensor]) -> Tensor:
        """The examples' losses at w + epsilon; see `Context`."""
        self._step.check_shapes("epsilon", epsilon)
        name = type(self._step.method).__name__
        if self.here is None or not self._uses_losses:
            raise ValueError(
                f"{name} must say uses_losses, and ask for the gradient at the weights "
                "before losses elsewhere"
            )
        if self.here.losses is None:
            raise ValueError(
                f"{name} asks for the losses of single examples: the loss must take "
                "sample weights, and the model's compute_loss pass them on"
            )
        _check_read(self.made[0].raw)
        point = add(self._step.weights, epsilon)
        return self._step.objective.losses_at(point, self._state, self._batch)

    def multiply(self, vector: list[Tensor]) -> list[Tensor]:
        """The Hessian at w times a vector; see `Context`."""
        self._step.check_shapes("vector", vector)
        if not self.made:
            name = type(self._step.method).__name__
            raise ValueError(f"{name} must make a pass before a Hessian product")
        _check_read(self.made[0].raw)
        product = self._step.objective.multiply(
            self._step.weights, self._state, self._batch, vector
        )
        return backend.sum_over_copies(product, self._share)

    def _differentiate(
        self, epsilon: list[Tensor] | None, examples: Tensor | None, ascends: bool
    ) -> list[Tensor]:
        """A gradient, and the loss where it is used."""
        step, point, held = self._step, self._step.weights, []
        if epsilon is not None:
            point = add(point, epsilon)
            is_raw = bool(self.made) and self.made[0].raw is not None
            if is_raw and backend.count_parts() == 1:
                held = [*zip(step.objective.weights, point, strict=True), *self._state]
        batch = self._batch if examples is None else _choose(self._batch, examples)
        is_here = epsilon is None
        found = step.objective.differentiate(
            point,
            self._state,
            batch,
            held,
            by_example=self._uses_losses and is_here,
            ascends=ascends,
        )
        is_elsewhere = not is_here and not held
        if self._is_part or backend.count_parts() > 1 or is_elsewhere:
            _check_read(found.raw)
        self.made.append(found)
        losses = []
        if self._uses_losses:
            has_penalty = found.penalty is not None
            losses = [found.loss + found.penalty if has_penalty else found.loss]
        return backend.sum_over_copies([*found.gradients, *losses], self._share)

    def _point_of(self, found: list[Tensor]) -> Point:
        count = len(self._step.weights)
        return Point(found[:count], *found[count:])


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
        statistics = compare_gradients(
            gradients.gradient,
            gradients.result,
            is_due,
            is_norm_due=not gradients.may_be_skipped,
        )
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
            "m_sharpness, several devices, losses of examples, Hessian products and a "
            "first pass at w + epsilon need weights that are read through keras. "
            f"Received: {raw.path}, which is read past it, as by a TFSMLayer"
        )


def _choose(batch: Batch, examples: Tensor) -> Batch:
    """Some examples of a batch.

    Raises:
        ValueError: it has a sparse array.
    """
    if backend.is_sparse(batch):
        raise ValueError(
            "examples cannot be chosen from sparse arrays; make them dense"
        )

    def take(array: Any) -> Tensor | None:
        return None if array is None else backend.take_rows(array, examples)

    return keras.tree.map_structure(take, batch)


def add_l2(
    gradients: list[Tensor], weights: list[Tensor], l2: Hyperparameter, step: Tensor
) -> list[Tensor]:
    """Adds coupled weight decay: l2 times the unperturbed weights."""
    return decayed(gradients, weights, l2.at(step, widest(gradients)))


def keep_unless_finite(updates: Pairs, gradients: list[Tensor]) -> Pairs:
    """The updates, or the variables as they are where a LossScaleOptimizer skips the
    step of `gradients`."""
    finite = are_finite(gradients)
    old_values = backend.values_of(variable for variable, _ in updates)
    return [
        (variable, ops.where(finite, value, old))
        for (variable, value), old in zip(updates, old_values, strict=True)
    ]
