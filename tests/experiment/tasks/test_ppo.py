"""PPO on Atari: loss, advantages, rollouts, and whole runs with SAM."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

import run as command
import samkeras
from samkeras.data.atari import FRAMES, Game, Games, Step, load_game
from samkeras.errors import InputError
from samkeras.experiment.options.targets import find_target
from samkeras.experiment.tasks.ppo import evaluation, rollouts
from samkeras.experiment.tasks.ppo.rollouts import Rollouts, draw_actions, play
from samkeras.models.actor_critic import build_actor_critic
from samkeras.ppo import PPOLoss, estimate_advantages
from tests.helpers import parse_runs, relative_error, request_stop
from workloads import atari_ppo

SMALL = {
    "num_actors": 2,
    "rollout_steps": 16,
    "batch_size": 16,
    "rollout_epochs": 2,
    "eval_games": 1,
}


def parse_small(**options):
    values = {**SMALL, **options}
    arguments = [part for k, v in values.items() for part in (f"--{k}", str(v))]
    (config,) = parse_runs("atari_ppo", arguments)
    return config


@pytest.mark.parametrize(
    ("width_mult", "size"),
    [(0.5, 424_533), (1, 1_686_693), (1.5, 3_786_485), (2, 6_723_909)],
)
def test_parameter_counts_are_the_papers(width_mult, size):
    with keras.StatelessScope(initialize_variables=False):
        model = build_actor_critic(FRAMES, 4, width_mult)
        assert sum(np.prod(w.shape) for w in model.trainable_variables) == size


def advantages_by_loop(rewards, values, next_values, ends, discount, gae_lambda):
    """Equation 16 of Schulman et al. 2016 as it is written: a sum over what follows."""
    steps, actors = rewards.shape
    result = np.zeros((steps, actors))
    for actor in range(actors):
        for start in range(steps):
            for t in range(start, steps):
                delta = (
                    rewards[t, actor]
                    + discount * next_values[t, actor]
                    - values[t, actor]
                )
                result[start, actor] += (discount * gae_lambda) ** (t - start) * delta
                if ends[t, actor]:
                    break
    return result


def test_advantages_are_the_sums_of_what_follows():
    """Episodes end inside the rollout, at its edge, and not at all."""
    rng = np.random.default_rng(0)
    shape = (17, 3)
    rewards, values, next_values = rng.normal(size=(3, *shape)).astype("float32")
    ends = rng.random(shape) < 0.2
    ends[:, 2], ends[-1, 0], ends[-1, 1] = False, True, False
    assert ends[:-1, :2].any()
    arguments = (rewards, values, next_values, ends, 0.9, 0.8)
    got = ops.convert_to_numpy(estimate_advantages(*arguments))
    np.testing.assert_allclose(got, advantages_by_loop(*arguments), atol=1e-5)


def loss_by_hand(target, outputs, c_v, c_e):
    """Mean loss of a batch, and its gradient in the outputs, in NumPy."""
    action, old, advantage, value, c = target.T
    logits = outputs[:, :-1]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows, taken = np.arange(len(p)), action.astype(int)
    ratio = p[rows, taken] / np.exp(old)
    clipped = np.clip(ratio, 1 - c, 1 + c)
    entropy = -(p * np.log(p)).sum(axis=1)
    error = outputs[:, -1] - value
    gain = np.minimum(ratio * advantage, clipped * advantage)
    # The clipped gain is constant, and so is its gradient zero.
    moves = ratio * advantage <= clipped * advantage
    d_gain = (moves * ratio * advantage)[:, None] * (np.eye(p.shape[1])[taken] - p)
    d_entropy = -p * (np.log(p) + entropy[:, None])
    gradient = np.column_stack([-d_gain - c_e * d_entropy, 2 * c_v * error])
    loss = -gain + c_v * error**2 - c_e * entropy
    parts = {
        "entropy": entropy,
        "value_loss": error**2,
        "clip_fraction": np.abs(ratio - 1) > c,
        "approx_kl": ratio - 1 - np.log(ratio),
    }
    means = {name: part.mean() for name, part in parts.items()}
    return loss.mean(), gradient / len(p), means


@pytest.fixture
def batch():
    """x: float32[32, 5] and a target of 3 actions, with ratios on both sides of their
    range and advantages of both signs."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(32, 5)).astype("float32") / 2
    target = np.column_stack(
        [
            rng.integers(0, 3, 32),
            np.log(rng.uniform(0.25, 0.45, 32)),
            rng.normal(size=32),
            rng.normal(size=32),
            np.full(32, 0.2),
        ]
    ).astype("float32")
    return x, target


