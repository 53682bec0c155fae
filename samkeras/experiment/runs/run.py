"""A run: what it trains, and what it is known by."""

import dataclasses
import functools
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import samkeras
from samkeras.data.splits import Splits
from samkeras.errors import InputError
from samkeras.experiment.machine import name_backend
from samkeras.experiment.options.compose import compose
from samkeras.experiment.options.config import (
    option_types,
    parse_fields,
)
from samkeras.experiment.options.fingerprint import Marks, find_marks
from samkeras.experiment.options.groups import Config
from samkeras.experiment.options.methods import (
    ARGUMENTS,
    CLASS_OPTIONS,
    CLASSES,
    OPTIONS,
)
from samkeras.experiment.options.targets import Target
from samkeras.experiment.options.values import as_text
from samkeras.experiment.tracking.source import find_source
from samkeras.task import Task
from samkeras.workload import Workload

if TYPE_CHECKING:  # it imports keras, which takes seconds
    from samkeras.methods import Method


@dataclass(frozen=True)
class Run:
    """A training of a workload's model.

    Attributes:
        config: what decides its result.
    """

    config: Config

    def __reduce__(self):
        return Run, (self.config,)  # a workload holds functions without a name

    @cached_property
    def workload(self) -> Workload:
        """What it trains.

        Raises:
            InputError: its module cannot be imported, or its options are not its
                task's.
        """
        workload = self.config.target.load()
        self.config.check_groups(workload.task.options, type(workload.task).__name__)
        return workload

    @property
    def task(self) -> Task:
        return self.workload.task

    @cached_property
    def passes(self) -> float:
        """Forward-backward passes of a step, the unit of a run's work: the mean over
        its training."""
        method = self.build_method()
        if method is None:
            return 1.0
        return 1 + (method.passes - 1) * (1 - self.config.result_fields["sam_start"])

    def build_method(self, num_steps: int = 0) -> "Method | None":
        """Its method, of its options; None without SAM.

        Args:
            num_steps: of its training, where the method is to take them.

        Raises:
            InputError: the workload's own method is none.
        """
        config = self.config
        if not config.sam:
            return None
        target = config.target
        methods = target.load().methods
        if config.method in methods:
            method = methods[config.method](config)
            if not isinstance(method, samkeras.Method):
                raise InputError(
                    f"{target.path}: methods[{config.method!r}] must give a "
                    f"samkeras.Method. Received: {method}"
                )
            return method
        options = {
            ARGUMENTS.get(name, name): getattr(config, name)
            for name, classes in CLASS_OPTIONS.items()
            if config.method in classes
        }
        if options.get("p") == "inf":
            options["p"] = math.inf
        if "start" in options:
            options["start"] = round(options["start"] * num_steps)
        if config.method == "aesam" and num_steps:
            from keras.optimizers.schedules import PolynomialDecay

            options["threshold"] = PolynomialDecay(1.0, num_steps, -1.0)
        return getattr(samkeras, CLASSES[config.method])(**options)

    @property
    def name(self) -> str:
        config = self.config
        # Most names say of themselves that they are of SAM's family.
        method = config.method if "sam" in config.method else f"sam_{config.method}"
        trained = f"{method}{config.rho:g}" if config.sam else config.optimizer
        if config.is_pruned:
            trained = f"{config.pruner}_{trained}"
        return f"{config.workload}_w{config.width_mult:g}_{trained}_s{config.seed}"

    @property
    def title(self) -> str:
        """What sets it apart among its workload's runs: its width, whether it has SAM,
        its seed, and all else that is not its workload's default."""
        config, defaults = self.config, find_defaults(self.config.target)
        values = config.result_fields
        differing = [
            name
            for name, value in values.items()
            if name not in config.neutral and value != getattr(defaults, name)
        ]
        of_sam = [name for name in differing if name in OPTIONS]
        names = ("width_mult", "sam", *of_sam, "seed", *differing)
        return " ".join(f"{n}={as_text(values[n])}" for n in dict.fromkeys(names))

    @property
    def source(self) -> dict[str, str]:
        """The tags that say what code it is of."""
        return find_source(str(self.config.target), self.config.target.path)

    def find_marks(self, splits: Splits) -> Marks:
        """Its fingerprints on this backend."""
        content = splits.content and splits.content.digest
        version = self.workload.version
        return find_marks(self.config, version, name_backend(), content)

    def find_folder(self, run_dir: str, marks: Marks) -> tuple[Path, str]:
        """Its folder, and the fingerprint that its files there have: the one of 0.1
        where that version has begun it."""
        now, old = (Path(run_dir) / f"{self.name}_{mark[:8]}" for mark in marks)
        is_old = old.exists() and not now.exists()
        return (old, marks.old) if is_old else (now, marks.now)


@functools.cache
def find_defaults(target: Target) -> Config:
    """A workload's run if no option is given."""
    kind = compose(target)
    given = parse_fields(target.values, target.defaults, target, option_types(target))
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**{name: given[name] for name in names if name in given})
