"""The report: what its page says of the figures, and what it needs to be sent."""

import html
import json
import re
import subprocess
import sys
import urllib.parse

import pytest

import run as command
from samkeras.experiment.options.targets import ROOT

pytestmark = pytest.mark.one_backend

SUMMARY = {
    "name": "figure4_mnist",
    "title": "Gain by size",
    "changes": "--dataset fashion_mnist",
    "workload": "mnist_mlp",
    "monitor": "val_accuracy",
    "drawn_at": "2030-01-02T03:04:05+00:00",
    "runs": 4,
    "finished": 4,
    "failures": [],
    "training_seconds": 3725.4,
    "correlation": {"value": 0.9, "low": 0.25, "high": 1.0},
    "varied": {"width_mult": [0.5, 2.0], "sam": [True, False]},
    "config": {
        "batch_size": 64,
        "lr_milestones": [0.5, 0.75],
        "depth": None,
        "tracking_uri": "sqlite:///secret.db",
        "run_dir": "/home/me/secret",
        "workers": 2,
        "gpus_per_run": 1.0,
    },
    "backend": "jax",
    "versions": {"python": "3.12.1", "keras": "3.15.1"},
    "machine": {"system": "Linux", "cpu": "x86_64, 2 cores", "devices": ["cpu:0"]},
}
POINTS = """\
line,num_params,gain,standard_error,seeds,rho,is_best_rho,unfinished_runs
SAM - base,61035,-0.012345678,0.0023,2,0.05,False,0
SAM - base,5366010,0.0456789,,1,0.1,False,1
"""
RUNS = """\
width_mult,sam,num_params,best,final,seconds,failure
0.5,True,61035,0.98765,0.9801,123456.78,
2.0,False,5366010,,,,out of memory
"""


@pytest.fixture
def draw(tmp_path):
    """A function: (name, fields of its summary) -> the folder of a drawn figure."""

    def write(name="figure4_mnist", **fields):
        folder = tmp_path / "figures" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").write_text(
            json.dumps({**SUMMARY, "name": name, **fields})
        )
        svg = "<svg xmlns='http://www.w3.org/2000/svg'/>"
        (folder / f"{name}.svg").write_text(svg)
        (folder / f"{name}.csv").write_text(POINTS)
        (folder / "runs.csv").write_text(RUNS)
        return folder

    return write


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (60, "<caption>Points</caption>"),
        (61, "<summary>All 61 points</summary>"),
        (2001, "Its 2001 points are in its folder's CSV file."),
    ],
)
def test_many_points_are_folded_or_left_to_their_file(draw, report, count, said):
    """Those of curves; small ones are in powers of ten where decimals would not show
    them."""
    folder = draw()
    rows = [f"SGD,{i},{10.0 ** -(i % 20)},,1,,,0" for i in range(count)]
    header = POINTS.splitlines()[0].replace("num_params", "epoch")
    (folder / "figure4_mnist.csv").write_text("\n".join([header, *rows]))
    page, _ = report()
    assert said in page
    assert ("1.0e-19" in page) == (count <= 2000)
    assert (f"All {count} points" in page) == (count == 61)


@pytest.fixture
def report(tmp_path, capsys):
    """A function: () -> (the page, what was printed)."""

    def write():
        assert command.main(["report", "--run_dir", str(tmp_path)]) == 0
        path = tmp_path / "figures" / "report.html"
        return path.read_text(encoding="utf-8"), capsys.readouterr().out

    return write


def text_of(page: str) -> str:
    """The words of a page, in order."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def test_figures_are_in_natural_order_with_links(draw, report, tmp_path):
    """figure4 comes before figure16, in the list at the top and in the page."""
    for name in ("figure16_mlp", "figure4_mnist"):
        draw(name, title=f"About {name}")
    page, out = report()
    assert out == f"Report of 2 figures: {tmp_path}/figures/report.html\n"
    names = ["figure4_mnist", "figure16_mlp"]
    assert re.findall(r'href="#([^"]*)"', page) == names
    assert re.findall(r'<section id="([^"]*)"', page) == names
    assert re.findall(r"<h2>(.*?)</h2>", page) == [f"About {name}" for name in names]


def test_a_changed_study_is_named_as_such(draw, report):
    """A picture of other data than the title's says so."""
    draw(changes="--dataset fashion_mnist")
    assert "with --dataset fashion_mnist." in text_of(report()[0])
    draw(changes="")
    assert "val_accuracy." in text_of(report()[0])


def test_every_number_is_in_the_page(draw, report):
    """The cells of both CSV files, exactly, and short enough to be read: errors with
    the decimals of their means, options as they were given; a column without anything
    to say is left out."""
    draw()
    page, _ = report()
    values = re.findall(r'<data value="([^"]*)">([^<]*)</data>', page)
    for pair in [
        ("61035", "61,035"),
        ("-0.012345678", "-0.01235"),
        ("0.0456789", "0.04568"),
        ("0.0023", "0.00230"),
        ("0.98765", "0.9877"),
        ("0.5", "0.5"),
        ("123456.78", "123,457"),
    ]:
        assert pair in values
    assert "is best rho" not in page
    assert "out of memory" in page


