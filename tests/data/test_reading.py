"""Many files are read by as many threads as make it faster."""

import math
import os
import threading
import time

import pytest

from samkeras.data import reading
from samkeras.data.reading import for_each

pytestmark = pytest.mark.one_backend


def find_threads(monkeypatch, count=2_000):
    """How many threads beside this one call a function, and that it is called once of
    each index."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(reading, "CHUNK", 50)
    together = threading.Barrier(4)
    threads, indices = {threading.get_ident()}, []

    def function(index):
        indices.append(index)
        if (mine := threading.get_ident()) not in threads:
            threads.add(mine)
            if reading.SHORT == 0:
                together.wait(60)  # for the others, which have begun
        return True

    assert for_each(function, count, "things") is None
    assert sorted(indices) == list(range(count))
    return len(threads) - 1


def test_calls_that_take_long_are_made_in_threads(monkeypatch):
    """Short ones wait longer for the interpreter's lock than threads gain."""
    monkeypatch.setattr(reading, "SHORT", math.inf)  # all are short
    assert find_threads(monkeypatch) == 1
    monkeypatch.setattr(reading, "SHORT", 0)
    assert find_threads(monkeypatch) == 4


@pytest.mark.parametrize("short", [0, math.inf])
@pytest.mark.parametrize("failing", [0, 31, 32, 500])
def test_the_first_that_is_not_true_ends_it(failing, short, monkeypatch):
    """The others that have not begun are not called."""
    monkeypatch.setattr(reading, "SHORT", short)
    called, is_over = [], threading.Event()

    def function(index):
        called.append(index)
        if is_over.is_set():
            time.sleep(1e-3)  # all others would take minutes
        if index == failing:
            is_over.set()
        return index != failing

    assert for_each(function, 1_000_000, "things") == failing
    assert len(called) < 500_000


def test_few_are_all_called(monkeypatch):
    assert for_each(lambda index: True, 0, "things") is None
    monkeypatch.setattr(reading, "SHORT", math.inf)
    assert find_threads(monkeypatch, count=33) == 1
