"""What methods do with losses: of single examples, and at random points."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import samkeras
from samkeras.experiment.options.methods import CLASSES
from samkeras.methods.draws import Draws
from tests.helpers import (
    batches_of,
    build_classifier,
    compile_classifier,
    find_epsilon,
    flat,
    norm,
    perceptron,
    perceptron_gradients,
    random_examples,
    relative_error,
    train,
    weights_float64,
)

RHO, RATE = 0.5, 0.1
# The loss (a^2 + 4 b^2) / 2, which is 6.5 with the gradient (3, 4) at (3, 1).
X, Y = np.array([[1, 0], [0, 2]], "float32"), np.zeros((2, 1), "float32")


def build_linear(weights) -> samkeras.SAMModel:
    inputs = keras.Input((len(weights),))
    model = samkeras.SAMModel(inputs, layers.Dense(1, use_bias=False)(inputs))
    model.set_weights([np.float32(weights)[:, None]])
    return model


def step_of(method, **kwargs) -> np.ndarray:
    """How far a step of the problem moves the weights, over the learning rate."""
    model = build_linear([3, 1])
    model.compile(keras.optimizers.SGD(RATE), "mse", method=method, **kwargs)
    model.train_on_batch(X, Y)
    return (np.array([3, 1]) - flat(model.get_weights())) / RATE


def give(method, *points):
    """Has a method draw given numbers, times rho."""

    def draw(context, number):
        return [method.radius(context) * np.float32(points[number])[:, None]]

    method.draw = draw
    return method


def test_frobenius_adds_the_covariance_of_loss_and_gradient():
    """At two points, by hand: lam * (-0.575, 2.3)."""
    method = samkeras.FrobeniusSAM(0.1, lam=0.5)
    found = step_of(give(method, [1, 0], [0, 1]))
    np.testing.assert_allclose(found, [3 - 0.2875, 4 + 1.15], rtol=1e-4)


def test_det_weighs_a_point_by_its_loss():
    method = samkeras.DetSAM(0.1, lam=0.5)
    found = step_of(give(method, [1, 0]))
    np.testing.assert_allclose(found, [3 + 0.05 * math.exp(0.305), 4], rtol=1e-5)
    method = samkeras.DetSAM(0.1, lam=0.5, samples=2)
    found = step_of(give(method, [1, 0], [0, 1]))
    first, second = math.exp(-0.305 / 2), math.exp(-0.42 / 2)
    factor = 0.5 * ((first + second) / 2) ** -3 / 2
    expected = [3 + factor * first * 0.1, 4 + factor * second * 0.4]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_det_bears_points_far_up():
    """Where the cube of the mean is below the smallest float32: by hand in float64."""
    method = samkeras.DetSAM(0.1, lam=1.0, samples=2)
    rises = ops.convert_to_tensor([60.0, 90.0])
    found = ops.convert_to_numpy(method.weigh(rises, None))
    first, second = math.exp(-30), math.exp(-45)
    expected = np.array([first, second]) / 2 / ((first + second) / 2) ** 3
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_det_trains_at_its_default():
    """A network without BatchNorm, which the authors' radius throws far."""
    keras.utils.set_random_seed(1)
    model = compile_classifier(build_classifier(), method=samkeras.DetSAM())
    losses = train(model, *random_examples(), epochs=5)["loss"]
    assert losses[-1] < losses[0]


def test_trace_is_the_mean_over_its_points():
    method = samkeras.TraceSAM(0.1, lam=0.5, samples=2)
    found = step_of(give(method, [1, 0], [0, 1]))
    np.testing.assert_allclose(found, [3.025, 4.1], rtol=1e-5)


def test_groups_have_losses_of_their_own():
    """Rows of the losses a^2 and 4 b^2: 9 and 4, where the points move them apart."""
    method = samkeras.DetSAM(0.1, lam=1.0)
    found = step_of(give(method, [1, 1]), m_sharpness=1)
    rises = [3.1**2 - 9, 4 * 1.1**2 - 4]
    expected = [6 + 0.2 * math.exp(rises[0]), 8 + 0.8 * math.exp(rises[1])]
    np.testing.assert_allclose(found, np.array(expected) / 2, rtol=1e-5)


