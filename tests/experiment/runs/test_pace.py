"""The parts of an epoch, between which a stop is looked for."""

import pytest

from samkeras.backend.interface import Rows
from samkeras.experiment.runs import pace
from samkeras.experiment.runs.pace import Pace


def make_rows(count: int) -> Rows:
    return Rows((), {}, lambda tables, rows: (), None, 2, count)


@pytest.fixture
def clock(monkeypatch):
    """A function that lets seconds pass."""
    now = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_parts_take_as_long_as_a_stop_may(clock):
    """The first part tells how fast steps are; parts are those of one call, at least,
    and begin where the one before ends."""
    paced = Pace(4)
    sizes = []
    for seconds_a_step in (1 / 16, 1 / 16, 1 / 128, 1.0, 1 / 128):
        paced.start()
        start = 2
        for part in paced.cut(make_rows(100)):
            assert part.start == start
            start += len(part)
            clock(seconds_a_step * len(part))
            paced.end(len(part))
            sizes.append(len(part))
        assert start == 102
    assert sizes[:3] == [4, 6, 6]
    assert max(sizes) == 51  # 0.4 s of them
    slow = sizes[sizes.index(51) + 3 :]
    assert 4 in slow  # no less than those of one call, however long they take


def test_batches_of_the_host_are_as_they_are():
    batches = [object()] * 9
    assert list(Pace(4).cut(batches)) == [batches]
