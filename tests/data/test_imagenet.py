"""Streamed images: sets built by the real TFDS builders, checked against Pillow."""

import dataclasses
import io
import tarfile

import keras
import numpy as np
import pytest
from PIL import Image

import run as command
from samkeras.data import decoding, images, tfds_sets
from samkeras.data.image_stream import CorruptImageError, ImageStream
from samkeras.data.imagenet import load_imagenet
from samkeras.data.images import load_images
from samkeras.data.label_noise import add_label_noise
from samkeras.data.resized_crop import (
    NUM_DRAWS,
    TRIES,
    ResizedCrop,
    centre_box,
    random_box,
)
from samkeras.errors import InputError

pytestmark = pytest.mark.one_backend

tf = pytest.importorskip("tensorflow")
tfds = tfds_sets.import_tfds()

# Three classes of ImageNet; TFDS numbers them in the order of the synsets.
SYNSETS = {"n01440764": 0, "n01443537": 1, "n01739381": 59}
CMYK = "n01739381_1309.JPEG"  # one of the real set's CMYK images
GREY = "n01440764_7.JPEG"
NUM_TRAIN, NUM_VALIDATION = 39, 9


def smooth_image(seed: int, height: int, width: int, mode: str = "RGB") -> Image.Image:
    """Random colours, blurred."""
    channels = len(mode) if mode != "L" else 1
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, channels), "uint8")
    small = small[..., 0] if mode == "L" else small
    return Image.fromarray(small, mode=mode).resize(
        (width, height), Image.Resampling.BICUBIC
    )


def encode(image: Image.Image, **kwargs) -> bytes:
    file = io.BytesIO()
    image.save(file, **kwargs)
    return file.getvalue()


