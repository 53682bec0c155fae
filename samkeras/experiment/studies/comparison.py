"""What the runs of a study say: SAM's gain, its best rho, and how sure they are."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from samkeras.experiment.options.config import varied_fields
from samkeras.experiment.options.groups import Config
from samkeras.experiment.options.methods import CHOICES, OPTIONS
from samkeras.experiment.runs.result import Result
from samkeras.experiment.studies.picture import Value
from samkeras.workload import Mode

# A method is taken at the values of these that are best for it.
RULE_FIELDS = tuple(name for name in OPTIONS if name not in CHOICES)
COMPARED_FIELDS = ("sam", *RULE_FIELDS, "seed")
# The smallest value of those that have another than 0; none is larger than inf.
LEAST = {"ascent_steps": 1, "m_sharpness": 1, "mask_every": 1, "sam_samples": 1}
# The fields that make a model larger.
SIZE_FIELDS = ("width_mult", "depth")
BOOTSTRAP_DRAWS = 2000
# Gains of seeds are the same up to this part of them: metrics are float32.
TIE = 1e-4

Rule = tuple[Any, ...]  # values of RULE_FIELDS


class Estimate(NamedTuple):
    """A mean over seeds."""

    mean: float
    error: float | None
    """its standard error, None for one seed"""
    num_seeds: int
    """how many there are"""


@dataclass(frozen=True)
class Comparison:
    """One of SAM's methods and the base optimizer on data and models that are the same.

    Attributes:
        fields: the options that set these runs apart from the others, the method among
            them where it varies.
        base: the base optimizer's finished runs by seed.
        by_rule: SAM's, for each value of RULE_FIELDS that has any.
        rule: the values of RULE_FIELDS that are best for SAM; None without its runs.
        num_params: trainable parameters.
        num_nonzero: those that are not pruned.
        is_apart: whether other runs of the same fields have models of other sizes.
        unfinished: runs that failed or are missing.
        mode: whether "max" or "min" of the metric is best.
    """

    fields: dict[str, Any]
    base: dict[int, Result]
    by_rule: dict[Rule, dict[int, Result]]
    rule: Rule | None
    num_params: int
    num_nonzero: int
    is_apart: bool
    unfinished: list[Result]
    mode: Mode

    @property
    def config(self) -> Config:
        """Of one of its runs."""
        found = (runs for runs in (self.base, *self.by_rule.values()) if runs)
        runs = [*next(found, {}).values(), *self.unfinished]
        return runs[0].config

    @property
    def sam(self) -> dict[int, Result]:
        """SAM's finished runs at its best rho, by seed."""
        return {} if self.rule is None else self.by_rule[self.rule]

    @property
    def runs(self) -> dict[Rule | None, dict[int, Result]]:
        """All finished runs: the base optimizer's under None, then SAM's, in the order
        of the rules; those are among them of which no run is finished."""
        failed = [find_rule(result.config) for result in self.unfinished]
        found: dict[Rule | None, dict[int, Result]] = {}
        if self.base or None in failed:
            found[None] = self.base
        rules = {*self.by_rule, *(rule for rule in failed if rule is not None)}
        for rule in sorted(rules, key=lambda rule: [*map(as_number, rule)]):
            found[rule] = self.by_rule.get(rule, {})
        return found

    @property
    def rho(self) -> float | None:
        """SAM's best rho."""
        return None if self.rule is None else rho_of(self.rule)

    @property
    def sparsity(self) -> float:
        """The fraction of all parameters that is pruned."""
        return 1 - self.num_nonzero / self.num_params

    @property
    def edges(self) -> dict[str, Literal["smallest", "largest"]]:
        """The values of SAM's best rule that are the smallest or the largest of those
        tried, where there are others beyond them that were not."""
        failed = [rule_of(r.config) for r in self.unfinished if r.config.sam]
        tried = zip(*self.by_rule, *failed, strict=True)
        found: dict[str, Literal["smallest", "largest"]] = {}
        for name, best, values in zip(
            RULE_FIELDS, self.rule or (), tried, strict=False
        ):
            numbers = [*map(as_number, values)]
            least, most = min(numbers), max(numbers)
            number = as_number(best)
            if number == most > least and number < math.inf:
                found[name] = "largest"
            elif number == least < most and number > LEAST.get(name, 0):
                found[name] = "smallest"
        return found

    def gains(self, value: Value = "best", rule: Rule | None = None) -> list[float]:
        """SAM's metric minus the base's for each seed that both have finished; an
        improvement is positive.

        Args:
            value: of the best epoch or of the final one.
            rule: SAM's. None (default): its best one.
        """
        return [*self.gains_by_seed(value, rule).values()]

    def gains_by_seed(
        self, value: Value = "best", rule: Rule | None = None
    ) -> dict[int, float]:
        """The gains, each with its seed. See gains."""
        sign = 1 if self.mode == "max" else -1
        sam = self.sam if rule is None else self.by_rule[rule]
        base = self.base
        return {
            seed: sign * (getattr(sam[seed], value) - getattr(base[seed], value))
            for seed in sorted(sam.keys() & base.keys())
        }


