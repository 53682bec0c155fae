"""Images in folders of classes: what is taken of them, and how the rest is refused."""

import hashlib
import io
import json
import os
import re
import sys
from glob import glob
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import run as command
from samkeras.data import content, image_folders, images, reading
from samkeras.data.image_folders import list_folder
from samkeras.data.imagenet import load_imagenet
from samkeras.data.images import load_images, resize_square
from samkeras.errors import InputError
from samkeras.files import read_file
from tests.helpers import arrays_of

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (30, 6, 6, 3), dtype=np.uint8)
CLASSES = ("cat", "dog", "owl")


def write(root, pictures=COLOURS, classes=CLASSES, suffix=".png"):
    """Images in class folders, one after the other."""
    for number, picture in enumerate(pictures):
        folder = root / classes[number % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        grey = picture.ndim == 3 and picture.shape[-1] == 1
        image = Image.fromarray(picture[..., 0] if grey else picture)
        image.save(folder / f"{number:03}{suffix}")
    return str(root)


def sort(x, y) -> list:
    """Images and labels whatever their order."""
    return sorted(
        (int(label), image.tobytes()) for image, label in zip(x, y, strict=True)
    )


@pytest.mark.one_backend
def test_pixels_and_classes_are_those_of_the_files(tmp_path):
    """Every image once; of each class, one in five to validate on, which is said."""
    splits = load_images(write(tmp_path / "d"), None)
    (x, y), (x_test, y_test) = arrays_of(splits)
    assert np.bincount(y).tolist() == [8, 8, 8]
    assert np.bincount(y_test).tolist() == [2, 2, 2]
    expected = sort(COLOURS, np.arange(30) % 3)
    assert sort(np.concatenate([x, x_test]), np.concatenate([y, y_test])) == expected
    assert splits.info.input_shape == (6, 6, 3)
    assert splits.info.num_train == 24
    assert splits.files["classes.txt"].split() == [*CLASSES]
    (note,) = splits.notes
    assert "no part to validate on: one in 5 is, 6 of 30 images" in note
    again = arrays_of(load_images(str(tmp_path / "d"), None))
    np.testing.assert_array_equal(again[0][0], x)


@pytest.mark.one_backend
@pytest.mark.parametrize("test", ["test", "val"])
def test_parts_are_folders(tmp_path, test):
    write(tmp_path / "train")
    write(tmp_path / test, COLOURS[:6])
    splits = load_images(str(tmp_path), None)
    assert len(splits.train) == 30
    assert sort(*arrays_of(splits)[1]) == sort(COLOURS[:6], np.arange(6) % 3)
    assert not splits.notes


@pytest.mark.one_backend
@pytest.mark.parametrize("names", ["Train Test", "training testing", "TRAIN dev"])
def test_parts_may_be_called_otherwise(tmp_path, names):
    """Not taken for two classes that hold images of all kinds."""
    train, test = names.split()
    write(tmp_path / train)
    write(tmp_path / test, COLOURS[:6])
    splits = load_images(str(tmp_path), None)
    assert (len(splits.train), len(splits.validation)) == (30, 6)
    assert splits.files["classes.txt"].split() == [*CLASSES]


@pytest.mark.one_backend
def test_what_is_called_test_is_for_the_end(tmp_path):
    """Where there is a part to validate on; what is left out is said."""
    write(tmp_path / "train")
    write(tmp_path / "Val", COLOURS[:6])
    known = load_images(str(tmp_path), None)
    write(tmp_path / "test", COLOURS[6:15])
    splits = load_images(str(tmp_path), None)
    assert len(splits.validation) == 6
    (note,) = splits.notes
    assert note == f"{tmp_path.name} is validated on Val/; left out: test/"
    assert splits.content == known.content
    (tmp_path / "Val").rename(tmp_path / "testing")
    splits = load_images(str(tmp_path), None)
    assert len(splits.validation) == 9
    assert splits.content != known.content
    assert "validated on test/; left out: testing/" in splits.notes[0]


@pytest.mark.one_backend
def test_what_systems_leave_in_folders_is_no_image_and_no_class(tmp_path):
    path = write(tmp_path)
    known = load_images(path, None)
    for name in (".DS_Store", "cat/.DS_Store", "cat/._000.png", "__MACOSX/cat/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    splits = load_images(path, None)
    assert splits.content == known.content
    assert splits.notes == known.notes


@pytest.mark.one_backend
def test_an_empty_file_is_found_before_a_stream_comes_to_it(tmp_path):
    path = write(tmp_path)
    damage(tmp_path, "0.png", b"")
    with pytest.raises(InputError, match=r"0\.png is not a readable image \(it is em"):
        load_imagenet(path, None, 4)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<!DOCTYPE html><html></html>", r"0\.jpg is .* JPEG nor PNG: .*'<!DOCTYP'"),
        (None, r"must have pixels of 8 bits\. Received: .*0\.jpg of 16"),
    ],
)
@pytest.mark.parametrize("small", [2**20, 8], ids=["small", "large"])
def test_what_is_no_image_is_found_before_a_stream_comes_to_it(
    tmp_path, monkeypatch, capsys, data, words, small
):
    """While the files are read for their content: a page of the web, or 16 bits."""
    monkeypatch.setattr(content, "SMALL", small)
    path = write(tmp_path)
    if data is None:
        deep = io.BytesIO()
        Image.fromarray(np.zeros((6, 6), "uint16")).save(deep, "png")
        data = deep.getvalue()
    damage(tmp_path, "0.jpg", data)
    given = ["--dataset", path, "--image_size", "32", "--dry_run"]
    assert command.main(["workloads/imagenet_resnet50", *given]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert re.search(words, message), message


@pytest.mark.one_backend
@pytest.mark.parametrize("first", ["grey", "colour"])
def test_grey_and_colour_may_be_mixed(tmp_path, first):
    """Whichever is read first; all are then in colour, and that is said once."""
    path = write(tmp_path)
    name = Path(list_folder(tmp_path).train.paths[0])
    others = set(tmp_path.glob("*/*.png")) - {name}
    for file in [name] if first == "grey" else others:
        Image.open(file).convert("L").save(file)
    splits = load_images(path, None)
    (x, _), (x_test, _) = arrays_of(splits)
    assert splits.info.input_shape == x.shape[1:] == x_test.shape[1:] == (6, 6, 3)
    np.testing.assert_array_equal(x[0], np.asarray(Image.open(name).convert("RGB")))
    told = [note for note in splits.notes if "grey images and others" in note]
    assert len(told) == 1


@pytest.mark.one_backend
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_images_that_are_all_grey_have_one_channel(tmp_path, suffix):
    splits = load_images(write(tmp_path, COLOURS[..., :1], suffix=suffix), None)
    assert arrays_of(splits)[0][0].shape[1:] == (6, 6, 1)
    assert len(splits.notes) == 1


@pytest.mark.one_backend
def test_reading_a_stream_s_files_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reading, "PATIENCE", -1)
    monkeypatch.setattr(reading, "FIRST", 0)
    monkeypatch.setattr(reading, "CHUNK", 20)
    path = write(tmp_path)
    _ = load_imagenet(path, None, 4).content
    assert capsys.readouterr().err == ""  # of what is no terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _ = load_imagenet(path, None, 4).content
    shown = capsys.readouterr().err
    assert shown.startswith(
        "\rreading files: 0 of 30\rreading files: 20 of 30\rread 30"
    )


