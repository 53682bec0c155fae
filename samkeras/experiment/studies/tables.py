"""What is printed of runs: what came out."""

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console

from samkeras.experiment.options.config import varied_fields
from samkeras.experiment.options.measures import FLAGS, MEASURES
from samkeras.experiment.options.values import (
    as_text,
    count_decimals,
    with_decimals,
)
from samkeras.experiment.runs.result import Result
from samkeras.experiment.runs.run import Run
from samkeras.experiment.studies.comparison import (
    RULE_FIELDS,
    Comparison,
    Estimate,
    Rule,
    compare,
    estimate,
    find_rule,
    named,
)
from samkeras.experiment.studies.conclusion import (
    caution,
    conclude,
    decimals_of,
    join,
    with_error,
)
from samkeras.experiment.studies.picture import VALUES

MAX_LISTED = 24  # runs, each in a row of its own
MAX_ROWS = 40  # of means
FAILED = "FAILED"

Columns = dict[str, list[str]]


def print_table(results: list[Result], num_runs: int, verbose: int) -> None:
    """What came out: a row a run where they are few, the means over seeds with SAM's
    gains, and whether SAM helps.

    Args:
        results: of the runs that were trained, failed ones included.
        num_runs: how many there were to train.
        verbose: 2: all of it, however much.
    """
    if not results:
        return
    workload = results[0].config.target.load()
    comparisons = compare(results, workload.mode)
    console = _console()
    has_gains = any(c.gains() for c in comparisons)
    is_folded = any(len(of) > 1 for c in comparisons for of in c.runs.values())
    # Without seeds to take means of, a row of means is one of a run.
    has_rows = len(results) <= MAX_LISTED and (is_folded or not has_gains)
    if verbose == 2 or has_rows:
        _print_columns(console, *_list_runs(results, workload.monitor))
    if comparisons and (has_gains or is_folded or not has_rows):
        _print_means(console, comparisons, workload.monitor, verbose)
    for sentence in describe(results, num_runs, comparisons, workload.monitor):
        console.print(sentence)


def describe(
    results: Sequence[Result],
    num_runs: int,
    comparisons: Sequence[Comparison],
    monitor: str,
) -> list[str]:
    """What runs say, in sentences: whether SAM helps comes last."""
    num_failed = sum(result.failure is not None for result in results)
    counts = {"failed": num_failed, "are not trained yet": num_runs - len(results)}
    missing = [f"{count} {what}" for what, count in counts.items() if count]
    lacking = [f"Of {num_runs} runs {join(missing)}."] if missing else []
    return [*lacking, *caution(comparisons), *conclude(comparisons, monitor)]


def _list_runs(
    results: Sequence[Result], monitor: str
) -> tuple[Columns, list[str], list[str]]:
    """A row a run, which columns may be folded, and which may be left out."""
    varied = varied_fields(result.config for result in results)
    heads = ["width_mult", "parameters"]
    if any(result.config.is_pruned for result in results):
        heads.append("non-zero")
    last = ["sam", "rho", *(["seed"] if "seed" in varied else [])]
    heads += [name for name in varied if name not in (*heads, *last)]
    names = [*heads, *last]
    done = [result for result in results if result.failure is None]
    decimals = count_decimals(result.best for result in done)
    reported = [f"{value}\n{monitor}" for value in VALUES]
    columns: Columns = {name: [] for name in (*names, *reported, "time")}
    for result in results:
        values = result.config.result_fields
        values.update(dict.fromkeys(result.config.unused))
        sizes = {"parameters": result.num_params, "non-zero": result.num_nonzero}
        # A model that cannot be built has none.
        values.update({name: f"{size:,}" for name, size in sizes.items() if size})
        values.update(dict.fromkeys(reported, FAILED))
        if result.failure is None:
            numbers = (with_decimals(getattr(result, v), decimals) for v in VALUES)
            values.update(zip(reported, numbers, strict=True))
            values["time"] = f"{result.seconds:.1f} s"
        for name, cells in columns.items():
            cells.append(cell(values.get(name)))
    return columns, heads, ["parameters", "non-zero", "time"]


