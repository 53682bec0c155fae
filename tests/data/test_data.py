"""The data: orders, noise, and image sets in their sources' own formats."""

import re
import struct

import numpy as np
import pytest

import run as command
from samkeras.data.augmentation import CropFlip
from samkeras.data.batches import Batches
from samkeras.data.examples import ArrayExamples
from samkeras.data.images import _fit, load_images
from samkeras.data.label_noise import add_label_noise
from samkeras.data.sequences import SequenceCollate
from samkeras.data.teacher_student import load_teacher_student
from samkeras.errors import InputError
from samkeras.seeds import derive_seed
from tests.helpers import arrays_of

pytestmark = pytest.mark.one_backend


def epoch_order(batches: Batches, epoch: int) -> np.ndarray:
    batches.start_epoch(epoch)
    return np.concatenate([batches[i][1] for i in range(batches.left)])


def test_order_is_a_function_of_seed_and_epoch_alone():
    """Whatever was trained before, epoch e of seed s has one order, others differ."""
    x, y = np.zeros((50, 2)), np.arange(50)
    batches = ArrayExamples(x, y).batches(batch_size=16, seed=3)
    third = epoch_order(batches, 2)
    epoch_order(batches, 0)
    np.testing.assert_array_equal(epoch_order(batches, 2), third)
    fresh = ArrayExamples(x, y).batches(batch_size=16, seed=3)
    np.testing.assert_array_equal(epoch_order(fresh, 2), third)
    assert not np.array_equal(epoch_order(batches, 3), third)
    other_seed = ArrayExamples(x, y).batches(batch_size=16, seed=4)
    assert not np.array_equal(epoch_order(other_seed, 2), third)


def test_every_example_is_seen_once_an_epoch():
    """The last batch holds what is left; x and y stay together."""
    x, y = np.arange(50)[:, np.newaxis], np.arange(50)
    batches = ArrayExamples(x, y).batches(batch_size=16, seed=0)
    assert [len(batches[i][0]) for i in range(batches.left)] == [16, 16, 16, 2]
    np.testing.assert_array_equal(np.sort(epoch_order(batches, 0)), y)
    x_batch, y_batch = batches[1]
    np.testing.assert_array_equal(x_batch[:, 0], y_batch)


def test_crops_and_flips_by_hand():
    """A padded image cut at (row, column) and mirrored where it is drawn so."""
    images = np.arange(2 * 3 * 3 * 1, dtype="uint8").reshape(2, 3, 3, 1) + 1
    draws = np.array([[1, 1, 0], [0, 2, 1]])
    same, moved = CropFlip(padding=1).apply(images, draws)
    np.testing.assert_array_equal(same, images[0])
    # One row down, one column to the left, mirrored.
    expected = [[0, 0, 0], [0, 12, 11], [0, 15, 14]]
    np.testing.assert_array_equal(moved[..., 0], expected)
    np.testing.assert_array_equal(CropFlip().evaluate(images), images)


def test_crops_are_drawn_evenly():
    """Each of 81 places and both directions as often as the others."""
    draws = CropFlip(padding=4).draw(np.random.default_rng(0), 81_000)
    counts = np.bincount(draws[:, 0] * 9 + draws[:, 1], minlength=81)
    # Five standard deviations of a binomial count.
    assert np.all(np.abs(counts - 1000) < 5 * 1000**0.5)
    assert abs(draws[:, 2].mean() - 0.5) < 5 * 0.5 / 81_000**0.5


def test_augmentation_is_a_function_of_seed_and_epoch_alone():
    """The same images in an epoch whatever came before, also from its middle on; other
    ones in another epoch; none where it is not asked for."""
    x = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype("uint8")
    examples = ArrayExamples(x, np.arange(20), transform=CropFlip())
    batches = examples.batches(8, seed=3, augment=True)
    epochs = {}
    for epoch in (0, 1, 0):
        batches.start_epoch(epoch)
        images = [batches[i][0] for i in range(3)]
        np.testing.assert_array_equal(images[2], epochs.get(epoch, images)[2])
        epochs[epoch] = images
    assert not np.array_equal(epochs[0][0], epochs[1][0])
    batches.start_epoch(0, first_batch=1)
    np.testing.assert_array_equal(batches[0][0], epochs[0][1])
    images, labels = examples.batches(8, seed=3)[0]
    np.testing.assert_array_equal(images, x[labels])


