"""What the site has beside the pages as they are written: a page of each workload, made
of what the command line says of it, the changelog, and the check that the reference
lacks no docstring."""

import contextlib
import functools
import inspect
import io
import json
import os
import pydoc
import re
import sys
import tempfile
import types
from pathlib import Path

import yaml
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {
    "quickstart": "Quickstart, a notebook",
    "paper_in_ten_minutes": "The paper in ten minutes, a notebook",
}
WORKLOADS = sorted(path.stem for path in (ROOT / "workloads").glob("*.py"))
STUDIES = sorted((ROOT / "configs/figures").glob("*.yaml"))
# Those whose data say how large the model is, and are not on every machine: the sample.
SAMPLES = {"sst2_lstm": "crowdflower", "ud_pos_transformer": "morphgnt"}
WIDTHS = "0.25,0.5,1,2"
ANSWERS = ROOT / "benchmarks/results/samples.json"


def on_config(config):
    """Names the pages of notebooks, those of workloads and the changelog."""
    # MkDocs undoes what hooks do of it before.
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    pages = [{name: f"workloads/{name}.md"} for name in WORKLOADS]
    for section in config.nav:
        if "Workloads" in section:
            section["Workloads"] += pages
    notebooks = [{text: f"notebooks/{name}.md"} for name, text in NOTEBOOKS.items()]
    config.nav[2:2] = notebooks
    config.nav.append({"Changelog": "changelog.md"})
    return config


def on_files(files, config):
    """Makes the pages that are not written."""
    check_docstrings((ROOT / "docs/api.md").read_text())
    changelog = (ROOT / "CHANGELOG.md").read_text().replace("](docs/", "](")
    files.append(File.generated(config, "changelog.md", content=changelog))
    for name in WORKLOADS:
        path = f"workloads/{name}.md"
        files.append(File.generated(config, path, content=describe(name)))
    for name in NOTEBOOKS:
        path = f"notebooks/{name}.md"
        files.append(File.generated(config, path, content=show_notebook(name)))
    return files


def on_page_markdown(markdown, page, **_):
    """Leads from the table of all workloads to their pages."""
    if page.file.src_uri != "run.md":
        return markdown
    names = "|".join(WORKLOADS)
    return re.sub(rf"(?m)^\| `({names})` \|", r"| [`\1`](workloads/\1.md) |", markdown)


def describe(name: str) -> str:
    """A workload's page."""
    config = (ROOT / f"configs/{name}.yaml").read_text()
    sample = ["--dataset", SAMPLES[name]] if name in SAMPLES else []
    numbers = dict(
        line.split(": ", 1)
        for line in command(name, *sample, "--dry_run").splitlines()
        if line.startswith(("data: ", "parameters: ", "steps: "))
    )
    commands = re.findall(r"(?m)^#   (.*python run\.py.*)$", config)
    return "\n".join(
        [
            f"# {name}\n",
            f"{title(ROOT / f'workloads/{name}.py')}\n",
            *(f"    {line}" for line in commands),
            f"    python run.py workloads/{name} --help",
            "\n## Data and model\n",
            *(f"Of the sample {SAMPLES[name]}:\n" for _ in sample[:1]),
            *(f"- {what}: {numbers[what]}" for what in ("data", "parameters", "steps")),
            *list_widths(name, sample),
            "\n## What its sample gives\n",
            *show_sample(name, json.loads(ANSWERS.read_text())["rows"]),
            *list_studies(name),
            "\n## Its numbers\n",
            f"From `configs/{name}.yaml`, each with its source.\n",
            f'``` {{ .yaml title="configs/{name}.yaml" }}\n{config}```\n',
            "## Its options\n",
            f"```output\n{command(name, '--help')}```\n",
        ]
    )


def list_widths(name: str, sample: list[str]) -> list[str]:
    """A table of widths and parameters; nothing where there is one width alone."""
    try:
        said = command(name, *sample, "--width_mult", WIDTHS, "--dry_run")
    except PluginError as error:
        if "--width_mult must be 1" in str(error):
            return []
        raise
    rows = re.findall(r"(?m)^width_mult=(\S+): parameters: ([\d,]+)", said)
    head = "\n| `--width_mult` | parameters |\n|---|---|"
    return [head, *(f"| {width} | {count} |" for width, count in rows)]


