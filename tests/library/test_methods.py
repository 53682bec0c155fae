"""What epsilon is, on gradients given as plain arrays."""

import json
import math

import keras
import numpy as np
import pytest
from keras import ops
from keras.optimizers.schedules import PiecewiseConstantDecay

import samkeras
from samkeras.statistics import COMPARE_EVERY, compare_gradients
from samkeras.tensors import global_norm
from tests.helpers import find_epsilon, flat, relative_error

NORMS_OF_BALLS = [1.1, 1.5, 2.0, 3.0, 20.0, math.inf]


def gradients_of_size(size: float) -> list:
    rng = np.random.default_rng(0)
    shapes = [(4, 3), (3,), (2, 2, 2)]
    return [
        ops.convert_to_tensor((size * rng.standard_normal(s)).astype("float32"))
        for s in shapes
    ]


@pytest.mark.parametrize("size", [1.0, 1e-5])
@pytest.mark.parametrize("p", NORMS_OF_BALLS)
def test_epsilon_maximizes_the_linear_loss_in_the_ball(p, size):
    """SAM's epsilon has p-norm rho and attains Hoelder's bound g.e = rho ||g||_q.

    No other point of the ball does, so this pins epsilon without its formula. Small
    gradients guard the powers, q - 1 = 10 for p = 1.1, against float32 underflow.
    """
    gradients = gradients_of_size(size)
    rho = 0.3
    epsilon = flat(find_epsilon(samkeras.SAM(rho, p=p), gradients))
    g = flat(gradients)
    q = 1.0 if math.isinf(p) else p / (p - 1)
    # 1e-5: a few float32 roundings, raised to the power q; the 1e-12 in the divisor
    # adds about as much to gradients of 1e-5.
    assert np.linalg.norm(epsilon, ord=p) == pytest.approx(rho, rel=1e-5)
    assert g @ epsilon == pytest.approx(rho * np.linalg.norm(g, ord=q), rel=1e-5)


@pytest.mark.parametrize("p", NORMS_OF_BALLS)
@pytest.mark.parametrize("steps", [1, 2])
def test_zero_gradient_gives_zero_epsilon(p, steps):
    """A zero gradient must not become 0 / 0."""
    zeros = [ops.zeros((2, 3)), ops.zeros((4,))]
    epsilon = find_epsilon(samkeras.SAM(0.1, p=p, steps=steps), zeros, lambda e: e)
    np.testing.assert_array_equal(flat(epsilon), np.zeros(10))


def test_unnormalized_epsilon_is_rho_times_the_gradient():
    """UnnormalizedSAM keeps the gradient's length."""
    gradients = gradients_of_size(2.0)
    epsilon = find_epsilon(samkeras.UnnormalizedSAM(0.25), gradients)
    np.testing.assert_array_equal(flat(epsilon), 0.25 * flat(gradients))


def test_ascent_steps_follow_the_gradient_of_the_point_reached():
    """Each of k = 3 steps has length rho / k, along the gradient where it starts.

    On the quadratic loss 0.5 sum(h w^2) the gradients are known: h * (w + epsilon).
    """
    curvature, w, rho = np.array([1.0, 5.0, 0.1]), np.array([1.0, -0.2, 3.0]), 0.9
    expected = np.zeros(3)
    for _ in range(3):
        gradient = curvature * (w + expected)
        expected = expected + rho / 3 * gradient / np.linalg.norm(gradient)
    sam = samkeras.SAM(rho, steps=3)
    h, w = ops.convert_to_tensor([curvature, w], "float32")
    epsilon = find_epsilon(sam, [h * w], lambda e: [h * (w + e[0])])
    assert relative_error(epsilon, [expected]) < 1e-6  # float32 rounding


def test_norm_of_half_precision_gradients_does_not_overflow():
    """300^2 exceeds float16's 65504: norms are summed in float32."""
    gradients = [ops.convert_to_tensor(np.full(4, 300, "float16"))]
    assert float(global_norm(gradients)) == 600
    (epsilon,) = find_epsilon(samkeras.SAM(1.0), gradients)
    np.testing.assert_array_equal(ops.convert_to_numpy(epsilon), np.full(4, 0.5))
    assert epsilon.dtype == gradients[0].dtype


@pytest.mark.parametrize("p", [3.0, math.inf])
def test_epsilon_keeps_each_gradient_s_type(p):
    """Weights of a bfloat16 layer are perturbed in bfloat16, beside float32 ones."""
    gradients = [ops.ones(3, "bfloat16"), ops.ones(2, "float32")]
    epsilon = find_epsilon(samkeras.SAM(0.1, p=p), gradients)
    assert [e.dtype for e in epsilon] == [g.dtype for g in gradients]


