"""How far the loss rises near the weights."""

from dataclasses import dataclass

import keras
import numpy as np

from samkeras.analysis.curvature import Data
from samkeras.analysis.data_loss import DataLoss, Measurement, check_count, prepare

# Auto-PGD's (Croce & Hein 2020, section 3 and 4.1): its momentum, and the share of
# steps in a period that raise the loss, under which its step is halved.
MOMENTUM, RISING = 0.75, 0.75


@dataclass(frozen=True, kw_only=True)
class Sharpness(Measurement):
    """The largest rise of the loss that was found in a ball around the weights.

    Attributes:
        value: max f(w + e) - f(w), from below: a better ascent may find more.
        one_step: f(w + e) - f(w) at SAM's own e.
        loss: f(w).
        rho, p, adaptive: the ball: |e|_p <= rho, adaptive: |e / w|_p <= rho.
        m: examples of a group, each with an e of its own, over which all numbers are
            means; None: all examples at once.
        steps, restarts: of the ascents.
    """

    value: float
    one_step: float
    loss: float
    rho: float
    p: float
    adaptive: bool
    m: int | None
    steps: int
    restarts: int


@dataclass(frozen=True, kw_only=True)
class AverageSharpness(Measurement):
    """The mean rise of the loss under noise.

    Attributes:
        value: the mean of f(w + e) - f(w) over draws of e.
        standard_error: the mean's.
        loss: f(w).
        sigma, adaptive: e is normal, of deviation sigma, adaptive: sigma |w|.
        draws: how many.
    """

    value: float
    standard_error: float
    loss: float
    sigma: float
    adaptive: bool
    draws: int


@dataclass(frozen=True)
class _Ball:
    """Where e may be: e = scale u for u of |u|_p <= rho."""

    rho: float
    p: float
    scale: np.ndarray

    def climb(self, gradient: np.ndarray) -> np.ndarray:
        """The u of length 1 along which e rises most: SAM's e is rho of it."""
        slope = gradient * self.scale
        if self.p == np.inf:
            return np.sign(slope)
        length = np.linalg.norm(slope)
        return slope / length if length else slope

    def project(self, u: np.ndarray) -> np.ndarray:
        """The closest point of the ball."""
        if self.p == np.inf:
            return np.clip(u, -self.rho, self.rho)
        length = np.linalg.norm(u)
        return u * (self.rho / length) if length > self.rho else u

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """A random point of it: on its surface for p = 2, where nearly all of it is."""
        shape = self.scale.shape
        if self.p == np.inf:
            u = generator.uniform(-self.rho, self.rho, shape)
        else:
            u = generator.standard_normal(shape)
            u *= self.rho / np.linalg.norm(u)
        return u.astype(self.scale.dtype) * (self.scale != 0)


def sharpness(
    model: keras.Model,
    data: Data,
    rho: float,
    *,
    p: float = 2,
    adaptive: bool = False,
    m: int | None = None,
    steps: int = 20,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 256,
) -> Sharpness:
    """The SAM-sharpness: max f(w + e) - f(w) over |e|_p <= rho, f the mean loss.

    The ascents are Auto-PGD's, from w and from random points, the best point of all
    kept: a lower bound. At a minimum it is rho^2 lambda_max / 2 for p = 2 and a small
    rho. (Foret et al. 2021; adaptive: Kwon et al. 2021; Andriushchenko et al. 2023.)

    Examples:
        >>> found = samkeras.analysis.sharpness(model, (x, y), rho=0.05, m=16)
        >>> found.value >= found.one_step > 0
        True

    Args:
        model: a compiled keras.Model.
        data: see `top_eigenvalues`; a DataLoss must have a batch_size of m.
        rho: the ball's radius, > 0.
        p: its norm, 2 or inf.
        adaptive: whether e is measured relative to the weights: |e / |w||_p <= rho.
        m: examples of a group, for m-sharpness: the data are split in this order. None
            (default): all are one.
        steps: of an ascent, each one gradient.
        restarts: ascents from random points, beside the one from w.
        seed: of these points.
        batch_size: the most examples at once, without m.

    Returns:
        The largest rise of the loss, and that of SAM's own step.

    Raises:
        ValueError: an argument is out of its range.
    """
    _check_radius(rho, "rho")
    if p not in (2, np.inf):
        raise ValueError(f"p must be 2 or inf. Received: {p!r}")
    check_count(steps, "steps")
    check_count(restarts, "restarts", 0)
    if m is not None:
        check_count(m, "m")
    loss = prepare(model, data, batch_size if m is None else m)
    if m is not None and loss.batch_size != m:
        raise ValueError(
            "a DataLoss must have a batch_size of m. "
            f"Received: m={m}, batch_size={loss.batch_size}"
        )
    ball = _Ball(rho, p, _find_scale(loss, adaptive))
    generator = np.random.default_rng(seed)
    found: list[tuple[float, float, float]] = []
    groups = [loss] if m is None else loss.each_batch()
    for group in groups:
        start, gradient = group.gradient()
        one_step = rho * ball.climb(gradient)
        once = group.loss(ball.scale * one_step)
        starts = [np.zeros_like(one_step)]
        starts += [ball.draw(generator) for _ in range(restarts)]
        best = max(_ascend(group, ball, u, steps) for u in starts)
        found.append((start, once - start, max(best, once, start) - start))
    sizes = [group.num_examples for group in groups]
    at_start, one_step, value = np.average(found, axis=0, weights=sizes)
    return Sharpness(
        value=float(value),
        one_step=float(one_step),
        loss=float(at_start),
        rho=rho,
        p=p,
        adaptive=adaptive,
        m=m,
        steps=steps,
        restarts=restarts,
        **loss.measured,
    )


