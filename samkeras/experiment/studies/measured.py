"""Runs that are over, measured: `--measure`, and `python run.py analyze`."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from samkeras.errors import InputError, nearest
from samkeras.experiment.options.config import varied_fields
from samkeras.experiment.options.fields import Measures, PositiveInt, parse_option
from samkeras.experiment.options.groups import Measuring
from samkeras.experiment.options.measures import (
    ALONG,
    FLAGS,
    MEASURES,
    NUMBERS,
    TOGETHER,
)
from samkeras.experiment.place import COMMAND, complain
from samkeras.experiment.runs.result import SIZES, Result
from samkeras.experiment.runs.run import Run
from samkeras.experiment.runs.saved import SavedRun, Which, load_run
from samkeras.experiment.studies import tables
from samkeras.experiment.studies.conclusion import join
from samkeras.experiment.studies.curves import find_files
from samkeras.experiment.studies.picture import SPECTRUM
from samkeras.experiment.tracking.record import Tracker
from samkeras.experiment.tracking.tracker import MLflowTracker

if TYPE_CHECKING:  # it imports keras, which a command that has nothing to do needs not
    from samkeras.experiment.runs.measuring import Entry

MAX_PANELS = 8
MAX_EXAMPLES = 1000  # of a landscape, which takes thousands of evaluations
USAGE = f"{COMMAND} analyze RUN_FOLDER ... --measure NAME,NAME [--option value] ..."


def find_names(options: Measuring) -> list[str]:
    """The measures that a run was to have of its last epoch, but for those that it has
    taken along its training."""
    if options.measure_every is not None:
        return []
    return [name for name in options.measure if name not in TOGETHER]


def asks_at_end(options: Measuring) -> bool:
    """Whether something is to be measured of a run that is over."""
    return bool(find_names(options)) or any(n in TOGETHER for n in options.measure)


def check(runs: Sequence[Run]) -> None:
    """Checks what can be known before runs are trained.

    Raises:
        InputError: what is to be drawn of them cannot be.
    """
    asked = [run for run in runs if "interpolation" in Measuring.of(run.config).measure]
    if asked and len(asked) != 2:
        raise InputError(
            f"--measure interpolation is between two runs. Received: {len(asked)}"
        )


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
    measured: list[Found] = []
    with _progress(len(folders), verbose) as progress:
        for position, folder in folders.items():
            result = results[position]
            label = tables.label(Run(result.config), varied)
            options = Measuring.of(result.config)
            names = find_names(options)
            try:
                found = _measure(
                    load_run(folder), label, names, "last", options, tracker
                )
            except InputError as error:
                is_whole = False
                progress.say(f"{label} cannot be measured: {error}")
                continue
            progress.end(found)
            is_whole &= found.is_whole
            measured.append(found)
            # What is measured anew may know less than the run has recorded before.
            names = {n for e in found.entries for n in MEASURES[e.measure]}
            known = {k: v for k, v in result.numbers.items() if k not in names}
            numbers = {**known, **found.numbers}
            results[position] = dataclasses.replace(result, numbers=numbers)
    options = Measuring.of(results[next(iter(folders))].config)
    return draw_together(measured, "last", options, tracker) and is_whole


class Found(NamedTuple):
    """What is measured of a run."""

    saved: SavedRun
    label: str
    """what sets it apart from the others"""
    entries: "Sequence[Entry]"
    new: Sequence[str]
    """the measures that were not taken before"""

    @property
    def numbers(self) -> dict[str, float]:
        return {k: v for entry in self.entries for k, v in entry.numbers.items()}

    @property
    def is_whole(self) -> bool:
        """Whether all could be taken."""
        return all(entry.numbers or entry.file for entry in self.entries)


def _measure(
    saved: SavedRun,
    label: str,
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
    with tracker.amend(saved.folder) as logger:
        usual = Measuring.of(saved.config).measure_examples
        record(logger, entries, usual)
    return Found(saved, label, entries, new)


def draw_together(
    found: Sequence[Found], which: Which, options: Measuring, tracker: Tracker
) -> bool:
    """Draws what is best seen side by side, beside the runs' folders, and records it
    with each of them. Returns whether all that was asked for could be drawn."""
    asked = [name for name in PICTURES if name in options.measure]
    if not asked or not found:
        return True
    if len(found) > MAX_PANELS:
        print(
            f"{len(found)} runs are too many for one picture of {join(asked)}; "
            f"`{COMMAND} analyze` draws those of up to {MAX_PANELS} runs."
        )
        return True
    is_whole = True
    for name in asked:
        try:
            paths = PICTURES[name](found, which, options.measure_examples)
        except InputError as error:
            is_whole = False
            complain(f"{name} cannot be drawn: {error}")
            continue
        for each in found:
            with tracker.amend(each.saved.folder) as logger:
                for path in paths:
                    logger.log_file(path)
        print(f"The {name} of the runs: {paths[0]}")
        if name in TOGETHER and options.measure_examples > MAX_EXAMPLES:
            print(f"It is of {MAX_EXAMPLES:,} examples of each part.")
    return is_whole


def _draw_spectra(
    found: Sequence[Found], which: Which, examples: int
) -> Sequence[Path]:
    from samkeras.experiment.studies.landscapes import name_folder
    from samkeras.experiment.studies.spectra import (
        Spectrum,
        choose_steps,
        draw_spectra,
        name_step,
    )

    spectra: list[Spectrum] = []
    for each in found:
        files = _find_spectra(each)
        for step in choose_steps(files):
            with np.load(files[step]) as arrays:
                values, weights = arrays["values"], arrays["weights"]
            place = ("", each.label)
            if len(files) > 1:
                place = (each.label, name_step(each.saved.config, step))
            spectra.append(Spectrum(*place, values, weights))
    if not spectra:
        raise InputError("none was measured")
    runs = [each.saved for each in found]
    folder = name_folder(runs, which, examples, None, 0)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"spectrum.{kind}" for kind in ("png", "svg")]
    draw_spectra(spectra, paths)
    return paths


def _find_spectra(found: Found) -> dict[int, Path]:
    """The files of a run's spectra by the step that they are of: that which was asked
    for, or those along its training."""
    folder, config = found.saved.folder, found.saved.config
    files = [entry.file for entry in found.entries if entry.measure == SPECTRUM]
    if files:  # none of one that could not be measured
        return {0: folder / files[0]} if files[0] else {}
    return find_files(folder, config, SPECTRUM)


def _draw_landscapes(
    found: Sequence[Found], which: Which, examples: int
) -> Sequence[Path]:
    from samkeras.experiment.studies.landscapes import draw_landscapes

    runs = [each.saved for each in found]
    return draw_landscapes(runs, which=which, examples=min(examples, MAX_EXAMPLES))


def _draw_interpolation(
    found: Sequence[Found], which: Which, examples: int
) -> Sequence[Path]:
    from samkeras.experiment.studies.landscapes import draw_interpolation

    if len(found) != 2:
        raise InputError(f"it is between two runs. Received: {len(found)}")
    first, second = (each.saved for each in found)
    count = min(examples, MAX_EXAMPLES)
    return draw_interpolation(first, second, which=which, examples=count)


# What is drawn of runs side by side.
PICTURES: dict[str, Callable[[Sequence[Found], Which, int], Sequence[Path]]] = {
    "spectrum": _draw_spectra,
    "landscape": _draw_landscapes,
    "interpolation": _draw_interpolation,
}


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
        complain(line)
        self.bar.advance(self._task)

    def end(self, found: Found) -> None:
        """Says what was measured of a run, if that is new."""
        self.bar.advance(self._task)
        new = [entry for entry in found.entries if entry.measure in found.new]
        what = [
            f"{name} {value:.4g}"
            for entry in new
            for name, value in entry.numbers.items()
            if name not in FLAGS.values()
        ]
        if self._verbose and what:
            seconds = sum(entry.seconds for entry in new)
            text = f"{found.label}: {', '.join(what)} ({seconds:.1f} s)"
            self._console.print(text)
        for note in (note for entry in found.entries for note in entry.notes):
            complain(f"{found.label}: {note}")


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
    place = _find_place(runs)
    tracker = MLflowTracker(*place)
    varied = varied_fields(saved.config for saved in runs)
    found: list[Found] = []
    with _progress(len(runs), 1) as progress:
        for saved in runs:
            label, names = tables.label(saved.run, varied), find_names(options)
            try:
                found.append(_measure(saved, label, names, which, options, tracker))
            except InputError as error:
                progress.say(f"{label} cannot be measured: {error}")
                continue
            progress.end(found[-1])
    is_whole = len(found) == len(runs) and all(each.is_whole for each in found)
    is_whole &= draw_together(found, which, options, tracker)
    tracker.close()
    entries = [entry for each in found for entry in each.entries]
    if entries:
        tables.print_measured([_as_result(each) for each in found])
        print(_describe(entries, which))
    return 0 if is_whole else 1


def _find_place(runs: Sequence[SavedRun]) -> tuple[str, str]:
    """The store and experiment of runs.

    Raises:
        InputError: they are of several, or of several workloads.
    """
    for what, values in (
        ("MLflow experiment", [" of ".join(saved.place[::-1]) for saved in runs]),
        ("workload", [str(saved.config.target) for saved in runs]),
    ):
        if len(set(values)) > 1:
            received = join([*dict.fromkeys(values)])
            raise InputError(f"the runs must be of one {what}. Received: {received}")
    return runs[0].place


def _as_result(found: Found) -> Result:
    saved = found.saved
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
        prog=f"{COMMAND} analyze",
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
    text = "on N training examples (default: 5000)"
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
        raise InputError("analyze needs --measure NAME,NAME; see --help")
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
