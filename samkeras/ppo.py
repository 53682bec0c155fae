"""Proximal policy optimization (Schulman et al. 2017): its loss and its advantages."""

from typing import Any, NamedTuple

import keras
from keras import ops

Tensor = Any


class Target(NamedTuple):
    """What a policy and its value are trained on: float32[observation] each. A loss
    gets them as float32[observation, 5].

    Attributes:
        action: the number of the action that was taken.
        log_prob: its log probability then.
        advantage: its advantage, normalized over a minibatch.
        value: the return that is to be foreseen.
        clip_range: how far the ratio of the action's probability to the one then may
            go from 1 to any gain. It falls in the course of training.
    """

    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    value: Tensor
    clip_range: Tensor


@keras.saving.register_keras_serializable(package="samkeras")
class PPOLoss(keras.losses.Loss):
    """The clipped objective, the value's squared error and the policy's entropy
    (equation 9, to be minimized):

        -min(r A, clip(r, 1 - c, 1 + c) A) + c_v (V - R)^2 - c_e H

    where r is the ratio of the action's probability to the one it was taken with and c
    the clip range.

    Args:
        value_coefficient: c_v. Default 0.5.
        entropy_coefficient: c_e. Default 0.01.
    """

    def __init__(
        self,
        value_coefficient: float = 0.5,
        entropy_coefficient: float = 0.01,
        name: str = "ppo_loss",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.value_coefficient = value_coefficient
        self.entropy_coefficient = entropy_coefficient

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The losses of observations, float32[observation].

        Args:
            y_true: a `Target`'s parts, float32[observation, 5].
            y_pred: logits of the actions and last the value,
                float32[observation, action + 1].
        """
        target = Target(*ops.unstack(y_true, axis=-1))
        ratio = ops.exp(_log_ratio(target, y_pred))
        clipped = ops.clip(ratio, 1 - target.clip_range, 1 + target.clip_range)
        gain = ops.minimum(ratio * target.advantage, clipped * target.advantage)
        return (
            -gain
            + self.value_coefficient * value_error(y_true, y_pred)
            - self.entropy_coefficient * entropy(y_true, y_pred)
        )

    def get_config(self):
        return {
            **super().get_config(),
            "value_coefficient": self.value_coefficient,
            "entropy_coefficient": self.entropy_coefficient,
        }


def value_error(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """The squared errors of the values: float32[observation]."""
    return ops.square(y_pred[:, -1] - Target(*ops.unstack(y_true, axis=-1)).value)


def entropy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """The entropies of the policy, in nats: float32[observation]."""
    log_probs = ops.log_softmax(y_pred[:, :-1])
    return -ops.sum(ops.exp(log_probs) * log_probs, axis=-1)


def approximate_kl(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """r - 1 - log r, whose mean is the KL divergence from the policy that acted:
    float32[observation]."""
    log_ratio = _log_ratio(Target(*ops.unstack(y_true, axis=-1)), y_pred)
    return ops.expm1(log_ratio) - log_ratio


def clip_fraction(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """1 where the ratio is out of its range, else 0: float32[observation]."""
    target = Target(*ops.unstack(y_true, axis=-1))
    distance = ops.abs(ops.exp(_log_ratio(target, y_pred)) - 1)
    return ops.cast(distance > target.clip_range, "float32")


def _log_ratio(target: Target, y_pred: Tensor) -> Tensor:
    log_probs = ops.log_softmax(y_pred[:, :-1])
    taken = ops.one_hot(ops.cast(target.action, "int32"), log_probs.shape[-1])
    return ops.sum(log_probs * taken, axis=-1) - target.log_prob


def estimate_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    ends: Tensor,
    discount: float,
    gae_lambda: float,
) -> Tensor:
    """Generalized advantage estimation (Schulman et al. 2016, equation 16), over the
    steps of several actors at once, without a loop over the steps.

        delta_t = r_t + discount * V(s_t+1) - V(s_t)
        A_t = delta_t + discount * gae_lambda * A_t+1

    Args:
        rewards: float32[step, actor].
        values: float32[step, actor], the values of the observations acted on.
        next_values: float32[step, actor], the values of what came of it: 0 where the
            episode terminated, that of its last observation where it was cut off.
        ends: bool[step, actor], where an episode ended: A_t+1 is of another one.
        discount: gamma, from 0 to 1.
        gae_lambda: lambda, from 0 to 1.

    Returns:
        float32[step, actor].
    """
    deltas = rewards + discount * next_values - values
    factors = discount * gae_lambda * (1 - ops.cast(ends, "float32"))

    def compose(later, earlier):
        # Affine maps of A_t+1, each (factor, offset), one after the other.
        (f_later, d_later), (f_earlier, d_earlier) = later, earlier
        return f_earlier * f_later, d_earlier + f_earlier * d_later

    return ops.associative_scan(compose, (factors, deltas), reverse=True)[1]
