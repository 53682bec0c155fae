"""keras' trainers around a sharpness-aware step."""

import keras

if keras.backend.backend() == "jax":
    from samkeras.trainer.jax import Trainer
else:
    from samkeras.trainer.tensorflow import Trainer

__all__ = ["Trainer"]
