"""Why a run failed, for those who mend it."""

import contextlib
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from samkeras.errors import InputError, find_own_line
from samkeras.experiment.options.groups import Config
from samkeras.experiment.options.session import Session
from samkeras.experiment.tracking.record import FolderGoneError, Record
from samkeras.files import replace_file

TRACEBACK = "traceback.txt"
EARLIER = "An earlier attempt at this run failed; it has been taken up again since.\n\n"
# Keras says in bold what was raised in a layer, among much else.
_RAISED_IN_LAYER = re.compile(
    r"\x1b\[1m(?:.*Error encountered:\s)?(.*)\x1b\[0m", re.DOTALL
)
_STYLE = re.compile(r"\x1b\[\d*m")
# Options that the library's messages mention, by the names of its arguments.
_LIBRARY_ARGUMENTS = re.compile(r"\b(allow_empty_layers|alpha|m_sharpness)\b")


class NotFiniteError(RuntimeError):
    """A number of training or validation is infinite or not a number."""


class Failure(NamedTuple):
    """Why a run failed.

    Attributes:
        reason: in one line.
        traceback: where in the code; None where the reason says all.
    """

    reason: str
    traceback: str | None = None


def explain(error: Exception, config: Config) -> Failure:
    """What went wrong in a run of a config."""
    if isinstance(error, InputError):
        return Failure(_as_line(_raised(error)))
    text = " ".join(f"{type(error).__name__}: {error}".split())
    # TensorFlow wraps what a data set raises in what it says itself.
    corrupt = re.search(r"CorruptImageError: (.*? is not a readable image)", text)
    if corrupt:
        return Failure(corrupt[1])
    if is_out_of_memory(error):
        return Failure(
            f"out of memory: lower --batch_size (now {config.batch_size}) or "
            f"--width_mult (now {config.width_mult:g}) ({describe(error)[:200]})"
        )
    if isinstance(error, NotFiniteError | FolderGoneError):
        return Failure(describe(error))
    text = f"{describe(error)} ({find_own_line(error)})"
    return Failure(text, format_traceback(error))


def is_out_of_memory(error: Exception) -> bool:
    """Whether a program or array takes more memory than there is, on any device."""
    # JAX and TensorFlow name it so, each in exceptions of its own.
    names = "RESOURCE_EXHAUSTED|ResourceExhausted|Out of memory|OOM when allocating"
    text = f"{type(error).__name__}: {error}"
    return isinstance(error, MemoryError) or bool(re.search(names, text))


def describe(error: BaseException) -> str:
    """An error in one line."""
    message = _raised(error)
    if isinstance(error, ValueError):
        message = name_options(message)
    return _as_line(f"{type(error).__name__}: {message}")


def name_options(message: str) -> str:
    """The library's message with its arguments named as options."""
    return _LIBRARY_ARGUMENTS.sub(r"--\1", message)


def _raised(error: BaseException) -> str:
    raised = _RAISED_IN_LAYER.search(str(error))
    return raised[1] if raised else str(error)


def _as_line(text: str) -> str:
    return " ".join(text.split())[:500]


def format_traceback(error: BaseException) -> str:
    return _STYLE.sub("", "".join(traceback.format_exception(error)))


@contextlib.contextmanager
def explained(what: str, session: Session, config: Config) -> Iterator[None]:
    """Makes bad input of any error of a workload's own code.

    Args:
        what: that code does.
        session: how much is to be printed of it.
        config: of a run of the workload.

    Raises:
        InputError: there was one.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if session.verbose == 2:
            print(format_traceback(error), file=sys.stderr)
        raise InputError(
            f"{config.target} cannot {what}: {describe(error)} "
            f"({find_own_line(error)})"
            f"{'' if session.verbose == 2 else '; --verbose 2 prints the traceback'}"
        ) from None


@contextlib.contextmanager
def left_to_the_run() -> Iterator[None]:
    """Within its `with` block a fault of a workload's own code is passed over: the run
    itself tells of it, and the others train.

    Raises:
        InputError: bad input is told at once.
    """
    try:
        yield
    except InputError:
        raise
    except Exception:
        pass


def record_failure(logger: Record, failure: Failure) -> None:
    """Ends a run's record as failed; its folder and record hold the traceback."""
    # The reason may be a full disk.
    with contextlib.suppress(OSError, FolderGoneError):
        if failure.traceback is not None:
            path = logger.folder / TRACEBACK
            replace_file(path, failure.traceback.encode())
            logger.log_file(path)
    with contextlib.suppress(OSError):
        logger.end("FAILED", failure.reason)


def date_back(logger: Record, is_new: bool) -> None:
    """Says in the traceback that an earlier attempt left in a run's folder that it is
    of that one, also in the run's record, unless the record is a new one."""
    path: Path = logger.folder / TRACEBACK
    with contextlib.suppress(OSError):  # such as: there is none
        text = path.read_text()
        if not text.startswith(EARLIER):
            replace_file(path, (EARLIER + text).encode())
            if not is_new:
                logger.log_file(path)
