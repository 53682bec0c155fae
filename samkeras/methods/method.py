"""The contract of sharpness-aware methods."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import keras
from keras import ops
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
        and the new state of layers. It must not be in a branch of `keras.ops.cond`;
        further ones may be.

        Raises:
            ValueError: epsilon has not one tensor per weight, of its shape.
        """
        return self._differentiate(epsilon)


class Method:
    """How a training step's gradient is found; the base class of all methods.

    A subclass defines `gradients`, and `build` and `update` if it has state. The names
    `state`, `state_of_weights`, `variables` and `passes` are taken.

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
    once a step, and is undone in a step that a LossScaleOptimizer skips. Random draws
    are functions of `context.step`, as those of `RandomPerturbation`.
    """

    passes: float = 2.0
    """forward-backward passes of a step, on average: what a step costs"""
    _state: tuple[tuple[keras.Variable, keras.Variable | None], ...] = ()
    _is_building: bool = False
    _built_for: list[int] | None = None

    @property
    def state(self) -> list[keras.Variable]:
        """The variables that `update` may assign: a part of every checkpoint and saved
        model, but not of `model.weights`."""
        return [variable for variable, _ in self._state]

    @property
    def state_of_weights(self) -> list[tuple[keras.Variable, keras.Variable | None]]:
        """The state, each variable with the weight that it is like, or None."""
        return [*self._state]

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables of hyperparameters, which a compiled step reads at each
        call."""
        found = (v for v in vars(self).values() if isinstance(v, Hyperparameter))
        return [variable for h in found for variable in h.variables]

    def build_for(self, weights: list[keras.Variable], roles: Sequence[Role]) -> None:
        """Builds the method for weights, unless it is built for them already.

        Raises:
            ValueError: it has state, of other weights.
        """
        known = [*map(id, weights)]
        if self._built_for == known:
            return
        if self._state:
            name = type(self).__name__
            raise ValueError(
                f"this {name} holds the state of training other weights; give each "
                f"model, and each choice of weights to train, a {name} of its own"
            )
        self._is_building = True
        self.build(weights, roles)
        self._is_building = False
        for variable in self.state:
            # What it was assigned may be a weight's own memory.
            variable.assign(ops.copy(backend.values_of([variable])[0]))
        self._built_for = known

    def build(self, weights: list[keras.Variable], roles: Sequence[Role]) -> None:
        """Makes the state, by `add_state` and `add_state_like`; called once, with the
        model's trainable weights, before the first step. By default there is none."""

    def add_state(
        self, shape: tuple[int, ...], name: str, dtype: str = "float32"
    ) -> keras.Variable:
        """A new variable of the state, zeros; `build` may assign something else.

        Args:
            shape: its shape.
            name: what it is, once in a method.
            dtype: its type. Default float32.

        Raises:
            ValueError: the name is taken, or the method is not being built.
        """
        return self._keep(name, None, tuple(shape), dtype)

    def add_state_like(self, weight: keras.Variable, name: str) -> keras.Variable:
        """A new variable of the state, zeros, of a weight's shape, and laid out on
        devices as it is. It has float32 numbers where the weight has fewer bits.

        Raises:
            ValueError: the weight has one of that name, or the method is not being
                built.
        """
        return self._keep(name, weight, tuple(weight.shape), widest([weight]))

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

    def _keep(
        self,
        name: str,
        weight: keras.Variable | None,
        shape: tuple[int, ...],
        dtype: str,
    ) -> keras.Variable:
        owner = type(self).__name__
        if not self._is_building:
            raise ValueError(f"{owner} must make its state in build. Received: {name}")
        if any(v.name == name and like is weight for v, like in self._state):
            raise ValueError(f"{owner} must name its state apart. Received: {name}")
        variable = backend.make_state(shape, dtype, name, like=weight)
        self._state = (*self._state, (variable, weight))
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

    def radius(self, context: Context) -> Tensor:
        """rho at a step, for `epsilon` to compute with: a scalar of the weights'
        `widest` type."""
        return self._rho.at(context.step, widest(context.weights))

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
