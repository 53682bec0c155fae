"""The loss around the weights of runs that are over: planes and lines, from their
folders."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samkeras import analysis
from samkeras.analysis import DataLoss, Directions, Line, Plane, Projection
from samkeras.errors import InputError
from samkeras.experiment.runs.build import has_convolution, in_precision
from samkeras.experiment.runs.measures import MAX_BATCH, take_batches, within_memory
from samkeras.experiment.runs.saved import SavedRun, Which

MARGIN = 0.2  # of a plane, beyond the paths on it
POINTS, FEWER_POINTS = 51, 25  # of a plane's longer side; of convolutions, which cost
# Of a plane's sides: a path that turns little is not to be on a thin strip.
MAX_RATIO = 1.5


@dataclass(frozen=True)
class Track:
    """Where a training went, seen from a plane.

    Attributes:
        name: of the run.
        epochs: int[point], after how many each point was.
        places: of each point, on the plane and off it.
    """

    name: str
    epochs: np.ndarray
    places: Projection

    @property
    def coordinates(self) -> np.ndarray:
        """Of its points on the plane, float64[point, 2]."""
        return self.places.coordinates


@dataclass(frozen=True)
class View:
    """A plane to look at, of a run.

    Attributes:
        saved: the run.
        which: of its weights, through which the plane goes.
        name: of the run.
        directions: the plane's.
        tracks: what trained to there; none where no trajectory was kept.
        points: of the grid's longer side.
    """

    saved: SavedRun
    which: Which
    name: str
    directions: Directions
    tracks: Sequence[Track]
    points: int


def read_trajectory(folder: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """The epochs at which a run kept its weights, and these, as flat vectors: none
    where it kept none."""
    files = sorted(Path(folder, "trajectory").glob("epoch_*.npy"))
    epochs = [int(file.stem.removeprefix("epoch_")) for file in files]
    # On the disk until they are read: there may be many.
    return np.array(epochs, int), [np.load(file, mmap_mode="r") for file in files]


def look_at(
    saved: SavedRun, name: str, which: Which, seed: int, by_path: bool = True
) -> View:
    """The plane in which a run's training went for the most part, if its trajectory was
    kept and is asked for, or else one of random directions."""
    with in_precision(saved.config):
        model = saved.model(which)
        points = FEWER_POINTS if has_convolution(model) else POINTS
        epochs, path = read_trajectory(saved.folder)
        if len(path) < 3 or not by_path:
            directions = analysis.random_directions(model, seed=seed)
            return View(saved, which, name, directions, (), points)
        end = _flatten(model)
    with _in_one_line():
        directions = analysis.pca_directions([*path, end])
    track = find_track(name, directions, end, epochs, path)
    return View(saved, which, name, directions, (track,), points)


def find_track(
    name: str,
    directions: Directions,
    origin: np.ndarray,
    epochs: np.ndarray,
    path: Iterable[np.ndarray],
) -> Track:
    """A path, seen from a plane."""
    places = directions.project([point - origin for point in path])
    return Track(name, epochs, places)


def find_axes(tracks: Sequence[Track], points: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of a plane on which tracks and its origin are seen, with the same spacing
    on both axes, and those of its origin and of where tracks start and end, whose
    losses are exact so; from -1 to 1 without tracks.

    Args:
        tracks: on it.
        points: of the longer side.
    """
    if not tracks:
        return np.linspace(-1, 1, points), np.linspace(-1, 1, points)
    origin = np.zeros((1, 2))
    places = np.concatenate([origin, *(t.coordinates for t in tracks)])
    marks = np.concatenate([origin, *(t.coordinates[[0, -1]] for t in tracks)])
    low, high = places.min(axis=0), places.max(axis=0)
    sizes = (high - low) * (1 + 2 * MARGIN)
    sizes = np.maximum(sizes, sizes.max() / MAX_RATIO)
    counts = np.maximum(np.round(points * sizes / sizes.max()), 2).astype(int)
    centres = (low + high) / 2
    x, y = (
        np.union1d(np.linspace(centre - size / 2, centre + size / 2, count), mark)
        for centre, size, count, mark in zip(
            centres, sizes, counts, marks.T, strict=True
        )
    )
    return x, y


