"""Lines and planes through weights whose loss is known, and directions of layers."""

import keras
import numpy as np
import pytest
from keras import layers

from samkeras import analysis
from samkeras.masks import set_masks
from samkeras.models.pretrained import FrozenBatchNorm
from tests.analysis.making import (
    build_linear,
    build_network,
    build_quadratic,
    fill,
    rotate,
)
from tests.helpers import build_classifier, compile_classifier, random_examples


def flat_of(model) -> np.ndarray:
    return np.concatenate([np.ravel(w) for w in model.trainable_variables])


def parts_of(model, vector) -> dict[str, np.ndarray]:
    """A flat vector's parts by the names of their weights."""
    weights = model.trainable_variables
    ends = np.cumsum([np.size(w) for w in weights])[:-1]
    parts = zip(weights, np.split(vector, ends), strict=True)
    return {w.path: part.reshape(w.shape) for w, part in parts}


def norms(array, axes) -> np.ndarray:
    return np.sqrt(np.sum(np.square(array), axis=axes))


def build_normalized(seed: int = 0) -> tuple[keras.Model, tuple]:
    """A dense layer, BatchNorm, which sees that alone, and dropout."""
    inputs = keras.Input((3,))
    x = layers.BatchNormalization()(layers.Dense(4)(inputs))
    model = keras.Model(inputs, layers.Dense(1)(layers.Dropout(0.5)(x)))
    model.compile(loss="mse", metrics=["mae"])
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((10, 3)).astype("float32")
    return fill(model), (x, rng.standard_normal((10, 1)).astype("float32"))


def test_the_plane_of_a_quadratic_is_its_paraboloid():
    """At (x, y), not (y, x), and with other numbers of rows and columns."""
    matrix = rotate([*np.linspace(-1, 4, 12)])
    model, data = build_quadratic(matrix[None])
    vectors = np.random.default_rng(0).standard_normal((2, 12)).astype("float32")
    x, y = np.array([-1, 0, 0.5, 2]), np.array([-0.5, 0, 3])
    directions = analysis.Directions(vectors)
    found = analysis.plane(model, data, directions, x=x, y=y)
    w = flat_of(model)
    expected = [
        [(p := w + a * vectors[0] + b * vectors[1]) @ matrix @ p / 2 for a in x]
        for b in y
    ]
    np.testing.assert_allclose(found.train["loss"], expected, rtol=1e-4, atol=1e-4)
    assert found.train["loss"].shape == (3, 4)
    assert [*found.train] == ["loss"]
    assert not found.test
    np.testing.assert_allclose(found.lengths, norms(vectors, 1), rtol=1e-6)
    unit = vectors / found.lengths[:, None]
    np.testing.assert_allclose(found.cosine, unit[0] @ unit[1], rtol=1e-5)
    along = analysis.line(model, data, vectors[1], at=y, origin=w + vectors[0])
    np.testing.assert_allclose(
        along.train["loss"],
        [(p := w + vectors[0] + b * vectors[1]) @ matrix @ p / 2 for b in y],
        rtol=1e-4,
    )
    np.testing.assert_allclose(along.length, found.lengths[1])
    np.testing.assert_array_equal(flat_of(model), w)


def test_losses_and_metrics_are_those_that_keras_evaluates():
    """In batches, the last of them smaller, of training and test data."""
    x, labels = random_examples(30)
    model = compile_classifier(build_classifier(keras.Model), metrics=["accuracy"])
    at = np.array([-1.0, 0.0, 1.0])
    direction = analysis.random_directions(model).vectors[0]
    test = (x[:7], labels[:7])
    found = analysis.line(model, (x, labels), direction, at=at, test=test, batch_size=8)
    assert (found.num_examples, found.num_test_examples) == (30, 7)
    start = [np.array(w) for w in model.trainable_variables]
    for place, t in enumerate(at):
        moved = parts_of(model, flat_of(model) * 0 + t * direction)
        for weight, value in zip(model.trainable_variables, start, strict=True):
            weight.assign(value + moved[weight.path])
        for split, data in ((found.train, (x, labels)), (found.test, test)):
            logs = model.evaluate(*data, verbose=0, return_dict=True)
            assert [*split] == ["loss", "accuracy"]
            for name in split:
                np.testing.assert_allclose(split[name][place], logs[name], rtol=1e-4)
        for weight, value in zip(model.trainable_variables, start, strict=True):
            weight.assign(value)