def show_sample(name: str, answers: list[dict]) -> list[str]:
    """What came out of the command of a workload's sample, and what it does not say.

    Args:
        name: the workload.
        answers: the rows that benchmarks/samples.py keeps.

    Raises:
        PluginError: there is none.
    """
    import samples

    from samkeras.experiment.options.values import count_decimals
    from samkeras.experiment.studies.comparison import Estimate
    from samkeras.experiment.studies.conclusion import with_error

    row = next((row for row in answers if row["name"] == name), None)
    if row is None:
        how = f"python benchmarks/samples.py --workloads {name} --save"
        raise PluginError(f"what the sample of {name} gives is not kept: {how}")
    decimals = count_decimals((row["base"], row["sam"]))
    base, sam = (
        with_error(Estimate(row[who], row[f"{who}_error"], row["seeds"]), decimals)
        for who in ("base", "sam")
    )
    number = f"{row['seeds']} seeds" if row["seeds"] > 1 else "one seed"
    metric = row["metric"].replace(" ", " `") + "`"
    return [
        f"    {row['command']}\n",
        f"{metric.capitalize()} is {base} without SAM and {sam} with it ({number}; "
        f"{row['cpu_s']:.0f} seconds of a CPU core in all). {row['says']}",
        f"\n{samples.SAMPLES[name].note}\n",
    ]


def show_notebook(name: str) -> str:
    """A notebook as a page: its text, and its code in blocks."""
    cells = json.loads((ROOT / f"examples/{name}.ipynb").read_text())["cells"]
    blocks = []
    for cell in cells:
        text = "".join(cell["source"])
        is_code = cell["cell_type"] == "code"
        blocks.append(f"```python\n{text}\n```" if is_code else text)
    return "\n\n".join([*blocks, f"The notebook is `examples/{name}.ipynb`.\n"])


def list_studies(name: str) -> list[str]:
    """The studies of a workload, with a heading, or nothing."""
    of_it = [path for path in STUDIES if study(path)["workload"] == name]
    if not of_it:
        return []
    lines = [f"| `{path.name}` | {study(path)['title']} |" for path in of_it]
    where = "In `configs/figures/`; [figures](../figures.md) says how.\n"
    return ["\n## Its studies\n", where, "| file | draws |\n|---|---|", *lines]


def study(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def title(path: Path) -> str:
    """The first line of a module's docstring."""
    return path.read_text().split('"""')[1].strip().splitlines()[0]


def command(name: str, *options: str) -> str:
    """What `python run.py` prints of a workload.

    Raises:
        PluginError: it fails.
    """
    from samkeras.experiment.command import main

    said, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(errors),
        tempfile.TemporaryDirectory() as folder,
    ):
        place = [] if "--help" in options else ["--run_dir", folder]
        try:
            code = main([f"workloads/{name}", *options, *place])
        except SystemExit as ended:  # after --help
            code = ended.code
    if code:
        raise PluginError(f"{name} {' '.join(options)}: {errors.getvalue()}")
    return said.getvalue()


def check_docstrings(page: str) -> None:
    """Refuses a reference that lists a name without a docstring, or a class with a
    public method of its own without one.

    Raises:
        PluginError: there is such a name.
    """
    listed = re.findall(r"(?m)^::: (samkeras\.\S+)\n((?:    .*\n)*)", page)
    missing = []
    for path, options in listed:
        thing = pydoc.locate(path)
        chosen = re.search(r"members: \[(.*)\]", options)
        names = chosen[1].split(", ") if chosen else public_names(thing)
        things = [getattr(thing, name) for name in names] or [thing]
        for each in things:
            named = {each.__qualname__: each} if hasattr(each, "__qualname__") else {}
            if inspect.isclass(each):
                own = methods(each)
                named |= {f"{each.__qualname__}.{name}": own[name] for name in own}
            missing += [name for name in named if not inspect.getdoc(named[name])]
    if missing:
        raise PluginError(f"no docstring: {', '.join(missing)}")


def public_names(thing) -> list[str]:
    """The classes and functions of a module; of anything else none."""
    if not inspect.ismodule(thing):
        return []
    return [
        name
        for name, member in vars(thing).items()
        if not name.startswith("_")
        and (inspect.isclass(member) or inspect.isfunction(member))
        and member.__module__ == thing.__name__
    ]


def methods(kind: type) -> dict:
    """The public methods and properties that a class has first; one that it overrides
    is known."""
    kinds = (types.FunctionType, property, functools.cached_property)
    return {
        name: method
        for name, method in vars(kind).items()
        if isinstance(method, kinds)
        and not name.startswith("_")
        and not any(hasattr(base, name) for base in kind.__mro__[1:])
    }
