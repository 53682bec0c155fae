"""The report: one page of all figures that are drawn, to send to others."""

import argparse
import base64
import csv
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from samkeras.errors import InputError, nearest
from samkeras.experiment.options.parsing import SESSION_FIELDS
from samkeras.experiment.options.targets import numbers_as_such
from samkeras.experiment.options.values import as_text
from samkeras.files import replace_file

EXAMPLE = "python run.py configs/figures/figure1_synthetic.yaml --preset small"
# What the page takes from a summary.json.
SUMMARY = {
    "title": str,
    "changes": str,
    "workload": str,
    "monitor": str,
    "drawn_at": str,
    "runs": int,
    "finished": int,
    "failures": list,
    "training_seconds": (int, float),
    "correlation": (dict, type(None)),
    "varied": dict,
    "config": dict,
    "backend": str,
    "versions": dict,
    "machine": dict,
}


def write_report(arguments: list[str]) -> int:
    """Writes RUN_DIR/figures/report.html: every figure drawn there, in one file that
    needs no other. `--help` prints and exits.

    Args:
        arguments: `--run_dir DIR` or nothing.

    Returns:
        The exit code, 0.

    Raises:
        InputError: an option is wrong, no figure is drawn or one of its files is
            damaged.
    """
    run_dir = _parse(arguments)
    drawn = (run_dir / "figures").glob("*/summary.json")
    folders = sorted((path.parent for path in drawn), key=numbers_as_such)
    if not folders:
        raise InputError(
            f"{run_dir} has no figures; draw one, such as: {EXAMPLE} "
            f"--run_dir {shlex.quote(str(run_dir))}"
        )
    count = "1 figure" if len(folders) == 1 else f"{len(folders)} figures"
    page = _render([_read_figure(folder) for folder in folders], count)
    path = run_dir / "figures" / "report.html"
    try:
        replace_file(path, page.encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    print(f"Report of {count}: {path}")
    return 0


def _parse(arguments: list[str]) -> Path:
    parser = argparse.ArgumentParser(
        prog="python run.py report",
        description="Gathers the figures that are drawn in one HTML page.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument(
        "--run_dir",
        metavar="DIR",
        default="runs",
        help="directory of the runs' files (default: %(default)s)",
    )
    try:
        given, unknown = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        raise InputError("--run_dir needs a value") from None
    if unknown:
        name = unknown[0].partition("=")[0]
        hint = nearest(name, ("--run_dir", "--help")) or "; see --help"
        raise InputError(f"unknown option {name}{hint}")
    return Path(given.run_dir)


def _read_figure(folder: Path) -> dict[str, Any]:
    """What the page says of a figure: its summary and files."""
    summary = _read_summary(folder / "summary.json")
    config = {
        name: value
        for name, value in summary["config"].items()
        if name not in (*SESSION_FIELDS, "data_dir") and value is not None
    }
    picture = folder / f"{folder.name}.svg"
    with _naming(picture):
        data = base64.b64encode(picture.read_bytes()).decode()
    points = _read_csv(folder / f"{folder.name}.csv")
    return {
        **summary,
        "name": folder.name,
        "config": config,
        "picture": f"data:image/svg+xml;base64,{data}",
        # Not what is empty, such as the standard errors of one seed.
        "points": {k: v for k, v in points.items() if {*v} - {"", "False"}},
        "all_runs": _read_csv(folder / "runs.csv"),
    }


def _read_summary(path: Path) -> dict[str, Any]:
    with _naming(path):
        # The correlation of gains that are all the same is not a number.
        summary = json.loads(path.read_text(), parse_constant=lambda _: None)
        if not isinstance(summary, dict):
            raise ValueError("it holds no fields")
        for name, kind in SUMMARY.items():
            if not isinstance(summary.get(name, ...), kind):
                raise ValueError(f"its {name} is missing or wrong")
    return summary


def _read_csv(path: Path) -> dict[str, list[int | float | str]]:
    """The columns of a table, numbers as such."""
    with _naming(path), open(path, newline="") as file:
        header, *rows = csv.reader(file, strict=True)
        if any(len(row) != len(header) for row in rows):
            raise ValueError("its rows differ in length")
        return {
            name: [_parse_cell(row[i]) for row in rows] for i, name in enumerate(header)
        }


def _parse_cell(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Says in one line which file is missing or damaged."""
    try:
        yield
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(
            f"cannot use {path}, draw its figure again: {reason}"
        ) from None


def _render(figures: list[dict[str, Any]], count: str) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        duration=_duration, moment=_moment, option=as_text, rounded=_rounded
    )
    template = environment.get_template("report.html.j2")
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return template.render(figures=figures, count=count, now=now, zip=zip)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _moment(iso: str) -> str:
    return iso[:16].replace("T", " ")


def _rounded(number: float) -> str:
    if isinstance(number, int):
        return f"{number:,}"
    return f"{number:.5g}" if abs(number) < 1e5 else f"{number:,.0f}"
