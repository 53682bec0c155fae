"""How many steps there are between two looks at whether a stop is requested."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from samkeras.backend import backend
from samkeras.backend.interface import Rows

PART_SEC = 0.4


class Pace:
    """Cuts batches that the device has into parts that take less than half a second,
    as far as the last part tells. Of several processes, which must all take the same
    steps in a call, and look at a stop after an epoch, there is one part.

    Args:
        steps: of the first part.
    """

    def __init__(self, steps: int):
        self._least = self._steps = steps
        self._is_alone = backend.find_process()[1] == 1
        self._last = time.monotonic()

    def cut(self, part: Sequence[Any] | Rows) -> Iterator[Sequence[Any] | Rows]:
        """Batches in parts; those that the host has made as they are."""
        while isinstance(part, Rows) and self._is_alone and len(part) > self._steps:
            first, part = part.split(self._steps)
            yield first
        yield part

    def start(self) -> None:
        """Notes that the next part begins."""
        self._last = time.monotonic()

    def end(self, steps: int) -> None:
        """Notes that a part of some steps is done, and the next one begins."""
        now = time.monotonic()
        seconds, self._last = max(now - self._last, 1e-6), now
        self._steps = max(self._least, int(steps * PART_SEC / seconds))
