"""What the loss looks like around a run's weights: the measures of `--measure`."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import numpy as np

from samkeras import analysis
from samkeras.analysis import DataLoss
from samkeras.analysis.lanczos import ROUNDING, find_most_vectors
from samkeras.backend import backend
from samkeras.data.examples import ArrayExamples, Examples
from samkeras.experiment.runs.failure import describe, is_out_of_memory
from samkeras.experiment.runs.run import Run
from samkeras.model import SAMModel

# The same for SAM and for the base optimizer, whose runs have no rho: Foret et al.'s.
RHO = 0.05
MAX_BATCH = 256
MAX_LOSSES = 4  # which are kept
MOST_PRODUCTS, FEWER_PRODUCTS = 200, 100  # for the largest eigenvalues, for one
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
        with within_memory():
            return _MEASURES[name](subject)
    except ValueError as error:
        return Measured(notes=[f"{name} cannot be measured: {error}"])


@contextlib.contextmanager
def within_memory() -> Iterator[None]:
    """Makes a ValueError, as of all that cannot be measured, of what takes more memory
    than there is."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(
            f"out of memory: below {MAX_BATCH} examples it takes less "
            f"({describe(error)[:200]})"
        ) from None


def make_loss(model: keras.Model, examples: Examples, count: int) -> DataLoss:
    """A model's loss on examples of its training; see take_batches."""
    with within_memory():
        data, size = take_batches(examples, count)
        found = [loss for loss in _losses if loss.model is model]
        loss = found[0].on(data, size) if found else DataLoss(model, data, size)
    _losses[:] = [*(each for each in _losses if each not in found), loss][-MAX_LOSSES:]
    return loss


def take_batches(examples: Examples, count: int) -> tuple[list[Any], int]:
    """Batches of some examples, without augmentation, and the size of all but the last:
    the same ones always, chosen at random, as a file of one's own may be in the order
    of its classes; those of a stream are the first ones.

    Args:
        examples: of the training or the validation.
        count: how many, at most. Of sentences, which are filled up to whole batches,
            those of whole batches.
    """
    count = min(count, len(examples))
    size = min(MAX_BATCH, count)
    if isinstance(examples, ArrayExamples) and examples.collate is not None:
        count -= count % size
    is_here = isinstance(examples, ArrayExamples)
    chosen = examples.choose(count) if is_here else examples.first(count)
    batches = chosen.batches(size)
    return [batches[i] for i in range(batches.total)], size


def forget() -> None:
    """Lets go of what is kept for other runs."""
    _losses.clear()


def _eigenvalues(subject: Subject) -> Measured:
    loss = subject.loss
    k = min(5, loss.measured["num_weights"])
    most = _fit(loss, MOST_PRODUCTS)
    found = analysis.top_eigenvalues(subject.model, loss, k, max_products=most)
    numbers = {
        "lambda_max": found.values[0],
        "lambda_residual": np.max(found.residuals),
        "lambda_converged": float(found.converged),
    }
    notes: list[str] = []
    if len(found.values) == 5:
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
        notes.append(_complain("eigenvalues have", found))
    arrays = {"values": found.values, "residuals": found.residuals}
    return Measured(numbers, arrays, notes)


def _trace(subject: Subject) -> Measured:
    found = analysis.trace(subject.model, subject.loss)
    return Measured({"trace": found.value, "trace_error": found.standard_error})


def _spectrum(subject: Subject) -> Measured:
    loss = subject.loss
    steps = _fit(loss, STEPS)
    found = analysis.spectral_density(subject.model, loss, draws=DRAWS, steps=steps)
    arrays = {"values": found.values, "weights": found.weights}
    # Of the smallest of the points nothing says how near it is to an eigenvalue.
    most = _fit(loss, FEWER_PRODUCTS)
    least = analysis.bottom_eigenvalues(subject.model, loss, max_products=most)
    numbers = {
        "lambda_min": least.values[0],
        "lambda_min_residual": least.residuals[0],
        "lambda_min_converged": float(least.converged),
    }
    notes: list[str] = []
    if steps < STEPS:
        notes.append(
            f"the spectrum is of {steps} steps of Lanczos instead of {STEPS}: no more "
            "vectors of the weights' size fit into half of the memory"
        )
    if not least.converged:
        notes.append(_complain("lambda_min has", least))
    return Measured(numbers, arrays, notes)


def _fit(loss: DataLoss, count: int) -> int:
    """As many products, at most, as their vectors fit into memory; one at least, whose
    measure says that it does not."""
    return max(1, min(count, find_most_vectors(loss.size, loss.dtype)))


def _complain(what: str, found: analysis.Eigenvalues) -> str:
    return (
        f"{what} not converged: after {found.products} products there are residuals of "
        f"up to {np.max(found.residuals):.2g}"
    )


def _sharpness(subject: Subject) -> Measured:
    found = analysis.sharpness(subject.model, subject.loss, RHO)
    return Measured({"sharpness": found.value, "sharpness_one_step": found.one_step})


def _average_sharpness(subject: Subject) -> Measured:
    sigma = RHO / np.sqrt(subject.loss.measured["num_weights"])
    found = analysis.average_sharpness(subject.model, subject.loss, sigma, draws=50)
    numbers = {"average_sharpness": found.value}
    return Measured({**numbers, "average_sharpness_error": found.standard_error})


def _non_uniformity(subject: Subject) -> Measured:
    loss, notes = subject.loss, list[str]()
    most = _fit(loss, FEWER_PRODUCTS)
    moments = analysis.non_uniformities(subject.model, loss, max_products=most)
    numbers = {f"s_{found.k}": found.value for found in moments}
    numbers["s_gap"] = moments[0].gap
    numbers["s_converged"] = float(all(found.converged for found in moments))
    # How much larger they may be: what s_k is a root of has an eigenvalue within that.
    errors = [
        (max(found.eigenvalue, 0.0) + found.residual) ** (1 / found.k) - found.value
        for found in moments
        if not found.reason
    ]
    if errors:
        numbers["s_residual"] = max(errors)
    for found in moments:
        name = f"s_{found.k}"
        if found.reason:
            notes.append(f"{name} is not known: {found.reason}")
        elif not found.converged:
            notes.append(
                f"{name} has not converged: after {found.products} products its "
                f"eigenvalue {found.eigenvalue:.3g} has a residual of "
                f"{found.residual:.2g}, or the Hessian's own is not known well enough"
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
