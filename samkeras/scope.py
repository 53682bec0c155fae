"""A scope in which keras variables have other values, and assigning changes none."""

import contextlib
from collections.abc import Generator, Iterable
from contextvars import ContextVar
from typing import Any

import keras

Tensor = Any
Values = Iterable[tuple[keras.Variable, Tensor]]

_is_ascent = ContextVar("is_ascent", default=False)


def is_ascent() -> bool:
    """Whether a layer is called in a pass from which a method finds its perturbation:
    that at the weights, and those of further steps of ascent. Layers whose gradient is
    not that of what they compute, such as Shake-Shake's, may give the true one there,
    as Foret et al. (2021) do in their code."""
    return _is_ascent.get()


@contextlib.contextmanager
def ascending(is_on: bool) -> Generator[None]:
    """Has `is_ascent` say so."""
    token = _is_ascent.set(is_on)
    try:
        yield
    finally:
        _is_ascent.reset(token)


class Scope(keras.StatelessScope):
    """Remembers what is assigned within it, and shows the values of the scope around
    it where it has none of its own, which keras' own scope hides.

    Args:
        values: pairs of a variable and its value at the start.
        collect_losses: whether layers may add losses within it.
    """

    # Of the scope around it, which keras sets when this one is entered.
    original_scope = None

    def __init__(self, values: Values = (), collect_losses: bool = False):
        super().__init__(state_mapping=[*values], collect_losses=collect_losses)
        self._assigned: dict[int, keras.Variable] = {}

    @property
    def updates(self) -> list[tuple[keras.Variable, Tensor]]:
        """The variables that were assigned, in the order of their first time, each with
        its last value."""
        return [(v, self.get_current_value(v)) for v in self._assigned.values()]

    def add_update(self, update: tuple[keras.Variable, Tensor]) -> None:
        self._assigned[id(update[0])] = update[0]
        super().add_update(update)

    def get_current_value(self, variable: keras.Variable) -> Tensor | None:
        value = super().get_current_value(variable)
        if value is None and self.original_scope is not None:
            return self.original_scope.get_current_value(variable)
        return value


class MethodScope(Scope):
    """A scope in which only some variables may be assigned.

    Args:
        allowed: these.
        message: what to say of others, with {path} of the variable.
    """

    def __init__(self, allowed: list[keras.Variable], message: str):
        super().__init__()
        self._allowed = {id(variable) for variable in allowed}
        self._message = message

    def add_update(self, update: tuple[keras.Variable, Tensor]) -> None:
        if id(update[0]) not in self._allowed:
            raise ValueError(self._message.format(path=update[0].path))
        super().add_update(update)
