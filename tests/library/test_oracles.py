"""Methods beside independent packages, where those are right.

Run with requirements-oracles.txt installed; what is missing is skipped.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import samkeras
from tests.helpers import (
    batches_of,
    build_classifier,
    compile_classifier,
    random_examples,
    relative_error,
    weights_float64,
)
from tests.oracles import METHODS, RATE, RHO

NUM_STEPS, SIZE = 20, 16


class StretchingAll(samkeras.ASAM):
    """ASAM without its rule for biases, which the package has not."""

    def epsilon(self, context):
        context.roles = [role._replace(is_offset=False) for role in context.roles]
        return super().epsilon(context)


OURS = {
    "sam": lambda: samkeras.SAM(RHO),
    "asam": lambda: StretchingAll(RHO, eta=0.0),
    "gsam": lambda: samkeras.GSAM(RHO, alpha=0.3),
    "wsam": lambda: samkeras.WSAM(RHO, gamma=0.7),
    "wsam_momentum": lambda: samkeras.WSAM(RHO, gamma=0.7),
    "wsam_coupled": lambda: samkeras.WSAM(RHO, gamma=0.7, decoupled=False),
    "fsam": lambda: samkeras.FSAM(RHO, sigma=0.8, ema_decay=0.6),
    "unified": lambda: samkeras.UnifiedSAM(RHO, lam=0.3),
}


def make_batches() -> list[tuple[np.ndarray, np.ndarray]]:
    return batches_of(*random_examples(NUM_STEPS * SIZE), SIZE)


def train_ours(method: samkeras.Method, momentum: float, start: list) -> list:
    """The weights after a step on each batch."""
    model = compile_classifier(
        build_classifier(),
        optimizer=samkeras.SGD(RATE, momentum=momentum),
        method=method,
    )
    model.set_weights(start)
    for batch in make_batches():
        model.train_on_batch(*batch)
    return weights_float64(model)


@pytest.fixture(scope="module")
def start() -> list[np.ndarray]:
    return build_classifier().get_weights()


@pytest.fixture(scope="module")
def theirs(start, tmp_path_factory) -> dict[str, np.ndarray]:
    """What the weights become by the packages' methods."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    folder = tmp_path_factory.mktemp("oracles")
    x, y = map(np.stack, zip(*make_batches(), strict=True))
    weights = {f"weights_{i}": weight for i, weight in enumerate(start)}
    np.savez(folder / "start.npz", x=x, y=y, **weights)
    command = [sys.executable, "-m", "tests.oracles", "start.npz", "ends.npz"]
    command[-2:] = [str(folder / name) for name in command[-2:]]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    return dict(np.load(folder / "ends.npz"))


@pytest.mark.parametrize("name", OURS)
def test_a_package_ends_at_the_same_weights(name, theirs, start):
    method = METHODS[name]
    if f"{name}_0" not in theirs:
        pytest.skip(f"{method.package} is not installed")
    ours = train_ours(OURS[name](), method.momentum, start)
    assert relative_error([theirs[f"{name}_{i}"] for i in range(4)], ours) < 1e-5


@pytest.mark.parametrize("steps", [1, 3])
def test_optax_ends_at_the_same_weights(steps, start):
    """Of k steps of ascent too, which it takes of the length rho / k."""
    optax = pytest.importorskip("optax")
    jax = pytest.importorskip("jax")
    contrib = importlib.import_module("optax.contrib")
    ours = train_ours(samkeras.SAM(RHO, steps=steps), 0.9, start)

    def find_loss(weights, x, y):
        kernel, bias, kernel_out, bias_out = weights
        logits = jax.numpy.tanh(x @ kernel + bias) @ kernel_out + bias_out
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean()

    ascent = optax.chain(contrib.normalize(), optax.sgd(RHO / steps))
    descent = optax.sgd(RATE, momentum=0.9)
    optimizer = contrib.sam(descent, ascent, sync_period=steps + 1, opaque_mode=True)
    weights = [jax.numpy.array(weight) for weight in start]
    state = optimizer.init(weights)
    for x, y in make_batches():

        def differentiate(weights, _, x=x, y=y):
            return jax.grad(find_loss)(weights, x, y)

        updates, state = optimizer.update(
            differentiate(weights, None), state, weights, grad_fn=differentiate
        )
        weights = optax.apply_updates(weights, updates)
    assert relative_error(weights, ours) < 1e-5