@pytest.mark.one_backend
def test_a_class_may_be_called_train(tmp_path):
    """Where it holds images, beside other vehicles."""
    splits = load_images(write(tmp_path, classes=("bus", "car", "train")), None)
    assert splits.files["classes.txt"].split() == ["bus", "car", "train"]
    assert len(splits.train) == 24


@pytest.mark.one_backend
def test_an_npz_of_its_images_is_the_same_data(tmp_path):
    """In the same order: whatever is trained on them is the same, too."""
    grey = COLOURS[..., :1]
    path = write(tmp_path / "d", grey, ("0", "1", "10"))
    for options in ({}, {"channels": 3, "image_size": 8}, {"image_size": 4}):
        (x, y), (v, w) = arrays_of(load_images(path, None))
        np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=v, y_test=w)
        found, expected = (
            arrays_of(load_images(str(name), None, **options))
            for name in (path, tmp_path / "d.npz")
        )
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.one_backend
def test_images_of_any_sizes_and_modes(tmp_path):
    """JPEG and PNG, grey, in colour, with a palette or alpha: each resized alone."""
    path = write(tmp_path, [RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)] * 4)
    odd = Image.fromarray(RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8))
    for mode, suffix in (("L", "JPG"), ("RGBA", "png"), ("P", "png"), ("CMYK", "jpeg")):
        odd.convert(mode).save(tmp_path / "owl" / f"{mode}.{suffix}")
    (tmp_path / "owl" / "notes.txt").write_text("no image")
    splits = load_images(path, None, image_size=5, channels=3)
    (x, _), (x_test, _) = arrays_of(splits)
    assert len(x) + len(x_test) == 8
    assert x.shape[1:] == (5, 5, 3)
    image = np.asarray(Image.open(tmp_path / "owl" / "L.JPG").convert("RGB"))
    together = np.concatenate([x, x_test])
    assert (together == resize_square(image, 5)).all(axis=(1, 2, 3)).sum() == 1
    *_, left_out, mixed = splits.notes
    assert "1 files that are neither JPEG nor PNG" in left_out
    assert mixed == f"{tmp_path.name}: grey images and others, all taken in colour"


