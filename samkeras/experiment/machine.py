"""What runs here: the packages and the machine, for what is kept of runs."""

import contextlib
import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import samkeras


def name_backend() -> str:
    """Keras' backend, also before keras is imported."""
    keras = sys.modules.get("keras")
    return os.environ["KERAS_BACKEND"] if keras is None else keras.backend.backend()


def find_versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide a result."""
    import keras

    backend = keras.backend.backend()
    return {
        "python": platform.python_version(),
        "keras": keras.__version__,
        backend: importlib.metadata.version(backend),
        "samkeras": samkeras.__version__,
    }


def describe_machine() -> dict[str, Any]:
    """The system, the processor and the devices that the backend sees."""
    import keras

    return {
        "system": platform.platform(),
        "cpu": f"{name_processor()}, {os.cpu_count()} cores",
        "devices": [str(device) for device in keras.distribution.list_devices()],
    }


def name_processor() -> str:
    """The processor's model, which Linux tells, or else its architecture."""
    with contextlib.suppress(OSError):
        model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        if model:
            return model[1]
    return platform.machine()
