"""The public names say what they take, and their examples run as they are written."""

import doctest
import inspect
import operator
import re
from dataclasses import is_dataclass
from pathlib import Path

import keras
import numpy as np
import pytest

import run as command
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
# What words mean that stand for arguments which are told elsewhere.
_options = inspect.signature(samkeras.Perturbation).parameters.values()
SHORT = {
    "options": [p.name for p in _options if p.kind is p.KEYWORD_ONLY],
    "others": [*inspect.signature(keras.optimizers.Optimizer).parameters][1:],
}
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory, store) -> str:
    """The folder of a finished run of SAM."""
    runs = tmp_path_factory.mktemp("runs")
    options = "--dataset mnist_5k --width_mult 0.05 --train_examples 256 --epochs 1"
    places = ["--run_dir", str(runs), "--tracking_uri", store, "--verbose", "0"]
    line = ["workloads/mnist_mlp", *options.split(), "--sam", "--rho", "0.05", *places]
    assert command.main(line) == 0
    return str(next(path.parent for path in runs.glob("*/config.yaml")))


@pytest.mark.parametrize("name", ["load_run", "SavedRun.model"])
def test_examples_of_finished_runs_run(name, names, folder):
    run_examples(name, names | {"folder": folder})


@pytest.mark.parametrize("name", [*MADE, "SAMModel.compile"])
def test_examples_run(name, names):
    """On both backends, with what they print."""
    run_examples(name, names)


def run_examples(name: str, names: dict[str, object]) -> None:
    docstring = inspect.getdoc(find(name))
    test = doctest.DocTestParser().get_doctest(docstring, names, name, None, None)
    assert test.examples
    said = []
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not said, "".join(said)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "name",
    [*MADE, *RETURNED, "load_run", "SavedRun", "SavedRun.model", "SAMModel.compile"],
)
def test_arguments_results_and_errors_are_told(name):
    """Each argument by its name, what is returned and what is raised; and all have a
    place in the reference."""
    thing = find(name)
    docstring, module = inspect.getdoc(thing), inspect.getmodule(thing).__name__
    top = name.split(".")[0]
    listed = re.search(rf"::: {module}(\.{top})?\n((?:    .*\n)*)", API)
    assert listed, f"{name} is not in docs/api.md"
    members = re.search(r"members: \[(.*)\]", listed[2])
    assert members is None or top in members[1].split(", ")
    if name in RETURNED or name == "SavedRun":
        assert find_told(docstring)
        return
    assert {*find_arguments(thing)} <= find_told(docstring)
    returns = inspect.isfunction(thing) and inspect.signature(thing).return_annotation
    if "." not in name and returns:
        assert find_block(docstring, "Returns")
    if raises(thing):
        assert find_block(docstring, "Raises")


def find(name: str) -> object:
    """A name's class or function, wherever it is."""
    for place in (samkeras, analysis, contract, saved):
        if hasattr(place, name.partition(".")[0]):
            return operator.attrgetter(name)(place)
    raise AssertionError(name)


def find_block(docstring: str, title: str) -> str:
    """What is indented below a title."""
    found = re.search(rf"(?m)^{title}:\n((?: .*\n?|\n)+)", docstring)
    return found[1] if found else ""


def find_told(docstring: str) -> set[str]:
    """The names that the arguments' block, or the attributes', begins lines with."""
    block = find_block(docstring, "Args") + find_block(docstring, "Attributes")
    told = re.findall(r"(?m)^    (\w+(?:, \w+)*):", block)
    names = {name for line in told for name in line.split(", ")}
    for word, meant in SHORT.items():
        names |= {*meant} if word in names else set()
    return names


def find_arguments(thing: object) -> list[str]:
    """Those of a function, or of making an object, also where its base makes it. A
    model is made as any keras.Model."""
    if thing is samkeras.SAMModel:
        return []
    names = inspect.signature(thing).parameters
    return [name for name in names if name not in ("self", "args", "kwargs")]


def raises(thing: object) -> bool:
    """Whether a function, or making an object, refuses something."""
    if is_dataclass(thing) or thing is samkeras.SAMModel:
        return False
    makers = [thing]
    if inspect.isclass(thing):
        makers = [vars(base).get("__init__") for base in thing.__mro__[:-1]]
    return any("raise " in inspect.getsource(maker) for maker in makers if maker)


@pytest.mark.one_backend
def test_an_argument_is_told_in_its_block_alone():
    """An error's text or an example that has its name does not tell it."""
    docstring = """One line: rho.

    Args:
        p, steps: two.
            every: not one.
        scope: another.

    Raises:
        ValueError: rho: negative.
        rho: nonsense.
    """
    assert find_told(inspect.cleandoc(docstring)) == {"p", "steps", "scope"}
