"""The Hessian of a model's loss: its extreme eigenvalues, its trace, its spectrum.

H is the Hessian, at the weights, of the mean loss over data, as `DataLoss` has it. It
is never made, only multiplied: (v, batch) -> Hv is one compiled program for each shape
of a batch, forward over reverse on JAX, reverse over reverse on TensorFlow.

Derivatives of layers with kinks, such as ReLU, are those of the linear piece that the
weights are on.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import keras
import numpy as np

from samkeras.analysis.data_loss import DataLoss, Measurement, check_count, prepare
from samkeras.analysis.lanczos import find_largest, tridiagonalize
from samkeras.objective import Batch

Data = Batch | Iterable[Batch] | DataLoss


@dataclass(frozen=True, kw_only=True)
class Eigenvalues(Measurement):
    """Extreme eigenvalues of H.

    Attributes:
        values: float64[k], the most extreme first.
        residuals: |Hv - value v| of each: H has an eigenvalue within it.
        vectors: [k, weight], flat, of length 1.
        converged: whether each residual is at most `tolerance` times its value.
        products: how often H was multiplied.
        asymmetry: the largest difference of u.Hv and v.Hu that was seen, over the
            largest |value|: of rounding alone about 1e-6 in float32.
    """

    values: np.ndarray
    residuals: np.ndarray
    vectors: np.ndarray
    converged: bool
    products: int
    asymmetry: float


@dataclass(frozen=True, kw_only=True)
class Trace(Measurement):
    """The trace of H, estimated.

    Attributes:
        value: the mean of v.Hv over draws of v.
        standard_error: the mean's.
        draws: how many.
    """

    value: float
    standard_error: float
    draws: int


@dataclass(frozen=True, kw_only=True)
class SpectralDensity(Measurement):
    """How H's eigenvalues are distributed, as points of weights that sum up to 1.

    Attributes:
        values: float64[point], in ascending order.
        weights: float64[point]: the share of eigenvalues that a point stands for.
        draws: starts of Lanczos that the points are the mean of.
        steps: products of each, at most.
    """

    values: np.ndarray
    weights: np.ndarray
    draws: int
    steps: int

    def cumulative(self, at: np.ndarray) -> np.ndarray:
        """The share of eigenvalues <= each of `at`."""
        sums = np.concatenate([[0.0], np.cumsum(self.weights)])
        return sums[np.searchsorted(self.values, at, side="right")]

    def density(self, at: np.ndarray, width: float | None = None) -> np.ndarray:
        """The density at each of `at`: every point is a normal distribution.

        Args:
            at: eigenvalues, float[any].
            width: its standard deviation. None (default): a hundredth of the range of
                the points.
        """
        if width is None:
            width = float(np.ptp(self.values)) / 100 or 1.0
        return smooth(self.values, self.weights, at, width)


def smooth(
    values: np.ndarray, weights: np.ndarray, at: np.ndarray, width: float
) -> np.ndarray:
    """The density of weighted values, each a normal distribution of that width."""
    distances = (np.asarray(at)[..., None] - values) / width
    peaks = np.exp(-0.5 * distances**2) / (width * np.sqrt(2 * np.pi))
    return peaks @ weights


def top_eigenvalues(
    model: keras.Model,
    data: Data,
    k: int = 5,
    *,
    tolerance: float = 1e-3,
    max_products: int = 200,
    seed: int = 0,
    batch_size: int = 256,
) -> Eigenvalues:
    """The k largest eigenvalues of H, by Lanczos with full reorthogonalization.

    They are the largest algebraically: at a saddle the one of largest absolute value
    may be among `bottom_eigenvalues`. Repeated eigenvalues count as often as they are
    there.

    Examples:
        >>> top = samkeras.analysis.top_eigenvalues(model, (x, y), k=5)
        >>> top.values.shape, top.converged
        ((5,), True)
        >>> ratio = top.values[0] / top.values[4]  # as in Foret et al. 2021, figure 3

    Args:
        model: a compiled keras.Model.
        data: arrays (x, y[, sample_weight]), an iterable of such batches, or a DataLoss
            of them, which keeps what was compiled.
        k: how many, from 1 to the number of weights.
        tolerance: of residuals, relative to their values, > 0.
        max_products: when to end without, each of which keeps a vector in memory.
        seed: of the first vector.
        batch_size: the most examples at once.

    Returns:
        The eigenvalues, with their vectors and how exact they are.

    Raises:
        ValueError: an argument is out of its range, the vectors take too much memory,
            or the loss has no (symmetric) second derivatives.
    """
    loss = prepare(model, data, batch_size)
    return _find_extreme(loss, 1, k, tolerance, max_products, seed)


def bottom_eigenvalues(
    model: keras.Model,
    data: Data,
    k: int = 1,
    *,
    tolerance: float = 1e-3,
    max_products: int = 200,
    seed: int = 0,
    batch_size: int = 256,
) -> Eigenvalues:
    """The k smallest eigenvalues of H, the smallest first; see `top_eigenvalues`.

    Those of a network are often a dense bulk around zero: its small ones may not
    converge.

    Examples:
        >>> bottom = samkeras.analysis.bottom_eigenvalues(model, (x, y))
        >>> bottom.values.shape
        (1,)

    Args:
        model, data, k, tolerance, max_products, seed, batch_size: see
            `top_eigenvalues`.

    Returns:
        The eigenvalues, with their vectors and how exact they are.

    Raises:
        ValueError: as `top_eigenvalues`.
    """
    loss = prepare(model, data, batch_size)
    return _find_extreme(loss, -1, k, tolerance, max_products, seed)


def trace(
    model: keras.Model,
    data: Data,
    *,
    draws: int = 32,
    seed: int = 0,
    batch_size: int = 256,
) -> Trace:
    """The trace of H by Hutchinson's estimator: the mean of v.Hv, v of entries +-1.

    A draw's variance is 2 (|H|_F^2 - sum_i H_ii^2): none where H is diagonal.
    (Hutchinson 1989.)

    Examples:
        >>> found = samkeras.analysis.trace(model, (x, y))
        >>> text = f"{found.value:.3g} ± {found.standard_error:.1g}"

    Args:
        model, data, batch_size: see `top_eigenvalues`.
        draws: of v, each one product, >= 2.
        seed: of the draws.

    Returns:
        The trace, and its standard error.

    Raises:
        ValueError: `draws` is out of its range, or the loss has no second derivatives.
    """
    check_count(draws, "draws", 2)
    loss = prepare(model, data, batch_size)
    draw = _make_signs(loss, seed)
    samples = np.empty(draws)
    for number in range(draws):
        vector = draw()
        # In float64, since a sum of many numbers of both signs is small.
        samples[number] = np.dot(vector.astype("float64"), loss.product(vector))
    error = float(np.std(samples, ddof=1) / np.sqrt(draws))
    return Trace(
        value=float(samples.mean()),
        standard_error=error,
        draws=draws,
        **loss.measured,
    )


def spectral_density(
    model: keras.Model,
    data: Data,
    *,
    draws: int = 10,
    steps: int = 50,
    seed: int = 0,
    batch_size: int = 256,
) -> SpectralDensity:
    """The distribution of H's eigenvalues by stochastic Lanczos quadrature.

    From each start v, of entries +-1, Lanczos makes T = S diag(t) S', whose t_i have
    weights S_0i^2: a sum over them of any polynomial of degree < 2 steps is that of v
    exactly. (Ghorbani et al. 2019; Golub & Meurant 1994.)

    Examples:
        >>> found = samkeras.analysis.spectral_density(model, (x, y))
        >>> at = np.linspace(found.values[0], found.values[-1], 500)
        >>> found.density(at).shape, found.cumulative(at).shape  # to plot
        ((500,), (500,))

    Args:
        model, data, batch_size: see `top_eigenvalues`.
        draws: of v.
        steps: products for each.
        seed: of the draws.

    Returns:
        The density, as weighted points.

    Raises:
        ValueError: a count is out of its range, or the loss has no second derivatives.
    """
    check_count(draws, "draws")
    check_count(steps, "steps")
    loss = prepare(model, data, batch_size)
    draw, size = _make_signs(loss, seed), loss.measured["num_weights"]
    found = [tridiagonalize(loss.product, draw(), steps, size) for _ in range(draws)]
    values, weights = map(np.concatenate, zip(*found, strict=True))
    order = np.argsort(values)
    return SpectralDensity(
        values=values[order],
        weights=weights[order] / draws,
        draws=draws,
        steps=steps,
        **loss.measured,
    )


def _make_signs(loss: DataLoss, seed: int) -> Callable[[], np.ndarray]:
    """What draws vectors of +-1, and of 0 where weights are pruned."""
    generator = np.random.default_rng(seed)
    return lambda: loss.keep(generator.choice([-1.0, 1.0], loss.size))


def _find_extreme(
    loss: DataLoss, sign: int, k: int, tolerance: float, max_products: int, seed: int
) -> Eigenvalues:
    size = loss.measured["num_weights"]
    check_count(k, "k")
    check_count(max_products, "max_products")
    if k > size:
        raise ValueError(f"k must be at most the {size} weights. Received: {k}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be > 0. Received: {tolerance!r}")
    generator = np.random.default_rng(seed)
    pairs = find_largest(
        lambda vector: sign * loss.product(vector),
        lambda: loss.keep(generator.standard_normal(loss.size)),
        size,
        k,
        tolerance,
        max_products,
    )
    return Eigenvalues(
        values=sign * pairs.values,
        residuals=pairs.residuals,
        vectors=pairs.vectors,
        converged=pairs.converged,
        products=pairs.products,
        asymmetry=pairs.asymmetry,
        **loss.measured,
    )