def compare(results: Sequence[Result], mode: Mode) -> list[Comparison]:
    """Compares SAM with the base optimizer wherever one or both of them were to be
    trained.

    SAM is taken at the rho of the best mean of the reported metric, as the paper does
    (section 4.1): of the rho with the most finished seeds, so that none wins by the
    seeds that it lacks, and of equal means at the smallest. So are its other options.
    Where methods vary, each has comparisons of its own. So have models of other sizes,
    as runs have from before their workload was changed: no mean is of both.

    Args:
        results: runs, those that failed or are missing included.
        mode: whether "max" or "min" of the metric is best.
    """
    configs = [result.config for result in results]
    varied = [n for n in varied_fields(configs) if n not in COMPARED_FIELDS]
    of_sam = [config.result_fields for config in configs if config.sam]
    methods = dict.fromkeys(tuple(fields[n] for n in CHOICES) for fields in of_sam)
    names = dict.fromkeys(("width_mult", *varied))
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        fields = result.config.result_fields
        own = tuple(fields[n] for n in CHOICES)
        # Each method is compared with all runs of the base optimizer.
        for method in (own,) if result.config.sam else methods or (own,):
            fields.update(zip(CHOICES, method, strict=True))
            groups.setdefault(tuple(fields[n] for n in names), []).append(result)
    return [
        _compare(dict(zip(names, key, strict=True)), of_size, len(sizes) > 1, mode)
        for key, group in groups.items()
        # Else no model could be built: there is nothing to compare.
        if any(result.num_params for result in group)
        for sizes in [_split(group)]
        for of_size in sizes
    ]


def _split(results: list[Result]) -> list[list[Result]]:
    """Runs of the same options by the sizes of their models; those that failed or are
    missing with the finished ones of their size, or else with the last."""
    by_size: dict[tuple[int, int], list[Result]] = {}
    for result in results:
        if result.failure is None:
            by_size.setdefault(_measure(result), []).append(result)
    if len(by_size) < 2:
        return [results]
    for result in results:
        if result.failure is not None:
            last = [*by_size.values()][-1]
            by_size.get(_measure(result), last).append(result)
    return [*by_size.values()]


def _measure(result: Result) -> tuple[int, int]:
    return result.num_params, result.num_nonzero


def _compare(
    fields: dict[str, Any], results: list[Result], is_apart: bool, mode: Mode
) -> Comparison:
    base: dict[int, Result] = {}
    by_rule: dict[Rule, dict[int, Result]] = {}
    for result in results:
        if result.failure is not None:
            continue
        config = result.config
        seeds = by_rule.setdefault(rule_of(config), {}) if config.sam else base
        seeds[config.seed] = result
    done = (result for result in results if result.failure is None)
    num_params, num_nonzero = _measure(next(done, max(results, key=_measure)))
    return Comparison(
        fields=fields,
        base=base,
        by_rule=by_rule,
        rule=_choose_rule(by_rule, mode) if by_rule else None,
        num_params=num_params,
        num_nonzero=num_nonzero,
        is_apart=is_apart,
        unfinished=[result for result in results if result.failure is not None],
        mode=mode,
    )


def find_rule(config: Config) -> Rule | None:
    """The rule of a run; None: the base optimizer's."""
    return rule_of(config) if config.sam else None


def rule_of(config: Config) -> Rule:
    """The values of RULE_FIELDS of one of SAM's runs; None for those without effect."""
    return tuple(
        None if name in config.unused else getattr(config, name) for name in RULE_FIELDS
    )


def named(rule: Rule) -> dict[str, Any]:
    """A rule's values by their names."""
    return dict(zip(RULE_FIELDS, rule, strict=True))


def rho_of(rule: Rule) -> float:
    """The rho of a rule."""
    return named(rule)["rho"]


def as_number(value: float | Literal["inf"] | None) -> float:
    """A rule's value among others of its kind: inf, which YAML and Python do not share,
    is text, and groups without a number are of the whole batch."""
    return math.inf if value is None else float(value)


def _choose_rule(by_rule: dict[Rule, dict[int, Result]], mode: Mode) -> Rule:
    most = max(map(len, by_rule.values()))
    sign = 1 if mode == "max" else -1

    def loss(rule: Rule) -> tuple[float, float]:
        mean = statistics.fmean(result.best for result in by_rule[rule].values())
        return -sign * mean, rho_of(rule)

    return min((rule for rule in by_rule if len(by_rule[rule]) == most), key=loss)


def find_varied(comparisons: Sequence[Comparison]) -> list[str]:
    """The fields that set comparisons apart from each other."""
    names = comparisons[0].fields if comparisons else ()
    return [n for n in names if len({c.fields[n] for c in comparisons}) > 1]


