"""What the loss of any keras model looks like around its weights: curvature, sharpness,
landscapes and how linear the model is."""

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
from samkeras.analysis.directions import (
    Directions,
    Projection,
    pca_directions,
    random_directions,
)
from samkeras.analysis.function import FittedFunction, fitted_function
from samkeras.analysis.landscape import Line, Plane, interpolation, line, plane
from samkeras.analysis.non_uniformity import (
    NonUniformity,
    non_uniformities,
    non_uniformity,
)
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
    "Directions",
    "Eigenvalues",
    "FittedFunction",
    "Line",
    "Linearity",
    "NonUniformity",
    "Plane",
    "Projection",
    "Sharpness",
    "Smoothness",
    "SpectralDensity",
    "Trace",
    "average_sharpness",
    "bottom_eigenvalues",
    "fitted_function",
    "interpolation",
    "line",
    "linearity",
    "non_uniformities",
    "non_uniformity",
    "pca_directions",
    "plane",
    "random_directions",
    "sharpness",
    "smoothness",
    "spectral_density",
    "top_eigenvalues",
    "trace",
]
