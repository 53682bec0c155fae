"""The public names say what they take, and their examples run as they are written."""

import doctest
import inspect
import re
from dataclasses import is_dataclass
from pathlib import Path

import keras
import numpy as np
import pytest

import samkeras
from samkeras import analysis
from samkeras.experiment.runs import saved
from samkeras.methods import method as contract

API = (Path(__file__).parents[1] / "docs/api.md").read_text()
# What functions return, or give to methods, which nobody makes.
RETURNED = [
    *[n for n in analysis.__all__ if n[0].isupper() and n != "DataLoss"],
    *("Context", "Point", "Role"),
]
MADE = sorted({*samkeras.__all__, *analysis.__all__} - {*RETURNED})


@pytest.fixture
def names() -> dict[str, object]:
    """What the examples have, as docs/api.md says: a compiled model, its data, and
    packages."""
    rng = np.random.default_rng(0)
    inputs = keras.Input((4,))
    model = samkeras.SAMModel(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    x = rng.standard_normal((32, 4)).astype("float32")
    y = rng.standard_normal((32, 1)).astype("float32")
    return {"keras": keras, "np": np, "samkeras": samkeras} | {
        "model": model,
        "x": x,
        "y": y,
    }


@pytest.mark.parametrize("name", MADE)
def test_examples_run(name, names):
    """On both backends, with what they print."""
    docstring = inspect.getdoc(find(name))
    test = doctest.DocTestParser().get_doctest(docstring, names, name, None, None)
    assert test.examples
    said = []
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not said, "".join(said)


@pytest.mark.one_backend
@pytest.mark.parametrize("name", [*MADE, *RETURNED, "load_run", "SavedRun"])
def test_arguments_results_and_errors_are_told(name):
    """Each argument by its name, what is returned and what is raised; and all have a
    place in the reference."""
    thing = find(name)
    docstring, module = inspect.getdoc(thing), inspect.getmodule(thing).__name__
    listed = re.search(rf"::: {module}(\.{name})?\n((?:    .*\n)*)", API)
    assert listed, f"{name} is not in docs/api.md"
    assert "members" not in listed[2] or name in listed[2]
    if name in RETURNED or name == "SavedRun":
        assert "Attributes:" in docstring
        return
    is_function = inspect.isfunction(thing)
    made = thing if is_function else vars(thing).get("__init__")
    for argument in inspect.signature(made).parameters if made else ():
        if argument not in ("self", "args", "kwargs"):
            assert re.search(rf"(?s)(Args|Attributes):.*\b{argument}\b", docstring)
    if is_function and inspect.signature(thing).return_annotation is not None:
        assert "Returns:" in docstring
    if made and not is_dataclass(thing) and "raise " in inspect.getsource(made):
        assert "Raises:" in docstring


def find(name: str) -> object:
    """A name's class or function, wherever it is."""
    for place in (samkeras, analysis, contract, saved):
        if found := getattr(place, name, None):
            return found
    raise AssertionError(name)
