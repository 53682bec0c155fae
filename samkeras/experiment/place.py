"""Where samkeras lies, how its command was started, and where what it makes goes."""

import sys
from pathlib import Path

CODE = Path(__file__).resolve().parents[2]  # the folder of the package samkeras


def is_checkout(folder: Path) -> bool:
    """Whether a folder is the project's, with its command, its workloads and their
    configs: packages may lie beside a run.py of others."""
    folders = ("workloads", "configs/figures")
    are_there = all((folder / name).is_dir() for name in folders)
    return are_there and (folder / "run.py").is_file()


IS_MODULE = Path(sys.argv[0]).parts[-2:] == ("samkeras", "__main__.py")
HAS_COMMAND = is_checkout(CODE) and not IS_MODULE  # run.py
COMMAND = "python run.py" if HAS_COMMAND else "python -m samkeras"
PROGRAM = "run.py" if HAS_COMMAND else "samkeras"


def home(code: Path = CODE) -> Path:
    """The folder that holds what one has and makes: the project's, where samkeras is
    run from it, otherwise, as where it is installed, the one the user stands in.

    Args:
        code: the folder that the package samkeras is in.
    """
    return code if is_checkout(code) else Path.cwd()


def complain(line: str) -> None:
    """Writes a line to the standard error, after the program's name."""
    print(f"{PROGRAM}: {line}", file=sys.stderr)
