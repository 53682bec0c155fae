"""Which part of samkeras may know which: read from the source, and tried without the
packages that the library does not need."""

import ast
import functools
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import keras
import pytest

import samkeras

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "samkeras").rglob("*.py"))
# The library, bottom up: a part imports those of its own line and the lines above.
LEVELS = (
    ("tensors", "scope", "hyperparameter", "errors", "seeds"),
    ("masks", "statistics", "backend"),
    ("optimizers", "objective", "methods"),
    ("step",),
    ("groups",),
    ("trainer",),
    ("model",),
    ("pruning", "linearized", "calls", "analysis"),
)
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}
BACKENDS = ("jax", "tensorflow")
# Where keras' private names may be used.
INSIDES = ("backend", "trainer")


def name_of(path: Path) -> str:
    """A module's dotted name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """The part of samkeras that a module is in, such as "model" or "trainer"; "" for
    samkeras itself."""
    return module.partition(".")[2].partition(".")[0]


MODULES = {name_of(path) for path in FILES}
LIBRARY = [path for path in FILES if part_of(name_of(path)) in LEVEL]


@functools.cache
def find_imports(path: Path, everywhere: bool = True) -> set[str]:
    """The modules that a file imports, also within functions or not."""
    found = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in whole}
    return found


def ids(paths: list[Path]) -> dict:
    return {"argvalues": paths, "ids": map(name_of, paths)}


@pytest.mark.one_backend
@pytest.mark.parametrize("path", **ids(LIBRARY))
def test_the_library_is_built_bottom_up(path):
    own = part_of(name_of(path))
    for module in find_imports(path):
        if module.split(".")[0] == "samkeras":
            assert LEVEL.get(part_of(module), len(LEVELS)) <= LEVEL[own], module


@pytest.mark.one_backend
def test_the_whole_library_has_its_types_checked():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    files = [f"samkeras/{part}" for part in LEVEL]
    known = [f if (ROOT / f).is_dir() else f"{f}.py" for f in files]
    checks = settings["tool"]["basedpyright"]
    assert sorted(checks["strict"]) == sorted(known)
    assert checks["include"] == ["samkeras", "workloads", "run.py"]
    assert not {"exclude", "ignore"} & checks.keys()


# The rooms above the library, bottom up: each knows those before it.
ROOMS = (
    ("models", "losses", "scores", "ppo", "data", "files", "imports", "quiet"),
    ("task",),
    ("workload",),
    ("experiment.place",),
    ("experiment.machine", "experiment.options"),
    ("experiment.tracking",),
    ("experiment.runs",),
    ("experiment.tasks",),
    ("experiment.launch",),
    ("experiment.studies",),
    ("experiment.command",),
    ("__main__",),
)
ROOM = {room: place for place, rooms in enumerate(ROOMS) for room in rooms}


def room_of(module: str) -> str:
    """The room that a module is in, such as "data" or "experiment.runs"."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2] if parts[:1] == ["experiment"] else parts[:1])


ROOM_FILES = [p for p in FILES if room_of(name_of(p)) not in ("", "experiment", *LEVEL)]


@pytest.mark.one_backend
@pytest.mark.parametrize("path", **ids(ROOM_FILES))
def test_no_room_knows_one_above_it(path):
    """What is only needed for annotations counts, too."""
    own = ROOM[room_of(name_of(path))]
    for module in find_imports(path):
        room = room_of(module) if module.startswith("samkeras") else ""
        if room in ROOM:
            assert ROOM[room] <= own, module


@pytest.mark.one_backend
def test_no_room_is_over_a_quarter_of_the_house():
    lines = {}
    for path in FILES:
        room = room_of(name_of(path)) or "samkeras"
        count = len(path.read_text().splitlines())
        lines[room] = lines.get(room, 0) + count
    assert max(lines.values()) < sum(lines.values()) / 4, lines


@pytest.mark.one_backend
def test_what_a_task_is_called_stands_in_its_room():
    """No other room asks what kind of training a run is."""
    others = ("experiment.tasks", "experiment.options")
    for path in (ROOT / "samkeras" / "experiment").rglob("*.py"):
        if room_of(name_of(path)) not in others:
            assert not re.search(r"PPO|atari_ppo", path.read_text()), path
            assert not re.search(r"isinstance\(.*config", path.read_text()), path


@pytest.mark.one_backend
def test_no_part_of_samkeras_imports_in_a_circle():
    graph = {name_of(path): find_imports(path) & MODULES for path in FILES}
    TopologicalSorter(graph).prepare()


@pytest.mark.one_backend
@pytest.mark.parametrize("path", **ids(LIBRARY))
def test_the_library_needs_keras_and_numpy_alone(path):
    allowed = {"samkeras", "keras", "numpy"}
    if path.stem in BACKENDS:
        allowed.add(path.stem)
    packages = {module.split(".")[0] for module in find_imports(path)}
    assert packages - sys.stdlib_module_names <= allowed


@pytest.mark.one_backend
@pytest.mark.parametrize("path", **ids(FILES))
def test_packages_of_few_workloads_are_imported_where_they_are_used(path):
    packages = {name.split(".")[0] for name in find_imports(path, everywhere=False)}
    few = {"PIL", "sklearn", "keras_hub", "tensorflow_datasets", "matplotlib", "mlflow"}
    assert not packages & few


@pytest.mark.one_backend
def test_one_file_knows_mlflow():
    """What the others know of runs that are recorded is samkeras' own."""
    know = [
        name_of(path)
        for path in FILES
        if any(module.split(".")[0] == "mlflow" for module in find_imports(path))
    ]
    assert know == ["samkeras.experiment.tracking.mlflow_store"]


