"""The options of runs: what a group of one's own is made of."""

from samkeras.experiment.options.fields import (
    ClosedUnitInterval,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    OpenUnitInterval,
    PositiveFloat,
    PositiveInt,
    SmallInt,
)
from samkeras.experiment.options.groups import Options

__all__ = [
    "ClosedUnitInterval",
    "Fraction",
    "NonNegativeFloat",
    "NonNegativeInt",
    "OpenUnitInterval",
    "Options",
    "PositiveFloat",
    "PositiveInt",
    "SmallInt",
]
