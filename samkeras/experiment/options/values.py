"""How values are written."""

import math
from collections.abc import Iterable

MOST_DECIMALS = 12


def plain_text(value: object) -> str:
    """A value as Python writes it, but for true and false: as runs record it, and as
    messages repeat what was given."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_text(value: object) -> str:
    """A value as the command line has it, in the shortest text that means it."""
    if value is None:
        return "null"
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else str(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_text, value))}]"
    return plain_text(value)


def count_decimals(numbers: Iterable[float]) -> int:
    """How many decimals show numbers of a kind: four for those around 1, as many digits
    for smaller and larger ones."""
    largest = max((abs(n) for n in numbers if math.isfinite(n)), default=0.0)
    exponent = math.floor(math.log10(largest)) if largest else 0
    return max(0, 4 - exponent) if exponent >= 0 else min(MOST_DECIMALS, 3 - exponent)


def with_decimals(number: float, decimals: int, sign: str = "") -> str:
    """A number with so many decimals, or in powers of ten where they would all be 0.

    Args:
        number: what is shown.
        decimals: how many, see count_decimals.
        sign: "+" of a difference, which may well be 0 beside what it is of, but not
            where no number has decimals.
    """
    shown = f"{number:{sign}z.{decimals}f}"
    is_shown = float(shown) or (sign and decimals < MOST_DECIMALS)
    return shown if not number or is_shown else f"{number:{sign}.1e}"
