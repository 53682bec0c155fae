"""Pictures over epochs: their curves, panels, fits and what theory says of them."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from samkeras.errors import InputError
from samkeras.experiment.options.targets import find_target
from samkeras.experiment.studies.bounds import (
    check_bounds,
    find_bounds,
    stable_lambda_max,
)
from samkeras.experiment.studies.figure import Figure
from samkeras.experiment.studies.pictures import draw_picture
from samkeras.experiment.studies.points import fit_curves
from tests.experiment.studies.making import (
    TIMES,
    make_picture,
    make_result,
    points_of,
    read_csv,
)
from tests.helpers import make_config

pytestmark = pytest.mark.one_backend


def make_curve(values, **options):
    return make_result(0.5, curves={"loss": dict(enumerate(values))}, **options)


def make_factorization(rank):
    name = "matrix_factorization"
    return make_config(name, dataset=name, rank=rank)


def make_halving(**options):
    return make_curve([2.0**-i for i in range(8)], **options)


def test_curves_are_means_over_seeds_a_line_a_rho():
    """By hand; epochs are counted from 1, and where a seed has none, of the others."""
    results = [
        make_curve([4.0, 2.0, 1.0], sam=False),
        make_curve([2.0, 1.0], sam=False, seed=1),
        make_curve([1.0, 1.0], sam=True, rho=0.1),
        make_curve([0.5, 0.25], sam=True, rho=0.2),
        make_result(None, sam=True, rho=0.2, seed=1),
    ]
    points = points_of(make_picture("loss", "epoch"), results)
    assert [(p.line, p.x, p.y, p.unfinished) for p in points] == [
        ("SGD", 1, (3.0, 1.0, 2), 0),
        ("SGD", 2, (1.5, 0.5, 2), 0),
        ("SGD", 3, (1.0, None, 1), 0),
        ("SAM, rho 0.1", 1, (1.0, None, 1), 0),
        ("SAM, rho 0.1", 2, (1.0, None, 1), 0),
        ("SAM, rho 0.2", 1, (0.5, None, 1), 1),
        ("SAM, rho 0.2", 2, (0.25, None, 1), 1),
    ]


def test_steps_are_as_they_were_recorded():
    results = [make_curve([4.0], sam=False, steps=40, eval_every=20)]
    (point,) = points_of(make_picture("loss", "epoch"), results)
    assert point.x == 0


def test_means_on_a_logarithmic_axis_are_geometric():
    """Of 1 and 4 it is 2; the error is that of the logarithms, times the mean; what is
    not positive has no place."""
    results = [
        make_curve([1.0, 0.0], sam=False),
        make_curve([4.0, 4.0], sam=False, seed=1),
    ]
    picture = make_picture("loss", "epoch", log_y=True)
    first, second = points_of(picture, results)
    assert first.y.mean == pytest.approx(2)
    assert first.y.error == pytest.approx(2 * math.log(4) / 2)
    assert second.y == (pytest.approx(4), None, 1)


def test_a_fit_finds_the_rate_of_a_geometric_curve():
    """Halved each epoch; of a flat curve, and of one with two points in the range,
    nothing is said."""
    results = [
        make_halving(sam=False),
        make_curve([0.2] * 8, sam=True, rho=0.1),
        make_curve([1.0, 1e-3, 1e-4], sam=True, rho=0.2),
    ]
    picture = make_picture("loss", "epoch", log_y=True, fit=[1e-5, 0.1])
    (fit,) = fit_curves(picture, points_of(picture, results))
    assert fit.line == "SGD"
    assert fit.factor == pytest.approx(0.5)
    assert fit.r2 == pytest.approx(1)


def test_a_panel_takes_its_option_off_the_lines():
    """And what follows from it, as a learning rate that falls with the width."""
    results = [
        make_halving(sam=sam, width_mult=width, learning_rate=0.1 / width)
        for width in (2.0, 1.0)
        for sam in (True, False)
    ]
    points = points_of(make_picture("loss", "epoch", panels="width_mult"), results)
    names = dict.fromkeys((p.panel, p.line) for p in points)
    panels = [f"width {TIMES} {width}" for width in (2, 1)]
    assert [*names] == [(p, line) for p in panels for line in ("SGD", "SAM")]
    over = points_of(make_picture("metric", "width_mult"), results)
    assert [(p.line, p.x) for p in over] == [
        ("SAM", 1),
        ("SAM", 2),
        ("SGD", 1),
        ("SGD", 2),
    ]


def test_other_numbers_of_sam_are_lines_over_rho():
    """As the m of m-sharpness."""
    results = [
        make_result(rho + m / 100, sam=True, rho=rho, m_sharpness=m)
        for m in (16, 128)
        for rho in (0.1, 0.2)
    ]
    points = points_of(make_picture("metric", "rho"), results)
    assert [(p.line, p.x, p.y.mean) for p in points] == [
        ("m sharpness 16", 0.1, pytest.approx(0.26)),
        ("m sharpness 16", 0.2, pytest.approx(0.36)),
        ("m sharpness 128", 0.1, pytest.approx(1.38)),
        ("m sharpness 128", 0.2, pytest.approx(1.48)),
    ]


def test_bounds_of_stability_are_those_of_each_panel():
    """2 / eta; (1 / eta) sqrt(B (n - 1) / (n - B)), which is 1 / eta for a batch of
    one, and none for all examples."""
    rates = {"learning_rate": 0.1, "batch_size": 1, "train_examples": 9}
    rates |= {"momentum": 0.0}
    options = {"dataset": "mnist_5k", "sam": False, **rates}
    results = [
        make_halving(**options | {"width_mult": width, "learning_rate": rate})
        for width, rate in ((1.0, 0.5), (2.0, 0.25), (2.0, 0.25))
    ]
    picture = make_picture("loss", "epoch", panels="width_mult")

    def find(name, results):
        found = find_bounds(
            make_picture("loss", "epoch", panels="width_mult", bounds=name), results
        )
        return [bound.value for bound in found]

    assert find_bounds(picture, results) == []
    assert find("stable_lambda_max", results) == [4, 8]
    assert find("stable_s_2", results) == [2, 4]
    batch = [make_halving(**options | {"batch_size": 5})]
    assert find("stable_s_2", batch) == pytest.approx([10 * math.sqrt(5 * 8 / 4)])
    assert find("stable_s_2", [make_halving(**options | {"batch_size": 9})]) == []


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("beta", "decay"), [(0, 0), (0.5, 0), (0.9, 0), (0.5, 4)])
def test_momentum_and_decay_move_the_largest_stable_eigenvalue(beta, decay, nesterov):
    """On a parabola of a curvature just below it SGD comes to the minimum, just above
    it leaves it: by the optimizer's own steps."""
    options = {"learning_rate": 0.1, "momentum": float(beta), "nesterov": nesterov}
    options["weight_decay"] = float(decay)
    bound = stable_lambda_max(make_config("mnist_mlp", **options))
    w, v = np.ones(2), np.zeros(2)
    curvatures = np.array([0.99, 1.01]) * bound
    for _ in range(3000):
        gradient = (curvatures + decay) * w
        v = beta * v + gradient
        w = w - 0.1 * (gradient + beta * v if nesterov else v)
    assert abs(w[0]) < 1e-3
    assert abs(w[1]) > 1e3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("stable_s_2", {"momentum": 0.9}, "without momentum at .* --momentum 0.9"),
        ("stable_lambda_max", {"optimizer": "adam"}, "are of SGD .* --optimizer adam"),
        ("stable_lambda_max", {"lr_schedule": "cosine"}, "rate.* --lr_schedule cosine"),
        ("stable_s_2", {"lr_milestones": (0.5,)}, "rate.* --lr_milestones .0.5"),
    ],
)
def test_bounds_of_other_optimizers_are_refused(name, options, message):
    """Before anything is trained: theory says nothing of them."""
    picture = make_picture("loss", "epoch", bounds=name)
    workload = find_target("mnist_mlp").load()
    constant = {"optimizer": "sgd", "lr_schedule": "step", "lr_milestones": ()}
    configs = [
        make_config("mnist_mlp", **constant, momentum=0.0),
        make_config("mnist_mlp", **constant | options),
    ]
    check_bounds([picture], workload, configs[:1])
    with pytest.raises(InputError, match=message):
        check_bounds([picture], workload, configs)