def _print_means(
    console: Console, comparisons: Sequence[Comparison], monitor: str, verbose: int
) -> None:
    """Prints a row of means for each model without SAM and at each rho; only the best
    ones of very many."""
    num_rows = sum(len(c.runs) for c in comparisons)
    is_whole = verbose == 2 or num_rows <= MAX_ROWS
    columns = _list_means(comparisons, monitor, is_whole)
    heads = [*comparisons[0].fields, "parameters", "non-zero"]
    spare = ["time", "gain in\nfinal", f"final\n{monitor}"]
    if not any(c.is_apart for c in comparisons):
        spare += ["parameters", "non-zero"]
    note = (
        "A gain > 0 is an improvement." if any(c.gains() for c in comparisons) else ""
    )
    if any(len(c.by_rule) > 1 for c in comparisons):
        note += " * SAM at its best"
        note += "." if is_whole else "; --verbose 2 shows the others."
    _print_columns(console, columns, heads, spare, note)


def _list_means(
    comparisons: Sequence[Comparison], monitor: str, is_whole: bool
) -> Columns:
    names = [
        name for name in RULE_FIELDS if name == "rho" or _varies(comparisons, name)
    ]
    decimals = decimals_of(comparisons)
    heads = [*comparisons[0].fields, "parameters"]
    if any(c.num_nonzero < c.num_params for c in comparisons):
        heads.append("non-zero")
    reported = [f"{value}\n{monitor}" for value in VALUES]
    gained = [f"gain in\n{value}" for value in VALUES]
    pairs = [name for both in zip(reported, gained, strict=True) for name in both]
    columns: Columns = {n: [] for n in (*heads, *names, "seeds", *pairs, "time")}
    for c in comparisons:
        place = {name: cell(value) for name, value in c.fields.items()}
        place["parameters"] = f"{c.num_params:,}"
        place["non-zero"] = f"{c.num_nonzero:,}"
        for rule, runs in c.runs.items():
            if not is_whole and rule not in (None, c.rule):
                continue
            row = place | _name_rule(c, rule)
            lacking = [r for r in c.unfinished if rule == find_rule(r.config)]
            row["seeds"] = f"{len(runs)}"
            if lacking:
                row["seeds"] += f" of {len(runs) + len(lacking)}"
            for value, number, gain in zip(VALUES, reported, gained, strict=True):
                found = estimate(getattr(result, value) for result in runs.values())
                row[number] = with_error(found, decimals)
                if rule in c.by_rule:
                    gains = estimate(c.gains(value, rule))
                    row[gain] = with_error(gains, decimals, "+")
            if seconds := estimate(result.seconds for result in runs.values()):
                row["time"] = f"{seconds.mean:.1f} s"
            for name, cells in columns.items():
                cells.append(row.get(name, ""))
            place = {}  # is said once
    return columns


def print_measured(results: Sequence[Result]) -> None:
    """What was measured of runs: a table a measure, of means over seeds, with a row for
    each model without SAM and at each rho. Numbers that have not converged, in one of
    the seeds, are marked.

    Args:
        results: of one workload; those that were not measured have no cells.
    """
    if not results:
        return
    comparisons = compare(results, results[0].config.target.load().mode)
    rules = [
        name for name in RULE_FIELDS if name == "rho" or _varies(comparisons, name)
    ]
    heads = [*comparisons[0].fields] if comparisons else []
    for measure, numbers in MEASURES.items():
        names = [
            name
            for name in numbers
            if name not in FLAGS.values()
            and any(result.number(name) is not None for result in results)
        ]
        is_marked = False
        columns: Columns = {name: [] for name in (*heads, *rules, "seeds", *names)}
        for c in comparisons if names else ():
            place = {name: cell(value) for name, value in c.fields.items()}
            for rule, runs in c.runs.items():
                row = place | {"rho": "no SAM", "seeds": f"{len(runs)}"}
                if rule is not None:
                    row |= {name: cell(value) for name, value in named(rule).items()}
                flags = [r.number(FLAGS.get(measure, "")) for r in runs.values()]
                mark = " *" if 0 in flags else ""
                is_marked |= bool(mark)
                for name in names:
                    found = [result.number(name) for result in runs.values()]
                    mean = estimate(value for value in found if value is not None)
                    row[name] = _in_digits(mean) + (mark if mean else "")
                for name, cells in columns.items():
                    cells.append(row.get(name, ""))
                place = {}  # is said once
        if names:
            note = "* has not converged." if is_marked else ""
            _print_columns(_console(), columns, heads, (), note)


