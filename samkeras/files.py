"""Files that are whole or not there."""

import contextlib
import os
from pathlib import Path

TABLES = (".csv", ".tsv", ".jsonl")  # what files with columns end with


def replace_file(path: Path, data: bytes | memoryview) -> None:
    """Writes a file in one step: a kill or a full disk leaves the old one or none.

    Raises:
        OSError: it cannot be written; the error names the path.
    """
    new = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        new.write_bytes(data)
        os.replace(new, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None