@pytest.mark.parametrize(
    "method", [samkeras.TraceSAM, samkeras.DetSAM, samkeras.FrobeniusSAM]
)
def test_points_are_drawn_apart(method):
    """From step to step and from point to point; of the chosen weights alone."""
    method = method(1.0, samples=2, only="bias")
    model = compile_classifier(build_classifier(), method=method, run_eagerly=True)
    seen, draw = [], method.draw

    def look(context, number):
        seen.append(draw(context, number))
        return seen[-1]

    method.draw = look
    for _ in range(2):
        model.train_on_batch(*random_examples(8))
    kernels = [[point[0], point[2]] for point in seen]
    assert not flat([k for pair in kernels for k in pair]).any()
    directions = np.stack([flat([p[1], p[3]]) / norm([p[1], p[3]]) for p in seen])
    assert np.abs(directions @ directions.T - np.eye(4)).max() < 0.95
    if isinstance(method, samkeras.TraceSAM):
        assert norm(seen[0]) == pytest.approx(1, rel=1e-6)


def test_the_examples_whose_loss_rises_most_are_kept():
    """Worked by hand: of a_i (w - c_i)^2, by -0.75, -1.5, -2.25 and 9; the mean of the
    kept ones' gradients is -9.5."""
    a, c = np.array([1.0, 2, 3, 4]), np.array([0.0, 0, 0, 3])
    x, y = np.sqrt(a)[:, None], (np.sqrt(a) * c)[:, None]
    model = build_linear([1])
    method = samkeras.ESAM(RHO, beta=1.0)
    model.compile(keras.optimizers.SGD(0.05), "mse", method=method)
    model.train_on_batch(x.astype("float32"), y.astype("float32"))
    np.testing.assert_allclose(flat(model.get_weights()), [1.475], rtol=1e-6)


@pytest.mark.parametrize("m", [None, 5])
def test_each_group_keeps_its_own(m):
    """Against NumPy, with weights of examples: groups of 5, 5 and 2 keep 2, 2 and 1,
    none of no weight."""
    x, y = random_examples(12)
    weight = np.float32([1, 0, 2, 0.5, 3, 1, 1, 0, 0.1, 1, 0, 1])
    model = compile_classifier(
        build_classifier(),
        optimizer=keras.optimizers.SGD(RATE),
        method=samkeras.ESAM(RHO, beta=1.0, gamma=0.4),
        m_sharpness=m,
    )
    weights = weights_float64(model)

    def differentiate(at, rows):
        parts = [
            [
                weight[i] * g
                for g in perceptron_gradients(at, x[i : i + 1], y[i : i + 1])
            ]
            for i in rows
        ]
        return [sum(part) / len(rows) for part in zip(*parts, strict=True)]

    def losses(at, rows):
        values = [perceptron(at, x[i : i + 1], y[i : i + 1])[0] for i in rows]
        return weight[rows] * np.array(values)

    total = [np.zeros_like(w) for w in weights]
    for rows, _ in batches_of(np.arange(12), y, m or 12):
        gradient = differentiate(weights, rows)
        moved = [
            w + RHO * g / norm(gradient) for w, g in zip(weights, gradient, strict=True)
        ]
        rises = losses(moved, rows) - losses(weights, rows)
        rises[weight[rows] == 0] = -np.inf
        kept = rows[np.argsort(-rises)[: math.ceil(0.4 * len(rows) - 1e-9)]]
        found, share = differentiate(moved, kept), len(rows) / 12
        total = [t + share * g for t, g in zip(total, found, strict=True)]
    model.train_on_batch(x, y, sample_weight=weight)
    expected = [w - RATE * t for w, t in zip(weights, total, strict=True)]
    assert relative_error(model.get_weights(), expected) < 1e-6  # float32