def _in_digits(found: Estimate | None) -> str:
    """A mean to four digits, and its standard error."""
    if found is None:
        return ""
    error = "" if found.error is None else f" ± {found.error:.2g}"
    return f"{found.mean:.4g}{error}"


def _varies(comparisons: Sequence[Comparison], name: str) -> bool:
    """Whether a rule's value differs, in a comparison or between those that have it."""
    values = [{named(rule)[name] for rule in c.by_rule} for c in comparisons]
    known = set[object]().union(*values) - {None}
    return len(known) > 1 or any(len(own) > 1 for own in values)


def _name_rule(c: Comparison, rule: Rule | None) -> dict[str, str]:
    """The cells of a rule's values, of the best one with a mark."""
    if rule is None:
        return {"rho": "no SAM"}
    cells = {name: cell(value) for name, value in named(rule).items()}
    if rule == c.rule and len(c.by_rule) > 1:
        cells["rho"] += " *"
        for name in c.edges:
            cells[name] += " edge"
    return cells


def _print_columns(
    console: Console,
    columns: Columns,
    heads: Iterable[str],
    spare: Iterable[str],
    note: str = "",
) -> None:
    """Prints a table and a note. Where it is wider than the console, it is without
    those of the spare columns that are too many; if that is not enough, what its first
    columns say stands in lines of its own."""
    titles = [""] * len(columns["rho"])
    kept = _drop(columns, spare, console.width)
    if _measure(kept) > console.width:
        pairs = [(name, columns.pop(name)) for name in heads if name in columns]
        for i in range(len(titles)):
            shown = (f"{name} {cells[i]}" for name, cells in pairs if cells[i])
            titles[i] = ", ".join(shown)
        kept = _drop(columns, spare, console.width)
    above, below, rule, *rows = format_columns(kept)
    for line in (*([above] if above else []), below, rule):
        console.print(line, soft_wrap=True)
    last = ""
    for title, row in zip(titles, rows, strict=True):
        if title not in ("", last):
            console.print(title)
            last = title
        console.print(row, soft_wrap=True)
    left_out = [" ".join(name.split()) for name in columns if name not in kept]
    if left_out:
        note += f" A wider terminal shows {join(left_out)}."
    if note:
        console.print(note.strip())
    console.print()


def _drop(columns: Columns, spare: Iterable[str], width: int) -> Columns:
    """The columns without those of the spare ones, the first ones first, that are too
    many for a width."""
    kept = dict(columns)
    for name in spare:
        if _measure(kept) > width:
            kept.pop(name, None)
    return kept


def _measure(columns: Columns) -> int:
    return len(format_columns(columns)[2])


def format_columns(columns: Columns) -> list[str]:
    """The lines of a table: two of its head, one beneath, and its rows."""
    aligned: list[list[str]] = []
    for name, cells in columns.items():
        above, _, below = name.rpartition("\n")
        width = max(map(len, (above, below, *cells)))
        of_numbers = all(text[:1] in "+-0123456789" for text in cells if text != FAILED)
        side = ">" if of_numbers else "<"
        texts = (above, below, "-" * width, *cells)
        aligned.append([f"{text:{side}{width}}" for text in texts])
    return ["  ".join(row).rstrip() for row in zip(*aligned, strict=True)]


def _console() -> Console:
    # A table in a pipe or a log is as wide as it needs to be.
    width = None if sys.stdout.isatty() else 200
    return Console(highlight=False, markup=False, width=width)


def label(run: Run, varied: Iterable[str]) -> str:
    """What sets a run apart from those from which it differs in some of the fields
    that vary; of one run, its name."""
    values, unused = run.config.result_fields, run.config.unused
    pairs = [f"{name}={cell(values[name])}" for name in varied if name not in unused]
    return " ".join(pairs) or run.name


def cell(value: object) -> str:
    """A value as tables and labels show it."""
    return "" if value is None else as_text(value)
