"""The report: one page of all figures that are drawn, to send to others."""

import argparse
import base64
import csv
import json
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from samkeras.errors import InputError, nearest
from samkeras.experiment.options.parsing import SESSION_FIELDS
from samkeras.experiment.options.targets import default_run_dir, numbers_as_such
from samkeras.experiment.options.values import as_text, count_decimals
from samkeras.experiment.place import COMMAND
from samkeras.files import replace_file

EXAMPLE = f"{COMMAND} configs/figures/figure1_synthetic.yaml --preset small"
MAX_POINTS = 2000  # in the page
Value = int | float | str
Columns = dict[str, list[Value]]
# What the page takes from a summary.json.
SUMMARY = {
    "name": str,
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
        prog=f"{COMMAND} report",
        description="Gathers the figures that are drawn in one HTML page.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument(
        "--run_dir",
        metavar="DIR",
        default=default_run_dir(),
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
    data = "" if summary.get("table") else _read_picture(folder, summary["name"])
    points = _read_csv(folder / f"{summary['name']}.csv")
    # An error has as many decimals as its mean, which is two columns before it.
    names = [*points]
    alike = (names[2:4],) if "standard_error" in names[3:4] else ()
    # Not what is empty, such as the standard errors of one seed.
    points = {k: v for k, v in points.items() if {*v} - {"", "False"}}
    num_points = max(map(len, points.values()), default=0)
    runs = _read_csv(folder / "runs.csv")
    exact = {
        *summary["varied"],
        "rho",
        "best_rho",
    }  # options, which are as they were given
    return {
        # Summaries of earlier versions have none of these.
        "notes": [],
        "conclusion": [],
        **summary,
        # As text, of which no number is made.
        "table": {
            " ".join(name.split()): [(text, text) for text in texts]
            for name, texts in summary.get("table", {}).items()
        },
        "name": folder.name,
        "config": config,
        "picture": data,
        "num_points": num_points,
        "points": _shown(points, exact, alike) if num_points <= MAX_POINTS else {},
        "all_runs": _shown(runs, exact, (["best", "final"],)),
    }


def _read_picture(folder: Path, name: str) -> str:
    """A picture as an address that holds it."""
    path = folder / f"{name}.svg"
    with _naming(path):
        data = base64.b64encode(path.read_bytes()).decode()
    return f"data:image/svg+xml;base64,{data}"


def _shown(
    columns: Columns, exact: Collection[str], alike: Iterable[Sequence[str]]
) -> dict[str, list[tuple[Value, str]]]:
    """The columns of a table, each value with the text that is shown of it: numbers
    that were measured rounded, as many decimals for all that are alike."""
    decimals: dict[str, int] = {}
    for names in (*([name] for name in columns), *alike):
        values = [v for n in names for v in columns.get(n, ()) if isinstance(v, float)]
        decimals.update(dict.fromkeys(names, count_decimals(values)))

    def show(name: str, value: Value) -> str:
        if isinstance(value, int):
            return f"{value:,}"
        if isinstance(value, str):
            return value
        if name in exact:
            return as_text(value)
        shown = f"{value:,.{decimals[name]}f}"
        is_lost = value and not float(shown.replace(",", ""))
        return f"{value:.1e}" if is_lost else shown

    return {
        name: [(value, show(name, value)) for value in values]
        for name, values in columns.items()
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
        if not isinstance(summary.get("table", {}), dict):  # pictures have none
            raise ValueError("its table is wrong")
    return summary


def _read_csv(path: Path) -> Columns:
    """The columns of a table, numbers as such."""
    with _naming(path), open(path, newline="") as file:
        header, *rows = csv.reader(file, strict=True)
        if any(len(row) != len(header) for row in rows):
            raise ValueError("its rows differ in length")
        return {
            name: [_parse_cell(row[i]) for row in rows] for i, name in enumerate(header)
        }


def _parse_cell(text: str) -> Value:
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
    environment.filters.update(duration=_duration, moment=_moment, option=as_text)
    template = environment.get_template("report.html.j2")
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return template.render(figures=figures, count=count, now=now, zip=zip)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _moment(iso: str) -> str:
    return iso[:16].replace("T", " ")
