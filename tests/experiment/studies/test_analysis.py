"""What is said of finished runs: paired gains, the best rho, and how sure they are."""

import math

import numpy as np
import pytest
from scipy.stats import sem, spearmanr

from samkeras.experiment.runs.result import Result
from samkeras.experiment.studies import comparison as analysis
from samkeras.experiment.studies.answer import measure_study
from samkeras.experiment.studies.comparison import (
    RULE_FIELDS,
    compare,
    compare_sizes,
    correlate_gains,
    estimate,
    find_sign,
)
from samkeras.experiment.studies.conclusion import caution, conclude
from tests.helpers import make_config

pytestmark = pytest.mark.one_backend


def make_result(best=None, final=None, num_params=1, num_nonzero=None, **options):
    """A run of these options; without a metric, one that failed."""
    config = make_config("mnist_mlp", **options)
    num_nonzero = num_params if num_nonzero is None else num_nonzero
    if best is None:
        return Result(config, num_params, num_nonzero, failure="NotFiniteError: loss")
    numbers = {
        "best_val_accuracy": best,
        "final_val_accuracy": best if final is None else final,
        "seconds": 1.0,
    }
    return Result(config, num_params, num_nonzero, numbers)


def make_base(*bests, **options):
    """The base optimizer's runs with the seeds 0, 1, ..."""
    return [
        make_result(best, seed=seed, sam=False, **options)
        for seed, best in enumerate(bests)
    ]


def make_sam(rho, *bests, **options):
    """SAM's runs with the seeds 0, 1, ..."""
    return [
        make_result(best, seed=seed, sam=True, rho=rho, **options)
        for seed, best in enumerate(bests)
    ]


def make_sizes(gains):
    """Comparisons of models of 10, 100, ... parameters with these gains by seed."""
    results = []
    for i, values in enumerate(gains):
        options = {"width_mult": float(i + 1), "num_params": 10 ** (i + 1)}
        results += make_base(*[0.0] * len(values), **options)
        results += make_sam(0.1, *values, **options)
    return compare(results, "max")


@pytest.fixture
def few_draws(monkeypatch):
    """Enough draws for what the tests say, in a tenth of the time."""
    monkeypatch.setattr(analysis, "BOOTSTRAP_DRAWS", 200)


def test_an_estimate_is_a_mean_and_its_standard_error():
    """By hand: squares 4, 1, 0, 9 about the mean 3, so sqrt(14 / 3) / sqrt(4)."""
    mean, error, count = estimate([1, 2, 3, 6])
    assert (mean, count) == (3, 4)
    assert error == pytest.approx(math.sqrt(14 / 3) / 2)


def test_the_standard_error_is_scipys():
    values = np.random.default_rng(0).standard_normal(7).tolist()
    assert estimate(values).error == pytest.approx(sem(values))
    assert estimate(iter(values)) == estimate(values)


def test_one_value_has_no_error_and_none_no_estimate():
    """An error of 0 would say that one seed is sure."""
    assert estimate([0.5]) == (0.5, None, 1)
    assert estimate([]) is None


def test_gain_is_paired_by_seed_at_the_best_rho():
    """By hand: rho 0.2 gains .03 and .01, rho 0.1 less; error sd / sqrt(2) = .01."""
    results = [
        *make_base(0.90, 0.92),
        *make_sam(0.1, 0.91, 0.92),
        make_result(0.93, final=0.91, sam=True, rho=0.2, seed=0),
        make_result(0.93, final=0.91, sam=True, rho=0.2, seed=1),
        *make_sam(0.2, 0.99, width_mult=2.0),  # no base at this width
    ]
    pair, alone = compare(results, mode="max")
    assert (pair.fields, pair.rho) == ({"width_mult": 1.0}, 0.2)
    assert pair.gains() == pytest.approx([0.03, 0.01])
    assert estimate(pair.gains()) == pytest.approx((0.02, 0.01, 2))
    assert pair.gains("final") == pytest.approx([0.01, -0.01])
    assert (alone.fields, alone.rho) == ({"width_mult": 2.0}, 0.2)
    assert (alone.gains(), alone.base) == ([], {})


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
def test_only_common_seeds_are_paired(mode, sign):
    """Each seed with itself, in the order of the seeds, whatever that of the runs; an
    improvement is > 0."""
    results = [
        make_result(0.25, sam=True, seed=3),
        make_result(1.0, sam=True, seed=2),
        make_result(2.0, sam=False, seed=8),
        make_result(4.0, sam=False, seed=2),
        make_result(8.0, sam=False, seed=0),
        make_result(0.5, sam=True, seed=8),
    ]
    (comparison,) = compare(results, mode)
    assert comparison.fields == {"width_mult": 1.0}
    assert comparison.gains() == [sign * (1.0 - 4.0), sign * (0.5 - 2.0)]
    assert (set(comparison.sam), set(comparison.base)) == ({2, 3, 8}, {0, 2, 8})


