"""Trains workloads with and without SAM: `python run.py` lists what there is."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - one that a virtual environment hides
    sys.stderr.write(
        f"run.py: samkeras needs Python 3.11 to 3.13. {sys.executable} is "
        f"{sys.version.split()[0]}; first run `source .venv/bin/activate`\n"
    )
    sys.exit(2)

from samkeras.experiment.command import main, run_and_exit

__all__ = ["main"]

if __name__ == "__main__":
    run_and_exit()