def write_tar(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def train_images() -> dict[str, dict[str, bytes]]:
    """JPEG files of several sizes by synset, as in ILSVRC2012_img_train.tar."""
    files = {synset: {} for synset in SYNSETS}
    for seed in range(NUM_TRAIN):
        synset = list(SYNSETS)[seed % 3]
        name, mode = f"{synset}_{seed + 1}.JPEG", "RGB"
        if seed == 6:
            name, mode = GREY, "L"
        if seed == 8:
            name, mode = CMYK, "CMYK"
        image = smooth_image(seed, 60 + 5 * (seed % 4), 90 - 7 * (seed % 3), mode)
        files[synset][name] = encode(image, format="JPEG", subsampling=0)
    return files


def write_archives(data_dir, train: dict[str, dict[str, bytes]]) -> None:
    """ILSVRC2012's own layout: an archive of one archive a synset, and a flat one."""
    folder = data_dir / "downloads" / "manual"
    folder.mkdir(parents=True)
    synsets = {f"{synset}.tar": write_tar(files) for synset, files in train.items()}
    (folder / "ILSVRC2012_img_train.tar").write_bytes(write_tar(synsets))
    names = [f"ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(NUM_VALIDATION)]
    validation = {
        name: encode(smooth_image(100 + i, 70, 96), format="JPEG", quality=95)
        for i, name in enumerate(names)
    }
    (folder / "ILSVRC2012_img_val.tar").write_bytes(write_tar(validation))


def prepare(data_dir, train: dict[str, dict[str, bytes]]):
    write_archives(data_dir, train)
    builder = tfds.builder("imagenet2012", data_dir=data_dir)
    # Several files, as the real set has.
    config = tfds.download.DownloadConfig(num_shards=4)
    builder.download_and_prepare(download_config=config)
    return builder


@pytest.fixture(scope="session")
def builder(tmp_path_factory):
    """A miniature imagenet2012, prepared by the real builder."""
    return prepare(tmp_path_factory.mktemp("imagenet"), train_images())


@pytest.fixture
def stream(builder) -> ImageStream:
    return ImageStream(builder, "train", size=32)


def take(batches, epoch: int = 0, first_batch: int = 0) -> list[tuple]:
    batches.start_epoch(epoch, first_batch)
    return [batches[i] for i in range(batches.left)]


def names_in_order(stream: ImageStream) -> list[str]:
    return [r["name"].decode() for r in stream.records().as_numpy_iterator()]


def assert_same(batches: list[tuple], others: list[tuple]) -> None:
    assert len(batches) == len(others)
    for (x, y), (other_x, other_y) in zip(batches, others, strict=True):
        np.testing.assert_array_equal(x, other_x)
        np.testing.assert_array_equal(y, other_y)


def keys(batches: list[tuple]) -> list[bytes]:
    """Something that tells images apart."""
    return [image.tobytes() for x, _ in batches for image in x]


def centre_by_pillow(encoded: bytes, size: int) -> np.ndarray:
    """The evaluation crop, by Pillow's decoder and an interpolation in NumPy."""
    image = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"), "float64")
    side = min(image.shape[:2]) * size // (size + 32)
    top, left = ((n - side + 1) // 2 for n in image.shape[:2])
    image = image[top : top + side, left : left + side]
    weights = bicubic_weights(side, size)
    image = np.einsum("ij,kl,jlc->ikc", weights, weights, image)
    return image.round().clip(0, 255)


def bicubic_weights(num_inputs: int, num_outputs: int) -> np.ndarray:
    """Keys' cubic convolution with a = -1/2 at pixel centres: [output, input]."""
    centres = (np.arange(num_outputs) + 0.5) * num_inputs / num_outputs - 0.5
    t = np.abs(centres[:, np.newaxis] - np.arange(num_inputs))
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    weights = np.where(t <= 1, near, np.where(t < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)


def test_archives_are_prepared_and_read_end_to_end(tmp_path, monkeypatch):
    """From ILSVRC2012's own archives to batches; labels are the synsets' numbers, and
    the validation set's those that TFDS has for its file names."""
    known = ((None, None, 3), 1_000, NUM_TRAIN, NUM_VALIDATION)
    monkeypatch.setitem(tfds_sets.KNOWN, "imagenet2012", known)
    write_archives(tmp_path, train_images())
    splits = load_imagenet("imagenet2012", str(tmp_path), size=32)
    assert splits.info.input_shape == (32, 32, 3)
    assert splits.info.num_classes == 1_000
    assert not (tmp_path / "imagenet2012").exists()  # only described so far
    assert (len(splits.train), len(splits.validation)) == (NUM_TRAIN, NUM_VALIDATION)
    for record in splits.train.records().as_numpy_iterator():
        synset = record["name"].decode().split("_")[0]
        assert record["label"] == SYNSETS[synset]
    ((x, y),) = take(splits.validation.batches(16))
    assert (x.shape, x.dtype, y.dtype) == ((9, 32, 32, 3), np.uint8, np.int32)
    order = np.argsort(names_in_order(splits.validation))
    # The true labels of ILSVRC2012_val_00000001.JPEG and those after it.
    np.testing.assert_array_equal(y[order], [65, 970, 230, 809, 516, 57, 334, 415, 674])
    assert splits.transform is None


def test_centre_crops_equal_an_independent_rendering(stream):
    """Every training image, grey ones too, against Pillow and NumPy, to 1 of 255
    levels: both decoders are libjpeg, sums in float32 are rounded."""
    files = {k: v for files in train_images().values() for k, v in files.items()}
    crops = np.concatenate(
        [x for x, _ in take(dataclasses.replace(stream, size=40).batches(16))]
    )
    for name, crop in zip(names_in_order(stream), crops, strict=True):
        if name == CMYK:
            continue  # TFDS stores it in another encoding, see below
        difference = np.abs(crop - centre_by_pillow(files[name], 40))
        assert difference.max() <= 1, name
        if name == GREY:
            assert np.ptp(crop, axis=-1).max() == 0


def test_cmyk_has_the_right_colours(builder, stream):
    """TFDS encodes the CMYK images that it knows of anew, with chroma at half the
    resolution, hence the mean; an unknown one is converted as Pillow does it."""
    files = {k: v for files in train_images().values() for k, v in files.items()}
    crops = np.concatenate(
        [x for x, _ in take(dataclasses.replace(stream, size=40).batches(16))]
    )
    known = crops[names_in_order(stream).index(CMYK)]
    assert np.abs(known - centre_by_pillow(files[CMYK], 40)).mean() < 3
    render = decoding.make_renderer(40, augment=False)
    unknown = render(tf.constant(files[CMYK]), 0, 0)
    assert np.abs(unknown.numpy() - centre_by_pillow(files[CMYK], 40)).max() <= 2


def sampled_boxes(height: int, width: int, count: int) -> np.ndarray:
    """Boxes of TensorFlow's own sampler, as the paper's authors call it:
    int32[box, (top, left, height, width)]."""

    def sample(seed):
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            [height, width, 3],
            tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            seed=tf.stack([seed, 0]),
            min_object_covered=0.1,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
        )
        return tf.concat([begin[:2], size[:2]], 0)

    return next(iter(tf.data.Dataset.range(count).map(sample).batch(count))).numpy()


def largest_gap(one: np.ndarray, other: np.ndarray) -> float:
    """Kolmogorov and Smirnov's distance of two samples."""
    places = np.concatenate([one, other])
    shares = (
        np.searchsorted(np.sort(x), places, "right") / len(x) for x in (one, other)
    )
    return np.abs(next(shares) - next(shares)).max()


@pytest.mark.parametrize(
    ("height", "width", "mean_area", "median_aspect"),
    [(375, 500, 0.387, 1.043), (500, 500, 0.422, 1.042), (28, 28, 0.428, 1.043)],
)
def test_random_crops_are_distributed_as_tensorflow_s(
    height, width, mean_area, median_aspect
):
    """Areas, aspects and places, against the operation that the paper's authors use."""
    count = 5_000
    draws = np.random.default_rng(0).random((count, NUM_DRAWS), dtype="float32")
    boxes = np.stack(random_box(draws, height, width, 224), axis=-1)
    areas, aspects = (
        boxes[:, 2] * boxes[:, 3] / (height * width),
        boxes[:, 3] / boxes[:, 2],
    )
    assert areas.min() >= 0.1
    # Five standard deviations of the mean; of a median, about as many.
    assert areas.mean() == pytest.approx(mean_area, abs=5 * 0.23 / count**0.5)
    assert np.median(aspects) == pytest.approx(median_aspect, abs=5 * 0.2 / count**0.5)
    theirs = sampled_boxes(height, width, count)
    features = (
        (x[:, 0], x[:, 1], x[:, 2] * x[:, 3], x[:, 3] / x[:, 2])
        for x in (boxes, theirs)
    )
    for ours, expected in zip(*features, strict=True):
        # As far apart are one in a thousand pairs of samples.
        assert largest_gap(ours, expected) < 1.95 * (2 / count) ** 0.5


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (224, 224)])
def test_random_crops_keep_to_their_bounds(height, width):
    """10 to 100 % of the area and 3/4 to 4/3 of aspect but for rounding to pixels,
    inside the image, anywhere in it but at the very last place, which TensorFlow's
    sampler leaves out."""
    draws = np.random.default_rng(0).random((20_000, NUM_DRAWS), dtype="float32")
    top, left, crop_height, crop_width = random_box(draws, height, width, 224)
    for start, side, whole in ((top, crop_height, height), (left, crop_width, width)):
        assert np.all(start[side == whole] == 0)
        ends = (start + side)[side < whole]
        assert (start.min(), ends.max()) == (0, whole - 1)
    area = crop_height * crop_width / (height * width)
    assert 0.1 <= area.min() < 0.101
    assert 0.95 * min(height, width) / max(height, width) < area.max() < 1
    # The width is rounded by half a pixel: 1 % of the smallest one here.
    aspect = crop_width / crop_height
    assert 0.75 * 0.99 < aspect.min() < 0.76
    assert 1.32 < aspect.max() < 4 / 3 * 1.01


def test_image_that_no_crop_fits_into_is_cropped_in_its_centre():
    """A strip of 10 x 1,000 pixels has no crop of 8 % at an aspect below 4/3."""
    draws = np.random.default_rng(0).random((100, NUM_DRAWS), dtype="float32")
    boxes = np.stack(random_box(draws, 10, 1_000, 224))
    assert np.all(boxes == np.reshape(centre_box(10, 1_000, 224), (4, 1)))


def test_first_try_that_fits_is_taken():
    """The second one, where the first has less than a tenth of the area; and a crop of
    the whole image is its centre's."""
    draws = np.full((2, NUM_DRAWS), 0.5, "float32")
    draws[0, TRIES] = 0  # the lowest of the heights, 28 of 100 pixels at an aspect of 1
    draws[:, :TRIES] = (1 - 3 / 4) / (4 / 3 - 3 / 4)
    draws[1, TRIES:] = 0.999
    _, _, height, width = random_box(draws, 100, 100, 224)
    assert height.tolist() == width.tolist() == [28 + 73 // 2, 87]


@pytest.mark.parametrize(("shorter", "side"), [(375, 328), (333, 291), (500, 437)])
def test_centre_crops_have_the_authors_sides(shorter, side):
    """7/8 of the shorter side, cut off."""
    top, left, *sides = centre_box(shorter, 600, 224)
    assert sides == [side, side]
    assert (top, left) == ((shorter - side + 1) // 2, (600 - side + 1) // 2)


def test_geometry_is_the_same_in_tensorflow():
    """One function for arrays and tensors: the same boxes, to the one pixel by which
    the roundings of float32 may differ."""
    draws = np.random.default_rng(0).random((500, NUM_DRAWS), dtype="float32")
    xp = tf.experimental.numpy
    for box, other in (
        (random_box(draws, 90, 120, 64), random_box(draws, 90, 120, 64, xp)),
        (centre_box(90, 120, 64), centre_box(tf.constant(90), 120, 64, xp)),
    ):
        for ours, theirs in zip(box, other, strict=True):
            assert np.abs(ours - theirs.numpy()).max() <= 1


def test_epochs_are_a_function_of_seed_and_epoch(stream):
    """Order and crops: the same again whatever came before, and in a fresh object;
    others in another epoch or with another seed."""
    batches = stream.batches(16, 1, augment=True)
    second = take(batches, 1)
    first = take(batches, 0)
    assert_same(take(batches, 1), second)
    assert_same(take(stream.batches(16, 1, augment=True), 1), second)
    assert not set(keys(first)) & set(keys(second))
    order = [y.tolist() for _, y in second]
    assert [y.tolist() for _, y in first] != order
    assert [
        y.tolist() for _, y in take(stream.batches(16, 2, augment=True), 1)
    ] != order


def test_crops_do_not_depend_on_the_order(stream):
    """An example's crop is decided by its index in the split: with half of the set, the
    same examples have the same crops."""
    whole = keys(take(stream.batches(16, 1, augment=True)))
    half = keys(take(stream.first(20).batches(16, 1, augment=True)))
    assert len(half) == 20
    assert set(half) < set(whole)


def test_every_example_has_crops_of_its_own():
    """One image under 200 indices: 200 crops, about half of them mirrored, and the same
    ones again from the same seed."""
    # Red tells the column, green the row.
    places = np.stack(np.indices((120, 150))[[1, 0, 0]], axis=-1).astype("uint8")
    encoded = tf.constant(encode(Image.fromarray(places), format="PNG"))
    render = decoding.make_renderer(16, augment=True)
    crops = [render(encoded, i, 7).numpy().astype(int) for i in range(200)]
    assert len({crop.tobytes() for crop in crops}) == 200
    mirrored = sum(crop[0, 0, 0] > crop[0, -1, 0] for crop in crops)
    assert abs(mirrored - 100) < 5 * 50**0.5  # five standard deviations
    np.testing.assert_array_equal(render(encoded, 3, 7), crops[3])
    assert np.any(render(encoded, 3, 8).numpy() != crops[3])


def test_flips_and_crops_are_left_out_on_request(stream):
    """Shuffled, but centre crops: augment=False."""
    plain = keys(take(stream.batches(16)))
    shuffled = keys(take(stream.batches(16, 1)))
    assert plain != shuffled
    assert sorted(plain) == sorted(shuffled)


def test_epoch_is_resumed_in_its_midst(stream):
    """From batch 1 on: the same batches as of the whole epoch."""
    batches = stream.batches(16, 1, augment=True)
    whole = take(batches, 3)
    assert [len(y) for _, y in whole] == [16, 16, 7]
    fresh = stream.batches(16, 1, augment=True)
    assert_same(take(fresh, 3, first_batch=1), whole[1:])
    assert (fresh.left, fresh.total) == (2, 3)


@pytest.mark.parametrize("order", [[0, 0, 1, 0, 1, 2], [2, 0, 1], [0, 1, 2, 0]])
def test_batches_are_right_in_any_order(stream, order):
    """Keras looks at the first batches before it trains, and evaluates again and
    again without saying that it starts anew."""
    batches = stream.batches(16, 1, augment=True)
    whole = take(batches)
    fresh = stream.batches(16, 1, augment=True)
    assert_same([fresh[i] for i in order], [whole[i] for i in order])
    with pytest.raises(IndexError):
        fresh[3]


def test_looking_at_first_batches_costs_nothing(stream, monkeypatch):
    """Batches that keras takes twice are made once."""
    started = []
    records = ImageStream.records
    monkeypatch.setattr(
        ImageStream, "records", lambda *args: started.append(1) or records(*args)
    )
    batches = stream.batches(16, 1, augment=True)
    batches.start_epoch(0)
    assert (batches[0][0].shape, batches[1][0].shape) == ((16, 32, 32, 3),) * 2
    batches.start_epoch(0)
    assert [len(batches[i][0]) for i in range(3)] == [16, 16, 7]
    assert len(started) == 1


@pytest.mark.each_backend
def test_model_trains_and_is_validated_on_streams(builder, stream):
    """fit on either backend: every example once an epoch, the last batch smaller."""
    inputs = keras.Input((16, 16, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(60)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss=loss)
    seen = []
    stream = dataclasses.replace(stream, size=16)
    batches = stream.batches(16, 1, augment=True)
    start = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: batches.start_epoch(epoch),
        on_train_batch_end=lambda batch, logs: seen.append(batch),
    )
    history = model.fit(
        batches,
        epochs=2,
        shuffle=False,
        validation_data=stream.first(20).batches(16),
        callbacks=[start],
        verbose=0,
    ).history
    assert seen == [0, 1, 2] * 2
    assert len(set(keys(take(batches, 0)))) == NUM_TRAIN
    expected = model.evaluate(stream.first(20).batches(20), verbose=0)
    # Means over batches of another size, in float32.
    assert history["val_loss"][-1] == pytest.approx(expected, rel=1e-5)


def test_parts_of_a_stream(stream):
    """The first examples, and a part held out: ranges in the order of files."""
    names = names_in_order(stream)
    assert len(stream) == len(set(names)) == NUM_TRAIN
    assert names_in_order(stream.first(5)) == names[:5]
    held_out, rest = stream.first(30).hold_out(10)
    assert (len(held_out), len(rest)) == (10, 20)
    assert names_in_order(held_out) == names[:10]
    assert names_in_order(rest) == names[10:30]
    assert len(stream.first(None)) == len(stream.first(1_000)) == NUM_TRAIN


@pytest.mark.parametrize("num_hosts", [2, 5])
def test_hosts_share_the_examples(stream, num_hosts):
    """Disjoint parts, equally many but for the last one's remainder, together all; the
    crops are those of a single host."""
    whole = keys(take(stream.batches(16, 1, augment=True)))
    parts = [
        keys(take(stream.part(host, num_hosts).batches(4, 1, augment=True)))
        for host in range(num_hosts)
    ]
    size = -(-NUM_TRAIN // num_hosts)
    sizes = [size] * (num_hosts - 1)
    assert [len(part) for part in parts] == [*sizes, NUM_TRAIN - sum(sizes)]
    assert sorted(key for part in parts for key in part) == sorted(whole)


def test_padded_batches_count_every_example_once(stream):
    """Of two hosts with two devices each, both have the same batches, filled up to
    share; the weighted mean over both is that of the 39 examples."""
    hosts = [stream.batches(16, multiple_of=4, process=(host, 2)) for host in range(2)]
    labels, weights = [], []
    for host in hosts:
        batches = [host[i] for i in range(host.left)]
        assert [len(x) for x, _, _ in batches] == [8, 8, 4]
        labels += [y for _, y, _ in batches]
        weights += [w for _, _, w in batches]
    labels, weights = np.concatenate(labels), np.concatenate(weights)
    true = np.concatenate([y for _, y in take(stream.batches(16))])
    assert np.count_nonzero(weights) == NUM_TRAIN
    np.testing.assert_array_equal(labels[weights > 0], true)
    assert np.mean(labels * weights) == pytest.approx(np.mean(true))


def test_label_noise_is_exact_and_follows_the_examples(stream):
    """The same noise as add_label_noise's on the labels in file order; the rest of a
    noisy stream, and a shuffled one, keep it."""
    labels = np.concatenate([y for _, y in take(stream.batches(16))])
    noisy, record, share = stream.with_label_noise(0.25, 1_000, seed=3)
    indices, shifts = record["indices"], record["shifts"]
    read = np.concatenate([y for _, y in take(noisy.batches(16))])
    np.testing.assert_array_equal(np.flatnonzero(read != labels), indices)
    assert len(indices) == round(0.25 * NUM_TRAIN) == share * NUM_TRAIN
    np.testing.assert_array_equal(read[indices], (labels[indices] + shifts) % 1_000)
    expected, where = add_label_noise(labels, 0.25, 1_000, seed=3)
    np.testing.assert_array_equal(read, expected)
    np.testing.assert_array_equal(where[:, 0], indices)
    rest = noisy.hold_out(9)[1].batches(16, 1, augment=True)
    y = np.concatenate([y for _, y in take(rest)])
    np.testing.assert_array_equal(np.sort(y), np.sort(expected[9:]))


def test_label_noise_of_a_part_counts_from_its_start(stream):
    """Indices of the noisy examples are those of the part's examples."""
    part = stream.hold_out(9)[1]
    labels = np.concatenate([y for _, y in take(part.batches(16))])
    noisy, record, _ = part.with_label_noise(0.5, 1_000, seed=3)
    read = np.concatenate([y for _, y in take(noisy.batches(16))])
    np.testing.assert_array_equal(np.flatnonzero(read != labels), record["indices"])


def test_corrupt_image_is_named(tmp_path):
    """One line with the file's name in the archive and the set's; batches without it
    are made, also those of an epoch that goes on after it, which do not decode it."""
    images = train_images()
    name = "n01443537_5.JPEG"
    images["n01443537"][name] = images["n01443537"][name][:200]
    stream = ImageStream(prepare(tmp_path, images), "train", 32)
    batches = stream.batches(8)
    bad = names_in_order(stream).index(name) // 8
    for i in range(batches.left):
        if i != bad:
            assert len(batches[i][1]) > 0
            continue
        with pytest.raises(CorruptImageError, match=name) as error:
            batches[i]
        assert "imagenet2012" in str(error.value)
        assert "\n" not in str(error.value)
    assert len(take(batches, 0, bad + 1)) == batches.total - bad - 1
    shuffled = stream.batches(8, 1, augment=True)
    with pytest.raises(CorruptImageError, match=name):
        take(shuffled)


def test_damaged_file_is_named(tmp_path):
    """Bytes overwritten on disk: the error names the file that cannot be read."""
    builder = prepare(tmp_path, train_images())
    path = builder.info.splits["validation"].filepaths[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(bytes(content))
    with pytest.raises(CorruptImageError, match="cannot be read") as error:
        take(ImageStream(builder, "validation", 32).batches(4))
    assert "validation" in str(error.value)


def test_missing_archives_are_asked_for(tmp_path):
    """Which files, into which folder, and what to take instead, in one line."""
    with pytest.raises(InputError) as error:
        _ = load_imagenet("imagenet2012", str(tmp_path)).train
    for words in (
        "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar",
        str(tmp_path / "downloads" / "manual"),
        "--dataset mnist_5k",
    ):
        assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def picture(i: int) -> bytes:
    """PNG files, the second one grey, but for a JPEG."""
    image = smooth_image(i, 40 + i, 50, "L" if i == 1 else "RGB")
    return encode(image, format="JPEG" if i == 2 else "PNG")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> str:
    """The data_dir of the set "pictures": images of different sizes as imagenette has
    them, in the splits train and test, without file names."""

    class Pictures(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(),
                "label": tfds.features.ClassLabel(num_classes=3),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples(8),
                "test": self._generate_examples(4),
                "hidden": self._generate_examples(2, num_classes=0),
            }

        def _generate_examples(self, count, num_classes=3):
            for i in range(count):
                label = i % num_classes if num_classes else -1
                yield i, {"image": io.BytesIO(picture(i)), "label": label}

    data_dir = tmp_path_factory.mktemp("pictures")
    Pictures(data_dir=data_dir).download_and_prepare()
    return str(data_dir)


def test_set_of_different_sizes_and_encodings(pictures):
    """PNG, grey and JPEG in one set, its sizes on disk known. Where a JPEG has colours
    at half the resolution, libjpeg does not interpolate them across a crop's sides,
    which the cubic spreads over three columns of the result."""
    splits = load_imagenet("pictures", pictures, size=24)
    assert splits.info.num_train == len(splits.train) == 8
    assert splits.info.num_validation == len(splits.validation) == 4
    ((x, y),) = take(splits.train.batches(8))
    names = names_in_order(splits.train)
    assert names[0].startswith("pictures-train.tfrecord-00000-of-00001__0")
    expected = [centre_by_pillow(picture(i), 24) for i in range(8)]
    for crop, label in zip(x, y, strict=True):
        errors = [np.abs(crop - image)[:, 3:-3].max() for image in expected]
        found = int(np.argmin(errors))
        assert errors[found] <= 1
        assert label == found % 3
    ((x, _),) = take(splits.train.batches(8, 0, augment=True))
    assert x.shape == (8, 24, 24, 3)


def test_labels_that_are_not_public_are_refused(pictures, monkeypatch):
    """TFDS has -1 for them, in a stream and in memory."""
    stream = ImageStream(tfds.builder("pictures", data_dir=pictures), "hidden", 8)
    with pytest.raises(
        CorruptImageError, match=r"\(hidden\) has examples without labels"
    ):
        take(stream.batches(2))
    monkeypatch.setattr(images, "split_names", lambda _: ("train", "hidden"))
    with pytest.raises(InputError, match=r"split hidden must be from 0 to 2\. .* -1"):
        _ = load_images("pictures", pictures, 8).train


def test_arrays_are_cropped_in_memory():
    """The sample: grey digits become RGB of the size that is asked for."""
    splits = load_imagenet("mnist_5k", None, size=48)
    assert splits.info.input_shape == (48, 48, 3)
    x = splits.train.x[:6]
    transform = splits.transform
    draws = transform.draw(np.random.default_rng(0), 6)
    crops = transform.apply(x, draws)
    assert (crops.shape, crops.dtype) == ((6, 48, 48, 3), np.uint8)
    assert np.ptp(crops, axis=-1).max() == 0
    # A function of the draws, each image with its own.
    np.testing.assert_array_equal(transform.apply(x[3:], draws[3:]), crops[3:])
    assert transform.evaluate(x).shape == (6, 48, 48, 3)


def test_arrays_and_streams_are_cropped_alike():
    """Enlarged, where antialiasing does nothing, Pillow and TensorFlow give the same
    crops and flips from the same draws: to 2 levels, Pillow rounds twice."""
    image = np.asarray(smooth_image(0, 40, 50))
    draws = np.random.default_rng(0).random((20, NUM_DRAWS), dtype="float32")
    crops = ResizedCrop(64).apply(np.repeat(image[np.newaxis], 20, axis=0), draws)
    xp = tf.experimental.numpy
    for draw, crop in zip(draws, crops, strict=True):
        encoded = tf.constant(encode(Image.fromarray(image), format="PNG"))
        box = random_box(draw, 40, 50, 64, xp)
        part = decoding._crop(encoded, lambda height, width, box=box: box)
        expected = decoding._resize(part, 64).numpy().astype(int)
        if draw[-3] < 0.5:
            expected = expected[:, ::-1]
        assert np.abs(crop - expected).max() <= 2


def test_arrays_that_are_no_images_of_bytes_are_refused(tmp_path):
    """Pillow would read normalized pixels as black, and takes no two channels."""
    x, y = np.full((4, 8, 8, 3), 0.5, "float32"), np.arange(4)
    for wrong in (x - 1, x[..., :2], x[:, 0, 0]):
        np.savez(tmp_path / "x.npz", x_train=wrong, y_train=y, x_test=wrong, y_test=y)
        with pytest.raises(InputError, match=r"pixels from 0 to 255|needs images"):
            load_imagenet(str(tmp_path / "x.npz"), None)


@pytest.mark.each_backend
def test_the_workload_trains_on_archives(builder, records, tmp_path, capsys):
    """run.py on the miniature ImageNet: SAM, label noise, held-out examples; the same
    command again has nothing to do."""
    options = ["--data_dir", str(builder._data_dir_root), "--image_size", "32"]
    options += ["--width_mult", "0.03", "--depth", "1", "--epochs", "1", "--sam"]
    # Two batches of one size, for each of which the step is compiled.
    options += ["--batch_size", "14", "--train_examples", "38", "--holdout", "0.25"]
    options += ["--label_noise", "0.2"]
    options += ["--run_dir", str(tmp_path)]
    assert command.main(["workloads/imagenet_resnet50", *options]) == 0
    assert "val_accuracy" in capsys.readouterr().out
    (noise,) = tmp_path.glob("*/label_noise.npz")
    assert len(np.load(noise)["indices"]) == round(0.2 * (38 - 10))
    assert command.main(["workloads/imagenet_resnet50", *options]) == 0
    assert "already finished" in capsys.readouterr().out
