"""Tables of studies: rows and columns of runs beside what a paper has."""

import json
import math

import pytest
import yaml

import run as command
from samkeras.experiment.options.config import option_types
from samkeras.experiment.options.targets import find_target
from samkeras.experiment.studies.crosstab import read_crosstabs
from samkeras.experiment.studies.crosstabs import find_cells, tell
from tests.experiment.studies.making import RUNS, make_result, read_csv

pytestmark = pytest.mark.one_backend

HINTS = option_types(find_target("mnist_mlp"))


def read(tmp_path, **fields):
    fields = {"y": "error", "rows": ["label_noise"], **fields}
    (table,) = read_crosstabs(tmp_path / "made.yaml", [fields], "A table", HINTS)
    return table


def make_runs():
    """Two rates of label noise; SAM at two rho, and SGD for once and twice the epochs,
    of three seeds each."""
    best = {
        (0.0, True, 0.05, 1.0): [0.9, 0.92, 0.94],
        (0.0, True, 0.1, 1.0): [0.91, 0.91, 0.91],
        (0.0, False, 0.0, 1.0): [0.8, 0.82, 0.84],
        (0.0, False, 0.0, 2.0): [0.85, 0.85, None],  # lacks a seed: not to be chosen
        (0.5, True, 0.05, 1.0): [0.5, 0.5, 0.5],
        (0.5, True, 0.1, 1.0): [0.6, 0.6, 0.6],
        (0.5, False, 0.0, 1.0): [0.3, 0.3, 0.3],
        (0.5, False, 0.0, 2.0): [0.4, 0.4, 0.4],
    }
    return [
        make_result(
            value,
            dataset="mnist",
            label_noise=noise,
            sam=sam,
            rho=rho,
            epochs_mult=mult,
            seed=seed,
        )
        for (noise, sam, rho, mult), values in best.items()
        for seed, value in enumerate(values)
    ]


def test_a_cell_is_the_best_choice_of_what_is_not_told(tmp_path):
    """Of those with the most seeds: means and Student's intervals by hand, beside the
    paper's; SAM and the base optimizer apart, though the table does not say so."""
    paper = {
        "dataset": "mnist",
        "columns": {"sam": [True, False]},
        "rows": [{"label_noise": 0.5, "values": [39.5, None]}],
    }
    table = read(tmp_path, columns=["sam"], paper=paper)
    results = make_runs()
    cells = find_cells(table, results)
    assert [(c.row, c.column) for c in cells] == [
        ((0.0,), (True,)),
        ((0.0,), (False,)),
        ((0.5,), (True,)),
        ((0.5,), (False,)),
    ]
    found = [c.found for c in cells if c.found is not None]
    assert [e.mean for e in found] == pytest.approx([8.0, 18.0, 40.0, 60.0])
    # 4.3027 is the 0.975 quantile of Student's t for two degrees of freedom.
    expected = [4.3027 * 2 / math.sqrt(3), 4.3027 * 2 / math.sqrt(3), 0, 0]
    assert [c.half_width for c in cells] == pytest.approx(expected, rel=1e-4)
    assert [c.chosen for c in cells] == [
        {"rho": 0.05},
        {"epochs_mult": 1.0},
        {"rho": 0.1},
        {"epochs_mult": 2.0},
    ]
    assert [(c.paper, c.unfinished) for c in cells] == [
        (None, 0),
        (None, 1),
        (39.5, 0),
        (None, 0),
    ]
    assert tell(table, cells, results) == {
        "label_noise": ["0", "0.5"],
        "SAM\nours": ["8.00 ± 4.97", "40.00 ± 0.00"],
        "SAM\npaper": ["-", "39.5"],
        "SGD\nours": ["18.00 ± 4.97", "60.00 ± 0.00"],
    }
    unsaid = find_cells(read(tmp_path), results)
    assert [c.found for c in unsaid] == [c.found for c in cells]


def test_values_of_a_group_share_a_row(tmp_path):
    """The best of them, which the cell says."""
    table = read(
        tmp_path,
        y="metric",
        rows=["sam", "rho"],
        columns=["label_noise"],
        groups={"rho": {"any": [0.05, 0.1]}},
        paper={
            "dataset": "mnist",
            "columns": {"label_noise": [0, 0.5]},
            "rows": [{"sam": True, "rho": "any", "values": [0.9, 0.5]}],
        },
    )
    cells = find_cells(table, make_runs())
    places = [(c.row, c.column, c.paper, c.chosen) for c in cells[:2]]
    assert places == [
        ((True, "any"), (0.0,), 0.9, {"rho": 0.05}),
        ((True, "any"), (0.5,), 0.5, {"rho": 0.1}),
    ]
    assert [c.row for c in cells[2:]] == [(False, 0.0)] * 2


