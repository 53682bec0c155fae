"""What came out of a run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from samkeras.errors import InputError, nearest
from samkeras.experiment.options.groups import Config
from samkeras.experiment.options.measures import NUMBERS
from samkeras.workload import Workload

# Numbers of a result that are not among those of its record.
SIZES = ("num_params", "num_nonzero")
# The names of losses and metrics that keras chooses by the labels.
CHOSEN = {"loss": ("crossentropy", "ce"), "metrics": ("accuracy", "acc")}


@dataclass(frozen=True)
class Result:
    """What came out of a run; without numbers if it failed or is missing.

    Attributes:
        config: the run.
        num_params: trainable parameters.
        num_nonzero: those that are not pruned.
        numbers: the last value of each number that the run recorded, such as
            best_val_accuracy, val_loss or grad_cosine, and its seconds.
        failure: why there are none; None: it is finished.
        traceback: where in the code it failed, where the failure does not say all.
        curves: what a picture shows over epochs or over a model's input: numbers at
            each step that they were recorded at, outputs at each input.
    """

    config: Config
    num_params: int
    num_nonzero: int
    numbers: Mapping[str, float] = field(default_factory=dict)
    failure: str | None = None
    traceback: str | None = None
    curves: Mapping[str, Mapping[Any, float]] = field(default_factory=dict)

    @property
    def best(self) -> float:
        """The best of the reported metric over the epochs of a finished run."""
        return self.numbers[f"best_{self._monitor}"]

    @property
    def final(self) -> float:
        """The reported metric of its last epoch."""
        return self.numbers[f"final_{self._monitor}"]

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.numbers["seconds"]

    @property
    def _monitor(self) -> str:
        return self.config.target.load().monitor

    def number(self, name: str) -> float | None:
        """A finished run's number, its sizes among them; None: it has none of that
        name."""
        if self.failure is not None:
            return None
        return getattr(self, name) if name in SIZES else self.numbers.get(name)


def list_numbers(workload: Workload) -> tuple[list[str], bool]:
    """The names of the numbers that runs of a workload have, and whether those are all:
    what a score or a game has beside keras' metrics, a finished run tells."""
    of_epochs, are_all = list_epoch_numbers(workload)
    reported = [f"{kind}_{workload.monitor}" for kind in ("best", "final")]
    names = [*reported, "best_epoch", *of_epochs]
    names += ["compiled_programs", "passes"]
    return [*names, *SIZES], are_all


def list_epoch_numbers(workload: Workload) -> tuple[list[str], bool]:
    """The numbers among those of list_numbers that runs have of each epoch."""
    from samkeras.statistics import GRADIENT_METRICS

    logged = ["loss", *workload.metric_names]
    validated = [f"val_{name}" for name in logged]
    names = [*validated, *logged, *GRADIENT_METRICS]
    names += ["learning_rate", "examples_per_second", "seconds", *NUMBERS]
    return names, workload.monitor in validated


def check_measured(config: Config, workload: Workload) -> None:
    """Checks that keras knows what a workload names, and that validations will give the
    metric that is reported, as far as that is known before they do.

    Args:
        config: of one of its runs.
        workload: the workload.

    Raises:
        InputError: they will not.
    """
    import keras

    _check_names("loss", [workload.loss], keras.losses, config)
    _check_names("metrics", workload.metrics, keras.metrics, config)
    names = workload.task.list_scores(workload)
    if names is None:
        return
    # A model of several outputs has names such as val_tags_accuracy.
    kinds = tuple(name.removeprefix("val_") for name in names)
    if not (workload.monitor.startswith("val_") and workload.monitor.endswith(kinds)):
        raise unknown_monitor(config, names)


def _check_names(
    field: str, values: Iterable[Any], module: ModuleType, config: Config
) -> None:
    for name in values:
        if not isinstance(name, str) or name.lower() in CHOSEN[field]:
            continue
        try:
            module.get(name)
        except ValueError:
            raise InputError(
                f"{field} of {config.target} must be of {module.__name__}. Received: "
                f"{name}{nearest(name, [*CHOSEN[field], *dir(module)])}"
            ) from None


def unknown_monitor(config: Config, names: Iterable[str]) -> InputError:
    """The error that validations give numbers of these names, none of which is the
    metric that a run's workload has reported."""
    target = config.target
    monitor, known = target.load().monitor, sorted(names)
    return InputError(
        f"monitor of {target} must be one of {', '.join(known)}. Received: {monitor}"
        f"{nearest(monitor, known)}"
    )
