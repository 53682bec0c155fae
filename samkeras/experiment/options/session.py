"""How runs are executed: what changes nothing of their results."""

from dataclasses import dataclass
from typing import Literal

from samkeras.experiment.options.fields import Fraction, NonNegativeFloat, PositiveInt
from samkeras.experiment.options.targets import RUN_DIR


@dataclass(frozen=True, kw_only=True)
class Session:
    """The options of a command, the same for all its runs."""

    experiment: str | None = None
    """MLflow experiment (default: the workload's name; of a file, folder/name)"""
    tracking_uri: str | None = None
    """MLflow store or server (default: $MLFLOW_TRACKING_URI, else mlflow/mlflow.db)"""
    run_dir: str = RUN_DIR
    """directory of the runs' files; the default one is in the project's folder"""
    workers: PositiveInt = 1
    """processes that train runs at the same time, and share the cores and GPUs"""
    replicas: PositiveInt | None = None
    """runs that train in one program, which differ in numbers such as seed and rho
    (default: 1, of a figure on a GPU or TPU what its file says)"""
    ray: str | None = None
    """train the runs on the Ray cluster at this address: HOST:PORT or auto"""
    cpus_per_run: NonNegativeFloat = 1.0
    """with ray: CPUs that a run needs"""
    gpus_per_run: NonNegativeFloat = 0.0
    """with ray: GPUs that a run needs"""
    tpus_per_run: NonNegativeFloat = 0.0
    """with ray: TPU chips that a run needs"""
    resident_data: Fraction = 0.25
    """share of the device's memory that data may take; others come from the host"""
    rerun: bool = False
    """train again what is already finished"""
    dry_run: bool = False
    """say what would run, and stop"""
    verbose: Literal[0, 1, 2] = 1
    """0: the table alone; 1: progress; 2: a line an epoch"""

    @property
    def unused(self) -> dict[str, str]:
        """Options without effect, given the others, as of Options."""
        if self.ray is None:
            names = ("cpus_per_run", "gpus_per_run", "tpus_per_run")
            return dict.fromkeys(names, "--ray HOST:PORT or auto")
        return {
            "workers": "--ray null: give one of the two, not both",
            "replicas": "--ray null: on Ray each run has a place of its own",
        }
