"""An actor-critic that learns to play Atari games by PPO."""

from functools import partial

from samkeras.data.atari import Game, load_game
from samkeras.experiment.tasks import PPO
from samkeras.workload import Workload


def build(config, info):
    from samkeras.models.actor_critic import build_actor_critic

    return build_actor_critic(info.input_shape, info.num_outputs, config.width_mult)


def loss(config):
    from samkeras.ppo import PPOLoss

    return PPOLoss(config.value_coefficient, config.entropy_coefficient)


def mean_of(function, name):
    """A metric: the mean over examples of a function of samkeras.ppo."""
    from keras.metrics import MeanMetricWrapper

    from samkeras import ppo

    return MeanMetricWrapper(getattr(ppo, function), name)


workload = Workload(
    task=PPO(),
    load=lambda config: load_game(
        Game(config.game, config.sticky_actions, config.noop_max, config.fire_reset),
        config.frames,
        config.eval_games,
    ),
    build=build,
    loss=loss,
    metrics=[
        partial(mean_of, "entropy", "entropy"),
        partial(mean_of, "value_error", "value_loss"),
        partial(mean_of, "clip_fraction", "clip_fraction"),
        partial(mean_of, "approximate_kl", "approx_kl"),
    ],
    monitor="val_score",
    mode="max",
    version=2,  # games start as the example starts them
)
