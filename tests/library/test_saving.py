"""Saved models come back with their training, and weights travel to plain keras."""

import math
import pickle

import keras
import numpy as np
import pytest
from keras.optimizers.schedules import PiecewiseConstantDecay

import samkeras
from tests.helpers import (
    build_classifier,
    compile_classifier,
    random_examples,
    train,
)


def assert_same_weights(actual: keras.Model, expected: keras.Model) -> None:
    for a, b in zip(actual.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


PERTURBATIONS = {
    "largest_ball": lambda: samkeras.SAM(0.5, p=math.inf, steps=2),
    # The schedule's change falls into the training after loading.
    "schedule": lambda: samkeras.SAM(PiecewiseConstantDecay([5], [0.5, 0.1]), p=3),
    "random": lambda: samkeras.RandomPerturbation(0.5, seed=4),
    "none": lambda: None,
}


@pytest.mark.parametrize("kind", [*PERTURBATIONS])
def test_training_goes_on_after_loading(kind, tmp_path):
    """save, load, fit equals fit alone to the bit: the perturbation with its rho, l2,
    the optimizer's slots and its step all come back."""
    x, y = random_examples(64)
    model = build_classifier()
    compile_classifier(model, method=PERTURBATIONS[kind](), l2=0.1, run_eagerly=True)
    train(model, x, y)
    if kind == "largest_ball":
        model.method.rho = 0.125
        model.l2 = 0.25
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")

    assert isinstance(loaded, samkeras.SAMModel)
    assert type(loaded) is type(model)
    assert loaded.l2 == model.l2
    assert type(loaded.method) is type(model.method)
    if model.method is not None:
        assert loaded.method.get_config() == model.method.get_config()
    assert_same_weights(loaded, model)
    train(model, x, y)
    train(loaded, x, y)
    assert_same_weights(loaded, model)


def test_a_loaded_model_keeps_its_scale_and_open_hyperparameters(tmp_path):
    """After loading the loss scale goes on from where it was, and rho and l2 can be
    assigned and act on compiled training."""
    x, y = random_examples(64)
    model = build_classifier()
    # The scale doubles at every third step.
    optimizer = keras.optimizers.LossScaleOptimizer(
        samkeras.SGD(0.2, momentum=0.9), initial_scale=4.0, dynamic_growth_steps=3
    )
    compile_classifier(model, optimizer=optimizer, method=samkeras.SAM(0.5), l2=0.5)
    train(model, x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.method.rho = 0.25
        each.l2 = 0.125
        train(each, x, y)
        assert float(each.optimizer.dynamic_scale) == 16
    assert_same_weights(loaded, model)


@pytest.mark.parametrize("save", [samkeras.SAMModel.save, keras.saving.save_model])
def test_hdf5_files_are_refused_where_they_would_lose_something(save, tmp_path):
    """By name; a model without anything of ours is saved as ever."""
    model = build_classifier()
    compile_classifier(model, method=samkeras.SAM(0.5), l2=0.1)
    for name in ("model.h5", "model.hdf5"):
        with pytest.raises(ValueError, match="keep a model's method, l2; save"):
            save(model, tmp_path / name)
    compile_classifier(model)
    save(model, tmp_path / "plain.h5")
    kernel = model.layers[1].kernel
    model.set_masks([(kernel, np.ones(kernel.shape, bool))])
    with pytest.raises(ValueError, match="keep a model's masks;"):
        save(model, tmp_path / "plain.h5")


@pytest.mark.parametrize(
    ("source_class", "target_class"),
    [(keras.Model, samkeras.SAMModel), (samkeras.SAMModel, keras.Model)],
)
def test_weight_files_are_those_of_plain_keras(source_class, target_class, tmp_path):
    """A file of keras.Model's weights loads into SAMModel, and the other way."""
    source = build_classifier(source_class, norm=True, dropout=0.3)
    is_ours = source_class is samkeras.SAMModel
    kwargs = {"method": samkeras.SAM(), "l2": 0.1} if is_ours else {}
    compile_classifier(source, run_eagerly=True, **kwargs)
    train(source, *random_examples(16))
    source.save_weights(tmp_path / "model.weights.h5")

    target = build_classifier(target_class, norm=True, dropout=0.3)
    assert np.any(source.get_weights()[0] != target.get_weights()[0])
    target.load_weights(tmp_path / "model.weights.h5")
    assert_same_weights(target, source)


def test_a_functional_model_is_pickled():
    model = compile_classifier(build_classifier(), method=samkeras.SAM(0.1))
    loaded = pickle.loads(pickle.dumps(model))
    assert type(loaded) is type(model)
    assert loaded.method.rho == model.method.rho
    assert_same_weights(loaded, model)
