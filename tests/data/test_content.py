"""What local files hold: the same in whatever file, read once where it is much."""

import functools
import os
from pathlib import Path

import pytest

from samkeras.data import content
from samkeras.data.content import describe_content, describe_files
from samkeras.files import read_file

pytestmark = pytest.mark.one_backend


@pytest.fixture
def forget():
    """A function that makes this process know no digest, as another one."""
    content._digest.cache_clear()
    return content._digest.cache_clear


def test_a_digest_is_of_the_content(tmp_path, forget):
    """Not of its name or time; that of a file that is rewritten is another."""
    one, other = tmp_path / "one.npz", tmp_path / "other.npz"
    one.write_bytes(b"12")
    other.write_bytes(b"12")
    known = describe_content(str(one))
    assert known == describe_content(str(other))
    assert known.size == 2
    other.write_bytes(b"123")
    assert describe_content(str(other)).digest != known.digest


def test_a_folders_digest_is_of_its_treebanks(tmp_path):
    """Their names, which say what they are for, and contents; of nothing else."""
    (tmp_path / "a-train.conllu").write_text("1")
    (tmp_path / "a-dev.conllu").write_text("2")
    known = describe_content(str(tmp_path))
    (tmp_path / "README").write_text("1")
    assert describe_content(str(tmp_path)) == known
    assert known.size == 2
    (tmp_path / "a-dev.conllu").write_text("22")
    changed = describe_content(str(tmp_path))
    (tmp_path / "a-dev.conllu").rename(tmp_path / "b-dev.conllu")
    renamed = describe_content(str(tmp_path))
    assert len({known.digest, changed.digest, renamed.digest}) == 3


def test_a_folder_is_the_same_from_within(tmp_path, monkeypatch, forget):
    """Its files have their names in it, however it is called."""
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"1")
    known = describe_files(tmp_path, [f"{tmp_path}/cat/1.png"])
    monkeypatch.chdir(tmp_path)
    assert describe_files(Path("."), ["cat/1.png"]).digest == known.digest
    (tmp_path / "cat").rename(tmp_path / "rat")
    assert describe_files(Path("."), ["rat/1.png"]).digest != known.digest


def test_a_file_is_read_to_its_end(tmp_path, monkeypatch):
    """Some file systems give less at once than is asked for."""
    path, read = tmp_path / "file", os.read
    path.write_bytes(b"0123456789")
    monkeypatch.setattr(os, "read", lambda descriptor, _: read(descriptor, 3))
    assert read_file(path) == b"0123456789"


def test_what_was_read_unchecked_is_checked(tmp_path, monkeypatch):
    """Though its digest is kept; what was checked is not read again."""
    monkeypatch.setattr(content, "KEPT_FILES", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, seen = tmp_path / "1.png", []
    path.write_bytes(b"RIFF")
    describe = functools.partial(describe_files, tmp_path, [str(path)])
    known = describe()
    for _ in range(2):
        assert describe(check=lambda head, name: seen.append((head, name))) == known
    assert seen == [(b"RIFF", str(path))]


@pytest.mark.parametrize("name", ["mnist", "mnist:3.0.1", "", "no/such.npz"])
def test_a_name_alone_has_no_content(name, tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    assert describe_content(name) is None


def test_a_large_file_is_read_once(tmp_path, monkeypatch, forget):
    """By all processes, until it changes; where nothing can be kept, by each."""
    reads, read = [], content._read_digest
    monkeypatch.setattr(content, "KEPT_FROM", 0)
    monkeypatch.setattr(
        content, "_read_digest", lambda path: reads.append(path) or read(path)
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "data.npz"
    path.write_bytes(b"12")
    known = describe_content(str(path))
    forget()
    assert describe_content(str(path)) == known
    assert len(reads) == 1
    path.write_bytes(b"345")
    forget()
    assert describe_content(str(path)) != known
    (kept,) = (tmp_path / "cache").glob("*/*/*.json")
    kept.write_text("{")  # damaged
    forget()
    describe_content(str(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(path / "no folder"))
    forget()
    describe_content(str(path))
    assert len(reads) == 4
