"""What the loss looks like around a run's weights: the measures of `--measure`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import numpy as np

from samkeras import analysis
from samkeras.analysis import DataLoss
from samkeras.analysis.lanczos import ROUNDING
from samkeras.backend import backend
from samkeras.data.examples import ArrayExamples, Examples
from samkeras.experiment.runs.run import Run
from samkeras.model import SAMModel

# The same for SAM and for the base optimizer, whose runs have no rho: Foret et al.'s.
RHO = 0.05
MAX_BATCH = 256
MAX_LOSSES = 4  # which are kept
DRAWS, STEPS = 5, 60  # of the spectrum

# The last ones, whose programs serve other runs of their models.
_losses: list[DataLoss] = []

Numbers = dict[str, float]
Arrays = dict[str, np.ndarray]


class Subject(Protocol):
    """What is measured: a run's model, at one time."""

    @property
    def run(self) -> Run: ...

    @property
    def model(self) -> SAMModel: ...

    @property
    def loss(self) -> DataLoss: ...

    def start(self) -> Sequence[Any]:
        """The trainable weights before the training."""
        ...

    def step(self) -> None:
        """Trains the model by one batch of its training."""
        ...


@dataclass
class Measured:
    """What came out.

    Attributes:
        numbers: by name, those that are known.
        arrays: further ones, for a file.
        notes: what is to be said of them.
    """

    numbers: Numbers = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def take(name: str, subject: Subject) -> Measured:
    """Takes a measure; what cannot be measured has a note that says why."""
    try:
        return _MEASURES[name](subject)
    except ValueError as error:
        return Measured(notes=[f"{name} cannot be measured: {error}"])


def make_loss(model: keras.Model, examples: Examples, count: int) -> DataLoss:
    """A model's loss on the first examples of its training; see take_batches."""
    data, size = take_batches(examples, count)
    found = [loss for loss in _losses if loss.model is model]
    loss = found[0].on(data, size) if found else DataLoss(model, data, size)
    _losses[:] = [*(each for each in _losses if each not in found), loss][-MAX_LOSSES:]
    return loss


def take_batches(examples: Examples, count: int) -> tuple[list[Any], int]:
    """Batches of the first examples, without augmentation, in their order, and the size
    of all but the last.

    Args:
        examples: of the training or the validation.
        count: how many, at most. Of sentences, which are filled up to whole batches,
            those of whole batches.
    """
    count = min(count, len(examples))
    size = min(MAX_BATCH, count)
    if isinstance(examples, ArrayExamples) and examples.collate is not None:
        count -= count % size
    batches = examples.first(count).batches(size)
    return [batches[i] for i in range(batches.total)], size


def forget() -> None:
    """Lets go of what is kept for other runs."""
    _losses.clear()


def _eigenvalues(subject: Subject) -> Measured:
    loss = subject.loss
    k = min(5, loss.measured["num_weights"])
    found = analysis.top_eigenvalues(subject.model, loss, k)
    numbers = {
        "lambda_max": found.values[0],
        "lambda_residual": np.max(found.residuals),
    }
    notes: list[str] = []
    if k == 5:
        fifth = numbers["lambda_5"] = found.values[4]
        # What may as well be zero.
        rounding = ROUNDING * np.finfo(found.dtype).eps * abs(found.values[0])
        least = max(found.residuals[4], rounding)
        if fifth > least:
            numbers["lambda_ratio"] = found.values[0] / fifth
        else:
            notes.append(
                f"lambda_ratio is not known: lambda_5, {fifth:.3g}, is not above "
                f"{least:.2g}, within which it may be zero"
            )
    if not found.converged:
        notes.append(
            f"eigenvalues have not converged: after {found.products} products their "
            f"residuals are up to {np.max(found.residuals):.2g}"
        )
    arrays = {"values": found.values, "residuals": found.residuals}
    return Measured(numbers, arrays, notes)


def _trace(subject: Subject) -> Measured:
    found = analysis.trace(subject.model, subject.loss)
    return Measured({"trace": found.value, "trace_error": found.standard_error})


def _spectrum(subject: Subject) -> Measured:
    found = analysis.spectral_density(
        subject.model, subject.loss, draws=DRAWS, steps=STEPS
    )
    arrays = {"values": found.values, "weights": found.weights}
    return Measured({"lambda_min": found.values[0]}, arrays)


def _sharpness(subject: Subject) -> Measured:
    found = analysis.sharpness(subject.model, subject.loss, RHO)
    return Measured({"sharpness": found.value, "sharpness_one_step": found.one_step})


def _average_sharpness(subject: Subject) -> Measured:
    sigma = RHO / np.sqrt(subject.loss.measured["num_weights"])
    found = analysis.average_sharpness(subject.model, subject.loss, sigma, draws=50)
    numbers = {"average_sharpness": found.value}
    return Measured({**numbers, "average_sharpness_error": found.standard_error})


def _non_uniformity(subject: Subject) -> Measured:
    numbers, notes = {}, []
    for found in analysis.non_uniformities(subject.model, subject.loss):
        name = f"s_{found.k}"
        numbers[name] = found.value
        if found.reason:
            notes.append(f"{name} is not known: {found.reason}")
        elif not found.converged:
            notes.append(
                f"{name} has not converged: its eigenvalue {found.eigenvalue:.3g} has "
                f"a residual of {found.residual:.2g}"
            )
    return Measured(numbers, {}, notes)


def _smoothness(subject: Subject) -> Measured:
    """Along the step that training would take next, which is taken back."""
    model = subject.model
    before = backend.fetch(backend.copy_values(subject.loss.weights))
    states = [(each, backend.copy_values(each)) for each in model.state().values()]
    subject.step()
    try:
        found = analysis.smoothness(model, subject.loss, before)
    finally:
        for variables, values in states:
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
    numbers = {"smoothness": found.smoothness, "pl_constant": found.pl}
    return Measured(numbers, notes=_explain("smoothness", found.reason))


def _linearity(subject: Subject) -> Measured:
    found = analysis.linearity(subject.model, subject.loss, subject.start())
    notes = _explain("linearity", found.reason)
    numbers = {"linearity": found.value, "start_distance": found.distance}
    return Measured(numbers, notes=notes)


def _explain(name: str, reason: str) -> list[str]:
    """What is to be said of a measure whose result has a reason to be NaN."""
    return [f"{name}: {reason}"] if reason else []


def _function(subject: Subject) -> Measured:
    """Over the range of the examples."""
    batches = subject.loss.batches
    inputs = [np.asarray(keras.tree.flatten(batch)[0]) for batch in batches]
    low, high = min(map(np.min, inputs)), max(map(np.max, inputs))
    found = analysis.fitted_function(subject.model, float(low), float(high))
    numbers = {"slope_variation": found.slope_variation}
    return Measured(numbers, {"x": found.x, "y": found.y})


def _trajectory(subject: Subject) -> Measured:
    weights = subject.loss.flatten(subject.loss.weights)
    return Measured(arrays={"weights": weights})


_MEASURES: dict[str, Callable[[Subject], Measured]] = {
    "eigenvalues": _eigenvalues,
    "trace": _trace,
    "spectrum": _spectrum,
    "sharpness": _sharpness,
    "average_sharpness": _average_sharpness,
    "non_uniformity": _non_uniformity,
    "smoothness": _smoothness,
    "linearity": _linearity,
    "function": _function,
    "trajectory": _trajectory,
}
