"""What depends on some of a run's options, made once for all runs that have them the
same."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from samkeras.experiment.options.groups import Config

Result = TypeVar("Result")


class Recall(Generic[Result]):
    """Results of functions of configs, each remembered with the values of the fields
    that it read, also later on: it is given again for every config that has them."""

    def __init__(self) -> None:
        self._known: dict[Hashable, list[tuple[dict[str, Any], Result]]] = {}

    def call(
        self, key: Hashable, function: Callable[[Config], Result], config: Config
    ) -> Result:
        """function(config), or what it gave before.

        Args:
            key: what else the result depends on.
            function: reads the config's fields one by one, and changes nothing else.
            config: a run's options.
        """
        known = self._known.setdefault(key, [])
        for read, result in known:
            if all(getattr(config, name) == value for name, value in read.items()):
                return result
        observed, read = _observe(config)
        result = function(observed)
        known.append((read, result))
        return result


def _observe(config: Config) -> tuple[Config, dict[str, Any]]:
    """A copy of a config, and the fields of it that are read by and by, with their
    values."""
    names = {field.name for field in dataclasses.fields(config)}
    read: dict[str, Any] = {}

    class Observed(type(config)):
        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name in names:
                read[name] = value
            return value

    observed = object.__new__(Observed)
    vars(observed).update(vars(config))
    return observed, read
