"""Runs that are over, measured: `--measure`, and `python run.py analyze`."""

import argparse
import dataclasses
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from samkeras.errors import InputError, nearest
from samkeras.experiment.options.config import varied_fields
from samkeras.experiment.options.fields import Measures, PositiveInt, parse_option
from samkeras.experiment.options.groups import Measuring
from samkeras.experiment.options.measures import AFTER, ALONG, MEASURES, NUMBERS
from samkeras.experiment.runs.result import SIZES, Result
from samkeras.experiment.runs.run import Run
from samkeras.experiment.runs.saved import SavedRun, Which, load_run
from samkeras.experiment.studies import tables
from samkeras.experiment.tracking.record import Tracker
from samkeras.experiment.tracking.tracker import MLflowTracker

if TYPE_CHECKING:  # it imports keras, which a command that has nothing to do needs not
    from samkeras.experiment.runs.measuring import Entry

MAX_PANELS = 8
USAGE = "python run.py analyze RUN_FOLDER ... --measure NAME,NAME [--option value] ..."


def find_missing(run: Run, result: Result) -> list[str]:
    """The measures that a finished run was to have of its last epoch, but for those
    that it has taken along its training."""
    options = Measuring.of(run.config)
    if result.failure is not None:
        return []
    if options.measure_every is None:
        return [*options.measure]
    return [name for name in options.measure if name in AFTER]


def measure_results(
    folders: Mapping[int, Path],
    results: dict[int, Result],
    tracker: Tracker,
    verbose: int,
) -> bool:
    """Measures a study's finished runs, as far as they are not yet, and adds what comes
    out to their results.

    Args:
        folders: of the runs that are to be measured, by position.
        results: of all of them, by position.
        tracker: records them.
        verbose: 0: say nothing but what is wrong.

    Returns:
        Whether all could be measured.
    """
    varied = varied_fields(result.config for result in results.values())
    is_whole = True
    with _progress(len(folders), verbose) as progress:
        for position, folder in folders.items():
            result = results[position]
            run, options = Run(result.config), Measuring.of(result.config)
            label, names = tables.label(run, varied), find_missing(run, result)
            try:
                found = _measure(load_run(folder), names, "last", options, tracker)
            except InputError as error:
                found = Found({}, is_whole=False)
                progress.say(f"{label} cannot be measured: {error}")
            else:
                progress.end(label, found)
            is_whole &= found.is_whole
            numbers = {**result.numbers, **found.numbers}
            results[position] = dataclasses.replace(result, numbers=numbers)
    return is_whole


class Found(NamedTuple):
    """What is measured of a run."""

    numbers: dict[str, float]
    entries: "Sequence[Entry]" = ()
    new: Sequence[str] = ()
    """the measures that were not taken before"""
    is_whole: bool = True
    """whether all could be taken"""


def _measure(
    saved: SavedRun,
    names: Sequence[str],
    which: Which,
    options: Measuring,
    tracker: Tracker,
) -> Found:
    """Measures a run, and records what is new.

    Raises:
        InputError: it cannot be measured.
    """
    from samkeras.experiment.runs.measuring import measure_run, record

    entries, new = measure_run(saved, names, which, options.measure_examples)
    numbers = {k: v for entry in entries for k, v in entry.numbers.items()}
    with tracker.amend(saved.folder) as logger:
        record(logger, entries)
        for entry in entries:
            if entry.measure in new and entry.measure == "spectrum":
                path = (saved.folder / entry.file).with_suffix(".png")
                _draw_spectra([(saved.run.title, saved, entry)], path)
                logger.log_file(path)
    is_whole = all(entry.numbers or entry.file for entry in entries)
    return Found(numbers, entries, new, is_whole)


def _draw_spectra(found: "Sequence[tuple[str, SavedRun, Entry]]", path: Path) -> None:
    """Draws the spectra of runs, each with its title."""
    from samkeras.experiment.studies.spectra import Spectrum, draw_spectra

    spectra: list[Spectrum] = []
    for title, saved, entry in found:
        with np.load(saved.folder / entry.file) as arrays:
            spectra.append(Spectrum(title, arrays["values"], arrays["weights"]))
    draw_spectra(spectra, path)


class _Progress:
    """Says how far the measuring is."""

    def __init__(self, count: int, verbose: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Rest

        self._verbose = verbose
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), Rest())
        is_shown = verbose > 0 and sys.stdout.isatty()
        self.bar = Progress(
            *columns, console=self._console, transient=True, disable=not is_shown
        )
        self._task = self.bar.add_task("", total=count)

    def say(self, line: str) -> None:
        print(f"run.py: {line}", file=sys.stderr)
        self.bar.advance(self._task)

    def end(self, label: str, found: Found) -> None:
        """Says what was measured of a run, if that is new."""
        self.bar.advance(self._task)
        new = [entry for entry in found.entries if entry.measure in found.new]
        what = [
            f"{name} {value:.4g}"
            for entry in new
            for name, value in entry.numbers.items()
        ]
        if self._verbose and what:
            seconds = sum(entry.seconds for entry in new)
            self._console.print(f"{label}: {', '.join(what)} ({seconds:.1f} s)")
        for note in (note for entry in found.entries for note in entry.notes):
            print(f"run.py: {label}: {note}", file=sys.stderr)


