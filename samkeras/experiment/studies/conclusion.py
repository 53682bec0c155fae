"""What a study's comparisons say, in sentences: whether SAM helps, and where."""

from collections.abc import Iterable, Sequence

from samkeras.experiment.options.methods import CHOICES
from samkeras.experiment.options.values import (
    as_text,
    count_decimals,
    with_decimals,
)
from samkeras.experiment.studies.comparison import (
    RULE_FIELDS,
    Comparison,
    Estimate,
    Growth,
    compare_sizes,
    correlate_gains,
    estimate,
    find_sign,
    find_varied,
    named,
)
from samkeras.experiment.studies.picture import Value

MAX_PLACES = 6  # more are counted
VERBS = {1: "helps", 0: "makes no clear difference", -1: "hurts"}
CHANGES = {1: "grows", 0: "does not change clearly", -1: "falls"}


def conclude(
    comparisons: Sequence[Comparison], monitor: str, value: Value = "best"
) -> list[str]:
    """Whether SAM helps, where, by how much and how sure that is.

    Args:
        comparisons: of all runs.
        monitor: the metric that gains are in.
        value: of the best epoch or of the final one.
    """
    metric = f"{value} {monitor}"
    decimals = decimals_of(comparisons)
    sentences: list[str] = []
    by_choice: dict[str, list[Comparison]] = {}
    for c in comparisons:
        words = [f"{name} {c.fields[name]}" for name in CHOICES if name in c.fields]
        subject = f"SAM ({', '.join(words)})" if words else "SAM"
        by_choice.setdefault(subject, []).append(c)
    for subject, own in by_choice.items():
        sentences += _conclude(own, subject, metric, value, decimals)
    gains = [gain for c in comparisons if (gain := estimate(c.gains(value)))]
    if any(gain.error is not None for gain in gains):
        sentences.append(
            "A gain is clear if its 95 % interval (Student's t, over the seeds) leaves "
            "out 0, and the seeds differ; ± is one standard error."
        )
    chosen = [c for c in comparisons if c.gains(value) and len(c.by_rule) > 1]
    if chosen:
        most = max(chosen, key=lambda c: len(c.by_rule))
        tried = zip(*most.by_rule, strict=True)
        names = [n for n, v in zip(RULE_FIELDS, tried, strict=True) if len({*v}) > 1]
        sentences.append(
            f"SAM is taken at its best {join(names)} of {len(most.by_rule)}, chosen in "
            f"{monitor} itself, which favours it."
        )
    return sentences


def _conclude(
    comparisons: Sequence[Comparison],
    subject: str,
    metric: str,
    value: Value,
    decimals: int,
) -> list[str]:
    """What is said of one method."""
    varied = find_varied(comparisons)
    by_sign: dict[int | None, list[tuple[str, Estimate]]] = {}
    for c in comparisons:
        if gain := estimate(c.gains(value)):
            place = name_place(c, varied)
            by_sign.setdefault(find_sign(gain), []).append((place, gain))
    said = [
        f"{verb} {_list_gains(by_sign[sign], decimals)}"
        for sign, verb in VERBS.items()
        if sign in by_sign
    ]
    sentences: list[str] = []
    if said:
        sentences.append(f"In {metric}, {subject} {join(said)}.")
    if None in by_sign:
        sentences.append(
            f"{subject}'s gain in {metric} {_list_gains(by_sign[None], decimals)} is "
            "of one seed, and may be chance: --seed 0,1,2 trains three."
        )
    growth = compare_sizes(comparisons, value)
    if growth is not None:
        sentences.append(_describe_growth(growth, subject, varied, decimals))
    correlation = correlate_gains(comparisons, value)
    if correlation is not None:
        interval = ""
        # The bootstrap needs seeds to draw from: two of them have one difference.
        if all(len(c.gains(value)) > 2 for c in comparisons if c.gains(value)):
            ends = f"{correlation.low:.2f} to {correlation.high:.2f}"
            interval = f" (95 % bootstrap interval {ends})"
        sentences.append(
            "The rank correlation of the gain with the number of parameters is "
            f"{correlation.value:.2f}{interval}."
        )
    return sentences


def _describe_growth(
    growth: Growth, subject: str, varied: Iterable[str], decimals: int
) -> str:
    ends = [name_place(c, varied) for c in (growth.smallest, growth.largest)]
    change = growth.change
    mean, low, high = (
        with_decimals(number, decimals, "+")
        for number in (change.mean, growth.low, growth.high)
    )
    spread = f"95 % interval {low} to {high}, {change.num_seeds} seeds"
    if low == high:
        spread = f"the same for all {change.num_seeds} seeds"
    return (
        f"From {' to '.join(_shorten(ends))}, {subject}'s gain "
        f"{CHANGES[find_sign(change) or 0]} ({mean}, {spread})."
    )


