"""The points of a picture, of finished runs."""

import dataclasses

import pytest

from tests.experiment.studies.making import (
    TIMES,
    make_gains,
    make_picture,
    make_result,
    points_of,
)

pytestmark = pytest.mark.one_backend


def test_points_of_gains():
    """By hand: a line for each noise, by size; the failed run leaves its seed out and
    is counted at its point."""
    points = points_of(make_picture(), make_gains())
    assert [p.line for p in points] == 2 * ["label noise 0"] + 2 * ["label noise 0.5"]
    assert [p.x for p in points] == [1000, 2000, 1000, 2000]
    # Errors: gains of two seeds, d apart, have the standard error d / 2.
    assert [p.y for p in points] == [
        (1.125, 0.125, 2),
        (2.125, 0.125, 2),
        (2.25, 0.25, 2),
        (4.0, None, 1),
    ]
    assert [p.unfinished for p in points] == [0, 0, 0, 1]
    assert {p.rho for p in points} == {0.125}
    assert not any(p.is_best for p in points)


def test_points_without_a_run_say_so():
    """A gain whose runs all failed on one side is a point without y, at its place."""
    results = [
        make_result(0.5, sam=False),
        make_result(0.75, sam=True),
        make_result(None, sam=False, width_mult=2.0),
        make_result(0.75, sam=True, width_mult=2.0),
        make_result(0.5, sam=False, width_mult=4.0),
        make_result(None, sam=True, width_mult=4.0),
    ]
    points = points_of(make_picture(), results)
    assert {p.line for p in points} == {"SAM - base"}
    assert [(p.x, p.y, p.rho, p.unfinished) for p in points] == [
        (1000, (0.25, None, 1), 0.05, 0),
        (2000, None, 0.05, 1),
        (4000, None, None, 1),
    ]


def test_points_of_the_metric_have_a_line_a_method():
    """SAM at its best rho and the base optimizer; "min" takes the lowest, and `final`
    the last epoch's values."""
    results = [
        make_result(0.5, final=0.75, sam=False),
        make_result(0.25, final=0.5, sam=True, rho=0.1),
        make_result(0.125, final=1.0, sam=True, rho=0.2),
    ]
    points = points_of(make_picture("metric"), results, "min")
    assert [(p.line, p.y.mean, p.rho) for p in points] == [
        ("SAM", 0.125, 0.2),
        ("SGD", 0.5, None),
    ]
    points = points_of(make_picture("metric", value="final"), results, "min")
    assert [p.y.mean for p in points] == [1.0, 0.75]
    (point,) = points_of(make_picture(value="final"), results, "min")
    assert point.y.mean == 0.75 - 1.0


def test_points_of_the_metric_show_one_method_without_the_other():
    """Such as SGD with other weight decays; failed runs are counted wherever there is
    a point of theirs."""
    results = [
        make_result(0.5, sam=True, weight_decay=0.1),
        make_result(0.25, sam=False, weight_decay=0.2),
        make_result(None, sam=False, weight_decay=0.4),
    ]
    points = points_of(make_picture("metric"), results)
    assert [(p.line, p.y and p.y.mean, p.unfinished) for p in points] == [
        ("SAM, weight decay 0.1", 0.5, 0),
        ("SGD, weight decay 0.2", 0.25, 0),
        ("SAM, weight decay 0.4", None, 1),
    ]


def test_methods_are_lines_of_their_own():
    """Each against the same base, which is one line; of other methods than SAM itself
    one alone is named too."""
    base = [make_result(0.25, sam=False), make_result(0.5, sam=False, width_mult=2.0)]
    asam = [
        make_result(0.75, sam=True, method="asam", rho=0.1),
        make_result(0.5, sam=True, method="asam", rho=0.2),
        make_result(1.0, sam=True, method="asam", rho=0.1, width_mult=2.0),
    ]
    results = [*base, make_result(0.5, sam=True, rho=0.1), *asam]
    points = points_of(make_picture(), results)
    assert [(p.line, p.x, p.y and p.y.mean, p.rho) for p in points] == [
        ("method sam", 1000, 0.25, 0.1),
        ("method sam", 2000, None, None),
        ("method asam", 1000, 0.5, 0.1),
        ("method asam", 2000, 0.5, 0.1),
    ]
    points = points_of(make_picture("metric"), results)
    assert [(p.line, p.x, p.y.mean) for p in points] == [
        ("SAM, method sam", 1000, 0.5),
        ("SGD", 1000, 0.25),
        ("SGD", 2000, 0.5),
        ("SAM, method asam", 1000, 0.75),
        ("SAM, method asam", 2000, 1.0),
    ]
    points = points_of(make_picture("metric", "rho"), [results[2], *asam[:2]])
    assert [(p.line, p.x, p.is_best) for p in points] == [
        ("method sam", 0.1, True),
        ("method asam", 0.1, True),
        ("method asam", 0.2, False),
    ]
    assert {p.line for p in points_of(make_picture(), [*base, *asam])} == {
        "method asam"
    }


