"""Arrays from outside: what of a user's .npz file is taken, and how the rest is
refused."""

import contextlib
import io
import os
import re
import zipfile

import numpy as np
import pytest

import run as command
from samkeras.data import arrays
from samkeras.data.arrays import load_npz
from samkeras.data.imagenet import load_imagenet
from samkeras.data.images import load_images
from samkeras.errors import InputError
from tests.helpers import arrays_of, make_config, parse_runs

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 6, 6), dtype=np.uint8)
LABELS = np.arange(20) % 4
AS_SUCH = "are taken as such, not divided by 255"
UNIT = f"from 0 to 1 {AS_SUCH}"
VECTORS = RNG.normal(size=(20, 5))


def write_npz(path, **changes) -> str:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (20, 6, 6), dtype=np.uint8),
        "y_train": rng.integers(0, 4, (20, 1)),
        "x_test": rng.integers(0, 256, (8, 6, 6), dtype=np.uint8),
        "y_test": np.array([0, 1, 2, 3, 0, 1, 2, 3]),
        **changes,
    }
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return str(path)


def test_npz_in_keras_layout(tmp_path):
    """Grey images gain a channel, columns of labels become flat."""
    splits = load_images(write_npz(tmp_path / "d.npz"), None)
    x, y = splits.train.x, splits.train.y
    assert x.shape == (20, 6, 6, 1)
    assert y.shape == (20,)
    assert splits.info.input_shape == (6, 6, 1)
    assert splits.info.num_outputs == 4
    assert (splits.info.num_train, splits.info.num_validation) == (20, 8)


def test_bad_npz_files_are_named(tmp_path):
    """A missing file, a missing array and a file that is no .npz each get a line."""
    with pytest.raises(InputError, match=r"gone\.npz: there is no such file"):
        load_images(str(tmp_path / "gone.npz"), None)
    with pytest.raises(InputError, match="Missing: y_test"):
        load_images(write_npz(tmp_path / "part.npz", y_test=None), None)
    (tmp_path / "text.npz").write_text("not a zip file")
    with pytest.raises(InputError, match=r"text\.npz is not a readable \.npz"):
        load_images(str(tmp_path / "text.npz"), None)


def load(path, **changes):
    return load_images(write_npz(path / "d.npz", **changes), None)


def test_a_sorted_files_first_examples_are_told_of(tmp_path):
    """--train_examples takes the first ones, which may be of few classes: no accuracy
    may come out of that unsaid. The notes come with the data."""
    path = write_npz(tmp_path / "d.npz", y_train=np.repeat([0, 1, 2, 3], 5))
    for count, words in (
        (8, "first 8 training examples .* are of 2 of the 4"),
        (20, ""),
    ):
        options = {"dataset": path, "train_examples": count}
        config = make_config("mnist_mlp", **options)
        splits = config.target.load().task.load(config)
        assert len(splits.train) == count
        said = [note for note in splits.notes if "training examples" in note]
        assert len(said) == bool(words)
        assert not said or re.search(words, said[0])


@pytest.mark.parametrize(
    "labels",
    [
        LABELS[:, np.newaxis],
        LABELS.astype(">i8"),
        LABELS.astype("float64"),
        np.eye(4)[LABELS],
        np.eye(4, dtype=bool)[LABELS],
    ],
    ids=["column", "big-endian", "whole floats", "one-hot", "one-hot bool"],
)
def test_labels_are_classes_or_one_hot(tmp_path, labels):
    splits = load(tmp_path, y_train=labels)
    y = splits.train.y
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y, LABELS)
    assert splits.info.num_outputs == 4
    assert splits.notes == ()


@pytest.mark.parametrize(
    ("scale", "note"),
    [
        (
            lambda x: x / np.float32(255),
            UNIT,
        ),
        (
            lambda x: (x / 255).astype(">f8"),
            UNIT,
        ),
        (lambda x: x.astype("float32"), None),
        (lambda x: x.astype(">u2"), None),
        (np.asfortranarray, None),
    ],
    ids=["float32 to 1", "float64 to 1", "float32", "uint16", "Fortran's order"],
)
@pytest.mark.parametrize("load_set", [load_images, load_imagenet])
def test_images_of_any_scale_become_the_same_bytes(tmp_path, scale, note, load_set):
    """So that whatever is trained on them is the same, too."""
    x = RNG.integers(0, 256, (8, 6, 6, 3), dtype=np.uint8)
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 0, 255
    arrays = {"x_train": scale(x), "y_train": [0, 1] * 4, "y_test": [0, 1] * 4}
    splits = load_set(write_npz(tmp_path / "d.npz", **arrays, x_test=scale(x)), None)
    for images in (splits.train.x, splits.validation.x):
        assert images.dtype == np.uint8
        assert images.flags.c_contiguous
        np.testing.assert_array_equal(images, x)
    assert [text.partition("pixels ")[2] for text in splits.notes] == [note] * bool(
        note
    )


