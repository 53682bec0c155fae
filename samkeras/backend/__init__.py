"""The primitives of the backend that keras runs on."""

import keras

from samkeras.backend.interface import Interface

BACKENDS = ("jax", "tensorflow")

if keras.backend.backend() not in BACKENDS:
    raise ImportError(
        f"samkeras runs on the keras backends {' and '.join(BACKENDS)}. "
        f"Received: KERAS_BACKEND={keras.backend.backend()}"
    )

backend: Interface
if keras.backend.backend() == "jax":
    from samkeras.backend import jax

    backend = jax
else:
    from samkeras.backend import tensorflow

    backend = tensorflow

__all__ = ["BACKENDS", "Interface", "backend"]
