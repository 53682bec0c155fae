"""Landscapes of finished runs, from their folders."""

import keras
import numpy as np
import pytest

import run as command
from samkeras import analysis
from samkeras.analysis import Projection
from samkeras.errors import InputError
from samkeras.experiment.runs.landscapes import (
    Track,
    find_axes,
    look_at,
    look_at_both,
    loss_at,
    take_plane,
)
from samkeras.experiment.runs.result import Result
from samkeras.experiment.runs.saved import load_run
from samkeras.experiment.studies import grid
from samkeras.experiment.studies.comparison import compare
from samkeras.experiment.studies.landscapes import (
    draw_interpolation,
    draw_landscapes,
    find_levels,
)
from samkeras.experiment.studies.picture import Picture, X, read_picture
from samkeras.experiment.studies.planes import draw_pairs, find_pairs
from samkeras.experiment.tracking.record import MemoryTracker
from tests.experiment.runs.test_saved import write_journal

pytestmark = pytest.mark.one_backend

OPTIONS = ["--train_examples", "200", "--validation_examples", "100", "--epochs", "1"]
OPTIONS += ["--width_mult", "0.1", "--sam", "true,false", "--rho", "0.2"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> list:
    """SAM's and SGD's run from one start."""
    records = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "MLflowTracker", lambda *_: MemoryTracker(records))
        line = ["workloads/synthetic_mlp", *OPTIONS, "--verbose", "0", "--run_dir"]
        assert command.main([*line, str(tmp_path_factory.mktemp("runs"))]) == 0
    runs = [record for record in records if (record.folder / "config.yaml").exists()]
    for record in runs:
        write_journal(record)
    return [load_run(record.folder) for record in runs]


@pytest.fixture
def paths(saved):
    """The same with trajectories, whose second half is a straight line."""
    rng = np.random.default_rng(0)
    ends = [flat_of(run.model("last")) for run in saved]
    start = 1.5 * ends[0]
    for run, end in zip(saved, ends, strict=True):
        (run.folder / "trajectory").mkdir()
        middle = (start + end) / 2 + 0.02 * rng.standard_normal(len(end))
        for epoch, point in enumerate((start, middle, (middle + end) / 2, end)):
            path = run.folder / "trajectory" / f"epoch_{epoch:06}.npy"
            np.save(path, point.astype("float32"))
    yield saved
    for run in saved:
        for file in (run.folder / "trajectory").iterdir():
            file.unlink()
        (run.folder / "trajectory").rmdir()


def flat_of(model) -> np.ndarray:
    return np.concatenate([np.ravel(w) for w in model.trainable_variables])


def test_planes_go_through_the_runs_weights(saved, tmp_path):
    """With the losses and metrics that keras evaluates there."""
    view = look_at(saved[0], "SAM", "last", 0)
    assert not view.tracks
    assert view.directions.explained is None
    assert view.points == 51
    at = np.array([-1.0, 0.0])
    plane = take_plane(view, at, at[1:], 150, tmp_path / "plane.npz")
    model, data = saved[0].model("last"), saved[0].data
    for numbers, examples in ((plane.train, data.train), (plane.test, data.validation)):
        batches = examples.choose(150).batches(50)
        logs = model.evaluate(batches, verbose=0, return_dict=True)
        assert set(numbers) == set(logs)
        for name, value in logs.items():
            np.testing.assert_allclose(numbers[name][0, 1], value, rtol=1e-4)
    assert (plane.num_examples, plane.num_test_examples) == (150, 100)


def test_landscapes_are_drawn_side_by_side_once(saved, tmp_path, monkeypatch):
    files = draw_landscapes(saved, examples=50, points=5, folder=tmp_path)
    names = [file.name for file in files]
    assert names == ["landscape.png", "landscape.svg"] + [
        f"{run.folder.name}.npz" for run in saved
    ]
    for file in files[2:]:
        with np.load(file) as numbers:
            assert numbers["train_loss"].shape == (5, 5)
            np.testing.assert_array_equal(numbers["x"], np.linspace(-1, 1, 5))

    def fail(*_):
        raise AssertionError("nothing is to be measured again")

    monkeypatch.setattr(analysis.DataLoss, "run", fail)
    again = draw_landscapes(saved, examples=50, points=5, folder=tmp_path)
    assert again == files


