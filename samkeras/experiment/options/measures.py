"""What `--measure` takes. Without keras, which takes seconds to import and --help needs
not."""

# Each measure, with the numbers that it gives.
MEASURES: dict[str, tuple[str, ...]] = {
    "eigenvalues": ("lambda_max", "lambda_5", "lambda_ratio", "lambda_residual"),
    "trace": ("trace", "trace_error"),
    "spectrum": ("lambda_min",),
    "sharpness": ("sharpness", "sharpness_one_step"),
    "average_sharpness": ("average_sharpness", "average_sharpness_error"),
    "non_uniformity": ("s_2", "s_3", "s_4"),
    "smoothness": ("smoothness", "pl_constant"),
    "linearity": ("linearity", "start_distance"),
    "function": ("slope_variation",),
    "trajectory": (),
    "landscape": (),
    "interpolation": (),
}
# What needs the weights along a training.
ALONG = ("trajectory",)
# Pictures of several runs that are over, side by side.
TOGETHER = ("landscape", "interpolation")
NUMBERS = tuple(name for names in MEASURES.values() for name in names)
