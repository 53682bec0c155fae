"""The command line: `python run.py`, or `python -m samkeras` from anywhere."""

import gc
import os
import signal
import sys
from pathlib import Path

from samkeras.errors import InputError
from samkeras.experiment.place import CODE, COMMAND, complain, is_checkout
from samkeras.experiment.runs.interrupt import INTERRUPTED, end_at_once

# Nothing here imports packages that Python does not bring before `main` does: it says
# which are missing.

BACKENDS = ("jax", "tensorflow")
PIPE_CLOSED = 128 + signal.SIGPIPE  # the exit code


def main(arguments: list[str]) -> int:
    """Runs a command line. Returns the exit code: 0, 1, 2 or 130."""
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print_targets()
            return 0
        return _run(arguments[0], arguments[1:])
    except InputError as error:
        cause = error.__cause__  # of a workload that cannot be imported
        missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
        said = _say_how_to_install("keras") if missing == "keras" else str(error)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "samkeras":
            raise
        said = _say_how_to_install(error.name)
    except KeyboardInterrupt:  # while nothing trains, or a second time
        complain("interrupted")
        return INTERRUPTED
    complain(_one_line(said))
    return 2


def _run(name: str, options: list[str]) -> int:
    from samkeras.experiment.options.parsing import parse_command
    from samkeras.experiment.options.targets import (
        ANALYZE,
        REPORT,
        Target,
        resolve_target,
    )

    target = resolve_target(name)
    if target == REPORT:
        from samkeras.experiment.studies.report import write_report

        return write_report(options)
    if target == ANALYZE:
        from samkeras.experiment.studies.measured import analyze

        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        return analyze(options)
    set_backend()
    figure = None
    if isinstance(target, Target):
        session, configs = parse_command(target, options)
    else:
        from samkeras.experiment.studies.figure import parse_figure

        figure, (session, configs) = parse_figure(target, options)
    from samkeras.experiment.launch import start
    from samkeras.experiment.runs.run import Run
    from samkeras.experiment.studies.grid import run_grid

    if start.is_shared():
        start.start_backend(session)
    elif not configs[0].target.is_house:
        start.import_keras()  # as its module most likely does, with more than it needs
    if start.find_process()[0] == 0 and session.verbose and not session.dry_run:
        say_where(session.run_dir)
    return run_grid(session, list(map(Run, configs)), figure)


def say_where(run_dir: str) -> None:
    """Says where runs are that nobody has said the place of, if that is not below the
    folder that one stands in."""
    from samkeras.experiment.options.targets import RUN_DIR, default_run_dir

    if run_dir != default_run_dir() or run_dir == RUN_DIR:
        return
    line = f"The runs are kept in {run_dir}; --run_dir names another folder"
    if any(Path(RUN_DIR).glob("*/journal_*.jsonl")):
        line += f", and --run_dir {RUN_DIR} goes on with those of {RUN_DIR}/ here"
    print(f"{line}.")


def _say_how_to_install(package: str) -> str:
    """A line for those whose Python lacks a package: most have forgotten their virtual
    environment."""
    line = f"{package} is not installed for {sys.executable}; first run "
    environment = CODE / ".venv"
    if not is_checkout(CODE):
        return f"{line}pip install 'samkeras[experiment,jax]'"
    if not environment.is_dir():
        return f"{line}`make demo` in {CODE}, and `source .venv/bin/activate`"
    if Path(sys.prefix).resolve() == environment.resolve():
        return f"{line}pip install -r {CODE / 'requirements.txt'}"
    return f"{line}`source {environment / 'bin' / 'activate'}`"


def _one_line(text: str) -> str:
    """A text without what breaks lines, and without the middle of what has no end."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return line if len(line) <= 1000 else f"{line[:700]} ... {line[-200:]}"


def print_targets() -> None:
    from samkeras.experiment.options.targets import describe_targets

    print(f"{COMMAND} TARGET [--option value[,value...]] ...\n\nTargets:")
    targets = describe_targets()
    width = max(map(len, targets))
    for target, description in targets.items():
        print(f"  {target:{width}}  {description}")
    print(
        f"\nThe name alone will do, as in {COMMAND} mnist_mlp or figure1_mnist.\n"
        "A workload of your own is the path of its .py file, or package.module.\n"
        f"{COMMAND} TARGET --help shows a target's options and defaults."
    )


def set_backend() -> None:
    """Chooses JAX unless KERAS_BACKEND says otherwise, before keras is imported."""
    backend = os.environ.setdefault("KERAS_BACKEND", "jax")
    if backend not in BACKENDS:
        raise InputError(
            f"KERAS_BACKEND must be one of {', '.join(BACKENDS)}. Received: {backend}"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def run_and_exit() -> None:
    """Runs this process' command line and ends the process with its exit code."""
    # Looking for garbage among what imports make, all of which stays, takes a tenth of
    # the time that they take.
    gc.set_threshold(50_000, 20, 20)
    try:
        try:
            code = main(sys.argv[1:])
        finally:
            print(end="", flush=True)
    except BrokenPipeError:  # who read it has enough, as `head` does
        code = PIPE_CLOSED
        # What is left is for nobody, and would fail at Python's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    end_at_once()
    gc.freeze()  # else Python's end looks through all that was imported, for seconds
    sys.exit(code)
