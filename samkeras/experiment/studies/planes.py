"""Pictures of the loss on the plane of a start and the two minima that the base
optimizer and SAM come to from there: a panel for each option."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from samkeras.errors import InputError
from samkeras.experiment.options.groups import Measuring
from samkeras.experiment.options.measures import VERSION
from samkeras.experiment.runs.data import describe_data
from samkeras.experiment.runs.landscapes import look_at_both
from samkeras.experiment.runs.recall import Recall
from samkeras.experiment.runs.result import Result
from samkeras.experiment.runs.run import Run
from samkeras.experiment.runs.saved import SavedRun, load_run
from samkeras.experiment.studies.comparison import Comparison, Estimate
from samkeras.experiment.studies.landscapes import Panel, digest, draw_planes, measure
from samkeras.experiment.studies.picture import Picture
from samkeras.experiment.studies.points import (
    Point,
    find_varied_rules,
    name_line,
    name_panel,
)


class Pair(NamedTuple):
    """What a panel shows."""

    title: str
    names: tuple[str, str]
    runs: tuple[Result, Result]
    """the base optimizer's and SAM's, of one seed"""


def find_pairs(picture: Picture, comparisons: Sequence[Comparison]) -> list[Pair]:
    """The panels of a picture, of those that have finished runs of one seed: the
    smallest one that both have."""
    rules = find_varied_rules(comparisons)
    pairs: list[Pair] = []
    for c in comparisons:
        title = name_panel(picture, {**vars(c.config), **c.fields})
        for rule, sam in c.by_rule.items():
            seeds = sorted(c.base.keys() & sam.keys())
            if seeds:
                runs = (c.base[seeds[0]], sam[seeds[0]])
                base = name_line(None, {}, rules, c.config)
                names = (base, name_line(rule, {}, rules, c.config))
                pairs.append(Pair(title, names, runs))
    return pairs


def draw_pairs(
    pairs: Sequence[Pair],
    summary: Mapping[str, Any],
    run_dir: Path,
    folder: Path,
    paths: Sequence[Path],
) -> list[Point]:
    """Measures the panels' planes, as far as they are not yet, and draws them.

    Args:
        pairs: of `find_pairs`.
        summary: what is said with it.
        run_dir: of the runs.
        folder: of an .npz file for each panel.
        paths: the files that are drawn.

    Returns:
        Where the runs went, on each panel's plane: both coordinates of each point.

    Raises:
        InputError: there are no pairs, or one has no trajectories from its start on.
    """
    if not pairs:
        raise InputError(
            f"{summary['name']}: there are no two finished runs of one seed, with SAM "
            "and without"
        )
    panels = [_measure(pair, run_dir, folder) for pair in pairs]
    title = " ".join(filter(None, (summary["title"], summary["changes"])))
    draw_planes(panels, title, paths, " ".join(summary["notes"]))
    return [
        Point(track.name, x, Estimate(y, None, 1), None, None, 0, panel.title)
        for panel in panels
        for track in panel.tracks
        for x, y in track.coordinates.tolist()
    ]


def _measure(pair: Pair, run_dir: Path, folder: Path) -> Panel:
    base, sam = (_load(result, run_dir) for result in pair.runs)
    view = look_at_both(base, sam, pair.names, "last")
    examples = Measuring.of(base.config).measure_examples
    mark = digest(base.record, sam.record, examples, VERSION)
    path = folder / f"plane_{mark}.npz"
    return measure([view], examples, [path])[0]._replace(title=pair.title)


def _load(result: Result, run_dir: Path) -> SavedRun:
    run = Run(result.config)
    marks = run.find_marks(describe_data(run.config, Recall()))
    return load_run(run.find_folder(str(run_dir), marks)[0])
