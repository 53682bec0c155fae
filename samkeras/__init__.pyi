"""The types of samkeras' names, which `__init__.py` imports as they are asked for."""

from samkeras.experiment.runs.saved import load_run
from samkeras.methods import (
    AESAM,
    ASAM,
    ESAM,
    FSAM,
    GNP,
    GSAM,
    SAM,
    SSAM,
    WSAM,
    DetSAM,
    FrobeniusSAM,
    LightSAM,
    LookSAM,
    Method,
    MomentumSAM,
    MongeSAM,
    Number,
    Perturbation,
    RandomPerturbation,
    SecondOrderSAM,
    StableSAM,
    TraceSAM,
    UnifiedSAM,
    UnnormalizedSAM,
    VaSSO,
)
from samkeras.model import SAMModel
from samkeras.optimizers import SGD
from samkeras.pruning import prune_at_init
from samkeras.workload import Workload

__version__: str
__all__ = [
    "AESAM",
    "ASAM",
    "ESAM",
    "FSAM",
    "GNP",
    "GSAM",
    "SAM",
    "SGD",
    "SSAM",
    "WSAM",
    "DetSAM",
    "FrobeniusSAM",
    "LightSAM",
    "LookSAM",
    "Method",
    "MomentumSAM",
    "MongeSAM",
    "Number",
    "Perturbation",
    "RandomPerturbation",
    "SAMModel",
    "SecondOrderSAM",
    "StableSAM",
    "TraceSAM",
    "UnifiedSAM",
    "UnnormalizedSAM",
    "VaSSO",
    "Workload",
    "load_run",
    "prune_at_init",
]
