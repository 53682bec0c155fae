"""SIGINT and SIGTERM: the first asks training to stop, the second stops at once."""

import signal
from types import FrameType


def raise_interrupt(number: int, frame: FrameType | None) -> None:
    """A signal's handler: as Ctrl-C."""
    raise KeyboardInterrupt


class StopRequest:
    """Within its `with` block the first signal only sets `requested`, so that training
    can finish its step and save. Outside, and from the second on, a signal raises
    KeyboardInterrupt."""

    requested = False

    def __enter__(self) -> "StopRequest":
        self._previous = {
            number: signal.signal(number, self._note)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
