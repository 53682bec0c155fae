"""Files that are read fast, and written whole or not at all."""

import contextlib
import os
from pathlib import Path

SMALL = 2**16  # bytes, of which most files in thousands have fewer
TABLES = (".csv", ".tsv", ".jsonl")  # what files with columns end with


def read_file(path: str | Path) -> bytes:
    """A file's bytes. Of a small one, open() alone takes longer than that.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        data = os.read(descriptor, SMALL)
        if len(data) == os.fstat(descriptor).st_size:
            return data
        with open(descriptor, "rb", closefd=False) as file:
            return data + file.read()
    finally:
        os.close(descriptor)


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
