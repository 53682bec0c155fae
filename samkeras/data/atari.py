"""Atari games, many at once, in ale-py's own vector environment."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from samkeras.data.splits import DataInfo, Splits
from samkeras.errors import InputError, nearest

if TYPE_CHECKING:
    from ale_py import AtariVectorEnv

FRAMES = (84, 84, 4)  # height, width, the last grey frames
LONGEST_GAME = 108_000  # frames: half an hour of play


class Step(NamedTuple):
    """What came of one action in each of several games.

    Attributes:
        frames: uint8[game, height, width, frame], what the next action is to be chosen
            from: where a game ended, the next game's begin.
        rewards: float32[game], the score gained.
        terminated: bool[game], whether the game is over.
        truncated: bool[game], whether it was cut off for its length.
        lives: int[game], those left; where a game ended, the next game's.
        last_frames: as `frames`, where a game ended its last ones; elsewhere nothing to
            be relied on.
    """

    frames: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    lives: np.ndarray
    last_frames: np.ndarray


@dataclass(frozen=True)
class Game:
    """An Atari game as the v5 environments of Gymnasium play it: an action holds for
    four frames, of the last two of which the brighter pixels are seen, in grey at 84 x
    84; cut off after 108,000 frames. Two details are ale-py's, not Flax's example's:
    frames are resized by area, not linearly, and those before a game's first are black,
    not copies of it.

    Attributes:
        name: as ale-py spells it, such as "space_invaders".
        sticky_actions: probability that an action is the one before instead (Machado et
            al. 2018).
        noop_max: most frames of no action at a game's begin (Mnih et al. 2015).
        fire_reset: whether FIRE follows them, in games that have it.
    """

    name: str
    sticky_actions: float = 0.25
    noop_max: int = 0
    fire_reset: bool = False

    @property
    def num_actions(self) -> int:
        """Actions that mean something in this game."""
        return int(self.start(1).single_action_space.n)

    def start(self, count: int) -> "AtariVectorEnv":
        """Several of the game side by side. What they do depends on the seeds that
        they are reset with and on the actions alone."""
        from ale_py import AtariVectorEnv

        return AtariVectorEnv(
            self.name,
            count,
            # An end and the next begin are one step, so that every step is one of play.
            autoreset_mode="SameStep",
            repeat_action_probability=self.sticky_actions,
            max_num_frames_per_episode=LONGEST_GAME,
            frameskip=4,
            maxpool=True,
            noop_max=self.noop_max,
            use_fire_reset=self.fire_reset,
            stack_num=FRAMES[2],
            img_height=FRAMES[0],
            img_width=FRAMES[1],
            # Who plays makes of lives and rewards what it wants.
            episodic_life=False,
            reward_clipping=False,
        )


class Games:
    """Several of a game side by side, each followed by a next one when it ends.

    Args:
        game: which.
        count: how many.
    """

    def __init__(self, game: Game, count: int):
        self._environment = game.start(count)
        self.count = count

    def reset(self, seed: np.ndarray | list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Starts all anew.

        Args:
            seed: what the games' chances are drawn from, integers >= 0.

        Returns:
            The `frames` and `lives` of a `Step`.
        """
        seeds = np.random.SeedSequence(seed).generate_state(self.count) >> 1
        frames, info = self._environment.reset(seed=seeds.astype("int64"))
        return _frames_last(frames), info["lives"]

    def step(self, actions: np.ndarray) -> Step:
        """One action in each game, int[game]."""
        frames, rewards, terminated, truncated, info = self._environment.step(
            actions.astype("int64")
        )
        frames = last_frames = _frames_last(frames)
        if (terminated | truncated).any():
            last_frames = _frames_last(info["final_obs"])
        return Step(
            frames,
            rewards.astype("float32"),
            terminated,
            truncated,
            info["lives"],
            last_frames,
        )


def load_game(game: Game, frames: int, eval_games: int) -> Splits[Game]:
    """A game to learn and to be tested on, which are one and the same.

    Raises:
        InputError: there is no such game, or it would be over before it starts.
    """
    from ale_py import roms

    games = sorted(roms.get_all_rom_ids())
    if game.name not in games:
        raise InputError(
            f"--game must be one of ale-py's {len(games)}, such as breakout. "
            f"Received: {game.name}{nearest(game.name, games)}"
        )
    if game.noop_max >= LONGEST_GAME:
        raise InputError(
            f"--noop_max must be less than the {LONGEST_GAME} frames of the longest "
            f"game. Received: {game.noop_max}"
        )
    info = DataInfo(
        name=game.name,
        input_shape=FRAMES,
        num_outputs=game.num_actions,
        num_train=frames,
        num_validation=eval_games,
        num_classes=None,
    )
    return Splits(info, lambda: (game, game))


def _frames_last(frames: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(frames, 1, -1))