def test_a_cell_without_runs_is_empty(tmp_path):
    """As where the base optimizer has no steps of ascent, or all runs failed."""
    results = [
        make_result(0.5, sam=True, ascent_steps=1),
        make_result(0.75, sam=True, ascent_steps=2),
        make_result(0.25, sam=False),
        make_result(None, sam=True, ascent_steps=3),
    ]
    table = read(tmp_path, y="metric", rows=["ascent_steps"], columns=["sam"])
    told = tell(table, find_cells(table, results), results)
    assert told == {
        "ascent_steps": ["1", "2", "3"],
        "SAM\nours": ["0.5000", "0.7500", "-"],
        "SGD\nours": ["0.2500", "-", "-"],
    }


def test_papers_numbers_are_beside_runs_of_its_data_alone(tmp_path):
    """Where neither rows nor columns are data sets, the table says which it is. Runs of
    several data sets are in columns of their own, and no mean is chosen among them."""
    paper = {
        "dataset": "mnist",
        "columns": {"sam": True},
        "rows": [{"label_noise": 0.0, "values": [1.5]}],
    }
    table = read(tmp_path, columns=["sam"], paper=paper)
    ours, others = (
        [make_result(best, dataset=name, sam=sam) for sam in (True, False)]
        for name, best in (("mnist", 0.5), ("mnist_5k", 0.75))
    )
    assert [c.paper for c in find_cells(table, ours)] == [1.5, None]
    assert [c.paper for c in find_cells(table, others)] == [None, None]
    assert "SAM\npaper" not in tell(table, find_cells(table, others), others)
    cells = find_cells(table, [*ours, *others])
    assert [(c.column, c.paper) for c in cells] == [
        ((True, "mnist"), 1.5),
        ((True, "mnist_5k"), None),
        ((False, "mnist"), None),
        ((False, "mnist_5k"), None),
    ]
    assert [c.found.mean for c in cells if c.found] == [50, 25, 50, 25]


def test_papers_numbers_are_not_beside_sgd_where_it_does_not_say(tmp_path):
    """Of which of both they are, as where SGD is trained too by `--sam true,false`."""
    paper = {"dataset": "mnist", "rows": [{"label_noise": 0.0, "values": [1.5]}]}
    table = read(tmp_path, paper=paper)
    both = [
        make_result(best, dataset="mnist", sam=sam)
        for sam, best in ((True, 0.5), (False, 0.25))
    ]
    assert [c.paper for c in find_cells(table, both[:1])] == [1.5]
    assert [c.paper for c in find_cells(table, both)] == [None, None]


@pytest.mark.each_backend
def test_a_command_tells_tables(write, records, tmp_path, capsys):
    """On the terminal, as text, as CSV and in the report, with what the paper has; a
    table alone, by its name, is of the same runs."""
    paper = {
        "dataset": "teacher_student",
        "columns": {"sam": [True, False]},
        "rows": [{"width_mult": 0.1, "values": [1.5, 2]}],
    }
    losses = {
        "name": "losses",
        "title": "The losses",
        "y": "val_loss",
        "rows": ["width_mult"],
        "columns": ["sam"],
        "paper": paper,
    }
    grid = {**RUNS["grid"], "width_mult": 0.1}
    tables = [losses, {"y": "num_params", "rows": ["sam"]}]
    write("tiny", {**RUNS, "grid": grid, "tables": tables})
    places = ["--run_dir", str(tmp_path), "--verbose", "0"]
    assert command.main(["configs/figures/tiny.yaml", *places]) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "figures" / "losses"
    said = (folder / "losses.txt").read_text()
    assert said in out
    rows = {row["sam"]: row for row in read_csv(folder / "losses.csv")}
    by_run = {row["sam"]: row["val_loss"] for row in read_csv(folder / "runs.csv")}
    assert {sam: row["val_loss"] for sam, row in rows.items()} == by_run
    assert [rows[sam]["paper"] for sam in ("True", "False")] == ["1.5", "2.0"]
    assert f"{float(by_run['True']):.3f}"[:5] in said
    assert read_csv(tmp_path / "figures" / "tiny" / "tiny.csv")[0]["num_params"]
    figure = json.loads((folder / "summary.json").read_text())
    assert figure["table"]["SAM\npaper"] == ["1.5"]
    assert command.main(["report", "--run_dir", str(tmp_path)]) == 0
    page = (tmp_path / "figures" / "report.html").read_text()
    assert "Report of 2 figures" in capsys.readouterr().out
    assert "<td>1.5</td>" in page
    assert "<img" not in page
    assert command.main(["configs/figures/losses.yaml", *places]) == 0
    assert said in capsys.readouterr().out


