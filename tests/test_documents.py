"""The documents' code runs as it is written, and their links lead somewhere."""

import importlib
import json
import math
import re
import shlex
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest
from mkdocs.exceptions import PluginError

import samkeras
from samkeras.experiment.options.groups import GROUPS
from samkeras.experiment.options.methods import CLASSES
from tests import check_docs
from tests.helpers import parse_runs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
X = np.random.default_rng(0).random((64, 28, 28), "float32")
Y = np.random.default_rng(0).integers(0, 10, 64)


def run_code(page: str, names: dict) -> dict:
    """What names a page's Python leaves."""
    for block in re.findall(
        r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL
    ):
        exec(block, names)
    return names


def anchors_of(page: Path) -> set[str]:
    """What links into a page may end with."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {word.replace(" ", "-") for word in words}


@pytest.mark.one_backend
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """To a file of the project, and to a title of it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors_of(found), target


@pytest.mark.one_backend
def test_the_readme_is_short():
    """What more there is to say has a page."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


@pytest.mark.one_backend
def test_the_readmes_times_are_those_that_are_kept():
    """Of an epoch, beside hand-written JAX."""
    pages = {
        "takes {} (SGD) and {} (SAM) times": (
            "step_time_jax_cpu",
            ["README.md", "docs/devices.md"],
        ),
        "TensorFlow {} and {} times": ("step_time_tensorflow_cpu", ["docs/devices.md"]),
        "width {} and {} times": ("step_time_jax_cpu_wide", ["docs/devices.md"]),
        "of a fiftieth {} and {}.": ("step_time_jax_cpu_narrow", ["docs/devices.md"]),
    }
    for said, (kept, names) in pages.items():
        path = ROOT / f"benchmarks/results/{kept}.json"
        rows = json.loads(path.read_text())["rows"]
        ratios = [r["ratio"] for r in rows if r["name"].startswith("samkeras S")]
        text = said.format(*(f"{ratio:.2f}" for ratio in ratios))
        for name in names:
            assert text in " ".join((ROOT / name).read_text().split()), text


@pytest.mark.one_backend
def test_the_readme_counts_the_methods():
    assert f"{len(CLASSES)} methods on one contract" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_first_steps(page):
    names = run_code(page, {"x_train": X, "y_train": Y})
    assert isinstance(names["model"].method, samkeras.SAM)
    if "top" in names:
        assert names["top"].values[0] > 0


def test_sam_in_your_own_code(tmp_path):
    """The model trains, and by the method of one's own too, in groups, saved and
    loaded with its state."""
    names = run_code("docs/library.md", {"x_batch": X, "y_batch": Y})
    model = names["model"]
    assert isinstance(model, samkeras.SAMModel)
    assert model.masks is not None
    first, *_, last = model.fit(X, Y, epochs=4, verbose=0).history["loss"]
    assert last < first
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, method=names["TwoPoints"](), m_sharpness=8)
    model.fit(X, Y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(model.method.state, loaded.method.state, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (ours, theirs)))
    assert float(keras.ops.max(keras.ops.abs(loaded.method.state[0]))) > 0


def test_questions():
    """A model of one's own is a SAMModel of the same weights, which accumulates."""
    names = run_code("docs/faq.md", {})
    model, plain = names["model"], names["plain"]
    assert model.trainable_variables[0] is plain.trainable_variables[0]
    start = model.get_weights()[0]
    model.fit(X[:48], Y[:48], batch_size=16, verbose=0)  # three batches, of four
    np.testing.assert_array_equal(model.get_weights()[0], start)
    model.fit(X[:16], Y[:16], batch_size=16, verbose=0)
    assert not np.array_equal(model.get_weights()[0], start)


@pytest.mark.one_backend
def test_commands_are_run_but_for_a_reason():
    """`make check-docs` finds the pages' commands, and no reason outlives its own."""
    commands = [c for page in PAGES for c in check_docs.find_commands(page)]
    assert len(commands) > 60
    for what in (*check_docs.NOT_RUN, *check_docs.DRY_RUN):
        assert any(re.search(what, command) for command in commands), what
    for study in (ROOT / "configs/figures").glob("*.yaml"):
        command = f"python run.py configs/figures/{study.name}"
        assert check_docs.find_reason(command, check_docs.DRY_RUN), study.name
        command += " --preset small"
        assert not check_docs.find_reason(command, check_docs.DRY_RUN), study.name
    planned = check_docs.plan(ROOT / "docs/own_workload.md")
    command, _ = planned[0]
    assert command.startswith("python run.py my_task.py")
    files = check_docs.find_files(ROOT / "docs/own_workload.md")
    assert set(files) == {"my_task.py", "my_task.yaml"}


