"""What `--method` takes, and which options each method has. Without keras, which takes
seconds to import and --help needs not."""

# The class in samkeras of each method.
CLASSES = {
    "sam": "SAM",
    "unnormalized": "UnnormalizedSAM",
    "random": "RandomPerturbation",
    "asam": "ASAM",
    "fsam": "FSAM",
    "vasso": "VaSSO",
    "unified": "UnifiedSAM",
    "monge": "MongeSAM",
    "light": "LightSAM",
    "ssam": "SSAM",
}
_ALL = tuple(CLASSES)
_OF_NORMS = tuple(name for name in CLASSES if name != "light")
# The options that are arguments of the classes, each with the methods that have it.
CLASS_OPTIONS = {
    "rho": _ALL,
    "p": ("sam", "asam"),
    "ascent_steps": ("sam",),
    "eta": ("asam",),
    "sigma": ("fsam",),
    "ema_decay": ("fsam",),
    "theta": ("vasso",),
    "lam": ("unified",),
    "mask_sparsity": ("ssam",),
    "mask_every": ("ssam",),
    "only": _ALL,
    "scope": _OF_NORMS,
}
# The arguments that have a name of their own, where the option's says more.
ARGUMENTS = {"ascent_steps": "steps", "mask_sparsity": "sparsity"}
# The options that mean something with --sam alone.
OPTIONS = {"method": _ALL, **CLASS_OPTIONS, "m_sharpness": _ALL}
# Those that a workload's own methods have too.
_OF_ANY = ("method", "rho", "m_sharpness")
# Those that choose among methods, each of which is a line of its own in figures and
# tables; of the others a method is taken at its best numbers.
CHOICES = ("method", "only", "scope")
# What takes the place of a workload's defaults, which are for SAM itself.
DEFAULTS = {"asam": {"rho": 0.5}}


def takes(method: str, option: str) -> bool:
    """Whether an option means something to a method; to a workload's own method those
    do that all methods have."""
    if method not in CLASSES:
        return option in _OF_ANY
    return method in OPTIONS[option]
