"""The training step against the formula in NumPy, optax, and cases done by hand."""

import math
from collections.abc import Iterator

import keras
import numpy as np
import pytest

import samkeras
from samkeras.statistics import COMPARE_EVERY
from tests.helpers import (
    add,
    batches_of,
    build_classifier,
    compile_classifier,
    norm,
    perceptron,
    perceptron_gradients,
    random_examples,
    relative_error,
    scale,
    train,
    weights_float64,
)

LEARNING_RATE, MOMENTUM, RHO = 0.2, 0.9, 0.5


def ascend(direction, steps=1):
    """The SAM gradient in float64: eps moves by direction(g), `steps` times."""

    def compute_gradients(weights, x, y):
        point = weights
        for _ in range(steps):
            point = add(point, direction(perceptron_gradients(point, x, y)))
        return perceptron_gradients(point, x, y)

    return compute_gradients


def direction_for_p_3(g):
    """1/p + 1/q = 1 makes q = 1.5: sign(g) |g|^(q-1) / (||g||_q^q)^(1/p)."""
    norm_q_to_q = sum(np.sum(np.abs(t) ** 1.5) for t in g)
    return [RHO * np.sign(t) * np.abs(t) ** 0.5 / norm_q_to_q ** (1 / 3) for t in g]


# The formulas of paper.md section 1: what samkeras is given, and the gradient by hand.
CASES = {
    "p_2": (
        lambda: samkeras.SAM(RHO),
        ascend(lambda g: scale(g, RHO / norm(g))),
    ),
    "p_inf": (
        lambda: samkeras.SAM(RHO, p=math.inf),
        ascend(lambda g: [RHO * np.sign(t) for t in g]),
    ),
    "p_3": (lambda: samkeras.SAM(RHO, p=3), ascend(direction_for_p_3)),
    "unnormalized": (
        lambda: samkeras.UnnormalizedSAM(RHO),
        ascend(lambda g: scale(g, RHO)),
    ),
    "two_ascent_steps": (
        lambda: samkeras.SAM(RHO, steps=2),
        ascend(lambda g: scale(g, RHO / 2 / norm(g)), steps=2),
    ),
    "no_method": (lambda: None, ascend(lambda g: scale(g, 0))),
}


def descend(weights, batches, compute_gradients, l2=0.0) -> Iterator[list]:
    """Yields the float64 weights after each step of SGD with momentum and decay."""
    velocity = scale(weights, 0.0)
    for batch in batches:
        gradients = add(compute_gradients(weights, *batch), scale(weights, l2))
        velocity = add(scale(velocity, MOMENTUM), gradients)
        weights = add(weights, scale(velocity, -LEARNING_RATE))
        yield weights


def compiled_classifier(method, **kwargs) -> keras.Model:
    optimizer = samkeras.SGD(LEARNING_RATE, momentum=MOMENTUM)
    return compile_classifier(
        build_classifier(), optimizer=optimizer, method=method, **kwargs
    )


@pytest.mark.parametrize("case", [*CASES])
def test_steps_equal_the_formula(case):
    """w <- base(w, grad L(w + eps) + l2 w), for each epsilon, at each of 4 steps."""
    build_method, compute_gradients = CASES[case]
    model = compiled_classifier(build_method(), l2=0.1)
    before = weights_float64(model)
    batches = batches_of(*random_examples(64))
    for batch, expected in zip(
        batches, descend(before, batches, compute_gradients, l2=0.1), strict=True
    ):
        model.train_on_batch(*batch)
        assert relative_error(model.get_weights(), expected) < 1e-6  # float32
    # The checks above have teeth only if rho moves the weights by more than that.
    *_, without_rho = descend(before, batches, perceptron_gradients, l2=0.1)
    is_base = case == "no_method"
    assert (relative_error(without_rho, expected) > 1e-2) != is_base


@pytest.fixture
def float64():
    """Models and losses of float64."""
    if keras.backend.backend() == "jax":
        pytest.skip("keras computes tanh and others in float32 there, with x64 too")
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")


@pytest.mark.parametrize(
    ("options", "direction"),
    [
        ({}, lambda g: scale(g, 0.3 / norm(g))),
        ({"p": math.inf}, lambda g: [0.3 * np.sign(t) for t in g]),
        ({"p": 3}, lambda g: scale(direction_for_p_3(g), 0.3 / RHO)),
        ({"steps": 3}, lambda g: scale(g, 0.3 / 3 / norm(g))),
    ],
    ids=["p_2", "p_inf", "p_3", "three_ascent_steps"],
)
def test_steps_in_float64_are_exact(options, direction, float64):
    """Neither rho, l2 nor norms pass through float32, in which 0.3 and 0.1 are off by
    1e-8."""
    steps = options.get("steps", 1)
    model = compile_classifier(
        build_classifier(),
        optimizer=samkeras.SGD(0.25),
        method=samkeras.SAM(0.3, **options),
        l2=0.1,
        run_eagerly=True,
    )
    x, y = random_examples(32)
    weights = weights_float64(model)
    history = train(model, x.astype("float64"), y)
    for batch in batches_of(x, y):
        gradients = ascend(direction, steps)(weights, *batch)
        gradients = add(gradients, scale(weights, 0.1))
        weights = add(weights, scale(gradients, -0.25))
    assert relative_error(model.get_weights(), weights) < 1e-13
    assert np.isfinite(history["grad_cosine"][0])