def test_filters_have_the_norms_of_the_weights():
    """Of output units and channels, whatever axis they are on; biases do not move."""
    inputs = keras.Input((9, 9, 2))
    x = layers.Conv2D(4, 3, name="conv", bias_initializer="normal")(inputs)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = layers.Conv2DTranspose(3, 2, name="transposed")(x)
    x = layers.SeparableConv2D(5, 2, name="separable")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dense(3, name="dense")(layers.Flatten()(x))
    model = fill(keras.Model(inputs, x))
    along = {
        "conv/kernel": (0, 1, 2),
        "depthwise/kernel": (0, 1),
        "transposed/kernel": (0, 1, 3),
        "separable/depthwise_kernel": (0, 1),
        "separable/pointwise_kernel": (0, 1, 2),
        "dense/kernel": (0,),
    }
    check_filters(model, along)


def test_filters_of_words_gates_and_heads():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 4, name="words")(inputs)
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    x = layers.LSTM(3, name="lstm")(attention(x, x))
    model = fill(keras.Model(inputs, x))
    along = {"words/embeddings": (1,), "attention/attention_output/kernel": (0, 1)}
    along |= {f"attention/{n}/kernel": (0,) for n in ("query", "key", "value")}
    along |= {f"lstm/lstm_cell/{n}": (0,) for n in ("kernel", "recurrent_kernel")}
    check_filters(model, along)


def check_filters(model: keras.Model, along: dict[str, tuple[int, ...]]) -> None:
    found = analysis.random_directions(model, seed=3)
    weights = parts_of(model, flat_of(model))
    for vector in found.vectors:
        for path, part in parts_of(model, vector).items():
            axes = along.get(path)
            if axes is None:
                assert not part.any(), path
            else:
                expected = norms(weights[path], axes)
                np.testing.assert_allclose(norms(part, axes), expected, rtol=1e-4)
    assert set(along) <= set(weights)
    assert abs(found.cosine) < 0.3
    again, other = (analysis.random_directions(model, seed=s) for s in (3, 4))
    np.testing.assert_array_equal(found.vectors, again.vectors)
    assert not np.array_equal(found.vectors, other.vectors)


def test_pruned_weights_and_filters_of_zeros_do_not_move():
    model = build_linear(4, 5, "mse")
    kernel = model.trainable_variables[0]
    kept = np.random.default_rng(0).random((5, 4)) < 0.5
    kept[:, 1] = False
    set_masks([kernel], [(kernel, kept)])
    for vector in analysis.random_directions(model).vectors:
        part = vector.reshape(5, 4)
        assert not part[~kept].any()
        np.testing.assert_allclose(norms(part, 0), norms(np.array(kernel), 0), 1e-5)
    x = np.ones((3, 5), "float32")
    found = analysis.line(model, (x, x[:, :4]), np.ones(20), at=[1.0])
    output = x @ ((np.array(kernel) + 1) * kept)
    np.testing.assert_allclose(found.train["loss"], np.mean((output - 1) ** 2), 1e-5)