def test_the_bound_of_a_rank_is_the_best_approximations():
    """Eckart and Young: nothing is as near to the labels as their own singular vectors
    are, and a map of more than their rank has no error."""
    workload = find_target("matrix_factorization").load()
    rule = workload.bounds["best_of_rank"]
    config = make_factorization(4)
    y = workload.load(config).train.y
    left, s, right = np.linalg.svd(y, full_matrices=False)
    nearest = left[:, :4] * s[:4] @ right[:4]
    assert rule(config) == pytest.approx(np.mean(np.sum((y - nearest) ** 2, axis=1)))
    assert 0 < rule(make_factorization(5)) < rule(config)
    assert rule(make_factorization(6)) == 0
    assert rule(make_factorization(10)) == 0


def test_panels_are_drawn_with_bounds_notes_and_one_legend(tmp_path, canvas):
    """On one logarithmic scale; the CSV says each point's panel, the summary what is
    dashed and fitted."""
    results = [
        make_halving(sam=sam, width_mult=width, seed=seed)
        for width in (1.0, 2.0)
        for sam in (True, False)
        for seed in (0, 1)
    ]
    picture = make_picture(
        "loss",
        "epoch",
        panels="width_mult",
        log_y=True,
        bounds="stable_lambda_max",
        fit=[1e-3, 0.6],
    )
    target = find_target("mnist_mlp")
    figure = Figure(Path("made.yaml"), "Its title", target, {}, [picture])
    paths = draw_picture(figure, picture, results, tmp_path)
    axes = canvas[0].axes
    assert [a.get_title() for a in axes] == [f"width {TIMES} {n}" for n in (1, 2)]
    assert {a.get_yscale() for a in axes} == {"log"}
    assert axes[0].get_xlabel() == "epoch"
    for drawn in axes:
        lines = {line.get_label(): line for line in drawn.lines if line.get_label()}
        assert lines["SGD"].get_xdata().tolist() == [*range(1, 9)]
        assert set(lines["stable lambda max"].get_ydata()) == {20.0}
    (legend,) = canvas[0].legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["SGD", "SAM", "stable lambda max"]
    rows = read_csv(paths[2])
    assert [row["width_mult"] for row in rows] == [
        f"width {TIMES} {n}" for n in (1, 2) for _ in range(16)
    ]
    summary = json.loads(paths[4].read_text())
    assert [bound["value"] for bound in summary["bounds"]] == [20, 20]
    assert [fit["factor"] for fit in summary["fits"]] == [pytest.approx(0.5)] * 4
    notes = " ".join(summary["notes"])
    assert "Geometric means over 2 seeds" in notes
    assert "dashed: stable lambda max, 20." in notes
    assert f"SGD, width {TIMES} 1: a factor of 0.5 an epoch (R^2 1.0000)." in notes


