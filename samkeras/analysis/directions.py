"""Directions in the space of a model's weights: random ones, and those of a path."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from samkeras.backend.insides import find_owners
from samkeras.masks import Masks
from samkeras.tensors import widest

# Columns that are float64 at once.
CHUNK = 2**20
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
TRANSPOSED = (
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
)
# Tables of vectors: a filter is a row.
TABLES = ("embeddings", "positions")
# What is of more than one axis in some layers, and is as a bias all the same.
SHIFTS = ("bias", "gamma", "beta")


class Projection(NamedTuple):
    """Where points are in a plane.

    Attributes:
        coordinates: float64[point, direction], of the closest points of the plane.
        distances: float64[point], |o - Po|: how far each is off the plane.
        outside: float64[point], its share |o - Po| / |o| of an offset's length; 0 for
            no offset.
    """

    coordinates: np.ndarray
    distances: np.ndarray
    outside: np.ndarray


@dataclass(frozen=True)
class Directions:
    """Directions of a line or plane, as flat vectors (see `DataLoss`).

    Attributes:
        vectors: [direction, weight].
        explained: float64[direction], of `pca_directions` the share of the points'
            squared distances from the last one that lies along each; else None.
    """

    vectors: np.ndarray
    explained: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        """The distance that one unit of each is, float64[direction]."""
        return np.sqrt(np.diag(self._gram))

    @property
    def cosine(self) -> float:
        """Between the first two; 0 where there is one alone, or no length."""
        lengths = self.lengths
        if len(lengths) < 2 or not lengths.all():
            return 0.0
        return float(self._gram[0, 1] / (lengths[0] * lengths[1]))

    def project(self, offsets: Sequence[np.ndarray]) -> Projection:
        """Where offsets from the plane's origin are, by least squares: the directions
        need not be orthonormal.

        Args:
            offsets: flat vectors, [point, weight].
        """
        vectors = self.vectors.astype("float64")
        inverse = np.linalg.pinv(self._gram)
        coordinates: list[np.ndarray] = []
        lengths: list[float] = []
        rests: list[float] = []
        for offset in offsets:
            whole = np.asarray(offset, "float64")
            coordinates.append(inverse @ (vectors @ whole))
            lengths.append(float(np.linalg.norm(whole)))
            rests.append(float(np.linalg.norm(whole - coordinates[-1] @ vectors)))
        distances, known = np.array(rests), np.array(lengths) > 0
        outside = np.divide(distances, lengths, out=np.zeros(len(rests)), where=known)
        return Projection(np.stack(coordinates), distances, outside)

    @property
    def _gram(self) -> np.ndarray:
        return _multiply(self.vectors)


def random_directions(model: keras.Model, *, seed: int = 0) -> Directions:
    """Two random directions, each normal and then scaled filter by filter to the
    weights: d_f <- d_f |w_f| / |d_f|, so that networks of other scales of their weights
    can be compared. (Li et al. 2018, "Visualizing the loss landscape of neural nets".)

    A filter is what makes one output: of a kernel the entries of one output unit or
    channel, one head's unit of attention, one unit of a gate; of an embedding one row.
    Biases and the scales and shifts of normalizations do not move, nor do pruned
    entries and filters of zeros. The second direction is independent of the first; they
    are nearly orthogonal: see `Directions.cosine`.

    Examples:
        >>> directions = samkeras.analysis.random_directions(model, seed=0)
        >>> directions.vectors.shape  # of 5 weights
        (2, 5)

    Args:
        model: a built keras.Model.
        seed: of the draws.

    Returns:
        Two directions, flat vectors.
    """
    weights: list[keras.Variable] = model.trainable_variables
    owners = find_owners(model)
    masks = Masks(weights).to_arrays(weights)
    generator = np.random.default_rng(seed)
    vectors = [
        np.concatenate(
            [
                np.ravel(_draw(weight, owner, masks.get(place), generator))
                for place, (weight, owner) in enumerate(
                    zip(weights, owners, strict=True)
                )
            ]
        )
        for _ in range(2)
    ]
    return Directions(np.stack(vectors).astype(widest(weights)))


def pca_directions(points: Sequence[np.ndarray]) -> Directions:
    """The two orthonormal directions that lie closest to a path: the principal
    components of its points' differences to the last one, which is the plane's origin.

    Three points lie in one plane, which then explains all. (Li et al. 2018, section 7;
    the differences are not centred, so that the plane goes through the last point.)

    Examples:
        >>> data = samkeras.analysis.DataLoss(model, (x, y))
        >>> path = [data.flatten(model.get_weights())]
        >>> for epoch in range(3):
        ...     history = model.fit(x, y, verbose=0)
        ...     path.append(data.flatten(model.get_weights()))
        >>> directions = samkeras.analysis.pca_directions(path)
        >>> found = directions.project([point - path[-1] for point in path])
        >>> found.coordinates.shape
        (4, 2)

    Args:
        points: flat vectors of weights, [point, weight], as `DataLoss.flatten` makes
            them.

    Returns:
        Two directions, with what each explains.

    Raises:
        ValueError: they lie on one line.
    """
    last = points[-1]
    differences = np.stack([point - last for point in points[:-1]] or [0 * last])
    values, vectors = np.linalg.eigh(_multiply(differences))
    values, vectors = values[::-1], vectors[:, ::-1]
    if len(values) < 2 or values[1] <= 1e-14 * values[0]:
        raise ValueError("all points lie on one line: there is no plane through them")
    spanning = vectors[:, :2].T.astype(last.dtype) @ differences
    basis, _ = np.linalg.qr(spanning.T.astype("float64"))
    # The first point is where both coordinates are positive.
    basis *= np.where(differences[0] @ basis < 0, -1, 1)
    explained = values[:2] / values.clip(0).sum()
    return Directions(basis.T.astype(last.dtype), explained)


def _multiply(vectors: np.ndarray) -> np.ndarray:
    """Their inner products, summed in float64."""
    starts = range(0, vectors.shape[1], CHUNK)
    parts = (vectors[:, s : s + CHUNK].astype("float64") for s in starts)
    return np.sum([part @ part.T for part in parts], axis=0)


def _draw(
    weight: keras.Variable,
    owner: Any,
    mask: np.ndarray | None,
    generator: np.random.Generator,
) -> np.ndarray:
    """A weight's part of a random direction."""
    draw = generator.standard_normal(weight.shape)
    axes = _find_axes(weight, owner)
    if axes is None:
        return np.zeros_like(draw)
    value = np.array(weight, "float64")
    if mask is not None:
        draw, value = draw * mask, value * mask
    wanted, found = (
        np.sqrt(np.sum(np.square(array), axis=axes, keepdims=True))
        for array in (value, draw)
    )
    return draw * np.divide(wanted, found, out=np.zeros_like(found), where=found > 0)


def _find_axes(weight: keras.Variable, owner: Any) -> tuple[int, ...] | None:
    """The axes that a filter lies along, of which there is one for each place on the
    others; None: the weight does not move."""
    count = len(weight.shape)
    if count < 2 or weight.name in SHIFTS:
        return None
    kept: set[int] = {count - 1}
    if weight.name in TABLES:
        kept = {0}
    elif isinstance(owner, layers.EinsumDense):
        operands, outputs = owner.equation.split("->")
        kernel = operands.split(",")[1]
        kept = {place for place, axis in enumerate(kernel) if axis in outputs}
    elif isinstance(owner, DEPTHWISE) or weight.name == "depthwise_kernel":
        kept = {count - 2, count - 1}
    elif isinstance(owner, TRANSPOSED):
        kept = {count - 2}
    return tuple(axis for axis in range(count) if axis not in kept)
