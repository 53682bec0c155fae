"""Methods that differ in how long or along what they perturb."""

from decimal import Decimal

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.optimizers.schedules import PolynomialDecay

import samkeras
from samkeras.methods.sparse import _find_largest, _take_share
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
X, Y = np.array([[1, 0], [0, 2]], "float32"), np.zeros((2, 1), "float32")


def build_problem() -> samkeras.SAMModel:
    inputs = keras.Input((2,))
    model = samkeras.SAMModel(inputs, layers.Dense(1, use_bias=False)(inputs))
    model.set_weights([np.float32([[3], [1]])])
    return model


def follow(model, method, steps) -> None:
    model.compile(keras.optimizers.SGD(RATE), "mse", method=method)
    for expected in steps:
        model.train_on_batch(X, Y)
        found = np.ravel(model.get_weights()[0])
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_the_unified_family_has_sam_and_its_unnormalized_variant_at_its_ends():
    """To the bit; between them lam may follow a schedule."""
    gradient = [ops.convert_to_tensor([3.0, 4.0, 0.1])]
    for lam, other in ((1.0, samkeras.SAM), (0.0, samkeras.UnnormalizedSAM)):
        found = find_epsilon(samkeras.UnifiedSAM(RHO, lam), gradient)
        np.testing.assert_array_equal(
            flat(found), flat(find_epsilon(other(RHO), gradient))
        )
    schedule = samkeras.UnifiedSAM(RHO, PolynomialDecay(1.0, 2, 0.0))
    again = samkeras.UnifiedSAM.from_config(schedule.get_config())
    for method in (schedule, again):
        for step, lam in enumerate([1.0, 0.5, 0.0]):
            found = find_epsilon(method, gradient, step=step)
            expected = find_epsilon(samkeras.UnifiedSAM(RHO, lam), gradient)
            np.testing.assert_array_equal(flat(found), flat(expected))


def test_lights_sum_is_of_the_weights_that_it_perturbs():
    """And of the whole batch's gradient, whatever its groups are."""
    x, y = random_examples(12)
    model = build_classifier()
    method = samkeras.LightSAM(RHO, only="bias")
    compile_classifier(model, method=method, m_sharpness=5)
    _, bias, _, bias_out = perceptron_gradients(weights_float64(model), x, y)
    model.train_on_batch(x, y)
    (total,) = model.method.state
    assert float(total) == pytest.approx(norm([bias, bias_out]) ** 2, rel=1e-5)
    with pytest.raises(TypeError, match="scope"):
        samkeras.LightSAM(RHO, scope="layer")


def test_a_mask_is_given_and_leaves_the_norm_as_it_is():
    """Of all of g: epsilon is (0.3, 0) of (0.3, 0.4)."""
    model = build_problem()
    method = samkeras.SSAM(RHO)
    model.compile(keras.optimizers.SGD(RATE), "mse", method=method)
    model.build_for((X, Y))
    _, mask = method.state
    mask.assign(np.array([[True], [False]]))
    follow(model, method, [(2.67, 0.6)])


@pytest.mark.parametrize(("only", "is_pruned"), [("all", False), ("kernel", True)])
def test_masks_have_the_weights_of_the_largest_squares(only, is_pruned):
    """Of the gradients since the last mask: against NumPy, over two of them."""
    x, y = random_examples(64)
    model = build_classifier()
    method = samkeras.SSAM(RHO, sparsity=0.75, mask_every=2, only=only)
    optimizer = keras.optimizers.SGD(RATE)
    compile_classifier(model, optimizer=optimizer, method=method)
    rng = np.random.default_rng(0)
    shapes = [w.shape for w in model.trainable_variables]
    masks = [np.ones(s, bool) for s in shapes]
    if is_pruned:
        masks = [rng.random(s) < 0.6 for s in shapes]
        model.set_masks(list(zip(model.trainable_variables, masks, strict=True)))
    chosen = [m & (only == "all" or m.ndim == 2) for m in masks]
    weights = weights_float64(model)
    kept, fisher = [np.ones(s, bool) for s in shapes], [np.zeros(s) for s in shapes]
    for step, (bx, by) in enumerate(batches_of(x, y, 16)):
        gradient = perceptron_gradients(weights, bx, by)
        ascent = [g * c for g, c in zip(gradient, chosen, strict=True)]
        epsilon = [
            RHO * g * k / norm(ascent) for g, k in zip(ascent, kept, strict=True)
        ]
        moved = [w + e for w, e in zip(weights, epsilon, strict=True)]
        there = perceptron_gradients(moved, bx, by)
        weights = [
            w - RATE * g * m for w, g, m in zip(weights, there, masks, strict=True)
        ]
        fisher = [f + g**2 for f, g in zip(fisher, ascent, strict=True)]
        if step % 2:
            count = int(np.ceil(0.25 * sum(c.sum() for c in chosen)))
            least = np.sort(flat(fisher))[-count]
            kept = [f >= least for f in fisher]
            assert sum(k.sum() for k in kept) == count
            fisher = [np.zeros(s) for s in shapes]
        model.train_on_batch(bx, by)
        assert relative_error(model.get_weights(), weights) < 1e-6  # float32


