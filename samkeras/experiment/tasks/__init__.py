"""The kinds of training that there are."""

from samkeras.experiment.tasks.ppo.task import PPO
from samkeras.experiment.tasks.supervised import Supervised

__all__ = ["PPO", "Supervised"]
