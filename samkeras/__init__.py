"""Sharpness-aware minimization on Keras 3, for JAX and TensorFlow."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "SAMModel": "samkeras.model",
    "Method": "samkeras.methods",
    "Perturbation": "samkeras.methods",
    "Number": "samkeras.methods",
    "SAM": "samkeras.methods",
    "SecondOrderSAM": "samkeras.methods",
    "UnnormalizedSAM": "samkeras.methods",
    "RandomPerturbation": "samkeras.methods",
    "ASAM": "samkeras.methods",
    "FSAM": "samkeras.methods",
    "VaSSO": "samkeras.methods",
    "UnifiedSAM": "samkeras.methods",
    "MongeSAM": "samkeras.methods",
    "LightSAM": "samkeras.methods",
    "SSAM": "samkeras.methods",
    "ESAM": "samkeras.methods",
    "TraceSAM": "samkeras.methods",
    "DetSAM": "samkeras.methods",
    "FrobeniusSAM": "samkeras.methods",
    "GSAM": "samkeras.methods",
    "GNP": "samkeras.methods",
    "WSAM": "samkeras.methods",
    "StableSAM": "samkeras.methods",
    "LookSAM": "samkeras.methods",
    "AESAM": "samkeras.methods",
    "MomentumSAM": "samkeras.methods",
    "SGD": "samkeras.optimizers",
    "prune_at_init": "samkeras.pruning",
    "Workload": "samkeras.workload",
}

# Of experiments, which need more packages than the library; so `*` leaves it out.
_ABOVE = {"load_run": "samkeras.experiment.runs.saved"}

# Each is found by __getattr__.
__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    # Lazy, because importing keras takes seconds and the command line answers at once.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name not in _ABOVE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_ABOVE[name]), name)
    except ModuleNotFoundError as error:
        text = f"samkeras.{name} needs pip install 'samkeras[experiment]' ({error})"
        raise ImportError(text) from error


def __dir__() -> list[str]:
    return [*globals(), *_HOME]  # what can be had, whatever is installed
