"""Imports of large packages: without their messages on the user's screen, and without
what takes seconds and nobody calls."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def silence_native_stderr() -> Iterator[None]:
    """Drops what is written to file descriptor 2; exceptions pass as always.

    TensorFlow's C++ code logs to it before any of its own settings apply.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "w") as devnull:
            os.dup2(devnull.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@contextlib.contextmanager
def leave_out(*names: str) -> Iterator[None]:
    """Has imports do without packages that they can do without, which whoever needs
    them imports later."""
    absent = [name for name in names if name not in sys.modules]
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for name in absent:
            del modules[name]
