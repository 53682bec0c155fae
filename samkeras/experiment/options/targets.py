"""What there is to run: workloads, the studies of configs/figures/ and the report."""

import ast
import importlib
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal

from samkeras.errors import InputError, nearest
from samkeras.experiment.options.strict_yaml import read_yaml
from samkeras.experiment.place import CODE, COMMAND, home, is_checkout
from samkeras.imports import explain, import_file

if TYPE_CHECKING:  # it imports keras, which takes seconds and --help needs not
    from samkeras.workload import Workload

# Where workloads/ and configs/ are: an installed samkeras has them within itself.
ROOT = CODE if is_checkout(CODE) else CODE / "samkeras"
FIGURES = ROOT / "configs" / "figures"
REPORT: Final = "report"
ANALYZE: Final = "analyze"
RUN_DIR: Final = "runs"  # in `home`
# In a figure's file. Parsing them all would take longer than all else that --help does.
_TITLE = re.compile(r"^title: *(.*)$", re.MULTILINE)
_NAME = re.compile(r"""^[^#\n]*\bname: *['"]?([\w.-]+)""", re.MULTILINE)


def default_run_dir() -> str:
    """Where the runs of those who say nothing are, wherever they stand: in `home`."""
    return RUN_DIR if home() == Path.cwd() else str(home() / RUN_DIR)