def average_sharpness(
    model: keras.Model,
    data: Data,
    sigma: float,
    *,
    adaptive: bool = False,
    draws: int = 100,
    seed: int = 0,
    batch_size: int = 256,
) -> AverageSharpness:
    """The mean of f(w + e) - f(w) over normal e, of deviation sigma in each entry.

    At a minimum it is sigma^2 trace(H) / 2 for a small sigma. (Andriushchenko et al.
    2023.)

    Examples:
        >>> found = samkeras.analysis.average_sharpness(model, (x, y), sigma=0.01)
        >>> found.draws
        100

    Args:
        model, data, batch_size: see `top_eigenvalues`.
        sigma: the deviation, > 0.
        adaptive: whether it is times |w|.
        draws: of e, each one pass over the data, >= 2.
        seed: of the draws.

    Returns:
        The mean rise of the loss, and its standard error.

    Raises:
        ValueError: an argument is out of its range.
    """
    _check_radius(sigma, "sigma")
    check_count(draws, "draws", 2)
    loss = prepare(model, data, batch_size)
    scale, start = sigma * _find_scale(loss, adaptive), loss.loss()
    generator = np.random.default_rng(seed)
    rises = [
        loss.loss(scale * generator.standard_normal(loss.size)) - start
        for _ in range(draws)
    ]
    return AverageSharpness(
        value=float(np.mean(rises)),
        standard_error=float(np.std(rises, ddof=1) / np.sqrt(draws)),
        loss=start,
        sigma=sigma,
        adaptive=adaptive,
        draws=draws,
        **loss.measured,
    )


def _find_scale(loss: DataLoss, adaptive: bool) -> np.ndarray:
    """What e is a multiple of: |w| or 1, and 0 where weights are pruned."""
    if adaptive:
        return np.abs(loss.flatten(loss.weights))
    return loss.keep(np.ones(loss.size))


def _ascend(loss: DataLoss, ball: _Ball, start: np.ndarray, steps: int) -> float:
    """The largest loss that Auto-PGD sees (Croce & Hein 2020, algorithm 1)."""
    point = before = start
    value, gradient = loss.gradient(ball.scale * point)
    best = at_last_check = value
    best_at, best_gradient = point, gradient
    length = length_at_check = 2 * ball.rho
    num_rises = since = 0
    checks = _find_checks(steps)
    for step in range(1, steps + 1):
        ahead = ball.project(point + length * ball.climb(gradient))
        if step > 1:
            momentum = point - before
            ahead = point + MOMENTUM * (ahead - point) + (1 - MOMENTUM) * momentum
        before, point = point, ball.project(ahead)
        last = value
        value, gradient = loss.gradient(ball.scale * point)
        num_rises += value > last
        if value > best:
            best, best_at, best_gradient = value, point, gradient
        if step in checks:
            is_slow = num_rises < RISING * (step - since)
            is_stuck = length == length_at_check and best == at_last_check
            length_at_check, at_last_check = length, best
            if is_slow or is_stuck:
                length /= 2
                before = point = best_at
                value, gradient = best, best_gradient
            num_rises, since = 0, step
    return best


def _find_checks(steps: int) -> set[int]:
    """When to look whether the step is too long: the periods get shorter."""
    period, least, less = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    checks = {period}
    while max(checks) < steps:
        period = max(period - less, least)
        checks.add(max(checks) + period)
    return checks


def _check_radius(value: float, name: str) -> None:
    if not 0 < value < np.inf:
        raise ValueError(f"{name} must be a finite number > 0. Received: {value!r}")
