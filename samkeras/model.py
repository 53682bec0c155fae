"""SAMModel: a keras.Model whose training step is sharpness-aware."""

# Users pass what annotations forbid, and are told so.
# pyright: reportUnnecessaryIsInstance=false

import operator
import warnings
from typing import Any

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

# Registers SGD, which models are saved with.
from samkeras import optimizers  # noqa: F401 # pyright: ignore[reportUnusedImport]
from samkeras.backend.insides import is_saving_hdf5
from samkeras.hyperparameter import Hyperparameter, check_number, is_integer
from samkeras.masks import Masks, set_masks
from samkeras.methods.method import Method
from samkeras.statistics import GRADIENT_METRICS, GradientMetrics
from samkeras.trainer import Trainer
from samkeras.trainer.base import Rule

# A mask's name in a weights file; the number is its weight's place in model.weights.
MASK_PREFIX = "mask_"
METHOD_PREFIX = "method_"


@keras.saving.register_keras_serializable(package="samkeras")
class SAMModel(Trainer):
    """A keras.Model that trains with sharpness-aware minimization.

    Built, fitted, evaluated, saved and loaded as any keras.Model, functional or
    subclassed. With `method=None`, `l2=0` and no masks it trains as keras.Model
    does, to the bit.

    Examples:
        >>> inputs = keras.Input((4,))
        >>> model = samkeras.SAMModel(inputs, keras.layers.Dense(1)(inputs))
        >>> model.compile("sgd", "mse", method=samkeras.SAM(rho=0.05))
        >>> history = model.fit(x, y, verbose=0)
        >>> sorted(history.history)
        ['grad_cosine', 'grad_norm', 'loss', 'sam_grad_norm']
        >>> prediction = model.predict(x, verbose=0)  # float32[example, 1]
    """

    def compile(
        self,
        *args: Any,
        method: Method | None = None,
        l2: float | LearningRateSchedule = 0.0,
        l2_in_loss: bool = False,
        m_sharpness: int | None = None,
        perturbation: Method | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training; see keras.Model.compile for the other arguments.

        Args:
            method: how the gradient is found, such as `SAM`, `ASAM`, `FSAM`,
                `UnnormalizedSAM` or `RandomPerturbation`. None (default): at the
                weights, as the optimizer alone does. Training then logs `grad_norm`,
                `sam_grad_norm` and `grad_cosine`: the epoch's means, the last two of
                every eleventh step.
            l2: coupled weight decay, a number >= 0 or a schedule of the step: l2 * w
                at the unperturbed weights is added to the gradient of every trainable
                weight before clipping and the optimizer. Default 0, no such term.
            l2_in_loss: whether l2 / 2 times the squared norm of all trainable weights
                is a part of the loss instead: a method's epsilon then follows its
                gradient too, and l2 * w is taken at the perturbed weights (Foret et al.
                2021, in their code). The loss that is logged is without it. Default
                False.
            m_sharpness: examples that share an epsilon (Foret et al. 2021, section
                4.1): a batch is cut into groups of m in its order, each takes all its
                passes by itself, BatchNorm included, and what the method makes of them
                is averaged over the examples. The last group may be smaller. None
                (default): the whole batch.
            perturbation: the name that `method` had in version 0.1.

        Raises:
            TypeError: `method` is not a Method.
            ValueError: `l2` is negative or not finite; `m_sharpness` is not an integer
                >= 1 or there is no method.

        Examples:
            >>> method = samkeras.SAM(rho=0.05)
            >>> model.compile("sgd", "mse", method=method, l2=1e-4, m_sharpness=8)
            >>> history = model.fit(x, y, batch_size=16, verbose=0).history
            >>> sorted(history)
            ['grad_cosine', 'grad_norm', 'loss', 'sam_grad_norm']
        """
        if perturbation is not None:
            warnings.warn(
                "compile(perturbation=...) is now compile(method=...), and goes with "
                "the next release",
                DeprecationWarning,
                stacklevel=2,
            )
            if method is not None:
                raise ValueError("give one of method and perturbation, its old name")
            method = perturbation
        decay = Hyperparameter(check_number(l2, "l2"), "l2")
        l2_or_none = None if l2 == 0 else decay
        self._rule = _make_rule(method, m_sharpness, l2_or_none, l2_in_loss)
        super().compile(*args, **kwargs)

    @property
    def method(self) -> Method | None:
        """How the gradient is found. Assigning another one compiles the step anew."""
        return self._rule.method

    @method.setter
    def method(self, value: Method | None) -> None:
        self._change_rule(value, self.m_sharpness)

    @property
    def perturbation(self) -> Method | None:
        """The name that `method` had in version 0.1.

        Raises:
            AttributeError: always, also where it is assigned.
        """
        # No warning: keras' saving looks at every attribute, and passes over errors.
        raise AttributeError("model.perturbation is now model.method")

    @perturbation.setter
    def perturbation(self, value: Method | None) -> None:
        raise AttributeError("model.perturbation is now model.method")

    @property
    def m_sharpness(self) -> int | None:
        """Examples that share an epsilon. Assigning it compiles the step anew."""
        return self._rule.m_sharpness

    @m_sharpness.setter
    def m_sharpness(self, value: int | None) -> None:
        self._change_rule(self.method, value)

    @property
    def l2(self) -> float | LearningRateSchedule:
        """Coupled weight decay. Assigning it takes effect without recompiling."""
        return 0.0 if self._rule.l2 is None else self._rule.l2.value

    @l2.setter
    def l2(self, value: float) -> None:
        if self._rule.l2 is None:
            raise ValueError(
                "l2 can be changed only in a model compiled with l2 > 0. "
                f"Received: l2={value!r}"
            )
        self._rule.l2.value = check_number(value, "l2")

    def state(self) -> dict[str, list[keras.Variable]]:
        """All variables of training, which together continue it to the bit: "variables"
        of the layers, random generators among them, "optimizer", "metrics" and
        "method". Those not built yet are not there; see `build_for`."""
        optimizer = getattr(self, "optimizer", None)  # none before compile
        return {
            "variables": self.variables,
            "optimizer": [] if optimizer is None else optimizer.variables,
            "metrics": self.metrics_variables,
            "method": [] if self.method is None else self.method.state,
        }

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

    def _change_rule(self, method: Method | None, m_sharpness: int | None) -> None:
        """Has the next step, also one of a fit that runs, follow another rule."""
        self._sync_state()
        old = self._rule
        rule = _make_rule(method, m_sharpness, old.l2, old.l2_in_loss, old.metrics)
        if self.built:
            self._build_method(rule)  # which may refuse
        self._rule = rule
        self._renew_train_function()

    def _renew_train_function(self) -> None:
        """Has the next step, also one of a fit that runs, know what changed."""
        if self.train_function is not None:
            self.make_train_function()

    def make_train_function(self, force: bool = False) -> Any:
        self._build_method()  # before callbacks that restore its state
        parts = (self.method, self.m_sharpness, *self.find_inputs())
        made_of = getattr(self.train_function, "made_of", parts)
        # Masks may have been set in a model within this one.
        same = len(parts) == len(made_of) and all(map(operator.is_, parts, made_of))
        function = super().make_train_function(force or not same)
        self.train_function.made_of = parts
        return function

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        if str(filepath).endswith((".h5", ".hdf5")):
            self._refuse_hdf5()  # before the file is opened
        super().save(filepath, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        # keras.saving.save_model writes HDF5 without asking `save`.
        if is_saving_hdf5():
            self._refuse_hdf5()
        return super().get_config()

    def _refuse_hdf5(self) -> None:
        """HDF5 files hold the arguments of keras' own compile and layers' own weights:
        loading one would go on training without the rest."""
        rule = self._rule
        parts = {"method": rule.method, "l2": rule.l2, "masks": self.masks}
        lost = [name for name, part in parts.items() if part is not None]
        if lost:
            raise ValueError(
                f"an HDF5 file cannot keep a model's {', '.join(lost)}; save it to a "
                ".keras file, or its weights alone to a .weights.h5 file"
            )

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        for name, variable in self._name_method_state().items():
            store[name] = keras.ops.convert_to_numpy(variable)
        if self.masks is not None:
            for i, mask in self.masks.to_arrays(self.weights).items():
                store[f"{MASK_PREFIX}{i}"] = mask

    def load_own_variables(self, store: Any) -> None:
        names = list(store.keys())
        ours = (MASK_PREFIX, METHOD_PREFIX)
        super().load_own_variables(
            {name: store[name] for name in names if not name.startswith(ours)}
        )
        # Weights may be those of a training by another method, or without one, or with
        # other layers frozen.
        if any(name.startswith(METHOD_PREFIX) for name in names):
            self._build_method()
        for name, variable in self._name_method_state().items():
            if name in names and store[name].shape == tuple(variable.shape):
                variable.assign(store[name])
        # A model pruned already stays so when it takes the weights of a dense one.
        if masks := [name for name in names if name.startswith(MASK_PREFIX)]:
            places = [int(name.removeprefix(MASK_PREFIX)) for name in masks]
            self.set_masks(
                [
                    (self.weights[place], np.asarray(store[name]))
                    for place, name in zip(places, masks, strict=True)
                ]
            )

    def _name_method_state(self) -> dict[str, keras.Variable]:
        """The names of the method's state in a weights file: by the method, what it
        calls the variable, and the place in model.weights of the weight it is like."""
        method = self.method
        if method is None:
            return {}
        places = {id(weight): f"_{i}" for i, weight in enumerate(self.weights)}
        prefix = f"{METHOD_PREFIX}{type(method).__name__.lower()}"
        return {
            f"{prefix}_{variable.name}{places.get(id(weight), '')}": variable
            for variable, weight in method.state_of_weights
        }

    def load_weights(self, *args: Any, **kwargs: Any) -> None:
        super().load_weights(*args, **kwargs)
        Masks(self.weights).zero_weights()

    def set_weights(self, weights: list[Any]) -> None:
        super().set_weights(weights)
        Masks(self.weights).zero_weights()

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        metrics = super().metrics
        if self._rule.metrics is None:
            return metrics
        return metrics + self._rule.metrics.metrics

    def get_metrics_result(self) -> dict[str, Any]:
        # The gradients' metrics exist in training only: evaluate leaves them out.
        results = super().get_metrics_result()
        return {k: v for k, v in results.items() if k not in GRADIENT_METRICS}

    def get_compile_config(self) -> dict[str, Any]:
        config = super().get_compile_config()
        if config:
            serialize = keras.saving.serialize_keras_object
            config["method"] = serialize(self.method)
            config["l2"] = serialize(self.l2)
            config["l2_in_loss"] = self._rule.l2_in_loss
            config["m_sharpness"] = self.m_sharpness
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        arguments = keras.saving.deserialize_keras_object(config)
        # Files of version 0.1 have the method's old name.
        method = arguments.pop("perturbation", None)
        self.compile(**{"method": method, **arguments})
        if self.built:
            self.optimizer.build(self.trainable_variables)
            self._build_method()


def _make_rule(
    method: Method | None,
    m_sharpness: int | None,
    l2: Hyperparameter | None,
    l2_in_loss: bool,
    metrics: GradientMetrics | None = None,
) -> Rule:
    """Checks and combines the parts of a rule."""
    if method is not None and not isinstance(method, Method):
        raise TypeError(
            "method must be None or a samkeras method such as "
            f"samkeras.SAM(rho=0.05). Received: method={method!r}"
        )
    if m_sharpness is not None and (
        method is None or not is_integer(m_sharpness) or m_sharpness < 1
    ):
        raise ValueError(
            "m_sharpness must be None, or an integer >= 1 with a method. "
            f"Received: m_sharpness={m_sharpness!r}, method={method!r}"
        )
    return Rule(
        method,
        None if m_sharpness is None else int(m_sharpness),
        l2,
        l2_in_loss,
        None if method is None else metrics or GradientMetrics(),
    )
