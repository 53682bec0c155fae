"""samkeras as a package: what it says of itself, and that it trains where it is
installed."""

import ast
import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import samkeras
from tests.helpers import users_environment

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = ("samkeras", "workloads", "configs")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")

pytestmark = pytest.mark.one_backend


def list_sources() -> set[str]:
    """What belongs into the package, as it is called there."""
    paths = {
        path.relative_to(ROOT) for name in SOURCES for path in (ROOT / name).rglob("*")
    }
    files = {path for path in paths if path.suffix and path.suffix != ".pyc"}
    return {
        str(path if path.parts[0] == "samkeras" else "samkeras" / path)
        for path in files
    }


def test_the_version_is_said_alike():
    text = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {samkeras.__version__}\n" in text
    assert f"\n## {samkeras.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_pinned_versions_are_among_those_that_are_allowed():
    """Of each package that pyproject.toml names, with keras bounded above: a newer one
    may lack what samkeras takes of it."""
    pins: dict[str, list[Version]] = {}
    for path in ROOT.glob("requirements*.txt"):
        for name, version in re.findall(
            r"^([\w.-]+)==([\w.]+)", path.read_text(), re.M
        ):
            pins.setdefault(name.lower(), []).append(Version(version))
    extras = itertools.chain(*PROJECT["optional-dependencies"].values())
    allowed = [*map(Requirement, (*PROJECT["dependencies"], *extras))]
    for each in allowed:
        assert all(
            version in each.specifier for version in pins.get(each.name.lower(), [])
        ), each
    (keras,) = (each for each in allowed if each.name == "keras")
    (pinned,) = pins["keras"]
    assert f"{pinned.major}.{pinned.minor + 1}" not in keras.specifier


def test_the_names_have_types():
    """The stub has the names that are imported when they are asked for, from where they
    are imported."""
    tree = ast.parse((ROOT / "samkeras" / "__init__.pyi").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    stated = {alias.name: node.module for node in imports for alias in node.names}
    assert stated == samkeras._HOME | samkeras._ABOVE
    (names,) = (node.value for node in tree.body if isinstance(node, ast.Assign))
    assert sorted(ast.literal_eval(names)) == sorted(stated)


def test_what_cannot_be_had_is_not_listed():
    """`help(samkeras)` asks for all of it, without the packages of experiments too."""
    assert samkeras._HOME.keys() < set(dir(samkeras))
    assert not samkeras._ABOVE.keys() & set(dir(samkeras))


@pytest.mark.parametrize("program", ["run.py", "own.py", "samkeras/__main__.py"])
@pytest.mark.parametrize("is_installed", [True, False])
def test_messages_name_the_command_that_there_is(
    program, is_installed, tmp_path, monkeypatch
):
    """Of those who have installed it nobody has a run.py."""
    path = ROOT / "samkeras" / "experiment" / "place.py"
    if is_installed:
        copy = tmp_path / "samkeras" / "experiment" / "place.py"
        copy.parent.mkdir(parents=True)
        path = shutil.copy(path, copy)
    monkeypatch.setattr(sys, "argv", [program])
    spec = importlib.util.spec_from_file_location("its_place", path)
    place = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(place)
    is_module = is_installed or program.endswith("__main__.py")
    expected = "python -m samkeras" if is_module else "python run.py"
    command, name = place.COMMAND, place.PROGRAM
    assert command == expected
    assert name == ("samkeras" if is_module else "run.py")


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """A folder of the source distribution and of the wheel that is built of it: what
    make dist made, where that asks."""
    if "DIST" in os.environ:
        return ROOT / os.environ["DIST"]
    source, out = (tmp_path_factory.mktemp(name) for name in ("source", "dist"))
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name)
    for name in FILES:
        shutil.copy(ROOT / name, source)
    call([sys.executable, "-m", "build", "--outdir", str(out), str(source)])
    return out