def test_random_epsilon_has_norm_rho_and_ignores_the_gradient():
    """The control moves as far as SAM, in a direction the gradient has no part in."""
    random = samkeras.RandomPerturbation(0.3, seed=1)
    gradients = gradients_of_size(1.0)
    epsilon = find_epsilon(random, gradients)
    assert np.linalg.norm(flat(epsilon)) == pytest.approx(0.3, rel=1e-6)
    others = find_epsilon(random, gradients_of_size(9.0))
    np.testing.assert_array_equal(flat(others), flat(epsilon))


def test_random_epsilon_is_a_function_of_seed_and_step():
    """The same (seed, step) repeats, in another object too; either alone changes it."""
    gradients = gradients_of_size(1.0)

    def draw(seed, step):
        random = samkeras.RandomPerturbation(0.3, seed=seed)
        return flat(find_epsilon(random, gradients, step=step))

    np.testing.assert_array_equal(draw(seed=1, step=4), draw(seed=1, step=4))
    directions = np.stack([draw(1, 4), draw(1, 5), draw(2, 4)]) / 0.3
    cosines = directions @ directions.T - np.eye(3)
    assert np.abs(cosines).max() < 0.9  # distinct, with 23 numbers each


def test_random_epsilon_repeats_no_draw_between_steps_and_tensors():
    """Tensors of one shape get different draws, now and in the steps that follow."""
    random = samkeras.RandomPerturbation(1.0)
    same_shapes = [ops.ones(50), ops.ones(50)]
    draws = [
        ops.convert_to_numpy(tensor)
        for step in range(3)
        for tensor in find_epsilon(random, same_shapes, step=step)
    ]
    cosines = np.corrcoef(np.stack(draws)) - np.eye(6)
    assert np.abs(cosines).max() < 0.6  # over four standard deviations of 50 numbers


def test_assigned_rho_is_the_next_radius():
    """Assigning rho changes epsilon."""
    sam = samkeras.UnnormalizedSAM(0.5)
    sam.rho = 0.125
    assert sam.rho == 0.125
    (epsilon,) = find_epsilon(sam, [ops.ones(2)])
    np.testing.assert_array_equal(ops.convert_to_numpy(epsilon), [0.125, 0.125])


def test_rho_schedule_is_read_at_the_step():
    """A schedule gives the radius of its step, and refuses to be overwritten."""
    sam = samkeras.UnnormalizedSAM(PiecewiseConstantDecay([2], [0.5, 0.25]))
    epsilons = [find_epsilon(sam, [ops.ones(1)], step=step)[0] for step in (2, 3)]
    assert [float(e[0]) for e in epsilons] == [0.5, 0.25]
    with pytest.raises(ValueError, match=r"rho.*Received"):
        sam.rho = 0.1


@pytest.mark.parametrize(
    "method",
    [
        samkeras.SAM(0.25, p=math.inf, steps=3),
        samkeras.SAM(PiecewiseConstantDecay([2], [0.5, 0.25]), p=3),
        samkeras.UnnormalizedSAM(0.25),
        samkeras.RandomPerturbation(0.25, seed=7),
    ],
    ids=["largest_ball", "schedule", "unnormalized", "random"],
)
def test_config_survives_strict_json(method):
    """Every argument comes back from JSON, which has no infinity, to the same rule."""
    config = keras.saving.serialize_keras_object(method)
    text = json.dumps(config, allow_nan=False)
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is type(method)
    assert again.get_config() == method.get_config()
    gradients = gradients_of_size(1.0)
    before, after = (
        find_epsilon(rule, gradients, lambda e: e) for rule in (method, again)
    )
    np.testing.assert_array_equal(flat(after), flat(before))


