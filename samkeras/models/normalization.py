"""Batch normalization as the paper's authors have it."""

import keras


@keras.saving.register_keras_serializable(package="samkeras")
class BatchNorm(keras.layers.BatchNormalization):
    """BatchNormalization whose statistics are those of the whole batch, on any number
    of devices: a run's result does not depend on how many there are.

    The authors' code takes each device's own. That is what groups of m-sharpness do
    here, each of which is normalized by itself.

    Args:
        momentum: of the moving statistics. Default 0.9 (Flax's and the authors').
        epsilon: added to variances. Default 1e-5 (Flax's and the authors').
        kwargs: of keras.layers.BatchNormalization.
    """

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, **kwargs):
        # JAX knows no other statistics than the whole batch's, TensorFlow must be told.
        is_tensorflow = keras.backend.backend() == "tensorflow"
        super().__init__(
            momentum=momentum, epsilon=epsilon, synchronized=is_tensorflow, **kwargs
        )

    def get_config(self):
        config = super().get_config()
        del config["synchronized"]  # the loading backend decides
        return config
