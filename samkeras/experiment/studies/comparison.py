"""What the runs of a study say: SAM's gain, its best rho, and how sure they are."""

import math
import statistics
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from samkeras.experiment.options.config import result_fields, varied_fields
from samkeras.experiment.options.groups import Config
from samkeras.experiment.options.methods import OPTIONS
from samkeras.experiment.runs.result import Result
from samkeras.experiment.studies.figure import Value

# A method is taken at the values of these that are best for it.
RULE_FIELDS = tuple(name for name in OPTIONS if name != "method")
COMPARED_FIELDS = ("sam", *RULE_FIELDS, "seed")
BOOTSTRAP_DRAWS = 2000

Mode = Literal["max", "min"]
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
        unfinished: runs that failed or are missing.
        mode: whether "max" or "min" of the metric is best.
    """

    fields: dict[str, Any]
    base: dict[int, Result]
    by_rule: dict[Rule, dict[int, Result]]
    rule: Rule | None
    num_params: int
    num_nonzero: int
    unfinished: list[Result]
    mode: Mode

    @property
    def sam(self) -> dict[int, Result]:
        """SAM's finished runs at its best rho, by seed."""
        return {} if self.rule is None else self.by_rule[self.rule]

    @property
    def rho(self) -> float | None:
        """SAM's best rho."""
        return None if self.rule is None else rho_of(self.rule)

    @property
    def sparsity(self) -> float:
        """The fraction of all parameters that is pruned."""
        return 1 - self.num_nonzero / self.num_params

    def gains(self, value: Value = "best") -> list[float]:
        """SAM's metric minus the base's for each seed that both have finished; an
        improvement is positive."""
        sign = 1 if self.mode == "max" else -1
        sam, base = self.sam, self.base
        return [
            sign * (getattr(sam[seed], value) - getattr(base[seed], value))
            for seed in sorted(sam.keys() & base.keys())
        ]


def compare(results: Sequence[Result], mode: Mode) -> list[Comparison]:
    """Compares SAM with the base optimizer wherever one or both of them were to be
    trained.

    SAM is taken at the rho of the best mean of the reported metric, as the paper does
    (section 4.1): of the rho with the most finished seeds, so that none wins by the
    seeds that it lacks, and of equal means at the smallest. So are its other options.
    Where methods vary, each has comparisons of its own.

    Args:
        results: runs, those that failed or are missing included.
        mode: whether "max" or "min" of the metric is best.
    """
    configs = [result.config for result in results]
    varied = [n for n in varied_fields(configs) if n not in COMPARED_FIELDS]
    methods = dict.fromkeys(config.method for config in configs if config.sam)
    names = dict.fromkeys(("width_mult", *varied))
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        fields = result_fields(result.config)
        own = fields["method"]
        # Each method is compared with all runs of the base optimizer.
        for method in (own,) if result.config.sam else methods or (own,):
            fields["method"] = method
            groups.setdefault(tuple(fields[n] for n in names), []).append(result)
    return [
        _compare(dict(zip(names, key, strict=True)), group, mode)
        for key, group in groups.items()
    ]


def _compare(fields: dict[str, Any], results: list[Result], mode: Mode) -> Comparison:
    base: dict[int, Result] = {}
    by_rule: dict[Rule, dict[int, Result]] = {}
    for result in results:
        if result.failure is not None:
            continue
        config = result.config
        seeds = by_rule.setdefault(rule_of(config), {}) if config.sam else base
        seeds[config.seed] = result
    return Comparison(
        fields=fields,
        base=base,
        by_rule=by_rule,
        rule=_choose_rule(by_rule, mode) if by_rule else None,
        num_params=results[0].num_params,
        num_nonzero=results[0].num_nonzero,
        unfinished=[result for result in results if result.failure is not None],
        mode=mode,
    )


def rule_of(config: Config) -> Rule:
    """The values of RULE_FIELDS of one of SAM's runs; None for those without effect."""
    return tuple(
        None if name in config.unused else getattr(config, name) for name in RULE_FIELDS
    )


def rho_of(rule: Rule) -> float:
    """The rho of a rule."""
    return rule[RULE_FIELDS.index("rho")]


def _choose_rule(by_rule: dict[Rule, dict[int, Result]], mode: Mode) -> Rule:
    most = max(map(len, by_rule.values()))
    sign = 1 if mode == "max" else -1

    def loss(rule: Rule) -> tuple[float, float]:
        mean = statistics.fmean(result.best for result in by_rule[rule].values())
        return -sign * mean, rho_of(rule)

    return min((rule for rule in by_rule if len(by_rule[rule]) == most), key=loss)


def estimate(values: Iterable[float]) -> Estimate | None:
    """The mean of values and its standard error: the sample's standard deviation
    (divided by n - 1) over the root of n. None for no values."""
    values = list(values)
    if not values:
        return None
    error = None
    if len(values) > 1:
        error = statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(statistics.fmean(values), error, len(values))


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
    each size. None for fewer than three sizes, or for gains that are all the same.
    """
    from scipy.stats import spearmanr

    pairs = [(math.log(c.num_params), np.array(c.gains(value))) for c in comparisons]
    pairs = [(size, gains) for size, gains in pairs if len(gains)]
    if len({size for size, _ in pairs}) < 3:
        return None
    sizes, gains = zip(*pairs, strict=True)
    random = np.random.default_rng(0)

    def correlate(means: Sequence[float]) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of gains that are all the same
            result: Any = spearmanr(sizes, means)
            return float(result.statistic)

    spearman = correlate([g.mean() for g in gains])
    if math.isnan(spearman):
        return None
    draws = [
        correlate([random.choice(g, len(g)).mean() for g in gains])
        for _ in range(BOOTSTRAP_DRAWS)
    ]
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Correlation(spearman, float(low), float(high))