def test_the_plane_of_a_path_in_a_plane_explains_all():
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((50, 2)))
    origin, coordinates = rng.standard_normal(50), rng.standard_normal((9, 2))
    coordinates[-1] = 0
    points = origin + coordinates @ basis.T
    found = analysis.pca_directions(points)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(found.explained.sum(), 1)
    np.testing.assert_allclose(found.lengths, 1)
    placed = found.project(points - points[-1])
    assert placed.outside.max() < 1e-12
    assert (placed.coordinates[0] > 0).all()
    back = points[-1] + placed.coordinates @ found.vectors
    np.testing.assert_allclose(back, points, atol=1e-12)
    first, second = np.mean(np.square(placed.coordinates), axis=0)
    assert first > second
    np.testing.assert_allclose(
        found.explained, np.divide([first, second], first + second)
    )


def test_what_is_outside_of_a_plane_is_said():
    """By least squares, of directions of any length and angle."""
    directions = analysis.Directions(np.array([[2.0, 0, 0, 0], [1, 1, 0, 0]]))
    found = directions.project(np.array([[3.0, 1, 0, 0], [0, 3, 4, 0], [0, 0, 0, 0]]))
    np.testing.assert_allclose(
        found.coordinates, [[1, 1], [-1.5, 3], [0, 0]], atol=1e-12
    )
    np.testing.assert_allclose(found.outside, [0, 0.8, 0], atol=1e-12)
    np.testing.assert_allclose(found.distances, [0, 4, 0], atol=1e-12)
    np.testing.assert_allclose(directions.cosine, 1 / np.sqrt(2))
    rng = np.random.default_rng(0)
    path = analysis.pca_directions(np.cumsum(rng.standard_normal((30, 100)), axis=0))
    assert 0.5 < path.explained.sum() < 0.99


def test_the_losses_of_three_points_are_on_their_plane():
    x, labels = random_examples(20)
    model = compile_classifier(build_classifier(keras.Model))
    data = analysis.DataLoss(model, (x, labels))
    rng = np.random.default_rng(1)
    last = data.flatten(data.weights)
    points = [last + 0.3 * data.keep(rng.standard_normal(data.size)) for _ in range(2)]
    points = [*points, last]
    directions = analysis.pca_directions(points)
    np.testing.assert_allclose(directions.explained.sum(), 1)
    placed = directions.project([point - last for point in points])
    assert placed.outside.max() < 1e-5
    for point, (a, b) in zip(points, placed.coordinates, strict=True):
        found = analysis.plane(model, data, directions, x=[a], y=[b])
        expected = data.loss(point - last)
        np.testing.assert_allclose(found.train["loss"], [[expected]], rtol=1e-4)


def test_the_ends_of_an_interpolation_are_the_two_networks():
    """Wherever the model's own weights are."""
    x, labels = random_examples(20)
    model = compile_classifier(build_classifier(keras.Model), metrics=["accuracy"])
    rng = np.random.default_rng(0)
    ends, logs = [], []
    for _ in range(2):
        fill(model, seed=int(rng.integers(100)))
        ends.append([np.array(w) for w in model.trainable_variables])
        logs.append(model.evaluate(x, labels, verbose=0, return_dict=True))
    fill(model, seed=1)
    found = analysis.interpolation(model, (x, labels), *ends, at=[0.0, 0.5, 1.0])
    for name in ("loss", "accuracy"):
        values = [log[name] for log in logs]
        np.testing.assert_allclose(found.train[name][::2], values, rtol=1e-4)
    flat = [np.concatenate([np.ravel(w) for w in end]) for end in ends]
    np.testing.assert_allclose(found.length, np.linalg.norm(flat[1] - flat[0]), 1e-5)
    same = analysis.interpolation(model, (x, labels), *flat, at=[0.0, 0.5, 1.0])
    np.testing.assert_array_equal(found.train["loss"], same.train["loss"])
    assert {0, 1} < {*analysis.interpolation(model, (x, labels), *ends).at}


