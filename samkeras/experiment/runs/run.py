"""A run: what it trains, and what it is known by."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras

from samkeras.data.splits import Splits
from samkeras.experiment.options.fingerprint import Marks, find_marks
from samkeras.experiment.options.groups import Config, check_groups
from samkeras.experiment.runs.method import build_method
from samkeras.task import Task
from samkeras.workload import Workload


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
        check_groups(self.config, workload.task.options, type(workload.task).__name__)
        return workload

    @property
    def task(self) -> Task:
        return self.workload.task

    @cached_property
    def passes(self) -> float:
        """Forward-backward passes of a step, the unit of a run's work."""
        method = build_method(self.config)
        return 1.0 if method is None else method.passes

    @property
    def name(self) -> str:
        config = self.config
        # Most names say of themselves that they are of SAM's family.
        method = config.method if "sam" in config.method else f"sam_{config.method}"
        trained = f"{method}{config.rho:g}" if config.sam else config.optimizer
        if config.is_pruned:
            trained = f"{config.pruner}_{trained}"
        return f"{config.workload}_w{config.width_mult:g}_{trained}_s{config.seed}"

    def find_marks(self, splits: Splits) -> Marks:
        """Its fingerprints on this backend."""
        content = splits.content and splits.content.digest
        backend = keras.backend.backend()
        return find_marks(self.config, self.workload.version, backend, content)

    def find_folder(self, run_dir: str, marks: Marks) -> tuple[Path, str]:
        """Its folder, and the fingerprint that its files there have: the one of 0.1
        where that version has begun it."""
        now, old = (Path(run_dir) / f"{self.name}_{mark[:8]}" for mark in marks)
        is_old = old.exists() and not now.exists()
        return (old, marks.old) if is_old else (now, marks.now)
