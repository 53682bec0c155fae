"""What the local files of a data set hold: a run of other content is another run."""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samkeras.data.reading import for_each
from samkeras.data.splits import Content
from samkeras.files import read_file, replace_file

# As json.dumps has a text, in a tenth of the time.
_as_json = json.encoder.encode_basestring_ascii
KEPT_FILES = 1_000
SMALL = 2**20  # bytes that are read at once
HEAD = 64  # bytes that tell what a file is
KEPT_FROM = 64 * 2**20  # bytes; smaller files are read again in less than a second


Digests = Sequence[bytes] | np.ndarray


def describe_content(dataset: str) -> Content | None:
    """What the file holds, or the folder's .conllu files, that a data set's name is the
    path of; None: it is the path of neither."""
    path = Path(os.path.expanduser(dataset))
    if path.is_file():
        return _describe_file(path)
    files = sorted(path.glob("*.conllu"))
    return combine((each.name, _describe_file(each)) for each in files)


def describe_files(
    folder: Path,
    paths: Iterable[str],
    read: Callable[[], Digests] | None = None,
    check: Callable[[bytes, str], None] | None = None,
) -> Content:
    """What files of a folder hold, and what they are called in it. Where they are many,
    only those that have changed make all be read again.

    Args:
        folder: the folder.
        paths: the files, the folder's path before each.
        read: reads many files in the order of `paths`, and returns their SHA-256: bytes
            or uint8[file, 32]. None (default): they are read for that alone.
        check: is given what each file that is read for that alone begins with, and its
            path. Default: nothing is checked.
    """
    paths = list(paths)
    before = f"{folder}{os.sep}"  # os.path.relpath would take ten times as long

    def name(i: np.int32) -> str:
        return _as_json(paths[i].removeprefix(before))  # of ".", paths are names

    # Not a list, which would stay beside the data: its numbers take ten times as much.
    order = np.array(sorted(range(len(paths)), key=paths.__getitem__), "int32")
    size, marks = 0, hashlib.sha256()
    for i in order:
        mark = _mark(os.stat(paths[i]))
        size += mark[0]
        marks.update(f"{name(i)}{mark}".encode())

    def digest(read: Callable[[], Digests]) -> str:
        """As of the JSON of all names and digests."""
        text, between, digests = hashlib.sha256(), "[", read()
        for i in order:
            pair = f'[{name(i)}, "{bytes(digests[i]).hex()}"]'
            text.update(f"{between}{pair}".encode())
            between = ", "
        text.update(b"]")
        return text.hexdigest()

    def read_alone() -> list[bytes]:
        return _read_digests(paths, check)

    if len(paths) < KEPT_FILES and size < KEPT_FROM:
        return Content(size, digest(read_alone))
    mark = (size, int.from_bytes(marks.digest()[:8]), len(paths))
    # What was not checked when it was read is no reason not to read it.
    kind = "" if check is None else "checked:"
    found = _recall(folder.resolve(), mark, lambda: digest(read or read_alone), kind)
    return Content(size, found)


def _read_digests(
    paths: list[str], check: Callable[[bytes, str], None] | None
) -> list[bytes]:
    digests = [b""] * len(paths)

    def read(index: int) -> bool:
        digests[index] = bytes.fromhex(_read_digest(paths[index], check))
        return True

    for_each(read, len(paths), "files")
    return digests


def combine(files: Iterable[tuple[str, Content | None]]) -> Content | None:
    """What files hold together, each with what it is called; None: they hold
    nothing."""
    known = sorted((name, content) for name, content in files if content is not None)
    if not known:
        return None
    text = json.dumps(known)
    size = sum(content.size for _, content in known)
    return Content(size, hashlib.sha256(text.encode()).hexdigest())


def _mark(stat: os.stat_result) -> tuple[int, ...]:
    """What tells a file from what is later of its name."""
    return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def mark_files(path: Path) -> tuple[tuple[Any, ...], ...]:
    """What tells a file, or the files right in a folder, from what is later of their
    names; nothing of what is neither."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return tuple((each.name, *_mark(each.stat())) for each in files if each.is_file())


def _describe_file(path: Path) -> Content:
    path = path.resolve()
    stat = path.stat()
    return Content(stat.st_size, _digest(path, _mark(stat)))


@functools.cache
def _digest(path: Path, mark: tuple[int, ...]) -> str:
    """A file's digest; a large file's is kept on disk."""
    if mark[0] < KEPT_FROM:
        return _read_digest(path)
    return _recall(path, mark, functools.partial(_read_digest, path))


def _recall(
    path: Path, mark: tuple[int, ...], read: Callable[[], str], kind: str = ""
) -> str:
    """A digest, kept on disk for other processes and commands, together with the mark
    that tells the content from what is later of its name; those of a kind apart."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(f"{kind}{path}".encode()).hexdigest()[:16]
    kept = caches / "samkeras" / "digests" / f"{name}.json"
    with contextlib.suppress(OSError, ValueError):
        *known, digest = json.loads(kept.read_text())
        if known == list(mark):
            return digest
    digest = read()
    with contextlib.suppress(OSError):  # a home that is read-only
        kept.parent.mkdir(parents=True, exist_ok=True)
        replace_file(kept, json.dumps([*mark, digest]).encode())
    return digest


def _read_digest(
    path: str | Path, check: Callable[[bytes, str], None] | None = None
) -> str:
    if os.stat(path).st_size < SMALL:
        data = read_file(path)
        if check is not None:
            check(data[:HEAD], str(path))
        return hashlib.sha256(data).hexdigest()
    with open(path, "rb") as file:
        if check is not None:
            check(file.read(HEAD), str(path))
            file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()
