"""What there is to run: the modules of workloads/ and the files of configs/figures/."""

import ast
import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from samkeras.errors import InputError, nearest

if TYPE_CHECKING:  # it imports keras, which takes seconds and --help needs not
    from samkeras.workload import Workload

ROOT = Path(__file__).resolve().parents[3]
FIGURES = ROOT / "configs" / "figures"
REPORT = "report"


def list_workloads() -> list[str]:
    """The names of the workloads."""
    return sorted(path.stem for path in (ROOT / "workloads").glob("[!_]*.py"))


def describe_targets() -> dict[str, str]:
    """What `run.py` runs, each with a line that says what it is: the workloads, by
    their docstrings, the figures, by their titles, and the report."""
    workloads = {
        f"workloads/{name}": _find_docstring(ROOT / "workloads" / f"{name}.py")
        for name in list_workloads()
    }
    figures = {
        f"configs/figures/{path.name}": _find_title(path)
        for path in sorted(FIGURES.glob("*.yaml"), key=numbers_as_such)
    }
    report = {REPORT: "One page of all figures that are drawn."}
    texts = {**workloads, **figures, **report}
    return {target: text.split("\n")[0] for target, text in texts.items()}


# A file that is damaged has no line: what is wrong with it is said where it is run.


def _find_docstring(path: Path) -> str:
    try:
        return ast.get_docstring(ast.parse(path.read_bytes())) or ""
    except (OSError, SyntaxError, ValueError):
        return ""


def _find_title(path: Path) -> str:
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError:
        return ""
    # Parsing thirty files would take longer than all else that --help does.
    found = re.search(r"^title: *(.*)$", text, re.MULTILINE)
    return found[1].strip("'\"") if found else ""


def numbers_as_such(path: Path) -> list:
    """The key that sorts figure4 before figure16."""
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if part.isdecimal() else part for part in parts]


def resolve_target(target: str) -> str:
    """The key of `describe_targets` that a target such as `workloads/mnist_mlp.py`
    names.

    Raises:
        InputError: there is no such target.
    """
    known = describe_targets()
    if target == REPORT:
        return REPORT
    folder, name = Path(target).parent, Path(target).name
    is_figure = target.endswith((".yaml", ".yml")) or folder.name == "figures"
    kind, ending = ("configs/figures", ".yaml") if is_figure else ("workloads", "")
    stem = name.removesuffix(".yml").removesuffix(".yaml").removesuffix(".py")
    found = f"{kind}/{stem}{ending}"
    in_place = str(folder) == "." or str(folder).endswith(kind.rpartition("/")[2])
    if found in known and in_place:
        return found
    names = [Path(key).name for key in known if key.startswith(f"{kind}/")]
    hint = nearest(f"{stem}{ending}", names)
    if is_figure:
        raise InputError(f"unknown figure {target}: `python run.py` lists them{hint}")
    raise InputError(
        f"unknown workload {target}: there are "
        f"{', '.join(f'workloads/{n}' for n in names)}{hint}"
    )


def find_workload(name: str) -> "Workload":
    """The workload of the module workloads/<name>.py."""
    return importlib.import_module(f"workloads.{name}").workload
