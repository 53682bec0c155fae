"""What code a run is of, and whose run it is: as MLflow has it."""

import contextlib
import functools
import getpass
import os
import subprocess
from pathlib import Path

GIT_TIMEOUT_SEC = 10


@functools.cache
def find_source(name: str, module: Path) -> dict[str, str]:
    """The tags that say it, found once a process.

    Args:
        name: the workload's.
        module: its file, whose repository it is.
    """
    tags = {"mlflow.source.name": name, "mlflow.source.type": "LOCAL"}
    with contextlib.suppress(KeyError, OSError):  # users of containers may have none
        tags["mlflow.user"] = getpass.getuser()
    commit = _git(module, "rev-parse", "HEAD")
    # A package may lie in the ignored environment of another project's repository.
    if commit is None or _git(module, "check-ignore", module.name) is not None:
        return tags
    changed = _git(module, "status", "--porcelain", "--untracked-files=no")
    is_known = _git(module, "ls-files", "--error-unmatch", module.name) is not None
    is_dirty = bool(changed) or not is_known
    tags["mlflow.source.git.commit"] = commit
    tags["mlflow.source.git.dirty"] = "true" if is_dirty else "false"
    return tags


def _git(module: Path, *arguments: str) -> str | None:
    """What git says in a module's folder; None: it fails, or there is no git."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=module.parent,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_SEC,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
