"""Data on the device: the same batches, gathered in the compiled step, and nothing of
them crosses from the host after the first epoch."""

import dataclasses
import gc

import keras
import numpy as np
import pytest
from keras import ops

import samkeras
from samkeras.backend import backend
from samkeras.data.augmentation import CropFlip
from samkeras.data.examples import ArrayExamples
from samkeras.data.resident import tables

SHAPE = (6, 4, 3)


def make_examples(count: int = 70, **options) -> ArrayExamples:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, *SHAPE), np.uint8)
    return ArrayExamples(x, rng.integers(0, 4, count), **options)


def build_model(convolves: bool, steps: int = 3) -> samkeras.SAMModel:
    """A model with dropout; convolutions are not in a loop on CPU."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(SHAPE)
    x = keras.layers.Rescaling(1 / 255)(inputs)
    if convolves:
        x = keras.layers.Conv2D(3, 3)(x)
    x = keras.layers.Dense(8, "relu")(keras.layers.Flatten()(x))
    x = keras.layers.Dropout(0.3, seed=2)(x)
    model = samkeras.SAMModel(inputs, keras.layers.Dense(4)(x))
    model.compile(
        samkeras.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
        method=samkeras.SAM(0.1),
        l2=1e-3,
        steps_per_execution=steps,
        jit_compile="auto" if convolves else True,
    )
    return model


def train(examples: ArrayExamples, convolves: bool, **options) -> list[np.ndarray]:
    """Three epochs, each validated: the weights and all logs."""
    batches = examples.batches(16, 3, **options)
    validation = examples.first(20).batches(16, multiple_of=8)
    model = build_model(convolves)
    model.build_for(batches.example)
    numbers = []
    for epoch in range(3):
        # The second one from within.
        batches.start_epoch(epoch, 2 if epoch == 1 else 0)
        model.reset_metrics()
        for part in batches.take(3):
            logs = model.train_on_batches(part, batches.specs)
        numbers += [np.asarray(logs[name]) for name in sorted(logs)]
        model.reset_metrics()
        for part in validation.take(3):
            logs = model.test_on_batches(part, validation.specs)
        numbers += [np.asarray(logs[name]) for name in sorted(logs)]
    return [*numbers, *model.get_weights()]


@pytest.mark.parametrize("convolves", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"augment": True},  # the last batch of an epoch is smaller
        {"augment": True, "steps": 3},  # epochs go over the ends of passes
    ],
    ids=str,
)
def test_batches_on_the_device_are_those_of_the_host(convolves, options):
    host = make_examples(transform=CropFlip(2))
    device = dataclasses.replace(host, is_resident=True)
    found = train(device, convolves, **options)
    for left, right in zip(found, train(host, convolves, **options), strict=True):
        np.testing.assert_array_equal(left, right)


def test_images_are_cropped_and_mirrored_on_the_device_as_on_the_host():
    images = make_examples().x
    transform = CropFlip(3)
    draws = transform.draw(np.random.default_rng(1), len(images))
    assert {tuple(row) for row in draws[:, 2:]} == {(0,), (1,)}
    found = transform.apply_on_device(
        ops.convert_to_tensor(images), ops.convert_to_tensor(draws.astype("int32"))
    )
    np.testing.assert_array_equal(found, transform.apply(images, draws))
    assert keras.backend.standardize_dtype(found.dtype) == "uint8"


def test_an_array_is_on_the_device_once_and_as_long_as_it_is_used():
    gc.collect()
    array = np.arange(5.0)
    assert tables.find(array) is tables.find(array)
    count = len(tables)
    del array
    gc.collect()
    assert len(tables) == count - 1


def test_a_part_of_any_size_is_the_same_program():
    """Stops and the pace of a machine change neither results nor programs."""
    examples = make_examples(is_resident=True)
    weights = []
    for sizes in ([4], [1, 3], [2, 1, 1]):
        batches = examples.batches(16, 3)
        model = build_model(convolves=False)
        model.build_for(batches.example)
        (rows, last) = batches.take(3)
        for size in sizes:
            part, rows = rows[:size], rows[size:]
            model.train_on_batches(part)
        assert len(rows) == 0
        model.train_on_batches(last)
        expected = 2 if keras.backend.backend() == "jax" else 1
        assert model.count_programs() == expected
        weights.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(weights[0], weights[2])


@pytest.mark.parametrize("done", [1, 3, 4])
def test_the_rest_of_an_epoch_is_the_same_programs(done):
    """A run that goes on within an epoch compiles what it did before: other programs
    might round otherwise, and a large network's takes minutes."""
    examples, weights = make_examples(is_resident=True), []
    for stops in ([0], [0, done]):
        batches, model = examples.batches(16, 3), build_model(convolves=False)
        model.build_for(batches.example)
        for start, end in zip(stops, [*stops[1:], 5], strict=True):
            batches.start_epoch(0, start)
            left = end - start
            for rows in batches.take(3):
                model.train_on_batches(rows[:left])
                left -= len(rows)
        expected = 2 if keras.backend.backend() == "jax" else 1
        assert model.count_programs() == expected
        weights.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_array_equal(*weights)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="programs of JAX")
@pytest.mark.parametrize("convolves", [False, True])
def test_a_smaller_last_batch_is_compiled_for_beside_the_others(convolves, caplog):
    """Its program is begun with theirs, which the device is not to wait for."""
    import jax

    batches = make_examples(is_resident=True).batches(16, 3)
    model = build_model(convolves)
    model.build_for(batches.example)
    counts = []
    with jax.log_compiles():
        for part in batches.take(3):
            model.train_on_batches(part)
            counts.append(caplog.text.count("Compiling jit(_take_row"))
    assert counts == [2, 2]
    assert model.count_programs() == 2


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="a guard of JAX")
@pytest.mark.parametrize("convolves", [False, True])
def test_nothing_crosses_from_the_host_within_an_epoch(convolves):
    import jax

    examples = make_examples(transform=CropFlip(2), is_resident=True)
    batches = examples.batches(16, 3, augment=True)
    validation = examples.batches(16, multiple_of=8)
    model = build_model(convolves)
    model.build_for(batches.example)

    def take_epoch(number: int) -> None:
        batches.start_epoch(number)
        for each, take in (
            (batches, model.train_on_batches),
            (validation, model.test_on_batches),
        ):
            model.reset_metrics()
            for part in each.take(3):
                logs = take(part)
            assert np.isfinite(backend.fetch(logs)["loss"])

    take_epoch(0)
    with jax.transfer_guard("disallow"):
        take_epoch(1)
        take_epoch(2)


@pytest.mark.parametrize("row", [(28, 28), (5, 4, 3), (3,), (), (7, 2)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "int32"])
def test_rows_of_a_table_are_those_of_its_array(row, dtype):
    """Also where a backend keeps bytes in another way; of an array with strides too,
    and on JAX a place beyond its end is the last one."""
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (20, *row)).astype(dtype)[::2]
    table = backend.place_table(array)
    last = 12 if keras.backend.backend() == "jax" else 9  # TensorFlow has no other
    index = np.array([[3, 0], [9, last]], "int32")
    found = backend.take_rows(table, keras.ops.convert_to_tensor(index))
    np.testing.assert_array_equal(np.asarray(found), array[np.minimum(index, 9)])
    assert (tuple(table.shape), keras.backend.standardize_dtype(table.dtype)) == (
        array.shape,
        dtype,
    )