def build_linear(loss: PPOLoss, **options) -> samkeras.SAMModel:
    inputs = keras.Input((5,))
    model = samkeras.SAMModel(inputs, keras.layers.Dense(4, use_bias=False)(inputs))
    model.set_weights([np.random.default_rng(2).normal(size=(5, 4)) / 2])
    optimizer = samkeras.SGD(0.1)
    metrics = [make() for make in find_target("atari_ppo").load().metrics]
    model.compile(optimizer, loss, weighted_metrics=metrics, **options)
    return model


def test_loss_and_gradient_are_those_by_hand(batch):
    """A linear model: the gradient in its kernel is x^T times that in its outputs."""
    x, target = batch
    model = build_linear(PPOLoss(0.7, 0.3))
    outputs = x @ model.get_weights()[0]
    outputs = outputs.astype("float64")
    loss, gradient, means = loss_by_hand(target, outputs, 0.7, 0.3)
    assert 0.2 < means["clip_fraction"] < 0.8
    scores = model.evaluate(x, target, verbose=0, return_dict=True, batch_size=32)
    assert scores == pytest.approx({"loss": loss, **means}, rel=1e-5)
    (got,) = model.make_gradient_function()((x, target))
    assert relative_error([got], [x.T @ gradient]) < 1e-5


def test_a_sam_step_is_that_by_hand(batch):
    """w - lr * g(w + rho * g / |g|), the gradient clipped after the perturbation."""
    x, target = batch
    model = build_linear(PPOLoss(), method=samkeras.SAM(0.5))
    model.optimizer.global_clipnorm = 0.01
    w = model.get_weights()[0].astype("float64")

    def gradient_at(w):
        return x.T @ loss_by_hand(target, x @ w, 0.5, 0.01)[1]

    g = gradient_at(w)
    g = gradient_at(w + 0.5 * g / np.linalg.norm(g))
    expected = w - 0.1 * g * 0.01 / np.linalg.norm(g)
    model.train_on_batches([(x, target)])
    assert relative_error(model.get_weights(), [expected]) < 1e-6
    assert relative_error(model.get_weights(), [w]) > 1e-4


def test_steps_on_batches_are_those_of_fit(batch):
    """More batches than one compiled call takes, and their metrics' means."""
    x, target = batch
    kwargs = {"method": samkeras.SAM(0.1), "steps_per_execution": 2}
    fitted, stepped = (build_linear(PPOLoss(), **kwargs) for _ in range(2))
    history = fitted.fit(x, target, batch_size=8, shuffle=False, verbose=0).history
    batches = [(x[i : i + 8], target[i : i + 8]) for i in range(0, 32, 8)]
    stepped.train_on_batches(batches)
    assert relative_error(stepped.get_weights(), fitted.get_weights()) < 1e-6
    means = {k: float(v) for k, v in stepped.get_metrics_result().items()}
    assert means == pytest.approx({k: history[k][-1] for k in means}, rel=1e-5)
    for model in (fitted, stepped):  # one after the other, too
        model.fit(x, target, batch_size=8, shuffle=False, verbose=0)
    assert relative_error(stepped.get_weights(), fitted.get_weights()) < 1e-6


class ScriptedGames:
    """Two games whose frames hold their own clock: the first terminates after every 3
    steps, the second is cut off after every 5, and neither's frames are ever those of
    another episode."""

    count = 2

    def __init__(self, *_):
        self.clock = np.zeros(2, int)

    def reset(self, seed):
        self.clock[:] = 0
        return self.frames(self.clock), np.array([3, 3])

    def frames(self, clock):
        return np.broadcast_to(clock[:, None, None, None], (2, 1, 1, 1)).astype("uint8")

    def step(self, actions):
        self.clock += 1
        last = self.frames(self.clock)
        ends = self.clock == (3, 5)
        rewards = np.array([2.0, -3.0]) * self.clock
        self.clock[ends] = 0
        return Step(
            frames=self.frames(self.clock),
            rewards=rewards.astype("float32"),
            terminated=ends & [True, False],
            truncated=ends & [False, True],
            # The first game's second life is lost after two steps.
            lives=np.array([3 - (self.clock[0] == 2), 3]),
            last_frames=last,
        )


def clock_policy(frames):
    """Never takes action 1; the value is 10 times the clock."""
    clock = frames[:, 0, 0, 0].astype("float32")
    return np.stack([np.ones(2), np.full(2, -1e3), 10 * clock], 1).astype("float32")


