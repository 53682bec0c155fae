"""How long does a rollout of PPO on Breakout take, and where, beside a plain loop?

    KERAS_BACKEND=tensorflow python benchmarks/ppo_loop.py
    KERAS_BACKEND=jax python benchmarks/ppo_loop.py --width_mult 1 --sam --skip_plain

The plain loop is what one writes first: Gymnasium's environments and wrappers one after
the other in one process, predict_on_batch to act, a loop over the steps for the
advantages and train_on_batch to learn, on the same network and loss, in the same
versions. A turn is a rollout of 8 x 128 frames with its 12 steps. The last columns are
the parts of the time that the environment, acting and learning take.
"""

import argparse
import collections
import time
from collections.abc import Callable

import numpy as np
from harness import Row, Seconds, make_parser, report, row, time_in_turns

NUM_ENVS, NUM_STEPS = 8, 128
PARTS = ("environment", "acting", "learning")


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__file__, __doc__, rounds=5)
    add = parser.add_argument
    add("--width_mult", type=float, default=0.5, help="multiplier of the widths")
    add("--sam", action="store_true", help="with SAM, of which the plain loop has none")
    add("--skip_plain", action="store_true", help="without the plain loop")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    method, size = "SAM" if args.sam else "Adam", f"x{args.width_mult:g}"
    ours, plain = f"samkeras {method} {size}", f"plain Adam {size}"
    loops = {ours: build_samkeras(args.width_mult, args.sam)}
    if not args.skip_plain:
        loops[plain] = build_plain(args.width_mult)
    spent = {name: collections.Counter() for name in loops}

    def turn_of(name: str) -> Callable[[int], None]:
        def turn(number: int) -> None:
            if number == 1:  # what the untimed turn spent is that of compiling
                spent[name].clear()
            loops[name](spent[name])

        return turn

    seconds = time_in_turns({name: turn_of(name) for name in loops}, args.rounds)
    to = ours if args.skip_plain else plain
    report(args, [describe(seconds, name, to, spent[name]) for name in loops])


def describe(seconds: Seconds, name: str, to: str, spent: collections.Counter) -> Row:
    """One loop's row, with its frames a second and the parts of its time."""
    found = row(seconds, name, to)
    parts = {part: spent[part] / sum(seconds[name]) for part in PARTS}
    rate = NUM_ENVS * NUM_STEPS / found["median_s"]
    return {**found, "frames_per_s": rate, **parts}


def timed(function: Callable, name: str, spent: collections.Counter) -> Callable:
    """The function, which adds the seconds that it takes to `spent`."""

    def call(*args):
        started = time.perf_counter()
        result = function(*args)
        spent[name] += time.perf_counter() - started
        return result

    return call


def build_samkeras(width_mult: float, sam: bool) -> Callable:
    from keras import ops

    from samkeras.experiment.options.parsing import parse_command
    from samkeras.experiment.options.targets import find_target
    from samkeras.experiment.runs import data
    from samkeras.experiment.runs.build import build_model, compile_model
    from samkeras.experiment.runs.run import Run
    from samkeras.experiment.tasks import PPO

    options = ["--width_mult", str(width_mult), "--sam", str(sam).lower()]
    (config,) = parse_command(find_target("atari_ppo"), options).configs
    splits = data.describe_data(config)
    model = build_model(Run(config), splits.info)
    rollouts = PPO().batches(config, splits.train, "order", model)
    compile_model(Run(config), model, rollouts.total)
    policy, step = rollouts._policy, rollouts._games.step

    def learn(batches):
        model.train_on_batches(batches)
        ops.convert_to_numpy(model.trainable_variables[0])  # waits for the steps

    def loop(spent: collections.Counter) -> None:
        rollouts._games.step = timed(step, "environment", spent)
        rollouts._policy = timed(
            lambda x: ops.convert_to_numpy(policy(x)), "acting", spent
        )
        timed(learn, "learning", spent)(rollouts.collect())

    return loop


def build_plain(width_mult: float) -> Callable:
    import ale_py
    import gymnasium as gym
    import keras
    from gymnasium import wrappers

    from samkeras.data.atari import FRAMES
    from samkeras.models.actor_critic import build_actor_critic
    from samkeras.ppo import PPOLoss, Target

    gym.register_envs(ale_py)
    batch_size, num_epochs = 256, 3

    def make():
        env = gym.make("ALE/Breakout-v5", frameskip=1)
        env = wrappers.AtariPreprocessing(env)
        env = wrappers.TransformReward(env, np.sign)
        return wrappers.FrameStackObservation(env, FRAMES[2])

    envs = gym.vector.SyncVectorEnv([make] * NUM_ENVS)
    built = build_actor_critic(FRAMES, 4, width_mult)
    model = keras.Model(built.inputs, built.outputs)
    optimizer = keras.optimizers.Adam(2.5e-4, global_clipnorm=0.5)
    model.compile(optimizer, PPOLoss())
    rng = np.random.default_rng(0)
    state = {"frames": np.moveaxis(envs.reset(seed=0)[0], 1, -1)}

    def learn(frames, target, spent):
        started = time.perf_counter()
        for _ in range(num_epochs):
            for chosen in rng.permutation(len(target)).reshape(-1, batch_size):
                minibatch = target[chosen]
                advantages = minibatch[:, 2]
                minibatch[:, 2] = advantages - advantages.mean()
                minibatch[:, 2] /= advantages.std() + 1e-8
                model.train_on_batch(frames[chosen], minibatch)
        spent["learning"] += time.perf_counter() - started

    def loop(spent: collections.Counter) -> None:
        step = timed(envs.step, "environment", spent)
        act = timed(model.predict_on_batch, "acting", spent)
        rollout = collections.defaultdict(list)
        for _ in range(NUM_STEPS):
            outputs = act(state["frames"])
            logits = outputs[:, :-1]
            log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            actions = np.argmax(log_probs + rng.gumbel(size=log_probs.shape), axis=1)
            frames, rewards, terminated, truncated, _ = step(actions)
            for name, part in {
                "frames": state["frames"],
                "actions": actions,
                "log_probs": log_probs[np.arange(NUM_ENVS), actions],
                "values": outputs[:, -1],
                "rewards": rewards,
                "ends": terminated | truncated,
            }.items():
                rollout[name].append(part)
            state["frames"] = np.moveaxis(frames, 1, -1)
        arrays = {name: np.array(parts) for name, parts in rollout.items()}
        values = np.append(arrays["values"], [act(state["frames"])[:, -1]], axis=0)
        advantages, following = np.zeros_like(arrays["values"]), 0.0
        for t in reversed(range(NUM_STEPS)):
            goes_on = 1.0 - arrays["ends"][t]
            delta = arrays["rewards"][t] + 0.99 * goes_on * values[t + 1] - values[t]
            advantages[t] = following = delta + 0.99 * 0.95 * goes_on * following
        target = Target(
            arrays["actions"],
            arrays["log_probs"],
            advantages,
            advantages + values[:-1],
            np.full_like(advantages, 0.1),
        )
        target = np.stack([np.ravel(part) for part in target], axis=-1)
        learn(arrays["frames"].reshape(-1, *FRAMES), target.astype("float32"), spent)

    return loop


if __name__ == "__main__":
    main()
