"""The primitives of the backend that keras runs on."""

from importlib import import_module
from typing import cast

import keras

from samkeras.backend.interface import Interface

BACKENDS = ("jax", "tensorflow")

if keras.backend.backend() not in BACKENDS:
    raise ImportError(
        f"samkeras runs on the keras backends {' and '.join(BACKENDS)}. "
        f"Received: KERAS_BACKEND={keras.backend.backend()}"
    )

backend = cast(Interface, import_module(f"{__name__}.{keras.backend.backend()}"))

__all__ = ["BACKENDS", "Interface", "backend"]
