"""Models that have trained a run, for later runs that differ from it in numbers alone:
what is compiled of one serves them all."""

import dataclasses
import itertools
from collections.abc import Hashable
from typing import Any

import keras

import samkeras
from samkeras.backend import backend
from samkeras.data.batches import Batches
from samkeras.data.splits import DataInfo
from samkeras.experiment.options.groups import Config
from samkeras.experiment.options.methods import (
    ARGUMENTS,
    CLASS_OPTIONS,
    CLASSES,
    takes,
)
from samkeras.experiment.runs.build import count_params
from samkeras.experiment.runs.run import Run
from samkeras.hyperparameter import numbers_of
from samkeras.model import SAMModel

# Of all models that are kept, whose programs take tens of megabytes each.
MAX_MODELS, MAX_PARAMS = 16, 2**25
# Numbers of a run that no program depends on, beside those of its method: values of
# variables, or of the data.
NUMBERS = ("seed", "label_noise")

# A process' models, none of which a run has that still trains; the last one kept last.
kept: dict[Hashable, SAMModel] = {}


class Alike:
    """The runs whose programs are one run's: they differ in the numbers that are values
    of variables alone. There are none where other things than variables set models
    apart: masks do, and what a workload of one's own has made of its seed nobody knows.

    Args:
        run: the run.
        info: its data.
    """

    def __init__(self, run: Run, info: DataInfo):
        config, self._key = run.config, None
        is_alone = len(run.task.devices()) == 1
        if config.target.is_house and is_alone and not config.is_pruned:
            self._key = (run.workload.build, info, find_shape(config))

    def take(self, model: SAMModel, batches: Batches) -> SAMModel:
        """The model of an earlier one of them, with all that the run's new model holds;
        or else the new model.

        Args:
            model: compiled, not trained.
            batches: what it is trained on.
        """
        earlier = kept.pop(self._key, None)
        if earlier is None:
            return model
        model.build_for(batches.example)
        _renew(earlier, model)
        return earlier

    def keep(self, model: SAMModel) -> None:
        """Keeps the run's model, when the run is over."""
        if self._key is None:
            return
        kept[self._key] = model
        while len(kept) > MAX_MODELS or sum(map(_count, kept.values())) > MAX_PARAMS:
            del kept[next(iter(kept))]


def find_shape(config: Config) -> frozenset[tuple[str, Any]]:
    """What runs of workloads of the house have the same whose programs are the same."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    if config.optimizer != "adamw":  # whose decay is a constant of the program
        values["weight_decay"] = config.weight_decay > 0
    numbers = {*NUMBERS, *_find_numbers(config)}
    if config.lr_schedule == "step" and not config.lr_milestones:
        numbers.add("learning_rate")  # a variable of the optimizer
    return frozenset((n, str(v)) for n, v in values.items() if n not in numbers)


def _find_numbers(config: Config) -> set[str]:
    """The options of a run's method that are numbers of its class."""
    numbers = numbers_of(getattr(samkeras, CLASSES[config.method]))
    own = (name for name in CLASS_OPTIONS if takes(config.method, name))
    return {name for name in own if ARGUMENTS.get(name, name) in numbers}


def _renew(model: SAMModel, new: SAMModel) -> None:
    """Has a model hold what a new one does."""
    pairs = zip(_find_variables(model), _find_variables(new), strict=True)
    for variable, fresh in pairs:
        variable.assign(backend.values_of([fresh])[0])


def _find_variables(model: SAMModel) -> list[keras.Variable]:
    return [*itertools.chain(*model.state().values()), *model.find_inputs()]


def _count(model: SAMModel) -> int:
    return count_params(model.trainable_variables)
