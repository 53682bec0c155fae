"""The forward passes of the code that the paper's experiments follow.

Our own renderings in float64, written from the descriptions of the architectures, with
nothing of Keras in them; each module names its source. Their weights are dictionaries
by the paths of keras' variables, such as "hidden_1/kernel".
"""

import keras
import numpy as np

Weights = dict[str, np.ndarray]


def weights_of(model: keras.Model) -> Weights:
    """A model's weights in float64, those that do not train, too."""
    return {
        v.path: keras.ops.convert_to_numpy(v).astype("float64") for v in model.weights
    }