@pytest.mark.parametrize(("mode", "rho"), [("max", 0.1), ("min", 0.2)])
def test_the_best_rho_has_the_best_mean(mode, rho):
    """Not the best single run (0.05 has the highest and the lowest)."""
    results = [
        *make_sam(0.05, 0.0, 1.0),
        *make_sam(0.1, 0.75, 0.5),
        *make_sam(0.2, 0.25, 0.5),
    ]
    (comparison,) = compare(results, mode)
    assert comparison.rho == rho
    assert [result.config.rho for result in comparison.sam.values()] == [rho, rho]


def test_the_best_rho_is_that_of_the_best_epochs():
    """The reported metric chooses it for the final one too."""
    results = [
        make_result(0.75, final=0.25, sam=True, rho=0.1),
        make_result(0.5, final=0.5, sam=True, rho=0.2),
    ]
    (comparison,) = compare(results, "max")
    assert comparison.rho == 0.1


@pytest.mark.parametrize("mode", ["max", "min"])
def test_of_equal_means_the_smaller_rho_is_best(mode):
    """In whatever order the runs come."""
    results = [*make_sam(0.2, 0.5, 0.5), *make_sam(0.1, 0.25, 0.75)]
    for given in (results, results[::-1]):
        (comparison,) = compare(given, mode)
        assert comparison.rho == 0.1


def test_a_rho_that_misses_a_seed_does_not_win():
    """Its mean is of the seeds that went well: 0.9 and 0.9 against 0.5."""
    results = [*make_sam(0.5, 0.9, 0.9, None), *make_sam(0.1, 0.5, 0.5, 0.5)]
    (comparison,) = compare(results, "max")
    assert comparison.rho == 0.1
    assert comparison.unfinished == [results[2]]


def test_rhos_that_miss_as_many_seeds_compete():
    results = [*make_sam(0.1, 0.5, None, 0.5), *make_sam(0.2, None, 0.75, 0.75)]
    (comparison,) = compare([*results, *make_base(0.25, 0.25, 0.25)], "max")
    assert comparison.rho == 0.2
    assert comparison.gains() == [0.5, 0.5]
    assert comparison.unfinished == [results[1], results[3]]


def test_failed_runs_are_never_dropped():
    """Where all of SAM's runs, or the base's, failed there is no gain, but a comparison
    that says so."""
    failed_sam = make_sam(0.1, None, None)
    failed_base = make_base(None, None, width_mult=2.0)
    results = [
        *failed_sam,
        *make_base(0.5, 0.5),
        *failed_base,
        *make_sam(0.1, 0.5, 0.5, width_mult=2.0),
    ]
    without_sam, without_base = compare(results, "max")
    assert (without_sam.rho, without_sam.sam) == (None, {})
    assert without_sam.unfinished == failed_sam
    assert (without_base.rho, without_base.base) == (0.1, {})
    assert without_base.unfinished == failed_base
    assert without_sam.gains() == without_base.gains() == []
    assert estimate(without_sam.gains()) is None
    (nothing,) = compare(failed_sam, "max")
    assert (nothing.rho, nothing.unfinished) == (None, failed_sam)


def test_a_model_that_cannot_be_built_is_not_compared():
    """It has no size that a picture could show it at."""
    assert compare([make_result(num_params=0)], "max") == []


def test_comparisons_are_of_equal_models_and_data():
    """Every other option that varies sets runs apart; those that do not are not named,
    the width always is."""
    results = []
    for width in (1.0, 2.0):
        for noise in (0.0, 0.5):
            options = {"width_mult": width, "label_noise": noise}
            results += make_base(width + noise, **options)
            results += make_sam(0.1, width + 3 * noise, **options)
    comparisons = compare(results, "max")
    assert [(c.fields, c.gains()) for c in comparisons] == [
        ({"width_mult": 1.0, "label_noise": 0.0}, [0.0]),
        ({"width_mult": 1.0, "label_noise": 0.5}, [1.0]),
        ({"width_mult": 2.0, "label_noise": 0.0}, [0.0]),
        ({"width_mult": 2.0, "label_noise": 0.5}, [1.0]),
    ]


