"""Training by PPO: rollouts, steps on them and evaluation on whole games."""

import itertools
from functools import cached_property

import numpy as np

from samkeras.data.atari import FRAMES
from samkeras.experiment.runs.checkpoint import Arrays
from samkeras.experiment.runs.recorder import Recorder
from samkeras.experiment.tasks.ppo.rollouts import Policy, play
from samkeras.ppo import Target
from samkeras.seeds import derive_seed

FILM_LENGTH = 600  # steps
FILM_SIZE = (168, 168)
FRAME_MSEC = 67  # four frames of a console that shows 60 a second


class PPORecorder(Recorder):
    """Trains a run by PPO; its batches are `Rollouts`, its validation a `Game`.

    The score is the mean of whole games, the same seeds' in every epoch.
    """

    @cached_property
    def _policy(self) -> Policy:
        """The model's, compiled once a run for the games to learn and those to test."""
        return self.model.make_call_function()

    def _fit(self, first_epoch, end_epoch):
        model, rollouts = self.model, self._batches
        rollouts.policy = self._policy
        per_rollout = self._config.batches_per_rollout
        for epoch in range(first_epoch, end_epoch):
            model.reset_metrics()
            self.on_epoch_begin(epoch)
            for first in range(0, rollouts.left, per_rollout):
                self.on_train_batch_begin(first)
                places = range(first, first + per_rollout)
                model.train_on_batches([rollouts[place] for place in places])
                loss = float(model.get_metrics_result()["loss"])
                self.on_train_batch_end(places[-1], {"loss": loss})
            self.on_test_begin()
            self._logs |= rollouts.statistics()
            self.on_epoch_end(epoch, {**self._logs, **self._validate()})

    def _validate(self):
        seed = derive_seed(self._config.seed, "evaluation")
        count = self._config.eval_games
        scores = np.zeros(count)
        for _, so_far in play(self._policy, self._validation, count, seed):
            scores = so_far
            self.on_test_batch_begin(0)  # to stop here
        return {"val_score": scores.mean(), "val_score_std": scores.std()}

    def _resume(self):
        epoch, step = super()._resume()
        if self._restored is not None:
            self._batches.actions = list(self._restored["actions"])
        return epoch, step

    def _example_batch(self):
        targets = np.zeros((1, len(Target._fields)), "float32")
        return np.zeros((1, *FRAMES), "uint8"), targets

    def _capture(self) -> Arrays:
        return {"actions": np.array(self._batches.actions)}

    def _count_examples(self, num_batches):
        return super()._count_examples(num_batches) // self._config.rollout_epochs

    def _log_step(self, epoch):
        """Observations trained on."""
        epochs = epoch + 1
        return epochs * self._config.rollouts_per_epoch * self._config.rollout_size

    def illustrate(self, folder):
        """An animated picture of the begin of a game."""
        from PIL import Image

        seed = derive_seed(self._config.seed, "film")
        games = play(self._policy, self._validation, 1, seed)
        pictures = [
            Image.fromarray(frames[0, ..., -1]).resize(FILM_SIZE)
            for frames, _ in itertools.islice(games, FILM_LENGTH)
        ]
        path = folder / "game.gif"
        pictures[0].save(
            path, save_all=True, append_images=pictures[1:], duration=FRAME_MSEC, loop=0
        )
        return [path]
