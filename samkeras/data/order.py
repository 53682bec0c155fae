"""In which order examples come in a pass over them: a function of (seed, pass)."""

import math
from dataclasses import dataclass

import numpy as np

WINDOW = 8  # batches whose examples are brought in the order of their sizes


@dataclass(frozen=True, eq=False)
class Order:
    """The examples of each place of a pass.

    With sizes, batches are of examples of similar ones: of each 8 batches of a random
    order, or of an eighth of a pass if that is less, the examples are sorted by size,
    and then the batches shuffled.

    Attributes:
        num_examples: examples there are.
        num_places: those of a pass, some left out or the first ones repeated.
        batch_size: places of a batch.
        seed: seed of all passes; None: the data's order, or that of the sizes.
        sizes: int[example]; None: all are of one size.
    """

    num_examples: int
    num_places: int
    batch_size: int
    seed: int | None = None
    sizes: np.ndarray | None = None

    @property
    def num_batches(self) -> int:
        """Batches of a pass, of which the last may be smaller."""
        return math.ceil(self.num_places / self.batch_size)

    def draw(self, number: int) -> np.ndarray:
        """The examples in the order of the pass of a number: int[place]."""
        order = np.arange(self.num_examples)
        if self.seed is not None:
            generator = generator_of_pass(self.seed, number)
            order = generator.permutation(order)
            if self.sizes is not None:
                order = self._bring_together(order, self.sizes, generator)
        elif self.sizes is not None:
            order = np.argsort(self.sizes, kind="stable")
        return np.resize(order, self.num_places)

    def _bring_together(
        self, order: np.ndarray, sizes: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        # Fewer where there are few, of which a size should not be always the same ones.
        window = self.batch_size * max(1, min(WINDOW, self.num_batches // 8))
        parts = np.split(order, range(window, len(order), window))
        order = np.concatenate(
            [part[np.argsort(sizes[part], kind="stable")] for part in parts]
        )
        end = len(order) // self.batch_size * self.batch_size
        batches = order[:end].reshape(-1, self.batch_size)
        return np.concatenate([generator.permutation(batches).ravel(), order[end:]])


def generator_of_pass(seed: int, number: int, *stream: int) -> np.random.Generator:
    """What a pass' draws come from, those of several streams apart."""
    return np.random.default_rng([seed, number, *stream])


def seeds_of_pass(seed: int, number: int, count: int) -> list[int]:
    """Seeds below 2^63 for what draws a pass by generators of its own."""
    states = np.random.SeedSequence([seed, number]).generate_state(count, np.uint64)
    return [int(state >> 1) for state in states]


def count_places(
    num_examples: int, is_training: bool, multiple_of: int, fill_to: int | None = None
) -> int:
    """The places of one pass over examples, some left out or some repeated.

    Args:
        num_examples: examples there are.
        is_training: whether it is to train: examples too many are left out then.
        multiple_of: what the number of places is a multiple of.
        fill_to: a larger such number that is reached by repeating some, in training
            too. None (default): none.
    """
    if fill_to is not None:
        return math.ceil(num_examples / fill_to) * fill_to
    count = num_examples if is_training else num_examples + multiple_of - 1
    return count // multiple_of * multiple_of
