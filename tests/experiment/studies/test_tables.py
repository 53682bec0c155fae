"""What is printed of finished runs, at the widths that terminals have."""

import pytest

from samkeras.experiment.options.values import with_decimals
from samkeras.experiment.runs.result import Result
from samkeras.experiment.studies import comparison as analysis
from samkeras.experiment.studies import tables
from samkeras.experiment.studies.tables import print_table
from tests.experiment.studies.test_analysis import make_base, make_edited, make_sam
from tests.helpers import make_config

pytestmark = pytest.mark.one_backend


@pytest.fixture
def frame(monkeypatch, capsys):
    """A function: (results, columns) -> what a terminal of that width shows."""
    monkeypatch.setattr(analysis, "BOOTSTRAP_DRAWS", 50)

    def call(results, columns=80, num_runs=None, verbose=1) -> str:
        monkeypatch.setattr(tables.sys.stdout, "isatty", lambda: True, raising=False)
        monkeypatch.setenv("COLUMNS", str(columns))
        print_table(results, num_runs or len(results), verbose)
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= columns
        return "\n".join(line.rstrip() for line in text.splitlines())

    return call


def make_grid(widths=(0.25, 4.0), rhos=(0.05, 0.1), num_seeds=2, **options):
    """Runs whose mean gain is the width / 100 at the first rho, less at others."""
    results = []
    for width in widths:
        of = {"width_mult": width, "num_params": round(266_610 * width), **options}
        bests = [0.9 + seed / 1000 for seed in range(num_seeds)]
        results += make_base(*bests, **of)
        for i, rho in enumerate(rhos):
            gain = width / 100 - i / 1000
            spread = [(seed - (num_seeds - 1) / 2) / 5000 for seed in range(num_seeds)]
            gained = [b + gain + s for b, s in zip(bests, spread, strict=True)]
            results += make_sam(rho, *gained, **of)
    return results


NARROW = """\
                                                       best           gain in
width_mult  parameters  rho          seeds     val_accuracy              best
----------  ----------  -----------  -----  ---------------  ----------------
      0.25      66,652  no SAM           5  0.9020 ± 0.0007
                        0.05 * edge      5  0.9045 ± 0.0008  +0.0025 ± 0.0001
                        0.1              5  0.9035 ± 0.0008  +0.0015 ± 0.0001
         4   1,066,440  no SAM           5  0.9020 ± 0.0007
                        0.05 * edge      5  0.9420 ± 0.0008  +0.0400 ± 0.0001
                        0.1              5  0.9410 ± 0.0008  +0.0390 ± 0.0001
A gain > 0 is an improvement. * SAM at its best. A wider terminal shows final
val_accuracy, gain in final and time.

The best rho is 0.05 everywhere, the smallest that was tried: a smaller one may
do better.
In best val_accuracy, SAM helps at width_mult 0.25 (+0.0025 ± 0.0001, 5 seeds)
and 4 (+0.0400 ± 0.0001, 5 seeds).
From width_mult 0.25 to 4, SAM's gain does not change clearly (+0.0375, the same
for all 5 seeds).
A gain is clear if its 95 % interval (Student's t, over the seeds) leaves out 0,
and the seeds differ; ± is one standard error.
SAM is taken at its best rho of 2, chosen in val_accuracy itself, which favours
it."""
WIDE = """\
width_mult  parameters  rho          seeds     val_accuracy              best\
     val_accuracy             final   time
"""


def test_means_fit_a_narrow_terminal(frame):
    """Folded over seeds: a row a model and rho, the best one marked, and where it is at
    the edge of its grid; what says least is left out, which is said. Of many runs none
    is listed. The last lines say whether SAM helps, and where."""
    assert frame(make_grid(num_seeds=5)) == NARROW


@pytest.mark.parametrize("columns", [120, 200])
def test_a_wide_terminal_shows_all_columns(frame, columns):
    text = frame(make_grid(num_seeds=5), columns)
    assert WIDE in text
    assert "A wider terminal" not in text


def test_many_options_stand_above_their_rows(frame):
    """Where not even the columns that say most fit."""
    results = [
        result
        for noise in (0.0, 0.5)
        for method in ("sam", "asam")
        for rule in ({"p": 2.0}, {"p": "inf"})
        for result in make_grid(label_noise=noise, method=method, **rule)
    ]
    lines = frame(results).splitlines()
    assert lines[1].split()[:3] == ["rho", "p", "seeds"]
    assert lines[3] == "width_mult 0.25, method sam, label_noise 0, parameters 66,652"
    assert lines[4].split()[:3] == ["no", "SAM", "2"]


