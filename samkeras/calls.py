"""What a training asks of the device.

A run's training is a generator: it gives its next call and is sent the steps that the
device takes. So one loop trains one run, or many whose steps are one program.
"""

from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from samkeras.backend import backend
from samkeras.backend.interface import Logs, Rows
from samkeras.model import SAMModel

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Call:
    """Steps that a run wants taken.

    Attributes:
        model: whose.
        batches: on which; of Rows maybe the first ones alone. None at all: to wait for
            the other runs of a group.
        like: what all of them are like, see SAMModel.train_on_batches.
        is_training: whether it trains on them, or is evaluated.
    """

    model: SAMModel
    batches: Sequence[Any] | Rows
    like: Any
    is_training: bool

    @property
    def shape(self) -> Hashable:
        """What calls have in common that are one program."""
        rows = self.batches
        if not isinstance(rows, Rows):
            return id(self)
        return (self.is_training, rows.start, rows.count, rows.shape)


class Steps:
    """Steps that the device has been given.

    Attributes:
        count: how many.
    """

    def __init__(self, count: int, logs: Logs, end: Callable[[], None]):
        self.count = count
        self._logs, self._end = logs, end

    def wait(self) -> dict[str, float]:
        """The metrics after them, when they are done."""
        logs = backend.fetch(self._logs)
        self._end()
        return {name: float(value) for name, value in logs.items()}


Training = Generator[Call, Steps, Outcome]
"""A run's training, or a part of it."""
