"""What `--method` takes, and which options each method has. Without keras, which takes
seconds to import and --help needs not."""

# The class in samkeras of each method.
CLASSES = {
    "sam": "SAM",
    "unnormalized": "UnnormalizedSAM",
    "random": "RandomPerturbation",
    "asam": "ASAM",
    "fsam": "FSAM",
}
_ALL = tuple(CLASSES)
# The options that are arguments of the classes, each with the methods that have it.
CLASS_OPTIONS = {
    "rho": _ALL,
    "p": ("sam", "asam"),
    "ascent_steps": ("sam",),
    "eta": ("asam",),
    "sigma": ("fsam",),
    "ema_decay": ("fsam",),
}
# The arguments that have a name of their own, where the option's says more.
ARGUMENTS = {"ascent_steps": "steps"}
# The options that mean something with --sam alone.
OPTIONS = {"method": _ALL, **CLASS_OPTIONS, "m_sharpness": _ALL}
# What takes the place of a workload's defaults, which are for SAM itself.
DEFAULTS = {"asam": {"rho": 0.5}}


def takes(method: str, option: str) -> bool:
    """Whether an option means something to a method; to a workload's own method those
    do that all methods have."""
    methods = OPTIONS[option]
    return method in methods or (method not in CLASSES and methods == _ALL)