def test_statistics_are_refitted_at_each_point():
    """Those of all training data, in batches of any size, for test data too; layers
    behave as in evaluation otherwise, and nothing changes."""
    model, (x, y) = build_normalized()
    before = model.get_weights()
    rng = np.random.default_rng(3)
    direction = rng.standard_normal(flat_of(model).size).astype("float32")
    parts = parts_of(model, flat_of(model) + 0.5 * direction)
    kernel, bias, gamma, beta, last, offset = parts.values()
    hidden = x @ kernel + bias
    scaled = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-3)
    output = (gamma * scaled + beta) @ last + offset
    for size in (4, 10):
        found = analysis.line(
            model,
            (x, y),
            direction,
            at=[0.5],
            test=(x[:3], y[:3]),
            batch_norm="refit",
            batch_size=size,
        )
        for split, count in ((found.train, 10), (found.test, 3)):
            error = (output - y)[:count]
            np.testing.assert_allclose(split["loss"], np.mean(error**2), rtol=1e-4)
            np.testing.assert_allclose(split["mae"], np.abs(error).mean(), rtol=1e-4)
        assert found.batch_norm == "refit"
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
    stale = analysis.line(model, (x, y), direction, at=[0.5])
    assert not np.isclose(stale.train["loss"], np.mean((output - y) ** 2), rtol=1e-2)
    log = model.evaluate(x, y, verbose=0)
    own = analysis.line(model, (x, y), direction, at=[0.0])
    np.testing.assert_allclose(own.train["loss"][0], log[0], rtol=1e-4)


def test_frozen_statistics_stay():
    model, (x, y) = build_normalized()
    model.layers[2].trainable = False
    log = model.evaluate(x, y, verbose=0)
    direction = np.zeros(flat_of(model).size)
    found = analysis.line(model, (x, y), direction, at=[0.0], batch_norm="refit")
    np.testing.assert_allclose(found.train["loss"][0], log[0], rtol=1e-4)