@dataclass(frozen=True)
class Target:
    """A workload's place.

    Attributes:
        name: the workload's name.
        module: the module's dotted name; None: its file is no part of a package.
        path: its file.
        defaults: the YAML file of its options and their defaults, beside it; those of
            workloads/ are in configs/.
    """

    name: str
    module: str | None
    path: Path
    defaults: Path

    def __str__(self) -> str:
        return f"workloads/{self.name}" if self.is_house else str(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another machine has the project elsewhere.
        if self.is_house:
            return find_target, (self.name,)
        return _find_again, (self.name, self.module, self.path, self.defaults)

    @property
    def is_house(self) -> bool:
        """Whether it is one of workloads/."""
        return self.path.parent == ROOT / "workloads"

    @property
    def address(self) -> str:
        """What `resolve_target` finds it by, from any folder."""
        return str(self) if self.is_house else self.module or str(self.path)

    @property
    def experiment(self) -> str:
        """The name of the experiment that its runs are recorded in: of a file that is
        part of no package with its folder's, as others may have its own."""
        return self.name if self.module else f"{self.path.parent.name}/{self.name}"

    def load(self) -> "Workload":
        """The workload that its module calls `workload`.

        Raises:
            InputError: its file cannot be imported, or has no workload.
        """
        workload = getattr(self.import_module(), "workload", None)
        if workload is None:
            raise InputError(f"{self.path} has no `workload = Workload(...)`")
        return workload

    def import_module(self) -> ModuleType:
        """Its module.

        Raises:
            InputError: it raises an error.
        """
        try:
            if self.is_house and str(CODE) not in sys.path:
                sys.path.append(
                    str(CODE)
                )  # of which pip install -e shows samkeras alone
            if self.module is not None:
                return importlib.import_module(self.module)
            return import_file(self.path)
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(f"cannot import {self.path}: {explain(error)}") from error

    @cached_property
    def values(self) -> dict[str, Any]:
        """What its YAML file holds; nothing where a file outside has none.

        Raises:
            InputError: it cannot be read.
        """
        if not self.is_house and not self.defaults.exists():
            return {}
        return read_yaml(self.defaults, may_be_empty=True)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The names of its groups of options.

        Raises:
            InputError: the YAML file cannot be read, or has no list of names.
        """
        names = self.values.get("options", ["supervised"])
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise InputError(
                f"{self.defaults}: options must be a list of names, such as "
                f"[supervised, depth]. Received: {names}"
            )
        return tuple(names)


def _find_again(name: str, module: str | None, path: Path, defaults: Path) -> Target:
    """A target of another process: where its folder was sent along to this machine,
    the copy."""
    if not path.exists():
        for folder in map(Path, sys.path):
            copy = folder / path.parent.name / path.name
            if copy.exists():
                return Target(name, module, copy, copy.with_name(defaults.name))
    return Target(name, module, path, defaults)


def list_workloads() -> list[str]:
    """The names of the workloads in workloads/."""
    return sorted(path.stem for path in (ROOT / "workloads").glob("[!_]*.py"))


def find_target(name: str) -> Target:
    """The target of a workload in workloads/."""
    package = "workloads" if ROOT == CODE else "samkeras.workloads"
    path = ROOT / "workloads" / f"{name}.py"
    return Target(name, f"{package}.{name}", path, ROOT / "configs" / f"{name}.yaml")


def describe_targets() -> dict[str, str]:
    """What `run.py` runs, each with a line that says what it is: the workloads, by
    their docstrings, the studies, by their titles, and the report."""
    workloads = {
        f"workloads/{name}": _find_docstring(ROOT / "workloads" / f"{name}.py")
        for name in list_workloads()
    }
    figures = {
        f"configs/figures/{path.name}": _find_title(path)
        for path in sorted(FIGURES.glob("*.yaml"), key=numbers_as_such)
    }
    others = {
        REPORT: "One page of all figures that are drawn.",
        ANALYZE: "Curvature and sharpness of finished runs, from their folders.",
    }
    texts = {**workloads, **figures, **others}
    return {target: text.split("\n")[0] for target, text in texts.items()}


# A file that is damaged has no line: what is wrong with it is said where it is run.


def _find_docstring(path: Path) -> str:
    try:
        return ast.get_docstring(ast.parse(path.read_bytes())) or ""
    except (OSError, SyntaxError, ValueError):
        return ""


def describe_target(target: Target) -> str:
    """The line that says what a workload is."""
    return _find_docstring(target.path).split("\n")[0]


def _find_title(path: Path) -> str:
    found = _TITLE.search(_read(path))
    return found[1].strip("'\"") if found else ""


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""


def numbers_as_such(path: Path) -> list[int | str]:
    """The key that sorts figure4 before figure16."""
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if part.isdecimal() else part for part in parts]


def resolve_target(target: str) -> Target | Path | Literal["report", "analyze"]:
    """What a target names: a workload of workloads/, by its name or path, of any other
    .py file, or of a module such as `package.module`; a study's file; the report, or
    the analysis of runs.

    Raises:
        InputError: there is no such target.
    """
    if target in (REPORT, ANALYZE):
        return target
    folder, name = Path(target).parent, Path(target).name
    is_figure = target.endswith((".yaml", ".yml")) or folder.name == "figures"
    stem = name.removesuffix(".yml").removesuffix(".yaml").removesuffix(".py")
    if is_figure or (target == stem and stem in _list_figures()):
        return _resolve_figure(target, folder, stem)
    in_place = str(folder) == "." or str(folder).endswith("workloads")
    path = Path(os.path.expanduser(target)).absolute()
    is_file = path.suffix == ".py" and path.is_file()
    if (
        in_place
        and stem in list_workloads()
        and not (is_file and path.resolve().parent != ROOT / "workloads")
    ):
        return find_target(stem)
    if is_file:
        path = path.parent.resolve() / path.name  # its folder has a name, not ..
        return Target(path.stem, None, path, path.with_suffix(".yaml"))
    if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", target) and not target.endswith(
        ".py"
    ):
        return _resolve_module(target)
    if target.startswith("--"):
        raise InputError(
            f"a target comes first: {COMMAND} TARGET {target} ..., and {COMMAND} lists "
            "them"
        )
    if path.suffix == ".py" and stem not in list_workloads():
        beside = [f.name for f in path.parent.glob("[!_]*.py") if f.name != "run.py"]
        raise InputError(f"there is no file {target}{nearest(path.name, beside)}")
    names = list_workloads()
    raise InputError(
        f"unknown workload {target}: there are "
        f"{', '.join(f'workloads/{n}' for n in names)}, the path of a .py file and "
        f"package.module{_hint_at(target)}"
    )


def _resolve_module(name: str) -> Target:
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        package = name.rpartition(".")[0]
        beside = Path(package.replace(".", "/")).glob("[!_]*.py")
        hint = nearest(name, (f"{package}.{path.stem}" for path in beside))
        raise InputError(f"unknown workload {name}: Python finds no such module{hint}")
    path = Path(spec.origin)
    return Target(path.stem, name, path, path.with_suffix(".yaml"))


def list_pictures() -> dict[str, Path]:
    """The pictures that have a name in a study's file of configs/figures/, each with
    that file."""
    pictures: dict[str, Path] = {}
    for path in sorted(FIGURES.glob("*.yaml"), key=numbers_as_such):
        for name in _NAME.findall(_read(path)):
            pictures.setdefault(name, path)
    return pictures


def _resolve_figure(target: str, folder: Path, stem: str) -> Path:
    """A study's file, of configs/figures/ or of any other folder, or the one that a
    picture of a study would have."""
    path = Path(os.path.expanduser(target)).absolute()
    if path.is_file():
        return path
    in_place = str(folder) == "." or str(folder).endswith("figures")
    if in_place and stem in _list_figures():
        return FIGURES / f"{stem}.yaml"
    raise InputError(
        f"unknown figure {target}: `{COMMAND}` lists them{_hint_at(target)}"
    )


def _list_figures() -> set[str]:
    """The names of the studies in configs/figures/ and of their pictures."""
    return {*(path.stem for path in FIGURES.glob("*.yaml")), *list_pictures()}


def _hint_at(target: str) -> str:
    """The hint at the nearest of what there is to run, and of what lies beside it."""
    path = Path(os.path.expanduser(target))
    figures = [f"{name}.yaml" for name in _list_figures()]
    beside: list[str] = []
    if path.suffix and path.parent.is_dir():
        files = path.parent.glob("*.*")
        beside = [file.name for file in files if file.suffix in (".py", ".yaml")]
    return nearest(path.name, (*list_workloads(), *figures, REPORT, ANALYZE, *beside))


def find_owner(defaults: Path) -> Target | None:
    """The workload whose options and defaults a file holds, if it is one of those."""
    house = find_target(defaults.stem)
    if defaults == house.defaults:
        return house
    path = defaults.with_suffix(".py")
    return Target(path.stem, None, path, defaults) if path.is_file() else None