def test_what_a_method_perturbs_makes_lines_too():
    """Each of the same base; where it has no effect there is no other line."""
    base = [make_result(0.25, sam=False)]
    sam = [make_result(0.5, sam=True, rho=0.1), make_result(0.75, sam=True, rho=0.2)]
    norm = [make_result(1.0, sam=True, rho=0.2, only="normalization")]
    points = points_of(make_picture(), [*base, *sam, *norm])
    assert [(p.line, p.y.mean, p.rho) for p in points] == [
        ("only all", 0.5, 0.2),
        ("only normalization", 0.75, 0.2),
    ]
    points = points_of(make_picture("metric"), [*base, *sam, *norm])
    assert [(p.line, p.y.mean) for p in points] == [
        ("SAM, only all", 0.75),
        ("SGD", 0.25),
        ("SAM, only normalization", 1.0),
    ]


def test_points_of_a_number_have_a_line_for_those_that_have_it():
    """SAM at the rho that is best in the metric, not in the number, and the base
    optimizer, where it has the number; a failed run leaves its seed out."""
    results = [
        make_result(0.5, sam=False, numbers={"val_loss": 3.0}),
        make_result(0.5, sam=False, numbers={"val_loss": 2.0}, seed=1),
        make_result(0.75, sam=True, rho=0.1, numbers={"val_loss": 4.0, "cosine": 0.5}),
        make_result(None, sam=True, rho=0.1, seed=1),
        make_result(0.25, sam=True, rho=0.2, numbers={"val_loss": 1.0, "cosine": 1.0}),
    ]
    points = points_of(make_picture("val_loss"), results)
    assert [(p.line, p.x, p.y, p.rho, p.unfinished) for p in points] == [
        ("SAM", 1000, (4.0, None, 1), 0.1, 1),
        ("SGD", 1000, (2.5, 0.5, 2), None, 1),
    ]
    points = points_of(make_picture("cosine"), results)
    assert [(p.line, p.y.mean) for p in points] == [("SAM", 0.5)]
    points = points_of(make_picture("cosine", "rho"), results)
    assert [(p.x, p.y.mean, p.is_best) for p in points] == [
        (0.1, 0.5, True),
        (0.2, 1.0, False),
    ]
    points = points_of(make_picture("seconds"), results)
    assert [p.y.mean for p in points] == [2.0, 2.0]
    results = [
        make_result(0.5, sam=sam, pruner="snip", match_width=0.5, num_nonzero=250)
        for sam in (True, False)
    ]
    points = points_of(make_picture("num_nonzero"), results)
    assert [(p.line, p.y.mean) for p in points] == [("SAM", 250), ("SGD", 250)]


def test_points_of_the_best_rho():
    """It has no standard error, but the number of seeds that it is of."""
    results = [
        make_result(0.5, sam=True, rho=0.1),
        make_result(0.75, sam=True, rho=0.2),
        make_result(0.75, sam=True, rho=0.1, width_mult=2.0),
        make_result(0.5, sam=True, rho=0.2, width_mult=2.0),
        make_result(None, sam=True, rho=0.1, width_mult=4.0),
    ]
    points = points_of(make_picture("best_rho", "width_mult"), results)
    assert [(p.line, p.x, p.y) for p in points] == [
        ("SAM", 1.0, (0.2, None, 1)),
        ("SAM", 2.0, (0.1, None, 1)),
        ("SAM", 4.0, None),
    ]