def test_labels_of_many_steps_leave_room(tmp_path, canvas):
    options = {"steps": 30_000, "eval_every": 5_000, "sam": False}
    losses = {5_000 * i: 4.0 if i < 2 else 0.25 for i in range(1, 7)}
    results = [make_result(0.5, curves={"loss": losses}, **options)]
    picture = make_picture("loss", "epoch", log_y=True)  # whose labels are wide
    figure = Figure(Path("made.yaml"), "Title", find_target("mnist_mlp"), {}, [picture])
    draw_picture(figure, picture, results, tmp_path)
    canvas[0].draw_without_rendering()
    (axes,) = canvas[0].axes
    labels = [t for t in axes.get_xticklabels() if t.get_text()]
    boxes = [label.get_window_extent() for label in labels]
    assert len(boxes) > 3
    for left, right in itertools.pairwise(boxes):
        assert right.x0 - left.x1 > left.width / 2


def test_missing_runs_are_counted_in_the_notes(tmp_path):
    results = [make_halving(sam=False), make_result(None, sam=True)]
    picture = make_picture("loss", "epoch")
    target = find_target("mnist_mlp")
    figure = Figure(Path("made.yaml"), "Its title", target, {}, [picture])
    paths = draw_picture(figure, picture, results, tmp_path)
    summary = json.loads(paths[4].read_text())
    assert summary["notes"] == ["One seed.", "1 run failed or is missing."]


def make_function(slope, **options):
    numbers = {"slope_variation": slope, "lambda_max": 2 * slope}
    numbers |= {"best_val_loss": 0.5, "final_val_loss": 0.5}
    curves = {"function": {-1.0: -slope, 0.0: 0.0, 1.0: slope}}
    config = make_config("relu_1d", dataset="relu_1d", **options)
    return dataclasses.replace(
        make_result(0.5, numbers=numbers, curves=curves), config=config
    )


