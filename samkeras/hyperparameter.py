"""Numbers that a compiled train step reads while it runs."""

# Users pass what annotations forbid, and are told so.
# pyright: reportUnnecessaryIsInstance=false

import math
from numbers import Integral, Real
from typing import Any

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

Tensor = Any


def is_integer(value: Any) -> bool:
    """Whether a value is a whole number by its type, NumPy's too; bools are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any, least: float) -> bool:
    """Whether a value is a finite number >= `least` by its type; bools are none."""
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    return is_real and least <= float(value) < math.inf


class Hyperparameter:
    """A non-negative number, or a schedule of it, that may change without recompiling.

    The number lives in a variable that belongs to no layer, so that it is neither
    counted nor saved among a model's weights.

    Args:
        value: a finite number >= 0, or a keras LearningRateSchedule of the step.
        name: what error messages call it.

    Raises:
        ValueError: the number is negative, infinite or NaN.
        TypeError: neither a number nor a schedule.
    """

    def __init__(self, value: float | LearningRateSchedule, name: str):
        self._name = name
        self._schedule = value if isinstance(value, LearningRateSchedule) else None
        self.variables: list[keras.Variable] = []
        if self._schedule is None:
            number = self._checked(value)
            # The dtype is explicit because JAX recompiles when a number whose type was
            # left open is assigned one whose type is not.
            variable = keras.Variable(
                number, trainable=False, dtype=_widest_float(), name=name
            )
            self.variables = [variable]

    @property
    def value(self) -> float | LearningRateSchedule:
        """The number as it stands now, or the schedule."""
        if self._schedule is not None:
            return self._schedule
        # A sum first: several TensorFlow devices mirror the variable itself.
        return float(keras.ops.convert_to_numpy(keras.ops.add(self.variables[0], 0.0)))

    @value.setter
    def value(self, value: float) -> None:
        if self._schedule is not None:
            raise ValueError(
                f"{self._name} follows a schedule and cannot be set. "
                f"Received: {self._name}={value!r}"
            )
        if isinstance(value, LearningRateSchedule):
            raise TypeError(
                f"{self._name} was made as a number and can be set to another: give a "
                f"schedule when it is made. Received: {self._name}={value!r}"
            )
        self.variables[0].assign(self._checked(value))

    def at(self, step: Tensor, dtype: str) -> Tensor:
        """The number at optimizer step `step` (int scalar): a scalar of `dtype`."""
        if self._schedule is not None:
            return keras.ops.cast(self._schedule(step), dtype)
        return keras.ops.cast(self.variables[0].value, dtype)

    def _checked(self, value: float | LearningRateSchedule) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(
                f"{self._name} must be a number or a keras LearningRateSchedule. "
                f"Received: {self._name}={value!r}"
            )
        number = float(value)
        if not (math.isfinite(number) and number >= 0):
            raise ValueError(
                f"{self._name} must be a finite number >= 0. "
                f"Received: {self._name}={value!r}"
            )
        return number


def _widest_float() -> str:
    """What NumPy's float64 is on the backend: float32 on JAX unless x64 is enabled."""
    number = keras.ops.convert_to_tensor(np.zeros(1, "float64"))
    return keras.backend.standardize_dtype(number.dtype)