@pytest.mark.one_backend
def test_the_librarys_face_imports_nothing_at_once():
    """What its names stand for is imported when they are asked for; one of them is of
    experiments, which the library works without, and is none that `*` brings."""
    tree = ast.parse((ROOT / "samkeras" / "__init__.py").read_text())
    named = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in MODULES
    }
    assert {"samkeras.model", "samkeras.methods"} < named
    above = {module for module in named if part_of(module) not in LEVEL}
    assert above == {"samkeras.workload", "samkeras.experiment.runs.saved"}
    script = (
        "import sys, samkeras; print(*(m for m in sys.modules if m[:8] == 'samkeras'))"
    )
    run = [sys.executable, "-c", script]
    loaded = subprocess.run(run, cwd=ROOT, capture_output=True, text=True).stdout
    assert loaded.split() == ["samkeras"]
    assert "load_run" not in samkeras.__all__


@functools.cache
def find_private_names(path: Path) -> tuple[set[str], set[str]]:
    """The names of one underscore that a file takes of objects, and those that it
    gives to its own."""
    used, own = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Attribute(attr=name, ctx=ast.Load()):
                used.add(name)
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "hasattr"),
                args=[_, ast.Constant(value=name), *_],
            ):
                used.add(name)
            case ast.Attribute(attr=name) | ast.FunctionDef(name=name):
                own.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                own.add(name)
    return {name for name in used if re.fullmatch(r"_[a-z]\w*", name)}, own


@pytest.fixture(scope="module")
def names_in_keras() -> set[str]:
    """The names of one underscore that objects in keras' source have."""
    text = "".join(p.read_text() for p in Path(keras.__path__[0]).rglob("*.py"))
    return set(re.findall(r"(?:def |self\.|cls\.)(_[a-z]\w*)", text))


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "path", **ids([path for path in FILES if path.parent.name not in INSIDES])
)
def test_keras_privates_stay_in_the_backends_and_trainers(path, names_in_keras):
    assert not [m for m in find_imports(path) if m.startswith("keras.src")]
    used, own = find_private_names(path)
    for base in FILES:
        if base.parent.name not in INSIDES and name_of(base) in find_imports(path):
            own = own | find_private_names(base)[1]  # what it inherits
    assert (used & names_in_keras) - own == set()


# What samkeras takes of keras that is not public, and what it overrides of it: what
# pyproject.toml bounds keras' version for.
PRIVATES = {
    "keras.src.backend.common.dtypes",
    "keras.src.backend.common.global_state",
    "keras.src.models.functional",
    "_call_has_training_arg",
    "_compile_loss",
    "_compile_metrics",
    "_compute_loss",
    "_flatten_layers",
    "_get_jax_state",
    "_get_state_sharding_spec",
    "_get_variable_index",
    "_jax_state",
    "_jax_state_synced",
    "_layout",
    "_loss_tracker",
    "_momentums",
    "_run_through_graph",
    "_symbolic_build",
    "_trainable_variables",
    "_unpickle_model",
}


@pytest.mark.one_backend
def test_what_is_taken_of_keras_privately_is_listed_and_there(names_in_keras):
    """A name that the installed keras lacks is missing from what is found; so is one
    that nobody takes any more."""
    taken = {
        module
        for path in FILES
        for module in find_imports(path)
        if module.startswith("keras.src")
    }
    for path in FILES:
        if path.parent.name in INSIDES:
            used, own = find_private_names(path)
            # Of what it gives to its own, what it takes for keras to find is listed.
            taken |= ((used - own) | (own & PRIVATES)) & names_in_keras
    assert taken == PRIVATES
    for module in (name for name in PRIVATES if "." in name):
        assert importlib.util.find_spec(module), module


def find_signatures(path: Path) -> dict[str, tuple]:
    """The functions of a module, or of its Interface, by name: their parameters and
    defaults."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        is_interface = isinstance(node, ast.ClassDef) and node.name == "Interface"
        for each in node.body if is_interface else [node]:
            if isinstance(each, ast.FunctionDef):
                found[each.name] = signature_of(each)
    return found


def signature_of(function: ast.FunctionDef) -> tuple:
    names = [a.arg for a in ast.walk(function.args) if isinstance(a, ast.arg)]
    defaults = map(ast.unparse, function.args.defaults)
    return [name for name in names if name != "self"], [*defaults]


@pytest.mark.one_backend
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_brings_the_interface(backend):
    folder = ROOT / "samkeras" / "backend"
    expected = find_signatures(folder / "interface.py")
    found = find_signatures(folder / f"{backend}.py")
    assert len(expected) > 10
    assert {name: found.get(name) for name in expected} == expected


WITHOUT = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)

sys.meta_path.insert(0, Blocker())

import keras
import numpy as np
import samkeras

inputs = keras.Input((3,))
model = samkeras.SAMModel(inputs, keras.layers.Dense(2)(inputs))
x, y = np.ones((8, 3)), np.ones((8, 2))
model.compile(samkeras.SGD(0.1), "mse", method=samkeras.SAM(), m_sharpness=2, l2=0.1)
samkeras.prune_at_init(model, "snip", 0.5, (x, y))
model.fit(x, y, verbose=0)
model.evaluate(x, y, verbose=0)
for name in samkeras.__all__:
    getattr(samkeras, name)
try:
    samkeras.load_run
except ImportError as error:
    assert "samkeras[experiment]" in str(error)
else:
    raise AssertionError("load_run is there")
"""


def test_the_library_works_without_what_experiments_need():
    blocked = {"PIL", "sklearn", "keras_hub", "mlflow", "yaml", "matplotlib"}
    if keras.backend.backend() == "jax":
        blocked.add("tensorflow")
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(blocked=blocked)],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
