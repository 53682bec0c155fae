"""The device's answers to what runs ask for."""

import keras
import numpy as np
import pytest

from samkeras.backend.interface import Rows
from samkeras.calls import Call
from samkeras.experiment.runs import turns
from samkeras.experiment.runs.turns import Pace, train_together
from tests.helpers import (
    batches_of,
    build_classifier,
    compile_classifier,
    random_examples,
)


class Counting:
    """A model of steps of four in a call."""

    steps_per_execution = 4


def ask(count: int) -> Call:
    rows = Rows((), {}, lambda tables, rows: (), None, 2, count)
    return Call(Counting(), rows, None, is_training=True)


@pytest.fixture
def clock(monkeypatch):
    """A function that lets seconds pass."""
    now = [0.0]
    monkeypatch.setattr(turns.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_parts_take_as_long_as_a_stop_may(clock):
    """The first ones are those of one call; then the last one tells how fast steps
    are. What passes between them, as in validations, does not count."""
    pace, sizes = Pace(), []
    for seconds_a_step in (1 / 16, 1 / 16, 1 / 128, 1 / 128, 1.0, 1 / 128):
        count = pace.choose(ask(100))
        end = pace.begin(count)
        clock(seconds_a_step * count)
        end()
        end()  # which several runs may say
        clock(5.0)
        sizes.append(count)
    assert sizes == [4, 6, 6, 51, 51, 4]
    assert pace.choose(ask(20)) == 20


def test_steps_that_wait_for_others_do_not_take_longer(clock):
    """The device begins them when those before are done."""
    pace = Pace()
    first, second = pace.begin(8), pace.begin(16)
    clock(1.0)
    first()
    clock(1.0)
    second()
    assert pace.choose(ask(100)) == 6  # of 16 a second


def test_batches_of_the_host_are_taken_as_they_are():
    call = Call(Counting(), [object()] * 9, None, is_training=True)
    assert Pace().choose(call) == 9


def train_apart(number: int, fails_at: int | None = None):
    """A training of three epochs on batches of the host."""
    keras.utils.set_random_seed(number)
    model = compile_classifier(build_classifier())
    batches = [*batches_of(*random_examples(48))]
    for epoch in range(3):
        if epoch == fails_at:
            raise KeyboardInterrupt
        steps = yield Call(model, batches, None, is_training=True)
        logs = steps.wait()
    return logs["loss"]


@pytest.mark.each_backend
def test_trainings_in_turns_end_as_alone():
    alone = [dict(train_together([train_apart(i)]))[0] for i in range(3)]
    turned = dict(train_together([train_apart(i) for i in range(3)]))
    assert [turned[i] for i in range(3)] == alone
    assert len(set(alone)) == 3


def test_an_interrupt_of_one_stops_the_others():
    """Each has what it asked for, so that it can save, and no more; what has not begun
    does not begin."""
    seen = []

    def see():
        training = train_apart(1)
        steps = None
        while True:
            try:
                steps = yield training.send(steps)
                seen.append("steps")
            except KeyboardInterrupt:
                seen.append("interrupt")
                raise

    def begin():
        seen.append("begun")
        yield from train_apart(2)

    trainings = [train_apart(0, 1), see()]
    with pytest.raises(KeyboardInterrupt):
        next(train_together(trainings))
    assert seen == ["steps", "interrupt"]
    with pytest.raises(KeyboardInterrupt):
        next(train_together([train_apart(0, 0), begin()]))
    assert "begun" not in seen


def test_an_error_is_raised_in_the_training_that_asked():
    def ask_too_much():
        model = compile_classifier(build_classifier())
        try:
            yield Call(model, [(np.zeros((2, 3)), np.zeros(5))], None, True)
        except Exception as error:
            return type(error)

    results = dict(train_together([ask_too_much(), train_apart(1)]))
    assert issubclass(results[0], Exception)
    assert results[1] > 0