@pytest.mark.one_backend
def test_content_is_that_of_the_images_and_their_classes(tmp_path):
    path = write(tmp_path / "d")
    known = load_images(path, None).content
    (tmp_path / "d" / "readme.txt").write_text("new")
    assert load_images(path, None).content == known
    os.rename(tmp_path / "d" / "cat" / "000.png", tmp_path / "d" / "dog" / "000.png")
    assert load_images(path, None).content != known


@pytest.fixture
def reads(tmp_path, monkeypatch):
    """The files that are read, of a folder that is taken for large."""
    paths = []

    def read(path) -> bytes:
        paths.append(path)
        return read_file(path)

    for module in (content, image_folders):
        monkeypatch.setattr(module, "read_file", read)
    monkeypatch.setattr(content, "KEPT_FILES", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return paths


@pytest.mark.one_backend
@pytest.mark.parametrize("size", [6, 5], ids=["of one size", "of two sizes"])
def test_a_large_folder_is_read_once(tmp_path, monkeypatch, reads, size):
    """For its content and its images at once, which wait until they are asked for by
    whoever describes it again; then once more for the images alone."""
    pictures = [*COLOURS[1:], COLOURS[0, :size]]
    path = write(tmp_path / "d", pictures)
    known = load_images(path, None, 6).content
    # Two more for the size, and what was decoded before another size was met.
    assert len(reads) <= (32 if size == 6 else 62)
    reads.clear()
    splits = load_images(path, None, 6)
    found = arrays_of(splits)
    assert (len(reads), images._decoded) == (1, {})
    again = arrays_of(load_images(path, None, 6))
    assert len(reads) > 30
    monkeypatch.setattr(images, "AHEAD", 0)
    (tmp_path / "d" / "owl" / "002.png").touch()
    apart = load_images(path, None, 6)
    assert known == splits.content == apart.content
    for parts in (again, arrays_of(apart)):
        for (x, y), (x_known, y_known) in zip(parts, found, strict=True):
            np.testing.assert_array_equal(x, x_known)
            np.testing.assert_array_equal(y, y_known)


@pytest.mark.one_backend
@pytest.mark.parametrize("kept_files", [1, 1000], ids=["large", "small"])
def test_content_is_the_digest_of_names_and_digests(tmp_path, monkeypatch, kept_files):
    """By hand; that of a version before is that of the same runs."""
    monkeypatch.setattr(content, "KEPT_FILES", kept_files)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write(tmp_path / "d", classes=("cat", 'd"g', "öwl"))
    files = {f[len(path) + 1 :]: Path(f).read_bytes() for f in glob(f"{path}/*/*")}
    digests = [[n, hashlib.sha256(files[n]).hexdigest()] for n in sorted(files)]
    by_hand = hashlib.sha256(json.dumps(digests).encode()).hexdigest()
    found = load_images(path, None).content
    assert found == (sum(map(len, files.values())), by_hand)


@pytest.mark.one_backend
def test_large_folders_are_streamed(tmp_path, monkeypatch):
    """As ImageNet is, whole and in an order of the seed, and held out or noisy."""
    path = write(tmp_path, COLOURS.repeat(5, axis=1).repeat(5, axis=2), suffix=".jpg")
    stream = load_imagenet(path, None, 4).train
    monkeypatch.setattr(images, "memory_limit", lambda: 100)
    with pytest.raises(InputError, match="do not fit into memory"):
        load_images(path, None)
    assert type(load_images(path, None, 4, 3).train) is type(stream)
    orders = []
    for seed in (1, 1, 2):
        batches = stream.batches(8, seed, augment=True)
        found = [batches[i] for i in range(3)]
        assert found[0][0].shape == (8, 4, 4, 3)
        orders.append(np.concatenate([y for _, y in found]).tolist())
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(stream.y)
    later = stream.batches(8, 2, augment=True)[2]  # as a run that goes on there asks
    for ours, theirs in zip(later, found[2], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    noisy, *_ = stream.with_label_noise(0.25, 3, 0)
    evaluated = np.concatenate([y for _, y in map(noisy.batches(24).__getitem__, [0])])
    assert (evaluated != stream.y).sum() == round(0.25 * 24)
    held, rest = stream.hold_out(4)
    assert (len(held), len(rest)) == (4, 20)


def damage(root, name, content: bytes):
    (root / "cat" / name).write_bytes(content)


PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 40
BAD = {
    "empty file": (lambda root: damage(root, "0.png", b""), "0.png", "it is empty"),
    "no image": (lambda root: damage(root, "0.png", PNG), "0.png", "not a readable"),
    "cut short": (
        lambda root: damage(
            root, "000.png", (root / "cat" / "000.png").read_bytes()[:90]
        ),
        "000.png",
        "not a readable image",
    ),
    "sixteen bits": (
        lambda root: Image.fromarray(np.zeros((6, 6), "uint16")).save(
            root / "cat" / "9.png"
        ),
        "9.png",
        "8 bits",
    ),
    "no class folders": (
        lambda root: [os.rename(root / c, root / f".{c}") for c in CLASSES],
        "no folder",
        "two classes or more",
    ),
    "one class": (
        lambda root: [os.rename(root / c, root / f".{c}") for c in CLASSES[1:]],
        "Received: cat",
        "two classes or more",
    ),
    "an empty class": (lambda root: (root / "emu").mkdir(), "emu", "must hold images"),
    "an unknown class in test": (
        lambda root: (
            write(root / "train"),
            write(root / "test", COLOURS[:3], ("cta", "dog", "owl")),
        ),
        "test/cta",
        "did you mean cat?",
    ),
    "one of each class": (
        lambda root: write(root / "b", COLOURS[:3]),
        "two images or more of a class",
        "3 images",
    ),
    "parts without train": (
        lambda root: (write(root / "b" / "test"), write(root / "b" / "val")),
        "beside test, val",
        "folder train",
    ),
    "parts without classes": (
        lambda root: write(root / "b", classes=("train", "test")),
        "b/train",
        "two classes or more",
    ),
    "sizes that differ": (
        lambda root: Image.fromarray(COLOURS[0, :5]).save(root / "cat" / "000.png"),
        "(5, 6)",
        "of one size",
    ),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("case", BAD)
def test_other_folders_are_refused_in_one_line(tmp_path, case, capsys, records):
    """With exit code 2; it names the file or the folder."""
    change, *words = BAD[case]
    write(tmp_path / "d")
    change(tmp_path / "d")
    root = tmp_path / "d"
    root = root / "b" if (root / "b").is_dir() else root
    arguments = ["workloads/mnist_mlp", "--dataset", str(root)]
    arguments += ["--run_dir", str(tmp_path / "runs"), "--epochs", "1"]
    assert command.main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("run.py: --dataset")
    assert message.count("\n") == 1
    assert all(word in message for word in words), message
    assert not (tmp_path / "runs").exists()


@pytest.mark.one_backend
def test_images_of_keras(monkeypatch):
    """As keras has them in its own cache, or what there is."""
    import keras

    arrays = (COLOURS, np.arange(30)[:, None] % 10), (COLOURS[:5], np.arange(5))
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: arrays)
    splits = load_images("keras:cifar10", None, 32, 3)
    assert splits.info.num_outputs == 10
    assert not splits.is_read
    np.testing.assert_array_equal(splits.train.x[:, 13:19, 13:19], COLOURS)

    def fail():
        raise OSError("no route")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)
    with pytest.raises(InputError, match=r"cannot be downloaded.*no route"):
        _ = load_images("keras:mnist", None).train
    with pytest.raises(InputError, match="did you mean mnist"):
        load_images("keras:mnits", None)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "options",
    [{}, {"image_size": 80}, {"image_size": 16}, {"image_size": 16, "channels": 3}],
    ids=["as they are", "padded", "resized", "resized grey"],
)
def test_reading_takes_no_more_memory_than_the_images(tmp_path, options):
    """Threads write what is to be trained on into one array, whatever is made of it."""
    import tracemalloc

    channels = 1 if "channels" in options else 3
    pictures = RNG.integers(0, 256, (200, 64, 64, channels), dtype=np.uint8)
    path = write(tmp_path, pictures)
    # What is imported, and the threads' own.
    _ = load_images(path, None, **options).train
    splits = load_images(path, None, **options)
    tracemalloc.start()
    size = splits.train.x.nbytes + splits.validation.x.nbytes
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size + 0.2 * pictures.nbytes