def test_batches_that_devices_share_are_multiples_of_their_number():
    """Training leaves out what is too much, other examples in each epoch; evaluation
    fills up, and its weighted mean is that of the examples; processes get parts."""
    x = y = np.arange(21.0)
    batches = ArrayExamples(x, y).batches(8, seed=0, multiple_of=4)
    assert [len(batches[i][0]) for i in range(batches.left)] == [8, 8, 4]
    left_out = {21 * 10 - epoch_order(batches, epoch).sum() for epoch in range(9)}
    assert len(left_out) > 1
    parts = [
        ArrayExamples(x, y).batches(8, multiple_of=4, process=(process, 2))
        for process in (0, 1)
    ]
    taken = [part[i] for i in range(3) for part in parts]
    assert [len(batch[0]) for batch in taken] == [4] * 6
    values, _, weights = (np.concatenate(arrays) for arrays in zip(*taken, strict=True))
    assert np.mean(values * weights) == pytest.approx(10)
    np.testing.assert_array_equal(values[weights > 0], x)


def test_filled_up_batches_have_the_means_of_their_examples():
    """Of 5 examples in batches of 4, the last batch's mean is its one example's in
    training; in evaluation the mean over all places is the one over the examples."""
    rows = np.array([[2, 2, 2], [3, 3, 0], [4, 0, 0], [5, 5, 5], [6, 0, 0]], "int32")
    examples = ArrayExamples(rows, rows[:, 0], collate=SequenceCollate())
    train = examples.batches(4, seed=1)
    full, last = (train[i] for i in range(train.left))
    np.testing.assert_array_equal(full[2], np.ones(4))
    np.testing.assert_array_equal(last[2], [4, 0, 0, 0])
    assert {*full[1], last[1][0]} == {2, 3, 4, 5, 6}
    evaluate = examples.batches(4)
    batches = [evaluate[i] for i in range(evaluate.left)]
    y, weights = (np.concatenate([b[i] for b in batches]) for i in (1, 2))
    assert np.mean(y * weights) == pytest.approx(rows[:, 0].mean())


def test_specs_say_what_batches_differ_in():
    """Sides that depend on a batch's examples are None, others known."""
    rows = np.array([[2, 2, 2], [3, 3, 0]], "int32")
    examples = ArrayExamples(rows, rows[:, 0], collate=SequenceCollate())
    padded = examples.batches(2)
    specs = [(s.shape, s.dtype) for s in padded.specs]
    assert specs == [((None, None), "int32"), ((None,), "int32"), ((None,), "float32")]
    plain = ArrayExamples(np.zeros((4, 8, 1), "uint8"), np.arange(4)).batches(2)
    assert [s.shape for s in plain.specs] == [(None, 8, 1), (None,)]


def test_streams_of_a_seed_differ_by_name():
    """Initialization, order and noise of one seed do not share their draws."""
    seeds = [derive_seed(s, name) for s in (0, 1) for name in ("init", "order")]
    assert len(set(seeds)) == len(seeds)
    assert derive_seed(0, "init") == seeds[0]


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_label_noise_replaces_exactly_its_share(rate):
    """round(rate * n) labels change, each to another class, by the seed alone."""
    labels = np.random.default_rng(0).integers(0, 10, 1001)
    noisy, indices = add_label_noise(labels, rate, num_classes=10, seed=5)
    np.testing.assert_array_equal(np.argwhere(noisy != labels), indices)
    assert len(indices) == round(rate * 1001)
    assert set(np.unique(noisy)) <= set(range(10))
    np.testing.assert_array_equal(noisy, add_label_noise(labels, rate, 10, seed=5)[0])


def test_label_noise_is_symmetric():
    """Every other class is equally likely: 9,000 replaced labels, 1,000 each."""
    noisy, _ = add_label_noise(np.zeros(9_000, int), 1.0, num_classes=10, seed=0)
    counts = np.bincount(noisy, minlength=10)
    assert counts[0] == 0
    # Five standard deviations of a binomial count with n = 9000, p = 1/9.
    assert np.all(np.abs(counts[1:] - 1000) < 5 * (1000 * 8 / 9) ** 0.5)


