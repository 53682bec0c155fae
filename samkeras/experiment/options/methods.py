"""What `--method` takes, and which options each method has. Without keras, which takes
seconds to import and --help needs not."""

# The class in samkeras of each method.
CLASSES = {
    "sam": "SAM",
    "second_order": "SecondOrderSAM",
    "unnormalized": "UnnormalizedSAM",
    "random": "RandomPerturbation",
    "asam": "ASAM",
    "fsam": "FSAM",
    "vasso": "VaSSO",
    "unified": "UnifiedSAM",
    "monge": "MongeSAM",
    "light": "LightSAM",
    "ssam": "SSAM",
    "esam": "ESAM",
    "trace": "TraceSAM",
    "det": "DetSAM",
    "frobenius": "FrobeniusSAM",
    "gsam": "GSAM",
    "gnp": "GNP",
    "wsam": "WSAM",
    "stable": "StableSAM",
    "looksam": "LookSAM",
    "aesam": "AESAM",
    "msam": "MomentumSAM",
}
_ALL = tuple(CLASSES)
_OF_NORMS = tuple(name for name in CLASSES if name != "light")
# Momentum-SAM's one pass cannot be skipped.
_SKIPPING = tuple(name for name in CLASSES if name != "msam")
# The options that are arguments of the classes, each with the methods that have it.
CLASS_OPTIONS = {
    "rho": _ALL,
    "p": ("sam", "asam"),
    "ascent_steps": ("sam",),
    "eta": ("asam",),
    "sigma": ("fsam",),
    "ema_decay": ("fsam", "aesam"),
    "fsam_order": ("fsam",),
    "theta": ("vasso",),
    "lam": ("unified", "trace", "det", "frobenius"),
    "sam_samples": ("trace", "det", "frobenius"),
    "esam_beta": ("esam",),
    "esam_gamma": ("esam",),
    "mask_sparsity": ("ssam",),
    "mask_every": ("ssam",),
    "sam_alpha": ("gsam", "gnp", "looksam"),
    "gamma": ("wsam",),
    "decoupled": ("wsam",),
    "only": _ALL,
    "scope": _OF_NORMS,
    "sam_every": _SKIPPING,
    "sam_start": _SKIPPING,
}
# The arguments that have a name of their own, where the option's says more.
ARGUMENTS = {
    "ascent_steps": "steps",
    "mask_sparsity": "sparsity",
    "fsam_order": "order",
    "esam_beta": "beta",
    "esam_gamma": "gamma",
    "sam_alpha": "alpha",
    "sam_samples": "samples",
    "sam_every": "every",
    "sam_start": "start",
}
# The options that mean something with --sam alone.
OPTIONS = {"method": _ALL, **CLASS_OPTIONS, "m_sharpness": _ALL}
# Those that a workload's own methods have too.
_OF_ANY = ("method", "rho", "m_sharpness")
# Those that choose among methods, each of which is a line of its own in figures and
# tables; of the others a method is taken at its best numbers.
CHOICES = (
    "method",
    "only",
    "scope",
    "fsam_order",
    "decoupled",
    "sam_every",
    "sam_start",
)
# What takes the place of a workload's defaults, which are for SAM itself.
DEFAULTS = {
    "asam": {"rho": 0.5},
    "trace": {"rho": 0.01, "lam": 1.0},
    "det": {"rho": 0.01, "lam": 1.0},
    "frobenius": {"rho": 0.005, "lam": 0.005, "sam_samples": 2},
    "gnp": {"rho": 0.1, "sam_alpha": 0.8},
    "looksam": {"rho": 0.1, "sam_alpha": 0.7, "sam_every": 5},
    "msam": {"rho": 3.0},
}


def takes(method: str, option: str) -> bool:
    """Whether an option means something to a method; to a workload's own method those
    do that all methods have."""
    if method not in CLASSES:
        return option in _OF_ANY
    return method in OPTIONS[option]
