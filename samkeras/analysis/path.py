"""What a loss and a network are like along a step of the weights, or a whole
training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from samkeras.analysis.curvature import Data
from samkeras.analysis.data_loss import DataLoss, Measurement, Point, prepare
from samkeras.backend import backend
from samkeras.objective import Batch
from samkeras.tensors import Tensor

FRACTIONS = (1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0)
# Below which the loss is its least value, up to rounding.
LEAST_GAP = 1e-12


@dataclass(frozen=True, kw_only=True)
class Smoothness(Measurement):
    """The empirical smoothness and PL constant along a step d from w.

    Attributes:
        smoothness: L = max |g(w + t d) - g(w)| / (t |d|) over `fractions` t: a lower
            bound of the gradient's Lipschitz constant; NaN if d is zero.
        pl: mu = min |g|^2 / (2 (f - f*)) over w and w + t d; NaN if f - f* is nowhere
            above 1e-12.
        pl_at_start: the same at w alone.
        distance: |d|.
        fractions: float64[t].
        losses, gradient_norms: float64[1 + t], w's first.
        reason: why `smoothness` or `pl` is NaN; "" if neither is.
    """

    smoothness: float
    pl: float
    pl_at_start: float
    distance: float
    fractions: np.ndarray
    losses: np.ndarray
    gradient_norms: np.ndarray
    reason: str


@dataclass(frozen=True, kw_only=True)
class Linearity(Measurement):
    """How far a network is from its linear model at w0.

    Attributes:
        value: |h(w) - h(w0) - J(w0) (w - w0)| / |h(w) - h(w0)| over all outputs h of
            all examples: 0 is linear; NaN if no output has changed.
        change: |h(w) - h(w0)|, the root of the mean over examples of its squares.
        distance: |w - w0|.
        reason: why the value is NaN; "" if it is not.
    """

    value: float
    change: float
    distance: float
    reason: str


def smoothness(
    model: keras.Model,
    data: Data,
    start: Sequence[Any],
    *,
    fractions: Sequence[float] = FRACTIONS,
    minimum: float = 0.0,
    batch_size: int = 256,
) -> Smoothness:
    """The smoothness and the PL constant of the loss f, from `start` to the model's
    weights: between a step's, with the momentum of its optimizer.

    f must be the same function everywhere, so give the same examples for all steps.
    (Zhang et al. 2020, "Why gradient clipping accelerates training"; figure 20 of the
    paper.)

    Examples:
        >>> before = [np.array(w) for w in model.trainable_variables]
        >>> logs = model.train_on_batch(x, y)
        >>> found = samkeras.analysis.smoothness(model, (x, y), before)
        >>> found.smoothness > 0, found.pl > 0
        (True, True)

    Args:
        model, data, batch_size: see `top_eigenvalues`.
        start: an array for each trainable weight, as it was before the step.
        fractions: t, of the step, 0 < t <= 1.
        minimum: f*, the least value of the loss.

    Returns:
        Both constants, with the losses and gradients that they are of.

    Raises:
        ValueError: `start` does not fit the weights, or a fraction is out of its range.
    """
    at = np.asarray(fractions, "float64")
    if at.ndim != 1 or not len(at) or not np.all((at > 0) & (at <= 1)):
        raise ValueError(
            f"fractions must be numbers > 0 and <= 1. Received: {fractions!r}"
        )
    loss = prepare(model, data, batch_size)
    step = loss.flatten(loss.weights) - loss.flatten(start)
    distance = float(np.linalg.norm(step.astype("float64")))
    points = [loss.gradient((t - 1) * step) for t in (0.0, *at)]
    losses = np.array([value for value, _ in points])
    gradients = np.stack([gradient for _, gradient in points]).astype("float64")
    norms = np.linalg.norm(gradients, axis=1)
    gaps = np.where(losses - minimum < LEAST_GAP, np.nan, losses - minimum)
    with np.errstate(invalid="ignore"):  # of what is not finite, which is told
        changes = np.linalg.norm(gradients[1:] - gradients[0], axis=1)
        constants = norms**2 / (2 * gaps)
    known = constants[np.isfinite(constants)]
    return Smoothness(
        smoothness=float(np.max(changes / (at * distance))) if distance else np.nan,
        pl=float(known.min(initial=np.inf)) if len(known) else np.nan,
        pl_at_start=float(constants[0]),
        distance=distance,
        fractions=at,
        losses=losses,
        gradient_norms=norms,
        reason=_explain(distance, losses, norms, len(known) > 0),
        **loss.measured,
    )


def _explain(
    distance: float, losses: np.ndarray, norms: np.ndarray, has_gap: bool
) -> str:
    """Why smoothness or the PL constant is not known."""
    if not np.isfinite([*losses, *norms]).all():
        return "the loss or its gradient is not finite"
    reasons: list[str] = []
    if not distance:
        reasons.append(
            "there is no smoothness, as the step moves no weight, such as one at a "
            "learning rate of 0"
        )
    if not has_gap:
        reasons.append("there is no PL constant, as the loss is at its minimum")
    return "; ".join(reasons)


def linearity(
    model: keras.Model,
    data: Data,
    start: Sequence[Any],
    *,
    batch_size: int = 256,
) -> Linearity:
    """How linear a network has stayed since its weights were `start`, by one product
    with its Jacobian for each batch.

    In the linearized regime (Chizat et al. 2019; section 5.4 of the paper) it is near
    0, and the scale alpha of a centred model changes it in no other way.

    Examples:
        >>> start = [np.array(w) for w in model.trainable_variables]
        >>> history = model.fit(x, y, verbose=0)
        >>> samkeras.analysis.linearity(model, (x, y), start).value < 1e-3
        True

    Args:
        model, data, batch_size: see `top_eigenvalues`.
        start: an array for each trainable weight.

    Returns:
        What of the outputs' change is not linear, as a share, and the change.

    Raises:
        ValueError: `start` does not fit the weights.
    """
    loss = prepare(model, data, batch_size)
    step = loss.flatten(loss.weights) - loss.flatten(start)
    tensor = loss.to_tensor(step)
    squares = [backend.fetch(loss.run(_compare, b, tensor)) for b in loss.batches]
    rest, change = np.sum(np.asarray(squares, "float64"), axis=0)
    reason = "" if change else "no output has changed"
    if not np.isfinite([rest, change]).all():
        reason = "the squares of outputs are not finite"
    return Linearity(
        value=np.nan if reason else float(np.sqrt(rest / change)),
        change=float(np.sqrt(change / loss.num_examples)),
        distance=float(np.linalg.norm(step.astype("float64"))),
        reason=reason,
        **loss.measured,
    )


def _compare(
    loss: DataLoss, point: Point, batch: Batch, step: Tensor
) -> tuple[Tensor, Tensor]:
    """|h(w) - h(w0) - J (w - w0)|^2 and |h(w) - h(w0)|^2 of a batch."""
    outputs, start = loss.outputs_at(point, batch), point.shifted(-step).weights
    change = outputs(point.weights) - outputs(start)
    linear = backend.push_forward(outputs, start, point.spread(step))
    return ops.sum(ops.square(change - linear)), ops.sum(ops.square(change))