def test_label_noise_flips_binary_labels_that_are_present():
    """Several binary labels an example, some missing: exactly half of the others flip,
    and the missing ones stay missing."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (50, 7)).astype("float32")
    labels[rng.random(labels.shape) < 0.3] = np.nan
    present = ~np.isnan(labels)
    noisy, indices = add_label_noise(labels, 0.5, num_classes=2, seed=1)
    np.testing.assert_array_equal(np.isnan(noisy), ~present)
    flipped = noisy[present] == 1 - labels[present]
    assert flipped.sum() == len(indices) == round(0.5 * present.sum())
    np.testing.assert_array_equal(noisy[present][~flipped], labels[present][~flipped])


def test_label_noise_of_tokens_leaves_padding_alone():
    """A label a token, -1 where there is none: its share is of the real tokens."""
    labels = np.random.default_rng(0).integers(0, 9, (20, 12))
    labels[:, 8:] = -1
    noisy, indices = add_label_noise(labels, 0.25, num_classes=9, seed=1)
    assert np.all(noisy[:, 8:] == -1)
    assert len(indices) == np.sum(noisy != labels) == round(0.25 * 160)


def test_teacher_student_data_is_fixed_and_noisy():
    """The same examples at every call; noise of variance 1 around the teacher."""
    splits = load_teacher_student(2_000, 500)
    x, y = splits.train.x, splits.train.y
    assert x.shape == (2_000, 100)
    assert y.shape == (2_000, 1)
    assert len(splits.validation) == splits.info.num_validation == 500
    np.testing.assert_array_equal(y, load_teacher_student(2_000, 500).train.y)
    clean = load_teacher_student(2_000, 500, noise=0.0).train.y
    # The standard error of a variance estimated from 2,000 normals is 0.03.
    assert abs(np.var(y - clean) - 1) < 0.15
    assert np.var(clean) > 0.1


def test_sample_of_mnist_is_balanced():
    """4,000 training and 1,000 other digits, every class in equal number throughout."""
    splits = load_images("mnist_5k", None)
    (x, y), (x_test, y_test) = arrays_of(splits)
    assert (x.shape, x_test.shape) == ((4_000, 28, 28, 1), (1_000, 28, 28, 1))
    assert x.dtype == np.uint8
    assert x.max() == 255
    assert set(np.bincount(y)) == {400}
    assert set(np.bincount(y_test)) == {100}
    assert set(np.bincount(y[:100])) == {10}
    assert (splits.info.num_train, splits.info.num_outputs) == (4_000, 10)


def write_idx(path, array: np.ndarray) -> None:
    """Writes an array in MNIST's own format."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def mnist_source(tmp_path, monkeypatch):
    """A small MNIST in the source's own files, as TFDS's downloader would hand it."""
    tfds = pytest.importorskip("tensorflow_datasets")
    from tensorflow_datasets.image_classification import mnist

    rng = np.random.default_rng(0)
    arrays = {
        "train_data": rng.integers(0, 256, (30, 28, 28)),
        "train_labels": np.arange(30) % 10,
        "test_data": rng.integers(0, 256, (10, 28, 28)),
        "test_labels": np.arange(10),
    }
    files = {name: tmp_path / name for name in arrays}
    for name, array in arrays.items():
        write_idx(files[name], array)
    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", 30)
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", 10)
    monkeypatch.setattr(
        tfds.download.DownloadManager,
        "download_and_extract",
        lambda self, urls: {name: str(files[name]) for name in urls},
    )
    return arrays


def test_tfds_set_is_prepared_and_read(tmp_path, mnist_source):
    """The real TFDS builder turns MNIST's own files into the arrays they hold."""
    data_dir = tmp_path / "tfds"
    data_dir.mkdir()
    splits = load_images("mnist", str(data_dir))
    assert splits.info.num_outputs == 10  # known before anything is on disk
    assert not list(data_dir.iterdir())
    x, y = splits.train.x, splits.train.y
    # TFDS shuffles what it writes: compare as sets of (image, label).
    expected = {
        (image.astype(np.uint8).tobytes(), int(label))
        for image, label in zip(
            mnist_source["train_data"], mnist_source["train_labels"], strict=True
        )
    }
    assert {(a.tobytes(), int(b)) for a, b in zip(x, y, strict=True)} == expected
    assert x.shape == (30, 28, 28, 1)
    assert len(splits.validation) == 10
    again = load_images("mnist", str(data_dir))  # now from disk
    np.testing.assert_array_equal(again.train.x, x)