def test_runs_with_trajectories_are_seen_on_their_planes(paths, tmp_path):
    views = [look_at(run, "run", "last", 0) for run in paths]
    tracks = [view.tracks[0] for view in views]
    for view, track in zip(views, tracks, strict=True):
        assert view.directions.explained.sum() > 0.999
        assert [*track.epochs] == [0, 1, 2, 3]
        np.testing.assert_allclose(track.coordinates[-1], 0, atol=1e-5)
        assert track.places.outside.max() < 1e-3
    files = draw_landscapes(paths, examples=50, points=6, folder=tmp_path)
    axes = [(numbers["x"], numbers["y"]) for numbers in map(np.load, files[2:])]
    for axis, other, place in zip(*axes, (0, 1), strict=True):
        np.testing.assert_array_equal(axis, other)
        for track in tracks:
            assert axis[0] < track.coordinates[:, place].min()
            assert axis[-1] > track.coordinates[:, place].max()


def test_without_all_trajectories_all_planes_are_random(paths, tmp_path):
    """Else the panels would not be alike."""
    (paths[0].folder / "trajectory" / "epoch_000000.npy").unlink()
    (paths[0].folder / "trajectory" / "epoch_000001.npy").unlink()
    files = draw_landscapes(paths, examples=50, points=3, folder=tmp_path)
    for numbers in map(np.load, files[2:]):
        np.testing.assert_array_equal(numbers["x"], [-1, 0, 1])


def test_the_losses_at_a_start_and_two_ends_are_on_their_plane(paths, tmp_path):
    """Three points lie in one plane, which explains all of their differences."""
    view = look_at_both(*paths, ("SAM", "SGD"), "last")
    np.testing.assert_allclose(view.directions.explained.sum(), 1)
    first, second = view.tracks
    np.testing.assert_allclose(first.coordinates[0], second.coordinates[0], atol=1e-6)
    batch = (paths[1].data.train.choose(50)).batches(50)[0]
    data = analysis.DataLoss(paths[1].model("last"), batch)
    x, y = find_axes(view.tracks, 5)
    plane = take_plane(view, x, y, 50, tmp_path / "plane.npz")
    points = [first.coordinates[0], first.coordinates[-1], second.coordinates[-1]]
    start = np.load(paths[0].folder / "trajectory" / "epoch_000000.npy")
    weights = [start, *(flat_of(run.model("last")) for run in paths)]
    for point, vector in zip(points, weights, strict=True):
        expected = data.loss(vector - data.flatten(data.weights))
        np.testing.assert_allclose(loss_at(plane, point), expected, rtol=1e-4)


def test_what_two_runs_lack_for_one_plane_is_said(saved, paths):
    other = paths[1].folder / "trajectory" / "epoch_000000.npy"
    np.save(other, np.load(other) + 1)
    with pytest.raises(InputError, match="did not begin at the same weights"):
        look_at_both(*paths, ("SAM", "SGD"), "last")
    other.unlink()
    with pytest.raises(InputError, match="--measure trajectory --measure_every 1"):
        look_at_both(*paths, ("SAM", "SGD"), "last")


