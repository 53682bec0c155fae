"""The points of a picture, of the runs that it is drawn of."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from samkeras.experiment.options.config import varied_fields
from samkeras.experiment.options.groups import Config
from samkeras.experiment.options.methods import CHOICES, DEFAULTS
from samkeras.experiment.runs.result import Result
from samkeras.experiment.studies.comparison import (
    RULE_FIELDS,
    SIZE_FIELDS,
    Comparison,
    Estimate,
    Rule,
    estimate,
    find_rule,
    named,
    rho_of,
    rule_of,
)
from samkeras.experiment.studies.conclusion import name_size
from samkeras.experiment.studies.picture import EPOCH, Picture, Y
from samkeras.experiment.studies.tables import cell

# The options that an x stands for, if it is not one itself.
X_FIELDS = {
    "method": CHOICES,
    "num_params": SIZE_FIELDS,
    "sparsity": ("sparsity", "match_width"),
}


class Point(NamedTuple):
    """A point of a picture."""

    line: str
    x: float | str
    """of a method its name, and the passes of a step"""
    y: Estimate | None
    """None if its runs failed or are missing"""
    rho: float | None
    """SAM's, where it takes part"""
    is_best: bool | None
    """where x is rho: whether it is the best one"""
    unfinished: int
    """runs of the point that failed or are missing"""
    panel: str = ""
    """the value of the option that its panel is of"""


Bases = list[tuple[str, dict[int, Result]]]


def find_points(
    picture: Picture, results: Sequence[Result], comparisons: Sequence[Comparison]
) -> list[Point]:
    """The points of a picture, panel by panel and line by line."""
    config = results[0].config
    varied = varied_fields(result.config for result in results)
    places = [*X_FIELDS.get(picture.x, (picture.x,)), picture.panels]
    apart = [name for name in varied if not _follows(name, places, comparisons)]
    rules = find_varied_rules(comparisons)
    points: list[Point] = []
    bases: Bases = []  # each is drawn once, though it is of several methods
    for c in comparisons:
        options = {n: describe(n, c.fields[n]) for n in c.fields if n in apart}
        panel = name_panel(picture, {**vars(config), **c.fields})
        if c.is_apart and picture.x != "num_params":
            options["num_params"] = name_size(c)
        if picture.x == "rho":
            others = [name for name in rules if name != "rho"]
            points += _find_rho_points(c, picture, options, others, panel)
        elif picture.x == EPOCH:
            points += _find_curves(c, picture, options, rules, panel, bases)
        else:
            points += _find_values(c, picture, options, config, panel, bases)
    if picture.x == "sparsity":
        points = _share_dense(points)
    lines = list(dict.fromkeys(point.line for point in points))
    panels = list(dict.fromkeys(point.panel for point in points))

    def place(point: Point) -> tuple[int, int]:
        return panels.index(point.panel), lines.index(point.line)

    if picture.x == "method":
        return sorted(points, key=place)
    return sorted(points, key=lambda point: (*place(point), point.x))


def _find_values(
    c: Comparison,
    picture: Picture,
    options: Mapping[str, str],
    config: Config,
    panel: str,
    bases: Bases,
) -> list[Point]:
    """The points of a comparison at its x."""
    label, number = ", ".join(options.values()), find_number(picture, config)
    found: list[tuple[str, Estimate | None, float | None]] = []
    if picture.y == "gain":
        gain = estimate(c.gains(picture.value))
        found.append((label or "SAM - base", gain, c.rho))
    elif picture.y == "best_rho":
        rho = None if c.rho is None else Estimate(c.rho, None, len(c.sam))
        found.append((label or "SAM", rho, c.rho))
    else:
        sam, base = (_estimate(r.values(), number, picture) for r in (c.sam, c.base))
        if sam or not base:
            found.append((f"SAM, {label}" if label else "SAM", sam, c.rho))
        if base and (panel, c.base) not in bases:
            bases.append((panel, c.base))
            found.append((name_line(None, options, (), config), base, None))
    x = _find_x(picture.x, c, config)
    return [
        Point(line, x, y, rho, None, len(c.unfinished), panel) for line, y, rho in found
    ]


def _follows(
    name: str, places: Sequence[str | None], comparisons: Sequence[Comparison]
) -> bool:
    """Whether an option's value is known where a point is: it is what the point's place
    says, or has one value at each place, as a learning rate that falls with the
    width."""
    if name in places:
        return True
    if not comparisons or name not in comparisons[0].fields or name in CHOICES:
        return False
    known = [place for place in places if place in comparisons[0].fields]
    values: dict[tuple[object, ...], set[object]] = {}
    for c in comparisons:
        key = tuple(c.fields[place] for place in known)
        values.setdefault(key, set()).add(c.fields[name])
    return all(len(of) == 1 for of in values.values())


def find_varied_rules(comparisons: Sequence[Comparison]) -> list[str]:
    """The numbers of SAM that differ between the runs of a comparison."""
    varied: set[str] = set()
    for c in comparisons:
        rules = [rule for rule in c.runs if rule is not None]
        for name, values in zip(RULE_FIELDS, zip(*rules, strict=True), strict=False):
            varied |= {name} if len({*values}) > 1 else set()
    return [name for name in RULE_FIELDS if name in varied]


def name_line(
    rule: Rule | None,
    options: Mapping[str, str],
    rules: Iterable[str],
    config: Config,
) -> str:
    """What a line is called: SAM with the numbers of it that vary, or the base
    optimizer; and its options."""
    if rule is None:
        shown = [text for name, text in options.items() if name not in CHOICES]
        return ", ".join((config.optimizer.upper(), *shown))
    numbers = [describe(name, named(rule)[name]) for name in rules]
    return ", ".join(("SAM", *numbers, *options.values()))


