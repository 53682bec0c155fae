"""What runs here: the packages and the machine, for what is kept of runs."""

import importlib.metadata
import os
import platform
from typing import Any

import keras

import samkeras


def find_versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide a result."""
    backend = keras.backend.backend()
    return {
        "python": platform.python_version(),
        "keras": keras.__version__,
        backend: importlib.metadata.version(backend),
        "samkeras": samkeras.__version__,
    }


def describe_machine() -> dict[str, Any]:
    """The system, the processor and the devices that the backend sees."""
    return {
        "system": platform.platform(),
        "cpu": f"{platform.machine()}, {os.cpu_count()} cores",
        "devices": [str(device) for device in keras.distribution.list_devices()],
    }
