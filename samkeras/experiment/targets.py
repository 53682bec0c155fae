"""What there is to train: the modules of workloads/."""

import ast
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from samkeras.errors import InputError, nearest

if TYPE_CHECKING:  # it imports keras, which takes seconds and --help needs not
    from samkeras.workload import Workload

ROOT = Path(__file__).resolve().parents[2]


def describe_targets() -> dict[str, str]:
    """The workloads, each with the first line of its docstring."""
    paths = sorted((ROOT / "workloads").glob("[!_]*.py"))
    return {
        f"workloads/{p.stem}": ast.get_docstring(ast.parse(p.read_text())).split("\n")[
            0
        ]
        for p in paths
    }


def resolve_target(target: str) -> str:
    """The workload that a target such as `workloads/mnist_mlp.py` names.

    Raises:
        InputError: there is no such workload.
    """
    name = Path(target).with_suffix("").name
    names = [Path(known).name for known in describe_targets()]
    folder = str(Path(target).parent)
    if name in names and folder.endswith(("workloads", ".")):
        return name
    raise InputError(
        f"unknown workload {target}: there are "
        f"{', '.join(f'workloads/{n}' for n in names)}{nearest(name, names)}"
    )


def find_workload(name: str) -> "Workload":
    """The workload of the module workloads/<name>.py."""
    return importlib.import_module(f"workloads.{name}").workload