def test_each_group_has_a_best_rho_of_its_own():
    results = [
        *make_sam(0.1, 0.5),
        *make_sam(0.2, 0.25),
        *make_sam(0.1, 0.5, width_mult=2.0),
        *make_sam(0.2, 0.75, width_mult=2.0),
    ]
    assert [c.rho for c in compare(results, "max")] == [0.1, 0.2]


def test_options_of_a_method_compete_in_one_comparison():
    """None of them makes another model: the best stands for the method."""
    results = [
        *make_base(0.25, p="inf"),
        *make_sam(0.1, 0.5),
        *make_sam(0.2, 0.75, ascent_steps=2, eta=0.5),
    ]
    (comparison,) = compare(results, "max")
    rule = dict(zip(RULE_FIELDS, comparison.rule, strict=True))
    assert (rule["rho"], rule["ascent_steps"], rule["eta"]) == (0.2, 2, None)
    assert comparison.gains() == [0.5]


@pytest.mark.parametrize("is_base_first", [True, False])
def test_each_method_is_compared_with_the_base(is_base_first):
    """At its own best rho, with the base optimizer's runs, which have no method."""
    base = make_base(0.25, method="asam")
    sam = [
        *make_sam(0.1, 0.5),
        *make_sam(0.1, 0.25, method="random"),
        *make_sam(0.2, 0.75, method="random"),
    ]
    results = [*base, *sam] if is_base_first else [*sam, *base]
    comparisons = compare(results, "max")
    assert [(c.fields["method"], c.rho, c.gains()) for c in comparisons] == [
        ("sam", 0.1, [0.25]),
        ("random", 0.2, [0.5]),
    ]
    (alone,) = compare(base, "max")
    assert alone.fields == {"width_mult": 1.0}


def test_pruned_models_are_compared_at_their_sparsity():
    """The dense model, which no pruner changes, is one comparison whatever the pruner
    it was given."""
    results = []
    for pruner, width, kept in (
        ("snip", 0.5, 40),
        ("random", 0.5, 40),
        ("random", 1.0, 160),
    ):
        options = {"pruner": pruner, "match_width": width}
        options.update(num_params=160, num_nonzero=kept)
        results += [*make_base(kept / 64, **options), *make_sam(0.1, kept, **options)]
    # A base run alone: not pruned, so it is the dense comparison's second seed.
    dense = make_result(3.5, pruner="snip", match_width=1.0, seed=1, num_params=160)
    comparisons = compare([*results, dense], "max")
    assert [
        (c.fields["pruner"], c.fields["match_width"], c.sparsity, c.gains())
        for c in comparisons
    ] == [
        ("snip", 0.5, 0.75, [40 - 0.625]),
        ("random", 0.5, 0.75, [40 - 0.625]),
        ("none", None, 0.0, [160 - 2.5]),
    ]
    assert set(comparisons[2].base) == {0, 1}


def make_edited():
    """Two seeds of a model of 407,050 parameters and one of 814,090, as from before and
    after an edit of what the workload imports; one more run of that failed."""
    results = []
    for seed, num_params in enumerate((407_050, 407_050, 814_090)):
        options = {"num_params": num_params, "seed": seed}
        results.append(make_result(0.25, sam=False, **options))
        results.append(make_result(0.5 + seed / 4, sam=True, rho=0.1, **options))
    failed = make_result(None, sam=True, rho=0.1, num_params=814_090, seed=3)
    return [*results, failed]


def test_models_of_other_sizes_are_compared_apart():
    """No mean is of both; what failed counts with the models of its size, or else with
    the last; a correlation with the size would be one with the edit."""
    results = make_edited()
    before, after = compare(results, "max")
    assert [(c.num_params, c.is_apart) for c in (before, after)] == [
        (407_050, True),
        (814_090, True),
    ]
    assert (before.gains(), after.gains()) == ([0.25, 0.5], [0.75])
    assert (before.unfinished, after.unfinished) == ([], [results[-1]])
    odd = make_result(None, sam=True, rho=0.1, num_params=1, seed=4)
    assert compare([*results, odd], "max")[1].unfinished == [results[-1], odd]
    (text,) = caution([before, after])
    assert "models of 407,050 parameters and 814,090 parameters," in text
    assert "compared apart" in text
    wider = make_base(0.5, width_mult=4.0, num_params=9_999_999)
    wider += make_sam(0.1, 0.75, width_mult=4.0, num_params=9_999_999)
    assert correlate_gains(compare([*results, *wider], "max")) is None


