"""Examples: the same methods for arrays and for streams."""

import io

import numpy as np
import pytest
from PIL import Image

from samkeras.data.augmentation import CropFlip
from samkeras.data.examples import ArrayExamples
from samkeras.data.image_stream import ImageStream
from samkeras.data.splits import DataInfo, Splits

COUNT, SIDE = 23, 8


def make_images() -> np.ndarray:
    """An image of its own for each label."""
    shape = (COUNT, SIDE, SIDE, 3)
    return np.random.default_rng(0).integers(0, 256, shape).astype("uint8")


@pytest.fixture(scope="module")
def stream(tmp_path_factory) -> ImageStream:
    pytest.importorskip("tensorflow")
    from samkeras.data.tfds_sets import import_tfds

    tfds = import_tfds()

    class Numbered(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(SIDE, SIDE, 3)),
                "label": tfds.features.ClassLabel(num_classes=COUNT),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, _):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for label, pixels in enumerate(make_images()):
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, format="PNG")
                image = io.BytesIO(file.getvalue())
                yield label, {"image": image, "label": label}

    builder = Numbered(data_dir=tmp_path_factory.mktemp("numbered"))
    builder.download_and_prepare()
    return ImageStream(builder, "train", SIDE)


@pytest.fixture(params=["arrays", "stream"])
def examples(request):
    """23 images, each of a class of its own."""
    if request.param == "stream":
        return request.getfixturevalue("stream")
    return ArrayExamples(make_images(), np.arange(COUNT), CropFlip(1))


def take(batches, *start: int) -> list[tuple]:
    if start:
        batches.start_epoch(*start)
    return [batches[i] for i in range(batches.left)]


def labels_of(batches, *start: int) -> list[int]:
    return [int(y) for batch in take(batches, *start) for y in batch[1]]


def assert_same(batches: list[tuple], others: list[tuple]) -> None:
    for batch, other in zip(batches, others, strict=True):
        for array, same in zip(batch, other, strict=True):
            np.testing.assert_array_equal(array, same)


def test_the_first_are_those_of_the_order(examples):
    labels = labels_of(examples.batches(8))
    assert len(examples) == len(labels) == COUNT
    first = examples.first(5)
    assert (len(first), labels_of(first.batches(8))) == (5, labels[:5])
    for every in (None, COUNT, 100):
        assert labels_of(examples.first(every).batches(8)) == labels


def test_a_part_is_held_out(examples):
    """The same one always; no example is in both or in neither."""
    parts = [labels_of(part.batches(8)) for part in examples.hold_out(6)]
    assert [len(part) for part in parts] == [6, COUNT - 6]
    assert sorted(parts[0] + parts[1]) == list(range(COUNT))
    assert [labels_of(part.batches(8)) for part in examples.hold_out(6)] == parts


def test_the_last_part_is_held_out(examples):
    order = labels_of(examples.batches(8))
    parts = [labels_of(p.batches(8)) for p in examples.hold_out(6, last=True)]
    assert parts == [order[-6:], order[:-6]]


def test_noisy_labels_are_recorded(examples):
    """As many as are asked for, by the seed alone; images and the others stay."""
    noisy, record, share = examples.with_label_noise(0.25, COUNT, seed=3)
    before, after = labels_of(examples.batches(8)), labels_of(noisy.batches(8))
    changed = np.flatnonzero(np.not_equal(before, after))
    assert len(changed) == round(0.25 * COUNT)
    assert share == len(changed) / COUNT
    np.testing.assert_array_equal(np.ravel(record["indices"]), changed)
    pairs = zip(take(examples.batches(8)), take(noisy.batches(8)), strict=True)
    assert all(np.array_equal(one[0], other[0]) for one, other in pairs)
    again, *_ = examples.with_label_noise(0.25, COUNT, seed=3)
    assert labels_of(again.batches(8)) == after
    other, *_ = examples.with_label_noise(0.25, COUNT, seed=4)
    assert labels_of(other.batches(8)) != after