def test_black_and_white_images_are_of_0_and_255(tmp_path):
    """Truth values, and bytes of which none is above 1."""
    white = IMAGES > 127
    for kind in (bool, "uint8"):
        splits = load(tmp_path, x_train=white.astype(kind), x_test=white[:8])
        np.testing.assert_array_equal(splits.train.x[..., 0], white * 255)
        np.testing.assert_array_equal(splits.validation.x[..., 0], white[:8] * 255)
        assert UNIT in splits.notes[0]


def test_pixels_between_bytes_stay_so(tmp_path):
    """As float32, but for what Pillow resizes."""
    x = RNG.random((8, 6, 6, 3))
    path = write_npz(tmp_path / "d.npz", x_train=x, y_train=[0, 1] * 4, x_test=x)
    images = load_images(path, None).train.x
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, 255 * x, rtol=1e-6)
    same = load_images(path, None, image_size=7).train.x[:, :6, :6]
    np.testing.assert_array_equal(same, images)
    for small in (load_images(path, None, 4), load_imagenet(path, None, 8)):
        assert small.train.x.dtype == np.uint8


@pytest.mark.parametrize(
    ("vectors", "factor", "words"),
    [
        (VECTORS, 255, AS_SUCH),
        (np.abs(VECTORS) / 9, 255, AS_SUCH),
        (IMAGES.reshape(20, -1), 1, "pixels, divided by 255"),
        (
            IMAGES.reshape(20, -1) / 255,
            255,
            UNIT,
        ),
    ],
    ids=["features", "features below 1", "pixels", "scaled pixels"],
)
def test_vectors_are_what_an_mlp_takes(tmp_path, vectors, factor, words):
    """Which divides by 255 itself; models of images refuse them."""
    arrays = {"x_train": vectors, "x_test": vectors[:8]}
    splits = load(tmp_path, **arrays)
    assert splits.info.input_shape == vectors.shape[1:]
    np.testing.assert_allclose(splits.train.x, vectors * factor, rtol=1e-5)
    np.testing.assert_allclose(splits.validation.x, vectors[:8] * factor, rtol=1e-5)
    assert words in splits.notes[0]
    path = write_npz(tmp_path / "d.npz", **arrays)
    for refuse in (
        lambda: load_images(path, None, channels=3),
        lambda: load_images(path, None, image_size=8),
        lambda: load_imagenet(path, None),
    ):
        with pytest.raises(InputError, match="needs images"):
            refuse()


def test_what_a_user_should_know_is_said(tmp_path):
    """Classes without training examples, and pixels that may be on another scale."""
    splits = load(
        tmp_path,
        x_train=IMAGES % 17,
        y_train=1 + LABELS,
        x_test=IMAGES[:8] % 17,
        y_test=[1, 0, 0, 0, 1, 1, 1, 7],
    )
    dark, missing = splits.notes
    assert dark == "d.npz: no pixel is brighter than 16 of 255"
    assert "is of 4 of the 8 classes (0, 5, 6, 7); 4 of the test examples" in missing


