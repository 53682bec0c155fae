"""SAM by hand, in plain JAX: to read, or to check what samkeras.SAMModel does.

A step of SAM (Foret et al. 2021, algorithm 1) on a batch, with g the gradient at w:

    epsilon = rho * g / ||g||_2,    w <- w - learning_rate * gradient at w + epsilon

Prints the training loss after each epoch, without and with SAM, and the norm of the
gradient at the end:

    python examples/sam_by_hand.py
"""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

RATE, RHO, BATCH, EPOCHS = 0.5, 0.1, 64, 5


def init(rng: np.random.Generator) -> list[jax.Array]:
    """The weights of a network 64-32-10: kernel, bias, kernel, bias."""
    kernels = [rng.normal(0, n**-0.5, (n, m)) for n, m in ((64, 32), (32, 10))]
    arrays = [kernels[0], np.zeros(32), kernels[1], np.zeros(10)]
    return [jnp.asarray(array, "float32") for array in arrays]


def loss(w: list[jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    """The mean cross-entropy of a batch: x float32[batch, 64], y int[batch]."""
    hidden = jnp.tanh(x @ w[0] + w[1])
    log_p = jax.nn.log_softmax(hidden @ w[2] + w[3])
    return -jnp.mean(log_p[jnp.arange(len(y)), y])


def norm(vector: list[jax.Array]) -> jax.Array:
    """The length of all weights' entries as one vector."""
    return jnp.sqrt(sum(jnp.sum(part**2) for part in vector))


@jax.jit
def step(w, x, y, rho):
    g = jax.grad(loss)(w, x, y)  # the first pass
    scale = rho / (norm(g) + 1e-12)  # a gradient of zero perturbs nothing
    at = [part + scale * slope for part, slope in zip(w, g, strict=True)]
    g_sam = jax.grad(loss)(at, x, y)  # the second pass, at w + epsilon
    return [part - RATE * slope for part, slope in zip(w, g_sam, strict=True)]


def read() -> tuple[np.ndarray, np.ndarray]:
    """1,024 digits of 64 pixels."""
    x, y = load_digits(return_X_y=True)
    return (x[:1024] / 16).astype("float32"), y[:1024]


def train(rho: float, say=lambda *parts: None) -> list[jax.Array]:
    """The weights after all epochs. With a rho of 0 it is SGD."""
    x, y = read()
    w = init(np.random.default_rng(0))
    for epoch in range(EPOCHS):
        for i in range(0, len(x), BATCH):
            w = step(w, x[i : i + BATCH], y[i : i + BATCH], rho)
        say(f"  epoch {epoch + 1}: loss {loss(w, x, y):.4f}")
    say(f"  norm of the gradient: {norm(jax.grad(loss)(w, x, y)):.4f}")
    return w


if __name__ == "__main__":
    for name, rho in (("SGD", 0.0), ("SAM", RHO)):
        print(name)
        train(rho, print)