@pytest.mark.one_backend
def test_every_page_is_in_the_site():
    """The menu has each, and no other."""
    settings = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    pages = re.findall(r": (\S+\.md)$", settings, re.MULTILINE)
    assert sorted(pages) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


@pytest.fixture
def hooks(monkeypatch) -> ModuleType:
    """What makes the site's own pages."""
    for folder in ("docs", "benchmarks"):
        monkeypatch.syspath_prepend(ROOT / folder)
    return importlib.import_module("hooks")


@pytest.mark.one_backend
def test_what_each_workloads_sample_gives_is_kept(hooks):
    """Of the command that stands on its page: two runs, or six."""
    samples = importlib.import_module("samples").SAMPLES
    rows = {row["name"]: row for row in json.loads(hooks.ANSWERS.read_text())["rows"]}
    assert [*rows] == [*samples] == hooks.WORKLOADS
    for name, sample in samples.items():
        assert rows[name]["command"] == sample.command(name)
        options = shlex.split(f"{sample.options} --sam true,false")
        assert len(parse_runs(name, options)) == 2 * rows[name]["seeds"]
        assert math.isfinite(rows[name]["base"]), name
        assert math.isfinite(rows[name]["sam"]), name
        assert sample.note.endswith("."), name


@pytest.mark.one_backend
def test_a_workloads_page_has_the_numbers_that_are_kept(hooks, monkeypatch, tmp_path):
    rows = json.loads(hooks.ANSWERS.read_text())["rows"]
    others = {"base": 0.5, "base_error": 0.25, "sam": 0.125, "sam_error": 0.0625}
    others |= {"cpu_s": 7.9, "seeds": 4, "says": "SAM is what it is."}
    changed = [row | others if row["name"] == "mnist_mlp" else row for row in rows]
    monkeypatch.setattr(hooks, "ANSWERS", tmp_path / "samples.json")
    hooks.ANSWERS.write_text(json.dumps({"rows": changed}))
    page = hooks.describe("mnist_mlp")
    assert "is 0.5000 ± 0.2500 without SAM and 0.1250 ± 0.0625 with it (4" in page
    assert "; 8 seconds of a CPU core in all). SAM is what it is." in page
    with pytest.raises(PluginError, match="--workloads mnist_mlp --save"):
        hooks.show_sample("mnist_mlp", [])


@pytest.mark.one_backend
def test_the_reference_wants_docstrings(hooks, monkeypatch):
    """The site is not built where a name of it has none."""
    hooks.check_docstrings((ROOT / "docs/api.md").read_text())
    monkeypatch.setattr(samkeras.SAM, "skip", lambda self: None)
    monkeypatch.setattr(samkeras.SAM, "new", lambda self: None, raising=False)
    monkeypatch.setattr(samkeras.SAM, "size", property(lambda self: 1), raising=False)
    with pytest.raises(PluginError, match=r"no docstring: SAM\.new, SAM\.size$"):
        hooks.check_docstrings("::: samkeras.methods.sam\n    members: [SAM]\n")


@pytest.mark.slow_on_tensorflow
def test_measure_sharpness(tmp_path, monkeypatch):
    """All that is measured is a number, of all the examples."""
    monkeypatch.chdir(tmp_path)
    model = keras.Sequential([keras.Input((28, 28)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    start = [np.array(w) for w in model.trainable_variables]
    model.fit(X, Y, epochs=2, verbose=0)
    names = {"model": model, "x": X, "y": Y}
    names |= {"weights_before": start, "weights_at_start": start}
    weights = np.concatenate([np.ravel(w) for w in start])
    names |= {"x_test": X[:9], "y_test": Y[:9]}
    names["weights_of_epochs"] = [weights * 0, weights, weights**2]
    run_code("docs/analysis.md", names)
    assert names["top"].converged
    assert names["top"].num_examples == 64
    assert names["plane"].test["loss"].shape == (51, 51)
    assert names["line"].at.shape == (41,)


def test_every_method_has_a_row_of_its_page():
    """By its option and its class."""
    page = (ROOT / "docs/methods.md").read_text()
    for method, name in CLASSES.items():
        assert f"\n| `{method}` | `{name}` |" in page


@pytest.mark.one_backend
def test_every_group_of_options_is_named():
    """Where the page says which there are."""
    page = (ROOT / "docs/own_workload.md").read_text()
    listed = page.split("`options:` names the groups")[1].split("classes of its own")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == set(GROUPS)
