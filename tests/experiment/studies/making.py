"""Runs and pictures that tests of figures make."""

import csv

from samkeras.experiment.options.targets import FIGURES
from samkeras.experiment.runs.result import Result
from samkeras.experiment.studies.comparison import compare
from samkeras.experiment.studies.picture import Picture
from samkeras.experiment.studies.points import find_points
from tests.helpers import make_config

NAMES = sorted(path.stem for path in FIGURES.glob("*.yaml"))
# A figure of four runs, each a second or less.
TINY = {
    "title": "SAM's gain, made small",
    "workload": "synthetic_mlp",
    "grid": {
        "width_mult": [0.1, 0.2],
        "sam": [True, False],
        "train_examples": 256,
        "validation_examples": 64,
        "batch_size": 64,
        "epochs": 1,
    },
    "y": "gain",
    "x": "num_params",
}
TIMES = "\N{MULTIPLICATION SIGN}"
RUNS = {name: value for name, value in TINY.items() if name not in ("x", "y")}


def read_csv(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def make_picture(y="gain", x="num_params", **fields):
    return Picture("made", "A made-up figure", y, x, **fields)


def make_result(
    best=None, final=None, num_nonzero=None, numbers=None, curves=None, **options
):
    """A run of these options, of 1000 parameters at width 1; without a metric, one that
    failed."""
    config = make_config("mnist_mlp", **options)
    num_params = round(1000 * config.width_mult)
    sizes = (num_params, num_nonzero or num_params)
    if best is None:
        return Result(config, *sizes, failure="NotFiniteError: loss")
    reported = {
        "best_val_accuracy": best,
        "final_val_accuracy": best if final is None else final,
        "seconds": 2.0,
    }
    return Result(config, *sizes, {**reported, **(numbers or {})}, curves=curves or {})


def make_trained(config, num_params=1000, num_nonzero=1000, shown=()):
    """A finished run of any workload, which has the numbers that pictures show."""
    monitor = config.target.load().monitor
    reported = {f"best_{monitor}": 0.5, f"final_{monitor}": 0.5, "seconds": 1.0}
    reported |= {picture.y: 0.5 for picture in shown}
    curves = {picture.y: {0: 1.0, 1: 0.5} for picture in shown}
    return Result(config, num_params, num_nonzero, reported, curves=curves)


def make_gains():
    """Two widths, two seeds and two rates of label noise; gains are the width, of
    seed 1 a quarter more, with noise twice that. One run of SAM failed."""
    results = []
    for width in (2.0, 1.0):
        for noise in (0.0, 0.5):
            for seed in (0, 1):
                options = {"width_mult": width, "label_noise": noise, "seed": seed}
                gain = (width + seed / 4) * (1 + 2 * noise)
                results.append(make_result(0.5, sam=False, **options))
                if (width, noise, seed) == (2.0, 0.5, 1):
                    gain = None
                best = None if gain is None else 0.5 + gain
                results.append(make_result(best, sam=True, rho=0.125, **options))
    return results


def points_of(drawn, results, mode="max"):
    return find_points(drawn, results, compare(results, mode))