@pytest.mark.parametrize("clip_rewards", [True, False])
@pytest.mark.parametrize("episodic_life", [True, False])
def test_no_transition_crosses_a_reset(monkeypatch, clip_rewards, episodic_life):
    """What is learned of a scripted game: after a termination nothing follows, a game
    that is cut off is worth what its last frames are, and at the rollout's edge the
    next frames' value follows."""
    monkeypatch.setattr(rollouts, "Games", ScriptedGames)
    config = parse_small(
        rollout_steps=8,
        rollout_epochs=1,
        clip_rewards=str(clip_rewards).lower(),
        episodic_life=str(episodic_life).lower(),
    )
    experience = Rollouts(Game("scripted"), clock_policy, config, seed=0)
    ((frames, target),) = experience.collect()
    clock = np.array([[0, 1, 2, 0, 1, 2, 0, 1], [0, 1, 2, 3, 4, 0, 1, 2]]).T
    rewards = (clock + 1) * [2.0, -3.0]
    if clip_rewards:
        rewards = np.sign(rewards)
    terminated, truncated = clock == [2, -1], clock == [-1, 4]
    if episodic_life:
        terminated = terminated | (clock == [1, -1])
    next_values = np.where(terminated, 0, 10 * (clock + 1))
    advantages = advantages_by_loop(
        rewards, 10.0 * clock, next_values, terminated | truncated, 0.99, 0.95
    )
    values = advantages + 10 * clock
    # By what is learned of it one knows a step again in the minibatch's order.
    got = sorted(zip(ops.convert_to_numpy(frames).ravel(), target[:, 3], strict=True))
    expected = sorted(zip(clock.ravel(), values.ravel(), strict=True))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert set(target[:, 0]) == {0}
    np.testing.assert_array_equal(target[:, 4], np.float32(0.1))
    assert np.abs(target[:, 2].mean()) < 1e-6
    assert target[:, 2].std() == pytest.approx(1, abs=1e-4)
    assert experience.statistics() == {
        "episode_return": pytest.approx((2 * 12 - 45) / 3),  # the rewards themselves
        "episode_length": pytest.approx(11 / 3),
    }


def test_games_end_as_the_loop_takes_them():
    """ale-py's convention: the step that ends a game brings the next one's begin, and
    beside it the last frames of the one that ended."""
    games, draws = Games(Game("breakout"), 4), np.random.default_rng(0)
    frames, _ = games.reset([0])
    assert frames.shape == (4, *FRAMES)
    for _ in range(400):
        before = frames
        step = games.step(draws.integers(0, 4, 4))
        frames = step.frames
        if step.terminated.any():
            break
    (game,) = np.flatnonzero(step.terminated)
    # The newest three from before are in the last ones still, not in the next game's.
    np.testing.assert_array_equal(
        step.last_frames[game, ..., :3], before[game, ..., 1:]
    )
    assert not step.frames[game, ..., :3].any()
    assert step.lives[game] == 5


def random_policy(frames):
    return np.zeros((len(frames), 5), "float32")


def test_an_epoch_goes_on_from_its_actions():
    """Games repeated up to a rollout go on as they would have, lives too."""
    config = parse_small(episodic_life="true", rollout_steps=96, batch_size=64)
    whole = Rollouts(Game("breakout"), random_policy, config, seed=1)
    whole.start_epoch(3)
    for _ in range(2):
        expected = whole.collect()
    resumed = Rollouts(Game("breakout"), random_policy, config, seed=1)
    resumed.actions = whole.actions[:96]
    resumed.start_epoch(3, config.batches_per_rollout)
    got = resumed.collect()
    assert len(got) == config.batches_per_rollout
    for batch, other in zip(got, expected, strict=True):
        for array, same in zip(batch, other, strict=True):
            np.testing.assert_array_equal(ops.convert_to_numpy(array), same)
    np.testing.assert_array_equal(resumed.actions, whole.actions)
    # Another epoch is another.
    whole.start_epoch(4)
    assert not np.array_equal(whole.collect()[0][0], expected[0][0])


