"""Models that have trained a run, for later runs that differ from it in numbers alone:
what is compiled of one serves them all."""

import dataclasses
import itertools
from typing import NamedTuple

import keras

from samkeras.backend import backend
from samkeras.data.batches import Batches
from samkeras.data.splits import DataInfo
from samkeras.experiment.options.groups import Config
from samkeras.experiment.options.methods import CLASSES
from samkeras.experiment.runs.build import count_params
from samkeras.experiment.runs.run import Run
from samkeras.model import SAMModel
from samkeras.workload import Workload

MAX_PARAMS = 2**25  # of all models that are kept


class Kept(NamedTuple):
    """A model, and what it is of beside a run's options."""

    model: SAMModel
    workload: Workload
    info: DataInfo


class Models:
    """A process' models, none of which a run has that still trains."""

    def __init__(self) -> None:
        self._kept: dict[Config, Kept] = {}  # the last one kept comes last

    def take(
        self, run: Run, info: DataInfo, model: SAMModel, batches: Batches
    ) -> SAMModel:
        """The model of an earlier run whose programs are this one's, with all that this
        one's new model holds; or else the new model.

        Args:
            run: the run.
            info: its data.
            model: its new model, compiled, not trained.
            batches: what it is trained on.
        """
        kept = self._kept.pop(_without_numbers(run.config), None)
        if kept is None or kept.workload is not run.workload or kept.info != info:
            return model
        model.build_for(batches.example)
        _renew(kept.model, model)
        return kept.model

    def keep(self, run: Run, info: DataInfo, model: SAMModel) -> None:
        """Keeps the model of a run that is over."""
        if not _is_known(run):
            return
        self._kept[_without_numbers(run.config)] = Kept(model, run.workload, info)
        while sum(_count(each.model) for each in self._kept.values()) > MAX_PARAMS:
            del self._kept[next(iter(self._kept))]

    def clear(self) -> None:
        """Keeps none."""
        self._kept.clear()


models = Models()


def _is_known(run: Run) -> bool:
    """Whether variables hold all that sets a run's model apart from those of runs that
    differ in numbers: masks do not, and what a workload of one's own has made of its
    seed nobody knows."""
    config = run.config
    is_alone = len(run.task.devices()) == 1
    return config.target.is_house and is_alone and not config.is_pruned


def _without_numbers(config: Config) -> Config:
    """A run's options without those that are values of variables in its programs."""
    rho = {"rho": 0.0} if config.method in CLASSES else {}
    return dataclasses.replace(config, seed=0, **rho)


def _renew(model: SAMModel, new: SAMModel) -> None:
    """Has a model hold what a new one does."""
    pairs = zip(_find_variables(model), _find_variables(new), strict=True)
    for variable, fresh in pairs:
        variable.assign(backend.values_of([fresh])[0])


def _find_variables(model: SAMModel) -> list[keras.Variable]:
    numbers = [] if model.method is None else model.method.variables
    return [*itertools.chain(*model.state().values()), *numbers]


def _count(model: SAMModel) -> int:
    return count_params(model.trainable_variables)