def test_failed_download_leaves_nothing_behind(tmp_path, monkeypatch):
    """Without a network: one line that names the sample; what was there stays."""
    tfds = pytest.importorskip("tensorflow_datasets")

    def fail(self):
        root = tmp_path / "tfds"
        (root / "mnist").mkdir()
        (root / "downloads" / "extracted").mkdir(parents=True, exist_ok=True)
        (root / "downloads" / "x.gz.tmp.1").mkdir()
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    kept = tmp_path / "tfds" / "other"
    kept.mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be downloaded") as error:
        _ = load_images("mnist", str(tmp_path / "tfds")).train
    assert "--dataset mnist_5k" in str(error.value)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "tfds").iterdir()) == [kept]


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("mnits", "did you mean mnist"),
        ("CIFAR10", "did you mean cifar10"),
        ("Mnist", "did you mean mnist"),
        ("cifar-10", "did you mean cifar10"),
        ("foo bar", "TFDS has no set of that name"),
        ("", "TFDS has no set of that name"),
        ("x.npy", "neither an .npz file nor a folder nor the sample mnist_5k"),
        ("mnist:9.9.9", "cannot be loaded at version 9.9.9, only: "),
        ("mnist/small", "TFDS's mnist has no small"),
        ("mnist/a/b", "TFDS's mnist has no a/b"),
        ("glue", "not an image classification set"),
    ],
)
def test_unsuitable_names_are_refused(tmp_path, dataset, words):
    """In one line, which of its parts there is not; a misspelt set is answered by the
    nearest, a set of texts by its features."""
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(InputError, match=re.escape(words)) as error:
        load_images(dataset, str(tmp_path))
    assert "\n" not in str(error.value)


def test_the_home_folder_has_its_short_name(tmp_path, monkeypatch):
    """~ in the path of a file and of data_dir."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sets").mkdir()
    assert load_images("mnist", "~/sets").info.num_train == 60_000
    with pytest.raises(InputError, match=f"{tmp_path}/none.npz: there is no such file"):
        load_images("~/none.npz", None)


def test_missing_data_dir_is_refused(tmp_path):
    """A data_dir that is not there is not made."""
    with pytest.raises(InputError, match="there is no such directory"):
        load_images("mnist", str(tmp_path / "gone"))
    assert not (tmp_path / "gone").exists()


def test_images_are_brought_to_size(tmp_path):
    """Smaller ones get zeros around them, grey ones three channels, larger ones are
    resized from their central square."""
    digits, colours = load_images("mnist_5k", None, 32, channels=3), tmp_path / "c.npz"
    assert digits.info.input_shape == (32, 32, 3)
    x, raw = (s.train.x for s in (digits, load_images("mnist_5k", None)))
    np.testing.assert_array_equal(x[:, 2:30, 2:30], np.repeat(raw, 3, axis=3))
    assert not x[:, :2].any()
    assert not x[:, :, 30:].any()
    wide = np.zeros((4, 64, 96, 3), "uint8")
    wide[:, :, 16:80] = 200  # the central square
    np.savez(colours, x_train=wide, y_train=[0] * 4, x_test=wide, y_test=[1] * 4)
    small = load_images(str(colours), None, 32, channels=3).train.x
    np.testing.assert_array_equal(small, np.full((4, 32, 32, 3), 200))
    with pytest.raises(InputError, match="has images of 3 channels"):
        load_images(str(colours), None, 32, channels=4)


@pytest.mark.parametrize(
    ("stored", "size"), [((4, 4), 5), ((4, 5), 5), ((5, 4), 5), ((3, 4), 6)]
)
def test_images_of_any_difference_are_brought_to_size(stored, size):
    """One pixel too, on one side alone: the image is whole in the middle, zeros are
    around it, those more by one after it."""
    images = np.arange(1, 1 + 2 * stored[0] * stored[1], dtype="uint8")
    images = images.reshape(2, *stored, 1)
    fitted = _fit(images, (size, size, 1))
    assert fitted.shape == (2, size, size, 1)
    top, left = ((size - side) // 2 for side in stored)
    part = fitted[:, top : top + stored[0], left : left + stored[1]]
    np.testing.assert_array_equal(part, images)
    assert fitted.sum(dtype=int) == images.sum(dtype=int)


@pytest.mark.each_backend
@pytest.mark.parametrize(
    ("workload", "smallest"), [("cifar10_vgg11", 32), ("cifar10_vit", 4)]
)
def test_images_too_small_for_the_model_are_refused(workload, smallest, capsys):
    """VGG halves them five times, patches are 4 x 4; one pixel more is enough."""
    options = ["--dataset", "mnist_5k", "--width_mult", "0.02", "--dry_run"]
    target = [f"workloads/{workload}", *options, "--image_size"]
    assert command.main([*target, str(smallest - 1)]) == 2
    assert f"--image_size must be at least {smallest}" in capsys.readouterr().err
    assert command.main([*target, str(smallest)]) == 0


def test_one_side_too_large_is_resized():
    """33 x 31 to 32 x 32: the central square, 31 x 31, enlarged."""
    images = np.full((2, 33, 31, 3), 7, "uint8")
    images[:, (0, 32)] = 255
    np.testing.assert_array_equal(_fit(images, (32, 32, 3)), np.full((2, 32, 32, 3), 7))