def test_twenty_steps_equal_optax_sam():
    """optax.contrib.sam with the same base optimizer takes the same 20 steps."""
    jax = pytest.importorskip("jax", reason="optax computes on jax")
    optax = pytest.importorskip("optax", reason="the reference")
    l2 = 0.01
    x, y = random_examples(20 * 16)
    model = compiled_classifier(samkeras.SAM(RHO), l2=l2)
    before = model.get_weights()
    train(model, x, y)

    def compute_loss(weights, x, y):
        hidden = jax.numpy.tanh(x @ weights[0] + weights[1])
        logits = hidden @ weights[2] + weights[3]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean()

    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
    descent = optax.chain(
        optax.add_decayed_weights(l2), optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    )
    sam = optax.contrib.sam(descent, ascent, opaque_mode=True)

    @jax.jit
    def step(weights, state, x, y):
        def gradients_at(weights, _):
            return jax.grad(compute_loss)(weights, x, y)

        gradients = gradients_at(weights, 0)
        updates, state = sam.update(gradients, state, weights, grad_fn=gradients_at)
        return optax.apply_updates(weights, updates), state

    expected = [jax.numpy.asarray(w) for w in before]
    state = sam.init(expected)
    for batch in batches_of(x, y):
        expected, state = step(expected, state, *batch)
    expected = [np.asarray(w) for w in expected]
    # 1e-5: float32 rounding grows over 20 steps with momentum.
    assert relative_error(model.get_weights(), expected) < 1e-5
    assert relative_error(before, expected) > 0.1


def test_logs_equal_those_by_hand():
    """An epoch logs means: over all steps the loss before the perturbation and that
    gradient's norm; over every eleventh step the SAM gradient's norm and the cosine."""
    x, y = random_examples(14 * 16)
    model = compiled_classifier(samkeras.SAM(RHO))
    weights = weights_float64(model)
    rows = []
    compute_sam_gradients = CASES["p_2"][1]
    batches = batches_of(x, y)
    for batch, following in zip(
        batches, descend(weights, batches, compute_sam_gradients), strict=True
    ):
        loss, first = perceptron(weights, *batch)
        second = compute_sam_gradients(weights, *batch)
        dot = sum(np.sum(a * b) for a, b in zip(first, second, strict=True))
        cosine = dot / norm(first) / norm(second)
        rows.append([loss, norm(first), norm(second), cosine])
        weights = following
    history = train(model, x, y)
    names = ["loss", "grad_norm", "sam_grad_norm", "grad_cosine"]
    logged = [history[name][0] for name in names]
    every_step = np.mean(rows, axis=0)
    compared = np.mean(rows[::COMPARE_EVERY], axis=0)
    # 1e-5: float32 sums, after up to 12 steps.
    assert logged[:2] == pytest.approx(every_step[:2], rel=1e-5)
    assert logged[2:] == pytest.approx(compared[2:], rel=1e-5)
    assert logged[-1] < 0.99  # the two passes differ


def test_statistics_are_logged_in_training_only():
    """fit logs the gradients' statistics; evaluate, validation and plain fit do not."""
    statistics = {"grad_norm", "sam_grad_norm", "grad_cosine"}
    x, y = random_examples()
    model = compiled_classifier(samkeras.SAM())
    history = train(model, x, y, validation_data=(x, y))
    assert {*history} == {"loss", "val_loss", *statistics}
    assert {*model.evaluate(x, y, verbose=0, return_dict=True)} == {"loss"}
    compile_classifier(model, l2=0.1)
    assert {*train(model, x, y)} == {"loss"}


def test_each_epoch_starts_its_statistics_anew():
    """The logged means are an epoch's, from its first step on: with a learning rate of
    0 all are the same."""
    model = build_classifier()
    optimizer = keras.optimizers.SGD(0.0)
    compile_classifier(
        model, optimizer=optimizer, method=samkeras.SAM(), run_eagerly=True
    )
    history = train(model, *random_examples(48), epochs=2)
    for name in ("grad_norm", "sam_grad_norm", "grad_cosine"):
        assert history[name][0] == pytest.approx(history[name][1], rel=1e-6)


def test_zero_gradient_leaves_the_weights():
    """Where all sample weights are 0 nothing moves and nothing is NaN."""
    x, y = random_examples()
    model = compiled_classifier(samkeras.SAM(1.0))
    before = model.get_weights()
    history = train(model, x, y, sample_weight=np.zeros(len(x)))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    assert history["grad_norm"] == history["grad_cosine"] == [0.0]
