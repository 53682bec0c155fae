"""Sharpness-aware methods: how a training step's gradient is found."""

from samkeras.methods.adaptive import ASAM
from samkeras.methods.friendly import FSAM
from samkeras.methods.method import Context, Method, Perturbation, Role
from samkeras.methods.sam import SAM, RandomPerturbation, UnnormalizedSAM

__all__ = [
    "ASAM",
    "FSAM",
    "SAM",
    "Context",
    "Method",
    "Perturbation",
    "RandomPerturbation",
    "Role",
    "UnnormalizedSAM",
]