def loss_at(plane: Plane, place: np.ndarray) -> float:
    """The training loss at the point of a plane's grid that is closest to a place."""
    column, row = np.abs(plane.x - place[0]), np.abs(plane.y - place[1])
    return float(plane.train["loss"][row.argmin(), column.argmin()])


def take_plane(
    view: View, x: np.ndarray, y: np.ndarray, examples: int, path: Path
) -> Plane:
    """The loss and the metrics on a plane through a run's weights, of training and
    validation.

    Args:
        view: the plane.
        x, y: coordinates.
        examples: how many of each, at most.
        path: the .npz file, which is gone on with.
    """
    saved = view.saved
    with in_precision(saved.config), _in_one_line():
        model = saved.model(view.which)
        data, test = _read(saved, examples)
        return analysis.plane(
            model,
            DataLoss(model, data, MAX_BATCH),
            view.directions,
            x=x,
            y=y,
            test=test,
            batch_norm="refit",
            path=path,
        )


def take_line(
    first: SavedRun, second: SavedRun, which: Which, examples: int, path: Path
) -> Line:
    """The loss and the metrics from one run's weights, at 0, to another one's, at 1;
    see take_plane. The data are the first one's.

    Raises:
        InputError: their models have weights of other shapes, or there is no loss to
            measure.
    """
    with in_precision(first.config), _in_one_line():
        other, model = second.model(which), first.model(which)
        shapes = [
            [tuple(w.shape) for w in m.trainable_variables] for m in (model, other)
        ]
        if shapes[0] != shapes[1]:
            sizes = [sum(map(math.prod, each)) for each in shapes]
            raise InputError(
                "an interpolation is between two runs of one model. Received: "
                f"{first.folder.name} of {sizes[0]:,} weights and "
                f"{second.folder.name} of {sizes[1]:,}"
            )
        end = _flatten(other)
        data, test = _read(first, examples)
        return analysis.interpolation(
            model,
            DataLoss(model, data, MAX_BATCH),
            _flatten(model),
            end,
            test=test,
            batch_norm="refit",
            path=path,
        )


def look_at_both(
    first: SavedRun, second: SavedRun, names: tuple[str, str], which: Which
) -> View:
    """The plane of two runs' weights and of those that both began at; it is of the
    first one's data, and its origin are the second one's weights.

    Raises:
        InputError: they kept no trajectory, or did not begin at the same weights.
    """
    with in_precision(first.config):
        paths = [read_trajectory(saved.folder) for saved in (first, second)]
        for saved, (epochs, _) in zip((first, second), paths, strict=True):
            if not len(epochs) or epochs[0]:
                raise InputError(
                    f"{saved.folder} has no trajectory from its start on: train it "
                    "with --measure trajectory --measure_every 1"
                )
        starts = [path[0] for _, path in paths]
        if not np.array_equal(starts[0], starts[1]):
            raise InputError(
                f"{first.folder} and {second.folder} did not begin at the same weights"
            )
        ends = [_flatten(saved.model(which)) for saved in (first, second)]
    with _in_one_line():
        directions = analysis.pca_directions([starts[0], *ends])
    tracks = [
        find_track(name, directions, ends[1], epochs, path)
        for name, (epochs, path) in zip(names, paths, strict=True)
    ]
    return View(second, which, names[1], directions, tracks, 2 * POINTS - 1)


def _flatten(model: Any) -> np.ndarray:
    """A model's weights as trajectories have them."""
    return np.concatenate([np.ravel(weight) for weight in model.trainable_variables])


def _read(saved: SavedRun, examples: int) -> tuple[list[Any], list[Any]]:
    """Batches of training and validation examples, without augmentation."""
    data = saved.data
    if not hasattr(data.train, "first"):
        raise InputError(f"{saved.config.target} has no examples to have a loss on")
    splits = (data.train, data.validation)
    train, test = (take_batches(split, examples)[0] for split in splits)
    return train, test


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """Says what cannot be measured as a user's error."""
    try:
        with within_memory():
            yield
    except ValueError as error:
        raise InputError(str(error)) from None
