"""What `--measure` takes. Without keras, which takes seconds to import and --help needs
not."""

# Of what measures give: numbers of an earlier one are not taken for this one's.
VERSION = 3

# Each measure, with the numbers that it gives.
MEASURES: dict[str, tuple[str, ...]] = {
    "eigenvalues": (
        "lambda_max",
        "lambda_5",
        "lambda_ratio",
        "lambda_residual",
        "lambda_converged",
    ),
    "trace": ("trace", "trace_error"),
    "spectrum": ("lambda_min", "lambda_min_residual", "lambda_min_converged"),
    "sharpness": ("sharpness", "sharpness_one_step"),
    "average_sharpness": ("average_sharpness", "average_sharpness_error"),
    "non_uniformity": ("s_2", "s_3", "s_4", "s_gap", "s_residual", "s_converged"),
    "smoothness": ("smoothness", "pl_constant"),
    "linearity": ("linearity", "start_distance"),
    "function": ("slope_variation",),
    "trajectory": (),
    "landscape": (),
    "interpolation": (),
}
# The number that is 1 where a measure's others have converged, and 0 where not.
FLAGS = {
    name: numbers[-1]
    for name, numbers in MEASURES.items()
    if numbers and numbers[-1].endswith("_converged")
}
# What needs the weights along a training.
ALONG = ("trajectory",)
# Pictures of several runs that are over, side by side.
TOGETHER = ("landscape", "interpolation")
NUMBERS = tuple(name for names in MEASURES.values() for name in names)
