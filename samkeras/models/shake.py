"""Layers that mix branches at random, by other shares backward than forward.

In a pass that finds SAM's perturbation they take the shares of the forward pass
backward too, so that the gradient is that of the function itself, and their usual ones
in the pass at the perturbed weights (Foret et al. 2021, in their code). All passes of a
step draw the same numbers.
"""

from typing import Any

import keras
from keras import layers, ops

from samkeras.scope import is_ascent

Tensor = Any


class _Shake(layers.Layer):
    """A layer of random shares.

    Args:
        seed: seed of the draws. None (default): one of Python's generator.
    """

    def __init__(self, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def _draw(self, like: Tensor, count: int) -> list[Tensor]:
        """Numbers from 0 to 1 for each image, `count` of them: [image, 1, 1, 1]."""
        shape = (ops.shape(like)[0], count)
        draws = keras.random.uniform(shape, seed=self.seed_generator)
        ones = [1] * (len(like.shape) - 1)
        return [ops.reshape(draws[:, i], (-1, *ones)) for i in range(count)]

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


def _forward_and_backward(forward: Tensor, backward: Tensor) -> Tensor:
    """The first one, whose gradient is the second one's, but where it finds a
    perturbation."""
    if is_ascent():
        return forward
    return backward + ops.stop_gradient(forward - backward)


@keras.saving.register_keras_serializable(package="samkeras")
class ShakeShake(_Shake):
    """Shake-Shake (Gastaldi 2017): a random mean of two branches in training, of each
    image its own, uniform from one branch to the other; half of each otherwise.

    Call with [a, b], float[image, height, width, channel] each, for the same.

    Args:
        seed: seed of the draws. None (default): one of Python's generator.

    Examples:
        >>> ShakeShake()([np.zeros((1, 2, 2, 3)), np.ones((1, 2, 2, 3))])[0, 0, 0, 0]
        0.5
    """

    def call(self, branches, training=False):
        a, b = branches
        if not training:
            return (a + b) * 0.5
        shares = (ops.cast(s, a.dtype) for s in self._draw(a, 2))
        return _forward_and_backward(*(a * s + b * (1 - s) for s in shares))

    def compute_output_spec(self, branches, training=False):
        return keras.KerasTensor(branches[0].shape, self.compute_dtype)


@keras.saving.register_keras_serializable(package="samkeras")
class ShakeDrop(_Shake):
    """ShakeDrop (Yamada et al. 2018): leaves an image's branch as it is with some
    probability; else it is times a number from -1 to 1 forward and one from 0 to 1
    backward. Outside training it is times the probability.

    Args:
        keep: the probability, from 0 to 1.
        seed: seed of the draws. None (default): one of Python's generator.

    Examples:
        >>> ShakeDrop(0.75)(np.ones((1, 2, 2, 3)))[0, 0, 0, 0]
        0.75
    """

    def __init__(self, keep: float, seed: int | None = None, **kwargs):
        super().__init__(seed, **kwargs)
        self.keep = keep

    def call(self, branch, training=False):
        if not training:
            return branch * self.keep
        kept, alpha, beta = self._draw(branch, 3)
        shares = (ops.where(kept < self.keep, 1.0, s) for s in (2 * alpha - 1, beta))
        return _forward_and_backward(
            *(branch * ops.cast(share, branch.dtype) for share in shares)
        )

    def compute_output_spec(self, branch, training=False):
        return keras.KerasTensor(branch.shape, self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "keep": self.keep}
