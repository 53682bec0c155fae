"""Numbers that a compiled train step reads while it runs."""

# Users pass what annotations forbid, and are told so.
# pyright: reportUnnecessaryIsInstance=false

import contextlib
import math
from collections.abc import Callable, Generator
from contextvars import ContextVar
from numbers import Integral, Real
from typing import Any, Self, overload

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

Tensor = Any
Fits = Callable[[float], bool]

# The step that is being taken, if one is, and the type that it computes numbers in.
_step: ContextVar[tuple[Tensor, str] | None] = ContextVar("step", default=None)


@contextlib.contextmanager
def reading_at(step: Tensor, dtype: str) -> Generator[None]:
    """Has all numbers be scalars of `dtype`, as they are at a step."""
    token = _step.set((step, dtype))
    try:
        yield
    finally:
        _step.reset(token)


def is_integer(value: Any) -> bool:
    """Whether a value is a whole number by its type, NumPy's too; bools are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any, least: float) -> bool:
    """Whether a value is a finite number >= `least` by its type; bools are none."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    number = _as_float(value)
    return math.isfinite(number) and number >= least


def is_at_least_0(number: float) -> bool:
    return number >= 0


def check_number(
    value: float | LearningRateSchedule,
    name: str,
    allowed: str = "a finite number >= 0",
    fits: Fits = is_at_least_0,
) -> float | LearningRateSchedule:
    """The number as a float, or the schedule.

    Args:
        value: what was given.
        name: what error messages call it.
        allowed: what they say that it must be. Default "a finite number >= 0".
        fits: finite number -> whether it is so. Default: whether it is >= 0.

    Raises:
        ValueError: the number does not fit, or is infinite or NaN in float32.
        TypeError: neither a number nor a schedule.
    """
    if isinstance(value, LearningRateSchedule):
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{name} must be a number or a keras LearningRateSchedule. "
            f"Received: {name}={value!r}"
        )
    number = _as_float(value)
    # What is a little below 1 may be 1 in float32, which steps compute in.
    rounded = _rounded(number, "float32")
    if abs(rounded) == math.inf and abs(value) < math.inf:
        shown = repr(value) if abs(number) < math.inf else "a number beyond float64"
        raise ValueError(f"{name} must be finite in float32. Received: {name}={shown}")
    if not (math.isfinite(number) and fits(number) and fits(rounded)):
        raise ValueError(f"{name} must be {allowed}. Received: {name}={value!r}")
    return number


class Hyperparameter:
    """A number, or a schedule of it, that may change without recompiling.

    The number lives in a variable that belongs to no layer, so that it is neither
    counted nor saved among a model's weights.

    Args:
        value: what `check_number` gives.
        name: what error messages call it.
    """

    def __init__(self, value: float | LearningRateSchedule, name: str):
        self._name = name
        self._schedule = value if isinstance(value, LearningRateSchedule) else None
        self.variables: list[keras.Variable] = []
        if not isinstance(value, LearningRateSchedule):
            self._given = value
            # The dtype is explicit because JAX recompiles when a number whose type was
            # left open is assigned one whose type is not.
            variable = keras.Variable(
                value, trainable=False, dtype=_widest_float(), name=name
            )
            self.variables = [variable]

    @property
    def value(self) -> Any:
        """The number as it stands now, or the schedule; within a step the scalar that
        it is there."""
        step = _step.get()
        if step is not None:
            return self.at(*step)
        if self._schedule is not None:
            return self._schedule
        # A sum first: several TensorFlow devices mirror the variable itself.
        held = keras.ops.convert_to_numpy(keras.ops.add(self.variables[0], 0.0))
        # 0.1, not 0.10000000149, unless the variable itself was assigned.
        is_given = held == _rounded(self._given, held.dtype.name)
        return self._given if is_given else float(held)

    @value.setter
    def value(self, value: float | LearningRateSchedule) -> None:
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
        self._given = value
        self.variables[0].assign(value)

    def at(self, step: Tensor, dtype: str) -> Tensor:
        """The number at optimizer step `step` (int scalar): a scalar of `dtype`."""
        if self._schedule is not None:
            return keras.ops.cast(self._schedule(step), dtype)
        return keras.ops.cast(self.variables[0].value, dtype)


class Number:
    """A number of a method, said in its class: an attribute that a compiled step reads
    at each call. Assigning it recompiles nothing, and trainings that differ in such
    numbers alone are one program. It may be a keras LearningRateSchedule of the step.

    Within a step it is what `Method.number` gives; elsewhere it is what was given.

    Args:
        allowed: what it must be, as error messages say it. Default "a finite number
            >= 0".
        fits: finite number -> whether it is so. Default: whether it is >= 0.

    Examples:
        >>> class Damped(samkeras.UnnormalizedSAM):
        ...     '''Whose gradient is taken by a share.'''
        ...
        ...     share = samkeras.Number("a number from 0 to 1", lambda x: 0 <= x <= 1)
        ...
        ...     def __init__(self, rho=0.05, share=0.5, **options):
        ...         super().__init__(rho, **options)
        ...         self.share = share
        ...
        ...     def combine(self, context, perturbed):
        ...         share = self.number(context, "share")  # a scalar tensor
        ...         return [share * g for g in perturbed]
        >>> model.compile("sgd", "mse", method=Damped(share=0.25))
        >>> model.method.share = 0.75  # takes effect without recompiling
        >>> model.method.get_config()
        {'rho': 0.05, 'share': 0.75}
    """

    def __init__(
        self, allowed: str = "a finite number >= 0", fits: Fits = is_at_least_0
    ):
        self._allowed, self._fits, self._name = allowed, fits, ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Any: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None:
            return self
        known = vars(instance).get(self._name)
        if known is None:
            raise AttributeError(f"{owner.__name__}.__init__ has set no {self._name}")
        return known.value

    def __set__(self, instance: object, value: float | LearningRateSchedule) -> None:
        # The instance's own attribute of that name, which Python looks at last.
        known = vars(instance).get(self._name)
        checked = check_number(value, self._name, self._allowed, self._fits)
        if known is None:
            vars(instance)[self._name] = Hyperparameter(checked, self._name)
        else:
            known.value = checked


def numbers_of(kind: type) -> list[str]:
    """The names of the `Number`s of a class, those of its bases first."""
    return [
        name
        for each in reversed(kind.__mro__)
        for name, value in vars(each).items()
        if isinstance(value, Number)
    ]


def _widest_float() -> str:
    """What NumPy's float64 is on the backend: float32 on JAX unless x64 is enabled."""
    number = keras.ops.convert_to_tensor(np.zeros(1, "float64"))
    return keras.backend.standardize_dtype(number.dtype)


def _as_float(number: Any) -> float:
    """Of a real number; what is too large is infinite, as in floats."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _rounded(number: float, dtype: str) -> float:
    """The number as a type of floats holds it."""
    with np.errstate(over="ignore"):
        return float(np.dtype(dtype).type(number))