def test_the_model_s_state_moves_once():
    """BatchNorm's statistics, dropout's seeds and the loss are those of the pass at
    w."""
    ends = []
    for method in (samkeras.SAM(RHO), samkeras.ESAM(RHO, beta=1.0, gamma=0.5)):
        keras.utils.set_random_seed(1)
        model = build_classifier(dropout=0.5, norm=True)
        compile_classifier(model, method=method, metrics=["accuracy"])
        logs = model.train_on_batch(*random_examples(16), return_dict=True)
        ends.append(([*model.non_trainable_variables], logs))
    for ours, theirs in zip(*(variables for variables, _ in ends), strict=True):
        if "float" in ours.dtype:
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        else:
            np.testing.assert_array_equal(*map(ops.convert_to_numpy, (ours, theirs)))
    for name in ("loss", "accuracy", "grad_norm"):
        assert ends[0][1][name] == pytest.approx(ends[1][1][name], rel=1e-6)


def test_a_weight_is_perturbed_or_not():
    """By a probability of beta, at rho / beta times its part of the gradient; another
    choice at each step, of what is not pruned."""
    gradient = [ops.convert_to_tensor([3.0, 4.0]), ops.zeros(0)]
    method = samkeras.ESAM(RHO, beta=0.5)
    chosen = [ops.convert_to_tensor([True, False]), ops.zeros(0, "bool")]
    method._draws.choose = lambda *_: chosen
    np.testing.assert_allclose(
        flat(find_epsilon(method, gradient)), [0.6, 0], rtol=1e-6
    )
    ones, method = [ops.ones(10_000)], samkeras.ESAM(1.0, beta=0.25)
    chosen = [flat(find_epsilon(method, ones, step=i)) for i in (0, 0, 1)]
    np.testing.assert_array_equal(chosen[0], chosen[1])
    np.testing.assert_allclose(chosen[0][chosen[0] > 0], 4 / 100, rtol=1e-5)
    shares = [np.mean(c > 0) for c in (chosen[0], chosen[2], chosen[0] * chosen[2])]
    np.testing.assert_allclose(shares, [0.25, 0.25, 0.0625], atol=0.02)


def test_choices_are_the_same_everywhere_and_apart():
    """Golden numbers; between steps, tensors and seeds they have nothing in common."""
    tensors = [ops.zeros((100, 100)), ops.zeros((100, 100))]

    def choose(seed, step):
        chosen = Draws(seed).choose(tensors, ops.convert_to_tensor(step, "int32"), 0.5)
        return np.stack([flat([c]) for c in chosen])

    bits = "".join(str(int(c)) for c in choose(0, 0)[0][:24])
    assert bits == "010000101001001010011111"
    draws = np.concatenate([choose(0, 0), choose(0, 1), choose(1, 0)])
    np.testing.assert_allclose(draws.mean(1), 0.5, atol=0.02)
    # Of neighbours in a row and a column too: four standard deviations.
    square = draws.reshape(-1, 100, 100)
    moved = [np.roll(square, 1, axis).reshape(draws.shape) for axis in (1, 2)]
    correlation = np.corrcoef(np.concatenate([draws, *moved]))
    assert np.abs(correlation - np.eye(18)).max() < 0.04


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX has XLA alone")
@pytest.mark.parametrize(
    "name", ["esam", "ssam", "trace", "det", "frobenius", "vasso", "unified", "light"]
)
def test_no_method_needs_xla(name):
    """Which compiles numbers of types that TensorFlow itself does not know; with all
    that a method draws and ranks."""
    ends = []
    for jit_compile in (True, False):
        keras.utils.set_random_seed(1)
        kwargs = {"mask_every": 1} if name == "ssam" else {}
        method = getattr(samkeras, CLASSES[name])(0.1, **kwargs)
        model = build_classifier(norm=True)
        compile_classifier(model, method=method, jit_compile=jit_compile)
        if name in ("trace", "det", "frobenius"):  # keras' draws are XLA's own there
            method._draws.like = lambda tensors, *_: [ops.ones_like(t) for t in tensors]
        train(model, *random_examples(40))
        ends.append(model.get_weights())
    assert relative_error(*ends) < 1e-5


@keras.saving.register_keras_serializable(package="tests_of_losses")
class Looking(samkeras.Method):
    """Keeps what it sees of losses."""

    uses_losses = True

    def gradients(self, context):
        zeros = [0 * w for w in context.weights]
        self.seen = (*context.here[1:], context.losses_at(zeros))
        return context.gradient


