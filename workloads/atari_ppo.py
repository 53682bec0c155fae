"""An actor-critic that learns to play Atari games by PPO."""

from functools import partial

from keras.metrics import MeanMetricWrapper

from samkeras.data.atari import Game, load_game
from samkeras.experiment.tasks import PPO
from samkeras.models.actor_critic import build_actor_critic
from samkeras.ppo import (
    PPOLoss,
    approximate_kl,
    clip_fraction,
    entropy,
    value_error,
)
from samkeras.workload import Workload

workload = Workload(
    task=PPO(),
    load=lambda config: load_game(
        Game(config.game, config.sticky_actions, config.noop_max, config.fire_reset),
        config.frames,
        config.eval_games,
    ),
    build=lambda config, info: build_actor_critic(
        info.input_shape, info.num_outputs, config.width_mult
    ),
    loss=lambda config: PPOLoss(config.value_coefficient, config.entropy_coefficient),
    metrics=[
        partial(MeanMetricWrapper, entropy, "entropy"),
        partial(MeanMetricWrapper, value_error, "value_loss"),
        partial(MeanMetricWrapper, clip_fraction, "clip_fraction"),
        partial(MeanMetricWrapper, approximate_kl, "approx_kl"),
    ],
    monitor="val_score",
    mode="max",
    version=2,  # games start as the example starts them
)
