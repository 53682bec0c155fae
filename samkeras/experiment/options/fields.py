"""The values that options take: their types, and how text and YAML are read as them."""

import re
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from samkeras.errors import InputError, nearest
from samkeras.experiment.options.measures import MEASURES
from samkeras.experiment.options.values import plain_text

# What float32 holds, in which models are trained: larger numbers would be infinite
# there, smaller ones zero, and those nearer to 1 would be 1.
_TINY, _HUGE, _BELOW_ONE = 1.1754943508222875e-38, 3.4028234663852886e38, 1 - 2**-24


def _numbers(kind: type, is_allowed: Callable[[Any], bool]) -> type:
    """A type of options: the numbers of a kind that are allowed."""

    def __new__(cls: type, text: str) -> Any:
        number = kind(text)
        if not is_allowed(number):
            raise ValueError
        return number

    return type("Numbers", (kind,), {"__new__": __new__})


if TYPE_CHECKING:  # which numbers these are is known at run time alone
    PositiveFloat = float
    NonNegativeFloat = float
    Norm = float
    Fraction = float
    ClosedUnitInterval = float
    PositiveShare = float
    OpenUnitInterval = float
    PositiveInt = int
    NonNegativeInt = int
    SmallInt = int
    LayerCount = int
    Measures = tuple[str, ...]
else:
    PositiveFloat = _numbers(float, lambda x: _TINY <= x <= _HUGE)
    NonNegativeFloat = _numbers(float, lambda x: 0 <= x <= _HUGE)
    Norm = _numbers(float, lambda x: 1 < x <= _HUGE)
    Fraction = _numbers(float, lambda x: 0 <= x <= _BELOW_ONE)
    ClosedUnitInterval = _numbers(float, lambda x: 0 <= x <= 1)
    OpenUnitInterval = _numbers(float, lambda x: 0 < x < 1)
    PositiveShare = _numbers(float, lambda x: _TINY <= x <= 1)
    # Counts are int32 where they are computed with; seeds are what generators take.
    PositiveInt = _numbers(int, lambda n: 1 <= n < 2**31)
    NonNegativeInt = _numbers(int, lambda n: 0 <= n < 2**32)
    # Keras goes through a model's layers by recursion, which ends at about a thousand;
    # steps of ascent are compiled one by one.
    SmallInt = _numbers(int, lambda n: 1 <= n <= 100)
    # Shortcuts pass two or three layers at once.
    LayerCount = _numbers(int, lambda n: 1 <= n <= 400)
    # Names, of which a comma makes no grid.
    Measures = tuple[Literal[*MEASURES], ...]

# How messages name the values that a type allows, and help their place.
ALLOWED = {
    PositiveFloat: ("a number > 0 that float32 holds", "X"),
    NonNegativeFloat: ("a number >= 0 that float32 holds", "X"),
    PositiveInt: ("an integer >= 1 and < 2**31", "N"),
    NonNegativeInt: ("an integer >= 0 and < 2**32", "N"),
    Norm: ("a number > 1 that float32 holds, or inf", "X|inf"),
    SmallInt: ("an integer >= 1 and <= 100", "N"),
    LayerCount: ("an integer >= 1 and <= 400", "N"),
    ClosedUnitInterval: ("a number from 0 to 1", "X"),
    OpenUnitInterval: ("a number between 0 and 1", "X"),
    PositiveShare: ("a number > 0 and <= 1 that float32 holds", "X"),
    Fraction: ("a number >= 0 and < 1 that float32 holds", "X"),
    bool: ("true or false", "[true|false]"),
    int: ("an integer", "N"),
    float: ("a number", "X"),
    str: ("text", "TEXT"),
}

# Numbers as all write them, not as Python does: no 1_000, and no other script's digits.
_NUMBERS = {
    int: re.compile(r"[-+]?\d+", re.ASCII),
    float: re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.ASCII | re.IGNORECASE),
}


def parse_option(name: str, value: Any, hint: Any) -> Any:
    """An option's value, given as text or as YAML has it.

    Raises:
        InputError: it is none that the option takes.
    """
    try:
        return _parse_value(value, hint)
    except (ValueError, KeyError):
        shown = "null" if value is None else plain_text(value)
        wrong, choices = shown, ()
        if hint == Measures:
            choices = tuple(MEASURES)
            given = [str(each) for each in _list_names(value)]
            wrong = next((each for each in given if each not in choices), shown)
        elif typing.get_origin(hint) is Literal:
            choices = typing.get_args(hint)
        raise InputError(
            f"{name} must be {allowed_values(hint)[0]}. Received: "
            f"{wrong}{nearest(wrong, map(str, choices))}"
        ) from None


def _parse_value(value: Any, hint: Any) -> Any:
    arguments = typing.get_args(hint)
    if type(None) in arguments:
        return None if value in (None, "null") else _parse_value(value, arguments[0])
    if Literal["inf"] in arguments:
        return value if value == "inf" else _parse_value(value, arguments[0])
    if hint == Measures:
        names = [_parse_value(v, arguments[0]) for v in _list_names(value)]
        return tuple(dict.fromkeys(names))
    if typing.get_origin(hint) is tuple:
        return tuple(_parse_value(v, arguments[0]) for v in _list_values(value))
    if value is None or isinstance(value, list | dict):
        raise ValueError
    return _parse_text(plain_text(value), hint)


def _parse_text(text: str, hint: Any) -> Any:
    if typing.get_origin(hint) is Literal:
        return {str(value): value for value in typing.get_args(hint)}[text]
    if hint is bool:
        return {"true": True, "false": False}[text.lower()]
    if hint is str:
        if not text or text == "null" or not text.isprintable():
            raise ValueError
        return text
    kind = int if issubclass(hint, int) else float
    if not _NUMBERS[kind].fullmatch(text):
        raise ValueError
    return kind(hint(text)) + 0  # -0.0 is the same run as 0.0


def _list_values(value: Any) -> list[Any]:
    """The values of a list, of YAML or of text such as [0.5,0.75]."""
    if isinstance(value, list):
        return value
    found = re.fullmatch(r"\[(.*)\]", str(value))
    if found is None:
        raise ValueError
    return split_list(found[1]) if found[1].strip() else []


def _list_names(value: Any) -> list[Any]:
    """The names of a list, of YAML or of text such as trace,spectrum."""
    if isinstance(value, list | tuple):
        return [*value]
    text = plain_text(value).removeprefix("[").removesuffix("]")
    return split_list(text) if text.strip() else []


def split_list(text: str) -> list[str]:
    """Splits at commas outside brackets: "1,2" is two values, "[1,2]" is one."""
    return [value.strip() for value in re.split(r",(?![^\[]*\])", text)]


def allowed_values(hint: Any) -> tuple[str, str]:
    """What options of a type take: in words, and in short for their place in the
    help."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        choices = [str(argument) for argument in arguments]
        return f"one of {', '.join(choices)}", f"{{{'|'.join(choices)}}}"
    if hint == Measures:
        return f"of {', '.join(MEASURES)}", "NAME,NAME"
    if typing.get_origin(hint) is tuple:
        return f"a list like [0.5,0.75], each {ALLOWED[arguments[0]][0]}", "[X,X]"
    return ALLOWED[arguments[0] if arguments else hint]