def test_functions_have_a_panel_a_width_and_a_row_an_optimizer(tmp_path, canvas):
    """A line a seed, the examples, and the means of what is known of them under it; a
    rate that falls with the width, which is in the panel's title, is not named."""
    results = [
        make_function(
            (seed + 1) * width / (1 + sam),
            sam=sam,
            seed=seed,
            width_mult=width,
            learning_rate=1 / width,
        )
        for width in (1.0, 2.0)
        for sam in (True, False)
        for seed in (0, 1)
    ]
    results[-1] = dataclasses.replace(results[-1], failure="NotFiniteError: loss")
    picture = make_picture("function", "input", panels="width_mult")
    target = find_target("relu_1d")
    figure = Figure(Path("made.yaml"), "Its title", target, {}, [picture])
    lacking = [dataclasses.replace(result, curves={}) for result in results]
    with pytest.raises(InputError, match=r"no finished run has a number function"):
        draw_picture(figure, picture, lacking, tmp_path)
    paths = draw_picture(figure, picture, results, tmp_path)
    axes = canvas[0].axes
    assert [a.get_title() for a in axes] == [
        f"{name}, width {TIMES} {width}" for name in ("SGD", "SAM") for width in (1, 2)
    ]
    x = np.ravel(target.load().load(results[0].config).train.x)
    counts = []
    for drawn in axes:
        *functions, examples = drawn.lines
        counts.append(len(functions))
        assert examples.get_xdata().tolist() == x.tolist()
    assert counts == [2, 1, 2, 2]
    assert axes[2].get_xlabel() == "slope variation 0.75\nlambda max 1.5"
    rows = read_csv(paths[2])
    assert len(rows) == 7 * 3
    assert (rows[0]["line"], rows[0]["width_mult"]) == (
        "SGD, seed 0",
        f"width {TIMES} 1",
    )
    assert [float(row["function"]) for row in rows[:3]] == [-1, 0, 1]
    summary = json.loads(paths[4].read_text())
    assert summary["notes"] == [
        "A line for each seed; dots: the examples.",
        "1 run failed or is missing.",
    ]


def make_spectrum(*steps, **options):
    """Of a run whose eigenvalues are shifted by its seed and each step."""
    seed = options["seed"]
    spectrum = {}
    for step in steps:
        values = {2.0 + seed + step: 0.25, -1.0: 0.5, 0.0: 0.25}
        spectrum |= {(step, value): weight for value, weight in values.items()}
    ratios = {step: 4.0 + step + seed for step in steps}
    curves = {
        "spectrum": spectrum,
        "lambda_max": {step: 2.0 + seed + step for step in steps},
        "lambda_ratio": ratios,
    }
    numbers = {"lambda_max": 2.0 + seed, "lambda_ratio": 4.0 + seed}
    return make_result(0.5, curves=curves, numbers=numbers, **options)


def draw_spectra(results, tmp_path):
    picture = make_picture("spectrum", "eigenvalue")
    target = find_target("mnist_mlp")
    figure = Figure(Path("made.yaml"), "Its title", target, {}, [picture])
    return draw_picture(figure, picture, results, tmp_path)


def test_spectra_have_a_panel_an_optimizer(tmp_path, canvas):
    """The first seed's, and the means of the numbers of all; below, the shares of both,
    in the order of the eigenvalues."""
    results = [
        make_spectrum(0, sam=sam, seed=seed) for sam in (True, False) for seed in (0, 1)
    ]
    paths = draw_spectra(results, tmp_path)
    sgd, sam, both = canvas[0].axes
    assert [axes.get_title() for axes in (sgd, sam)] == ["SGD", "SAM"]
    for axes in (sgd, sam):
        (said,) = axes.texts
        assert said.get_text().endswith("2.5\n$\\lambda_{max}/\\lambda_5$ 4.5")
    for line in both.lines:
        assert line.get_xydata().tolist() == [[2, 0.25], [0, 0.5], [-1, 1]]
    assert [line.get_label() for line in both.lines] == ["SGD", "SAM"]
    assert len(read_csv(paths[2])) == 4 * 3
    assert [run["lambda_max"] for run in read_csv(paths[3])] == 2 * ["2.0", "3.0"]
    notes = json.loads(paths[4].read_text())["notes"]
    assert notes == ["Of the first seed; the numbers are means over all."]


def test_spectra_along_a_training_have_a_column_an_epoch(tmp_path, canvas):
    """With the numbers of that epoch, and of many epochs some, the first and the last
    among them; epochs are counted from 1."""
    options = {"measure": ("spectrum", "eigenvalues"), "measure_every": 1}
    steps = [*range(11)]
    results = [
        make_spectrum(*steps, sam=sam, seed=seed, epochs=11, **options)
        for sam in (True, False)
        for seed in (0, 1)
    ]
    paths = draw_spectra(results, tmp_path)
    axes = np.reshape(canvas[0].axes, (3, 5))
    for row, name in zip(axes, ("SGD", "SAM"), strict=False):
        shown = [1, 3, 6, 9, 11]  # 2.5 epochs apart
        assert [a.get_title() for a in row] == [f"{name}, epoch {n}" for n in shown]
        assert row[2].texts[0].get_text() == (
            "$\\lambda_{max}$ 7.5\n$\\lambda_{max}/\\lambda_5$ 9.5"
        )
        assert row[0].get_xlim() == row[4].get_xlim()
    assert [line.get_xdata()[0] for line in axes[2, 4].lines] == [12, 12]
    rows = read_csv(paths[2])
    assert len(rows) == 4 * 11 * 3
    assert rows[3]["line"] == "SGD, seed 0, epoch 2"