def test_minibatches_are_taken_by_their_places():
    """Those of the rollouts, played when the first one is taken; out of turn, none."""
    config = parse_small(frames=128, eval_every=128)
    collected, indexed = (
        Rollouts(Game("breakout"), random_policy, config, seed=1) for _ in range(2)
    )
    size = config.batches_per_rollout
    assert (indexed.total, indexed.left, indexed.first_batch) == (4 * size, 4 * size, 0)
    for start in (0, size):
        expected = collected.collect()
        got = [indexed[start + place] for place in range(size)]
        for one, other in zip(got, expected, strict=True):
            for array, same in zip(one, other, strict=True):
                np.testing.assert_array_equal(array, same)
    for wrong in (0, 3 * size, 4 * size):
        with pytest.raises(IndexError, match=f"minibatch {wrong} "):
            indexed[wrong]
    indexed.start_epoch(1, size)
    assert indexed.left == 3 * size
    assert len(indexed[0]) == 2


def test_the_clip_range_falls_to_zero():
    """In a line over the run's rollouts."""
    config = parse_small(frames=128, eval_every=64)
    experience = Rollouts(Game("breakout"), random_policy, config, seed=0)
    ranges = []
    for epoch in range(2):
        experience.start_epoch(epoch)
        for _ in range(2):
            (_, target), *_ = experience.collect()
            ranges.append(target[0, 4])
    assert ranges == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_actions_are_drawn_by_their_probabilities():
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    log_probs = np.log(np.tile(probabilities, (20_000, 1)))
    actions = draw_actions(log_probs, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(actions) / 20_000, probabilities, atol=0.01)


def test_scores_are_of_whole_games():
    """The first game of each actor alone counts, and all are played to their ends."""
    game = Game("breakout")
    *_, (_, scores) = play(random_policy, game, 3, seed=5)
    *_, (_, again) = play(random_policy, game, 3, seed=5)
    np.testing.assert_array_equal(scores, again)
    games, draws = Games(game, 3), np.random.default_rng(5)
    games.reset([5])
    expected, is_over = np.zeros(3), np.zeros(3, bool)
    while not is_over.all():
        log_probs = np.full((3, 4), np.log(0.25), "float32")
        step = games.step(draw_actions(log_probs, draws))
        expected[~is_over] += step.rewards[~is_over]
        is_over |= step.terminated
    np.testing.assert_array_equal(scores, expected)
    assert scores.sum() > 0


class IdleGames:
    """Two games that never end: the first scores at its fourth step, the second loses
    a life then, and both nothing later."""

    def __init__(self, *_):
        self.clock = 0

    def reset(self, seed):
        return np.zeros((2, 1, 1, 1), "uint8"), np.array([3, 3])

    def step(self, actions):
        self.clock += 1
        frames = np.full((2, 1, 1, 1), self.clock, "uint8")
        return Step(
            frames=frames,
            rewards=np.array([7.0 * (self.clock == 4), 0]),
            terminated=np.zeros(2, bool),
            truncated=np.zeros(2, bool),
            lives=np.array([3, 3 - (self.clock >= 4)]),
            last_frames=frames,
        )


def test_games_in_which_nothing_happens_are_over(monkeypatch):
    """So many steps after the last score or lost life, not before."""
    monkeypatch.setattr(rollouts, "Games", IdleGames)
    monkeypatch.setattr(rollouts, "IDLE_STEPS", 5)
    scores = [scores.tolist() for _, scores in play(clock_policy, Game(""), 2, seed=0)]
    assert len(scores) == 4 + 5
    assert scores[-1] == [7, 0]


def test_games_start_as_the_options_say():
    """Without no-ops and FIRE, as Flax's example plays; frames played before the policy
    is asked, and FIRE, which brings Breakout's ball into play, on request."""

    def start(**options) -> tuple[np.ndarray, list[int]]:
        config = parse_small(**options)
        game = find_target("atari_ppo").load().load(config).train
        frames, info = game.start(4).reset(seed=np.arange(4))
        return frames[:, -1], info["episode_frame_number"].tolist()

    frames, played = start()
    assert played == [0] * 4
    _, played = start(noop_max=30)
    assert len(set(played)) > 1
    assert all(0 < count <= 30 for count in played)
    fired, played = start(fire_reset="true")
    assert set(played) == {1}
    assert np.any(fired != frames)


def test_a_game_without_fire_can_be_played():
    config = parse_small(game="freeway")
    splits = load_game(Game(config.game), 100, 1)
    assert splits.info.num_outputs == 3
    experience = Rollouts(
        splits.train, lambda x: np.zeros((len(x), 4), "float32"), config, seed=0
    )
    (frames, _), *_ = experience.collect()
    assert ops.convert_to_numpy(frames).any()