@pytest.mark.parametrize("verbose", [1, 2])
def test_runs_are_listed_where_they_are_few(frame, verbose):
    """Up to 24, and with --verbose 2 all."""
    few, many = make_grid(num_seeds=4), make_grid(num_seeds=5)
    assert (len(few), len(many)) == (24, 30)
    for results, is_listed in ((few, True), (many, verbose == 2)):
        lines = frame(results, verbose=verbose).splitlines()
        rows = [line for line in lines if line.endswith("1.0 s")]
        assert len(rows) == (len(results) if is_listed else 0)


def test_a_row_of_one_seed_is_a_run(frame):
    """So that they are not listed twice; a single run has no means."""
    results = make_grid(num_seeds=1)
    assert frame(results, 120).count("1.0 s") == len(results)
    assert frame(results[:1], 120).count("1.0 s") == 1


def test_of_very_many_rules_the_best_are_shown(frame):
    results = make_grid(rhos=[i / 100 for i in range(1, 22)])
    rows = frame(results).splitlines()
    assert sum("0.01 * edge" in row for row in rows) == 2
    assert not any(" 0.02 " in row for row in rows)
    assert "* SAM at its best; --verbose 2 shows" in rows[7]
    assert " 0.02 " in frame(results, verbose=2)


def test_runs_that_are_not_finished_are_counted(frame):
    """Those that failed, in their rows and in a line, and those that are missing."""
    results = [*make_base(0.5, 0.5), *make_sam(0.1, 0.75, None)]
    text = frame(results, num_runs=7)
    assert "FAILED" in text
    assert " 1 of 2 " in text
    assert "Of 7 runs 1 failed and 3 are not trained yet." in text
    text = frame([*make_base(None), *make_sam(0.1, None)])
    assert "Of 2 runs 2 failed." in text
    assert "SAM's gain" not in text


def test_models_of_other_sizes_have_rows_of_their_own(frame):
    lines = frame(make_edited()).splitlines()
    (after,) = (line for line in lines if line.endswith("+0.7500"))
    (first,) = (line for line in lines if "407,050" in line and "no SAM" in line)
    assert " 2 " in first
    assert after.split()[0] == "0.1"
    assert any("options have models of 407,050 parameters" in line for line in lines)


def test_a_loss_next_to_nothing_is_not_shown_as_zero(frame):
    """Beside one that is not small."""
    results = []
    for width, loss in ((0.4, 0.1016), (1.0, 2.93e-30), (2.0, 0.0)):
        config = make_config("synthetic_mlp", width_mult=width)
        numbers = {f"{kind}_val_loss": loss for kind in ("best", "final")}
        results.append(Result(config, 100, 100, {**numbers, "seconds": 1.0}))
    text = frame(results)
    assert all(number in text for number in ("0.1016", "2.9e-30", "0.0000"))


def make_losses(without: tuple[float, ...], with_sam: tuple[float, ...]) -> list:
    """Results of a loss without SAM and with it, one a seed."""
    results = []
    for sam, losses in ((False, without), (True, with_sam)):
        for seed, loss in enumerate(losses):
            config = make_config("synthetic_mlp", sam=sam, seed=seed)
            numbers = {f"{kind}_val_loss": loss for kind in ("best", "final")}
            results.append(Result(config, 100, 100, {**numbers, "seconds": 1.0}))
    return results


def test_a_gain_of_a_loss_is_what_it_falls_by(frame):
    """In the decimals that small losses need."""
    text = frame(make_losses((0.004, 0.002), (0.00305, 0.00095)))
    assert "0.003000 ± 0.001000\n" in text
    assert "0.002000 ± 0.001050  +0.001000 ± 0.000050" in text
    assert "SAM helps (+0.001000 ± 0.000050, 2 seeds)" in text


def test_gains_next_to_nothing_are_not_shown_as_zero(frame):
    """Of losses that are all rounding, as a factorization's; nor are their errors. A
    small gain of losses that have decimals is none."""
    text = frame(make_losses((3e-29, 1e-29), (1e-29, 1e-29)))
    assert "2.0e-29 ± 1.0e-29" in text
    assert "no clear difference (+1.0e-29 ± 1.0e-29, 2 seeds)" in text
    assert with_decimals(-2e-9, 4, "+") == "+0.0000"
