"""Many files are read by as many threads as make it faster."""

import os
import threading
import time

import pytest

from samkeras.data.reading import for_each

pytestmark = pytest.mark.one_backend


def find_threads(seconds, count=2_000):
    """How many threads call a function that sleeps, and which indices."""
    threads, indices = set(), []

    def function(index):
        threads.add(threading.get_ident())
        indices.append(index)
        if seconds:
            time.sleep(seconds)
        return True

    assert for_each(function, count, "things") is None
    assert sorted(indices) == list(range(count))
    return len(threads - {threading.get_ident()})


def test_calls_that_take_long_are_made_in_threads(monkeypatch):
    """Short ones wait longer for the interpreter's lock than threads gain."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert find_threads(0) == 1
    assert find_threads(3e-4) == 4


@pytest.mark.parametrize("failing", [0, 31, 32, 1_500])
def test_the_first_that_is_not_true_ends_it(failing):
    called = []

    def function(index):
        called.append(index)
        return index != failing

    assert for_each(function, 2_000, "things") == failing
    assert len(called) < 2_000


def test_few_are_all_called():
    assert for_each(lambda index: True, 0, "things") is None
    assert find_threads(0, count=33) == 1
