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
from samkeras.analysis.non_uniformity import NonUniformity, non_uniformity
from samkeras.analysis.path import Linearity, Smoothness, linearity, smoothness
from samkeras.analysis.sharpness import (
    AverageSharpness,
    Sharpness,
    average_sharpness,
    sharpness,
)

__all__ = [
    "AverageSharpness",
    "DataLoss",
    "Eigenvalues",
    "Linearity",
    "NonUniformity",
    "Sharpness",
    "Smoothness",
    "SpectralDensity",
    "Trace",
    "average_sharpness",
    "bottom_eigenvalues",
    "linearity",
    "non_uniformity",
    "sharpness",
    "smoothness",
    "spectral_density",
    "top_eigenvalues",
    "trace",
]