def test_models_that_are_pruned_otherwise_are_compared_apart():
    results = make_base(0.5, num_params=100, num_nonzero=50)
    results += make_base(0.5, num_params=100, num_nonzero=40)
    comparisons = compare(results, "max")
    assert [c.num_nonzero for c in comparisons] == [50, 40]
    (text,) = caution(comparisons)
    assert "100 parameters of which 50 are not zero and 100 parameters of which" in text


def test_models_of_one_size_are_one_comparison():
    """Also where a failed run has another size, or none that is known."""
    failed = make_result(None, sam=True, rho=0.1, num_params=0, seed=1)
    (comparison,) = compare([*make_base(0.5), *make_sam(0.1, 0.75), failed], "max")
    assert (comparison.num_params, comparison.is_apart) == (1, False)
    assert comparison.unfinished == [failed]
    assert caution([comparison]) == []


@pytest.mark.parametrize(
    ("rules", "edges"),
    [
        ([{"rho": 0.1}, {"rho": 0.2, "best": 1}], {"rho": "largest"}),
        ([{"rho": 0.1, "best": 1}, {"rho": 0.2}], {"rho": "smallest"}),
        ([{"rho": 0.1}, {"rho": 0.2, "best": 1}, {"rho": 0.4}], {}),
        # One that failed was tried, too.
        ([{"rho": 0.1}, {"rho": 0.2, "best": 1}, {"rho": 0.4, "best": None}], {}),
        # One value is no grid, and beyond these there is nothing.
        ([{"rho": 0.2}], {}),
        ([{"rho": 0.0, "best": 1}, {"rho": 0.2}], {}),
        ([{"ascent_steps": 1, "best": 1}, {"ascent_steps": 2}], {}),
        ([{"m_sharpness": 1, "best": 1}, {"m_sharpness": 2}], {}),
        ([{"p": "inf", "best": 1}, {"p": 2.0}], {}),
        ([{"m_sharpness": None, "best": 1}, {"m_sharpness": 2}], {}),
        # Other values than rho have edges, too.
        ([{"p": "inf"}, {"p": 2.0, "best": 1}], {"p": "smallest"}),
        (
            [{"ascent_steps": 1}, {"ascent_steps": 2, "best": 1}],
            {"ascent_steps": "largest"},
        ),
        (
            [{"m_sharpness": None}, {"m_sharpness": 2, "best": 1}],
            {"m_sharpness": "smallest"},
        ),
    ],
)
def test_a_best_value_at_the_edge_of_its_grid_is_known(rules, edges):
    (comparison,) = compare(
        [make_result(**{"best": 0.5, "sam": True, **rule}) for rule in rules], "max"
    )
    assert comparison.edges == edges
    assert len(caution([comparison])) == len(edges)


def test_an_edge_is_said_where_it_is():
    """Once for all models of which it is the edge."""
    results = []
    for width, best in ((1.0, 0.1), (2.0, 0.2), (4.0, 0.4), (8.0, 0.4)):
        for rho in (0.1, 0.2, 0.4):
            results += make_sam(rho, float(rho == best), width_mult=width)
    assert caution(compare(results, "max")) == [
        "The best rho is 0.1 at width_mult 1, the smallest that was tried: a smaller "
        "one may do better.",
        "The best rho is 0.4 at width_mult 4 and 8, the largest that was tried: a "
        "larger one may do better.",
    ]
    (text,) = caution(compare(results[-6:], "max"))
    assert text.startswith("The best rho is 0.4 everywhere, the largest")


@pytest.mark.parametrize(
    ("gains", "sign"),
    [
        # Student's quantile is 12.706 for two seeds, 4.303 for three.
        ([1.0, 1.17], 1),  # 1.085, of error 0.085: 12.76 of them
        ([1.0, 1.18], 0),
        ([-1.0, -1.17], -1),
        ([1.0, 1.6, 2.2], 1),  # 1.6, of error 0.346: 4.6
        ([1.0, 1.7, 2.4], 0),
        ([0.5, 0.5], 0),  # one example of a few, by chance in both
        ([0.001, 0.00100006], 0),  # the same in float32
        ([0.0, 0.0], 0),
        ([0.5], None),
    ],
)
def test_a_gain_is_clear_by_hand(gains, sign):
    assert find_sign(estimate(gains)) == sign


