"""What the loss of any keras model looks like around its weights: curvature, sharpness
and how linear the model is."""

from samkeras.analysis.curvature import (
    Eigenvalues,
    SpectralDensity,
    Trace,
    bottom_eigenvalues,
    spectral_density,
    top_eigenvalues,
    trace,
)
from samkeras.analysis.data_loss import DataLoss

__all__ = [
    "DataLoss",
    "Eigenvalues",
    "SpectralDensity",
    "Trace",
    "bottom_eigenvalues",
    "spectral_density",
    "top_eigenvalues",
    "trace",
]
