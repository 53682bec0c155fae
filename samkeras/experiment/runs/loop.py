"""The loop that trains a run, from its checkpoint to its end."""

import contextlib
import functools
import itertools
import time
from typing import Any

from samkeras.backend import backend
from samkeras.data.batches import Batches
from samkeras.experiment.runs.interrupt import StopRequest
from samkeras.experiment.runs.member import Member, Place
from samkeras.experiment.runs.pace import Pace
from samkeras.model import SAMModel
from samkeras.task import Validation


class Loop:
    """Trains a model: takes the next batches, has the model train on them, validates it
    after each epoch, and tells the run's member.

    When a stop is requested, the steps under way are finished, a checkpoint is saved
    and KeyboardInterrupt raised.

    Args:
        model: compiled.
        batches: what it is trained on.
        validation: what it is validated by.
        member: the run.
        num_epochs: of the whole run.
        stop: whether a stop is requested.
    """

    def __init__(
        self,
        model: SAMModel,
        batches: Batches,
        validation: Validation,
        member: Member,
        num_epochs: int,
        stop: StopRequest,
    ):
        self._model, self._batches, self._validation = model, batches, validation
        self._member, self._num_epochs, self._stop = member, num_epochs, stop
        self._pace = Pace(model.steps_per_execution)
        _, self._num_processes = backend.find_process()

    def train(self) -> None:
        """Trains to the end of the run's last epoch.

        Raises:
            NotFiniteError: a number of training or validation is not finite.
            KeyboardInterrupt: a stop was requested.
        """
        model, batches, member = self._model, self._batches, self._member
        place = member.go_back(model, batches)
        while place.epoch < self._num_epochs:
            if place.logs is None:
                place = self._train_epoch(place)
            scores = self._validation.evaluate(functools.partial(self._pause, place))
            member.end_epoch(model, batches, place, scores)
            self._stop_if_requested()
            place = Place(place.epoch + 1)
        member.wait()
        # A grid must not go on with its next run.
        self._stop_if_requested()

    def _train_epoch(self, place: Place) -> Place:
        """Trains from a place on to the end of its epoch's last step."""
        model, batches = self._model, self._batches
        batches.start_epoch(place.epoch, place.step)
        if place.step == 0:  # else they are the checkpoint's
            model.reset_metrics()
        started, like = time.monotonic(), batches.specs
        self._pace.start()
        logs: dict[str, Any] = {}
        loss, count = None, 0
        with contextlib.closing(batches.take(model.steps_per_execution)) as parts:
            for part in itertools.chain.from_iterable(map(self._pace.cut, parts)):
                self._pause(place, loss)
                logs = model.train_on_batches(part, like)
                # Of the steps before: the device takes these meanwhile.
                self._note(place, loss, count)
                loss, count = logs["loss"], len(part)
                place = place._replace(step=place.step + count)
                if place.step < batches.total:
                    self._pause(place, loss)  # before the next ones are made
        self._note(place, loss, count)
        results = {**backend.fetch(logs), **batches.statistics()}
        logs = {name: float(value) for name, value in results.items()}
        seconds = time.monotonic() - started
        speed = batches.count_examples(batches.left) / seconds
        return place._replace(logs=logs, examples_per_second=speed)

    def _note(self, place: Place, loss: Any, count: int = 0) -> None:
        """Waits for the `count` steps before a place, and tells the member of them."""
        if loss is not None:
            self._member.end_steps(
                place, self._batches.total, float(backend.fetch(loss))
            )
            self._pace.end(count)

    def _pause(self, place: Place, loss: Any = None) -> None:
        """Stops at a place where a stop is requested: of several processes, which must
        all stop at the same step, the first one decides after an epoch."""
        if not self._stop.requested or self._num_processes > 1:
            return
        self._note(place, loss)  # which may say that there is nothing to save
        if place.step > 0:  # else the checkpoint of the epoch before is as far
            self._member.save(self._model, self._batches, place)
        raise KeyboardInterrupt

    def _stop_if_requested(self) -> None:
        if backend.broadcast(self._stop.requested):
            raise KeyboardInterrupt
