"""The learning rate of a run, step by step."""

from keras import ops
from keras.optimizers import schedules

from samkeras.experiment.options.groups import Config


class InverseSquareRoot(schedules.LearningRateSchedule):
    """factor * min(1, step / warmup) / sqrt(max(step, warmup)), steps counted from 0
    (Vaswani et al. 2017, equation 3, but for the model's size).

    Args:
        factor: of the rate.
        warmup_steps: steps in which the rate rises.
    """

    def __init__(self, factor: float, warmup_steps: int):
        self.factor, self.warmup_steps = factor, warmup_steps

    def __call__(self, step):
        step = ops.cast(step, "float32")
        warmup = float(max(1, self.warmup_steps))
        rise = ops.minimum(1.0, step / warmup)
        return self.factor * rise / ops.sqrt(ops.maximum(step, warmup))

    def get_config(self):
        return {"factor": self.factor, "warmup_steps": self.warmup_steps}


Rate = schedules.LearningRateSchedule | float
"""As an optimizer takes it."""


def build_schedule(config: Config, steps_per_epoch: int) -> Rate:
    """The learning rate of a run's steps.

    With the schedule "step" it drops after each milestone; with "cosine" it rises
    linearly for the warm-up and falls to 0 along a half cosine by the last step; with
    "linear" it falls in a line to 0 by the last step; with "inverse" it is divided by 1
    + lr_decay e in epoch e, counted from 0; with "rsqrt" it is a factor of
    `InverseSquareRoot`.
    """
    if config.lr_schedule == "rsqrt":
        return InverseSquareRoot(config.learning_rate, config.warmup_steps)
    if config.lr_schedule == "inverse":
        return schedules.InverseTimeDecay(
            config.learning_rate, steps_per_epoch, config.lr_decay, staircase=True
        )
    steps = config.total_epochs * steps_per_epoch
    if config.lr_schedule == "linear":
        return schedules.PolynomialDecay(config.learning_rate, steps, 0.0)
    if config.lr_schedule == "cosine":
        warmup = min(config.warmup_steps, steps - 1)
        rise = {"warmup_target": config.learning_rate, "warmup_steps": warmup}
        return schedules.CosineDecay(
            0.0 if warmup else config.learning_rate,
            steps - warmup,
            **(rise if warmup else {}),
        )
    milestones = (m * config.total_epochs for m in config.lr_milestones)
    # Several may round to one epoch; none is the first one.
    drops = [max(1, round(milestone)) for milestone in milestones]
    if not drops:
        return config.learning_rate
    epochs = sorted(set(drops))
    return schedules.PiecewiseConstantDecay(
        # Keras changes the rate after the boundary, not at it.
        [epoch * steps_per_epoch - 1 for epoch in epochs],
        [
            config.learning_rate * config.lr_decay ** sum(drop <= e for drop in drops)
            for e in (0, *epochs)
        ],
    )


def rate_at(rate: Rate, step: int) -> float:
    """The learning rate of a step, counted from 0."""
    return float(rate(step)) if callable(rate) else rate