def test_a_pictures_panels_show_a_start_and_two_ends(paths, tmp_path):
    """Of the runs that a figure finds by their options."""
    sizes = (paths[0].numbers["num_params"],) * 2
    results = [Result(run.config, *sizes, run.numbers) for run in paths]
    picture = Picture("made", "Made", "landscape", "plane", panels="width_mult")
    comparisons = compare(results, paths[0].config.target.load().mode)
    (pair,) = find_pairs(picture, comparisons)
    assert pair.title == "width \N{MULTIPLICATION SIGN} 0.1"
    assert pair.names == ("SGD", "SAM")
    assert [result.config.sam for result in pair.runs] == [False, True]
    summary = {"name": "made", "title": "Made", "changes": "", "notes": ["A note."]}
    folder, file = paths[0].folder.parent, tmp_path / "made.png"
    points = draw_pairs([pair], summary, folder, tmp_path, [file])
    assert file.stat().st_size > 10_000
    assert [point.line for point in points] == 4 * ["SGD"] + 4 * ["SAM"]
    (numbers,) = map(np.load, tmp_path.glob("plane_*.npz"))
    assert {points[0].x, points[3].x, 0} < {*numbers["x"]}
    assert {points[0].y.mean, points[3].y.mean, 0} < {*numbers["y"]}
    with pytest.raises(InputError, match="made: there are no two finished runs of one"):
        draw_pairs([], summary, folder, tmp_path, [file])


def test_a_plane_has_a_landscape_and_it_a_plane():
    for fields in ({"x": "plane", "y": "loss"}, {"x": "rho", "y": "landscape"}):
        with pytest.raises(InputError, match="x: plane needs y: landscape, and it x:"):
            read_picture("made.yaml", fields, Picture("made", "Made", "", ""), X)


def test_the_line_between_two_runs_is_drawn(saved, tmp_path):
    files = draw_interpolation(*saved, examples=50, folder=tmp_path)
    assert [file.name for file in files] == [
        "interpolation.png",
        "interpolation.svg",
        "interpolation.npz",
    ]
    with np.load(files[2]) as numbers:
        line = dict(zip(numbers["x"], numbers["train_loss"][0], strict=True))
    for run, t in zip(saved, (0.0, 1.0), strict=True):
        batch = run.data.train.choose(50).batches(50)[0]
        expected = run.model("last").evaluate(*batch, verbose=0, return_dict=True)
        np.testing.assert_allclose(line[t], expected["loss"], rtol=1e-4)


def test_runs_of_two_widths_have_no_line_between_them(saved, tmp_path):
    """Said by their names, in one line, whatever the number of weights."""

    class Wider:
        config, folder = saved[1].config, tmp_path / "wider"

        def model(self, which):
            return keras.Sequential([keras.Input((2,)), keras.layers.Dense(700)])

    name = saved[0].folder.name
    count = saved[0].model("last").count_params()
    message = f"two runs of one model. Received: {name} of {count:,} weights and wider "
    with pytest.raises(InputError, match=f"{message}of 2,100$"):
        draw_interpolation(saved[0], Wider(), examples=50, folder=tmp_path / "line")
    assert not (tmp_path / "line").exists()


def test_levels_are_shared_and_axes_hold_all_tracks():
    levels = find_levels([np.array([[1e-3, 0.5]]), np.array([[np.nan, 20.0, 0.0]])])
    np.testing.assert_allclose(levels[[0, -1]], [1e-3, 20])
    steps = np.diff(np.log(levels))
    np.testing.assert_allclose(steps, steps[0])
    assert find_levels([np.array([1e-30, 1.0])])[0] >= 1e-6
    np.testing.assert_allclose(find_levels([np.array([0.1, 9.0])], 3.0)[-1], 3)
    assert (np.diff(find_levels([np.ones(3)])) > 0).all()
    with pytest.raises(InputError, match="no loss is a finite number above zero"):
        find_levels([np.array([np.nan, np.inf, 0])])
    places = np.array([[0.0, 0], [10, 1]])
    track = Track("", np.arange(2), Projection(places, np.zeros(2), np.zeros(2)))
    x, y = find_axes([track], 29)
    np.testing.assert_allclose([x[0], x[-1]], [-2, 12])
    np.testing.assert_allclose((y[0] + y[-1]) / 2, 0.5)
    assert {0, 10} < {*x}
    assert {0, 1} < {*y}
    np.testing.assert_allclose(np.diff(x).max(), np.diff(y).max(), rtol=0.1)
    assert find_axes([], 5)[0].tolist() == [-1, -0.5, 0, 0.5, 1]
