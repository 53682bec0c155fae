"""Normalization as the paper's authors have it."""

import keras

from samkeras.backend import backend

IS_TENSORFLOW = keras.backend.backend() == "tensorflow"


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
        super().__init__(
            momentum=momentum, epsilon=epsilon, synchronized=IS_TENSORFLOW, **kwargs
        )

    def call(self, inputs, training=None, mask=None):
        if not (training and self._can_fuse(inputs, mask)):
            return super().call(inputs, training=training, mask=mask)
        from samkeras.backend.tensorflow import normalize_batch

        outputs, mean, variance = normalize_batch(
            inputs, self.gamma, self.beta, self.epsilon
        )
        for average, value in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            average.assign(average * self.momentum + value * (1 - self.momentum))
        return outputs

    def _can_fuse(self, inputs, mask) -> bool:
        """Whether TensorFlow's own operation does what is asked, on images with their
        channels last. ResNet-18's step takes two thirds of the CPU's time with it; XLA
        fuses keras' operations by itself."""
        return (
            IS_TENSORFLOW
            and self.trainable
            and self.scale
            and self.center
            and not self.renorm
            and mask is None
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and not (self.synchronized and backend.count_parts() > 1)
            and self.compute_dtype != "float64"
        )

    def get_config(self):
        config = super().get_config()
        del config["synchronized"]  # the loading backend decides
        return config


@keras.saving.register_keras_serializable(package="samkeras")
class LayerNorm(keras.layers.LayerNormalization):
    """LayerNormalization with Flax's epsilon, compiled apart from what comes before.

    Else XLA on CPU sums up a transformer's skip connections again for each of its
    layers: the tagger's SAM step takes 1.4 to 1.8 times as long.

    Args:
        epsilon: added to variances. Default 1e-6 (Flax's).
        kwargs: of keras.layers.LayerNormalization.
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs):
        super().__init__(epsilon=epsilon, **kwargs)

    def call(self, inputs):
        return super().call(backend.isolate(inputs))