def test_unknown_games_are_refused():
    with pytest.raises(InputError, match=r"--game must .*Received: brekout.*breakout"):
        load_game(Game("brekout"), 100, 1)
    with pytest.raises(InputError, match=r"--noop_max must be less .*: 108000"):
        load_game(Game("breakout", noop_max=108_000), 100, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 12}, "--batch_size must divide .* 32. Received: 12"),
        ({"label_noise": 0.1}, "has no option --label_noise"),
        ({"sticky_actions": 2}, "--sticky_actions must be a number from 0 to 1"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        parse_small(**options)


@pytest.fixture
def train(records, tmp_path, monkeypatch, request):
    """A function: (name, options, stop) -> (exit code, the runs so far). With `stop`,
    one is requested within the second epoch."""

    def call(name: str, options: dict, stop: bool = False):
        request_stop(monkeypatch, ("train", 1, 4) if stop else None)
        monkeypatch.setattr(evaluation, "FILM_LENGTH", 20)
        experiment = f"{request.node.name}_{name}"
        places = {"run_dir": tmp_path / name}
        values = {**SMALL, **options, **places, "experiment": experiment}
        arguments = [part for k, v in values.items() for part in (f"--{k}", str(v))]
        code = command.main(["workloads/atari_ppo", *arguments])
        return code, records[experiment]

    return call


RUN = {
    "width_mult": 0.1,
    "sam": "true",
    "pruner": "snip",
    "sparsity": 0.5,
    "frames": 128,
    "eval_every": 64,
}


def load_best(folder) -> list[np.ndarray]:
    """The best weights of the run in a folder."""
    model = build_actor_critic(FRAMES, 4, RUN["width_mult"])
    model.load_weights(next(folder.glob("atari_ppo*/best.weights.h5")))
    return model.get_weights()


@pytest.mark.one_backend
def test_a_wrong_monitor_is_told_before_a_game_is_played(
    records, tmp_path, monkeypatch, capsys
):
    wrong = dataclasses.replace(atari_ppo.workload, monitor="val_scroe")
    monkeypatch.setattr(atari_ppo, "workload", wrong)
    assert command.main(["atari_ppo", "--frames=64", f"--run_dir={tmp_path}"]) == 2
    assert "must be one of val_score, val_score_std" in capsys.readouterr().err
    assert not any(records.values())


@pytest.mark.slow_on_tensorflow
def test_a_run_is_recorded(train, tmp_path, monkeypatch):
    """SAM with SNIP: its curves over observations, a film of a game, weights that are
    zero, and one program to train, on one device of two."""
    devices = ["cpu:0", "cpu:1"]
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: devices)
    code, (run,) = train("run", RUN)
    assert code == 0
    assert run.params["num_devices"] == "1"
    assert list(run.curves["val_score"]) == [64, 128]
    metrics = run.metrics
    names = {"entropy", "approx_kl", "clip_fraction", "value_loss", "sam_grad_norm"}
    assert names <= metrics.keys()
    assert 1.3 < metrics["entropy"] <= np.log(4) + 1e-6  # it has hardly learned yet
    assert metrics["compiled_programs"] == 1
    assert {"game.gif", "best.weights.h5", "config.yaml"} <= run.files
    kernels = np.concatenate(
        [w.ravel() for w in load_best(tmp_path / "run") if w.ndim > 1]
    )
    assert np.mean(kernels == 0) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.slow
def test_an_interrupted_run_ends_as_another_does(train, tmp_path):
    """Stopped between two rollouts: the same curves and weights, to the bit."""
    code, (whole,) = train("whole", RUN)
    assert code == 0
    code, (stopped,) = train("parts", RUN, stop=True)
    assert (code, stopped.status) == (130, "KILLED")
    code, (resumed,) = train("parts", RUN)
    assert (code, resumed) == (0, stopped)
    for name in whole.curves.keys() - {
        "compiled_programs",
        "examples_per_second",
        "seconds",
    }:
        assert resumed.curves[name] == whole.curves[name], name
    expected, got = (load_best(tmp_path / name) for name in ("whole", "parts"))
    for array, same in zip(got, expected, strict=True):
        np.testing.assert_array_equal(array, same)


def test_a_dry_run_counts(capsys):
    assert (
        command.main(["workloads/atari_ppo", "--width_mult", "0.5", "--dry_run"]) == 0
    )
    out = capsys.readouterr().out
    assert "parameters: 424,533 trainable" in out
    # 976 rollouts of 1,024 to each of 40 evaluations, in 12 steps each
    assert "steps: 11,712 an epoch, 468,480 in all" in out