class Plain(samkeras.SAM):
    """Says nothing of losses, and asks for some."""

    def gradients(self, context):
        assert context.here.loss is None
        return context.gradients_at(context.losses_at(self.epsilon(context)))


def look_at(model, *batch, **kwargs) -> list[np.ndarray]:
    method = Looking()
    optimizer = keras.optimizers.SGD(0.0)
    model.compile(optimizer, run_eagerly=True, method=method, **kwargs)
    model.train_on_batch(*batch)
    return [ops.convert_to_numpy(seen) for seen in method.seen]


@pytest.mark.parametrize("is_weighted", [False, True])
def test_losses_are_each_example_s_own(is_weighted):
    """Of all outputs, with their weights, words without a mask left out; a regularizer
    is no example's."""
    inputs = keras.Input((3, 2))
    words = layers.Masking()(inputs)
    tags = layers.Dense(4, kernel_regularizer="l2", name="tags")(words)
    score = layers.Dense(1, name="score")(layers.Flatten()(inputs))
    model = samkeras.SAMModel(inputs, {"tags": tags, "score": score})
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 3, 2)).astype("float32")
    x[1, 2] = 0
    y = {"tags": rng.integers(0, 4, (5, 3)), "score": rng.random((5, 1))}
    weight = rng.random(5).astype("float32") if is_weighted else np.ones(5, "float32")
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    weights = [{"tags": weight[:, None], "score": weight}] if is_weighted else []
    loss, losses, again = look_at(
        model,
        x,
        y,
        *weights,
        loss={"tags": entropy, "score": "mse"},
        loss_weights={"tags": 1.0, "score": 3.0},
    )
    found = model(x)
    each = keras.losses.sparse_categorical_crossentropy(
        y["tags"], found["tags"], from_logits=True
    )
    mask = np.any(x != 0, axis=-1)
    # Keras takes the mean over all words that are there.
    by_words = np.sum(ops.convert_to_numpy(each) * mask, 1) * 5 / mask.sum()
    by_score = np.square(ops.convert_to_numpy(found["score"])[:, 0] - y["score"][:, 0])
    expected = weight * (by_words + 3 * by_score)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    np.testing.assert_array_equal(again, losses)
    assert loss > losses.mean()  # the regularizer's is in it


def test_what_does_not_say_that_it_uses_losses_gets_none():
    model = compile_classifier(build_classifier(), method=Plain(0.1))
    with pytest.raises(ValueError, match="Plain must say uses_losses"):
        model.train_on_batch(*random_examples(8))


def test_a_loss_without_weights_is_refused():
    """It cannot tell examples from each other; where nobody chooses some it may."""

    class Own(samkeras.SAMModel):
        def compute_loss(self, x, y, y_pred, sample_weight, training=True):
            return ops.mean(ops.square(y_pred))

    batch = random_examples(8)
    for kwargs in ({}, {"m_sharpness": 4}):
        model = compile_classifier(
            build_classifier(Own), method=samkeras.ESAM(), **kwargs
        )
        before = model.get_weights()
        with pytest.raises(
            ValueError, match=r"ESAM .* the loss must take sample weigh"
        ):
            model.train_on_batch(*batch)
        assert relative_error(model.get_weights(), before) == 0
    ends = []
    for method in (samkeras.TraceSAM(0.1), samkeras.RandomPerturbation(0.1)):
        keras.utils.set_random_seed(1)
        model = compile_classifier(build_classifier(Own), method=method)
        model.train_on_batch(*batch)
        ends.append(model.get_weights())
    assert relative_error(*ends) < 1e-6


@pytest.mark.parametrize(
    ("build", "argument"),
    [
        (lambda: samkeras.ESAM(beta=0.0), "beta"),
        (lambda: samkeras.ESAM(gamma=1.5), "gamma"),
        (lambda: samkeras.ESAM(seed=-1), "seed"),
        (lambda: samkeras.TraceSAM(samples=0), "samples"),
        (lambda: samkeras.FrobeniusSAM(samples=1), "samples"),
        (lambda: samkeras.DetSAM(lam=-1.0), "lam"),
    ],
)
def test_arguments_out_of_range_are_refused(build, argument):
    with pytest.raises(ValueError, match=rf"^{argument} must .*Received: {argument}="):
        build()