def test_the_page_says_what_the_summary_says(draw, report):
    """Correlation, counts, time, options, versions and machine; of the options, none
    of where and how the runs were done."""
    draw()
    words = text_of(report()[0])
    for said in (
        "is 0.90, its 95 % bootstrap interval 0.25 to 1.00.",
        "4 of 4 finished",
        "1:02:05",
        "width_mult [0.5,2]",
        "sam [true,false]",
        "batch_size 64",
        "lr_milestones [0.5,0.75]",
        "python 3.12.1",
        "x86_64, 2 cores; cpu:0",
        "2030-01-02 03:04",
    ):
        assert said in words
    for left_out in ("secret", "tracking_uri", "workers", "gpus_per_run", "depth"):
        assert left_out not in words


@pytest.mark.parametrize(
    "correlation", [None, {"value": float("nan"), "low": None, "high": None}]
)
def test_an_unknown_correlation_is_not_mentioned(draw, report, correlation):
    """Of too few sizes there is none, and of equal gains it is not a number."""
    draw(correlation=correlation)
    assert "correlation" not in report()[0]


def test_notes_and_the_conclusion_are_in_the_page(draw, report):
    """What marks mean, and whether SAM helps, which says the correlation too."""
    draw(
        notes=["Band: ± one standard error."], conclusion=["SAM helps.", "It is 0.90."]
    )
    words = text_of(report()[0])
    assert "Band: ± one standard error." in words
    assert "SAM helps. It is 0.90." in words
    assert "Spearman" not in words


def test_a_changed_figure_is_beside_the_unchanged_one(draw, report):
    """In a folder of its own, whose files have the picture's name."""
    draw()
    draw().rename(draw().with_name("figure4_mnist__seed=0,1"))
    draw()
    page, _ = report()
    names = ["figure4_mnist", "figure4_mnist__seed=0,1"]
    assert re.findall(r'<section id="([^"]*)"', page) == names
    links = re.findall(r'href="#([^"]*)"', page)
    assert [urllib.parse.unquote(link) for link in links] == names


def test_failures_are_shown_as_text(draw, report):
    """A failure's text is neither hidden nor taken for HTML, and is counted."""
    draw(finished=3, failures=["<script>alert('x')</script> & worse"], title="a < b")
    page, _ = report()
    assert "<script" not in page
    assert "1 of 4 runs failed or is missing" in page
    assert "<script>alert('x')</script> & worse" in html.unescape(page)
    assert "<h2>a &lt; b</h2>" in page
    assert "(3 of 4 runs finished)" in text_of(page)


def test_the_page_needs_no_other_file(draw, report):
    """Pictures are in it, each with a text instead, and nothing is loaded."""
    draw()
    page, _ = report()
    (picture,) = re.findall(r"<img [^>]*>", page)
    assert 'src="data:image/svg+xml;base64,' in picture
    assert 'alt="Plot of figure4_mnist: Gain by size.' in picture
    links = re.findall(r"""(?:src|href)=["']?([^"'\s>]*)""", page)
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"<link|<script|@import|url\(", page)


def test_a_second_report_replaces_the_first(draw, report, tmp_path):
    """The page is of what is drawn now, and no other file is left."""
    draw(title="The old title")
    assert "The old title" in report()[0]
    draw(title="The new title")
    page, out = report()
    assert "The new title" in page
    assert "The old title" not in page
    assert out.startswith("Report of 1 figure: ")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "figure4_mnist",
        "report.html",
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--run_dri", "x"], ["unknown option --run_dri", "did you mean --run_dir"]),
        (["--preset=small"], ["unknown option --preset", "--help"]),
        (["--run_dir"], ["--run_dir needs a value"]),
        (
            ["--run_dir", "/nonexistent"],
            ["/nonexistent has no figures", "figure1_synthetic.yaml --preset small"],
        ),
    ],
)
def test_bad_options_are_refused_in_one_line(capsys, options, words):
    """The line says what is wrong, and how to get a figure if there is none."""
    assert command.main(["report", *options]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("summary.json", '{"name": "fig', "Unterminated string"),
        ("summary.json", "[]", "it holds no fields"),
        ("summary.json", '{"name": "", "title": ""}', "its changes is missing"),
        ("figure4_mnist.csv", "a,b\n1\n", "its rows differ in length"),
        ("figure4_mnist.svg", None, "No such file"),
    ],
)
def test_damaged_files_are_named(draw, tmp_path, capsys, name, text, reason):
    """One line with the file and what is wrong with it; the last page stays."""
    path = draw() / name
    page = tmp_path / "figures" / "report.html"
    page.write_text("the last page")
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    assert command.main(["report", "--run_dir", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"cannot use {path}, draw its figure again: " in message
    assert reason in message
    assert page.read_text() == "the last page"


def test_a_report_starts_no_backend(draw, tmp_path):
    """It is written in a moment: neither keras nor a backend is loaded. So is help."""
    draw()
    script = (
        "import sys, run\n"
        f"run.main(['report', '--run_dir', {str(tmp_path)!r}])\n"
        "try: run.main(['report', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'keras', 'jax', 'tensorflow', 'mlflow', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "usage: python run.py report" in done.stdout
