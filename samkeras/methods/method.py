"""The contract of sharpness-aware methods."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import keras
from keras.optimizers.schedules import LearningRateSchedule

from samkeras.backend import backend
from samkeras.hyperparameter import Hyperparameter
from samkeras.tensors import widest

Tensor = Any

# Added to a norm before dividing by it, as the paper's authors do.
NORM_EPSILON = 1e-12


class Role(NamedTuple):
    """What a weight does in its layer, by the layer's class.

    Attributes:
        kind: "kernel", "bias", "embedding", or "normalization": both the scales and the
            offsets of normalization layers. Weights of other layers are kernels.
        is_offset: whether it is added, as biases and offsets are.
    """

    kind: str
    is_offset: bool = False


class Context:
    """What a method sees of a step.

    Attributes:
        weights: the trainable weights w, tensors.
        roles: the `Role` of each of them.
        step: int scalar, the optimizer's step.
        mask: sets a list of tensors, one per weight, to zero where weights are pruned,
            as all gradients are.
    """

    def __init__(
        self,
        weights: list[Tensor],
        roles: Sequence[Role],
        step: Tensor,
        mask: Callable[[list[Tensor]], list[Tensor]],
        differentiate: Callable[[list[Tensor] | None], list[Tensor]],
    ):
        self.weights, self.roles, self.step, self.mask = weights, roles, step, mask
        self._differentiate = differentiate
        self._gradient: list[Tensor] | None = None

    @property
    def gradient(self) -> list[Tensor]:
        """The gradient of the training loss at w. The first use makes the pass."""
        # No cached_property, whose lock would keep TensorFlow's replicas from meeting.
        if self._gradient is None:
            self._gradient = self._differentiate(None)
        return self._gradient

    def gradients_at(self, epsilon: list[Tensor]) -> list[Tensor]:
        """The gradient at w + epsilon, on the same batch with the same random draws;
        each call makes a pass.

        The first pass of a step, whether here or at w, gives the loss, the predictions
        and the new state of layers.
        """
        return self._differentiate(epsilon)


class Method:
    """How a training step's gradient is found; the base class of all methods.

    A subclass defines `gradients`, and `update` if it has state:

        class Lookback(samkeras.Method):
            \"\"\"Adds what the gradient was at the step before.\"\"\"

            passes = 1.0

            def build(self, weights, roles):
                self.last = [self.add_state_like(w, "last") for w in weights]

            def gradients(self, context):
                return [g + last for g, last in zip(context.gradient, self.last)]

            def update(self, context, result):
                for last, g in zip(self.last, context.gradient):
                    last.assign(g)

    It stays the same method under mixed precision, in groups of m examples, on several
    devices and in fused steps: `gradients` reads the state that the step before left,
    and assigns nothing; `update` sees the mean gradient of all groups and devices,
    once a step, and is undone in a step that a LossScaleOptimizer skips.
    """

    passes: float = 2.0
    """forward-backward passes of a step, on average; progress and prices need it"""
    _state: tuple[keras.Variable, ...] = ()
    _built_for: list[int] | None = None

    @property
    def state(self) -> list[keras.Variable]:
        """The variables that `update` may assign: a part of every checkpoint and saved
        model, but not of `model.weights`."""
        return [*self._state]

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables of hyperparameters, which a compiled step reads at each
        call."""
        found = (v for v in vars(self).values() if isinstance(v, Hyperparameter))
        return [variable for h in found for variable in h.variables]

    def build_for(self, weights: list[keras.Variable], roles: Sequence[Role]) -> None:
        """Builds the method for a model, unless it is built for it already.

        Raises:
            ValueError: its state is that of another model's training.
        """
        known = [*map(id, weights)]
        if self._built_for == known:
            return
        if self._state:
            name = type(self).__name__
            raise ValueError(
                f"this {name} holds the state of another model's training; give each "
                f"model a {name} of its own"
            )
        self.build(weights, roles)
        self._built_for = known

    def build(self, weights: list[keras.Variable], roles: Sequence[Role]) -> None:
        """Makes the state, by `add_state` and `add_state_like`; called once, with the
        model's trainable weights, before the first step. By default there is none."""

    def add_state(
        self, shape: tuple[int, ...], name: str, dtype: str = "float32"
    ) -> keras.Variable:
        """A new variable of the state, zeros."""
        return self._keep(backend.make_state(shape, dtype, name))

    def add_state_like(self, weight: keras.Variable, name: str) -> keras.Variable:
        """A new variable of the state, zeros, of a weight's shape, and laid out on
        devices as it is. It has float32 numbers where the weight has fewer bits."""
        dtype = widest([weight])
        return self._keep(backend.make_state(weight.shape, dtype, name, like=weight))

    def gradients(self, context: Context) -> list[Tensor]:
        """The gradient that the optimizer gets.

        Args:
            context: the step. With `m_sharpness`, of one group of examples; the results
                of the groups are averaged.

        Returns:
            One tensor per weight, of its shape.
        """
        raise NotImplementedError

    def update(self, context: Context, result: list[Tensor]) -> None:
        """Assigns the state after a step. By default nothing.

        Args:
            context: the step. Its gradient is the mean over all groups of examples; it
                makes no more passes.
            result: what `gradients` returned, the mean too.
        """

    def get_config(self) -> dict[str, Any]:
        """The arguments that make the same method again."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The method of a config."""
        return cls(**config)

    def _keep(self, variable: keras.Variable) -> keras.Variable:
        self._state = (*self._state, variable)
        return variable


class Perturbation(Method):
    """A method that gives the optimizer the gradient at w + epsilon. A subclass defines
    `epsilon`.

    Args:
        rho: radius, a number >= 0 or a keras LearningRateSchedule of the step.
            Assigning `method.rho` later takes effect without recompiling. Default 0.05.

    Raises:
        ValueError: `rho` is negative or not finite.
        TypeError: `rho` is neither a number nor a schedule.
    """

    def __init__(self, rho: float | LearningRateSchedule = 0.05):
        self._rho = Hyperparameter(rho, "rho")

    @property
    def rho(self) -> float | LearningRateSchedule:
        """The radius as it stands now, or its schedule."""
        return self._rho.value

    @rho.setter
    def rho(self, value: float) -> None:
        self._rho.value = value

    def epsilon(self, context: Context) -> list[Tensor]:
        """What is added to the weights for the second pass: one tensor per weight, of
        its shape."""
        raise NotImplementedError

    def gradients(self, context: Context) -> list[Tensor]:
        return context.gradients_at(self.epsilon(context))

    def get_config(self) -> dict[str, Any]:
        return {"rho": keras.saving.serialize_keras_object(self.rho)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        rho = keras.saving.deserialize_keras_object(config["rho"])
        return cls(**{**config, "rho": rho})