def _find_curves(
    c: Comparison,
    picture: Picture,
    options: Mapping[str, str],
    rules: Iterable[str],
    panel: str,
    bases: Bases,
) -> list[Point]:
    """The lines of a comparison over epochs, one for each choice of SAM's numbers: at
    each epoch, of the seeds that have a number there."""
    config = c.config
    first = 1 if config.log_step(0, 1) == 0 else 0  # epochs are counted from 1
    points: list[Point] = []
    for rule, runs in c.runs.items():
        if rule is None:
            if (panel, runs) in bases:
                continue
            bases.append((panel, runs))
        line = name_line(rule, options, rules, config)
        rho = None if rule is None else rho_of(rule)
        failed = sum(find_rule(result.config) == rule for result in c.unfinished)
        curves = [result.curves.get(picture.y, {}) for result in runs.values()]
        for step in sorted({step for curve in curves for step in curve}) or [0]:
            values = (curve[step] for curve in curves if step in curve)
            y = estimate(values, picture.log_y)
            points.append(Point(line, step + first, y, rho, None, failed, panel))
    return points


class Fit(NamedTuple):
    """A line that is fitted to the logarithm of a curve."""

    panel: str
    line: str
    factor: float
    """of y from one epoch to the next"""
    r2: float
    """the share of the logarithm's variance that the line has"""


def fit_curves(picture: Picture, points: Iterable[Point]) -> list[Fit]:
    """Fits a line in log y to each curve of a picture, of its points within
    `picture.fit`; of fewer than three there is none."""
    if picture.fit is None:
        return []
    low, high = picture.fit
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for p in points:
        if p.y is not None and low <= p.y.mean <= high:
            curve = curves.setdefault((p.panel, p.line), [])
            curve.append((float(p.x), math.log(p.y.mean)))
    fits: list[Fit] = []
    for (panel, line), curve in curves.items():
        if len(curve) < 3:
            continue
        x, y = np.array(curve).T
        slope, intercept = np.polyfit(x, y, 1)
        rest = np.sum((y - slope * x - intercept) ** 2) / np.sum((y - y.mean()) ** 2)
        fits.append(Fit(panel, line, math.exp(slope), 1 - float(rest)))
    return fits


def _name_method(comparison: Comparison, config: Config) -> str:
    """A method with the options that choose it, if they are not its defaults, and its
    passes where they are known."""
    fields = comparison.fields
    method = str(fields.get("method", config.method))
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    defaults |= DEFAULTS.get(method, {})
    chosen = {n: fields.get(n) for n in CHOICES[1:]}
    words = [method]
    words += [
        describe(name.removeprefix("sam_"), value)
        for name, value in chosen.items()
        if value not in (None, defaults[name])
    ]
    finished = (
        result for runs in comparison.by_rule.values() for result in runs.values()
    )
    passes = {result.number("passes") for result in finished} - {None}
    cost = f" ({passes.pop():g} passes)" if len(passes) == 1 else ""
    return ", ".join(words) + cost


def _find_rho_points(
    c: Comparison,
    picture: Picture,
    options: Mapping[str, str],
    others: Sequence[str],
    panel: str,
) -> list[Point]:
    """SAM's points at each rho that was tried, a line for each choice of its other
    numbers."""
    number = find_number(picture, c.config)
    failed = [rule_of(r.config) for r in c.unfinished if r.config.sam]
    points: list[Point] = []
    for rule in dict.fromkeys([*c.by_rule, *failed]):
        rho, is_best = rho_of(rule), rule == c.rule
        numbers = [describe(name, named(rule)[name]) for name in others]
        line = ", ".join((*numbers, *options.values())) or "SAM"
        y = _estimate(c.by_rule.get(rule, {}).values(), number, picture)
        points.append(Point(line, rho, y, rho, is_best, failed.count(rule), panel))
    return points


def _share_dense(points: list[Point]) -> list[Point]:
    """Makes the dense model, which no pruner made, the first point of each pruner's
    line."""
    lines = dict.fromkeys(p.line for p in points if p.x != 0)
    shared: list[Point] = []
    for point in points:
        is_own = point.line in lines or not lines
        shared += [point] if is_own else [point._replace(line=n) for n in lines]
    return shared


def _find_x(x: str, comparison: Comparison, config: Config) -> float | str:
    if x == "method":
        return _name_method(comparison, config)
    if x in ("num_params", "sparsity"):
        return getattr(comparison, x)
    # An option that does not vary is the same in any config.
    return comparison.fields.get(x, getattr(config, x))


def find_number(picture: Picture, config: Config) -> str:
    """The name of the number that a picture shows of each run."""
    if picture.y in Y:
        return f"{picture.value}_{config.target.load().monitor}"
    return picture.y


def _estimate(
    results: Iterable[Result], number: str, picture: Picture
) -> Estimate | None:
    values = (result.number(number) for result in results)
    known = (value for value in values if value is not None)
    return estimate(known, picture.log_y)


def name_panel(picture: Picture, values: Mapping[str, object]) -> str:
    """The panel of a run's options."""
    if picture.panels is None:
        return ""
    return describe(picture.panels, values[picture.panels])


def describe(field: str, value: object) -> str:
    """A line's option, as "label noise 0.5", and a multiplier's with a sign of that."""
    name = field.replace("_mult", " \N{MULTIPLICATION SIGN}").replace("_", " ")
    return f"{name} {cell(value)}"
