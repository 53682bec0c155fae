"""Many files, read in threads."""

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

CHUNK = 256  # files that a thread reads in a row
PATIENCE = 1.0  # seconds that nothing is said


def for_each(function: Callable[[int], bool], count: int, what: str) -> int | None:
    """Calls a function of an index in threads, and says in a terminal how far it is
    where that takes more than a second.

    Args:
        function: is true, or else the last that is called.
        count: of indices.
        what: they are of, in a message.

    Returns:
        An index of which it is not true; None: there is none.
    """
    started, shown = time.monotonic(), False

    def call(start: int) -> int | None:
        for index in range(start, min(start + CHUNK, count)):
            if not function(index):
                return index
        return None

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        starts = range(0, count, CHUNK)
        try:
            for start, failed in zip(starts, pool.map(call, starts), strict=True):
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