def test_a_chosen_mask_goes_on_after_saving(tmp_path):
    x, y = random_examples(32)
    model = compile_classifier(build_classifier(), method=samkeras.SSAM(mask_every=1))
    train(model, x, y)
    assert {v.dtype for v in model.method.state} == {"float32", "bool"}
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for each in (model, loaded):
        train(each, x, y)
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (ours, theirs)))


@pytest.mark.parametrize(
    ("build", "argument"),
    [
        (lambda: samkeras.VaSSO(theta=0.0), "theta"),
        (lambda: samkeras.VaSSO(theta=1.5), "theta"),
        (lambda: samkeras.UnifiedSAM(lam=1.5), "lam"),
        (lambda: samkeras.UnifiedSAM(lam=-0.5), "lam"),
        (lambda: samkeras.SSAM(sparsity=1.0), "sparsity"),
        (lambda: samkeras.SSAM(mask_every=0), "mask_every"),
    ],
)
def test_arguments_out_of_range_are_refused(build, argument):
    with pytest.raises(ValueError, match=rf"^{argument} must .*Received: {argument}="):
        build()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_weight_of_a_mask_is_lost_between_two_numbers_of_float32(count):
    """In float64, which TensorFlow has at once: the least of the largest is rounded
    down."""
    values = ops.convert_to_tensor(np.array([0.5, 1 + 1e-12, 1 + 2e-12]))
    least = _find_largest([values], ops.convert_to_tensor(count, "int32"))
    kept = ops.convert_to_numpy(values) >= float(least)
    assert kept.sum() >= count
    assert kept[0] == (count == 3)


@pytest.mark.parametrize(
    "sparsity", ["0", "0.5", "0.7", "0.9", "0.95", "0.995", "0.999999999", "1e-9"]
)
def test_the_share_of_weights_is_exact(sparsity):
    """In integers of 31 bits, of which float32 has 24."""
    rng = np.random.default_rng(0)
    counts = [0, 1, 10, 1000, 11_173_962, 2**24 + 1, 2**31 - 1]
    counts += [int(n) for n in rng.integers(2**31, size=4)]
    found = [
        int(_take_share(float(sparsity), ops.convert_to_tensor(count, "int32")))
        for count in counts
    ]
    assert found == [int(Decimal(sparsity) * count) for count in counts]


@pytest.mark.parametrize("sparsity", [0.7, 1 / 3, 1 - 2**-22, 1 - 2**-53])
def test_a_mask_has_at_least_one_weight(sparsity):
    """And the number that the share says."""
    inputs = keras.Input((30,))
    outputs = keras.layers.Dense(1, use_bias=False)(inputs)
    model = samkeras.SAMModel(inputs, outputs)
    method = samkeras.SSAM(RHO, sparsity, mask_every=1)
    model.compile(keras.optimizers.SGD(RATE), "mse", method=method)
    x = np.random.default_rng(0).normal(size=(8, 30)).astype("float32")
    model.train_on_batch(x, np.ones((8, 1), "float32"))
    _, mask = method.state
    assert ops.convert_to_numpy(mask).sum() == {0.7: 9, 1 / 3: 20}.get(sparsity, 1)