def caution(comparisons: Sequence[Comparison]) -> list[str]:
    """What is to be known before gains are believed: a best value at the edge of its
    grid, and runs that are compared apart."""
    varied = find_varied(comparisons)
    edges: dict[tuple[str, str, str], list[str]] = {}
    for c in comparisons:
        for name, which in c.edges.items():
            text = as_text(named(c.rule or ())[name])
            edges.setdefault((name, text, which), []).append(name_place(c, varied))
    sentences = [
        f"The best {name} is {text}{_at(places, len(comparisons))}, the {which} that "
        "was tried: a "
        f"{'larger' if which == 'largest' else 'smaller'} one may do better."
        for (name, text, which), places in edges.items()
    ]
    apart = sorted((c for c in comparisons if c.is_apart), key=lambda c: c.num_params)
    if apart:
        sizes = list(dict.fromkeys(map(name_size, apart)))
        sentences.append(
            f"Runs of the same options have models of {join(sizes)}, and are compared "
            "apart: some are of other code. A workload's version, raised after a "
            "change of what it imports, trains all of them again."
        )
    return sentences


def name_place(comparison: Comparison, varied: Iterable[str]) -> str:
    """Where a comparison is among others, as "width_mult 4, label_noise 0.5"."""
    pairs = [f"{name} {as_text(comparison.fields[name])}" for name in varied]
    if comparison.is_apart:
        pairs.append(name_size(comparison))
    return ", ".join(pairs)


def name_size(comparison: Comparison) -> str:
    """The size of a comparison's models."""
    dense, kept = comparison.num_params, comparison.num_nonzero
    pruned = "" if kept == dense else f" of which {kept:,} are not zero"
    return f"{dense:,} parameters{pruned}"


def _list_gains(gains: Sequence[tuple[str, Estimate]], decimals: int) -> str:
    """The places of gains, each with its gain, or how many they are."""
    if len(gains) > MAX_PLACES:
        means = [gain.mean for _, gain in gains]
        low, high = (
            with_decimals(mean, decimals, "+") for mean in (min(means), max(means))
        )
        return f"at {len(gains)} places ({low} to {high})"
    places = _shorten([place for place, _ in gains])
    texts = [
        f"{place} ({_describe(gain, decimals)})".strip()
        for place, (_, gain) in zip(places, gains, strict=True)
    ]
    return f"at {join(texts)}" if gains[0][0] else join(texts)


def _describe(gain: Estimate, decimals: int) -> str:
    shown = with_error(gain, decimals, "+")
    return shown if gain.error is None else f"{shown}, {gain.num_seeds} seeds"


def _at(places: Sequence[str], num_all: int) -> str:
    if len(places) == num_all > 1:
        return " everywhere"
    if len(places) > MAX_PLACES:
        return f" at {len(places)} places"
    return f" at {join(_shorten(places))}" if places[0] else ""


def _shorten(places: Sequence[str]) -> list[str]:
    """Places that differ in one field name it once: "width_mult 1", "4"."""
    names = {place.partition(" ")[0] for place in places}
    if len(names) > 1 or any("," in place for place in places):
        return [*places]
    return [places[0], *(place.partition(" ")[2] for place in places[1:])]


def join(texts: Sequence[str]) -> str:
    """Texts as a sentence lists them; those with commas of their own by semicolons."""
    if len(texts) < 2:
        return "".join(texts)
    if any(", " in text.partition(" (")[0] for text in texts):
        return f"{'; '.join(texts[:-1])}; and {texts[-1]}"
    return f"{', '.join(texts[:-1])} and {texts[-1]}"


def with_error(found: Estimate | None, decimals: int, sign: str = "") -> str:
    """A mean and its standard error, which one seed has not; nothing of none."""
    if found is None:
        return ""
    shown = with_decimals(found.mean, decimals, sign)
    return shown if found.error is None else with_spread(shown, found.error, decimals)


def with_spread(shown: str, spread: float, decimals: int) -> str:
    """What with_decimals has shown of a number, and how far off it may be, likewise."""
    return f"{shown} ± {spread:{'.1e' if 'e' in shown else f'.{decimals}f'}}"


def decimals_of(comparisons: Iterable[Comparison]) -> int:
    """How many decimals the numbers of comparisons are shown with."""
    runs = [runs for c in comparisons for runs in (c.base, *c.by_rule.values())]
    return count_decimals(result.best for of in runs for result in of.values())
