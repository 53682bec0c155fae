"""PPO's experience: games that a policy plays, in minibatches to learn from."""

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import numpy as np
from keras import ops

from samkeras.backend import backend
from samkeras.data.atari import FRAMES, Game, Games, Step
from samkeras.experiment.options.groups import PPOOptions
from samkeras.ppo import Target, estimate_advantages

Policy = Callable[[np.ndarray], Any]
"""From frames, uint8[game, height, width, frame], to the logits of the actions and last
the value, float32[game, action + 1]."""

Batch = tuple[Any, np.ndarray]

IDLE_STEPS = 4_500  # of four frames: five minutes of play


class Rollouts:
    """Rollouts of a policy, each a number of steps in several games, in minibatches.

    All games start anew at an epoch's begin, and what they do depends on (seed, epoch)
    and the policy alone. So an epoch's actions are all that it takes to go on within
    one: ale-py's vector environment cannot be copied, but repeated.

    Args:
        game: what is played.
        policy: who plays.
        config: sizes and constants.
        seed: seed of the games, actions and order of the minibatches.

    Attributes:
        total: minibatches of a whole epoch.
        first_batch: minibatches of the epoch that were done when it was started.
        actions: the actions of the epoch so far, uint8[step, game].
    """

    specs = None

    def __init__(self, game: Game, policy: Policy, config: PPOOptions, seed: int):
        self._config, self._seed, self._policy = config, seed, policy
        self._games = Games(game, config.num_actors)
        self.total = config.rollouts_per_epoch * config.batches_per_rollout
        self._estimate = backend.compile_function(
            lambda *arrays: estimate_advantages(
                *arrays, discount=config.discount, gae_lambda=config.gae_lambda
            )
        )
        self.actions = []
        self.start_epoch(0)

    @property
    def left(self) -> int:
        """Minibatches of the epoch from `first_batch` on."""
        return self.total - self.first_batch

    def start_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Starts an epoch's games; from its batch `first_batch` on, after the first of
        `actions`, which it takes again."""
        self.first_batch = first_batch
        num_rollouts = first_batch // self._config.batches_per_rollout
        actions = self.actions[: num_rollouts * self._config.rollout_steps]
        self._first_rollout = epoch * self._config.rollouts_per_epoch
        self._rollout = self._first_rollout + num_rollouts
        self._minibatches = []
        self._frames, self._lives = self._games.reset([self._seed, epoch])
        self._returns = np.zeros(self._games.count)
        self._lengths = np.zeros(self._games.count, "int64")
        self._ended = []
        self.actions = []
        for some in actions:
            self._step(some)

    def __getitem__(self, index: int) -> Batch:
        """A minibatch; its rollout is played when its first one is taken.

        Raises:
            IndexError: it is neither of the last rollout nor of the next.
        """
        if not 0 <= index < self.left:
            raise IndexError(f"minibatch {index} of {self.left}")
        size = self._config.batches_per_rollout
        number, place = divmod(self.first_batch + index, size)
        if self._first_rollout + number == self._rollout:
            self._minibatches = []  # of a whole rollout's memory
            self._minibatches = self.collect()
        if self._first_rollout + number != self._rollout - 1 or not self._minibatches:
            raise IndexError(f"minibatch {index} is not of the last or next rollout")
        return self._minibatches[place]

    @property
    def example(self) -> Batch:
        """A minibatch of one observation, which nobody has to play for."""
        target = np.zeros((1, len(Target._fields)), "float32")
        return np.zeros((1, *FRAMES), "uint8"), target

    def take(self, count: int) -> Generator[list[Batch]]:
        """A rollout's minibatches at a time, of which the next one depends on the
        weights that they lead to."""
        size = self._config.batches_per_rollout
        for first in range(0, self.left, size):
            yield [self[index] for index in range(first, first + size)]

    def count_examples(self, num_batches: int) -> int:
        """Observations, however often they are trained on."""
        config = self._config
        return num_batches * config.batch_size // config.rollout_epochs

    def capture(self) -> dict[str, np.ndarray]:
        return {"actions": np.array(self.actions)}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.actions = list(arrays["actions"])

    def _step(self, actions: np.ndarray) -> tuple[Step, np.ndarray]:
        """One action in each game, and whether it cost a life: bool[game]. Keeps
        account of scores and lengths."""
        self.actions.append(actions.astype("uint8"))
        step = self._games.step(actions)
        # At a game's end they are the next one's, which are not fewer.
        is_life_lost = step.lives < self._lives
        self._frames, self._lives = step.frames, step.lives
        self._returns += step.rewards
        self._lengths += 1
        for i in np.flatnonzero(step.terminated | step.truncated):
            self._ended.append((self._returns[i], self._lengths[i]))
            self._returns[i] = self._lengths[i] = 0
        return step, is_life_lost

    def statistics(self) -> dict[str, float]:
        """Means over the games that ended in this epoch: their scores and lengths in
        steps; nothing if none did."""
        if not self._ended:
            return {}
        score, length = np.mean(self._ended, axis=0)
        return {"episode_return": float(score), "episode_length": float(length)}

    def collect(self) -> list[Batch]:
        """Plays the next rollout.

        Returns:
            Its minibatches, of all passes over it: frames, uint8[observation, height,
            width, frame], and what to learn, see `samkeras.ppo.Target`.
        """
        config, count = self._config, self._games.count
        draws = np.random.default_rng([self._seed, self._rollout])
        num_rollouts = config.rollouts_per_epoch * config.total_epochs
        clip_range = config.clip_range * (1 - self._rollout / num_rollouts)
        self._rollout += 1
        shape = (config.rollout_steps, count)
        frames = np.empty((*shape, *self._frames.shape[1:]), "uint8")
        log_probs, values, rewards, end_values = (
            np.zeros(shape, "float32") for _ in range(4)
        )
        ends = np.zeros(shape, "bool")
        for t in range(config.rollout_steps):
            frames[t] = self._frames
            all_log_probs, values[t] = evaluate(self._policy, self._frames)
            actions = draw_actions(all_log_probs, draws)
            log_probs[t] = all_log_probs[np.arange(count), actions]
            step, is_life_lost = self._step(actions)
            rewards[t] = np.sign(step.rewards) if config.clip_rewards else step.rewards
            ends[t] = step.terminated | step.truncated
            if config.episodic_life:
                ends[t] |= is_life_lost
            if step.truncated.any():
                _, last_values = evaluate(self._policy, step.last_frames)
                end_values[t] = np.where(step.truncated, last_values, 0)
        _, values_after = evaluate(self._policy, self._frames)
        next_values = np.where(ends, end_values, [*values[1:], values_after])
        advantages = self._estimate(rewards, values, next_values, ends)
        advantages = ops.convert_to_numpy(advantages)
        # On the device once, as bytes: the minibatches are taken from it there.
        frames = ops.convert_to_tensor(frames.reshape(-1, *frames.shape[2:]))
        taken = np.array(self.actions[-config.rollout_steps :])
        target = Target(
            taken,
            log_probs,
            advantages,
            advantages + values,
            np.full(shape, clip_range),
        )
        target = np.stack([np.ravel(part) for part in target], axis=-1)
        target = target.astype("float32")
        return [
            (ops.take(frames, chosen, axis=0), _normalize_advantages(target[chosen]))
            for _ in range(config.rollout_epochs)
            for chosen in draws.permutation(len(target))
            .astype("int32")
            .reshape(-1, config.batch_size)
        ]


def play(
    policy: Policy, game: Game, count: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Plays whole games side by side, actions drawn from the policy as Flax's example
    evaluates: one that always takes the likeliest may never start the ball.

    A game ends, too, where for five minutes of play, a sixth of the longest game, it
    brings no score and costs no life, so that a policy that never presses FIRE is not
    watched to its end.

    Args:
        policy: who plays.
        game: what is played.
        count: number of games.
        seed: seed of games and actions.

    Yields:
        After each step the frames, uint8[game, height, width, frame], and the scores so
        far, float64[game].
    """
    games = Games(game, count)
    draws = np.random.default_rng(seed)
    frames, lives = games.reset([seed])
    scores, is_over = np.zeros(count), np.zeros(count, "bool")
    idle_steps = np.zeros(count, "int64")
    while not is_over.all():
        log_probs, _ = evaluate(policy, frames)
        step = games.step(draw_actions(log_probs, draws))
        frames = step.frames
        scores += np.where(is_over, 0, step.rewards)
        is_idle = (step.rewards == 0) & (step.lives == lives)
        idle_steps, lives = np.where(is_idle, idle_steps + 1, 0), step.lives
        is_over |= step.terminated | step.truncated | (idle_steps >= IDLE_STEPS)
        yield frames, scores


def evaluate(policy: Policy, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The log probabilities of the actions, float32[game, action], and the values,
    float32[game]."""
    outputs = ops.convert_to_numpy(policy(frames))
    logits, values = outputs[:, :-1], outputs[:, -1]
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), values


def draw_actions(log_probs: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """An action for each game by its probability: int64[game]."""
    # The largest of logits with Gumbel noise is distributed as they say.
    return np.argmax(log_probs + draws.gumbel(size=log_probs.shape), axis=1)


def _normalize_advantages(target: np.ndarray) -> np.ndarray:
    """A minibatch's target with advantages of mean 0 and deviation 1."""
    place = Target._fields.index("advantage")
    advantages = target[:, place]
    target[:, place] = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    return target