def test_the_growth_of_gains_by_hand():
    """By the seeds that both ends have, each with itself: 2, 2.5 and 3 more, of error
    0.289; Student's quantile is 4.303. The gains themselves spread more widely."""
    comparisons = make_sizes([[1.0, 3.0, 5.0, 9.0], [0.0] * 3, [3.0, 5.5, 8.0]])
    growth = compare_sizes(comparisons)
    assert growth.change == pytest.approx((2.5, 1 / math.sqrt(12), 3))
    ends = growth.smallest.num_params, growth.largest.num_params
    assert ends == (10, 1000)
    width = 4.3027 / math.sqrt(12)
    assert (growth.low, growth.high) == pytest.approx((2.5 - width, 2.5 + width), 1e-4)
    results = [r for c in comparisons for of in c.runs.values() for r in of.values()]
    numbers = measure_study(results, comparisons)
    for name, value in (("", 2.5), ("_low", growth.low), ("_high", growth.high)):
        assert numbers[f"gain_best_val_accuracy_growth{name}"] == value


def test_growth_needs_two_sizes_and_two_seeds():
    """And nothing else that varies."""
    assert compare_sizes([]) is None
    assert compare_sizes(make_sizes([[0.1, 0.2]])) is None
    assert compare_sizes(make_sizes([[0.1], [0.2]])) is None
    assert compare_sizes(make_sizes([[0.1, 0.2], [None, 0.3]])) is None
    assert compare_sizes(make_sizes([[0.1, 0.2], [None, None]])) is None
    results = []
    for width, noise in ((1.0, 0.0), (2.0, 0.5)):
        options = {"width_mult": width, "label_noise": noise, "num_params": int(width)}
        results += [*make_base(0.0, 0.0, **options), *make_sam(0.1, 1, 2, **options)]
    assert compare_sizes(compare(results, "max")) is None


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_conclusion_says_where_sam_helps(mode, few_draws):
    """An improvement is a gain > 0, whichever way the metric goes."""
    sign = 1 if mode == "max" else -1
    results = []
    for width, gains in (
        (1.0, (-0.02, -0.021)),
        (4.0, (0.01, -0.01)),
        (2.0, (0.04, 0.041)),
    ):
        options = {"width_mult": width, "num_params": round(100 * width)}
        results += make_base(0.5, 0.5, **options)
        results += make_sam(0.1, *(0.5 + sign * gain for gain in gains), **options)
    assert conclude(compare(results, mode), "val_accuracy") == [
        "In best val_accuracy, SAM helps at width_mult 2 (+0.0405 ± 0.0005, 2 seeds), "
        "makes no clear difference at width_mult 4 (+0.0000 ± 0.0100, 2 seeds) and "
        "hurts at width_mult 1 (-0.0205 ± 0.0005, 2 seeds).",
        "From width_mult 1 to 4, SAM's gain does not change clearly (+0.0205, 95 % "
        "interval -0.1002 to +0.1412, 2 seeds).",
        "The rank correlation of the gain with the number of parameters is 0.50.",
        "A gain is clear if its 95 % interval (Student's t, over the seeds) leaves out "
        "0, and the seeds differ; ± is one standard error.",
    ]


def test_the_conclusion_of_one_seed_says_so():
    """And at which rho SAM is taken; without a gain there is nothing to conclude."""
    results = [*make_base(0.5), *make_sam(0.1, 0.625), *make_sam(0.2, 0.75)]
    assert conclude(compare(results, "max"), "val_accuracy") == [
        "SAM's gain in best val_accuracy (+0.2500) is of one seed, and may be chance: "
        "--seed 0,1,2 trains three.",
        "SAM is taken at its best rho of 2, chosen in val_accuracy itself, which "
        "favours it.",
    ]
    assert conclude(compare(results[1:], "max"), "val_accuracy") == []


def test_the_conclusion_is_of_each_method():
    results = [
        *make_base(0.5, 0.5),
        *make_sam(0.1, 0.75, 0.76),
        *make_sam(0.1, 0.25, 0.24, method="asam"),
    ]
    found = conclude(compare(results, "max"), "val_accuracy")
    assert found[:2] == [
        "In best val_accuracy, SAM (method sam) helps (+0.2550 ± 0.0050, 2 seeds).",
        "In best val_accuracy, SAM (method asam) hurts (-0.2550 ± 0.0050, 2 seeds).",
    ]