def test_points_over_rho_mark_the_best():
    """A line a width, by rho; a rho whose runs failed is a point without y, and failed
    runs count at their own rho alone, the base optimizer's at none."""
    results = [
        make_result(0.25, sam=True, rho=0.4),
        make_result(0.5, sam=True, rho=0.1),
        make_result(0.75, sam=True, rho=0.2),
        make_result(0.5, sam=True, rho=0.1, width_mult=2.0),
        make_result(None, sam=True, rho=0.1, width_mult=2.0, seed=1),
        make_result(0.25, sam=True, rho=0.2, width_mult=2.0),
        make_result(0.25, sam=True, rho=0.2, width_mult=2.0, seed=1),
        make_result(None, sam=True, rho=0.4, width_mult=2.0),
        make_result(None, sam=False, width_mult=2.0),
    ]
    points = points_of(make_picture("metric", "rho"), results)
    assert [(p.line, p.x, p.y and p.y.mean, p.is_best) for p in points] == [
        (f"width {TIMES} 1", 0.1, 0.5, False),
        (f"width {TIMES} 1", 0.2, 0.75, True),
        (f"width {TIMES} 1", 0.4, 0.25, False),
        (f"width {TIMES} 2", 0.1, 0.5, False),
        (f"width {TIMES} 2", 0.2, 0.25, True),  # the other rho misses a seed
        (f"width {TIMES} 2", 0.4, None, False),
    ]
    assert [p.unfinished for p in points] == [0, 0, 0, 1, 0, 1]
    assert [p.rho for p in points] == [p.x for p in points]


def test_points_over_sparsity_are_at_the_measured_one():
    """The sizes of pruned models set no lines apart, the pruners do, and the dense
    model is the first point of each."""
    results = []
    pruned = (("snip", 0.5, 500), ("snip", 0.25, 250), ("random", 0.25, 250))
    for pruner, width, kept in pruned:
        options = {"pruner": pruner, "match_width": width, "num_nonzero": kept}
        results.append(make_result(0.5, sam=False, **options))
        results.append(make_result(0.75, sam=True, **options))
    results.append(make_result(0.5, sam=False))
    results.append(make_result(1.0, sam=True))
    points = points_of(make_picture(x="sparsity"), results)
    assert [(p.line, p.x, p.y.mean) for p in points] == [
        ("pruner snip", 0.0, 0.5),
        ("pruner snip", 0.5, 0.25),
        ("pruner snip", 0.75, 0.25),
        ("pruner random", 0.0, 0.5),
        ("pruner random", 0.75, 0.25),
    ]


def test_an_option_that_does_not_vary_is_one_place():
    """--depth 3 on the command line of a figure over depth leaves one x."""
    results = [
        make_result(0.5, sam=sam, depth=3, width_mult=width)
        for sam in (True, False)
        for width in (1.0, 2.0)
    ]
    points = points_of(make_picture(x="depth"), results)
    assert [(p.line, p.x) for p in points] == [
        (f"width {TIMES} 1", 3),
        (f"width {TIMES} 2", 3),
    ]


def test_models_of_other_sizes_are_points_of_their_own():
    """Runs of one option, before and after its workload was changed: on lines that are
    named by their sizes, but for a picture over them."""
    results = [
        make_result(0.5, sam=sam, seed=s) for sam in (True, False) for s in (0, 1)
    ]
    results[1] = dataclasses.replace(results[1], num_params=5, num_nonzero=5)
    results[3] = dataclasses.replace(results[3], num_params=5, num_nonzero=5)
    points = points_of(make_picture(x="width_mult"), results)
    assert [(p.line, p.y.num_seeds) for p in points] == [
        ("1,000 parameters", 1),
        ("5 parameters", 1),
    ]
    points = points_of(make_picture(), results)
    assert [(p.line, p.x) for p in points] == [("SAM - base", 5), ("SAM - base", 1000)]


def test_each_method_has_a_row_with_its_cost():
    """Its gains by size, each at its own best rho; passes where runs recorded them."""
    results = []
    for width in (1.0, 2.0):
        results.append(make_result(0.5, sam=False, width_mult=width))
        for method, rho, best in (
            ("sam", 0.1, 0.75),
            ("sam", 0.2, 0.5 + width / 16),
            ("asam", 0.5, 0.625),
        ):
            more = {"numbers": {"passes": 2.0}} if method == "sam" else {}
            options = {"sam": True, "method": method, "rho": rho}
            results.append(make_result(best, width_mult=width, **options, **more))
    points = points_of(make_picture(x="method"), results)
    assert [(p.line, p.x, p.y and p.y.mean, p.rho) for p in points] == [
        (f"width {TIMES} 1", "sam (2 passes)", 0.25, 0.1),
        (f"width {TIMES} 1", "asam", 0.125, 0.5),
        (f"width {TIMES} 2", "sam (2 passes)", 0.25, 0.1),
        (f"width {TIMES} 2", "asam", 0.125, 0.5),
    ]
