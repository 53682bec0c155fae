"""Which weights are perturbed (`only`), and what is of norm rho (`scope`)."""

import json
import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import samkeras
from samkeras.methods import Role
from tests.helpers import (
    batches_of,
    build_classifier,
    compile_classifier,
    find_epsilon,
    flat,
    norm,
    perceptron_gradients,
    random_examples,
    relative_error,
    train,
    weights_float64,
)

RHO, RATE = 0.5, 0.1
# Two rows whose mean squared error is (a^2 + 4 b^2) / 2.
X, Y = np.array([[1, 0], [0, 2]], "float32"), np.zeros((2, 1), "float32")
# By hand from (3, 1), where b alone is perturbed.
STEPS_OF_B = [(2.7, 0.4), (2.43, 0.04), (2.187, -0.176)]
# And where each of the two has an epsilon of rho: the gradient at w + rho sign(g).
STEPS_OF_BOTH = [(2.65, 0.4), (2.335, 0.04), (2.0515, -0.176)]
METHODS = {
    "sam": samkeras.SAM,
    "sam_of_3": lambda rho, **kwargs: samkeras.SAM(rho, p=3, **kwargs),
    "two_steps": lambda rho, **kwargs: samkeras.SAM(rho, steps=2, **kwargs),
    "unnormalized": samkeras.UnnormalizedSAM,
    "asam": samkeras.ASAM,
    "asam_of_inf": lambda rho, **kwargs: samkeras.ASAM(rho, p=math.inf, **kwargs),
    "fsam": samkeras.FSAM,
}


@keras.saving.register_keras_serializable(package="tests_of_choice")
class TwoScalars(layers.Layer):
    """x: float32[batch, 2] -> x[:, 0] a + x[:, 1] b, of two weights."""

    def build(self, input_shape):
        self.a = self.add_weight((), name="a")
        self.b = self.add_weight((), name="b")

    def call(self, x):
        return x[:, :1] * self.a + x[:, 1:] * self.b


@keras.saving.register_keras_serializable(package="tests")
def is_b(weight: keras.Variable, role: Role) -> bool:
    return weight.name == "b"


def build_problem() -> samkeras.SAMModel:
    inputs = keras.Input((2,))
    model = samkeras.SAMModel(inputs, TwoScalars()(inputs))
    model.set_weights([np.float32(3), np.float32(1)])
    return model


def follow(model, steps, **kwargs) -> None:
    model.compile(keras.optimizers.SGD(RATE), "mse", **kwargs)
    for expected in steps:
        model.train_on_batch(X, Y)
        np.testing.assert_allclose(model.get_weights(), expected, rtol=1e-6, atol=1e-6)


def test_the_others_are_neither_perturbed_nor_counted():
    """Their gradients are those at w + epsilon all the same."""
    follow(build_problem(), STEPS_OF_B, method=samkeras.SAM(RHO, only=is_b))
    follow(build_problem(), STEPS_OF_B, method=samkeras.FSAM(RHO, 0.0, only=is_b))
    method = samkeras.SAM(RHO, only=is_b)
    follow(build_problem(), STEPS_OF_B, method=method, m_sharpness=2)


@pytest.mark.parametrize("name", METHODS)
def test_a_kind_of_weights_is_perturbed_as_if_others_were_frozen(name):
    """Those of the normalization move by a step as where the others stay, whichever
    method perturbs them; an epsilon of the others would move them."""
    x, y = random_examples(16)
    moved = []
    for is_frozen in (False, True):
        keras.utils.set_random_seed(0)
        model = build_classifier(norm=True)
        only = "all" if is_frozen else "normalization"
        for layer in ("hidden", "logits"):
            model.get_layer(layer).trainable = not is_frozen
        optimizer = keras.optimizers.SGD(RATE)
        method = METHODS[name](RHO, only=only)
        compile_classifier(model, optimizer=optimizer, method=method)
        model.train_on_batch(x, y)
        moved.append(model.get_layer("norm").get_weights())
    assert relative_error(moved[0], moved[1]) < 1e-6


def test_groups_and_masks_see_the_same_weights():
    """Against NumPy: kernels alone, half of each pruned, in groups of 5, 5 and 2."""
    x, y = random_examples(12)
    method = samkeras.SAM(RHO, only="kernel")
    model = compile_classifier(
        build_classifier(),
        optimizer=keras.optimizers.SGD(RATE),
        method=method,
        m_sharpness=5,
    )
    rng = np.random.default_rng(0)
    masks = [rng.random(w.shape) < 0.5 for w in model.trainable_variables]
    model.set_masks(list(zip(model.trainable_variables, masks, strict=True)))
    weights = weights_float64(model)
    total = [np.zeros_like(w) for w in weights]
    for group in batches_of(x, y, 5):
        gradient = perceptron_gradients(weights, *group)
        ascent = [g * m * (g.ndim == 2) for g, m in zip(gradient, masks, strict=True)]
        moved = [
            w + RHO * g / norm(ascent) for w, g in zip(weights, ascent, strict=True)
        ]
        there = perceptron_gradients(moved, *group)
        share = len(group[0]) / len(x)
        total = [t + share * g for t, g in zip(total, there, strict=True)]
    expected = [w - RATE * t * m for w, t, m in zip(weights, total, masks, strict=True)]
    model.train_on_batch(x, y)
    assert relative_error(model.get_weights(), expected) < 1e-6  # float32


