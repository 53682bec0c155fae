"""The training loss as a pure function of weights, state and batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from samkeras.backend import backend
from samkeras.masks import Masks
from samkeras.scope import Scope, ascending
from samkeras.tensors import Tensor, are_finite, dot

Batch = Any
Pairs = list[tuple[keras.Variable, Tensor]]


def pairs_of(variables: list[keras.Variable]) -> Pairs:
    """Variables, each with its value as it is here."""
    return [*zip(variables, backend.values_of(variables), strict=True)]


class Pass(NamedTuple):
    """What a forward-backward pass over a batch gives.

    Attributes:
        loss: its mean over the examples, scalar.
        y_pred: predictions.
        updates: pairs of a variable that was assigned and its new value.
        gradients: of the loss, one per trainable weight, unscaled, zero where weights
            are pruned.
        reached: which of the weights the loss depends on.
        raw: a variable that is read past keras, a trainable weight if there is one; or
            None.
        losses: of the examples, where asked for; else None.
        penalty: what weight decay adds to the loss that is differentiated, and `loss`
            is without, scalar; None where it is no part of that.
    """

    loss: Tensor
    y_pred: Any
    updates: Pairs
    gradients: list[Tensor]
    reached: list[bool]
    raw: keras.Variable | None
    losses: Tensor | None
    penalty: Tensor | None = None


class Objective:
    """The training loss of a model.

    Args:
        forward: batch -> (predictions, mean loss), as a keras model computes them in
            training: it reads and assigns variables.
        weights: the trainable variables.
        state: all other variables of the model.
        assigns_weights: whether a trainable weight that a layer assigns stays so, as
            where keras assigns variables at once: no gradient goes through the new
            value to what it was made of, and the weight's gradient is that of all
            values that it had. Otherwise it holds for the pass alone.
        scale: the factor by which an optimizer wants the loss scaled, scalar.
        is_scaled: whether a LossScaleOptimizer chose it, which skips steps whose
            gradients are not finite.
        find_losses: (batch, predictions) -> the loss of each example; None: unknown.
        decay: scalar; half of it times the squared norm of the trainable weights is a
            part of the loss. None: nothing is.
    """

    def __init__(
        self,
        forward: Callable[[Batch], tuple[Any, Tensor]],
        weights: list[keras.Variable],
        state: list[keras.Variable],
        assigns_weights: bool,
        scale: Tensor,
        is_scaled: bool = False,
        find_losses: Callable[[Batch, Any], Tensor] | None = None,
        decay: Tensor | None = None,
    ):
        self.weights, self.state = weights, state
        self.scale, self.is_scaled = scale, is_scaled
        self._forward, self._find_losses = forward, find_losses
        self._decay = decay
        self._assigns_weights = assigns_weights
        self._masks = Masks(weights)

    def mask(self, tensors: list[Tensor]) -> list[Tensor]:
        """Zero in place of the entries whose weights are pruned."""
        return self._masks.apply(self.weights, tensors) if self._masks else tensors

    def evaluate(
        self, weights: list[Tensor], state: Pairs, batch: Batch
    ) -> tuple[Tensor, Any, Pairs]:
        """The loss, the predictions and what is assigned, in training.

        Args:
            weights: values of the trainable variables.
            state: pairs of another variable and the value at which it is found.
            batch: x, or (x, y[, sample_weight]).
        """
        return self._evaluate(weights, state, batch, False)[0]

    def losses_at(self, weights: list[Tensor], state: Pairs, batch: Batch) -> Tensor:
        """The loss of each example; see `evaluate`. What is assigned is forgotten."""
        return self._evaluate(weights, state, batch, True)[1]

    def _evaluate(
        self, weights: list[Tensor], state: Pairs, batch: Batch, by_example: bool
    ) -> tuple[tuple[Tensor, Any, Pairs], Tensor | None]:
        """What `evaluate` gives, and the losses of examples where asked for."""
        pairs = [*zip(self.weights, weights, strict=True), *state]
        assigned = self.weights if self._assigns_weights else []
        with _PassScope(pairs, assigned) as scope:
            y_pred, loss = self._forward(batch)
            losses = None
            if by_example and self._find_losses is not None:
                with Scope():  # to forget what keras tracks of losses
                    losses = self._find_losses(batch, y_pred)
        updates = scope.updates
        if not self._assigns_weights:
            own = set(map(id, self.weights))
            updates = [(v, value) for v, value in updates if id(v) not in own]
        return (loss, y_pred, updates), losses

    def differentiate(
        self,
        weights: list[Tensor],
        state: Pairs,
        batch: Batch,
        held: Pairs,
        by_example: bool = False,
        ascends: bool = False,
    ) -> Pass:
        """A pass at `weights`, in place of the model's; see `evaluate`.

        Args:
            held: what variables really hold meanwhile, for what reads them past keras.
            by_example: whether to find the losses of the examples.
            ascends: whether a perturbation is found from it; see `is_ascent`.
        """
        assigned: list[keras.Variable] = []

        def scaled(weights: list[Tensor]) -> tuple[Tensor, Any]:
            with ascending(ascends):
                found, losses = self._evaluate(weights, state, batch, by_example)
            loss, y_pred, updates = found
            assigned[:] = [variable for variable, _ in updates]
            values = [value for _, value in updates]
            others = (loss, y_pred, values, losses)
            return loss * ops.cast(self.scale, loss.dtype), others

        others, found, raw = backend.value_and_grad(
            scaled, weights, [*self.weights, *self.state], held
        )
        loss, y_pred, values, losses = others
        gradients = [
            ops.zeros_like(w) if g is None else g / ops.cast(self.scale, g.dtype)
            for g, w in zip(found, weights, strict=True)
        ]
        penalty = None
        if self._decay is not None:
            gradients = decayed(gradients, weights, self._decay)
            penalty = self._decay / 2 * dot(weights, weights)
        return Pass(
            loss,
            y_pred,
            [*zip(assigned, values, strict=True)],
            self._spoil(self.mask(gradients)),
            [g is not None for g in found],
            raw,
            losses,
            penalty,
        )

    def multiply(
        self, weights: list[Tensor], state: Pairs, batch: Batch, vector: list[Tensor]
    ) -> list[Tensor]:
        """The Hessian of the loss times a vector, of the weights that are not pruned;
        see `evaluate`. What is assigned is forgotten."""

        def scaled(weights: list[Tensor]) -> Tensor:
            with ascending(True):  # as the gradient that epsilon is made of
                loss = self.evaluate(weights, state, batch)[0]
            return loss * ops.cast(self.scale, loss.dtype)

        vector = self.mask(vector)
        with backend.explain_derivatives():
            found = backend.hessian_product(scaled, weights, vector)
        product = [h / ops.cast(self.scale, h.dtype) for h in found]
        if self._decay is not None:
            product = decayed(product, vector, self._decay)
        return self._spoil(self.mask(product))

    def _spoil(self, gradients: list[Tensor]) -> list[Tensor]:
        """NaN in place of all gradients where one of them is not finite: whatever a
        method makes of them, the optimizer skips the step."""
        if not self.is_scaled:
            return gradients
        finite = are_finite(gradients)
        return [ops.where(finite, g, ops.full_like(g, float("nan"))) for g in gradients]


def decayed(
    gradients: list[Tensor], weights: list[Tensor], factor: Tensor
) -> list[Tensor]:
    """Gradients, to which weight decay adds a factor times the weights."""
    return [
        g + ops.cast(factor, g.dtype) * ops.cast(w, g.dtype)
        for g, w in zip(gradients, weights, strict=True)
    ]


class _PassScope(Scope):
    """A pass over a model, in which some weights may be assigned as if at once."""

    def __init__(self, pairs: Pairs, assigned: list[keras.Variable]):
        super().__init__(pairs, collect_losses=True)
        self._weights = {id(weight) for weight in assigned}

    def add_update(self, update: tuple[keras.Variable, Tensor]) -> None:
        variable, value = update
        if self._weights:
            value = ops.stop_gradient(value)
        if id(variable) in self._weights:
            before = self.get_current_value(variable)
            # A zero whose gradient is that of the value.
            value = value + (before - ops.stop_gradient(before))
        super().add_update((variable, value))
