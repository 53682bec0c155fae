"""The function that a network of one number has come to."""

from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from samkeras.analysis.data_loss import check_count
from samkeras.backend import backend
from samkeras.backend.insides import unrounded


@dataclass(frozen=True)
class FittedFunction:
    """A function of a number, at evenly spaced points.

    Attributes:
        x, y: float64[point].
    """

    x: np.ndarray
    y: np.ndarray

    @property
    def slope_variation(self) -> float:
        """The total variation of the slope over the points' range: of a function that
        is linear between kinks, the sum of the changes of its slope there, exact but
        for kinks within one step that cancel each other."""
        slopes = np.diff(self.y) / np.diff(self.x)
        return float(np.sum(np.abs(np.diff(slopes))))


def fitted_function(
    model: keras.Model, low: float, high: float, num_points: int = 1001
) -> FittedFunction:
    """What a model of one input and one output computes from `low` to `high`.

    Of a model of float32 the slopes have its rounding, divided by the points' distance.

    Examples:
        >>> inputs = keras.Input((1,))
        >>> line = keras.Model(inputs, keras.layers.Dense(1)(inputs))
        >>> found = samkeras.analysis.fitted_function(line, -1, 1)
        >>> found.y.shape, found.slope_variation < 0.1
        ((1001,), True)

    Args:
        model: a built keras.Model, float[batch, 1] to float[batch, 1].
        low, high: the first and the last point, low < high.
        num_points: how many there are, >= 3. Default 1001.

    Returns:
        The points and the model's outputs there.

    Raises:
        ValueError: the model is another, or there is no range.
    """
    check_count(num_points, "num_points", 3)
    if not low < high:
        raise ValueError(f"low must be below high. Received: {low} and {high}")
    shapes = (model.input_shape, model.output_shape)
    if shapes != ((None, 1), (None, 1)):
        raise ValueError(
            "the model must have one input and one output. Received one of shapes "
            f"{shapes[0]} and {shapes[1]}"
        )
    x = np.linspace(low, high, num_points)
    with unrounded(model), backend.full_precision():
        inputs = ops.convert_to_tensor(x[:, None], model.weights[0].dtype)
        outputs = model(inputs, training=False)
    y = np.asarray(ops.convert_to_numpy(outputs), "float64")
    return FittedFunction(x, y[:, 0])