TABLE = {"y": "metric", "rows": ["width_mult"], "columns": ["sam"]}
PAPER = {
    "dataset": "teacher_student",
    "columns": {"sam": [True, False]},
    "rows": [],
}
GROUPED = {**TABLE, "groups": {"width_mult": {"any": [1, 2]}}}


def with_row(table=TABLE, **row):
    """A table with a paper's numbers in one row."""
    return [{**table, "paper": {**PAPER, "rows": [{"values": [1, 2], **row}]}}]


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ([], ["tables must be a list"]),
        (["error"], ["tables[0] must hold fields"]),
        ([{"rows": ["sam"]}], ["tables[0] needs the field y"]),
        ([{**TABLE, "row": 1}], ["unknown field row", "did you mean rows"]),
        ([{**TABLE, "name": "a/b"}], ["name must be", "a/b"]),
        ([{**TABLE, "y": 3}], ["y must be text"]),
        ([{**TABLE, "y": "metrc"}], ["y must be one of", "did you mean metric"]),
        ([{**TABLE, "y": "error"}], ["y: error needs an accuracy", "val_loss"]),
        ([{**TABLE, "value": "last"}], ["value must be one of best, final"]),
        ([{**TABLE, "y": "loss", "value": "best"}], ["value needs y: metric"]),
        ([TABLE, {"y": "loss", "rows": ["sam"]}], ["two tables have the name own"]),
        ([{**TABLE, "rows": "sam"}], ["rows must be a list of options"]),
        ([{**TABLE, "rows": ["roh"]}], ["no option roh", "did you mean rho"]),
        ([{**TABLE, "rows": ["seed"]}], ["cannot have seed", "over seeds"]),
        ([{**TABLE, "rows": ["sam"]}], ["sam is in rows and in columns"]),
        ([{**TABLE, "groups": {"rho": {}}}], ["rho is not in rows or columns"]),
        ([{**TABLE, "groups": {"sam": [1]}}], ["sam must hold names, and values"]),
        ([{**TABLE, "paper": 3}], ["paper must hold columns and rows"]),
        ([{**TABLE, "paper": {"rows": []}}], ["paper needs the field dataset"]),
        ([{**TABLE, "paper": {**PAPER, "dataset": 3 * [1]}}], ["dataset must be text"]),
        (
            [{**TABLE, "rows": ["dataset"], "paper": PAPER}],
            ["paper: unknown field dataset"],
        ),
        (
            [{**TABLE, "paper": {"dataset": "a", "rows": []}}],
            ["columns must hold values of sam"],
        ),
        (
            with_row(GROUPED, width_mult=[1, 2]),
            ["width_mult must be a number", "[1, 2]"],
        ),
        (with_row(GROUPED, width_mult={"a": 2}), ["width_mult must be a number"]),
        (
            [
                {
                    **TABLE,
                    "paper": {
                        **PAPER,
                        "rows": [{"width_mult": 1, "values": [1, 2]} for _ in "12"],
                    },
                }
            ],
            ["paper has", "twice"],
        ),
        (
            [{**TABLE, "paper": {**PAPER, "rows": [{"width_mult": 1, "values": [1]}]}}],
            ["rows[0] needs 2 values, one a column", "[1]"],
        ),
        (
            [{**TABLE, "paper": {**PAPER, "rows": [{"width_mult": 1}]}}],
            ["rows[0] needs the field values"],
        ),
        (
            [{**TABLE, "paper": {**PAPER, "rows": [{"values": [1, 2]}]}}],
            ["rows[0] needs the field width_mult"],
        ),
        (
            [
                {
                    **TABLE,
                    "paper": {
                        **PAPER,
                        "rows": [{"width_mult": 1, "values": [1, "two"]}],
                    },
                }
            ],
            ["rows[0] must have numbers", "two"],
        ),
        (
            [
                {
                    **TABLE,
                    "paper": {
                        **PAPER,
                        "rows": [{"width_mult": -1, "values": [1, 2]}],
                    },
                }
            ],
            ["width_mult must be a number > 0", "-1"],
        ),
    ],
)
def test_bad_tables_exit_with_2_and_one_line(write, capsys, tables, words):
    """What is wrong in a file is said before anything is trained."""
    path = write("own", {**RUNS, "tables": tables})
    assert yaml.safe_load(path.read_text())["tables"] == tables
    assert command.main(["configs/figures/own.yaml"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(word in message for word in words), message
