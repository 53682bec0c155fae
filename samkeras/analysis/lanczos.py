"""The Lanczos process with full reorthogonalization, on the host."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

Multiply = Callable[[np.ndarray], np.ndarray]

# Of the type's epsilon and the largest number: what is rounding alone.
ROUNDING = 64
# Products with a new start, to see what the first one missed.
PROBE = 10
# Products u.Hv and v.Hu of rounding alone differ by 1e-5 at the most.
MOST_ASYMMETRY = 1e-2


@dataclass(frozen=True)
class Pairs:
    """Ritz pairs: approximate eigenvalues and eigenvectors.

    Attributes:
        values: the largest first.
        vectors: [value, entry], of length 1.
        residuals: |A v - value v|, within which of each value A has an eigenvalue.
        converged: whether all of them are small.
        products: how often A was multiplied.
        asymmetry: the largest difference of u.Av and v.Au, over the largest |value|.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    converged: bool
    products: int
    asymmetry: float


class Krylov:
    """An orthonormal basis Q that grows by what a symmetric A makes of it.

    A Q = Q T + R, with T = Q'AQ, and R's columns are zero but for those vectors whose
    products are not in the basis yet. Each new vector is orthogonalized against all,
    twice: without that, copies of the largest eigenvalues appear after some steps, in
    float64 too (Parlett, The Symmetric Eigenvalue Problem, 1980, chapter 13).

    Args:
        multiply: v -> Av.
        size: the length of vectors.
        capacity: the most vectors.
        dtype: theirs.
        scale: of the numbers that Av is a difference of, if it is one: what is rounding
            alone is measured by it.

    Raises:
        ValueError: the vectors would take over half of the machine's memory.
    """

    def __init__(
        self,
        multiply: Multiply,
        size: int,
        capacity: int,
        dtype: str,
        scale: float = 0.0,
    ):
        most = find_most_vectors(size, dtype)
        if capacity > most:
            raise ValueError(
                f"{capacity} vectors of {size:,} weights take more than half of this "
                f"machine's {_find_memory() / 1e9:.1f} GB: take at most {most} products"
            )
        self._multiply, self._scale = multiply, scale
        self._basis = np.zeros((capacity, size), dtype)  # takes memory as it is used
        self._matrix = np.zeros((capacity, capacity))
        self._difference = 0.0
        self.rests: dict[int, np.ndarray] = {}  # R's columns
        self.count = 0

    @property
    def matrix(self) -> np.ndarray:
        """T."""
        return self._matrix[: self.count, : self.count]

    @property
    def scale(self) -> float:
        """The largest number that was seen."""
        return float(np.abs(self.matrix).max(initial=self._scale))

    @property
    def rounding(self) -> float:
        """The length that what is rounding alone may have."""
        return ROUNDING * float(np.finfo(self._basis.dtype).eps) * self.scale

    def add(self, vector: np.ndarray) -> None:
        """Takes a vector, and what A makes of it, into the basis."""
        # Not to lose what is left of it where it nearly is in the basis.
        for _ in range(2):
            before = self._basis[: self.count]
            vector = vector - before.T @ (before @ vector)
            vector /= np.linalg.norm(vector)
        expected = np.zeros(self.count)
        for place in self.rests:
            expected[place] = part = self.rests[place] @ vector
            self.rests[place] = self.rests[place] - part * vector
        self._basis[self.count] = vector
        basis = self._basis[: self.count + 1]
        rest = self._multiply(vector)
        column = np.zeros(self.count + 1)
        for _ in range(2):
            part = basis @ rest
            column += part
            rest = rest - basis.T @ part
        self._matrix[self.count, : self.count + 1] = column
        self._matrix[: self.count + 1, self.count] = column
        difference = np.abs(column[:-1] - expected).max(initial=0.0)
        self._difference = max(self._difference, float(difference))
        self.rests[self.count] = rest
        self.count += 1
        self._forget()

    def expand_or_add(self, place: int | None, draw: Callable[[], np.ndarray]) -> None:
        """Takes what A made of a vector into the basis; a random vector where all of it
        is in there."""
        if place in self.rests:
            self.add(self.rests[place])
            self.rests.pop(place, None)
        else:
            self.add(draw())

    def find_strongest(self, vectors: np.ndarray) -> int | None:
        """The basis' vector whose product is missing most in T's vectors, [vector,
        entry]; None where no product is."""
        sizes = {
            place: np.linalg.norm(rest) * np.abs(vectors[:, place]).max()
            for place, rest in self.rests.items()
        }
        return max(sizes, key=lambda place: sizes[place], default=None)

    def solve(self) -> tuple[np.ndarray, np.ndarray]:
        """T's eigenvalues, the largest first, and vectors, [entry, value]."""
        values, vectors = np.linalg.eigh(self.matrix)
        return values[::-1], vectors[:, ::-1]

    def find_pairs(self, count: int, tolerance: float) -> Pairs:
        """The Ritz pairs of the largest values, at most `count`.

        Args:
            count: how many converge for all to have converged.
            tolerance: of residuals, relative to their values.
        """
        values, vectors = self.solve()
        values, vectors = values[:count], vectors[:, :count]
        residuals = np.zeros(len(values))
        if self.rests:
            rests = np.stack([*self.rests.values()])
            gram = (rests @ rests.T).astype("float64")
            parts = vectors[[*self.rests]]
            squares = np.einsum("in,ij,jn->n", parts, gram, parts)
            residuals = np.sqrt(np.maximum(squares, 0.0))
        small = residuals <= np.maximum(tolerance * np.abs(values), self.rounding)
        return Pairs(
            values,
            vectors.T,
            residuals,
            len(values) == count and bool(small.all()),
            self.count,
            self._difference / self.scale if self.scale else 0.0,
        )

    def lift(self, vectors: np.ndarray) -> np.ndarray:
        """T's vectors, [vector, entry], as A's."""
        return vectors.astype(self._basis.dtype) @ self._basis[: self.count]

    def _forget(self) -> None:
        """Leaves out what is rounding alone: the basis has all that A makes of it."""
        for place in [*self.rests]:
            if np.linalg.norm(self.rests[place]) <= self.rounding:
                del self.rests[place]