BAD = {
    "labels -1 and 1": ({"y_train": 2 * (LABELS % 2) - 1}, "y_train", "-1"),
    "fractional labels": ({"y_train": LABELS + 0.5}, "y_train", "0.5"),
    "NaN labels": ({"y_train": np.where(LABELS, LABELS, np.nan)}, "y_train", "nan"),
    "infinite labels": ({"y_test": np.full(8, np.inf)}, "y_test", "inf"),
    "a label of two billion": ({"y_train": LABELS * 10**9}, "below 20", "1000000000"),
    "one in the test set": ({"y_test": np.full(8, 2**40)}, "y_test", "1099511627776"),
    "more labels": ({"y_train": np.arange(21) % 4}, "20 examples", "(21,)"),
    "fewer labels": ({"y_train": LABELS[:19]}, "20 examples", "(19,)"),
    "no labels": ({"y_test": LABELS[:0]}, "y_test", "(0,)"),
    "a label alone": ({"y_train": 3}, "y_train", "()"),
    "maps of labels": ({"y_train": IMAGES}, "y_train", "(20, 6, 6)"),
    "one class": ({"y_train": LABELS * 0, "y_test": np.zeros(8)}, "two classes", "0"),
    "soft labels": ({"y_train": np.full((20, 4), 0.25)}, "one-hot", "0.25, 0.25"),
    "two classes at once": ({"y_train": np.ones((20, 2))}, "one-hot", "[1.0, 1.0]"),
    "text labels": ({"y_train": LABELS.astype(str)}, "y_train", "<U"),
    "objects": ({"y_train": LABELS.astype(object)}, "y_train", "Object arrays"),
    "text": ({"x_train": IMAGES.astype(str)}, "x_train", "<U3"),
    "complex": ({"x_train": IMAGES * 1j}, "x_train", "complex128"),
    "times": ({"x_test": IMAGES.astype("M8[s]")}, "x_test", "datetime64"),
    "a test set of another size": (
        {"x_test": IMAGES[:8, 1:]},
        "one shape",
        "(5, 6, 1)",
    ),
    "a test set of vectors": ({"x_test": VECTORS[:8]}, "one shape", "(5,)"),
    "scales that differ": ({"x_test": IMAGES[:8] / 255}, "one scale", "up to 1"),
    "NaN pixels": ({"x_train": np.where(IMAGES, IMAGES, np.nan)}, "x_train", "nan in"),
    "infinite pixels": ({"x_test": IMAGES[:8] - np.inf}, "x_test", "-inf in example 0"),
    "too large": (
        {"x_train": VECTORS * 1e300, "x_test": VECTORS[:8]},
        "float32",
        "e+300",
    ),
    "16 bits": (
        {"x_train": IMAGES * np.uint16(257)},
        "0 to 255",
        "uint16 from",
    ),
    "normalized": ({"x_train": IMAGES / 127.5 - 1}, "0 to 255", "-1 to 1"),
    "above 1": ({"x_train": IMAGES / 250}, "0 to 255", "to 1.02"),
    "numbers": ({"x_train": IMAGES[:, 0, 0]}, "x_train", "(20,)"),
    "videos": ({"x_train": IMAGES[:, None, :, :, None]}, "x_train", "(20, 1, 6, 6, 1)"),
    "channels first": ({"x_train": IMAGES[:, None]}, "last", "(20, 1, 6, 6)"),
    "no examples": ({"x_train": IMAGES[:0]}, "x_train", "(0, 6, 6)"),
    "no test examples": ({"x_test": IMAGES[:0]}, "x_test", "(0, 6, 6)"),
    "no pixels": ({"x_test": IMAGES[:8, :0]}, "x_test", "(8, 0, 6)"),
}


@pytest.mark.parametrize("case", BAD)
def test_other_arrays_are_refused_in_one_line(tmp_path, case):
    """It names the file, the array, what is allowed and what was received."""
    changes, *words = BAD[case]
    with pytest.raises(InputError, match=r"--dataset .*d\.npz: ") as error:
        load(tmp_path, **changes)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_damaged_files_are_refused(tmp_path):
    """Empty, cut short, a .npy by another name, or changed anywhere that matters."""
    path = tmp_path / "d.npz"
    write_npz(path)
    whole = path.read_bytes()
    buffer = io.BytesIO()
    np.save(buffer, IMAGES)
    expected = load_npz(str(path))
    contents = [b"", buffer.getvalue(), *(whole[:n] for n in range(1, len(whole), 97))]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"d\.npz"):
            load_npz(str(path))
    for place in range(0, len(whole), 11):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        arrays._load_npz.cache_clear()  # of the same size, maybe of the same time
        with contextlib.suppress(InputError):
            loaded = load_npz(str(path))  # of the archive's dates and the like
            for same, right in zip(loaded[:2], expected[:2], strict=True):
                np.testing.assert_array_equal(same[0], right[0])
                np.testing.assert_array_equal(same[1], right[1])
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="is not a readable"):
        load_npz(str(path))


def test_a_compressed_file_is_read(tmp_path):
    np.savez_compressed(
        tmp_path / "d.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES, y_test=LABELS
    )
    with zipfile.ZipFile(tmp_path / "d.npz") as archive:
        assert archive.infolist()[0].compress_type == zipfile.ZIP_DEFLATED
    (x, y), _ = arrays_of(load_images(str(tmp_path / "d.npz"), None))
    np.testing.assert_array_equal(x[..., 0], IMAGES)
    np.testing.assert_array_equal(y, LABELS)


def test_a_bad_file_is_known_before_a_run_is_recorded(tmp_path, capsys):
    """Exit code 2, one line, nothing written."""
    path = write_npz(tmp_path / "d.npz", y_train=2 * (LABELS % 2) - 1)
    options = ["--dataset", path, "--run_dir", str(tmp_path / "runs")]
    options += ["--tracking_uri", f"sqlite:///{tmp_path}/mlflow.db"]
    assert command.main(["workloads/mnist_mlp", *options]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"run.py: --dataset {path}: y_train must hold classes")
    assert message.count("\n") == 1
    assert os.listdir(tmp_path) == ["d.npz"]


def test_a_path_may_have_a_comma(tmp_path):
    """Which else separates the values of a list."""
    path = write_npz(tmp_path / "a,b.npz")
    (config,) = parse_runs("mnist_mlp", ["--dataset", path])
    assert config.dataset == path
    assert len(parse_runs("mnist_mlp", ["--dataset", f"{path},mnist_5k"])) == 3
