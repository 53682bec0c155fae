"""The step of SAM (Foret et al. 2021) and the optimizers around it, written by hand.

The norm of epsilon is of all weights. Weight decay is of the unperturbed weights; that
of SGD is added to the gradient, that of AdamW is decoupled.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tests.references import Array

Tree = Any


class SGD(NamedTuple):
    learning_rate: float
    momentum: float
    l2: float

    def start(self, weights: Tree) -> Tree:
        return jax.tree.map(jnp.zeros_like, weights)

    def update(self, weights: Tree, gradients: Tree, velocity: Tree) -> tuple:
        velocity = jax.tree.map(
            lambda v, g, w: self.momentum * v + g + self.l2 * w,
            velocity,
            gradients,
            weights,
        )
        weights = jax.tree.map(
            lambda w, v: w - self.learning_rate * v, weights, velocity
        )
        return weights, velocity


class AdamW(NamedTuple):
    """As Keras has it: epsilon is added before the bias correction."""

    learning_rate: float
    weight_decay: float
    beta_1: float
    beta_2: float
    epsilon: float

    def start(self, weights: Tree) -> tuple[Tree, Tree, Array]:
        means, squares = (jax.tree.map(jnp.zeros_like, weights) for _ in range(2))
        return means, squares, jnp.int32(0)

    def update(self, weights: Tree, gradients: Tree, slots: tuple) -> tuple:
        (means, squares, count), b1, b2 = slots, self.beta_1, self.beta_2
        means = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, means, gradients)
        squares = jax.tree.map(
            lambda s, g: b2 * s + (1 - b2) * g * g, squares, gradients
        )
        number = count + 1.0
        rate, decay = self.learning_rate, self.weight_decay
        scale = rate * jnp.sqrt(1 - b2**number) / (1 - b1**number)

        def move(w, mean, square):
            step = scale * mean / (jnp.sqrt(square) + self.epsilon)
            return w - rate * decay * w - step

        weights = jax.tree.map(move, weights, means, squares)
        return weights, (means, squares, count + 1)


def build_step(loss: Callable, optimizer: SGD | AdamW, rho: float) -> Callable:
    """A step to compile: (weights, slots, *inputs) to new weights and slots, and the
    first pass's value and what else `loss` returns.

    Args:
        loss: (weights, *inputs) to its value and anything else.
        optimizer: whose `start` gives the first slots.
        rho: norm of the perturbation; 0 for a step without one.
    """

    def step(weights, slots, *inputs):
        (value, others), gradients = jax.value_and_grad(loss, has_aux=True)(
            weights, *inputs
        )
        if rho:
            norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(gradients)))
            scale = rho / (norm + 1e-12)
            perturbed = jax.tree.map(lambda w, g: w + scale * g, weights, gradients)
            gradients, _ = jax.grad(loss, has_aux=True)(perturbed, *inputs)
        return *optimizer.update(weights, gradients, slots), value, others

    return step