def estimate(values: Iterable[float], is_log: bool = False) -> Estimate | None:
    """The mean of values and its standard error: the sample's standard deviation
    (divided by n - 1) over the root of n. None for no values.

    Args:
        values: one a seed.
        is_log: take the geometric mean, of those that are positive; its error is the
            mean times that of the logarithms.
    """
    if is_log:
        found = estimate(math.log(value) for value in values if value > 0)
        if found is None:
            return None
        mean = math.exp(found.mean)
        return found._replace(
            mean=mean, error=None if found.error is None else mean * found.error
        )
    values = list(values)
    if not values:
        return None
    error = None
    if len(values) > 1:
        error = statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(statistics.fmean(values), error, len(values))


def find_interval(found: Estimate) -> tuple[float, float] | None:
    """Student's 95 % interval of a mean; None for one seed."""
    from scipy.special import stdtrit  # scipy.stats takes half a second to import

    if found.error is None:
        return None
    width = float(stdtrit(found.num_seeds - 1, 0.975)) * found.error
    return found.mean - width, found.mean + width


def find_sign(gain: Estimate) -> Literal[-1, 0, 1] | None:
    """The sign of a gain that is clear: Student's 95 % interval leaves out 0. 0: it is
    not, also where it is the same for all seeds, as of a metric with few values, which
    tells nothing of how it spreads; None: of one seed that is not known."""
    interval = find_interval(gain)
    if interval is None or gain.error is None:
        return None
    low, high = interval
    if gain.error <= TIE * abs(gain.mean) or low <= 0 <= high:
        return 0
    return 1 if gain.mean > 0 else -1


class Growth(NamedTuple):
    """How SAM's gain changes from the smallest to the largest of models."""

    smallest: Comparison
    largest: Comparison
    change: Estimate
    """over the seeds that both have, each with itself"""
    low: float
    high: float
    """the ends of the change's 95 % interval"""


def compare_sizes(
    comparisons: Sequence[Comparison], value: Value = "best"
) -> Growth | None:
    """How SAM's gain changes with the size. None for fewer than two sizes or two common
    seeds, and where something else than the size varies."""
    sizes = [c for c in comparisons if c.gains(value)]
    if not sizes or not _differ_in_size(comparisons):
        return None
    smallest = min(sizes, key=lambda c: c.num_params)
    largest = max(sizes, key=lambda c: c.num_params)
    if smallest.num_params == largest.num_params:
        return None
    before, after = smallest.gains_by_seed(value), largest.gains_by_seed(value)
    change = estimate(after[seed] - before[seed] for seed in before if seed in after)
    interval = change and find_interval(change)
    if change is None or interval is None:
        return None
    return Growth(smallest, largest, change, *interval)


def _differ_in_size(comparisons: Sequence[Comparison]) -> bool:
    """Whether the size is all that sets comparisons apart."""
    fields = [name for name in find_varied(comparisons) if name not in SIZE_FIELDS]
    return not fields and not any(c.is_apart for c in comparisons)


class Correlation(NamedTuple):
    """Spearman's rank correlation and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def correlate_gains(
    comparisons: Sequence[Comparison], value: Value = "best"
) -> Correlation | None:
    """The rank correlation of SAM's mean gain with the logarithm of the parameters.

    The interval is the percentile bootstrap's, with seeds drawn with replacement at
    each size. None for fewer than three sizes, for gains that are all the same, and
    where something else than the size varies.
    """
    if not _differ_in_size(comparisons):
        return None
    pairs = [(math.log(c.num_params), np.array(c.gains(value))) for c in comparisons]
    pairs = [(size, gains) for size, gains in pairs if len(gains)]
    if len({size for size, _ in pairs}) < 3:
        return None
    sizes, gains = zip(*pairs, strict=True)
    random = np.random.default_rng(0)

    spearman = float(_correlate_ranks(sizes, [[g.mean() for g in gains]])[0])
    if math.isnan(spearman):
        return None
    draws = [
        [random.choice(g, len(g)).mean() for g in gains] for _ in range(BOOTSTRAP_DRAWS)
    ]
    low, high = np.nanpercentile(_correlate_ranks(sizes, draws), [2.5, 97.5])
    return Correlation(spearman, float(low), float(high))


def _correlate_ranks(x: Sequence[float], y: Sequence[Sequence[float]]) -> np.ndarray:
    """Spearman's rank correlation of x with each row of y; of a row of equal numbers
    it is NaN."""
    from scipy.stats import rankdata

    ranks_x, ranks_y = rankdata(x), rankdata(y, axis=1)
    ranks_x -= ranks_x.mean()
    ranks_y -= ranks_y.mean(axis=1, keepdims=True)
    norms = np.sqrt(np.sum(ranks_x**2) * np.sum(ranks_y**2, axis=1))
    norms[norms == 0] = np.nan
    return ranks_y @ ranks_x / norms
