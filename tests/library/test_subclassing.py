"""Models by their inputs and outputs, subclasses of SAMModel, and both in a process."""

import copy

import keras
import numpy as np
import pytest

import samkeras
from tests.helpers import (
    CLASSES,
    FEATURES,
    build_classifier,
    compile_classifier,
    random_examples,
    train,
)


def define(base: type) -> type:
    """A new subclass with layers of its own, which no model was made of yet."""

    @keras.saving.register_keras_serializable(base.__name__)
    class Net(base):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.logits = keras.layers.Dense(CLASSES)

        def call(self, x):
            return self.logits(x)

    return Net


def define_functional(base: type) -> type:
    """A new subclass that gives its inputs and outputs to the constructor."""

    @keras.saving.register_keras_serializable(base.__name__)
    class FunctionalNet(base):
        def __init__(self, units=4, **kwargs):
            inputs = keras.Input((FEATURES,))
            hidden = keras.layers.Dense(units)(inputs)
            super().__init__(inputs, keras.layers.Dense(CLASSES)(hidden), **kwargs)
            self.units = units

        def get_config(self):
            return {"units": self.units}

    return FunctionalNet


def assert_works(model: keras.Model, tmp_path) -> None:
    """All that a keras.Model does: layers, summary, training, saving, copies."""
    x, y = random_examples(16)
    model(x)
    compile_classifier(model, method=samkeras.SAM(0.1), run_eagerly=True)
    train(model, x, y)
    assert isinstance(model, samkeras.SAMModel)
    assert {type(layer) for layer in model.layers} >= {keras.layers.Dense}
    lines = []
    model.summary(print_fn=lambda line, **_: lines.append(line))
    assert "Dense" in "".join(lines)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for other in (loaded, copy.deepcopy(model)):
        assert type(other) is type(model)
        assert other.method.rho == model.method.rho
        np.testing.assert_array_equal(other(x), model(x))


@pytest.mark.parametrize("order", ["functional first", "subclass first"])
def test_functional_and_subclassed_models_live_together(order, tmp_path):
    """Neither a functional SAMModel nor a subclass with a functional constructor
    changes what other subclasses are, made before or after."""
    bases = samkeras.SAMModel.__bases__

    class Base(samkeras.SAMModel):
        """Used in both ways, as one with a train step of its own is."""

    classes = [define(Base), define_functional(Base), define(samkeras.SAMModel)]
    early = [cls() for cls in classes if order == "subclass first"]
    assert_works(build_classifier(), tmp_path)
    build_classifier(Base)
    for model in [*early, *(cls() for cls in classes)]:
        assert_works(model, tmp_path)
    assert_works(build_classifier(), tmp_path)
    assert samkeras.SAMModel.__bases__ == bases


def test_a_clone_trains_as_its_original_does(tmp_path):
    """keras.models.clone_model gives a SAMModel with fresh weights, the perturbation
    and l2; so does a clone of a clone."""
    x, y = random_examples(32)
    model = build_classifier()
    compile_classifier(model, method=samkeras.SAM(0.5), l2=0.1, run_eagerly=True)
    clone = keras.models.clone_model(keras.models.clone_model(model))
    assert type(clone) is type(model)
    clone.set_weights(model.get_weights())
    for each in (model, clone):
        train(each, x, y)
    for a, b in zip(clone.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_takes_its_inputs_and_outputs_by_name():
    inputs = keras.Input((FEATURES,))
    outputs = keras.layers.Dense(CLASSES)(inputs)
    for model in (
        samkeras.SAMModel(inputs, outputs, name="one"),
        samkeras.SAMModel(inputs, outputs=outputs, name="one"),
        samkeras.SAMModel(inputs=inputs, outputs=outputs, name="one"),
    ):
        assert (model.name, len(model.layers)) == ("one", 2)
