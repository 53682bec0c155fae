"""Augmentation as Foret et al. (2021) have it: by hand, and the same on the device."""

import dataclasses
import importlib
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from samkeras.data.augmentation import Chain, CropFlip, Cutout
from samkeras.data.examples import ArrayExamples
from samkeras.data.mixup import Mixup
from samkeras.data.recipes import build_recipe
from samkeras.data.statistics import find_statistics

SHAPE, CLASSES = (6, 5, 3), 4


def make_examples(count: int = 20, **options) -> ArrayExamples:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, *SHAPE), np.uint8)
    return ArrayExamples(x, rng.integers(0, CLASSES, count, "int32"), **options)


def on_device(transform, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(
        transform.apply_on_device(
            ops.convert_to_tensor(images), ops.convert_to_tensor(draws.astype("int32"))
        )
    )


@pytest.mark.one_backend
def test_images_are_padded_by_reflection():
    """A row 0 1 2 3, padded by two, is 2 1 0 1 2 3 2 1; crops of it, mirrored or
    not."""
    row = np.arange(4, dtype="uint8")
    images = np.broadcast_to(row[:, None], (3, 4, 4, 1))
    draws = np.array([[2, 0, 0], [0, 4, 0], [4, 1, 1]])
    crops = CropFlip(2, mode="reflect").apply(images, draws)[..., 0]
    assert [crop[1].tolist() for crop in crops] == [
        [2, 1, 0, 1],
        [2, 3, 2, 1],
        [2, 1, 0, 1],  # 1 0 1 2, mirrored
    ]
    columns = CropFlip(2, mode="reflect").apply(images.swapaxes(1, 2), draws)[..., 0]
    assert [column[:, 1].tolist() for column in columns] == [
        [0, 1, 2, 3],
        [2, 1, 0, 1],
        [2, 3, 2, 1],
    ]


@pytest.mark.one_backend
def test_a_square_is_cut_out():
    """Of the mean colour, around a pixel, and cut off at the edges."""
    images = np.full((3, 4, 5, 2), 7, "uint8")
    cutout = Cutout(2, (1.5, 2.5))
    # 2 and 3 of 4 rows and 5 columns; the first ones; the last ones.
    cut = cutout.apply(images, np.array([[6, 13], [0, 5], [3, 4]]))
    assert cut.dtype == "float32"
    expected = np.full((3, 4, 5, 2), 7.0)
    expected[0, 1:3, 2:4] = expected[1, :1, :1] = expected[2, 2:4, 3:5] = 1.5, 2.5
    np.testing.assert_array_equal(cut, expected)


@pytest.mark.one_backend
def test_a_batch_has_one_place_for_its_squares_or_each_image_its_own():
    rng = np.random.default_rng
    shared = Cutout(2, (0.0,), 8).draw(rng(0), 20)
    assert shared.shape == (20, 2)
    batches = [shared[:8], shared[8:16], shared[16:]]
    assert [len(np.unique(batch, axis=0)) for batch in batches] == [1, 1, 1]
    assert len(np.unique(shared, axis=0)) == 3
    assert len(np.unique(Cutout(2, (0.0,)).draw(rng(0), 20), axis=0)) == 20
    # Every place is as likely.
    draws = Cutout(2, (0.0,)).draw(rng(1), 32_000) % 32
    counts = np.bincount(draws[:, 0], minlength=32)
    assert counts.min() > 800
    assert counts.max() < 1200


@pytest.mark.one_backend
def test_recipes_are_those_of_the_source():
    assert build_recipe("none", "cifar10", 3, 16, 1) is None
    basic = build_recipe("basic", "cifar10", 3, 16, 1)
    assert basic == CropFlip(4, mode="reflect")
    chain = build_recipe("cutout", "keras:cifar100", 3, 16, 256)
    assert isinstance(chain, Chain)
    crops, cutout = chain.parts
    assert crops == basic
    assert (cutout.size, cutout.images_per_place) == (16, 256)
    means, deviations = find_statistics("cifar100", 3)
    standardized = (np.array(cutout.fill) / 255 - means) / deviations
    np.testing.assert_allclose(standardized, 0, atol=1e-12)
    with pytest.raises(ValueError, match="augment must be none, basic, cutout or auto"):
        build_recipe("strong", "cifar10", 3, 16, 1)
    # The crops of an image are the same in all recipes.
    draws = [each.draw(np.random.default_rng(3), 9) for each in (basic, chain)]
    np.testing.assert_array_equal(draws[0], draws[1][:, :3])


@pytest.mark.parametrize(
    "transform", [CropFlip(3, mode="reflect"), build_recipe("cutout", "", 3, 4, 7)]
)
def test_the_device_changes_images_as_the_host(transform):
    images = make_examples().x
    draws = transform.draw(np.random.default_rng(1), len(images))
    found, expected = (
        on_device(transform, images, draws),
        transform.apply(images, draws),
    )
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert transform.evaluate(images) is images


@pytest.mark.one_backend
def test_images_and_labels_are_mixed_by_hand():
    x = np.array([10.0, 20.0, 40.0]).reshape(3, 1, 1, 1)
    y = np.array([0, 2, 2])
    shares = np.full(3, 0.75, "float32")
    mixed, labels = Mixup(1.0, 3).mix((x, y), (x[::-1], y[::-1]), shares, np)
    np.testing.assert_allclose(mixed.ravel(), [17.5, 20, 32.5])
    np.testing.assert_allclose(
        labels, [[0.75, 0, 0.25], [0, 0, 1], [0.25, 0, 0.75]], atol=1e-7
    )
    drawn = Mixup(0.3, 3).draw(np.random.default_rng(0), 10_000)
    assert drawn.min() >= 0.5
    # E max(s, 1 - s) of Beta(0.3, 0.3), integrated.
    s = (np.arange(10**6) + 0.5) / 10**6
    density = (s * (1 - s)) ** -0.7
    mean = np.sum(np.maximum(s, 1 - s) * density) / np.sum(density)
    assert drawn.mean() == pytest.approx(mean, abs=0.01)


@pytest.mark.one_backend
def test_a_batch_is_mixed_with_itself_backwards():
    """By one share, whole batches and smaller ones, each process its part of them;
    again from the seed and the epoch alone. Evaluation is not mixed."""
    examples = make_examples(mixup=Mixup(1.0, CLASSES))
    plain = dataclasses.replace(examples, mixup=None)
    batches, expected = examples.batches(8, 3), plain.batches(8, 3)
    shares = set()
    for index in range(3):
        (x, y), (x_one, y_one) = batches[index], expected[index]
        one, other = np.float64(x_one), np.float64(x_one[::-1])
        differs = one != other
        share = np.median(((x - other)[differs]) / (one - other)[differs])
        shares.add(round(float(share), 5))
        np.testing.assert_allclose(
            x, share * x_one + (1 - share) * x_one[::-1], rtol=1e-4, atol=1e-3
        )
        one_hot = np.eye(CLASSES)[y_one]
        mixed = share * one_hot + (1 - share) * one_hot[::-1]
        np.testing.assert_allclose(y, mixed, atol=1e-5)
        parts = [
            examples.batches(8, 3, multiple_of=2, process=(process, 2))[index]
            for process in range(2)
        ]
        for array, *of_processes in zip((x, y), *parts, strict=True):
            np.testing.assert_array_equal(array, np.concatenate(of_processes))
    assert len(shares) == 3
    batches.start_epoch(4, 2)
    again = examples.batches(8, 3)
    for epoch in range(5):
        again.start_epoch(epoch)
        _ = again[0]
    for array, same in zip(batches[0], again[2], strict=True):
        np.testing.assert_array_equal(array, same)
    for array, same in zip(examples.batches(8)[0], plain.batches(8)[0], strict=True):
        np.testing.assert_array_equal(array, same)


@pytest.mark.parametrize("alpha", [None, 0.4])
def test_a_compiled_step_makes_the_batches_of_the_host(alpha):
    """Cut out and mixed: images to the bit, means of them to a rounding."""
    host = make_examples(
        transform=build_recipe("cutout", "", 3, 4, 8),
        mixup=alpha and Mixup(alpha, CLASSES),
    )
    device = dataclasses.replace(host, is_resident=True)
    batches, expected = (e.batches(8, 3, augment=True) for e in (device, host))
    found = [
        rows.gather(rows.tables, of_batch)
        for rows in batches.take(1)
        for of_batch in split_rows(rows)
    ]
    tolerance = 0 if alpha is None else 1e-6
    for number, batch in enumerate(found):
        for tensor, same in zip(batch, expected[number], strict=True):
            array = ops.convert_to_numpy(tensor)
            assert array.dtype == same.dtype
            np.testing.assert_allclose(array, same, rtol=tolerance, atol=tolerance)
    assert len(found) == 3


def split_rows(rows) -> list:
    """What each batch takes of the tables."""
    arrays = [ops.convert_to_numpy(a) for a in keras.tree.flatten(rows.arrays)]
    return [
        keras.tree.pack_sequence_as(
            rows.arrays, [ops.convert_to_tensor(a[place]) for a in arrays]
        )
        for place in range(len(rows))
    ]


@pytest.mark.each_backend
def test_the_benchmark_makes_images_on_either_backend(monkeypatch):
    """A turn on the device, and one on the host."""
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    benchmark = importlib.import_module("recipes")
    images = np.zeros((4, *benchmark.SHAPE), "uint8")
    turns = benchmark.make_turns("cutout", images)
    assert [*turns] == ["cutout", "cutout, host"]
    for turn in turns.values():
        turn(0)
