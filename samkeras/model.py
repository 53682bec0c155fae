"""SAMModel: a keras.Model whose training step is sharpness-aware."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule
from keras.src.backend.common.global_state import get_global_attribute
from keras.src.models.functional import Functional

from samkeras import optimizers  # noqa: F401 registers SGD, which models are saved with
from samkeras.backend import Trainer
from samkeras.hyperparameter import Hyperparameter, is_integer
from samkeras.masks import Masks, copy_masks, set_masks
from samkeras.perturbation import Perturbation
from samkeras.step import (
    GRADIENT_METRICS,
    GradientMetrics,
    add_l2,
    compare_gradients,
    poison_unless_finite,
)

# A mask's name in a weights file; the number is its weight's place in model.weights.
MASK_PREFIX = "mask_"


@keras.saving.register_keras_serializable(package="samkeras")
class SAMModel(Trainer):
    """A keras.Model that trains with sharpness-aware minimization.

    Built, fitted, evaluated, saved and loaded as any keras.Model, functional or
    subclassed. With `perturbation=None`, `l2=0` and no masks it trains as keras.Model
    does, to the bit.
    """

    _perturbation = None
    _m_sharpness = None
    _l2 = None
    _gradient_metrics = None

    def __init__(self, *args, **kwargs):
        if len(args) == 2 or "outputs" in kwargs:
            # keras.Model puts Functional among the bases of its subclasses themselves,
            # where all other models of the process would have it too.
            self.__class__ = _make_functional(type(self))
        super().__init__(*args, **kwargs)

    def __reduce__(self):
        # Pickle looks classes up by their names, where a functional model's is not.
        _, arguments = super().__reduce__()
        return SAMModel._unpickle_model, arguments

    def compile(
        self,
        *args,
        perturbation: Perturbation | None = None,
        l2: float | LearningRateSchedule = 0.0,
        m_sharpness: int | None = None,
        **kwargs,
    ) -> None:
        """Configures training; see keras.Model.compile for the other arguments.

        Args:
            perturbation: where the gradient is taken: `SAM`, `UnnormalizedSAM` or
                `RandomPerturbation`. None (default): at the weights, as the optimizer
                alone does. Training then logs `grad_norm`, `sam_grad_norm` and
                `grad_cosine`: the epoch's means, the last two of every tenth step.
            l2: coupled weight decay, a number >= 0 or a schedule of the step: l2 * w
                at the unperturbed weights is added to the gradient of every trainable
                weight before clipping and the optimizer. Default 0, no such term.
            m_sharpness: examples that share an epsilon (Foret et al. 2021, section
                4.1): a batch is cut into groups of m in its order, each takes both its
                passes by itself, BatchNorm included, and their gradients at w + epsilon
                are averaged over the examples. The last group may be smaller. None
                (default): the whole batch.

        Raises:
            TypeError: `perturbation` is not a Perturbation.
            ValueError: `l2` is negative or not finite; `m_sharpness` is not an integer
                >= 1 or there is no perturbation.
        """
        self._gradient_metrics = None
        self._set_rule(perturbation, m_sharpness)
        checked = Hyperparameter(l2, "l2")
        self._l2 = None if l2 == 0 else checked
        super().compile(*args, **kwargs)

    @property
    def perturbation(self) -> Perturbation | None:
        """Where the gradient is taken. Assigning another one compiles the step anew."""
        return self._perturbation

    @perturbation.setter
    def perturbation(self, value: Perturbation | None) -> None:
        self._set_rule(value, self.m_sharpness)
        self._renew_train_function()

    @property
    def m_sharpness(self) -> int | None:
        """Examples that share an epsilon. Assigning it compiles the step anew."""
        return self._m_sharpness

    @m_sharpness.setter
    def m_sharpness(self, value: int | None) -> None:
        self._set_rule(self.perturbation, value)
        self._renew_train_function()

    @property
    def l2(self) -> float | LearningRateSchedule:
        """Coupled weight decay. Assigning it takes effect without recompiling."""
        return 0.0 if self._l2 is None else self._l2.value

    @l2.setter
    def l2(self, value: float) -> None:
        if self._l2 is None:
            raise ValueError(
                "l2 can be changed only in a model compiled with l2 > 0. "
                f"Received: l2={value!r}"
            )
        self._l2.value = value

    def set_masks(self, kept: list[tuple[keras.Variable, np.ndarray]]) -> None:
        """Sets weights to zero, where they stay in training, saving and loading.

        Masks are constraints of their weights: they hold in every model that trains
        them, a plain keras.Model too if it has not trained yet. Only a SAMModel saves
        and clones them.

        Args:
            kept: pairs of a weight of the model and a bool array of its shape, True
                where the weight is kept. Weights without a pair are kept whole.

        Raises:
            ValueError: an array is not of its weight's shape, or there is no such
                weight.
        """
        set_masks(self.weights, kept)
        self._renew_train_function()

    @property
    def masks(self) -> Masks | None:
        """Which weights are kept in training, also those of models within this one;
        None: all of them."""
        return Masks(self.weights) or None

    def _set_rule(
        self, perturbation: Perturbation | None, m_sharpness: int | None
    ) -> None:
        if perturbation is not None and not isinstance(perturbation, Perturbation):
            raise TypeError(
                "perturbation must be None or a samkeras perturbation such as "
                f"samkeras.SAM(rho=0.05). Received: perturbation={perturbation!r}"
            )
        if m_sharpness is not None and (
            perturbation is None or not is_integer(m_sharpness) or m_sharpness < 1
        ):
            raise ValueError(
                "m_sharpness must be None, or an integer >= 1 with a perturbation. "
                f"Received: m_sharpness={m_sharpness!r}, perturbation={perturbation!r}"
            )
        self._perturbation = perturbation
        self._m_sharpness = None if m_sharpness is None else int(m_sharpness)
        if perturbation is None:
            self._gradient_metrics = None
        elif self._gradient_metrics is None:
            self._gradient_metrics = GradientMetrics()

    def _renew_train_function(self) -> None:
        """Has the next step, also one of a fit that runs, know what changed."""
        if self.train_function is not None:
            self.make_train_function()

    def make_train_function(self, force=False):
        parts = (self.perturbation, self.m_sharpness, *self._program_inputs)
        made_of = getattr(self.train_function, "made_of", parts)
        # Masks may have been set in a model within this one.
        same = len(parts) == len(made_of) and all(map(operator.is_, parts, made_of))
        function = super().make_train_function(force or not same)
        self.train_function.made_of = parts
        return function

    def _perturb(
        self,
        gradients: list[Any],
        gradients_at: Callable[[list[Any]], list[Any]],
        step: Any,
    ) -> list[Any]:
        """The gradients at w + epsilon, from those at w and `gradients_at`, which maps
        an epsilon to gradients. Without a perturbation, those at w."""
        if self.perturbation is None:
            return gradients
        return gradients_at(
            self.perturbation(gradients, gradients_at, step, self._mask)
        )

    def _final_gradients(
        self,
        weights: list[Any],
        gradients: list[Any],
        sam_gradients: list[Any],
        step: Any,
        is_due: Any,
    ) -> tuple[list[Any], dict[str, Any]]:
        """The gradients for the optimizer, with l2, and how those at w and at
        w + epsilon relate; see `compare_gradients`."""
        statistics = {}
        if self.perturbation is not None:
            statistics = compare_gradients(gradients, sam_gradients, is_due)
            if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
                sam_gradients = poison_unless_finite(
                    sam_gradients, statistics["grad_norm"]
                )
        if self._l2 is not None:
            sam_gradients = add_l2(sam_gradients, weights, self._l2, step)
        return sam_gradients, statistics

    def _mask(self, tensors: list[Any]) -> list[Any]:
        """Zero in place of the entries whose trainable weights are pruned."""
        if self.masks is None:
            return tensors
        return self.masks.apply(self.trainable_variables, tensors)

    def save(self, filepath, *args, **kwargs):
        if str(filepath).endswith((".h5", ".hdf5")):
            self._refuse_hdf5()  # before the file is opened
        super().save(filepath, *args, **kwargs)

    def get_config(self):
        # keras.saving.save_model writes HDF5 without asking `save`.
        if get_global_attribute("use_legacy_config", False):
            self._refuse_hdf5()
        return super().get_config()

    def _refuse_hdf5(self) -> None:
        """HDF5 files hold the arguments of keras' own compile and layers' own weights:
        loading one would go on training without the rest."""
        parts = {"perturbation": self.perturbation, "l2": self._l2, "masks": self.masks}
        lost = [name for name, part in parts.items() if part is not None]
        if lost:
            raise ValueError(
                f"an HDF5 file cannot keep a model's {', '.join(lost)}; save it to a "
                ".keras file, or its weights alone to a .weights.h5 file"
            )

    def save_own_variables(self, store):
        super().save_own_variables(store)
        if self.masks is not None:
            for i, mask in self.masks.to_arrays(self.weights).items():
                store[f"{MASK_PREFIX}{i}"] = mask

    def load_own_variables(self, store):
        names = list(store.keys())
        own = {n: store[n] for n in names if not n.startswith(MASK_PREFIX)}
        super().load_own_variables(own)
        # A model pruned already stays so when it takes the weights of a dense one.
        if masks := [name for name in names if name not in own]:
            places = [int(name.removeprefix(MASK_PREFIX)) for name in masks]
            self.set_masks(
                [
                    (self.weights[place], np.asarray(store[name]))
                    for place, name in zip(places, masks, strict=True)
                ]
            )

    def load_weights(self, *args, **kwargs):
        super().load_weights(*args, **kwargs)
        Masks(self.weights).zero_weights()

    def set_weights(self, weights):
        super().set_weights(weights)
        Masks(self.weights).zero_weights()

    def _run_through_graph(self, inputs, operation_fn=lambda op: op, **kwargs):
        # How keras.models.clone_model makes its layers, the only place to see them in.
        clones = []

        def note(operation):
            result = operation_fn(operation)
            if isinstance(result, keras.layers.Layer):
                clones.append((operation, result))
            return result

        outputs = super()._run_through_graph(inputs, note, **kwargs)
        for layer, clone in clones:
            if clone is not layer:
                copy_masks(layer, clone)
        return outputs

    @property
    def metrics(self):
        metrics = super().metrics
        if self._gradient_metrics is None:
            return metrics
        return metrics + self._gradient_metrics.metrics

    def get_metrics_result(self):
        # The gradients' metrics exist in training only: evaluate leaves them out.
        results = super().get_metrics_result()
        return {k: v for k, v in results.items() if k not in GRADIENT_METRICS}

    def get_gradient_metrics_result(self) -> dict[str, Any]:
        """The gradients' metrics so far in the epoch; none without a perturbation."""
        if self._gradient_metrics is None:
            return {}
        return {m.name: m.result() for m in self._gradient_metrics.metrics}

    def get_compile_config(self):
        config = super().get_compile_config()
        if config:
            serialize = keras.saving.serialize_keras_object
            config["perturbation"] = serialize(self.perturbation)
            config["l2"] = serialize(self.l2)
            config["m_sharpness"] = self.m_sharpness
        return config

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    @property
    def _program_inputs(self) -> list[keras.Variable]:
        """Variables outside the model's state that a compiled step reads anew."""
        sources = (self.perturbation, self._l2, self.masks)
        return [v for source in sources if source for v in source.variables]


@functools.cache
def _make_functional(cls: type) -> type:
    """The class of those models of a SAMModel class that are given by their inputs and
    outputs. Saved files know it by the same name."""
    if issubclass(cls, Functional):
        return cls
    names = ("__module__", "__qualname__", "__doc__")
    namespace = {name: getattr(cls, name) for name in names}
    functional = type(cls.__name__, (cls, Functional), namespace)
    registered = keras.saving.get_registered_name(cls)
    if registered != cls.__name__:
        keras.saving.register_keras_serializable(*registered.split(">"))(functional)
        keras.saving.get_custom_objects()[registered] = cls  # the one to load with
    return functional