def find_most_vectors(size: int, dtype: str) -> int:
    """How many vectors of a size a basis may have: half of the machine's memory."""
    return _find_memory() // 2 // (size * np.dtype(dtype).itemsize)


def _find_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def find_largest(
    multiply: Multiply,
    draw: Callable[[], np.ndarray],
    size: int,
    count: int,
    tolerance: float,
    most: int,
    scale: float = 0.0,
) -> Pairs:
    """The largest eigenvalues of a symmetric matrix, repeated ones too.

    A start of Lanczos finds one copy of each; so when all have converged, a second one
    looks for what is above them beside their vectors, for PROBE products.

    Args:
        multiply: v -> Av.
        draw: () -> a random vector.
        size: the dimension of the space that vectors are from.
        count: of eigenvalues.
        tolerance: of residuals, relative to their values.
        most: products.
        scale: see Krylov.

    Raises:
        ValueError: A is not symmetric.
    """
    start = draw()
    limit = min(most, size)
    krylov = Krylov(multiply, len(start), limit, start.dtype.name, scale)
    krylov.add(start)
    checked: np.ndarray | None = None
    while krylov.count < limit:
        pairs = krylov.find_pairs(count, tolerance)
        if pairs.converged:
            if checked is not None and np.allclose(
                pairs.values, checked, tolerance, krylov.rounding
            ):
                break
            checked = pairs.values
            krylov.add(draw())
            for _ in range(min(PROBE, limit - krylov.count)):
                krylov.expand_or_add(krylov.count - 1, draw)
        else:
            krylov.expand_or_add(krylov.find_strongest(pairs.vectors), draw)
    pairs = krylov.find_pairs(count, tolerance)
    if pairs.asymmetry > MOST_ASYMMETRY:
        raise ValueError(
            "the Hessian's products are not symmetric (relative difference "
            f"{pairs.asymmetry:.1e}): the model's loss differs from call to call, as "
            "with layers that are random in inference, or a derivative is wrong"
        )
    return replace(pairs, vectors=krylov.lift(pairs.vectors))


def tridiagonalize(
    multiply: Multiply, start: np.ndarray, steps: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Gauss quadrature by Lanczos (Golub & Meurant 1994): nodes t and weights w with
    sum w t^j = v'A^j v for j < 2 steps, v the start of length 1; fewer nodes where v is
    in a smaller invariant space, and then exact for all j."""
    steps = min(steps, size)
    krylov = Krylov(multiply, len(start), steps, start.dtype.name)
    krylov.add(start)
    while krylov.rests and krylov.count < steps:
        krylov.expand_or_add(krylov.count - 1, lambda: start)
    values, vectors = krylov.solve()
    return values, vectors[0] ** 2
