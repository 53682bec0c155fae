"""Weight decay as a part of the loss, which a method's perturbation follows."""

import keras
import numpy as np
import pytest

import samkeras
from tests.helpers import (
    add,
    build_classifier,
    compile_classifier,
    norm,
    perceptron_gradients,
    random_examples,
    relative_error,
    scale,
    train,
    weights_float64,
)

RHO, RATE, L2, CLIP = 0.1, 0.2, 0.05, 0.1


def gradients_at(weights: list, x: np.ndarray, y: np.ndarray) -> list:
    """Of the loss with its decay, by hand."""
    return add(perceptron_gradients(weights, x, y), scale(weights, L2))


def sam_gradients(weights: list, x: np.ndarray, y: np.ndarray) -> list:
    gradients = gradients_at(weights, x, y)
    epsilon = scale(gradients, RHO / norm(gradients))
    return gradients_at(add(weights, epsilon), x, y)


@pytest.mark.parametrize("m", [None, 8])
def test_a_step_is_that_by_hand(m):
    """Epsilon follows the decay, which is taken at w + epsilon, also in groups. What is
    averaged over these is clipped, and not they. The loss that is logged is without
    it."""
    x, y = random_examples(16)
    model = compile_classifier(
        build_classifier(),
        optimizer=samkeras.SGD(RATE, global_clipnorm=CLIP),
        method=samkeras.SAM(RHO),
        m_sharpness=m,
        l2=L2,
        l2_in_loss=True,
    )
    start = weights_float64(model)
    plain = compile_classifier(build_classifier())
    plain.set_weights(model.get_weights())
    loss = plain.evaluate(x, y, verbose=0)
    history = train(model, x, y)
    groups = [slice(i, i + (m or 16)) for i in range(0, 16, m or 16)]
    found = [sam_gradients(start, x[group], y[group]) for group in groups]
    mean = scale([sum(parts) for parts in zip(*found, strict=True)], 1 / len(found))
    assert norm(mean) > CLIP
    expected = scale(mean, -RATE * CLIP / norm(mean))
    moved = add(weights_float64(model), scale(start, -1.0))
    assert relative_error(moved, expected) < 1e-4
    assert history["loss"][0] == pytest.approx(loss, rel=1e-5)
    if m is None:
        by_hand = norm(gradients_at(start, x, y))
        assert history["grad_norm"][0] == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize(
    "build_method",
    [
        lambda: None,
        lambda: samkeras.SAM(RHO),
        lambda: samkeras.TraceSAM(RHO),  # which needs the loss itself
        lambda: samkeras.SecondOrderSAM(RHO),  # and this its second derivatives
    ],
    ids=["none", "sam", "trace", "second_order"],
)
def test_it_is_keras_regularizer_of_all_weights(build_method):
    x, y = random_examples(32)
    weights = []
    for is_regularized in (True, False):
        model = build_classifier(norm=True)
        if is_regularized:
            for weight in model.trainable_variables:
                weight.regularizer = keras.regularizers.L2(L2 / 2)
        decay = {} if is_regularized else {"l2": L2, "l2_in_loss": True}
        keras.utils.set_random_seed(1)
        for weight in model.trainable_variables:
            weight.assign(keras.random.normal(weight.shape))
        compile_classifier(model, method=build_method(), **decay)
        train(model, x, y)
        weights.append(weights_float64(model))
    assert relative_error(*weights) < 1e-5


def test_it_is_saved_and_changed_as_coupled_decay_is(tmp_path):
    """A new number compiles nothing anew."""
    x, y = random_examples(16)
    model = compile_classifier(
        build_classifier(), method=samkeras.SAM(RHO), l2=L2, l2_in_loss=True
    )
    train(model, x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.l2 == pytest.approx(L2)
    assert loaded.get_compile_config()["l2_in_loss"] is True
    function = model.train_function
    weights = []
    for each, l2 in ((model, 1.0), (loaded, L2)):
        each.l2 = l2
        train(each, x, y)
        weights.append(weights_float64(each))
    assert model.train_function is function
    assert norm(weights[0]) < 0.9 * norm(weights[1])