def call(line: list[str], **options) -> str:
    done = subprocess.run(line, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Fresh:
    """A virtual environment, and a folder to stand in, which is its HOME, too."""

    def __init__(self, place: Path):
        self.here = place / "here"
        self.here.mkdir()
        venv.create(place / "venv", with_pip=True, symlinks=True)
        self.python = str(place / "venv" / "bin" / "python")
        self.packages = next((place / "venv" / "lib").glob("*/site-packages"))

    def install(self, *what: str) -> None:
        call([self.python, "-m", "pip", "install", "--quiet", *what])
        call([self.python, "-m", "pip", "check"])

    def list_packages(self) -> set[str]:
        found = call([self.python, "-m", "pip", "list", "--format", "freeze"])
        return {line.partition("==")[0] for line in found.split()}

    def list_files(self) -> dict[Path, tuple[int, int]]:
        """The installed files, with their sizes and times."""
        found = (p for p in self.packages.rglob("*") if "__pycache__" not in p.parts)
        stats = {path: path.stat() for path in found if path.is_file()}
        return {path: (s.st_size, s.st_mtime_ns) for path, s in stats.items()}

    def run(self, *arguments: str, backend: str) -> str:
        kept = {
            k: v
            for k, v in users_environment().items()
            if not k.startswith(("PYTHON", "MLFLOW", "XDG"))
        }
        places = {"HOME": str(self.here), "KERAS_BACKEND": backend}
        return call([self.python, *arguments], cwd=self.here, env=kept | places)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Fresh:
    return Fresh(tmp_path_factory.mktemp("fresh"))


FIT = """
import keras
import numpy as np
import samkeras

keras.utils.set_random_seed(0)
inputs = keras.Input((3,))
model = samkeras.SAMModel(inputs, keras.layers.Dense(1)(inputs))
x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
y = x.sum(axis=1, keepdims=True)
model.compile(samkeras.SGD(0.1), "mse", method=samkeras.SAM(rho=0.05))
losses = model.fit(x, y, epochs=20, verbose=0).history["loss"]
assert losses[-1] < losses[0] / 10, losses
print(keras.backend.backend())
"""
TYPES = """
import samkeras
reveal_type(samkeras.SAM(rho=0.1))
samkeras.SAN
"""


@pytest.mark.slow
def test_the_wheel_has_all_that_belongs_into_it(dist):
    """By way of the source distribution, of which it is built."""
    (wheel,) = dist.glob("*.whl")
    names = call([sys.executable, "-m", "zipfile", "-l", str(wheel)]).split("\n")
    found = {line.split()[0] for line in names[1:] if line}
    assert {name for name in found if ".dist-info/" not in name} == list_sources()
    assert any(name.endswith("licenses/LICENSE") for name in found)


@pytest.mark.slow
def test_an_installed_library_trains_on_each_backend(dist, fresh):
    """Installed without extras it brings keras and NumPy alone; of the backends, which
    are two extras, each does."""
    (wheel,) = map(str, dist.glob("*.whl"))
    fresh.install(wheel)
    assert {"keras", "numpy", "samkeras"} < fresh.list_packages()
    assert not fresh.list_packages() & {"jax", "tensorflow", "mlflow", "PyYAML"}
    fresh.run("-c", "import samkeras; samkeras.__version__", backend="jax")
    for backend in ("jax", "tensorflow"):
        fresh.install(f"{wheel}[{backend}]")
        assert fresh.run("-c", FIT, backend=backend).split() == [backend]


@pytest.mark.slow
def test_the_names_of_an_installed_library_have_types(dist, fresh):
    """For those who check theirs against them."""
    (wheel,) = map(str, dist.glob("*.whl"))
    fresh.install(wheel)
    (fresh.here / "own_code.py").write_text(TYPES)
    checker = [sys.executable, "-m", "basedpyright", "--pythonpath", fresh.python]
    line = [*checker, "own_code.py"]
    said = subprocess.run(line, cwd=fresh.here, capture_output=True, text=True).stdout
    assert '"samkeras.SAM(rho=0.1)" is "SAM"' in said
    assert '"SAN" is not a known attribute' in said


@pytest.mark.slow
def test_an_installed_runner_writes_where_one_stands(dist, fresh):
    """Runs, their store and caches; nothing into the packages' folder."""
    (wheel,) = map(str, dist.glob("*.whl"))
    fresh.install(f"{wheel}[experiment,jax]")
    before = fresh.list_files()
    options = ["--epochs", "1", "--train_examples", "100", "--sam", "--rho", "0.1"]
    out = fresh.run("-m", "samkeras", "synthetic_mlp", *options, backend="jax")
    assert f"sqlite:///{fresh.here}/mlflow/mlflow.db" in out
    assert fresh.list_files() == before
    assert list((fresh.here / "runs").glob("synthetic_mlp_*/journal_*.jsonl"))
    again = fresh.run("-m", "samkeras", "synthetic_mlp", *options, backend="jax")
    assert "1 of 1 runs already finished" in again
