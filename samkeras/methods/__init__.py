"""Sharpness-aware methods: how a training step's gradient is found."""

from samkeras.hyperparameter import Number
from samkeras.methods.adaptive import ASAM
from samkeras.methods.aesam import AESAM
from samkeras.methods.combinations import GNP, GSAM, WSAM, StableSAM
from samkeras.methods.efficient import ESAM
from samkeras.methods.friendly import FSAM, VaSSO
from samkeras.methods.lengths import LightSAM, MongeSAM, UnifiedSAM
from samkeras.methods.looksam import LookSAM
from samkeras.methods.method import Context, Method, Perturbation, Point, Role
from samkeras.methods.momentum import MomentumSAM
from samkeras.methods.sam import (
    SAM,
    RandomPerturbation,
    SecondOrderSAM,
    UnnormalizedSAM,
)
from samkeras.methods.sparse import SSAM
from samkeras.methods.universal import DetSAM, FrobeniusSAM, TraceSAM

__all__ = [
    "AESAM",
    "ASAM",
    "ESAM",
    "FSAM",
    "GNP",
    "GSAM",
    "SAM",
    "SSAM",
    "WSAM",
    "Context",
    "DetSAM",
    "FrobeniusSAM",
    "LightSAM",
    "LookSAM",
    "Method",
    "MomentumSAM",
    "MongeSAM",
    "Number",
    "Perturbation",
    "Point",
    "RandomPerturbation",
    "Role",
    "SecondOrderSAM",
    "StableSAM",
    "TraceSAM",
    "UnifiedSAM",
    "UnnormalizedSAM",
    "VaSSO",
]
