"""What `--method` takes, and which options each method has. Without keras, which takes
seconds to import and --help needs not."""

import functools

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


@functools.cache
def count_passes(method: str, ascent_steps: int) -> float:
    """Forward-backward passes of a step, as the method's class has them."""
    import samkeras

    has_steps = method in CLASS_OPTIONS["ascent_steps"]
    arguments = {ARGUMENTS["ascent_steps"]: ascent_steps} if has_steps else {}
    return getattr(samkeras, CLASSES[method])(**arguments).passes
