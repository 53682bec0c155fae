"""How the device answers the calls of one run, or of several in turns."""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, cast

from samkeras.backend import backend
from samkeras.backend.interface import Rows
from samkeras.calls import Call, Outcome, Steps, Training
from samkeras.model import SAMModel

PART_SEC = 0.4


class Pace:
    """How many steps take less than half a second, as far as the last ones tell: until
    they are done nobody looks at whether a stop is requested."""

    def __init__(self) -> None:
        self._steps = 0
        self._end = 0.0  # of the last ones

    def choose(self, call: Call) -> int:
        """How many of a call's batches to take. Of several processes, which look at a
        stop after an epoch, all."""
        count = len(call.batches)
        if not isinstance(call.batches, Rows) or backend.find_process()[1] > 1:
            return count
        return min(count, max(self._steps, call.model.steps_per_execution))

    def begin(self, count: int) -> Callable[[], None]:
        """Notes that steps begin, when those before are done; to call when they are."""
        began, is_over = time.monotonic(), False

        def end() -> None:
            nonlocal is_over
            if is_over:
                return
            is_over, now = True, time.monotonic()
            seconds = max(now - max(began, self._end), 1e-6)
            self._steps, self._end = int(count * PART_SEC / seconds), now

        return end


class Device:
    """Takes the steps of some runs, those of one shape in one program."""

    def __init__(self) -> None:
        self._paces = {True: Pace(), False: Pace()}
        # Whose program it is, by what calls have in common: the run may be over.
        self._models: dict[Hashable, SAMModel] = {}

    def take(self, calls: Sequence[Call]) -> list[Steps | Exception]:
        """Takes the steps of calls, or says why it cannot."""
        shapes = [call.shape for call in calls]
        answers: dict[int, Steps | Exception] = {}
        for shape in dict.fromkeys(shapes):
            places = [i for i, other in enumerate(shapes) if other == shape]
            try:
                found = self._take_alike(shape, [calls[i] for i in places])
            except Exception as error:
                found = [error] * len(places)
            answers |= zip(places, found, strict=True)
        return [answers[i] for i in range(len(calls))]

    def _take_alike(self, shape: Hashable, calls: list[Call]) -> Sequence[Steps]:
        first = calls[0]
        if not len(first.batches):
            return [Steps(0, {}, lambda: None)]
        pace = self._paces[first.is_training]
        count = pace.choose(first)
        batches = [call.batches[:count] for call in calls]
        end = pace.begin(count)
        if len(calls) > 1:
            program = self._models.setdefault(shape, first.model)
            models = [call.model for call in calls]
            rows = cast(list[Rows], batches)
            logs = program.take_together(models, rows, first.is_training)
        elif first.is_training:
            logs = [first.model.train_on_batches(batches[0], first.like)]
        else:
            logs = [first.model.test_on_batches(batches[0], first.like)]
        return [Steps(count, each, end) for each in logs]


def train_together(
    trainings: Sequence[Training[Outcome]],
) -> Iterator[tuple[int, Outcome]]:
    """Trains runs in turns, and gives their numbers and results as they end.

    Raises:
        KeyboardInterrupt: one of them was interrupted. The others are sent what they
            have asked for, so that they can see to a stop themselves, and interrupted
            when they ask for more.
    """
    device = Device()
    interrupt: KeyboardInterrupt | None = None
    answers: dict[int, Any] = dict.fromkeys(range(len(trainings)))
    while answers:
        calls: dict[int, Call] = {}
        for number, answer in answers.items():
            training = trainings[number]
            try:
                if interrupt is not None and answer is None:
                    training.close()  # it has not begun
                elif isinstance(answer, BaseException):
                    calls[number] = training.throw(answer)
                else:
                    calls[number] = training.send(answer)
            except StopIteration as end:
                yield number, end.value
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is None:
            try:
                found = device.take([*calls.values()])
                answers = dict(zip(calls, found, strict=True))
                continue
            except KeyboardInterrupt as error:  # the second one
                interrupt = error
        answers = dict.fromkeys(calls, interrupt)
    if interrupt is not None:
        raise interrupt