def test_an_epoch_is_a_function_of_its_number(examples):
    """Whatever came before, from its middle on too, with the images' changes."""
    batches = examples.batches(8, seed=3, augment=True)
    assert (batches.total, batches.left, batches.first_batch) == (3, 3, 0)
    second = take(batches, 1)
    assert sorted(labels_of(batches, 1)) == list(range(COUNT))
    assert labels_of(batches, 0) != labels_of(batches, 1)
    fresh = examples.batches(8, seed=3, augment=True)
    assert_same(take(fresh, 1, 1), second[1:])
    assert (fresh.total, fresh.left, fresh.first_batch) == (3, 2, 1)
    assert fresh.num_batches == 2  # as keras asks
    with pytest.raises(IndexError):
        fresh[2]
    assert labels_of(examples.batches(8, seed=4), 1) != labels_of(batches, 1)


def test_images_are_changed_on_request(examples):
    """In training alone, by the seed, in an order that does not depend on it."""
    plain, changed = (
        take(examples.batches(8, seed=3, augment=augment)) for augment in (False, True)
    )
    for (x, y), (other_x, other_y) in zip(plain, changed, strict=True):
        np.testing.assert_array_equal(y, other_y)
        assert not np.array_equal(x, other_x)
    assert_same(take(examples.batches(8, augment=True)), take(examples.batches(8)))


def test_epochs_of_steps_follow_the_passes(examples):
    """Epochs of 2 of 3 batches go on where the one before stopped."""
    passes = examples.batches(8, seed=3, augment=True)
    expected = [batch for number in range(2) for batch in take(passes, number)]
    steps = examples.batches(8, seed=3, augment=True, steps=2)
    assert steps.total == 2
    taken = [batch for epoch in range(3) for batch in take(steps, epoch)]
    assert_same(taken, expected)
    fresh = examples.batches(8, seed=3, augment=True, steps=2)
    assert_same(take(fresh, 1, 1), expected[3:4])


@pytest.mark.parametrize("num_processes", [1, 2])
def test_processes_share_batches_of_a_multiple(examples, num_processes):
    """Training leaves 3 of 23 out; evaluation fills up, with the mean of the 23."""
    options = [
        {"multiple_of": 4, "process": (number, num_processes)}
        for number in range(num_processes)
    ]
    trained = [take(examples.batches(8, seed=3, **each)) for each in options]
    labels = [int(y) for batches in trained for _, ys in batches for y in ys]
    assert len(labels) == len(set(labels)) == 20
    evaluated = [take(examples.batches(8, **each)) for each in options]
    sizes = [[len(x) for x, _, _ in batches] for batches in evaluated]
    assert sizes == [[8 // num_processes] * 3] * num_processes
    _, labels, weights = (
        np.concatenate(arrays)
        for arrays in zip(*(b for batches in evaluated for b in batches), strict=True)
    )
    assert sorted(labels[weights > 0]) == list(range(COUNT))
    counted = [examples.batches(8, **each).count_examples(3) for each in options]
    assert counted == [24] * num_processes  # those of all
    assert np.mean(labels * weights) == pytest.approx((COUNT - 1) / 2)


def test_pairs_of_arrays_become_examples(examples):
    """Once, with the set's transform; what is examples already stays."""
    x, y = make_images(), np.arange(COUNT)
    info = DataInfo("own", (SIDE, SIDE, 3), COUNT, COUNT, COUNT, COUNT)
    transform = CropFlip()
    reads = []

    def read():
        reads.append(1)
        return (x, y), examples

    splits = Splits(info, read, transform)
    assert (splits.train.x, splits.train.y) == (x, y)
    assert splits.train.transform is transform
    assert splits.validation is examples
    assert len(reads) == 1


def test_augmentation_needs_a_transform():
    batches = ArrayExamples(make_images(), np.arange(COUNT)).batches(8, 0, augment=True)
    with pytest.raises(ValueError, match="no transform"):
        batches[0]