@contextmanager
def _progress(count: int, verbose: int) -> Iterator[_Progress]:
    progress = _Progress(count, verbose)
    with progress.bar:
        yield progress


def analyze(arguments: list[str]) -> int:
    """Measures runs that are over, from their folders. `--help` prints and exits.

    Args:
        arguments: of the command line.

    Returns:
        The exit code, 1 if something could not be measured.

    Raises:
        InputError: an option is wrong, or a folder holds no finished run.
    """
    folders, which, options = _parse(arguments)
    runs = [load_run(folder) for folder in folders]
    trackers = {saved.place: MLflowTracker(*saved.place) for saved in runs}
    varied = varied_fields(saved.config for saved in runs)
    found: list[tuple[SavedRun, Found]] = []
    is_whole = True
    with _progress(len(runs), 1) as progress:
        for saved in runs:
            label, tracker = tables.label(saved.run, varied), trackers[saved.place]
            try:
                of = _measure(saved, options.measure, which, options, tracker)
            except InputError as error:
                is_whole = False
                progress.say(f"{label} cannot be measured: {error}")
                continue
            progress.end(label, of)
            found.append((saved, of))
            is_whole &= of.is_whole
    for tracker in trackers.values():
        tracker.close()
    by_workload: dict[str, list[Result]] = {}
    for saved, of in found:
        result = _as_result(saved, of)
        by_workload.setdefault(str(saved.config.target), []).append(result)
    for results in by_workload.values():
        tables.print_measured(results)
    _draw_together(found, varied)
    if found:
        print(_describe([entry for _, of in found for entry in of.entries], which))
    return 0 if is_whole else 1


def _draw_together(
    found: Sequence[tuple[SavedRun, Found]], varied: Iterable[str]
) -> None:
    """Draws what is best seen side by side, beside the runs' folders."""
    spectra = [
        (tables.label(saved.run, varied), saved, entry)
        for saved, of in found
        for entry in of.entries
        if entry.measure == "spectrum" and entry.file
    ]
    if 1 < len(spectra) <= MAX_PANELS:
        names = sorted(saved.folder.resolve().name for _, saved, _ in spectra)
        digest = hashlib.sha256(" ".join(names).encode()).hexdigest()[:8]
        folder = spectra[0][1].folder.resolve().parent / "figures"
        folder.mkdir(exist_ok=True)
        path = folder / f"spectrum_{digest}.png"
        _draw_spectra(spectra, path)
        print(f"The spectra side by side: {path}")


def _as_result(saved: SavedRun, found: Found) -> Result:
    own = {k: v for k, v in saved.numbers.items() if k not in NUMBERS}
    num_params, num_nonzero = (int(own[name]) for name in SIZES)
    numbers = {**own, **found.numbers}
    return Result(saved.config, num_params, num_nonzero, numbers)


def _describe(entries: "Sequence[Entry]", which: str) -> str:
    """What was measured, in a sentence."""
    counts = sorted({entry.about["num_examples"] for entry in entries})
    types = sorted({entry.about["dtype"] for entry in entries})
    examples = " or ".join(f"{count:,}" for count in counts)
    return (
        f"Measured at the {which} epoch's weights, on {examples} training examples, in "
        f"{' and '.join(types)}, without dropout, augmentation or weight decay."
    )


def _parse(arguments: list[str]) -> tuple[list[Path], Which, Measuring]:
    parser = argparse.ArgumentParser(
        prog="run.py analyze",
        usage=USAGE,
        description="Measures finished runs, from their folders.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    add = parser.add_argument
    add("folders", nargs="*", metavar="RUN_FOLDER", help="such as runs/NAME")
    text = f"what to measure: {', '.join(n for n in MEASURES if n not in ALONG)}"
    add("--measure", metavar="NAME,NAME", help=text)
    text = "of which epoch: last or best (default: last)"
    add("--weights", metavar="{last|best}", default="last", help=text)
    text = "on the first N training examples (default: 5000)"
    add("--examples", metavar="N", default="5000", help=text)
    try:
        given, unknown = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise InputError(f"{error.argument_name} needs a value") from None
    if unknown:
        name = unknown[0].partition("=")[0]
        known = ("--measure", "--weights", "--examples", "--help")
        raise InputError(
            f"unknown option {name}{nearest(name, known) or '; see --help'}"
        )
    if not given.folders:
        raise InputError(f"analyze needs the folder of a run, such as: {USAGE}")
    if given.measure is None:
        raise InputError(
            f"analyze needs --measure {','.join([*MEASURES][:2])} or others"
        )
    names = parse_option("--measure", given.measure, Measures)
    for name in names:
        if name in ALONG:
            raise InputError(
                f"{name} can only be measured along a training: --measure {name} "
                "--measure_every N of its command"
            )
    if given.weights not in ("last", "best"):
        raise InputError(
            f"--weights must be one of last, best. Received: {given.weights}"
            f"{nearest(given.weights, ('last', 'best'))}"
        )
    examples = parse_option("--examples", given.examples, PositiveInt)
    options = Measuring(measure=names, measure_examples=examples)
    return [Path(each) for each in given.folders], given.weights, options
