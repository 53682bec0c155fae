"""The contract of sharpness-aware methods."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self, TypedDict

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from samkeras.backend import backend
from samkeras.errors import nearest
from samkeras.hyperparameter import (
    Hyperparameter,
    Number,
    is_integer,
    is_number,
    numbers_of,
)
from samkeras.tensors import global_norm, scale, widest

Tensor = Any
Passes = Callable[[], list[Tensor]]
Limits = tuple[str, Callable[[float], bool]]

# Added to a norm before dividing by it, as the paper's authors do.
NORM_EPSILON = 1e-12
KINDS = ("kernel", "bias", "embedding", "normalization")
SCOPES = ("global", "layer", "mup")


def is_fraction(number: float) -> bool:
    return 0 <= number < 1


def is_share(number: float) -> bool:
    return 0 < number <= 1


# What a `Number` must be that is one of these.
FRACTION: Limits = ("a number >= 0 and < 1 in float32", is_fraction)
SHARE: Limits = ("a number > 0 and <= 1 in float32", is_share)


def resize(length: Tensor, vector: list[Tensor]) -> list[Tensor]:
    """A vector in its direction, of the norm `length`; zeros stay zeros."""
    return scale(vector, length / (global_norm(vector) + NORM_EPSILON))


class Role(NamedTuple):
    """What a weight does in its layer, by the layer's class.

    Attributes:
        kind: "kernel", "bias", "embedding", or "normalization": both the scales and the
            offsets of normalization layers. Weights of other layers are kernels.
        is_offset: whether it is added, as biases and offsets are.
    """

    kind: str
    is_offset: bool = False


class Point(NamedTuple):
    """What a pass gives.

    Attributes:
        gradient: of the training loss, one tensor per weight.
        loss: scalar. Where the method says `uses_losses`, else None.
        losses: what each example adds to the loss, times their number, float[example]:
            its own loss times its weight, where the training loss is a mean of them.
            Where the method says so, and at w alone; None where `compute_loss` takes no
            weights of examples.
    """

    gradient: list[Tensor]
    loss: Tensor = None
    losses: Tensor = None


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
        make_pass: Callable[..., Point],
        find_losses: Callable[[list[Tensor]], Tensor],
        multiply: Callable[[list[Tensor]], list[Tensor]],
        find_momentum: Callable[[], list[Tensor]],
        branch: Callable[[Tensor, Passes, Passes], list[Tensor]],
    ):
        self.weights, self.roles, self.step, self.mask = weights, roles, step, mask
        self._make_pass, self._find_losses = make_pass, find_losses
        self._multiply = multiply
        self._find_momentum, self._branch = find_momentum, branch
        self._here: Point | None = None

    @property
    def here(self) -> Point:
        """What the pass at w gives. The first use makes it."""
        # No cached_property, whose lock would keep TensorFlow's replicas from meeting.
        if self._here is None:
            self._here = self._make_pass(None)
        return self._here

    @property
    def gradient(self) -> list[Tensor]:
        """The gradient of the training loss at w. The first use makes the pass."""
        return self.here.gradient

    @property
    def momentum(self) -> list[Tensor]:
        """The optimizer's running sum of gradients, times any positive number.

        Raises:
            ValueError: it has none.
        """
        return self._find_momentum()

    def at(
        self,
        epsilon: list[Tensor],
        examples: Tensor | None = None,
        *,
        ascends: bool = False,
    ) -> Point:
        """What a pass at w + epsilon gives, on the same batch with the same random
        draws.

        Args:
            epsilon: one tensor per weight.
            examples: int[example], the places of those of the batch that it is of,
                which then draw random numbers of their own. None (default): all.
            ascends: whether it is a pass on the way to a perturbation, as that at w is,
                see `samkeras.scope.is_ascent`. Default: not.

        The first pass of a step, whether here or at w, gives the loss, the predictions
        and the new state of layers. No pass may be in a branch of `keras.ops.cond`; see
        `cond`.

        Raises:
            ValueError: epsilon has not one tensor per weight, of its shape.
        """
        return self._make_pass(epsilon, examples, ascends)

    def gradients_at(self, epsilon: list[Tensor]) -> list[Tensor]:
        """The gradient at w + epsilon; each call makes a pass, see `at`."""
        return self.at(epsilon).gradient

    def losses_at(self, epsilon: list[Tensor]) -> Tensor:
        """The examples' losses at w + epsilon, see `Point`, which cost a third of a
        pass: nothing is differentiated, and BatchNorm's statistics stay.

        Raises:
            ValueError: the method does not say `uses_losses`, or has not looked at w
                before; or the loss takes no weights of examples.
        """
        return self._find_losses(epsilon)

    def hessian_product(self, vector: list[Tensor]) -> list[Tensor]:
        """The Hessian of the training loss at w times a vector, one tensor per weight,
        on the same batch with the same random draws; costs about two passes.

        Raises:
            ValueError: the vector has not one tensor per weight, of its shape; or there
                was no pass before; or the model has no second derivatives.
        """
        return self._multiply(vector)

    def cond(self, is_due: Tensor, yes: Passes, no: Passes) -> list[Tensor]:
        """What one of two functions gives, as of `keras.ops.cond`, which make passes or
        none: those of the other cost nothing, but where several runs are one program of
        a GPU, which always calls `no`. The pass at w is made before.

        Args:
            is_due: bool scalar, the same on all devices.
            yes: what to call where it is true; gives a list of tensors.
            no: likewise where it is not, of the same shapes and types.
        """
        _ = self.here  # a step's first pass is in no branch
        return self._branch(is_due, yes, no)

    def restricted(self, chosen: Sequence[bool]) -> "Context":
        """The step as if the loss depended on some of the weights alone: gradients are
        zero at the others.

        Args:
            chosen: of each weight, whether it is one of these.
        """

        def mask(tensors: list[Tensor]) -> list[Tensor]:
            return [
                tensor if is_chosen else ops.zeros_like(tensor)
                for tensor, is_chosen in zip(self.mask(tensors), chosen, strict=True)
            ]

        def make_pass(
            epsilon: list[Tensor] | None,
            examples: Tensor | None = None,
            ascends: bool = False,
        ) -> Point:
            found = self.here
            if epsilon is not None:
                found = self.at(epsilon, examples, ascends=ascends)
            return found._replace(gradient=mask(found.gradient))

        return Context(
            self.weights,
            self.roles,
            self.step,
            mask,
            make_pass,
            self.losses_at,
            self.hessian_product,
            self._find_momentum,
            self._branch,
        )


class Method:
    """How a training step's gradient is found; the base class of all methods.

    A subclass defines `gradients`, and `build` and `update` if it has state. The names
    `state`, `state_of_weights`, `variables`, `number`, `passes` and `uses_losses` are
    taken. Its numbers that assigning is not to recompile are each a `samkeras.Number`.

    It stays the same method under mixed precision, in groups of m examples, on several
    devices and in fused steps: `gradients` reads the state that the step before left,
    and assigns nothing; `update` sees the mean gradient of all groups and devices,
    once a step, and is undone in a step that a LossScaleOptimizer skips. Random draws
    are functions of `context.step`, as those of `RandomPerturbation`.

    Examples:
        >>> class Lookback(samkeras.Method):
        ...     '''Adds what the gradient was at the step before.'''
        ...
        ...     passes = 1.0
        ...
        ...     def build(self, weights, roles):
        ...         self.last = [self.add_state_like(w, "last") for w in weights]
        ...
        ...     def gradients(self, context):
        ...         return [g + last for g, last in zip(context.gradient, self.last)]
        ...
        ...     def update(self, context, result):
        ...         for last, g in zip(self.last, context.gradient):
        ...             last.assign(g)
        >>> model.compile("sgd", "mse", method=Lookback())
        >>> history = model.fit(x, y, verbose=0)
        >>> [variable.name for variable in model.method.state]
        ['last', 'last']
    """

    passes: float = 2.0
    """forward-backward passes of a step, on average: what a step costs"""
    uses_losses: bool = False
    """whether it needs the losses beside the gradients"""
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
        """The variables of its numbers, which a compiled step reads at each call."""
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

    def add_state_like(
        self, weight: keras.Variable, name: str, dtype: str | None = None
    ) -> keras.Variable:
        """A new variable of the state, zeros, of a weight's shape, and laid out on
        devices as it is. Unless another type is given it has the weight's, or float32
        where that has fewer bits.

        Raises:
            ValueError: the weight has one of that name, or the method is not being
                built.
        """
        shape = tuple(weight.shape)
        return self._keep(name, weight, shape, dtype or widest([weight]))

    def gradients(self, context: Context) -> list[Tensor]:
        """The gradient that the optimizer gets, but see `split`.

        Args:
            context: the step. With `m_sharpness`, of one group of examples; the results
                of the groups are averaged.

        Returns:
            One tensor per weight, of its shape.
        """
        raise NotImplementedError

    def split(
        self, context: Context, result: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        """What passes the optimizer by. By default nothing.

        Args:
            context: the step, as `update` gets it.
            result: what `gradients` returned, the mean too.

        Returns:
            The gradient that the optimizer gets, and None or what the weights move
            against besides, times the learning rate, before its step.
        """
        return result, None

    def update(self, context: Context, result: list[Tensor]) -> None:
        """Assigns the state after a step. By default nothing.

        Args:
            context: the step. Its gradient is the mean over all groups of examples; it
                makes no more passes.
            result: what `gradients` returned, the mean too.
        """

    def number(self, context: Context, name: str) -> Tensor:
        """One of its `Number`s at a step, for `gradients` to compute with: a scalar of
        the weights' `widest` type. A plain number in its place is a constant.

        Raises:
            AttributeError: there is none of that name.
            TypeError: it is neither a number nor a schedule.
        """
        dtype = widest(context.weights)
        value = vars(self).get(name)
        if isinstance(value, Hyperparameter):
            return value.at(context.step, dtype)
        names = numbers_of(type(self))
        if name not in names and not hasattr(self, name):
            raise AttributeError(
                f"{type(self).__name__} has no number {name}{nearest(name, names)}"
            )
        value = getattr(self, name)
        if isinstance(value, LearningRateSchedule):
            value = value(context.step)
        elif not is_number(value, -math.inf):
            raise TypeError(
                f"{name} must be a samkeras.Number, a finite number or a keras "
                f"LearningRateSchedule. Received: {name}={value!r}"
            )
        return ops.cast(value, dtype)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make the same method again: by default its numbers."""
        serialize = keras.saving.serialize_keras_object
        return {name: serialize(getattr(self, name)) for name in numbers_of(type(self))}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The method of a config."""
        made = {
            name: keras.saving.deserialize_keras_object(value)
            for name, value in config.items()
            if isinstance(value, dict)
        }
        return cls(**{**config, **made})

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


class PerturbationOptions(TypedDict, total=False):
    """What every `Perturbation` takes beside its own arguments; see there."""

    only: str | Callable[[keras.Variable, Role], bool]
    scope: str
    every: int
    start: int


class Perturbation(Method):
    """A method that gives the optimizer the gradient at w + epsilon. A subclass defines
    `epsilon`, and `combine` if the gradient at w has a part in it.

    Args:
        rho: radius, a number >= 0 or a keras LearningRateSchedule of the step.
            Assigning `method.rho` later takes effect without recompiling. Default 0.05.
        only: the weights that are perturbed: those of a kind of `Role`, such as
            "normalization" (SAM-ON, Mueller et al. 2023, whose rho is about ten times
            as large), or those of which a function of the variable and its role says
            so, (keras.Variable, Role) -> bool, which is registered with keras.saving
            where the model is to be saved. Norms are of these weights alone. All
            weights are trained. Default "all".
        scope: what is of norm rho: "global" (default): epsilon. "layer": its part of
            each weight tensor, such as a kernel or a bias. "mup": the same, times
            sqrt(n_out / n_in) of a kernel, whose last axis has size n_out and all
            others together n_in, and times sqrt(n) of n numbers in a vector: the size
            of the updates of maximal update parametrization, whatever the width. This
            rule is ours, after the aim of Haas et al. 2024.
        every: perturb every k-th step alone; the others take the gradient at w and cost
            one pass. Default 1.
        start: the first step that is perturbed, counted from 0. Default 0.

    Raises:
        ValueError: an argument is out of its range, or a model has no such weights.
        TypeError: `rho` is neither a number nor a schedule.

    Examples:
        >>> class Descend(samkeras.Perturbation):
        ...     '''The gradient at w - rho * g.'''
        ...
        ...     def epsilon(self, context):
        ...         return [-self.radius(context) * g for g in context.gradient]
        >>> model.compile("sgd", "mse", method=Descend(rho=0.1, every=2))
        >>> model.method.passes
        1.5
    """

    rho = Number()

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.05,
        *,
        only: str | Callable[[keras.Variable, Role], bool] = "all",
        scope: str = "global",
        every: int = 1,
        start: int = 0,
    ):
        self.rho = rho
        if not callable(only) and only not in ("all", *KINDS):
            raise ValueError(
                f"only must be one of all, {', '.join(KINDS)}, or a function of a "
                f"variable and its role. Received: only={only!r}"
            )
        if scope not in SCOPES:
            raise ValueError(
                f"scope must be one of {', '.join(SCOPES)}. Received: scope={scope!r}"
            )
        for name, value, least in (("every", every, 1), ("start", start, 0)):
            if not is_integer(value) or value < least:
                raise ValueError(
                    f"{name} must be an integer >= {least}. Received: {name}={value!r}"
                )
        self.only, self.scope = only, scope
        self.every, self.start = int(every), int(start)
        self.passes = 1 + (self.passes - 1) / self.every
        self._chosen: list[bool] | None = None

    def radius(self, context: Context) -> Tensor:
        """rho at a step, for `epsilon` to compute with: a scalar of the weights'
        `widest` type."""
        return self.number(context, "rho")

    def build_for(self, weights: list[keras.Variable], roles: Sequence[Role]) -> None:
        chosen = self._choose(weights, roles)
        super().build_for(weights, roles)
        self._chosen = chosen

    def _choose(
        self, weights: list[keras.Variable], roles: Sequence[Role]
    ) -> list[bool] | None:
        """Of each weight, whether it is perturbed; None: all are."""
        if self.only == "all":
            return None
        chosen = [
            bool(self.only(weight, role))
            if callable(self.only)
            else role.kind == self.only
            for weight, role in zip(weights, roles, strict=True)
        ]
        if not any(chosen):
            kinds = ", ".join(sorted({role.kind for role in roles})) or "none"
            raise ValueError(
                f"{type(self).__name__} perturbs only={self.only!r}, and the model has "
                f"no such trainable weight; it has these kinds: {kinds}"
            )
        return chosen

    def epsilon(self, context: Context) -> list[Tensor]:
        """What is added to the weights for the second pass: one tensor per weight, of
        its shape. Where `only` chooses weights, gradients are zero at the others."""
        raise NotImplementedError

    def perturb(self, context: Context) -> list[Tensor]:
        """The epsilon of a step, of the weights that `only` chooses."""
        return self.epsilon(self.restrict(context))

    def restrict(self, context: Context) -> Context:
        """The step as `epsilon` sees it, for an `update` of what it reads."""
        return context if self._chosen is None else context.restricted(self._chosen)

    def in_scope(
        self,
        context: Context,
        rule: Callable[..., list[Tensor]],
        *vectors: list[Tensor],
    ) -> list[Tensor]:
        """rule(radius, *vectors), for `epsilon` to compute with: of all weights as one
        vector, or of each tensor by itself, as `scope` says."""
        radius = self.radius(context)
        if self.scope == "global":
            return rule(radius, *vectors)
        return [
            rule(radius * self._share(part[0].shape), *([t] for t in part))[0]
            for part in zip(*vectors, strict=True)
        ]

    def _share(self, shape: tuple[int, ...]) -> float:
        """The factor of a tensor's radius."""
        if self.scope == "layer":
            return 1.0
        *sizes_in, size_out = (*shape,) or (1,)
        return math.sqrt(size_out / math.prod(sizes_in))

    def is_due(self, context: Context) -> Tensor | None:
        """Whether to perturb at a step, by `every` and `start`: bool scalar; None where
        all steps are."""
        if self.every == 1 and self.start == 0:
            return None
        since = context.step - self.start
        is_turn = ops.equal(since % self.every, 0)
        return ops.logical_and(since >= 0, is_turn)

    def combine(self, context: Context, perturbed: list[Tensor]) -> list[Tensor]:
        """The gradient that the optimizer gets.

        Args:
            context: the step, which has the gradient at w.
            perturbed: the gradient at w + epsilon.
        """
        return perturbed

    def sharpen(self, context: Context) -> list[Tensor]:
        """The gradient that the optimizer gets of a step that is perturbed."""
        return self.combine(context, context.gradients_at(self.perturb(context)))

    def skip(self, context: Context) -> list[Tensor]:
        """The gradient that the optimizer gets of any other step: by default that at
        w."""
        return context.gradient

    def gradients(self, context: Context) -> list[Tensor]:
        is_due = self.is_due(context)
        if is_due is None:
            return self.sharpen(context)
        return context.cond(
            is_due, lambda: self.sharpen(context), lambda: self.skip(context)
        )

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        # Subclasses from before, or without them, take no others.
        if callable(self.only):
            config["only"] = _serialize(self.only)
        elif self.only != "all":
            config["only"] = self.only
        if self.scope != "global":
            config["scope"] = self.scope
        if self.every != 1:
            config["every"] = self.every
        if self.start != 0:
            config["start"] = self.start
        return config


def _serialize(only: Callable[..., bool]) -> Any:
    """A function's config.

    Raises:
        ValueError: keras could not find it again.
    """
    owner: Any = only if inspect.isfunction(only) else type(only)
    name = keras.saving.get_registered_name(owner)
    if keras.saving.get_custom_objects().get(name) is not owner:
        raise ValueError(
            "a method is saved with a function that keras knows; decorate it with "
            "@keras.saving.register_keras_serializable(package=...), or give only= a "
            f"kind of weights. Received: only={only!r}"
        )
    return keras.saving.serialize_keras_object(only)
