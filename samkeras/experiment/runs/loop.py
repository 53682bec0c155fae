"""The loop that trains a run, from its checkpoint to its end."""

import contextlib
import functools
import time

from samkeras.backend import backend
from samkeras.calls import Call, Steps, Training
from samkeras.data.batches import Batches
from samkeras.experiment.runs.interrupt import StopRequest
from samkeras.experiment.runs.member import Member, Place
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
        _, self._num_processes = backend.find_process()

    def train(self) -> Training[None]:
        """Trains to the end of the run's last epoch.

        Raises:
            NotFiniteError: a number of training or validation is not finite.
            KeyboardInterrupt: a stop was requested.
        """
        model, batches, member = self._model, self._batches, self._member
        place = member.go_back(model, batches)
        while place.epoch < self._num_epochs:
            if place.logs is None:
                place = yield from self._train_epoch(place)
            pause = functools.partial(self._pause, place)
            scores = yield from self._validation.evaluate(pause)
            member.end_epoch(model, batches, place, scores)
            self._stop_if_requested()
            place = Place(place.epoch + 1)
        member.wait()
        # A grid must not go on with its next run.
        self._stop_if_requested()
        # None of a group ends before all can: killed then, the others would go on
        # without it.
        yield Call(model, (), None, is_training=False)

    def _train_epoch(self, place: Place) -> Training[Place]:
        """Trains from a place on to the end of its epoch's last step."""
        model, batches = self._model, self._batches
        batches.start_epoch(place.epoch, place.step)
        if place.step == 0:  # else they are the checkpoint's
            model.reset_metrics()
        started, like = time.monotonic(), batches.specs
        steps: Steps | None = None
        with contextlib.closing(batches.take(model.steps_per_execution)) as parts:
            for part in parts:
                rest = part
                while len(rest):
                    self._pause(place, steps)
                    taken = yield Call(model, rest, like, is_training=True)
                    # Of the steps before: the device takes these meanwhile.
                    self._note(place, steps)
                    steps, rest = taken, rest[taken.count :]
                    place = place._replace(step=place.step + taken.count)
                if place.step < batches.total:
                    self._pause(place, steps)  # before the next ones are made
        logs = {**self._note(place, steps), **batches.statistics()}
        seconds = time.monotonic() - started
        speed = batches.count_examples(batches.left) / seconds
        return place._replace(logs=logs, examples_per_second=speed)

    def _note(self, place: Place, steps: Steps | None) -> dict[str, float]:
        """Waits for the steps before a place, and tells the member of them. Returns the
        metrics after them."""
        if steps is None:
            return {}
        logs = steps.wait()
        self._member.end_steps(place, self._batches.total, logs["loss"])
        return logs

    def _pause(self, place: Place, steps: Steps | None = None) -> None:
        """Stops at a place where a stop is requested: of several processes, which must
        all stop at the same step, the first one decides after an epoch."""
        if not self._stop.requested or self._num_processes > 1:
            return
        self._note(place, steps)  # which may say that there is nothing to save
        if place.step > 0:  # else the checkpoint of the epoch before is as far
            self._member.save(self._model, self._batches, place)
        raise KeyboardInterrupt

    def _stop_if_requested(self) -> None:
        if backend.broadcast(self._stop.requested):
            raise KeyboardInterrupt