def test_many_places_are_counted():
    gains = [[i / 8 - i / 1000, i / 8, i / 8 + i / 1000] for i in range(1, 9)]
    found = conclude(make_sizes(gains), "val_accuracy")
    assert "SAM helps at 8 places (+0.1250 to +1.0000)." in found[0]
    assert found[1] == (
        "From width_mult 1 to 8, SAM's gain grows (+0.8750, 95 % interval +0.8576 to "
        "+0.8924, 3 seeds)."
    )
    assert "is 1.00 (95 % bootstrap interval 1.00 to 1.00)." in found[2]


def test_correlation_by_hand(few_draws):
    """Ranks 1, 3, 2, 4: rho is 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15). With one seed a size
    there is nothing to draw from, and the interval is the value."""
    found = correlate_gains(make_sizes([[0.1], [0.3], [0.2], [0.4]]))
    assert found == pytest.approx((0.8, 0.8, 0.8))


def test_the_interval_by_hand(few_draws):
    """Gains 1, 1 and 2, 2, and 3, 0 at the largest size: its mean 1.5 is the second,
    rank correlation 1/2; drawn twice the 3 it is 1, twice the 0 -1/2, each in a
    quarter of the draws."""
    found = correlate_gains(make_sizes([[1.0, 1.0], [2.0, 2.0], [3.0, 0.0]]))
    assert found == pytest.approx((0.5, -0.5, 1.0))


def test_the_interval_holds_95_percent_of_the_draws():
    """The largest size is above 2 or below 1 only where one seed is drawn three times,
    in 1 of 27 draws each: less than 5 %, but more than 2.5."""
    found = correlate_gains(make_sizes([[1.0] * 3, [2.0] * 3, [0.9, 1.5, 2.1]]))
    assert found == pytest.approx((0.5, -0.5, 1.0))


def test_correlation_is_scipys_of_the_mean_gains(few_draws):
    """With the logarithm of the parameters, within its interval, the same each time."""
    random = np.random.default_rng(0)
    gains = np.linspace(0, 1, 6)[:, None] + 0.5 * random.standard_normal((6, 3))
    comparisons = make_sizes(gains.tolist())
    found = correlate_gains(comparisons)
    sizes = np.log(10.0 ** np.arange(1, 7))
    assert found.value == pytest.approx(spearmanr(sizes, gains.mean(axis=1)).statistic)
    assert found.low < found.value < found.high
    assert correlate_gains(comparisons) == found


def test_seeds_that_disagree_widen_the_interval(few_draws):
    """Equal means, and so one correlation, from seeds close together and far apart."""
    means = np.array([0.1, 0.2, 0.4, 0.3, 0.5])[:, None]
    spread = np.array([-1.0, 0.0, 1.0])
    close = correlate_gains(make_sizes((means + 0.01 * spread).tolist()))
    far = correlate_gains(make_sizes((means + 0.3 * spread).tolist()))
    assert close.value == far.value == pytest.approx(0.9)
    assert close.high - close.low < 0.2 < far.high - far.low


def test_gains_of_the_last_epoch_have_a_correlation_of_their_own(few_draws):
    """Best gains rise with the size, final ones fall."""
    results = []
    for i in range(3):
        options = {"width_mult": float(i + 1), "num_params": 10**i}
        results += make_base(0.0, **options)
        results.append(make_result(1.0 + i, final=-1.0 - i, sam=True, **options))
    comparisons = compare(results, "max")
    assert correlate_gains(comparisons).value == 1
    assert correlate_gains(comparisons, "final").value == -1


def test_fewer_than_three_sizes_have_no_correlation(few_draws):
    """Nor have three of which one has no gain, or two are of one size."""
    assert correlate_gains(make_sizes([[0.1], [0.2]])) is None
    assert correlate_gains([]) is None
    assert correlate_gains(make_sizes([[0.1], [0.2], [None]])) is None
    (third,) = compare(
        [*make_base(0.0, num_params=100), *make_sam(0.1, 0.3, num_params=100)], "max"
    )
    assert correlate_gains([*make_sizes([[0.1], [0.2]]), third]) is None


def test_gains_that_are_all_the_same_have_no_correlation(few_draws):
    """Not a NaN, which JSON has no number for."""
    assert correlate_gains(make_sizes([[0.1, 0.1]] * 3)) is None