@pytest.mark.parametrize(
    ("build", "argument"),
    [
        (lambda: samkeras.SAM(rho=-1), "rho"),
        (lambda: samkeras.SAM(rho=math.nan), "rho"),
        (lambda: samkeras.UnnormalizedSAM(rho=math.inf), "rho"),
        (lambda: samkeras.SAM(p=1), "p"),
        (lambda: samkeras.SAM(p=math.nan), "p"),
        (lambda: samkeras.SAM(steps=0), "steps"),
        (lambda: samkeras.SAM(p=True), "p"),
        (lambda: samkeras.SAM(p="2"), "p"),
        (lambda: samkeras.SAM(steps=1.5), "steps"),
        (lambda: samkeras.SAM(steps=True), "steps"),
        (lambda: samkeras.RandomPerturbation(seed=-1), "seed"),
        (lambda: samkeras.RandomPerturbation(seed=2**32), "seed"),
        (lambda: samkeras.RandomPerturbation(seed=True), "seed"),
        (lambda: samkeras.RandomPerturbation(seed=None), "seed"),
    ],
)
def test_values_out_of_range_are_named(build, argument):
    """A bad value is refused at once, by a message with its name and itself."""
    with pytest.raises(ValueError, match=rf"^{argument} must .*Received: {argument}="):
        build()


def test_numbers_of_numpy_are_taken():
    """As Python's own, which JSON can hold."""
    sam = samkeras.SAM(np.float32(0.5), p=np.float64(3), steps=np.int64(2))
    random = samkeras.RandomPerturbation(np.int8(1), seed=np.uint32(2**32 - 1))
    assert json.loads(json.dumps(sam.get_config())) == {"rho": 0.5, "p": 3, "steps": 2}
    assert json.loads(json.dumps(random.get_config())) == {"rho": 1, "seed": 2**32 - 1}
    assert np.isfinite(flat(find_epsilon(random, gradients_of_size(1.0)))).all()


def test_assigned_rho_is_checked_as_a_given_one_is():
    """A bad rho is refused later too, and the old one stays."""
    sam = samkeras.SAM(0.5)
    with pytest.raises(ValueError, match=r"rho.*Received: rho=-0.1"):
        sam.rho = -0.1
    with pytest.raises(TypeError, match=r"rho.*Received: rho='0.1'"):
        sam.rho = "0.1"
    assert sam.rho == 0.5


def compare(first, second, is_due=True, **kwargs) -> dict[str, float]:
    """compare_gradients' statistics as numbers."""
    is_due = ops.convert_to_tensor(is_due)
    statistics = compare_gradients(first, second, is_due, **kwargs)
    return {name: float(value) for name, value in statistics.items()}


@pytest.mark.parametrize("size", [1.0, 1e-8])
def test_gradient_statistics_of_a_known_pair(size):
    """(3, 4) and (0, 5): norms 5, cosine 0.8, however small the gradients are."""
    first, second = (
        [ops.convert_to_tensor(np.float32(size) * np.float32(pair))]
        for pair in ([3, 4], [0, 5])
    )
    norms = {"grad_norm": 5 * size, "sam_grad_norm": 5 * size}
    expected = {**norms, "grad_cosine": 0.8}
    assert compare(first, second) == pytest.approx(expected, rel=1e-6)  # float32


@pytest.mark.parametrize("is_norm_due", [True, False])
def test_gradient_statistics_of_a_zero_gradient_are_zero(is_norm_due):
    """0 / 0 must not put NaN in the logs."""
    zeros = [ops.zeros(3)]
    statistics = compare(zeros, zeros, is_norm_due=is_norm_due)
    assert statistics == {"grad_norm": 0, "sam_grad_norm": 0, "grad_cosine": 0}


def test_comparison_is_left_out_where_it_is_not_due():
    """The first norm is the same then, and the others are not numbers."""
    statistics = compare([ops.ones(4)], [ops.zeros(4)], is_due=False)
    assert statistics["grad_norm"] == 2
    assert math.isnan(statistics["sam_grad_norm"])
    assert math.isnan(statistics["grad_cosine"])


def test_nothing_is_computed_of_a_step_that_may_skip_a_pass():
    """But where it is due, as of any step."""
    first, second = [ops.convert_to_tensor([3.0, 4.0])], [ops.ones(2)]
    found = compare(first, second, is_norm_due=False)
    assert found == pytest.approx(compare(first, second), rel=1e-6)
    assert found["grad_cosine"] == pytest.approx(7 / 50**0.5, rel=1e-6)
    statistics = compare(first, second, is_due=False, is_norm_due=False)
    assert all(map(math.isnan, statistics.values()))


@pytest.mark.parametrize("every", [1, 2, 3, 4, 5, 10])
def test_steps_of_all_kinds_are_compared(every):
    """Those that `every` perturbs are as large a part of these as of all."""
    compared = range(0, 100 * every * COMPARE_EVERY, COMPARE_EVERY)
    perturbed = [step for step in compared if step % every == 0]
    assert len(perturbed) * every == len(compared)
