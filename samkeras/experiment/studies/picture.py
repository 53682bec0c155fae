"""A picture of a study: what is drawn of its runs, and how."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_args

from samkeras.errors import InputError, nearest

EPOCH, INPUT, EIGENVALUE, PLANE = "epoch", "input", "eigenvalue", "plane"
FUNCTION, SPECTRUM, LANDSCAPE = "function", "spectrum", "landscape"
# The measures whose arrays are drawn over an x of their own.
MEASURED = {INPUT: FUNCTION, EIGENVALUE: SPECTRUM}
CURVES = (EPOCH, *MEASURED, PLANE)
X = (
    *CURVES,
    "num_params",
    "width_mult",
    "depth",
    "sparsity",
    "rho",
    "label_noise",
    "weight_decay",
    "alpha",
    "method",
)
Y = ("gain", "metric", "best_rho")
Value = Literal["best", "final"]
VALUES: tuple[Value, ...] = get_args(Value)

Options = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """What is drawn of a figure's runs.

    Attributes:
        name: names its files.
        title: one line.
        y: "gain", SAM minus base at SAM's best rho; "metric", of both; "best_rho"; or
            a number of the runs by its name, such as "grad_cosine", of both.
        x: what it is drawn over, one of X or a number that is an option of the
            workload's own; other options that vary become lines. Of "method" each has a
            row; over "epoch" y is a number that runs record of each, over "input"
            "function", what each run's model computes of it, over "eigenvalue" the
            "spectrum" of its Hessian, and on the "plane" of a start and the minima of
            the base optimizer and of SAM "landscape", the loss.
        value: the "best" of a run's epochs, the paper's early stopping, or the "final",
            of a gain or metric.
        paper: the paper's own curve, {"x": [...], "y": [...]}, if it has one.
        panels: an option, each of whose values has a panel of its own.
        log_y: whether y has a logarithmic axis; means over seeds are geometric then.
        bounds: the name of a rule for what theory says of y, drawn dashed: one of
            BOUNDS or of the workload's own `bounds`.
        fit: [low, high], between which each curve over epochs is fitted by a line in
            log y, whose slope and R^2 are said.
    """

    name: str
    title: str
    y: str
    x: str
    value: Value = "best"
    paper: dict[str, list[float]] | None = None
    panels: str | None = None
    log_y: bool = False
    bounds: str | None = None
    fit: tuple[float, float] | None = None


class HasName(Protocol):
    """What a study makes files of."""

    @property
    def name(self) -> str: ...


Named = TypeVar("Named", bound=HasName)

PICTURE_FIELDS = tuple(f.name for f in dataclasses.fields(Picture))
# What a file without a list of pictures says of its only one.
ONLY_FIELDS = tuple(name for name in PICTURE_FIELDS if name not in ("name", "title"))


def read_pictures(
    path: Path, given: object, default: Picture, xs: Sequence[str]
) -> list[Picture]:
    """A file's pictures.

    Args:
        path: the file.
        given: what it says of them.
        default: the values of fields that they do not have.
        xs: what they may be drawn over.

    Raises:
        InputError: something is wrong.
    """

    def read(where: str, fields: object) -> Picture:
        return read_picture(where, fields, default, xs)

    return read_named(path, "pictures", "drawn", given, read)


def read_named(
    path: Path,
    kind: str,
    done: str,
    given: object,
    read: Callable[[str, object], Named],
) -> list[Named]:
    """A file's pictures, or tables, each under a name of its own.

    Args:
        path: the file.
        kind: what they are called in it.
        done: what is done to them.
        given: what it says of them.
        read: reads one of them, by where it stands and its fields.

    Raises:
        InputError: something is wrong.
    """
    if not isinstance(given, list) or not given:
        raise InputError(f"{path}: {kind} must be a list of what is {done}")
    found = [read(f"{path}: {kind}[{i}]", fields) for i, fields in enumerate(given)]
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: two {kind} have the name {name}")
    return found


def read_picture(
    where: str, fields: object, default: Picture, xs: Sequence[str]
) -> Picture:
    """One of them. See read_pictures."""
    if not isinstance(fields, dict):
        raise InputError(f"{where} must hold fields and values, such as `y: gain`")
    check_fields(where, fields, PICTURE_FIELDS, ("x", "y"))
    if "value" in fields and fields["y"] not in ("gain", "metric"):
        raise InputError(f"{where}: value needs y: gain or metric")
    picture = dataclasses.replace(default, **fields)
    _check_choice(where, "x", picture.x, xs)
    _check_picture(where, picture)
    return picture


def check_fields(
    where: object, values: Options, known: Sequence[str], needed: Sequence[str]
) -> None:
    """Checks that all of a mapping's fields are known, and none is missing.

    Raises:
        InputError: they are not.
    """
    for name in values:
        if name not in known:
            raise InputError(
                f"{where}: unknown field {name}{nearest(str(name), known)}"
            )
    for name in needed:
        if name not in values:
            raise InputError(f"{where} needs the field {name}")


def _check_choice(
    where: object, name: str, value: object, allowed: Sequence[str]
) -> None:
    if value not in allowed:
        raise InputError(
            f"{where}: {name} must be one of {', '.join(allowed)}. Received: "
            f"{value}{nearest(str(value), allowed)}"
        )


def _check_picture(where: object, picture: Picture) -> None:
    _check_choice(where, "value", picture.value, VALUES)
    for name, kind, what in (
        ("title", str, "text"),
        ("y", str, "text"),
        ("panels", str | None, "the name of an option"),
        ("bounds", str | None, "the name of a rule"),
        ("log_y", bool, "true or false"),
    ):
        value = getattr(picture, name)
        if not isinstance(value, kind):
            raise InputError(f"{where}: {name} must be {what}. Received: {value}")
    # It names files.
    if not re.fullmatch(r"\w[\w.-]*", str(picture.name)):
        raise InputError(
            f"{where}: name must be letters, digits, _, . and -. Received: "
            f"{picture.name}"
        )
    if picture.paper is not None and not _is_curve(picture.paper):
        raise InputError(
            f"{where}: paper must hold x and y, lists of numbers of one length"
        )
    if picture.fit is not None and not _is_range(picture.fit):
        raise InputError(
            f"{where}: fit must be [low, high], 0 < low < high. Received: {picture.fit}"
        )
    _check_axes(where, picture)


def _check_axes(where: object, picture: Picture) -> None:
    x, y = picture.x, picture.y
    if x == "rho" and y in ("gain", "best_rho"):
        raise InputError(
            f"{where}: x: rho needs y: metric or a number. Received: y: {y}"
        )
    if x == "method" and y != "gain":
        raise InputError(f"{where}: x: method needs y: gain. Received: y: {y}")
    if x == EPOCH and y in Y:
        raise InputError(
            f"{where}: x: epoch needs y: a number that runs record of each epoch, such "
            f"as loss. Received: y: {y}"
        )
    for own, drawn in {**MEASURED, PLANE: LANDSCAPE}.items():
        if (x == own) != (y == drawn):
            raise InputError(
                f"{where}: x: {own} needs y: {drawn}, and it x: {own}. Received: x: "
                f"{x}, y: {y}"
            )
    if picture.fit is not None and x != EPOCH:
        raise InputError(f"{where}: fit needs x: epoch. Received: x: {x}")
    if picture.log_y and y == "gain":
        raise InputError(f"{where}: log_y needs another y: a gain may be negative")
    if picture.panels is not None and x in ("method", picture.panels):
        raise InputError(f"{where}: panels needs another x. Received: x: {x}")


def _is_curve(curve: object) -> bool:
    match curve:
        case {"x": list(x), "y": list(y), **others}:
            # YAML takes 1e6, without a point, for text.
            are_numbers = all(isinstance(value, int | float) for value in (*x, *y))
            return not others and len(x) == len(y) and are_numbers
        case _:
            return False


def _is_range(given: object) -> bool:
    match given:
        case [int() | float() as low, int() | float() as high]:
            return 0 < low < high
        case _:
            return False
