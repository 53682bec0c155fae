"""Keras and its backend, started where something trains: they take seconds, which a
command that finds all its runs finished does without."""

import functools
import importlib
import os
from typing import Any

from samkeras.errors import InputError
from samkeras.experiment.options.session import Session
from samkeras.quiet import leave_out, silence_native_stderr

# What keras imports for tables, wrappers and plots that nobody here calls, in two
# seconds.
UNCALLED = ("pandas", "pyarrow", "sklearn", "matplotlib", "IPython", "cv2")


def is_shared() -> bool:
    """Whether the environment names other processes, which train runs together with
    this one."""
    return any(name.startswith("KERAS_DISTRIBUTION_") for name in os.environ)


def import_keras() -> Any:
    """Keras, imported in silence."""
    with silence_native_stderr(), leave_out(*UNCALLED):
        return importlib.import_module("keras")


def start_backend(session: Session) -> None:
    """Starts the backend, as one of several processes where the environment names them.

    Raises:
        InputError: it does not lead to the others.
    """
    keras = import_keras()
    with silence_native_stderr():
        if is_shared():
            _join_processes(keras)
        from samkeras.backend import backend

        backend.cache_programs()
        if session.workers > 1 or session.ray is not None:
            backend.use_cpu_only()
        keras.distribution.list_devices()


def find_process() -> tuple[int, int]:
    """The number of this process, counted from 0, and how many there are; of several,
    the backend has to be started."""
    if not is_shared():
        return 0, 1
    from samkeras.backend import backend

    return backend.find_process()


def broadcast(value: Any) -> Any:
    """The value that the first process has, likewise."""
    if not is_shared():
        return value
    from samkeras.backend import backend

    return backend.broadcast(value)


@functools.cache  # which is done once a process
def _join_processes(keras: Any) -> None:
    """Joins the processes on other hosts."""
    if os.environ["KERAS_BACKEND"] != "jax":
        raise InputError("several processes need KERAS_BACKEND=jax")
    try:
        keras.distribution.initialize()
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            "KERAS_DISTRIBUTION_JOB_ADDRESSES, _NUM_PROCESSES and _PROCESS_ID do not "
            f"lead to the other processes: {reason[:200]}"
        ) from None
