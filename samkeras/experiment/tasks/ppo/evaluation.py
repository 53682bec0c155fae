"""How good a policy is: whole games of it, and a film."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from samkeras.calls import Training
from samkeras.data.atari import Game
from samkeras.experiment.options.groups import PPOOptions
from samkeras.experiment.tasks.ppo.rollouts import Policy, play
from samkeras.seeds import derive_seed

FILM_LENGTH = 600  # steps
FILM_SIZE = (168, 168)
FRAME_MSEC = 67  # four frames of a console that shows 60 a second


class Evaluation:
    """Whole games of a policy, the same seeds' after every epoch. See
    samkeras.task.Validation.

    Args:
        policy: who plays.
        game: what is played.
        config: the number of games and the seed.
    """

    def __init__(self, policy: Policy, game: Game, config: PPOOptions):
        self._policy, self._game, self._config = policy, game, config

    def evaluate(self, pause: Callable[[], None]) -> Training[dict[str, float]]:
        """The mean score of the games, and its standard deviation."""
        yield from ()  # it asks for no steps
        seed = derive_seed(self._config.seed, "evaluation")
        count = self._config.eval_games
        scores = np.zeros(count)
        for _, so_far in play(self._policy, self._game, count, seed):
            scores = so_far
            pause()
        return {"val_score": float(scores.mean()), "val_score_std": float(scores.std())}

    def illustrate(self, folder: Path) -> list[Path]:
        """An animated picture of the begin of a game."""
        from PIL import Image

        seed = derive_seed(self._config.seed, "film")
        games = play(self._policy, self._game, 1, seed)
        pictures = [
            Image.fromarray(frames[0, ..., -1]).resize(FILM_SIZE)
            for frames, _ in itertools.islice(games, FILM_LENGTH)
        ]
        path = folder / "game.gif"
        pictures[0].save(
            path, save_all=True, append_images=pictures[1:], duration=FRAME_MSEC, loop=0
        )
        return [path]
