"""Many files, read in threads where that is faster."""

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

FIRST = 32  # calls that are timed
CHUNK = 256  # files that a thread reads in a row
PATIENCE = 1.0  # seconds that nothing is said
# Seconds of a call, below which threads wait longer for the interpreter's lock than
# they gain: of an image of 32 x 32 pixels, not of a larger one or of a slow disk's.
SHORT = 1.5e-4


def for_each(function: Callable[[int], bool], count: int, what: str) -> int | None:
    """Calls a function of an index, and says in a terminal how far it is where that
    takes more than a second. Calls that take long are made in threads.

    Args:
        function: is true, or else the last that is called.
        count: of indices.
        what: they are of, in a message.

    Returns:
        An index of which it is not true; None: there is none.
    """
    started, shown = time.monotonic(), False

    def call(start: int, end: int) -> int | None:
        for index in range(start, min(end, count)):
            if not function(index):
                return index
        return None

    failed = call(0, FIRST)
    if failed is not None:
        return failed
    threads = 1 if time.monotonic() - started < FIRST * SHORT else os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        starts = range(FIRST, count, CHUNK)
        ends = [start + CHUNK for start in starts]
        try:
            for start, failed in zip(starts, pool.map(call, starts, ends), strict=True):
                if failed is not None:
                    pool.shutdown(cancel_futures=True)
                    return failed
                if sys.stderr.isatty() and time.monotonic() - started > PATIENCE:
                    shown = True
                    text = f"\rreading {what}: {start:,} of {count:,}"
                    print(text, end="", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if shown:
        print(f"\rread {count:,} {what}{' ' * 20}", file=sys.stderr)
    return None
