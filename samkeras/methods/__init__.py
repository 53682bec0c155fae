"""Sharpness-aware methods: how a training step's gradient is found."""

from samkeras.methods.adaptive import ASAM
from samkeras.methods.friendly import FSAM, VaSSO
from samkeras.methods.lengths import LightSAM, MongeSAM, UnifiedSAM
from samkeras.methods.method import Context, Method, Perturbation, Role
from samkeras.methods.sam import SAM, RandomPerturbation, UnnormalizedSAM
from samkeras.methods.sparse import SSAM

__all__ = [
    "ASAM",
    "FSAM",
    "SAM",
    "SSAM",
    "Context",
    "LightSAM",
    "Method",
    "MongeSAM",
    "Perturbation",
    "RandomPerturbation",
    "Role",
    "UnifiedSAM",
    "UnnormalizedSAM",
    "VaSSO",
]
