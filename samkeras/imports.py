"""Modules of a user's own, by their files."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from samkeras.errors import InputError, find_own_line


def import_file(path: Path) -> ModuleType:
    """The module of a file that is part of no package, imported once; what stands
    beside it can be imported by it, as by a script."""
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def explain(error: BaseException) -> str:
    """An error of a user's code in one line, with the line of that code."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    # A syntax error names its own line.
    place = "" if isinstance(error, SyntaxError) else find_own_line(error)
    return f"{reason} ({place})" if place else reason
