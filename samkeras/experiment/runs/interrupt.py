"""SIGINT and SIGTERM: the first asks training to stop, the second stops at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # the exit code


def raise_interrupt(number: int, frame: FrameType | None) -> None:
    """A signal's handler: as Ctrl-C."""
    raise KeyboardInterrupt


def end_at_once() -> None:
    """From now on a signal ends the process in silence: for its last moments, in which
    a KeyboardInterrupt would reach nobody but the screen."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(INTERRUPTED))


@contextmanager
def hidden_from_children() -> Iterator[None]:
    """Within its `with` block, processes are started that Ctrl-C does not reach."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


class StopRequest:
    """Within its `with` blocks, of which several may be open at once, the first signal
    only sets `requested`, so that training can finish its step and save. Outside, and
    from the second on, a signal raises KeyboardInterrupt."""

    requested = False
    _depth = 0

    def __enter__(self) -> "StopRequest":
        self._depth += 1
        if self._depth > 1:
            return self
        self._previous = {
            number: signal.signal(number, self._note)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth > 0:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
