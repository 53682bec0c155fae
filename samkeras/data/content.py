"""What the local files of a data set hold: a run of other content is another run."""

import contextlib
import functools
import hashlib
import json
import os
from pathlib import Path

from samkeras.data.splits import Content
from samkeras.files import replace_file

KEPT_FROM = 64 * 2**20  # bytes; smaller files are read again in less than a second


def describe_content(dataset: str) -> Content | None:
    """What the file holds, or the folder's .conllu files, that a data set's name is the
    path of; None: it is the path of neither."""
    path = Path(os.path.expanduser(dataset))
    if path.is_file():
        return _describe_file(path)
    files = [(each.name, _describe_file(each)) for each in path.glob("*.conllu")]
    if not files:
        return None
    text = json.dumps(sorted(files))
    size = sum(content.size for _, content in files)
    return Content(size, hashlib.sha256(text.encode()).hexdigest())


def _describe_file(path: Path) -> Content:
    path = path.resolve()
    stat = path.stat()
    mark = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    return Content(stat.st_size, _digest(path, mark))


@functools.cache
def _digest(path: Path, mark: tuple[int, ...]) -> str:
    """A file's digest; a large file's is kept on disk, for other processes and
    commands, together with the mark that tells it from what is later of its name."""
    if mark[0] < KEPT_FROM:
        return _read_digest(path)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    kept = caches / "samkeras" / "digests" / f"{name}.json"
    with contextlib.suppress(OSError, ValueError):
        *known, digest = json.loads(kept.read_text())
        if known == list(mark):
            return digest
    digest = _read_digest(path)
    with contextlib.suppress(OSError):  # a home that is read-only
        kept.parent.mkdir(parents=True, exist_ok=True)
        replace_file(kept, json.dumps([*mark, digest]).encode())
    return digest


def _read_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
