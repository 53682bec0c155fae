"""What went wrong on the user's side of a run."""

import difflib
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path

_HERE = Path(__file__).resolve().parent
# What is of the user is in none of these, though they may be within a project of his.
_INSTALLED = {"site-packages", "dist-packages"}
_PYTHON = Path(sysconfig.get_path("stdlib")).resolve()


class InputError(ValueError):
    """Bad input: its message is the one line that the user reads (exit code 2)."""


def nearest(name: str, names: Iterable[str]) -> str:
    """The hint "; did you mean X?" for the closest of `names`, or nothing."""
    matches = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


def find_own_line(error: BaseException) -> str:
    """Where an error comes from, as "my_task.py:14, in my_loss": the last line of what
    is neither samkeras nor installed; if there is none, of samkeras, else of all."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<")
    ]
    own = [frame for frame in frames if not _is_installed(frame.filename)]
    outside = [f for f in own if _HERE not in Path(f.filename).resolve().parents]
    for found in (outside, own, frames):
        if found:
            path, line, name, _ = found[-1]
            place = f"{Path(path).name}:{line}"
            return place if name.startswith("<") else f"{place}, in {name}"
    return ""


def _is_installed(filename: str) -> bool:
    path = Path(filename).resolve()
    return bool(_INSTALLED & {*path.parts}) or _PYTHON in path.parents
