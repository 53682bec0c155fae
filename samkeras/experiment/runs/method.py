"""A run's method, made of its options."""

import math

import samkeras
from samkeras.errors import InputError
from samkeras.experiment.options.groups import Config
from samkeras.experiment.options.methods import ARGUMENTS, CLASS_OPTIONS, CLASSES
from samkeras.methods import Method


def build_method(config: Config) -> Method | None:
    """A run's method, of its options; None without SAM.

    Raises:
        InputError: the workload's own method is none.
    """
    if not config.sam:
        return None
    methods = config.target.load().methods
    if config.method in methods:
        method = methods[config.method](config)
        if not isinstance(method, Method):
            raise InputError(
                f"{config.target.path}: methods[{config.method!r}] must give a "
                f"samkeras.Method. Received: {method}"
            )
        return method
    options = {
        ARGUMENTS.get(name, name): getattr(config, name)
        for name, classes in CLASS_OPTIONS.items()
        if config.method in classes
    }
    if options.get("p") == "inf":
        options["p"] = math.inf
    return getattr(samkeras, CLASSES[config.method])(**options)