def test_a_random_perturbation_is_of_the_chosen_weights_too():
    model = build_classifier()
    method = samkeras.RandomPerturbation(RHO, only="bias")
    seen = []
    method.gradients = lambda context: context.gradients_at(
        seen.append(method.perturb(context)) or seen[-1]
    )
    compile_classifier(model, method=method, run_eagerly=True)
    model.train_on_batch(*random_examples(8))
    kernel, bias, kernel_out, bias_out = map(ops.convert_to_numpy, seen[0])
    assert not kernel.any()
    assert not kernel_out.any()
    assert norm([bias, bias_out]) == pytest.approx(RHO, rel=1e-6)


@pytest.mark.parametrize(
    "only", ["normalization", "embedding", lambda weight, role: False]
)
def test_a_model_without_such_weights_is_refused(only):
    """When it is built, before a step would divide zero by zero."""
    model = compile_classifier(build_classifier(), method=samkeras.SAM(only=only))
    with pytest.raises(ValueError, match=r"SAM perturbs only=.*kinds: bias, kernel"):
        model.build_for(random_examples(8))


def test_the_choice_is_saved_with_the_model(tmp_path):
    for only, scope in (("kernel", "layer"), (is_b, "mup"), ("all", "global")):
        model = build_problem()
        method = samkeras.ASAM(0.25, only=only, scope=scope)
        model.compile("sgd", "mse", method=method)
        model.train_on_batch(X, Y)
        model.save(tmp_path / "m.keras")
        loaded = keras.models.load_model(tmp_path / "m.keras").method
        assert (loaded.only, loaded.scope) == (only, scope)
        json.dumps(method.get_config(), allow_nan=False)
    # What knows nothing of them is given none.
    assert samkeras.UnnormalizedSAM(0.25).get_config() == {"rho": 0.25}


def test_a_function_that_keras_does_not_know_is_refused_at_saving(tmp_path):
    method = samkeras.SAM(only=lambda weight, role: True)
    model = compile_classifier(build_classifier(), method=method)
    train(model, *random_examples(8))
    with pytest.raises(ValueError, match="register_keras_serializable"):
        model.save(tmp_path / "m.keras")


@pytest.mark.parametrize("method", ["sam", "sam_of_3", "two_steps"])
@pytest.mark.parametrize("scope", ["layer", "mup"])
def test_each_layer_has_a_perturbation_of_norm_rho(method, scope):
    """Of a scalar both scopes make rho times its sign."""
    follow(build_problem(), STEPS_OF_BOTH, method=METHODS[method](RHO, scope=scope))


def test_asam_measures_each_layer_by_its_own_weights():
    """Of a scalar epsilon is rho |w| sign(g), with eta = 0."""
    model = build_problem()
    expected = [(3 - RATE * 4.5, 1 - RATE * 4 * 1.5)]
    follow(model, expected, method=samkeras.ASAM(RHO, eta=0.0, scope="layer"))


def test_steps_of_ascent_stay_in_the_ball_of_each_layer():
    gradients = [np.float32([[3, 4]]), np.float32([0.01, 0])]
    method = samkeras.SAM(RHO, steps=2, scope="layer")
    tensors = [ops.convert_to_tensor(g) for g in gradients]
    epsilon = find_epsilon(method, tensors, lambda e: [-t for t in tensors])
    np.testing.assert_allclose(flat(epsilon), 0, atol=1e-7)
    epsilon = find_epsilon(method, tensors, lambda e: tensors)
    np.testing.assert_allclose(flat(epsilon), [0.3, 0.4, 0.5, 0], rtol=1e-6)


@pytest.mark.parametrize("width", [4, 64])
def test_mup_moves_outputs_alike_at_every_width(width):
    """The spectral norm of a gradient of rank 1, as its inputs and outputs grow."""
    rng = np.random.default_rng(0)
    shapes = [(3, width), (width, 2 * width), (width, 1)]
    gradients = [np.outer(rng.random(n), rng.random(m)) for n, m in shapes]
    gradients.append(rng.random(width))
    tensors = [ops.convert_to_tensor(g, "float32") for g in gradients]
    epsilon = find_epsilon(samkeras.SAM(RHO, scope="mup"), tensors)
    *kernels, bias = map(ops.convert_to_numpy, epsilon)
    for kernel, (n_in, n_out) in zip(kernels, shapes, strict=True):
        spectral = np.linalg.norm(kernel, 2)
        assert spectral == pytest.approx(RHO * math.sqrt(n_out / n_in), rel=1e-5)
    assert norm([bias]) == pytest.approx(RHO * math.sqrt(width), rel=1e-5)
    # A convolution's inputs are those of all places of its window.
    (kernel,) = find_epsilon(
        samkeras.UnnormalizedSAM(RHO, scope="mup"), [ops.ones((3, 3, 4, 18))]
    )
    np.testing.assert_allclose(flat([kernel]), RHO * math.sqrt(18 / 36), rtol=1e-6)


@pytest.mark.parametrize("scope", ["layer", "mup"])
def test_layers_without_a_gradient_stay(scope):
    zeros = [ops.zeros((2, 3)), ops.zeros(())]
    for build in METHODS.values():
        method = build(RHO, scope=scope)
        if isinstance(method, samkeras.FSAM):
            continue
        epsilon = find_epsilon(method, zeros, lambda e: zeros)
        np.testing.assert_array_equal(flat(epsilon), np.zeros(7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"only": "norm"}, r"^only must be one of all, kernel.*Received: only='norm'"),
        ({"only": None}, r"^only must be one of"),
        ({"scope": "tensor"}, r"^scope must be one of global, layer, mup\. Received"),
    ],
)
def test_unknown_choices_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        samkeras.SAM(**arguments)
