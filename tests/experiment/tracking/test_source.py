"""Runs say what code they are of."""

import subprocess

import pytest

from samkeras.experiment.tracking.source import find_source

pytestmark = pytest.mark.one_backend


def test_a_run_says_its_commit_and_whether_files_were_changed(tmp_path):
    """Of the repository that its workload's file is in, if it is one of its files; what
    lies in an ignored folder of a repository is not."""

    def git(*arguments):
        author = ("-c", "user.name=n", "-c", "user.email=e")
        command = ["git", "-C", str(tmp_path), *author, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True)

    def find(module):
        find_source.cache_clear()
        tags = find_source("task", module)
        assert tags["mlflow.source.name"] == "task"
        assert tags["mlflow.source.type"] == "LOCAL"
        names = ("mlflow.source.git.commit", "mlflow.source.git.dirty")
        return tuple(map(tags.get, names))

    module, ignored = tmp_path / "task.py", tmp_path / "env" / "task.py"
    ignored.parent.mkdir()
    for path in (module, ignored):
        path.touch()
    assert find(module) == (None, None)
    git("init")
    (tmp_path / ".gitignore").write_text("env")
    git("add", ".gitignore")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD").stdout.strip()
    assert find(module) == (commit, "true")
    git("add", "task.py")
    git("commit", "-m", "second")
    commit = git("rev-parse", "HEAD").stdout.strip()
    assert find(module) == (commit, "false")
    assert find(ignored) == (None, None)
    module.write_text("changed")
    assert find(module) == (commit, "true")