def test_statistics_of_another_training_stay():
    """Of fine-tuned networks, whose scales and offsets move all the same."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(1)(FrozenBatchNorm()(inputs)))
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    data = rng.normal(3, 2, (8, 4)).astype("float32"), np.zeros((8, 1), "float32")
    ends = [flat_of(model), flat_of(model) + 0.5]
    found = [
        analysis.interpolation(model, data, *ends, at=[0.0, 1.0], batch_norm=kind)
        for kind in ("eval", "refit")
    ]
    np.testing.assert_array_equal(*(each.train["loss"] for each in found))


def test_statistics_of_another_place_are_warned_of():
    model, data = build_normalized()
    ends = [flat_of(model), 0 * flat_of(model)]
    with pytest.warns(UserWarning, match="give batch_norm='refit'"):
        analysis.interpolation(model, data, *ends, at=[0.5])
    analysis.interpolation(model, data, *ends, at=[0.5], batch_norm="refit")


@pytest.mark.parametrize("name", ["convolutional", "lstm", "attention"])
def test_planes_of_all_kinds_of_layers(name):
    model, data = build_network(name)
    directions = analysis.random_directions(model)
    found = analysis.plane(
        model, data, directions, x=[0, 1], y=[0], batch_norm="refit", batch_size=5
    )
    assert np.isfinite(found.train["loss"]).all()
    if name != "convolutional":
        expected = model.evaluate(*data, verbose=0)
        np.testing.assert_allclose(found.train["loss"][0, 0], expected, rtol=1e-4)


class Interruption(Exception):
    pass


def test_an_interrupted_plane_goes_on_where_it_ended(tmp_path, monkeypatch):
    """And has the same numbers as one that was not; one that is done computes none."""
    model, data = build_network("lstm")
    directions, path = analysis.random_directions(model), tmp_path / "plane.npz"
    axes = {"x": [-1, 0, 1], "y": [-1, -0.5, 0, 2]}
    whole = analysis.plane(model, data, directions, **axes)
    loss = analysis.DataLoss(model, data)
    run, calls = loss.run, []

    def count(*arguments):
        calls.append(arguments)
        if len(calls) == 8:
            raise Interruption
        return run(*arguments)

    monkeypatch.setattr(loss, "run", count)
    with pytest.raises(Interruption):
        analysis.plane(model, loss, directions, **axes, path=path)
    assert np.load(path)["train_loss"].shape == (2, 3)
    calls[:] = range(100)
    found = analysis.plane(model, loss, directions, **axes, path=path)
    assert len(calls) == 106
    np.testing.assert_array_equal(found.train["loss"], whole.train["loss"])
    again = analysis.plane(model, loss, directions, **axes, path=path)
    assert len(calls) == 106
    np.testing.assert_array_equal(again.train["loss"], whole.train["loss"])
    assert [p.name for p in tmp_path.iterdir()] == ["plane.npz"]
    with np.load(path) as file:
        np.testing.assert_array_equal(file["x"], axes["x"])


def test_a_file_of_another_plane_is_refused(tmp_path):
    model, (x, y) = build_normalized()
    path = tmp_path / "plane.npz"
    directions = analysis.random_directions(model)
    known = {"x": [0.0], "y": [0.0], "path": path}
    analysis.plane(model, (x, y), directions, **known)
    changes = {
        "grid": {"x": [0.0, 1.0]},
        "test data": {"test": (x, y)},
        "batch_norm": {"batch_norm": "refit"},
        "weights": {"origin": 0 * flat_of(model)},
    }
    for name, change in changes.items():
        with pytest.raises(ValueError, match=f"of other {name}: give another path"):
            analysis.plane(model, (x, y), directions, **{**known, **change})
    with pytest.raises(ValueError, match="of other data:"):
        analysis.plane(model, (x[1:], y[1:]), directions, **known)
    others = analysis.random_directions(model, seed=1)
    with pytest.raises(ValueError, match="of other directions:"):
        analysis.plane(model, (x, y), others, **known)
    model.compile(loss="mae", metrics=["mae"])
    with pytest.raises(ValueError, match="of other loss and metrics:"):
        analysis.plane(model, (x, y), directions, **known)
    path.write_bytes(b"no file of numpy")
    with pytest.raises(ValueError, match="holds no landscape"):
        analysis.plane(model, (x, y), directions, **known)


def test_bad_input_is_said_in_one_line():
    model, data = build_normalized()
    directions = analysis.random_directions(model)
    with pytest.raises(ValueError, match="batch_norm must be eval or refit"):
        analysis.plane(model, data, directions, batch_norm="train")
    with pytest.raises(ValueError, match="coordinates must be a list of finite"):
        analysis.plane(model, data, directions, x=[np.nan])
    with pytest.raises(ValueError, match="a direction must be a vector of 29 numbers"):
        analysis.line(model, data, np.ones(3))
    with pytest.raises(ValueError, match="a plane has two directions"):
        analysis.plane(model, data, analysis.Directions(np.ones((1, 29))))
    with pytest.raises(ValueError, match="one array for each trainable weight"):
        analysis.line(model, data, np.ones(29), origin=[np.ones(3)])
    own = model.trainable_variables
    with pytest.raises(ValueError, match=r"^end has 30 numbers, the model 29$"):
        analysis.interpolation(model, data, own, np.ones(30), batch_norm="refit")
    with pytest.raises(ValueError, match=r"one array for each.* Received: 100,000$"):
        analysis.interpolation(model, data, [0.0] * 100_000, own, batch_norm="refit")
    objects = np.empty(len(own), object)
    objects[:] = [np.array(w) for w in own]  # as np.load may give them
    path = analysis.interpolation(model, data, objects, own, batch_norm="refit")
    assert np.ptp(path.train["loss"]) == pytest.approx(0, abs=1e-6)
    for points in (np.ones((1, 4)), np.ones((5, 4)), np.outer(range(5), np.ones(4))):
        with pytest.raises(ValueError, match="all points lie on one line"):
            analysis.pca_directions(points)
